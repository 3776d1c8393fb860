"""
The scheduler that remembers: what ran last is in a store, and so is who sends.

A tick is claimed in the store, then its message is published, then the store is told so.  A task id
is made of the number of the tick, so whoever finds a claim that is not settled can publish the same
message again.  On brokers where a publish can be repeated without harm (Redis, with the transport
of this package) each message comes into its queues once, however often senders die.
"""

from __future__ import annotations

import logging
import shelve
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from kombu.exceptions import OperationalError

from celery import __version__
from celery._beat import definition as definitions, shelf
from celery._beat.leader import Leader
from celery._beat.scheduler import Scheduler, SchedulingError, Unpublished
from celery._beat.store import Contents, Fenced, Run, StoreError, open_store
from celery.utils.imports import symbol_by_name

__all__ = ("PersistentScheduler", "location")

#: Seconds before the store, or the broker, is tried again.
RETRY_S = 1.0
#: How often a message is tried that the broker does not take, although it can be reached.
TRIES = 10
#: Ticks claimed at once, where all of them may be published again without harm.
CLAIMED_AT_ONCE = 64

_PUBLISHING_ONCE = "celery._transport._redis_once:publishing_once"


def location(conf: Any, filename: str | None = None) -> str:
    """Return where an app keeps its schedule: a URL, or the path of a file."""
    where: str = conf.beat_store_url or filename or conf.beat_schedule_filename
    return where


class _OpenSchedule(dict[str, Any]):
    """What is in the store, in the form that schedule files of earlier versions had."""

    def __init__(self, scheduler: PersistentScheduler) -> None:
        super().__init__(entries={})
        self._scheduler = scheduler

    def sync(self) -> None:
        """Write it."""
        self._scheduler.sync()

    def close(self) -> None:
        """Write it for the last time."""
        self._scheduler.close()


class PersistentScheduler(Scheduler):
    """
    Keeps last runs in a store, so that they survive a restart or another beat goes on from there.

    The store is the schedule file, or what the setting ``beat_store_url`` names.  Of the processes
    with one store one sends; the others stand by.
    """

    #: Library and suffixes of the schedule files of earlier versions, which are converted.
    persistence: Any = shelve
    known_suffixes = shelf.SUFFIXES

    _store: Any = None
    _leader: Leader | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename: str = kwargs.get("schedule_filename") or ""
        #: State of the store that our entries are made of; None before we send.
        self._revision: int | None = None
        self._store_id = ""
        self._namespace = uuid.NAMESPACE_OID
        #: Runs as the store has them.
        self._written: dict[str, Run] = {}
        #: By name: the entry after a run that is claimed, and the tick.
        self._claims: dict[str, tuple[Any, int]] = {}
        #: Ticks whose messages are to be published, maybe again, and how often that was tried.
        self._unsent: deque[tuple[str, int, int]] = deque()
        #: Ticks that the store thinks are unsent, and are not.
        self._sent: dict[str, int] = {}
        #: The tick of the entry that is sent next, and how often it was tried before.
        self._tick: int | None = None
        self._tries = 0
        super().__init__(*args, **kwargs)

    # -- the store

    def _new_store(self) -> Any:
        conf = self.app.conf
        return open_store(location(conf, self.schedule_filename), conf.beat_store_name)

    def setup_schedule(self) -> None:
        """Open the store, and bring what it has into line with the settings."""
        store = self._new_store()
        store.open()
        self._leader = Leader(store)
        self._store = _OpenSchedule(self)
        self._leader.look()
        self._fill()
        if self.logger.isEnabledFor(logging.DEBUG):
            entries = "\n".join(repr(entry) for entry in self.schedule.values())
            self.logger.debug("Current schedule:\n%s", entries)

    def _fill(self) -> None:
        """Make the entries, with their last runs, of what the settings and the store have."""
        leader = self._open_leader()
        revision = leader.revision
        contents = leader.store.load()
        runs = self._last_runs(contents)
        self.schedule = {}
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self._overlay(contents.definitions)
        for name, run in runs.items():
            entry = self.schedule.get(name)
            if entry is not None:
                entry.last_run_at, entry.total_run_count = run.at, run.count
        self._heap = None
        self._store_id = contents.store_id
        self._namespace = uuid.UUID(contents.store_id)
        self._store.update(self._written_under())
        if leader.leads:
            self._take_over(leader, contents, runs)
            self._revision = revision

    def _last_runs(self, contents: Contents) -> dict[str, Run]:
        """Return what is known of last runs; nothing if they are in another time zone."""
        now = self._written_under()
        for key in ("tz", "utc_enabled"):
            if contents.runs and contents.notes.get(key) != now[key]:
                self.logger.warning(
                    "beat: Reset: %s was %r when the last runs were written, and is %r now",
                    key,
                    contents.notes.get(key),
                    now[key],
                )
                return {}
        return contents.runs

    def _written_under(self) -> dict[str, Any]:
        """Return the settings that give the times in the store their meaning."""
        conf = self.app.conf
        zone = None if conf.timezone is None else str(conf.timezone)
        return {"tz": zone, "utc_enabled": bool(conf.enable_utc), "__version__": __version__}

    def _overlay(self, defined: Mapping[str, Mapping[str, Any]]) -> None:
        """Put what was defined at run time over what the settings say."""
        for name, definition in defined.items():
            given = self.schedule.get(name)
            known = ("task", "schedule", "args", "kwargs", "options")
            fields = {} if given is None else {key: getattr(given, key) for key in known}
            try:
                whole = definitions.overlaid(fields, definition)
            except definitions.InvalidDefinition:
                # Written by another version perhaps; the rest of the schedule is not at fault.
                self.logger.exception("beat: The entry %s can't be used", name)
                continue
            if whole is not None:
                self.schedule[name] = self._maybe_entry(name, whole)
            elif given is not None:
                del self.schedule[name]

    def _take_over(self, leader: Leader, contents: Contents, runs: Mapping[str, Run]) -> None:
        """Write what is new, and find out what the sender before us may have left unsent."""
        now = self._runs_now()
        gone = set(contents.runs) - set(now)
        leader.save(
            {name: run for name, run in now.items() if name not in runs},
            gone,
            self._written_under(),
        )
        self._written = now
        noted = {name: run.tick for name, run in contents.runs.items() if name not in gone}
        left = sorted((tick, name) for name, tick in noted.items() if tick is not None)
        self._unsent.extend((name, tick, 0) for tick, name in left)
        if self._unsent:
            self.logger.info(
                "beat: Sending again what may not have been sent: %s",
                ", ".join(name for name, _, _ in self._unsent),
            )

    def _runs_now(self) -> dict[str, Run]:
        return {
            name: Run(entry.last_run_at, entry.total_run_count)
            for name, entry in self.schedule.items()
            if entry.last_run_at is not None
        }

    def _open_leader(self) -> Leader:
        if self._leader is None:
            raise StoreError("the schedule is not open")
        return self._leader

    def get_schedule(self) -> Any:
        """Return the entries."""
        return self._store["entries"]

    def set_schedule(self, schedule: Any) -> None:
        """Replace the entries."""
        self._store["entries"] = schedule

    schedule = property(
        lambda self: self.get_schedule(), lambda self, schedule: self.set_schedule(schedule)
    )

    # -- ticks

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send the first entry if it is due and we are to send; return the seconds to wait."""
        leader = self._open_leader()
        try:
            if not leader.look():
                self._forget()
                return min(leader.look_s, self.max_interval)
            if leader.revision != self._revision:
                self.sync()
                self._forget()
                self._fill()
            if not self._send_unsent():
                return RETRY_S
            wait = super().tick(*args, **kwargs)
            if wait > 0:
                self._settle()
                if self._claims:  # they were due, and are not any more
                    self._revision = None
            return min(wait, leader.look_s)
        except Fenced:
            self._forget()
            return 0
        except StoreError as exc:
            # The entry that was looked at is on no heap now.
            self._heap = None
            self.logger.error("beat: %s. Trying again in %s s", exc, RETRY_S)  # noqa: TRY400
            return RETRY_S

    def _forget(self) -> None:
        """Leave what is claimed and not sent to what the store knows of it."""
        self._revision = None
        self._heap = None
        for each in (self._claims, self._unsent, self._sent):
            each.clear()

    def reserve(self, entry: Any) -> Any:
        """Claim a tick of *entry*; return the entry as it is after that."""
        if entry.name not in self._claims:
            self._claim(entry)
        following, self._tick = self._claims.pop(entry.name)
        return self._replace(following)

    def _claim(self, entry: Any) -> None:
        """Claim a tick of *entry*, and of others that are due as well."""
        leader = self._open_leader()
        batch = {entry.name: self._after_run(entry)}
        if self._repeats_harmlessly:
            for other in self._due_entries():
                if len(batch) == CLAIMED_AT_ONCE:
                    break
                if other.name not in batch and self._ask(other)[0]:
                    batch[other.name] = self._after_run(other)
        runs = {
            name: Run(following.last_run_at, following.total_run_count)
            for name, following in batch.items()
        }
        first = leader.claim(runs, self._sent)
        self._sent.clear()
        self._written.update(runs)
        for tick, (name, following) in enumerate(batch.items(), first):
            self._claims[name] = following, tick

    def _after_run(self, entry: Any) -> Any:
        if self._open_leader().store.is_shared:
            # What came while nobody sent, is late but not left out.
            return entry.next(entry._counts_from(catch_up=True))
        return next(entry)

    def _due_entries(self) -> Iterator[Any]:
        """Yield the entries of the heap whose time has come, in no order."""
        heap, now = self._heap or [], time.monotonic()
        places = [0]
        while places:
            place = places.pop()
            if place < len(heap) and heap[place].time <= now:
                yield heap[place].entry
                places += (2 * place + 1, 2 * place + 2)

    def _wait_after(self, entry: Any, wait: float) -> float:
        if not self._open_leader().store.is_shared:
            return wait
        due, left = self._ask(entry)
        return 0.0 if due else left

    def _settle(self) -> None:
        if self._sent:
            self._open_leader().settle(self._sent)
            self._sent.clear()

    # -- messages

    def apply_async(
        self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any
    ) -> Any:
        """Send the task of *entry*, see `Scheduler.apply_async`; once for each tick."""
        if advance:
            self.reserve(entry)
        tick, self._tick = self._tick, None
        if tick is None:
            return super().apply_async(entry, producer, advance=False, **kwargs)
        tries = self._tries
        try:
            if not self._open_leader().look():
                self.logger.warning("beat: %s is left to the beat that sends now", entry.name)
                return None
        except StoreError:
            self._unsent.append((entry.name, tick, tries))
            raise
        options = {"retry": False, **kwargs}
        if "task_id" not in (entry.options or {}):
            options.setdefault("task_id", self.task_id(tick))
        try:
            with self._once(producer, entry.name, tick):
                result = super().apply_async(entry, producer, advance=False, **options)
        except Exception as exc:
            if tries < TRIES and self._will_pass(exc):
                self._unsent.append((entry.name, tick, tries + 1))
                self._disconnect()
            else:
                self._sent[entry.name] = tick
            raise
        self._sent[entry.name] = tick
        return result

    def task_id(self, tick: int) -> str:
        """Return the id of the task that a tick sends; the same for each attempt."""
        return str(uuid.uuid5(self._namespace, str(tick)))

    def _send_unsent(self) -> bool:
        """Publish what is left from before; say whether nothing is left."""
        for _ in range(len(self._unsent)):
            name, self._tick, self._tries = self._unsent.popleft()
            tick = self._tick
            entry = self.schedule.get(name)
            if entry is None:
                self._sent[name] = tick
                continue
            try:
                self.apply_entry(entry, producer=self.producer)
            finally:
                self._tries = 0
            if self._unsent and self._unsent[-1][1] == tick:
                self._unsent.rotate(1)
                return False
        return True

    def _will_pass(self, exc: BaseException) -> bool:
        """Say whether the message may be taken later: the broker could not be reached."""
        if isinstance(exc, SchedulingError) and not isinstance(exc, Unpublished):
            return False
        cause = exc.__cause__ or exc
        connection = self.connection
        lost = (*connection.connection_errors, *connection.channel_errors)
        return isinstance(cause, (OperationalError, OSError, *lost))

    def _disconnect(self) -> None:
        with suppress(Exception):  # what is broken may be hard to close
            self.connection.close()
        for name in ("producer", "connection"):
            self.__dict__.pop(name, None)

    @property
    def _repeats_harmlessly(self) -> bool:
        return _collecting_channel(self.producer) is not None

    def _once(self, producer: Any, name: str, tick: int) -> AbstractContextManager[Any]:
        """Return what to publish in, so that the broker drops a message that it has had."""
        channel = _collecting_channel(producer)
        if channel is None:
            return nullcontext()
        publishing_once = symbol_by_name(_PUBLISHING_ONCE)
        marks = f"celery-beat:sent:{self._store_id}"
        once: AbstractContextManager[Any] = publishing_once(channel, marks, name, tick)
        return once

    # -- saving

    def sync(self) -> None:
        """Write what was changed by other means than by sending."""
        leader = self._leader
        if self._store is None or leader is None or not leader.leads or self._revision is None:
            return
        busy = {*self._claims, *(name for name, _, _ in self._unsent)}
        changed = {
            name: run
            for name, run in self._runs_now().items()
            if name not in busy and self._written.get(name) != run
        }
        try:
            self._settle()
            if changed:
                leader.save(changed, set(), self._written_under())
                self._written.update(changed)
        except (Fenced, StoreError) as exc:
            self.logger.warning("beat: The schedule is not saved: %s", exc)

    def _finish(self) -> None:
        """Send what is claimed, unless that would take long; then it is left to the next one."""
        if self._leader is None or not self._leader.leads or not self._has_connection:
            return
        for name, (following, tick) in self._claims.items():
            self.schedule[name] = following
            self._unsent.append((name, tick, 0))
        self._claims.clear()
        try:
            self._send_unsent()
        except (Fenced, StoreError, OperationalError, OSError) as exc:
            self.logger.warning("beat: Messages are left to the next beat: %s", exc)

    @property
    def _has_connection(self) -> bool:
        return "producer" in self.__dict__ and bool(self.connection.connected)

    def close(self) -> None:
        """Send what is claimed, write for the last time, let another one send; harmless twice."""
        self._finish()
        self.sync()
        leader, self._leader = self._leader, None
        self._store = None
        if leader is not None:
            try:
                leader.resign()
            except StoreError as exc:
                self.logger.warning("beat: %s", exc)
            leader.store.close()

    @property
    def info(self) -> str:
        """Where the schedule is kept."""
        return f"    . db -> {self._new_store().info}"


def _collecting_channel(producer: Any) -> Any:
    """Return the channel of *producer* if it can publish something once."""
    channel = getattr(producer, "channel", None)
    return channel if hasattr(channel, "collector") else None


PersistentScheduler.__module__ = "celery.beat"
