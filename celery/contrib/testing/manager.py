"""Helpers of integration tests that watch real workers: wait, look again, give up with a reason."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import IO, TYPE_CHECKING, Any

from kombu.exceptions import ContentDisallowed

from celery import states
from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import AsyncResult, ResultSet
from celery.utils.text import truncate
from celery.utils.time import humanize_seconds as _humanize_seconds

if TYPE_CHECKING:
    from celery.app.base import Celery

E_STILL_WAITING = "Still waiting for {0}. Trying again {when}: {exc!r}"

humanize_seconds = partial(_humanize_seconds, microseconds=True)


class Sentinel(Exception):
    """Signifies that something has not happened yet."""


class ManagerMixin:
    """The helpers; :meth:`_init_manager` has to be called first."""

    app: Celery

    def _init_manager(
        self,
        block_timeout: float = 30 * 60.0,
        no_join: bool = False,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
    ) -> None:
        self.no_join, self.block_timeout = no_join, block_timeout
        self.stdout, self.stderr = stdout or sys.stdout, stderr or sys.stderr
        with self.app.connection() as connection:
            self.connerrors = connection.recoverable_connection_errors

    def remark(self, s: Any, sep: str = "-") -> None:
        """Print a line."""
        print(f"{sep}{s}", file=self.stdout)

    def warn(self, s: Any) -> None:
        """Print a line to standard error."""
        print(s, file=self.stderr)

    def missing_results(self, r: Sequence[AsyncResult]) -> list[str]:
        """Return the ids of results that the store does not have."""
        return [result.id for result in r if result.id not in result.backend._cache]

    def wait_for(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        errback: Callable[..., Any] | None = None,
        max_retries: int | None = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> Any:
        """
        Call *fun* until it raises no exception of the type *catch* any more.

        Args:
            desc: What is waited for, for messages.
            errback: Called with exception, intervals and number of tries after each try.
            max_retries: Tries before the exception is let through; None for no end.
            interval_start: Seconds to wait after the first try.
            interval_step: Seconds to add after each try.
            interval_max: Seconds to wait at most.
            emit_warning: Print why we still wait.
        """
        interval = interval_start
        for tries in count(1):
            try:
                return fun(*args, **(kwargs or {}))
            except catch as exc:
                if max_retries is not None and tries > max_retries:
                    raise
                if errback is not None:
                    errback(exc, (), tries)
                if emit_warning:
                    when = humanize_seconds(interval, "in", " ")
                    self.warn(E_STILL_WAITING.format(desc, when=when, exc=exc))
            time.sleep(interval)
            interval = min(interval + interval_step, interval_max)
        raise AssertionError("unreachable")

    def ensure_not_for_a_while(
        self,
        fun: Callable[[], Any],
        catch: Any,
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> None:
        """
        Make sure that something does not happen for a while.

        Raises:
            AssertionError: *fun* raised no exception of the type *catch*, so it happened.
        """
        interval = interval_start
        for _ in range(max_retries):
            try:
                fun()
            except catch:
                time.sleep(interval)
                interval = min(interval + interval_step, interval_max)
            else:
                raise AssertionError(f"Should not have happened: {desc}")

    def retry_over_time(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function until it works; see :meth:`wait_for`."""
        return self.wait_for(*args, **kwargs)

    def join(self, r: Any, propagate: bool = False, max_retries: int = 10, **kwargs: Any) -> Any:
        """
        Wait for results, through lost connections.

        Raises:
            AssertionError: Some are still missing in the end.
        """
        if self.no_join:
            return None
        results = r if isinstance(r, ResultSet) else self.app.ResultSet([r])
        received: list[str] = []

        def on_result(task_id: str, value: Any) -> None:
            received.append(task_id)

        for _ in range(max_retries) if max_retries else count():
            received.clear()
            try:
                return results.get(callback=on_result, propagate=propagate, **kwargs)
            except (TimeoutError, ResultTimeout) as exc:
                missing = set(self.missing_results(list(results.results))) - set(received)
                self.remark(
                    f"Still waiting for {len(missing)}/{len(results)}: "
                    f"[{truncate(', '.join(missing))}] {exc!r}",
                    "!",
                )
            except self.connerrors as exc:
                self.remark(f"join: connection lost: {exc!r}", "!")
        raise AssertionError("Test failed: Missing task results")

    def inspect(self, timeout: float = 3.0) -> Any:
        """Return a way to ask workers."""
        return self.app.control.inspect(timeout=timeout)

    def query_tasks(self, ids: Any, timeout: float = 0.5) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield node names and what they know about tasks."""
        tasks = self.inspect(timeout).query_task(*([ids] if isinstance(ids, str) else ids)) or {}
        yield from tasks.items()

    def query_task_states(self, ids: Any, timeout: float = 0.5) -> dict[str, set[str]]:
        """Return ids of tasks by what they do in a worker."""
        found: dict[str, set[str]] = {}
        for _, reply in self.query_tasks(ids, timeout=timeout):
            for task_id, (state, _info) in reply.items():
                found.setdefault(state, set()).add(task_id)
        return found

    # -- what workers do

    def is_accepted(self, ids: Any, **kwargs: Any) -> bool:
        """Say whether workers run all these tasks."""
        return self._all_in(ids, {"active"}, **kwargs)

    def assert_accepted(
        self,
        ids: Any,
        interval: float = 0.5,
        desc: str = "waiting for tasks to be accepted",
        **policy: Any,
    ) -> Any:
        """Wait until workers run the tasks."""
        policy["desc"] = desc
        return self.assert_task_worker_state(self.is_accepted, ids, interval, **policy)

    def is_received(self, ids: Any, **kwargs: Any) -> bool:
        """Say whether workers have all these tasks."""
        return self._all_in(ids, {"reserved", "active", "scheduled"}, **kwargs)

    def assert_received(
        self,
        ids: Any,
        interval: float = 0.5,
        desc: str = "waiting for tasks to be received",
        **policy: Any,
    ) -> Any:
        """Wait until workers have the tasks."""
        policy["desc"] = desc
        return self.assert_task_worker_state(self.is_received, ids, interval, **policy)

    def assert_task_worker_state(
        self, fun: Callable[..., Any], ids: Any, interval: float = 0.5, **policy: Any
    ) -> Any:
        """Wait until *fun* is true of the tasks in workers."""
        # A worker that can't read our question hasn't answered it yet.
        return self._until(fun, ids, interval, (Sentinel, ContentDisallowed), policy)

    def _all_in(self, ids: Any, wanted: set[str], **kwargs: Any) -> bool:
        found = self.query_task_states(ids, **kwargs)
        held = set().union(*(found.get(state, set()) for state in wanted))
        return set([ids] if isinstance(ids, str) else ids) <= held

    # -- what the store says

    @staticmethod
    def is_result_task_in_progress(results: Any, **kwargs: Any) -> bool:
        """Say whether all these tasks run, or ran."""
        members = results if isinstance(results, (list, tuple)) else results.results
        return {result.state for result in members} <= {states.STARTED, states.SUCCESS}

    def assert_result_tasks_in_progress_or_completed(
        self,
        async_results: Any,
        interval: float = 0.5,
        desc: str = "waiting for tasks to be started or completed",
        **policy: Any,
    ) -> Any:
        """Wait until the stored states say that the tasks run, or ran."""
        policy["desc"] = desc
        check = self.is_result_task_in_progress
        return self.assert_task_state_from_result(check, async_results, interval, **policy)

    def assert_task_state_from_result(
        self, fun: Callable[..., Any], results: Any, interval: float = 0.5, **policy: Any
    ) -> Any:
        """Wait until *fun* is true of the results."""
        return self._until(fun, results, interval, (Sentinel,), policy)

    def _until(
        self,
        fun: Callable[..., Any],
        subject: Any,
        interval_s: float,
        not_yet: tuple[type[Exception], ...],
        policy: dict[str, Any],
    ) -> Any:
        check = partial(self.true_or_raise, fun, subject, timeout=interval_s)
        return self.wait_for(check, not_yet, **policy)

    def true_or_raise(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """
        Return what *fun* returns.

        Raises:
            Sentinel: It is not true.
        """
        value = fun(*args, **kwargs)
        if not value:
            raise Sentinel
        return value

    def wait_until_idle(self) -> None:
        """Delete waiting tasks and wait until no worker runs any."""
        control = self.app.control
        with self.app.connection() as connection:
            while True:
                purged = control.purge(connection)
                active = control.inspect(connection=connection).active() or {}
                if not purged and not any(active.values()):
                    return
                self.remark(f"workers still busy: {sum(map(len, active.values()))} tasks")
                time.sleep(0.5)


class Manager(ManagerMixin):
    """The helpers for one app."""

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.app = app
        self._init_manager(**kwargs)
