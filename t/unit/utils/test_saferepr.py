from __future__ import annotations

import ast
from collections import OrderedDict, namedtuple
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from celery.utils.saferepr import reprstream, saferepr

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(plain)
def test_without_limits_it_is_repr(value):
    assert saferepr(value, maxlevels=100) == repr(value)


@given(plain, st.integers(0, 60))
def test_it_is_never_much_longer_than_asked_and_balanced(value, maxlen):
    text = saferepr(value, maxlen=maxlen, maxlevels=3)

    assert len(text) < maxlen * 4 + 60
    if len(repr(value)) <= maxlen:
        assert text == saferepr(value, maxlevels=3)


def test_deep_containers_show_as_dots():
    """B-CALL-007: ``(1, {'a': {'b': {...}}})``."""
    assert saferepr((1, {"a": {"b": {"c": {}}}}), maxlevels=3) == "(1, {'a': {'b': {...}}})"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([[[[1]]]], "[[[[...]]]]"),
        (((((1,),),),), "((((...),),),)"),
        ([[[{1}]]], "[[[{...}]]]"),
        ([[[{}]]], "[[[{}]]]"),
        ([[[[]]]], "[[[[]]]]"),
    ],
)
def test_each_kind_of_container_has_its_dots(value, text):
    """B-UTIL-006: deeper than the level shows as ``{...}`` and ``[...]``."""
    assert saferepr(value, maxlevels=3) == text


def test_strings_are_cut_with_the_quote_closed():
    """B-UTIL-006: ``'xxxx...'``."""
    assert saferepr("x" * 50, 4) == "'xxxx...'"
    assert saferepr(b"x" * 50, 4) == "b'xxxx...'"
    assert saferepr(bytearray(b"x" * 50), 4) == "bytearray(b'xxxx...')"


def test_sets_look_like_sets():
    """B-UTIL-006: ``{1, 2}``."""
    assert saferepr({1, 2}) == "{1, 2}"
    assert saferepr(set()) == "set()"
    assert saferepr(frozenset({1})) == "frozenset({1})"


def test_lists_are_cut_between_items():
    assert saferepr([1, 2, 3, 4, 5, 6, 7, 8], 11) == "[1, 2, 3, 4, ...]"
    assert saferepr({"a": 1, "b": 2, "c": 3}, 15) == "{'a': 1, 'b': 2, ...}"


def test_long_arguments_are_cut_at_about_a_thousand_characters():
    """B-CALL-007: about 1030 characters for a string of 3000."""
    text = saferepr(("x" * 3000,), 1024)

    assert 1020 <= len(text) <= 1035
    assert text.startswith("('xxx")
    assert text.endswith("x...',)")


def test_a_container_within_itself_is_opened_once():
    items = [1]
    items.append(items)
    table = {}
    table["me"] = table

    assert saferepr(items) == "[1, [...]]"
    assert saferepr(table) == "{'me': {...}}"


def test_the_same_container_side_by_side_is_no_recursion():
    shared = [1]
    assert saferepr([shared, shared]) == "[[1], [1]]"


def test_a_repr_that_raises_is_reported_in_place():
    class Bad:
        def __repr__(self):
            raise ValueError("no")

    assert saferepr((1, Bad())) == "(1, <Bad object: repr raised ValueError>)"
    assert "ValueError" in saferepr(10**5000)


def test_subclasses_keep_a_repr_of_their_own():
    point = namedtuple("point", "x y")

    assert saferepr(point(1, 2)) == "point(x=1, y=2)"
    assert saferepr(OrderedDict(a=1)) == repr(OrderedDict(a=1))
    assert saferepr(Decimal("1.5")) == "Decimal('1.5')"


def test_subclasses_without_one_are_containers():
    class Args(list):
        pass

    assert saferepr(Args([1, "x" * 20]), 8) == "[1, 'xxxx...']"


def test_the_short_way_writes_what_the_long_way_writes():
    for value in [(), (1,), (1, "a"), [None, True], {"a": 1.5}, {1: 2}, ("x" * 99,)]:
        assert saferepr(value, maxlen=10_000) == repr(value)
        assert ast.literal_eval(saferepr(value)) == value


def test_a_huge_string_is_not_written_before_it_is_cut():
    class Counted(str):
        """Its repr is that of str; slicing gives plain strings."""

        __slots__ = ()

    assert len(saferepr(Counted("x" * 10_000_000), 100)) < 120


def test_a_set_that_changes_meanwhile_is_cut():
    class Changing:
        def __init__(self, owner):
            self.owner = owner

        def __repr__(self):
            self.owner.add(object())
            return "c"

        __hash__ = object.__hash__

    owner = set()
    owner.update({Changing(owner), Changing(owner)})

    assert saferepr(owner) == "{c, ...}"


def test_a_stream_yields_the_pieces():
    assert "".join(reprstream([[1, {"a": 2}]])) == "[1, {'a': 2}]"
