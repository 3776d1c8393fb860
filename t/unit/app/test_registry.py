from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery.app.registry import TaskRegistry
from celery.exceptions import InvalidTaskError, NotRegistered


class PlainTask:
    name = "plain"
    type = "regular"


class PeriodicTask:
    name = "now and then"
    type = "periodic"


def test_an_unknown_task_is_not_registered():
    """B-APP-060: an unknown key raises NotRegistered, a KeyError."""
    with pytest.raises(NotRegistered) as caught:
        TaskRegistry()["nope"]

    assert isinstance(caught.value, KeyError)
    assert caught.value.args == ("nope",)
    assert TaskRegistry().get("nope") is None


def test_a_class_is_registered_as_one_instance():
    registry = TaskRegistry()
    registry.register(PlainTask)

    assert isinstance(registry["plain"], PlainTask)


def test_an_instance_is_registered_as_it_is():
    task = PlainTask()
    registry = TaskRegistry()
    registry.register(task)

    assert registry["plain"] is task


def test_a_task_without_a_name_cannot_be_registered():
    with pytest.raises(InvalidTaskError, match="name"):
        TaskRegistry().register(SimpleNamespace(name=None))


@pytest.mark.parametrize("by", ["plain", PlainTask()])
def test_a_task_is_unregistered_by_name_or_by_itself(by):
    """B-APP-060: unregister."""
    registry = TaskRegistry()
    registry.register(PlainTask())

    registry.unregister(by)

    assert registry == {}
    with pytest.raises(NotRegistered):
        registry.unregister(by)


def test_tasks_are_listed_by_type():
    """B-APP-060: regular(), periodic(), filter_types()."""
    registry = TaskRegistry()
    for task in (PlainTask(), PeriodicTask(), SimpleNamespace(name="untyped")):
        registry.register(task)

    assert set(registry.regular()) == {"plain", "untyped"}
    assert set(registry.periodic()) == {"now and then"}
    assert set(registry.filter_types("periodic")) == {"now and then"}
