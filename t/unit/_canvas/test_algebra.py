"""What ``|`` and ``chain(…)`` make of their operands."""

from __future__ import annotations

from typing import Any

import pytest

from celery.canvas import Signature, _chain, _chord, chain, chord, group


def shape(sig: Any) -> Any:
    """Describe a signature by its kinds: ``chain[t, chord(2, t)]``."""
    match sig["subtask_type"]:
        case "chain":
            return f"chain[{', '.join(shape(task) for task in sig.tasks)}]"
        case "group":
            return f"group{len(sig)}"
        case "chord":
            return f"chord({len(sig.header_group())}, {shape(sig.body)})"
    return "t"


def s(n: int = 0) -> Signature:
    return Signature("p.add", (n,))


OPERANDS = {
    "task": lambda: s(),
    "group1": lambda: group(s(1)),
    "group2": lambda: group(s(1), s(2)),
    "chain": lambda: s(1) | s(2),
    "chain+group": lambda: s(1) | group(s(1), s(2)),
    "chord": lambda: chord([s(1), s(2)], s(3)),
    "chain+chord": lambda: s(1) | chord([s(1), s(2)], s(3)),
    "group0": lambda: group(),
    "chain0": lambda: chain(),
}

C2, CG, CH, CC = "chain[t, t]", "chain[t, group2]", "chord(2, t)", "chain[t, chord(2, t)]"

TABLE = {
    "task": {
        "task": C2,
        "group1": C2,
        "group2": CG,
        "chain": "chain[t, t, t]",
        "chain+group": "chain[t, t, group2]",
        "chord": CC,
        "group0": "chain[t, group0]",
        "chain0": "chain[t]",
    },
    "group1": {
        "task": "chord(1, t)",
        "group1": "chord(1, group1)",
        "group2": "chord(1, group2)",
        "chain": "chord(1, chain[t, t])",
        "chain+group": "chord(1, chain[t, group2])",
        "chord": "chord(1, chord(2, t))",
        "group0": "group1",
        "chain0": "group1",
    },
    "group2": {
        "task": CH,
        "group1": "chord(2, group1)",
        "group2": "chord(2, group2)",
        "chain": "chord(2, chain[t, t])",
        "chain+group": "chord(2, chain[t, group2])",
        "chord": "chord(2, chord(2, t))",
        "group0": "group2",
        "chain0": "group2",
    },
    "chain": {
        "task": "chain[t, t, t]",
        "group1": "chain[t, t, t]",
        "group2": "chain[t, t, group2]",
        "chain": "chain[t, t, t, t]",
        "chain+group": "chain[t, t, t, group2]",
        "chord": "chain[t, t, chord(2, t)]",
        "group0": C2,
        "chain0": C2,
    },
    "chain+group": {
        "task": CC,
        "group1": CC,
        "group2": "chain[t, group2, group2]",
        "chain": "chain[t, chord(2, chain[t, t])]",
        "chain+group": "chain[t, chord(2, chain[t, group2])]",
        "chord": "chain[t, chord(2, chord(2, t))]",
        "group0": CG,
        "chain0": CG,
    },
    "chord": {
        "task": "chord(2, chain[t, t])",
        "group1": "chord(2, chain[t, t])",
        "group2": "chain[chord(2, t), group2]",
        "chain": "chain[chord(2, t), t, t]",
        "chain+group": "chain[chord(2, t), t, group2]",
        "chord": "chord(2, chain[t, chord(2, t)])",
        "group0": "chain[chord(2, t), group0]",
        "chain0": "chain[chord(2, t)]",
    },
    "chain+chord": {
        "task": "chain[t, chord(2, chain[t, t])]",
        "group1": "chain[t, chord(2, chain[t, t])]",
        "group2": "chain[t, chord(2, chain[t, group2])]",
        "chain": "chain[t, chord(2, chain[t, t, t])]",
        "chain+group": "chain[t, chord(2, chain[t, t, group2])]",
        "chord": "chain[t, chord(2, t), chord(2, t)]",
        "group0": CC,
        "chain0": CC,
    },
    "chain0": {
        "task": "chain[t]",
        "group1": "chain[t]",
        "group2": "group2",
        "chain": C2,
        "chain+group": CG,
        "chord": "chain[chord(2, t)]",
        "group0": "chain[]",
        "chain0": "chain[]",
    },
}

CELLS = [(left, right, out) for left, row in TABLE.items() for right, out in row.items()]


@pytest.mark.parametrize(("left", "right", "expected"), CELLS)
def test_the_pipe_table(left, right, expected):
    """B-CANV-015: the kind of x | y for every pair of kinds; the left operand is not changed."""
    x, y = OPERANDS[left](), OPERANDS[right]()
    before = shape(x), repr(x), repr(y)
    assert shape(x | y) == expected
    assert (shape(x), repr(x), repr(y)) == before


def test_two_tasks_are_stored_as_they_are():
    """B-CANV-015: in task | task the operands are stored, not copied."""
    a, b = s(1), s(2)
    assert (a | b).tasks[0] is a
    assert (a | b).tasks[1] is b


def test_a_pipe_into_something_else_is_a_type_error():
    """B-CANV-016: sig | 5 and group | 5 raise TypeError."""
    for left in (s(), group(s()), s() | s(), chord([s()], s())):
        with pytest.raises(TypeError):
            left | 5


def test_a_pipe_into_plain_data_joins_dicts_except_after_a_group():
    """B-CANV-016: sig | dict is Python's union; group | dict a chord."""
    union = s(1) | dict(s(2))
    assert type(union) is dict
    assert union == s(2)
    assert shape(group(s(1), s(2)) | dict(s(3))) == CH


def test_pipe_assignment_is_the_pipe():
    sig = s(1)
    sig |= s(2)
    assert shape(sig) == C2


def test_the_constructor_unrolls_groups_of_one_everywhere():
    """B-CANV-017: chain(group(t), u) is t | u."""
    assert shape(chain(group(s(1)), s(2))) == C2
    assert shape(chain(s(1), group(s(1)), s(2))) == "chain[t, t, t]"


def test_the_constructor_skips_empty_groups():
    """B-CANV-018: wherever they stand."""
    assert shape(chain(group(), s())) == "chain[t]"
    assert shape(chain(OPERANDS["group2"](), group())) == "group2"
    assert shape(chain(group(), OPERANDS["group2"]())) == "group2"
    assert shape(chain(group(), group())) == "chain[]"
    assert shape(chain(s(), group(), s())) == C2


def test_what_follows_a_chord_goes_into_its_body():
    """B-CANV-019: chain(chord, t) is a chain of one chord."""
    made = OPERANDS["chord"]
    assert shape(chain(made(), s())) == "chain[chord(2, chain[t, t])]"
    assert shape(chain(made(), OPERANDS["group2"]())) == "chain[chord(2, chain[t, group2])]"


def test_a_group_in_front_makes_a_chord_of_the_rest():
    """B-CANV-020: groups after groups are chords within chords."""
    g = OPERANDS["group2"]
    assert shape(chain(g(), s())) == CH
    assert shape(chain(g(), s(), s())) == "chord(2, chain[t, t])"
    assert shape(chain(g(), g(), s())) == "chord(2, chord(2, t))"


def test_a_group_of_one_after_a_group_stays_a_group():
    """B-CANV-021: it is the body."""
    assert shape(chain(OPERANDS["group2"](), OPERANDS["group1"]())) == "chord(2, group1)"


def test_the_empty_chain_does_nothing(t, worker):
    """B-CANV-022: apply_async and call return None; chain(t) has one element."""
    assert chain().apply_async() is None
    assert chain()() is None
    assert worker.sent() == []
    assert len(chain(s()).tasks) == 1


def test_a_lone_iterable_is_expanded():
    """B-CANV-023: chain([a, b]), also a generator."""
    assert shape(chain([s(), s()])) == C2
    assert shape(chain(s(i) for i in range(3))) == "chain[t, t, t]"


def test_all_ways_to_a_chain_give_one_class():
    for made in (chain(s(), s()), s() | s(), chain([s()]), Signature.from_dict(dict(s() | s()))):
        assert isinstance(made, chain)
        assert isinstance(made, _chain)


def test_links_of_a_chain_go_with_its_tasks_when_it_is_continued():
    inner = (s(1) | s(2)).on_error(s(8))
    inner.link(s(9))
    first, second, third = (inner | s(3)).tasks
    assert first.options == {"link_error": [s(8)]}
    assert second.options == {"link_error": [s(8)], "link": [s(9)]}
    assert third.options == {}
    assert inner.tasks[0].options == {}


def test_start_options_of_a_chain_stay_with_the_chain():
    assert ((s(1) | s(2)).set(queue="q") | s(3)).options == {"queue": "q"}


def test_a_group_with_options_keeps_them_as_a_header():
    made = group(s(1), s(2), queue="q") | s(3)
    assert isinstance(made, _chord)
    assert made.header_group().options == {"queue": "q"}


def test_a_chord_without_body_takes_what_follows():
    assert shape(chord([s(1), s(2)]) | s(3)) == CH


@pytest.mark.parametrize("kinds", [("task", "group2", "task", "group2", "task")])
def test_piping_step_by_step_runs_like_the_constructor(kinds, app):
    """The two differ in the data, not in what is run."""
    from functools import reduce
    from operator import or_

    def steps():
        return [OPERANDS[kind]() for kind in kinds]

    piped = reduce(or_, steps())
    built = chain(*steps())
    assert [shape(x) for x in piped._steps(piped.tasks, app)] == [
        shape(x) for x in built._steps(built.tasks, app)
    ]


def test_chain_repr_drops_the_module_after_the_first():
    """B-CANV-004: chains, groups, chords, the empty group."""
    assert repr(s(1) | s(2)) == "p.add(1) | add(2)"
    assert repr(group(s(1), s(2))) == "group((p.add(1), add(2)))"
    assert repr(chord([s(1), s(2)], Signature("p.tsum"))) == "%p.tsum([add(1), add(2)])"
    assert repr(group()) == "group(<empty>)"


def test_the_plain_forms():
    """B-CANV-003: what the composites look like as dictionaries."""
    a, b = s(1), s(2)
    assert dict(chain(a, b)) == {
        "task": "celery.chain",
        "args": (),
        "kwargs": {"tasks": [a, b]},
        "options": {},
        "subtask_type": "chain",
        "immutable": False,
    }
    assert dict(group(a, b)) == {
        "task": "celery.group",
        "args": (),
        "kwargs": {"tasks": [a, b]},
        "options": {},
        "subtask_type": "group",
        "immutable": False,
    }
    assert dict(chord([a, b], s(3))) == {
        "task": "celery.chord",
        "args": (),
        "kwargs": {"kwargs": {}, "header": [a, b], "body": s(3)},
        "options": {},
        "subtask_type": "chord",
        "immutable": False,
    }
