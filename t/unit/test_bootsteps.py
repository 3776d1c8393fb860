"""Steps and blueprints: order, life, and what other packages rely on."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import kombu
import pytest

from celery import bootsteps


class Parent:
    def __init__(self):
        self.steps = []
        self.log = []


class Part:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def start(self):
        self.log.append(f"start {self.name}")

    def stop(self):
        self.log.append(f"stop {self.name}")


def make_step(name, requires=(), **attrs):
    def create(self, parent):
        return Part(name, parent.log)

    return bootsteps.StepType(
        name,
        (bootsteps.StartStopStep,),
        {
            "__module__": "m",
            "__qualname__": name,
            "requires": tuple(requires),
            "create": create,
            **attrs,
        },
    )


def apply(*steps, **kwargs):
    parent = Parent()
    blueprint = bootsteps.Blueprint(steps, name="Test")
    return parent, blueprint.apply(parent, **kwargs)


def test_a_step_starts_after_all_that_it_requires_and_stops_before_them():
    """B-EXT-002, B-EXT-008: stop runs in reverse order."""
    a = make_step("A")
    b = make_step("B", [a])
    c = make_step("C", [b, a])
    parent, blueprint = apply(c)

    blueprint.start(parent)
    blueprint.stop(parent)

    assert parent.log == ["start A", "start B", "start C", "stop C", "stop B", "stop A"]


def test_the_last_step_comes_last_and_a_name_may_stand_for_a_class():
    """B-EXT-002."""
    last = make_step("A", last=True)
    other = make_step("Z", [f"{__name__}:Named"])
    _, blueprint = apply(last, other)

    assert [type(step).__name__ for step in blueprint.order] == ["Named", "Z", "A"]


class Named(bootsteps.StartStopStep):
    pass


def test_a_step_may_decline():
    """B-EXT-002: enabled and include_if."""
    off = make_step("Off", enabled=False)
    never = make_step("Never", include_if=lambda self, parent: False)
    parent, blueprint = apply(off, never)

    assert parent.steps == []
    blueprint.start(parent)
    blueprint.stop(parent)
    assert parent.log == []


def test_options_reach_the_steps_as_keywords():
    """B-EXT-014."""
    seen = {}

    class Curious(bootsteps.Step):
        def __init__(self, parent, color=None, **kwargs):
            seen.update(color=color, rest=kwargs)

    apply(Curious, color="blue", other=1)

    assert seen == {"color": "blue", "rest": {"other": 1}}


def test_all_steps_are_built_before_any_is_created():
    """B-EXT-003."""
    log = []

    class First(bootsteps.Step):
        def __init__(self, parent, **kwargs):
            log.append("first built")

        def create(self, parent):
            log.append("first created")

    class Second(bootsteps.Step):
        requires = (First,)

        def __init__(self, parent, **kwargs):
            log.append("second built")

    apply(Second)

    assert log == ["first built", "second built", "first created"]


def test_steps_in_a_circle_are_refused():
    a = make_step("A", ["b"])
    b = make_step("B", [a])
    a.requires = (b,)

    with pytest.raises(ValueError, match=r"m\.A -> m\.B -> m\.A"):
        apply(a)


def test_the_boot_order_and_each_start_are_logged(caplog):
    """B-EXT-001, B-EXT-008."""
    caplog.set_level(logging.DEBUG, "celery.bootsteps")
    parent, blueprint = apply(make_step("A"), make_step("B", label="Fancy"))
    blueprint.start(parent)
    blueprint.stop(parent)

    assert "| Test: New boot order: {A, Fancy}" in caplog.messages
    assert "| Test: Starting A" in caplog.messages
    assert "^-- substep ok" in caplog.messages
    assert "| Test: Stopping Fancy..." in caplog.messages


def test_stop_is_harmless_twice_and_before_start():
    parent, blueprint = apply(make_step("A"))
    blueprint.stop(parent)
    blueprint.stop(parent)
    assert parent.log == []
    assert blueprint.state == bootsteps.TERMINATE

    parent, blueprint = apply(make_step("A"))
    blueprint.start(parent)
    blueprint.stop(parent)
    blueprint.stop(parent)
    blueprint.join(1)
    assert parent.log == ["start A", "stop A"]


def test_only_what_was_started_is_stopped():
    """A step that fails to start must not leave the ones before it running."""

    def fail(self, parent):
        raise OSError("no")

    a = make_step("A")
    b = make_step("B", [a], start=fail)
    c = make_step("C", [b])
    parent, blueprint = apply(c)

    with pytest.raises(OSError, match="no"):
        blueprint.start(parent)
    blueprint.stop(parent)

    assert parent.log == ["start A", "stop B", "stop A"]


def test_an_error_of_one_step_does_not_keep_others_from_stopping(caplog):
    def fail(self, parent):
        raise OSError("no")

    a = make_step("A")
    b = make_step("B", [a], stop=fail)
    parent, blueprint = apply(b)
    blueprint.start(parent)
    blueprint.stop(parent)

    assert parent.log == ["start A", "start B", "stop A"]
    assert "Error on stopping B" in caplog.text


def test_a_cold_stop_terminates_what_can_be():
    """B-EXT-003."""
    log = []

    class Both:
        def start(self):
            return None

        def stop(self):
            log.append("stopped")

        def terminate(self):
            log.append("terminated")

    a = make_step("A", create=lambda self, parent: Both())
    parent, blueprint = apply(a, make_step("B"))
    blueprint.start(parent)
    blueprint.stop(parent, terminate=True)

    assert log == ["terminated"]
    assert "stop B" in parent.log


def test_states_have_names():
    parent, blueprint = apply(make_step("A"))
    assert blueprint.human_state() == "initializing"
    blueprint.start(parent)
    assert blueprint.human_state() == "running"
    blueprint.stop(parent)
    assert blueprint.human_state() == "terminating"


def test_callbacks_tell_of_the_life_of_a_blueprint():
    told = []
    parent = Parent()
    blueprint = bootsteps.Blueprint(
        [make_step("A")],
        on_start=lambda: told.append("start"),
        on_close=lambda: told.append("close"),
        on_stopped=lambda: told.append("stopped"),
    ).apply(parent)
    blueprint.start(parent)
    blueprint.stop(parent)

    assert told == ["start", "close", "stopped"]


def test_statistics_of_the_steps_are_merged():
    parent, blueprint = apply(
        make_step("A", info=lambda self, parent: {"a": 1}),
        make_step("B", info=lambda self, parent: {"b": 2}),
    )

    assert blueprint.info(parent) == {"a": 1, "b": 2}


def test_a_step_is_known_by_its_path():
    assert Named.name == f"{__name__}.Named"
    assert str(Named) == f"{__name__}.Named"
    assert Named(None).alias == "Named"
    assert bootsteps.Step.name == "celery.bootsteps.Step"


class Consumers:
    def __init__(self):
        self.log = []
        self.channel = SimpleNamespace(close=lambda: self.log.append("closed"))

    def consume(self):
        self.log.append("consuming")

    def cancel(self):
        self.log.append("cancelled")


def test_a_consumer_step_consumes_on_the_connection_of_the_worker():
    """B-EXT-010."""
    consumer, channels = Consumers(), []

    class Mine(bootsteps.ConsumerStep):
        requires = ()

        def get_consumers(self, channel):
            channels.append(channel)
            return [consumer]

    c = SimpleNamespace(connection=SimpleNamespace(channel=lambda: "a channel"))
    step = Mine(c)
    step.start(c)
    assert (channels, consumer.log) == (["a channel"], ["consuming"])
    step.stop(c)
    assert consumer.log == ["consuming", "cancelled", "closed"]
    step.shutdown(c)
    assert consumer.log == ["consuming", "cancelled", "closed"]


@pytest.mark.parametrize("no_ack", [False, True])
def test_what_a_consumer_step_refuses_is_logged_and_settled_not_raised(caplog, no_ack):
    seen = []
    queue = kombu.Queue(f"steps-{no_ack}")

    class Mine(bootsteps.ConsumerStep):
        def get_consumers(self, channel):
            def on_message(body, message):
                seen.append(body)
                if not no_ack:
                    message.ack()

            return [kombu.Consumer(channel, [queue], callbacks=[on_message], no_ack=no_ack)]

    options = {"polling_interval": 0.001}
    with kombu.Connection("memory://", transport_options=options) as connection:
        c = SimpleNamespace(connection=connection)
        step = Mine(c)
        step.start(c)
        producer = connection.Producer()
        producer.publish({"x": 1}, serializer="pickle", routing_key=queue.name)
        producer.publish({"x": 2}, routing_key=queue.name)
        while not seen:
            connection.drain_events(timeout=5)

        assert seen == [{"x": 2}]
        assert "Mine drops a message that it cannot decode" in caplog.text
        step.stop(c)
        # Nothing comes back when the channel closes.
        assert connection.default_channel._size(queue.name) == 0


def test_a_consumer_step_leaves_alone_who_handles_errors_itself():
    def mine(message, exc):
        pass

    consumer = SimpleNamespace(on_decode_error=mine, consume=lambda: None)

    class Mine(bootsteps.ConsumerStep):
        def get_consumers(self, channel):
            return [consumer]

    Mine(None).start(SimpleNamespace(connection=SimpleNamespace(channel=lambda: None)))
    assert consumer.on_decode_error is mine


def test_a_consumer_step_needs_consumers():
    with pytest.raises(NotImplementedError):
        bootsteps.ConsumerStep(None).get_consumers(None)
    assert bootsteps.ConsumerStep.requires == ("celery.worker.consumer:Connection",)


def test_a_blueprint_can_be_drawn():
    from io import StringIO

    _, blueprint = apply(make_step("B", [make_step("A", conditional=True)]))
    out = StringIO()
    blueprint.graph.to_dot(out)

    assert "digraph" in out.getvalue()
    assert "A" in out.getvalue()
