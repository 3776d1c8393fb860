from __future__ import annotations

from contextlib import contextmanager

import pytest

from celery.utils.objects import Bunch, FallbackContext, getitem_property, mro_lookup


def test_a_bunch_has_the_attributes_it_was_given():
    assert Bunch(a=1).a == 1


class Base:
    def __call__(self):
        return "base"


class Middle(Base):
    pass


class Leaf(Middle):
    def __call__(self):
        return "leaf"


def test_the_class_that_defines_an_attribute_is_found():
    assert mro_lookup(Leaf, "__call__") is Leaf
    assert mro_lookup(Middle, "__call__") is Base
    assert mro_lookup(Middle, "nope") is None
    assert mro_lookup(Middle, "__call__", stop={Base}) is None


def test_what_was_patched_into_a_base_counts():
    def patched(self):
        return "patched"

    patched.__module__ = "somebody.elses"
    original = Base.__call__
    try:
        assert mro_lookup(Middle, "__call__", {Base}, [__name__]) is None
        Base.__call__ = patched
        assert mro_lookup(Middle, "__call__", {Base}, [__name__]) is Base
    finally:
        Base.__call__ = original


def test_a_context_is_made_only_if_none_is_provided():
    events = []

    @contextmanager
    def fallback(name, sep):
        events.append("open")
        yield f"{name}{sep}"
        events.append("close")

    with FallbackContext("mine", fallback, "x", sep="-") as got:
        assert got == "mine"
    assert events == []
    with FallbackContext(None, fallback, "x", sep="-") as got:
        assert got == "x-"
        assert events == ["open"]
    assert events == ["open", "close"]


class Message(dict):
    id = getitem_property("id", "The id.")
    eta = getitem_property("options.eta")


def test_items_are_attributes():
    message = Message(id=1, options={})
    assert message.id == 1
    assert message.eta is None
    message.eta = 5
    message.id = 2
    assert message == {"id": 2, "options": {"eta": 5}}
    assert Message.id.__doc__ == "The id."
    with pytest.raises(KeyError):
        Message().eta
