"""Ids before anything is sent."""

from __future__ import annotations

from celery.canvas import chain, chord, group
from celery.result import AsyncResult, GroupResult


def test_a_chain_has_the_id_of_its_last_task(t):
    """B-CANV-025: the result is that of the last task, its parents are the others."""
    sig = chain(t.add.s(1, 1), t.add.s(2), t.add.s(3))
    result = sig.freeze()
    ids = [task.id for task in sig.tasks]
    assert sig.id == result.id == ids[2]
    assert [result.parent.id, result.parent.parent.id] == [ids[1], ids[0]]
    assert result.parent.parent.parent is None


def test_a_frozen_chain_keeps_its_ids_when_sent(t, worker):
    """B-CANV-039: a frozen signature keeps its id."""
    sig = chain(t.add.s(1, 1), t.add.s(2))
    frozen = sig.freeze()
    assert sig.apply_async() == frozen
    assert [m.id for m in worker.run()] == [task.id for task in sig.tasks]


def test_a_chain_that_ends_in_a_group_has_a_group_result(t):
    """B-CANV-026: its parent is the result of the task before."""
    sig = chain(t.ident.s(1), group(t.add.s(1), t.add.s(2)))
    result = sig.freeze()
    assert isinstance(result, GroupResult)
    assert result.parent.id == sig.tasks[0].id
    assert [r.id for r in result] == [m.id for m in sig.tasks[1].tasks]


def test_a_group_numbers_its_members(t):
    """B-CANV-027: its id is an option like a task's; members get group_index 0…n-1."""
    sig = group(t.add.s(1, 1), t.add.s(2, 2))
    result = sig.freeze()
    assert sig.options["task_id"] == result.id
    assert [m.options["group_index"] for m in sig.tasks] == [0, 1]
    assert [m.id for m in sig.tasks] == [r.id for r in result]


def test_group_membership_is_stated_at_publishing(t, worker):
    """B-CANV-027: the group header."""
    sig = group(t.add.s(1, 1), t.add.s(2, 2))
    result = sig.freeze()
    sig.apply_async()
    assert [(m.headers["group"], m.headers["group_index"]) for m in worker.sent()] == [
        (result.id, 0),
        (result.id, 1),
    ]


def test_the_result_of_a_chord_is_that_of_its_body(t):
    """B-CANV-028: the parent is the header's GroupResult, whose id is the chord's own."""
    sig = chord([t.add.s(1, 1), t.add.s(2, 2)], t.tsum.s())
    result = sig.freeze()
    assert isinstance(result, AsyncResult)
    assert result.id == sig.body.id
    assert isinstance(result.parent, GroupResult)
    assert result.parent.id == sig.id
    assert [m.options["group_index"] for m in sig.header_group().tasks] == [0, 1]


def test_header_tasks_carry_the_body(t, worker):
    """B-CANV-028: in chord, with their group_index."""
    result = chord([t.add.s(1, 1), t.add.s(2, 2)])(t.tsum.s())
    sent = worker.sent()
    assert [m.embed["chord"]["options"]["task_id"] for m in sent] == [result.id] * 2
    assert [m.headers["group_index"] for m in sent] == [0, 1]


def test_the_same_object_twice_gets_two_ids(t, worker):
    """B-CANV-039: in a group; and in a chain."""
    sig = t.add.s(1, 1)
    assert len({r.id for r in group(sig, sig).freeze()}) == 2
    assert len({m.id for m in group(sig, sig).freeze()}) == 2
    again = chain(t.ident.si(1), t.ident.si(1)).freeze()
    assert again.id != again.parent.id
    assert "task_id" not in sig.options


def test_applying_twice_gives_two_ids(t, worker):
    """B-CANV-039: for composites as well."""
    for sig in (
        chain(t.add.s(1, 1), t.add.s(2)),
        group(t.add.s(1, 1), t.add.s(2, 2)),
        chord([t.add.s(1, 1)], t.tsum.s()),
    ):
        assert sig.apply_async().id != sig.apply_async().id


def test_awaited_names_the_tasks_whose_results_count(t):
    def awaited(sig):
        return [task.args for task in sig.awaited()]

    s = t.add.s
    assert awaited(s(1)) == [(1,)]
    assert awaited(chain(s(1), s(2))) == [(2,)]
    assert awaited(group(s(1), group(s(2), s(3)))) == [(1,), (2,), (3,)]
    assert awaited(chord([s(1)], s(2))) == [(2,)]
    assert awaited(chain(s(1), chord([s(2)], group(s(3), s(4))))) == [(3,), (4,)]
    assert awaited(chain()) == []
