"""Pydantic models as arguments and return values."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from kombu.exceptions import EncodeError

from celery import signature
from celery.app import trace
from t.harness.inline import memory_app

pydantic = pytest.importorskip("pydantic")
BaseModel = pydantic.BaseModel


class Item(BaseModel):
    value: int


class Special(Item):
    pass


class Dated(BaseModel):
    day: date


class Secret(BaseModel):
    word: pydantic.SecretStr


class Computed(BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    value: int

    @pydantic.computed_field
    def double(self) -> int:
        return 2 * self.value


class Items(pydantic.RootModel[list[int]]):
    pass


class Jsonable(BaseModel):
    value: int

    def __json__(self) -> dict[str, int]:
        return {"value": self.value * 100}


def task(app: Any, fun: Any, **options: Any) -> Any:
    name = options.pop("name", "p.t")
    made = app.task(name=name, shared=False, pydantic=True, lazy=False, **options)(fun)
    app.finalize()
    return made


def grow(item: Item, by: int = 1) -> Item:
    assert type(item) is Item
    return Item(value=item.value + int(by))


def show(item: Item) -> str:
    return type(item).__name__


@pytest.mark.parametrize("argument", [Item(value=1), {"value": 1}, {"value": "1"}])
@pytest.mark.parametrize("by_name", [True, False])
def test_models_and_their_data_are_the_same(app, worker, argument, by_name):
    """B-TASK-064, B-TASK-069: for the caller; texts are converted, the result is plain data."""
    t = task(app, grow)

    result = t.delay(item=argument) if by_name else t.delay(argument)
    worker.run()

    assert result.get(timeout=1) == {"value": 2}
    assert t(argument) == {"value": 2}


def test_models_are_dumped_by_the_caller(app, worker):
    """B-TASK-066: since the dump leads back to an equal model."""
    task(app, grow).delay(Item(value=3))

    assert worker.sent()[0].body[0] == [{"value": 3}]


def test_only_annotated_parameters_are_validated(app):
    """B-TASK-069: an int parameter given text gets text."""

    def body(item: Item, by: int = 1) -> str:
        return f"{item.value} {by!r}"

    assert task(app, body)({"value": 1}, "7") == "1 '7'"


def test_optional_models(app, worker):
    """B-TASK-064: both ways of writing it; None stays None."""

    def body(one: Item | None = None, two: Item | None = None) -> list[Any]:
        return [one and one.value, two and two.value]

    t = task(app, body)
    result = t.delay(Item(value=1), two=Item(value=2))
    worker.run()

    assert result.get(timeout=1) == [1, 2]
    assert t({"value": 1}) == [1, None]


def test_a_result_is_dumped_when_it_is_what_was_promised(app):
    """B-TASK-064: not a subclass, not without the annotation; dump options are passed on."""

    def special() -> Item:
        return Special(value=1)

    def silent():
        return Item(value=1)

    def dated() -> Dated:
        return Dated(day=date(2030, 1, 2))

    assert type(task(app, special, name="p.special")()) is Special
    assert type(task(app, silent, name="p.silent")()) is Item
    assert task(app, dated, name="p.dated")() == {"day": "2030-01-02"}
    python = task(app, dated, name="p.python", pydantic_dump_kwargs={"mode": "python"})
    assert python() == {"day": date(2030, 1, 2)}


def test_unions_and_generics_are_not_handled(app):
    """B-TASK-065: a root model is the way for lists."""

    def union(item: Item | Dated) -> str:
        return type(item).__name__

    def generic(items: list[Item]) -> str:
        return type(items[0]).__name__

    def root(items: Items) -> int:
        return sum(items.root)

    assert task(app, union, name="p.union")({"value": 1}) == "dict"
    assert task(app, generic, name="p.generic")([{"value": 1}]) == "dict"
    assert task(app, root, name="p.root")([1, 2]) == 3


@pytest.mark.parametrize("model", [Secret(word="x"), Computed(value=1), Special(value=1)])
def test_models_that_do_not_survive_are_left_alone(app, model):
    """B-TASK-066, B-TASK-067: so the serializer refuses them."""
    annotation = Item if isinstance(model, Special) else type(model)

    def body(x):
        return x

    body.__annotations__ = {"x": annotation}

    with pytest.raises(EncodeError):
        task(app, body).delay(model)


def test_strict_models_with_fields_that_become_text_are_left_alone(app):
    """B-TASK-067, B-TASK-071: pydantic_strict."""

    def body(x: Dated) -> str:
        return x.day.isoformat()

    assert task(app, body, name="p.loose").delay(Dated(day=date(2030, 1, 2))).id
    strict = task(app, body, name="p.strict", pydantic_strict=True)
    with pytest.raises(EncodeError):
        strict.delay(Dated(day=date(2030, 1, 2)))


def test_models_elsewhere_are_not_converted(app):
    """B-TASK-067: in containers, links, later tasks of chains, map, and send_task."""
    t = task(app, show)
    model = Item(value=1)

    for call in (
        lambda: t.delay([model]),
        lambda: t.delay({"value": model}),
        lambda: t.apply_async(({"value": 1},), link=t.s(model)),
        lambda: (t.si({"value": 1}) | t.si(model)).apply_async(),
        lambda: t.map([model]).apply_async(),
        lambda: app.send_task("p.t", (model,)),
    ):
        with pytest.raises(EncodeError):
            call()


def test_pickle_takes_models_as_they_are():
    """B-TASK-068."""
    app = memory_app(task_serializer="pickle", accept_content=["pickle"])
    published = []
    from celery import signals

    def receiver(body, **kwargs):
        published.append(body[0])

    t = task(app, show)
    signals.before_task_publish.connect(receiver, weak=False)
    try:
        t.delay(Item(value=1))
        t.apply_async((Item(value=1),), serializer="json")
    finally:
        signals.before_task_publish.disconnect(receiver)

    assert list(published[0]) == [Item(value=1)]
    assert list(published[1]) == [{"value": 1}]


def test_models_that_say_how_are_sent_their_way(app, worker):
    """B-TASK-068: ``__json__``."""

    def body(x: Jsonable) -> int:
        return x.value

    result = task(app, body).delay(Jsonable(value=2))
    worker.run()

    assert worker.seen[0].body[0] == [{"value": 200}]
    assert result.get(timeout=1) == 200


def test_an_invalid_argument_is_a_failure(app, worker):
    """B-TASK-070, B-TASK-071: which the caller sees as an exception that names its class."""
    result = task(app, grow).delay({"value": "no number"})
    worker.run()

    assert result.state == "FAILURE"
    with pytest.raises(Exception, match="ValidationError"):
        result.get(timeout=1)


def test_validators_know_the_task(app):
    """B-TASK-071: app, name, and what pydantic_context adds or replaces."""
    seen = {}

    class Curious(BaseModel):
        value: int

        @pydantic.field_validator("value")
        @classmethod
        def note(cls, value, info):
            seen.update(info.context)
            return value

    def body(x):
        return x.value

    body.__annotations__ = {"x": Curious}
    task(app, body, pydantic_context={"extra": 1})({"value": 1})

    assert seen == {"celery_app": app, "celery_task_name": "p.t", "extra": 1}


def test_bound_tasks_get_models_too(app, worker):
    def body(self, item: Item) -> list[Any]:
        return [self.name, item.value]

    t = task(app, body, bind=True)
    result = t.delay(Item(value=5))
    worker.run()

    assert result.get(timeout=1) == ["p.t", 5]
    assert worker.seen[0].body[0] == [{"value": 5}]


def test_signatures_dump_models_when_they_are_sent(app, worker):
    """B-TASK-066."""
    t = task(app, show)
    t.s(Item(value=1)).delay()
    signature("p.t", (Item(value=1),), app=app).apply_async()

    assert [message.body[0] for message in worker.sent()] == [[{"value": 1}]] * 2


def test_a_call_that_does_not_fit_says_so_as_ever(app):
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'item'"):
        task(app, show).delay()
    end = trace.build_tracer("p.t", app.tasks["p.t"])("i", (), {}, {})
    assert isinstance(trace.plain_exception(end.retval.exception), TypeError)
