"""Messages of composed tasks, field by field, against recorded ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from celery._canvas.signature import plain
from celery.canvas import StampingVisitor, chain, chord, group
from t.harness.inline import InlineWorker, declare_tasks, memory_app

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "canvas.json").read_text())


class HeaderVisitor(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"header": "value", "stamped_headers": ["header"]}


CALLS = {
    "link": lambda add, xsum, err: add.apply_async((2, 2), link=add.s(8)),
    "link_error": lambda add, xsum, err: add.apply_async((2, 2), link_error=err.s()),
    "chain": lambda add, xsum, err: chain(add.s(2, 2), add.s(4), add.s(8)).apply_async(),
    "group": lambda add, xsum, err: group(add.s(1, 1), add.s(2, 2)).apply_async(),
    "chord": lambda add, xsum, err: chord([add.s(1, 1), add.s(2, 2)])(xsum.s()),
    "stamped": lambda add, xsum, err: add.s(2, 2).stamp(header="value").apply_async(),
    "stamped_visitor": lambda add, xsum, err: add.s(2, 2).stamp(HeaderVisitor()).apply_async(),
    "stamped_chain": lambda add, xsum, err: (
        chain(add.s(2, 2), add.s(4)).stamp(HeaderVisitor()).apply_async()
    ),
    "map": lambda add, xsum, err: add.starmap([(1, 2), (3, 4)]).apply_async(),
    "chunks": lambda add, xsum, err: add.chunks([(1, 2), (3, 4)], 1).apply_async(),
    "nested_chord_in_chain": lambda add, xsum, err: chain(
        add.s(1, 1), group(add.s(2), add.s(3)), xsum.s()
    ).apply_async(),
}


class Comparer:
    """Compares with recorded documents, in which equal ids have equal placeholders."""

    def __init__(self) -> None:
        self.bound: dict[str, str] = {}

    def check(self, expected: Any, actual: Any, path: str = "") -> None:
        if isinstance(expected, dict):
            for key, value in expected.items():
                assert key in actual, f"{path}.{key} is missing"
                self.check(value, actual[key], f"{path}.{key}")
        elif isinstance(expected, list):
            assert len(expected) == len(actual), path
            for i, (one, other) in enumerate(zip(expected, actual, strict=True)):
                self.check(one, other, f"{path}[{i}]")
        elif isinstance(expected, str) and re.fullmatch(r"<uuid-\d+>", expected):
            assert self.bound.setdefault(expected, actual) == actual, path
        elif isinstance(expected, str) and "<" in expected:
            assert isinstance(actual, str), path
        else:
            assert actual == expected, path


@pytest.mark.parametrize("protocol", [2, 1])
@pytest.mark.parametrize("case", CALLS)
def test_messages_are_as_recorded(case, protocol):
    """B-CANV-003, B-CANV-032, B-CANV-073, B-CALL-018: signatures and ids in messages."""
    app = memory_app(task_protocol=protocol)

    @app.task(name="demo.add", shared=False)
    def add(x, y):
        return x + y

    @app.task(name="demo.xsum", shared=False)
    def xsum(xs):
        return sum(xs)

    @app.task(name="demo.err", shared=False)
    def err(request, exc, traceback):
        pass

    worker = InlineWorker(app)
    CALLS[case](add, xsum, err)
    messages = worker.sent()
    worker.close()
    recorded = GOLDEN[f"protocol_{protocol}"][case]
    assert len(messages) == len(recorded)
    comparer = Comparer()
    for expected, sent in zip(recorded, messages, strict=True):
        comparer.check(expected["headers"], sent.headers, "headers")
        comparer.check(expected["body"], sent.body, "body")
        for name in ("correlation_id", "reply_to"):
            comparer.check(expected["properties"][name], sent.properties[name], name)


def test_the_size_of_a_message_grows_with_the_number_of_tasks_only(t, worker):
    """Each task stands in the first message once, whatever the nesting."""

    def first_message(n: int) -> int:
        steps = []
        for _ in range(n):
            steps += [group(t.ident.s(), t.ident.s()), t.ident.s()]
        chain(t.ident.s(1), *steps).apply_async()
        (sent,) = worker.sent()
        return len(json.dumps(sent.body))

    small, large = first_message(4), first_message(16)
    assert large < 5 * small


def test_a_lazy_group_is_written_out_in_a_message(t, worker):
    chain(t.ident.s(1), group(t.ident.s() for _ in range(3))).apply_async()
    (sent,) = worker.sent()
    assert len(sent.embed["chain"][0]["kwargs"]["tasks"]) == 3


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_every_serializer_carries_composed_tasks(serializer):
    """Signatures go into messages as plain data, with the app of whoever receives them."""
    app = memory_app(task_serializer=serializer, accept_content=[serializer, "json"])
    t, worker = declare_tasks(app), InlineWorker(app)
    steps = [
        t.ident.s(1),
        group(t.add.s(1), group(t.add.s(2), t.add.s(3))),
        t.tsum.s(),
        group(t.ident.s(), t.ident.s()),
    ]
    result = chain(steps).apply_async(link=t.note.s(), link_error=t.direct.s())
    worker.run()
    assert result.get(timeout=0) == [9, 9]
    assert [args for args, _ in t.calls] == [(9,), (9,)]
    worker.close()


def test_plain_is_made_of_dicts_and_lists_only(t):
    def types(value):
        yield type(value)
        for item in value.values() if isinstance(value, dict) else ():
            yield from types(item)
        for item in value if isinstance(value, (list, tuple)) else ():
            yield from types(item)

    linked = t.add.s(1)
    linked.link(t.ident.map(i for i in range(2)))
    sig = chain(linked, group(t.add.s(i) for i in range(2)), t.tsum.s())
    assert set(types(plain([sig]))) <= {dict, list, tuple, str, int, bool, type(None)}
    assert plain(sig) == sig
