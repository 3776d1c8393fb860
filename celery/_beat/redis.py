"""A store on a Redis server, for beats on several machines."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from celery._beat.store import Contents, Fenced, Lease, Run, Store, StoreError, least_tick
from celery.exceptions import ImproperlyConfigured

try:
    import redis
    from redis.exceptions import RedisError
except ImportError as exc:
    raise ImproperlyConfigured(
        "beat needs the package redis to keep its schedule there: pip install celery[redis]"
    ) from exc

__all__ = ("RedisStore",)

#: Seconds within which the server has to answer.
_TIMEOUT_S = 2.0

# All scripts: KEYS are the hashes store, runs, unsent and definitions; a fence comes first in ARGV.
# They answer nil where the fence is over.

_ONLY_SENDER = """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1]
    or redis.call('HGET', KEYS[1], 'owner') == '' then return nil end
redis.call('HINCRBY', KEYS[1], 'beats', 1)
"""

#: ARGV: id for a new store.
_OPEN = """
if redis.call('HSETNX', KEYS[1], 'id', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'fence', 0, 'owner', '', 'beats', 0, 'revision', 0, 'ticks', 0,
    'notes', '{}')
end
"""

#: ARGV: fence, owner and beats as they were seen, new owner.  Result: the new fence.
_TAKE = """
local seen = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'beats')
if seen[1] ~= ARGV[1] or seen[2] ~= ARGV[2] or seen[3] ~= ARGV[3] then return nil end
redis.call('HSET', KEYS[1], 'owner', ARGV[4])
redis.call('HINCRBY', KEYS[1], 'beats', 1)
return redis.call('HINCRBY', KEYS[1], 'fence', 1)
"""

#: ARGV: fence.  Result: the revision.
_RENEW = f"""
{_ONLY_SENDER}
return redis.call('HGET', KEYS[1], 'revision')
"""

_RELEASE = f"""
{_ONLY_SENDER}
redis.call('HSET', KEYS[1], 'owner', '')
"""

#: ARGV: fence, least tick, how many names and runs, these, then names and ticks that were sent.
#: Result: tick of the last run.
_CLAIM = f"""
{_ONLY_SENDER}
local size = tonumber(ARGV[3])
for i = 4 + 2 * size, #ARGV, 2 do
  if redis.call('HGET', KEYS[3], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[3], ARGV[i])
  end
end
local before = tonumber(redis.call('HGET', KEYS[1], 'ticks'))
local last = math.max(before + size, tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'ticks', string.format('%.0f', last))
for i = 1, size do
  local name = ARGV[2 + 2 * i]
  redis.call('HSET', KEYS[2], name, ARGV[3 + 2 * i])
  redis.call('HSET', KEYS[3], name, string.format('%.0f', last - size + i))
end
return last
"""

#: ARGV: fence, notes, how many names and runs, these, then names that are gone.
_SAVE = f"""
{_ONLY_SENDER}
redis.call('HSET', KEYS[1], 'notes', ARGV[2])
local size = tonumber(ARGV[3])
for i = 1, size do redis.call('HSET', KEYS[2], ARGV[2 + 2 * i], ARGV[3 + 2 * i]) end
for i = 4 + 2 * size, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
  redis.call('HDEL', KEYS[3], ARGV[i])
end
return 1
"""


class RedisStore(Store):
    """
    A store in four hashes.

    Args:
        url: Of the server.
        name: What the keys begin with.
    """

    def __init__(self, url: str, name: str) -> None:
        self._client: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
        )
        self._url = url
        # In braces what a cluster must keep together.
        self.keys = [f"{{{name}}}:{part}" for part in ("store", "runs", "unsent", "definitions")]
        self._scripts: dict[str, Any] = {}

    @property
    def info(self) -> str:
        """The URL without its password."""
        scheme, _, rest = self._url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except RedisError as exc:
            raise StoreError(f"{self.info}: {exc}") from exc

    def _run(self, text: str, *args: Any) -> Any:
        script = self._scripts.get(text)
        if script is None:
            script = self._scripts[text] = self._client.register_script(text)
        with self._errors_named():
            return script(keys=self.keys, args=args)

    def _fenced(self, text: str, fence: int, *args: Any) -> int:
        answer = self._run(text, fence, *args)
        if answer is None:
            raise Fenced(f"fence {fence} of {self.info} is over")
        return int(answer)

    def open(self) -> None:
        """Make the store if there is none."""
        self._run(_OPEN, str(uuid.uuid4()))

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def lease(self) -> Lease:
        """Return who sends."""
        with self._errors_named():
            fence, owner, beats, revision = self._client.hmget(
                self.keys[0], "fence", "owner", "beats", "revision"
            )
        if fence is None:
            # A server that lost its data; entries begin anew.
            self.open()
            return self.lease()
        return Lease(int(fence), owner, int(beats), int(revision))

    def take(self, seen: Lease, owner: str) -> int | None:
        """Make *owner* the sender if nothing has changed since *seen*; return its fence."""
        fence = self._run(_TAKE, seen.fence, seen.owner, seen.beats, owner)
        return None if fence is None else int(fence)

    def renew(self, fence: int) -> int:
        """Say that the sender lives; return the revision."""
        return self._fenced(_RENEW, fence)

    def release(self, fence: int) -> None:
        """Stop being the sender."""
        self._run(_RELEASE, fence)

    def load(self) -> Contents:
        """Read everything."""
        with self._errors_named(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hmget(self.keys[0], "id", "notes")
            for key in self.keys[1:]:
                pipeline.hgetall(key)
            (store_id, notes), runs, unsent, definitions = pipeline.execute()
        return Contents(
            store_id,
            {name: _read_run(text, unsent.get(name)) for name, text in runs.items()},
            {name: json.loads(text) for name, text in definitions.items()},
            json.loads(notes),
        )

    def claim(self, fence: int, runs: Mapping[str, Run], sent: Mapping[str, int]) -> int:
        """Note runs, with messages that may be unsent from now on; return the first tick."""
        last = self._fenced(_CLAIM, fence, least_tick(), len(runs), *_written(runs), *_flat(sent))
        return last - len(runs) + 1

    def settle(self, fence: int, sent: Mapping[str, int]) -> None:
        """Note that ticks have been sent."""
        self._fenced(_CLAIM, fence, 0, 0, *_flat(sent))

    def save(
        self, fence: int, runs: Mapping[str, Run], gone: set[str], notes: Mapping[str, Any]
    ) -> None:
        """Write *runs* as they are, forget those that are *gone*, and write *notes*."""
        self._fenced(_SAVE, fence, json.dumps(notes), len(runs), *_written(runs), *gone)

    def put(self, name: str, definition: Mapping[str, Any]) -> None:
        """Define an entry at run time."""
        with self._errors_named(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(self.keys[3], name, json.dumps(definition))
            pipeline.hincrby(self.keys[0], "revision", 1)
            pipeline.execute()

    def remove(self, name: str) -> bool:
        """Forget what was defined at run time."""
        with self._errors_named(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hdel(self.keys[3], name)
            pipeline.hincrby(self.keys[0], "revision", 1)
            removed, _ = pipeline.execute()
        return bool(removed)


def _read_run(text: str, tick: str | None) -> Run:
    at, count = json.loads(text)
    return Run(datetime.fromisoformat(at), count, None if tick is None else int(tick))


def _written(runs: Mapping[str, Run]) -> Iterator[str]:
    for name, run in runs.items():
        yield name
        yield json.dumps([run.at.isoformat(), run.count])


def _flat(sent: Mapping[str, int]) -> Iterator[Any]:
    for name, tick in sent.items():
        yield name
        yield tick
