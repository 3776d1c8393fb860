"""Composed tasks that run at once."""

from __future__ import annotations

import pytest

from celery.canvas import chain, chord, group
from celery.result import EagerResult, GroupResult


def test_eager_compositions_give_the_values_of_real_ones(eager):
    """B-CALL-046: chains, groups, chords, however nested."""
    e = eager
    cases = [
        (e.add.s(1, 2) | e.add.s(3), 6),
        (group(e.add.s(1, 1), e.add.s(2, 2)), [2, 4]),
        (group(group(e.ident.s(1), e.ident.s(2)), e.ident.s(3)), [1, 2, 3]),
        (chord([e.add.s(1, 1), e.add.s(2, 2)], e.tsum.s()), 6),
        (chord([], e.ident.s()), []),
        (chain(e.ident.s(1), group(e.add.s(1), e.add.s(2)), e.tsum.s()), 5),
        (chain(e.ident.s(1), group(e.add.s(1), e.add.s(2))), [2, 3]),
        (chord([e.ident.s(1), chain(e.ident.s(2), group(e.ident.s(), e.ident.s()))], e.ident.s()),
         [1, [2, 2]]),
        (chord([e.ident.s(1)], group(e.ident.s(), e.tsum.s())), [[1], 1]),
        (chain(e.ident.s(1), e.ident.si(5)), 5),
    ]  # fmt: skip
    for sig, expected in cases:
        for result in (sig.apply_async(), sig.apply(), sig.delay()):
            assert result.get() == expected, sig


def test_maps_and_chunks_run_eagerly(eager):
    """B-CALL-048: starmap gives [3], chunks [[3], [7]]."""
    assert eager.add.starmap([(1, 2)]).apply_async().get() == [3]
    assert eager.tsum.map([[1, 2]]).apply_async().get() == [3]
    assert eager.add.chunks([(1, 2), (3, 4)], 1).apply_async().get() == [[3], [7]]


def test_eager_results_know_their_parents(eager):
    last = chain(eager.ident.s(1), eager.ident.s()).apply()
    assert isinstance(last, EagerResult)
    assert last.parent.get() == 1
    body = chord([eager.ident.s(1)], eager.tsum.s()).apply()
    assert isinstance(body.parent, GroupResult)


def test_a_link_of_an_eager_chain_fires_once(eager):
    """B-CALL-046: for the last task."""
    chain(eager.ident.s(1), eager.add.s(1)).apply_async(link=eager.note.s())
    assert eager.calls == [((2,), {})]


def test_a_link_of_an_eager_chord_fires_once(eager):
    chord([eager.ident.s(1)], eager.tsum.s()).apply_async(link=eager.note.s())
    assert eager.calls == [((1,), {})]


def test_an_error_before_the_end_is_raised_from_the_call(eager):
    """B-CALL-047: of a chain's task that is not the last, and of a chord's header."""
    with pytest.raises(ValueError, match="boom"):
        chain(eager.boom.s(), eager.ident.s()).apply_async()
    with pytest.raises(ValueError, match="boom"):
        chord([eager.boom.s()], eager.ident.s()).apply_async()


def test_an_error_at_the_end_is_in_the_result(eager):
    """B-CALL-047: of the last task of a chain, the body of a chord, members of a group."""
    assert chain(eager.ident.s(1), eager.boom.s()).apply_async().state == "FAILURE"
    assert chord([eager.ident.s(1)], eager.boom.s()).apply_async().state == "FAILURE"
    result = group(eager.boom.s(), eager.ident.s(3)).apply_async()
    with pytest.raises(ValueError, match="boom"):
        result.get()
    error, value = result.get(propagate=False)
    assert (type(error), error.args, value) == (ValueError, ("boom",), 3)


@pytest.mark.parametrize(("task", "state"), [("ignoring", "IGNORED"), ("rejecting", "REJECTED")])
def test_ignore_and_reject_stop_an_eager_chain(eager, task, state):
    """B-CALL-050: the chain's result has that state; the next task does not run."""
    sig = chain(getattr(eager, task).s(), eager.note.s())
    assert sig.apply_async().state == state
    assert eager.calls == []


def test_errbacks_of_an_eager_chain_run_in_the_direct_style(eager):
    """B-CALL-048: (request, exc, traceback)."""
    chain(eager.ident.s(1), eager.boom.s()).apply_async(link_error=eager.direct.s())
    ((_, exc, _),) = eager.calls
    assert exc.args == ("boom",)


def test_an_eager_chain_within_a_task_waits_for_itself(eager):
    """Its own steps are no synchronous subtasks."""

    @eager.app.task(name="p.outer", shared=False)
    def outer():
        return chain(eager.ident.s(1), eager.ident.s()).apply().result

    assert outer.delay().get() == 1


def test_task_ids_of_eager_compositions(eager):
    """B-CANV-038: the last task, the group, the body."""
    assert chain(eager.ident.s(1), eager.ident.s()).apply_async(task_id="c").id == "c"
    assert group(eager.ident.s(1)).apply_async(task_id="g").id == "g"
    assert chord([eager.ident.s(1)], eager.tsum.s()).apply_async(task_id="b").id == "b"
