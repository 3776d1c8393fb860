"""What every store of beat has to do; run by each kind."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest

from celery._beat.leader import Leader, may_take
from celery._beat.store import Fenced, Lease, Run, StoreError, open_store
from celery.exceptions import ImproperlyConfigured

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["file", "sqlite", "redis", "postgresql"])
def where(request, tmp_path):
    match request.param:
        case "file":
            return str(tmp_path / "schedule")
        case "sqlite":
            return f"sqlite:///{tmp_path / 'schedule.db'}"
        case "redis":
            return request.getfixturevalue("redis_url")
        case _:
            url = request.getfixturevalue("postgresql_url")
            return url if url.startswith("db+") else f"db+{url}"


@pytest.fixture
def make(where):
    """Return a function that opens one more store at the same place."""
    name, opened = f"beat-{uuid.uuid4()}", []

    def opening():
        store = open_store(where, name)
        store.open()
        opened.append(store)
        return store

    yield opening
    for store in opened:
        store.close()


@pytest.fixture
def store(make):
    return make()


def sender(store, name="s"):
    return store.take(store.lease(), name)


def test_a_new_store_is_empty_and_has_an_id(make):
    one, other = make(), make()
    contents = one.load()

    assert (contents.runs, contents.definitions, contents.notes) == ({}, {}, {})
    assert other.load().store_id == contents.store_id
    assert uuid.UUID(contents.store_id)
    assert one.lease() == Lease(0, "", 0, 0)


def test_one_of_those_who_saw_the_same_is_let(make):
    one, other = make(), make()
    seen = one.lease()

    fence = one.take(seen, "one")
    assert fence == 1
    assert other.take(seen, "other") is None
    assert other.lease().owner == "one"
    assert other.take(other.lease(), "other") == 2


def test_a_sender_that_lives_changes_the_lease(store):
    fence = sender(store)
    before = store.lease()
    store.renew(fence)

    assert store.lease().beats > before.beats
    assert store.take(before, "other") is None


def test_a_released_lease_has_no_owner(store):
    fence = sender(store)
    store.release(fence)
    assert store.lease().owner == ""
    with pytest.raises(Fenced):
        store.renew(fence)
    store.release(fence)


def test_claimed_runs_are_noted_with_ticks_that_grow(store):
    fence = sender(store)
    first = store.claim(fence, {"a": Run(NOON, 1), "b": Run(NOON, 2)}, {})
    assert store.load().runs == {"a": Run(NOON, 1, first), "b": Run(NOON, 2, first + 1)}

    later = store.claim(fence, {"a": Run(NOON, 3)}, {"a": first, "b": first + 1})
    assert later >= first + 2
    assert store.load().runs == {"a": Run(NOON, 3, later), "b": Run(NOON, 2)}


def test_ticks_grow_beyond_what_a_store_has_forgotten(make, monkeypatch):
    """A store that was put back to an earlier state does not use numbers again."""
    store = make()
    fence = sender(store)
    ticks = [store.claim(fence, {"a": Run(NOON, n)}, {}) for n in range(3)]
    assert ticks == sorted(set(ticks))
    assert ticks[0] > 1_000_000 * datetime(2024, 1, 1, tzinfo=UTC).timestamp()

    for module in ("celery._beat.sql", "celery._beat.redis"):
        monkeypatch.setattr(f"{module}.least_tick", lambda: 5)
    # Nor does a clock that was put back.
    assert store.claim(fence, {"a": Run(NOON, 4), "b": Run(NOON, 1)}, {}) == ticks[-1] + 1
    assert store.load().runs["b"].tick == ticks[-1] + 2


def test_ticks_are_settled_one_by_one(store):
    fence = sender(store)
    first = store.claim(fence, {"a": Run(NOON, 1), "b": Run(NOON, 1)}, {})
    store.settle(fence, {"a": first, "b": first + 7})
    assert store.load().runs == {"a": Run(NOON, 1), "b": Run(NOON, 1, first + 1)}


def test_many_ticks_are_settled_together(store):
    fence = sender(store)
    names = [f"n{n}" for n in range(6)]
    first = store.claim(fence, {name: Run(NOON, 1) for name in names}, {})
    sent = {name: first + n for n, name in enumerate(names) if n not in (2, 5)}
    store.settle(fence, sent)
    runs = store.load().runs
    assert {name for name, run in runs.items() if run.tick is not None} == {"n2", "n5"}


def test_moments_keep_their_offset(store):
    local = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    fence = sender(store)
    store.save(fence, {"a": Run(local, 1)}, set(), {"tz": "Asia/Kolkata", "utc_enabled": True})

    contents = store.load()
    assert contents.runs["a"].at == local
    assert contents.runs["a"].at.utcoffset() == local.utcoffset()
    assert contents.notes == {"tz": "Asia/Kolkata", "utc_enabled": True}


def test_what_is_gone_is_forgotten(store):
    fence = sender(store)
    store.save(fence, {"a": Run(NOON, 1), "b": Run(NOON, 1)}, set(), {})
    store.save(fence, {}, {"a", "unknown"}, {})
    assert set(store.load().runs) == {"b"}


def test_a_replaced_sender_writes_nothing(make):
    old, new = make(), make()
    fence = sender(old, "old")
    old.claim(fence, {"a": Run(NOON, 1)}, {})
    before = new.load()
    assert sender(new, "new") == fence + 1

    for write in (
        lambda: old.renew(fence),
        lambda: old.claim(fence, {"a": Run(NOON, 9)}, {"a": 1}),
        lambda: old.settle(fence, {"a": 1}),
        lambda: old.save(fence, {"x": Run(NOON, 1)}, {"a"}, {"tz": 1}),
    ):
        with pytest.raises(Fenced):
            write()
    old.release(fence)

    assert new.load() == before
    assert new.lease().owner == "new"


def test_definitions_are_kept_apart_from_runs(make):
    writer, store = make(), make()
    fence = sender(store)
    store.claim(fence, {"a": Run(NOON, 1)}, {})
    revision = store.renew(fence)

    writer.put("a", {"task": "p.t", "schedule": {"every": 5}})
    assert store.renew(fence) == revision + 1
    writer.put("a", {"task": "p.ü", "schedule": {"every": 6}})
    assert store.load().definitions == {"a": {"task": "p.ü", "schedule": {"every": 6}}}
    assert store.load().runs["a"].count == 1
    assert writer.remove("a") is True
    assert writer.remove("a") is False
    assert store.renew(fence) == revision + 4
    assert store.load().definitions == {}


def test_names_may_be_anything(store):
    names = ["p.t('x')", "naïve ☃", "a:b", "100%", " "]
    fence = sender(store)
    store.claim(fence, {name: Run(NOON, 1) for name in names}, {})
    assert set(store.load().runs) == set(names)


def test_closing_twice_is_harmless(store):
    store.close()
    store.close()


def test_its_place_can_be_shown(store, where):
    assert store.info
    json.dumps(store.info)


# -- elections ------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def pair(make):
    clock = Clock()
    leaders = [Leader(make(), clock) for _ in range(2)]
    for leader in leaders:
        leader.store.is_gone = lambda owner: False
    return (*leaders, clock)


def test_the_first_one_sends_and_the_other_stands_by(pair):
    one, other, clock = pair
    assert one.look()
    for _ in range(40):
        clock.now += 0.5
        assert not other.look()
        assert one.look()


def test_silence_makes_the_other_one_send(pair):
    """At most the lease plus two looks after the last sign of life."""
    one, other, clock = pair
    one.look()
    other.look()
    silent_since = clock.now
    while not other.look():
        clock.now += 0.1
    lease = other.store.lease_s
    assert lease <= clock.now - silent_since <= lease + 2 * other.store.look_s
    with pytest.raises(Fenced):
        one.claim({"a": Run(NOON, 1)}, {})
    assert not one.leads
    assert not one.look()


def test_who_resigns_is_followed_at_the_next_look(pair):
    one, other, clock = pair
    one.look()
    other.look()
    one.resign()
    one.resign()
    clock.now += other.store.look_s
    assert other.look()


def test_many_that_start_at_once_agree_on_one(make):
    leaders = [Leader(make()) for _ in range(5)]
    assert sum(leader.look() for leader in leaders) == 1


@pytest.mark.parametrize(
    ("owner", "unchanged", "gone", "expected"),
    [
        ("", 0, False, True),
        ("x", 2.9, False, False),
        ("x", 3, False, True),
        ("x", 0, True, True),
    ],
)
def test_when_a_place_may_be_taken(owner, unchanged, gone, expected):
    assert may_take(Lease(1, owner, 1, 1), unchanged, 3, gone) is expected


# -- addresses ------------------------------------------------------------------------------------


def test_an_unknown_place_is_refused():
    with pytest.raises(ImproperlyConfigured, match=r"can't keep its schedule in ftp://.*redis"):
        open_store("ftp://nowhere")


def test_a_server_that_is_not_there_is_an_error_with_its_name_and_no_password():
    store = open_store("redis://:secret@127.0.0.1:1/0")
    with pytest.raises(StoreError, match=r"redis://127\.0\.0\.1:1/0") as caught:
        store.open()
    assert "secret" not in str(caught.value)
