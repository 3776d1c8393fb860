from __future__ import annotations

import copy
import pickle
import time
from queue import Empty

import pytest
from hypothesis import given, strategies as st

from celery.utils.collections import (
    AttributeDict,
    BufferMap,
    ChainMap,
    ConfigurationView,
    DictAttribute,
    LimitedSet,
    Messagebuffer,
    OrderedDict,
    force_mapping,
    lpmerge,
)


class Settings:
    ONE = 1
    two = 2


def test_an_object_reads_as_a_mapping():
    settings = Settings()
    mapping = DictAttribute(settings)

    assert mapping["ONE"] == mapping.ONE == 1
    mapping["three"] = 3
    mapping.four = 4
    assert (settings.three, settings.four) == (3, 4)
    assert "three" in mapping
    assert mapping.get("five", 5) == 5
    assert mapping.setdefault("six", 6) == 6
    assert mapping.setdefault("ONE", 9) == 1
    assert {"ONE", "two"} <= set(mapping)
    assert dict(mapping.items())["two"] == 2
    assert 2 in list(mapping.values())
    with pytest.raises(KeyError):
        mapping["seven"]


def test_force_mapping_leaves_mappings_alone():
    plain = {"a": 1}
    assert force_mapping(plain) is plain
    assert force_mapping(Settings())["two"] == 2


def test_lpmerge_ignores_none():
    left = {"a": 1, "b": 2}
    assert lpmerge(left, {"a": None, "b": 3, "c": 4}) is left
    assert left == {"a": 1, "b": 3, "c": 4}


def test_a_dict_has_its_keys_as_attributes():
    table = AttributeDict(a=1)
    table.b = 2
    assert table["b"] == 2
    assert table.a == 1
    with pytest.raises(AttributeError, match="nope"):
        table.nope


def test_an_ordered_dict_knows_its_oldest_key():
    table = OrderedDict(a=1, b=2)
    table.move_to_end("a")
    assert table._LRUkey() == "b"


def test_a_chain_reads_from_the_first_and_writes_to_it():
    changes, defaults = {"a": 1}, {"a": 0, "b": 2}
    chain = ChainMap(changes, defaults)

    assert (chain["a"], chain["b"], chain.get("c", 3)) == (1, 2, 3)
    chain["b"] = 5
    assert defaults["b"] == 2
    assert changes["b"] == 5
    assert sorted(chain) == ["a", "b"]
    assert dict(chain.items()) == {"a": 1, "b": 5}
    assert list(chain.values()) == [1, 5]
    assert len(chain) == 2
    del chain["b"]
    assert chain["b"] == 2
    with pytest.raises(KeyError, match="not set here"):
        del chain["b"]
    with pytest.raises(KeyError):
        chain.pop("b")
    assert chain.pop("b", None) is None
    with pytest.raises(KeyError):
        chain["zzz"]


def test_a_chain_tells_its_observers_what_was_updated():
    told = []
    chain = ChainMap({}, {"a": 0})
    chain.bind_to(lambda *args, **kwargs: told.append((args, kwargs)))

    chain.update({"a": 1}, b=2)

    assert told == [(({"a": 1},), {"b": 2})]
    assert chain.changes == {"a": 1, "b": 2}


def test_a_copy_of_a_chain_is_independent():
    chain = ChainMap({"a": 1}, {"b": 2})
    other = copy.copy(chain)
    other["a"] = 9

    assert chain["a"] == 1
    assert other["b"] == 2
    assert ChainMap.fromkeys(["a"], 3)["a"] == 3


def test_more_defaults_come_before_those_there_are():
    chain = ChainMap({}, {"a": 1})
    chain.add_defaults({"a": 2, "b": 3})

    assert (chain["a"], chain["b"]) == (2, 3)
    assert chain.setdefault("b", 9) == 3
    assert chain.setdefault("c", 9) == 9
    assert chain
    chain.clear()
    assert "c" not in chain
    assert not ChainMap({}, {})


def test_a_key_may_be_converted():
    chain = ChainMap({"A": 1}, key_t=str.upper)
    chain["b"] = 2
    assert chain["a"] == 1
    assert "B" in chain.changes
    assert "b" in chain


@pytest.fixture
def view():
    return ConfigurationView(
        {"OLD_NAME": 1},
        [{"new_name": 0, "other": 5}],
        keys=[lambda key: {"new_name": "OLD_NAME", "OLD_NAME": "new_name"}.get(key, key)],
    )


def test_a_setting_is_found_under_any_of_its_names(view):
    assert view.new_name == view["OLD_NAME"] == view["new_name"] == 1
    assert view.get("nope") is None
    assert view.first("nope", "other") == 5
    assert "new_name" in view
    with pytest.raises(AttributeError, match="nope"):
        view.nope


def test_a_changed_setting_wins_over_a_default_of_another_name(view):
    view.other = 6
    assert view["other"] == 6
    view.clear()
    assert view.other == 5
    assert view.new_name == 0


def test_a_prefix_may_be_left_out():
    view = ConfigurationView({"CEL_x": 1}, [{"x": 0, "y": 2}], prefix="CEL_")
    assert view.x == view["CEL_x"] == 1
    assert view["CEL_y"] == view.y == 2
    assert "CEL_x" in view


def test_a_view_takes_over_another(view):
    told = []
    view.bind_to(lambda **kw: told.append(kw))
    other = ConfigurationView({"x": 9})

    view.swap_with(other)
    view.update(y=1)

    assert view.x == 9
    assert other.y == 1
    assert told == [{"y": 1}]
    assert copy.copy(view).x == 9


# -- LimitedSet -----------------------------------------------------------------------------------


def test_a_limited_set_forgets_the_oldest():
    known = LimitedSet(maxlen=2)
    for item in "abc":
        known.add(item)

    assert list(known) == ["b", "c"]
    assert "a" not in known
    assert len(known) == 2


def test_a_limited_set_forgets_what_is_too_old_but_keeps_a_minimum():
    known = LimitedSet(expires=10, minlen=1)
    known.add("a", now=100)
    known.add("b", now=105)
    known.purge(now=112)
    assert list(known) == ["b"]
    known.purge(now=1000)
    assert list(known) == ["b"]


def test_adding_again_makes_an_item_young():
    known = LimitedSet(maxlen=2)
    for item in "aba":
        known.add(item)
    known.add("c")

    assert list(known) == ["a", "c"]


def test_items_from_elsewhere_keep_their_age_but_are_never_from_the_future():
    now = time.monotonic()
    known = LimitedSet(data={"old": now - 50, "future": now + 10_000})

    ages = known.as_dict()
    assert ages["old"] == now - 50
    assert ages["future"] <= time.monotonic()
    assert list(known) == ["old", "future"]


def test_merging_keeps_the_later_time_of_an_item_both_have():
    now = time.monotonic()
    one, two = LimitedSet(), LimitedSet()
    one.add("x", now - 1)
    two.add("x", now - 9)
    two.add("y", now - 5)

    one.update(two)

    assert one.as_dict() == {"y": now - 5, "x": now - 1}
    one.update(["z"])
    assert list(one) == ["y", "x", "z"]
    one.update(None)


def test_a_limited_set_can_be_emptied_item_by_item():
    known = LimitedSet(data=["a", "b"])
    assert known.pop() == "a"
    known.discard("b")
    known.discard("b")
    known.pop_value("b")
    assert known.pop("nothing") == "nothing"
    assert not known
    known.add("c")
    known.clear()
    assert known == LimitedSet()
    assert "maxlen" in repr(known)


def test_limits_must_make_sense():
    with pytest.raises(ValueError):
        LimitedSet(maxlen=-1)
    with pytest.raises(ValueError):
        LimitedSet(maxlen=2, minlen=3)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 100)), max_size=60),
    st.integers(0, 8),
    st.integers(0, 30),
    st.integers(0, 4),
)
def test_a_limited_set_always_has_the_youngest_within_its_limits(added, maxlen, expires, minlen):
    minlen = min(minlen, maxlen)
    known = LimitedSet(maxlen=maxlen, expires=expires, minlen=minlen)
    latest: dict[int, int] = {}
    for item, at in added:
        known._insert(item, at)
        latest[item] = at
    known.purge(now=100)

    assert not maxlen or len(known) <= maxlen
    ages = known.as_dict()
    assert list(ages.values()) == sorted(ages.values())
    assert all(latest[item] == at for item, at in ages.items())
    gone = [at for item, at in latest.items() if item not in ages]
    if ages and gone:
        assert max(gone) <= min(ages.values())
    if expires and len(known) > minlen:
        assert min(ages.values()) >= 100 - expires
    if not maxlen and not expires:
        assert set(ages) == set(latest)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1000)), st.integers(0, 5))
def test_a_limited_set_survives_a_pickle(data, maxlen):
    known = LimitedSet(maxlen=maxlen)
    for item, at in data.items():
        known.add(item, at)

    restored = pickle.loads(pickle.dumps(known))

    assert restored == known
    assert (restored.maxlen, restored.expires, restored.minlen) == (maxlen, 0, 0)
    assert list(restored) == list(known)


# -- buffers --------------------------------------------------------------------------------------


def test_a_full_buffer_drops_its_oldest():
    buffer = Messagebuffer(3, [1, 2])
    buffer.put(3)
    buffer.put(4)

    assert len(buffer) == 3
    assert buffer[0] == 2
    assert 4 in buffer
    assert buffer.take() == 2
    buffer.extend([5, 6, 7])
    assert list(buffer) == [5, 6, 7]
    assert buffer.take("none") == "none"
    with pytest.raises(Empty):
        buffer.take()
    assert repr(buffer) == "<Messagebuffer: 0/3>"
    assert list(reversed(Messagebuffer(0, [1, 2]))) == [2, 1]


def test_all_buffers_together_have_a_limit():
    buffers = BufferMap(4, {"a": [1, 2], "b": [3]})
    buffers.put("b", 4)
    buffers.put("b", 5)

    assert buffers.total == 4
    assert buffers.take("a") == 2
    assert buffers.take("b") == 3
    assert buffers.take("a", None) is None
    with pytest.raises(Empty):
        buffers.take("zzz")
    assert buffers.total == 2
    assert repr(buffers) == "<BufferMap: 2/4>"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=50),
    st.integers(1, 10),
    st.integers(1, 5),
)
def test_the_total_of_a_buffer_map_is_what_it_holds(puts, maxsize, bufmaxsize):
    buffers = BufferMap(maxsize, bufmaxsize=bufmaxsize)
    for key, item in puts:
        buffers.put(key, item)

    assert buffers.total == sum(len(buffer) for buffer in buffers.values()) <= maxsize
    assert all(len(buffer) <= bufmaxsize for buffer in buffers.values())
