from __future__ import annotations

import copy
import functools
import json
import operator
import pickle

import pytest
from hypothesis import given, strategies as st
from kombu.utils import json as kombu_json

from celery.utils.functional import (
    DummyContext,
    arity_greater,
    chunks,
    first,
    firstmethod,
    fun_accepts_kwargs,
    fun_takes_argument,
    head_from_fun,
    is_numeric_value,
    lazy,
    lookahead,
    mattrgetter,
    maybe,
    mlazy,
    noop,
    padlist,
    pass1,
    regen,
    seq_concat_item,
    seq_concat_seq,
    uniq,
)


def add(x, y):
    return x + y


def everything(a, b=2, /, c=3, *args, d, e=5, **kwargs):
    return None


def call_errors(fun, args, kwargs):
    try:
        fun(*args, **kwargs)
    except TypeError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize("fun", [add, everything, lambda: 1, lambda *args: args, lambda *, k: k])
@pytest.mark.parametrize("args", [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)])
@pytest.mark.parametrize("kwargs", [{}, {"y": 1}, {"x": 1, "y": 2}, {"d": 1}, {"k": 1}, {"c": 1}])
def test_a_head_refuses_what_the_function_refuses_and_says_the_same(fun, args, kwargs):
    """B-TASK-002: arguments are checked with the same texts as Python's."""
    by_python = call_errors(fun, args, kwargs)
    by_head = call_errors(head_from_fun(fun), args, kwargs)

    assert by_head == (by_python and by_python.replace(fun.__qualname__, fun.__name__))


def test_a_head_names_the_function_and_what_is_missing():
    """B-TASK-002: ``add() missing 1 required positional argument: 'y'``."""
    with pytest.raises(TypeError) as caught:
        head_from_fun(add)(1)
    assert str(caught.value) == "add() missing 1 required positional argument: 'y'"


def test_a_head_of_a_bound_task_leaves_self_out():
    """B-TASK-003: `self` of bound tasks is not counted."""

    def task(self, x, y=1):
        return None

    head = head_from_fun(task, bound=True)
    head(1)
    head(x=1, y=2)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        head()


def test_a_head_of_a_method_or_object_leaves_self_out():
    class Callable:
        def __call__(self, x):
            return x

        def method(self, x):
            return x

    for fun in (Callable(), Callable().method, functools.partial(add, 1)):
        head = head_from_fun(fun)
        head(1)
        with pytest.raises(TypeError):
            head()


def test_a_head_of_a_wrapper_takes_what_the_wrapper_takes():
    @functools.wraps(add)
    def wrapper(*args, **kwargs):
        return add(*args, **kwargs)

    head_from_fun(wrapper)(1, 2, 3, z=4)


def test_a_head_of_a_builtin_that_does_not_tell_takes_anything():
    head_from_fun(dict.update)(1, 2, 3)


def test_first_skips_none_and_evaluates_promises():
    assert first(None, [None, None, 0, 1]) == 0
    assert first(lambda n: n > 1, [0, 1, 2, 3]) == 2
    assert first(None, [None, lazy(lambda: 4)]) == 4
    assert first(None, []) is None


def test_firstmethod_returns_the_first_answer():
    class Router:
        def __init__(self, answer):
            self.answer = answer

        def route(self, *args):
            return self.answer and (self.answer, *args)

    ask = firstmethod("route")
    assert ask([Router(None), lazy(Router, 1), Router(2)], "x") == (1, "x")
    assert ask([Router(None)], "x") is None
    on_call = firstmethod("route", on_call=lambda answer, *args: answer(*args))
    assert on_call([Router(3)], "y") == (3, "y")


@given(st.lists(st.integers()), st.integers(1, 7))
def test_chunks_lose_nothing_and_are_full(items, size):
    pieces = list(chunks(iter(items), size))

    assert [item for piece in pieces for item in piece] == items
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(pieces)


def test_padlist_cuts_and_fills():
    assert list(padlist([1, 2, 3], 2)) == [1, 2]
    assert list(padlist([1], 3)) == [1, None, None]
    assert list(padlist([1], 2, default=9)) == [1, 9]


@given(st.lists(st.integers()))
def test_lookahead_pairs_each_with_the_next(items):
    assert list(lookahead(items)) == list(zip(items, [*items[1:], None], strict=False))


def test_small_helpers_do_as_they_say():
    assert list(uniq([1, 2, 1, 3, 2])) == [1, 2, 3]
    assert mattrgetter("real", "nope")(5) == {"real": 5, "nope": None}
    assert maybe(int, "5") == 5
    assert maybe(int, None) is None
    assert noop(1, x=2) is None
    assert pass1(1, 2, k=3) == 1
    assert seq_concat_item((1, 2), 3) == (1, 2, 3)
    assert seq_concat_item([1, 2], 3) == [1, 2, 3]
    assert seq_concat_seq([1], (2,)) == [1, 2]
    assert seq_concat_seq((1,), [2]) == (1, 2)
    assert is_numeric_value(1.5)
    assert not is_numeric_value(True)
    assert not is_numeric_value("1")
    with DummyContext():
        pass


def test_mlazy_evaluates_once():
    calls = []
    promise = mlazy(lambda: calls.append(1) or 7)

    assert not promise.evaluated
    assert promise() == 7
    assert promise.evaluate() == 7
    assert promise.evaluated
    assert calls == [1]


def test_introspection_of_parameters():
    assert fun_accepts_kwargs(lambda **kw: 1)
    assert not fun_accepts_kwargs(lambda a, *b: 1)
    assert fun_takes_argument("x", add)
    assert not fun_takes_argument("z", add)
    assert fun_takes_argument("z", lambda **kw: 1)
    assert fun_takes_argument("z", add, position=2)
    assert not fun_takes_argument("z", add, position=3)
    assert fun_takes_argument("z", lambda *args: 1, position=9)
    assert arity_greater(add, 1)
    assert not arity_greater(add, 2)
    assert arity_greater(lambda *args: 1, 5)


def counted(limit, seen):
    for number in range(limit):
        seen.append(number)
        yield number


def test_regen_leaves_lists_and_tuples_alone():
    for given_ in ([1], (1,)):
        assert regen(given_) is given_


def test_regen_reads_no_further_than_asked():
    """B-CANV-043: generators are kept lazily."""
    seen = []
    items = regen(counted(10, seen))

    assert seen == []
    assert repr(items) == "[...]"
    assert bool(items)
    assert seen == [0]
    assert items[2] == 2
    assert seen == [0, 1, 2]
    iterator = iter(items)
    assert [next(iterator), next(iterator)] == [0, 1]
    assert seen == [0, 1, 2]
    assert not items.fully_consumed()
    assert repr(items) == "[0, 1, 2, ...]"

    assert len(items) == 10
    assert items.fully_consumed()
    assert list(items) == list(range(10))
    assert seen == list(range(10))


def test_regen_is_a_list_to_whoever_asks():
    def fresh():
        return regen(iter([1, 2, 3]))

    assert fresh() == [1, 2, 3]
    assert fresh() == fresh()
    assert fresh()[-1] == 3
    assert fresh()[1:] == [2, 3]
    assert operator.add(fresh(), [4]) == [1, 2, 3, 4]
    assert operator.add([0], fresh()) == [0, 1, 2, 3]
    assert not regen(iter([]))
    assert pickle.loads(pickle.dumps(fresh())) == [1, 2, 3]
    assert copy.copy(fresh()) == [1, 2, 3]
    assert json.loads(kombu_json.dumps(fresh())) == [1, 2, 3]
    with pytest.raises(IndexError):
        fresh()[3]


def test_regen_can_be_changed():
    items = regen(iter([1, 2, 3]))
    items.append(4)
    items[0] = 0
    del items[1]
    items.insert(0, 9)

    assert items == [9, 0, 3, 4]


@given(st.lists(st.integers()), st.lists(st.integers(0, 12), max_size=4))
def test_regen_never_loses_an_item_however_it_is_read(items, reads):
    lazily = regen(iter(items))
    for position in reads:
        if position < len(items):
            assert lazily[position] == items[position]
        else:
            with pytest.raises(IndexError):
                lazily[position]
    assert list(lazily) == items
