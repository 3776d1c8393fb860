from __future__ import annotations

import gc
import logging

import pytest

from celery import Celery, signals
from celery.local import PromiseProxy, Proxy
from celery.utils.dispatch import Signal


@pytest.fixture
def signal():
    return Signal(name="test", providing_args={"value"})


def test_a_receiver_gets_signal_sender_and_arguments(signal):
    """B-SIG-001: `signal` and `sender` are always passed."""
    got = []

    def receiver(**kwargs):
        got.append(kwargs)
        return "answer"

    assert signal.connect(receiver) is receiver

    assert signal.send(sender="me", value=1) == [(receiver, "answer")]
    assert got == [{"signal": signal, "sender": "me", "value": 1}]


def test_connect_is_a_decorator_with_and_without_arguments(signal):
    """B-SIG-001: also as decorator, with or without arguments."""

    @signal.connect
    def plain(**kwargs):
        return "plain"

    @signal.connect(sender="me")
    def picky(**kwargs):
        return "picky"

    assert [answer for _, answer in signal.send(sender="me")] == ["plain", "picky"]
    assert [answer for _, answer in signal.send(sender="you")] == ["plain"]


def test_a_receiver_must_take_keyword_arguments(signal):
    """B-SIG-001: receivers must accept ``**kwargs``."""
    with pytest.raises(ValueError, match=r"\*\*kwargs"):
        signal.connect(lambda sender: None)
    with pytest.raises(TypeError, match="callable"):
        signal.connect(5)


def test_a_uid_makes_connections_the_same(signal):
    """B-SIG-001: dispatch_uid."""
    for _ in range(3):
        signal.connect(lambda **kw: 1, weak=False, dispatch_uid="once")

    assert len(signal.send(sender=None)) == 1
    assert signal.disconnect(dispatch_uid="once") is True
    assert signal.disconnect(dispatch_uid="once") is False
    assert not signal.receivers


def test_connecting_twice_is_connecting_once(signal):
    def receiver(**kwargs):
        return 1

    signal.connect(receiver)
    signal.connect(receiver)
    signal.connect(receiver, sender="me")

    assert len(signal.send(sender="you")) == 1
    assert len(signal.send(sender="me")) == 2


def test_receivers_are_held_weakly_unless_told_otherwise(signal):
    """B-SIG-002: weak unless weak=False."""

    def weak(**kwargs):
        return "weak"

    def strong(**kwargs):
        return "strong"

    signal.connect(weak)
    signal.connect(strong, weak=False)
    del weak, strong
    gc.collect()

    assert [answer for _, answer in signal.send(sender=None)] == ["strong"]
    assert len(signal.receivers) == 1


def test_a_dead_receiver_leaves_an_empty_list_behind(signal):
    def receiver(**kwargs):
        return 1

    signal.connect(receiver)
    assert signal.receivers
    del receiver
    gc.collect()

    assert signal.receivers == []
    assert not signal.has_listeners()


def test_methods_of_two_instances_are_two_receivers(signal):
    """B-SIG-002: receivers bound to different instances are distinct."""

    class Owner:
        def __init__(self, name):
            self.name = name

        def receive(self, **kwargs):
            return self.name

    one, two = Owner("one"), Owner("two")
    signal.connect(one.receive)
    signal.connect(two.receive)
    signal.connect(two.receive)

    assert [answer for _, answer in signal.send(sender=None)] == ["one", "two"]
    del one
    gc.collect()
    assert [answer for _, answer in signal.send(sender=None)] == ["two"]
    assert signal.disconnect(two.receive)


def test_an_error_is_logged_and_does_not_stop_the_others(signal, caplog):
    """B-SIG-003: logged at ERROR, and returned in place of the response."""

    def bad(**kwargs):
        raise ValueError("sig")

    def good(**kwargs):
        return "good"

    signal.connect(bad)
    signal.connect(good)
    with caplog.at_level(logging.ERROR):
        responses = signal.send(sender=None)

    assert responses[0][0] is bad
    assert isinstance(responses[0][1], ValueError)
    assert responses[1] == (good, "good")
    record = caplog.records[-1]
    assert record.name == "celery.utils.dispatch.signal"
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith("raised: ValueError('sig')")
    assert record.exc_info


def test_an_error_in_setting_logging_up_reaches_the_program():
    """B-SIG-003: errors of `setup_logging` receivers propagate."""

    def bad(**kwargs):
        raise ValueError("no log for you")

    signals.setup_logging.connect(bad)
    try:
        with pytest.raises(ValueError, match="no log for you"):
            signals.setup_logging.send(sender=None)
    finally:
        signals.setup_logging.disconnect(bad)


def test_text_is_compared_by_value_and_objects_by_identity(signal):
    """B-SIG-004: only events of that sender: names and task objects."""

    class Equal:
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    task, other = Equal(), Equal()

    def by_name(**kwargs):
        return "name"

    def by_task(**kwargs):
        return "task"

    signal.connect(by_name, sender="proj." + "add")
    signal.connect(by_task, sender=task)

    assert [answer for _, answer in signal.send(sender="".join(["proj", ".add"]))] == ["name"]
    assert [answer for _, answer in signal.send(sender=task)] == ["task"]
    assert signal.send(sender=other) == []
    assert signal.has_listeners(task)
    assert not signal.has_listeners(other)


def test_a_lazily_declared_sender_is_resolved_without_being_made(signal):
    """B-SIG-004: a lazily declared task is resolved."""
    made = []

    class Task:
        def __init__(self):
            made.append(self)

    promise = PromiseProxy(Task)

    def receiver(**kwargs):
        return 1

    signal.connect(receiver, sender=promise)
    assert not made

    task = promise._get_current_object()
    assert signal.send(sender=task) == [(receiver, 1)]
    assert signal.send(sender=promise) == [(receiver, 1)]
    assert signal.send(sender=Task()) == []
    assert signal.disconnect(receiver, sender=promise)


def test_a_proxy_as_sender_stands_for_its_target(signal):
    target = object()

    def receiver(**kwargs):
        return 1

    signal.connect(receiver, sender=Proxy(lambda: target))

    assert signal.send(sender=target) == [(receiver, 1)]


def test_retry_calls_a_receiver_until_it_works(signal, caplog, monkeypatch):
    """B-SIG-001: retry=True."""
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
    calls = []

    def receiver(**kwargs):
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("away")
        return "done"

    signal.connect(receiver, retry=True)
    signal_receiver = receiver
    del receiver
    gc.collect()

    assert signal.send(sender=None) == [(signal_receiver, "done")]
    assert len(calls) == 3
    assert "trying again in 2.00 seconds" in caplog.text


def test_a_receiver_may_disconnect_while_being_called(signal):
    def first(**kwargs):
        signal.disconnect(second)
        return 1

    def second(**kwargs):
        return 2

    signal.connect(first)
    signal.connect(second)

    assert len(signal.send(sender=None)) == 2
    assert len(signal.send(sender=None)) == 1


def test_nothing_is_called_without_receivers(signal):
    assert signal.send(sender=None) == []
    assert signal.send_robust(sender=None) == []
    assert not signal.receivers


def test_every_signal_knows_its_name():
    for name in signals.__all__:
        assert getattr(signals, name).name == name


def test_a_receiver_of_setup_logging_sets_logging_up_alone():
    """B-SIG-013: any receiver disables the library's own logging set-up."""
    got = []

    def receiver(**kwargs):
        got.append(set(kwargs))

    app = Celery("p", set_as_current=False)
    handlers = list(logging.root.handlers)
    signals.setup_logging.connect(receiver)
    try:
        app.log.already_setup = False
        app.log.setup_logging_subsystem(loglevel="ERROR", logfile="never-made.log")
    finally:
        signals.setup_logging.disconnect(receiver)

    assert got == [{"signal", "sender", "loglevel", "logfile", "format", "colorize"}]
    assert logging.root.handlers == handlers
