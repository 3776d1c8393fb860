"""Composed tasks, sent and run."""

from __future__ import annotations

import pytest

from celery.canvas import chain, chord, chunks, group, xmap
from celery.exceptions import ChordError, Ignore
from celery.result import AsyncResult, GroupResult
from celery.signals import after_task_publish, before_task_publish


def run(worker, sig, *args, **options):
    result = sig.apply_async(*args, **options)
    worker.run()
    return result


def get(worker, sig, *args, **options):
    return run(worker, sig, *args, **options).get(timeout=0)


# -- chains


def test_each_task_of_a_chain_gets_the_value_of_the_one_before(t, worker):
    """B-CANV-046: as first argument, unless it is immutable."""
    assert get(worker, t.add.s(1, 2) | t.add.s(3) | t.add.s(4)) == 10
    assert get(worker, t.add.s(1, 2) | t.ident.si(7) | t.add.s(1)) == 8


def test_only_the_first_task_of_a_chain_is_sent(t, worker):
    """B-CANV-032: the rest travels in the embed, reversed."""
    chain(t.add.s(1, 1), t.add.s(2), t.add.s(3)).apply_async()
    (sent,) = worker.sent()
    assert [step["args"] for step in sent.embed["chain"]] == [[3], [2]]


def test_tasks_of_a_chain_know_parent_and_root(t, worker):
    """B-CANV-029: parent is the task before, root the first task."""
    last = run(worker, chain(t.whoami.si(), t.whoami.si(), t.whoami.si()))
    first, second, third = (m.id for m in worker.seen)
    assert last.parent.parent.get() == {
        "id": first, "root": first, "parent": None, "group": None, "index": None,
    }  # fmt: skip
    assert last.parent.get()["parent"] == first
    assert last.get()["parent"] == second
    assert {m.headers["root_id"] for m in worker.seen} == {first}
    assert last.id == third


#: Steps of a chain whose rest is handed on as text, most of the way.
LONG = 60


def test_a_long_chain_is_run_step_by_step(t, worker):
    """B-CANV-029, B-CANV-046: each step once, with the value and the id of the one before."""
    last = run(worker, chain(t.add.s(0, 1), *[t.add.s(1)] * LONG))
    assert last.get(timeout=0) == LONG + 1
    ids = last.as_list()[::-1]
    assert [sent.id for sent in worker.seen] == ids
    assert [sent.headers["parent_id"] for sent in worker.seen] == [None, *ids[:-1]]
    assert {sent.headers["root_id"] for sent in worker.seen} == {ids[0]}
    assert [len(sent.embed["chain"] or ()) for sent in worker.seen] == [*range(LONG, -1, -1)]


def test_a_task_may_change_the_rest_of_its_chain(app, t, worker):
    """B-CANV-029: `request.chain` is a list, of which the last element is next."""

    @app.task(name="p.cut", shared=False, bind=True)
    def cut(self, x, keep):
        del self.request.chain[: LONG - keep]
        return x

    @app.task(name="p.stop", shared=False, bind=True)
    def stop(self, x):
        self.request.chain = None
        return x

    for task, ran in ((cut.s(3), 5), (stop.s(), 2)):
        before = len(worker.seen)
        chain(t.add.s(0, 0), task, *[t.add.s(1)] * LONG).apply_async()
        worker.run()
        assert len(worker.seen) - before == ran


@pytest.mark.parametrize(
    "signal", [before_task_publish, after_task_publish], ids=["before", "after"]
)
def test_receivers_of_signals_see_the_rest_of_a_chain(t, worker, signal):
    """B-SIG-005: `body` is what is sent, as plain data."""
    seen = []

    def note(body, **_):
        seen.append(body[2]["chain"])

    chain(t.add.s(0, 1), *[t.add.s(1)] * LONG).apply_async()
    signal.connect(note, weak=False)
    try:
        worker.run()
    finally:
        signal.disconnect(note)
    assert [len(rest) for rest in seen] == [*range(LONG - 1, -1, -1)]
    assert {type(rest) for rest in seen} == {list}
    assert {type(step) for rest in seen for step in rest} == {dict}


def test_a_retry_and_a_replacement_take_the_rest_of_a_chain_along(app, t, worker):
    """B-CANV-068: the following tasks get the value of the replacement."""

    @app.task(name="p.again", shared=False, bind=True)
    def again(self, x):
        if not self.request.retries:
            raise self.retry(countdown=0)
        return x

    @app.task(name="p.replaced", shared=False, bind=True)
    def replaced(self, x):
        raise self.replace(t.add.s(x, 100))

    steps = [t.add.s(1)] * LONG
    flow = chain(t.add.s(0, 0), again.s(), *steps, replaced.s(), *steps)
    assert get(worker, flow) == 100 + 2 * LONG


def test_a_failure_ends_the_chain(t, worker):
    """B-CANV-047: later tasks never run and fail with the same exception."""
    last = run(worker, chain(t.ident.s(1), t.boom.s(), t.ident.s(), t.ident.s()))
    assert [m.task for m in worker.seen] == ["p.ident", "p.boom"]
    with pytest.raises(ValueError, match="boom"):
        last.get(timeout=0)
    states = []
    node = last
    while node is not None:
        states.append(node.state)
        node = node.parent
    assert states == ["FAILURE", "FAILURE", "FAILURE", "SUCCESS"]
    assert AsyncResult(last.id, app=t.add.app).result.args == ("boom",)


def test_a_failure_before_a_chord_or_group_reaches_their_results(t, worker):
    """B-CANV-047: also when the last step is composed."""
    body = run(worker, chain(t.boom.si(), group(t.ident.s(), t.ident.s()), t.ident.s()))
    assert AsyncResult(body.id, app=t.add.app).state == "FAILURE"
    members = run(worker, chain(t.boom.si(), group(t.ident.s(), t.ident.s())))
    assert [r.state for r in members] == ["FAILURE", "FAILURE"]


def test_errbacks_of_a_chain_run_once_for_the_failing_task(t, worker):
    """B-CANV-048: chain-wide link_error is on the failing task; those of later tasks don't run."""
    run(worker, chain(t.boom.si(), t.ident.s()).on_error(t.direct.s()))
    assert len(t.calls) == 1
    t.calls.clear()
    run(worker, chain(t.boom.si(), t.ident.s().on_error(t.direct.s())))
    assert t.calls == []


def test_a_later_result_raises_the_error_of_a_pending_chain(t, app):
    """B-CANV-049: even while its own state is PENDING."""
    parent = app.AsyncResult("failed-parent")
    app.backend.store_result(parent.id, ValueError("early"), "FAILURE")
    with pytest.raises(ValueError, match="early"):
        app.AsyncResult("never-run", parent=parent).get(timeout=5, interval=0.001)


def test_links_given_to_a_chain(t, worker):
    """B-CANV-033: link_error on every task, link only on the last."""
    sig = chain(t.ident.s(1), t.ident.s())
    sig.apply_async(link=t.note.s(), link_error=t.direct.s())
    (first,) = worker.sent()
    assert first.embed["callbacks"] is None
    assert [e["task"] for e in first.embed["errbacks"]] == ["p.direct"]
    (last,) = first.embed["chain"]
    assert [e["task"] for e in last["options"]["link"]] == ["p.note"]
    assert [e["task"] for e in last["options"]["link_error"]] == ["p.direct"]
    sig.link(t.note.s())
    assert sig.options == {"link": [t.note.s()]}


def test_options_of_a_chain_are_those_of_its_first_task(t, worker):
    """B-CANV-036: shadow stands for any option."""
    chain(t.ident.s(1), t.ident.s()).apply_async(shadow="mine")
    assert [m.headers["shadow"] for m in worker.run()] == ["mine", None]


def test_arguments_of_a_chain_are_those_of_its_first_task(t, worker):
    """B-CANV-037: positional ones in front, and keywords."""
    assert get(worker, chain(t.add.s(1), t.add.s(10)), (9,)) == 20
    assert get(worker, chain(t.add.s(1), t.add.s(10)), None, {"y": 5}) == 16


def test_task_id_names_the_result(t, worker):
    """B-CANV-038: the last task of a chain, the group, the body of a chord."""
    assert run(worker, chain(t.ident.s(1), t.ident.s()), task_id="chain-id").id == "chain-id"
    assert worker.seen[-1].id == "chain-id"
    assert run(worker, group(t.ident.s(1)), task_id="group-id").id == "group-id"
    assert worker.seen[-1].headers["group"] == "group-id"
    assert run(worker, chord([t.ident.s(1)], t.tsum.s()), task_id="body-id").id == "body-id"
    assert worker.seen[-1].id == "body-id"


def test_an_immutable_chain_takes_no_arguments_but_its_members_do(t, worker):
    """B-CANV-041: chain.set(immutable=True) does not make the members immutable."""
    sig = chain(t.ident.s(1), t.add.s(1)).set(immutable=True)
    assert not sig.tasks[0].immutable
    assert get(worker, sig, (9,)) == 2


# -- groups


def test_members_called_from_outside_are_their_own_roots(t, worker):
    """B-CANV-030: parent null, root the own id, group and index set."""
    result = run(worker, group(t.whoami.s(), t.whoami.s()))
    for index, member in enumerate(result):
        assert member.get() == {
            "id": member.id,
            "root": member.id,
            "parent": None,
            "group": result.id,
            "index": index,
        }


def test_options_of_a_group_win_over_those_of_members(t, worker):
    """B-CANV-036: and go to every member."""
    group(t.ident.s(1).set(shadow="own"), t.ident.s(2)).apply_async(shadow="group's")
    assert [m.headers["shadow"] for m in worker.sent()] == ["group's"] * 2


def test_set_on_a_group_changes_the_group(t):
    """B-CANV-041: not its members, but for immutable."""
    sig = group(t.add.s(1), t.add.s(2))
    sig.set(queue="q")
    assert sig.options == {"queue": "q"}
    assert sig.tasks[0].options == {}
    sig.set(immutable=True)
    assert [m.immutable for m in sig.tasks] == [True, True]


def test_skew_spreads_the_start(t):
    """B-CANV-042: start, start+step, …; never later than stop."""
    sig = group(t.add.s(i, i) for i in range(4)).skew(start=1, stop=3)
    assert [m.options["countdown"] for m in sig.tasks] == [1, 2, 3, 3]


def test_arguments_of_a_group_go_to_every_member(t, worker):
    """B-CANV-037: in front, and keywords."""
    assert get(worker, group(t.add.s(1), t.add.s(2)), (9,)) == [10, 11]
    assert get(worker, group(t.add.s(1), t.add.s(2)), None, {"y": 5}) == [6, 7]


def test_an_empty_group_gives_an_empty_result(t, worker):
    """B-CANV-043: with a fresh id; B-RES-045: whose value is []."""
    one, other = group().apply_async(), group()()
    assert isinstance(one, GroupResult)
    assert one.id != other.id
    assert one.get() == []
    assert worker.sent() == []


def test_a_group_is_made_of_signatures(t):
    """B-CANV-043: anything else is a TypeError; one iterable is expanded."""
    for wrong in (5, [5], "p.add"):
        with pytest.raises(TypeError):
            group(wrong)
    assert len(group([t.add.s(1), t.add.s(2)])) == 2
    assert len(group((t.add.s(1),))) == 1


def test_a_generator_is_read_when_needed(t):
    """B-CANV-043: not when the group is made."""
    read = []

    def members():
        for i in range(2):
            read.append(i)
            yield t.add.s(i, i)

    sig = group(members())
    assert read == []
    assert len(sig) == 2
    assert len(sig) == 2
    assert read == [0, 1]


def test_a_nested_group_is_kept_and_its_values_flattened(t, worker):
    """B-CANV-044: group(group(1, 2), 3) gives [1, 2, 3]."""
    sig = group(group(t.ident.s(1), t.ident.s(2)), t.ident.s(3))
    assert len(sig.tasks) == 2
    assert get(worker, sig) == [1, 2, 3]


def test_options_of_a_nested_group_go_to_its_members(t, worker):
    inner = group(t.ident.s(1), t.ident.s(2), shadow="inner")
    group(inner, t.ident.s(3)).apply_async()
    assert [m.headers["shadow"] for m in worker.sent()] == ["inner", "inner", None]


def test_a_group_cannot_be_given_a_link(t):
    """B-CANV-045: link= is a TypeError with the way out."""
    with pytest.raises(TypeError, match="Cannot add link to group: use a chord"):
        group(t.add.s(1, 1)).apply_async(link=t.note.s())


def test_errbacks_given_to_a_group_are_added_to_every_member(t, worker):
    """B-CANV-045: link_error= is accepted, and does not displace a member's own."""
    own = t.boom.s().on_error(t.by_id.s())
    run(worker, group(own, t.boom.s()), link_error=t.direct.s())
    assert len([c for c in t.calls if isinstance(c, tuple)]) == 2
    assert len([c for c in t.calls if isinstance(c, str)]) == 1


def test_an_errback_of_a_group_runs_for_each_failing_member(t, worker):
    """B-CANV-060: one call per failing member; B-CANV-034: link_error is on all tasks."""
    sig = group(t.boom.s(), t.ident.s(1), t.boom.s())
    sig.link_error(t.direct.s())
    assert all(m.options["link_error"] for m in sig.tasks)
    run(worker, sig)
    assert len(t.calls) == 2


def test_a_callback_of_a_group_runs_for_each_member(t, worker):
    """B-CANV-034: passed down to all tasks, as the documentation has it."""
    first = t.ident.s(1)
    sig = group(first, t.ident.s(2))
    sig.link(t.note.s())
    run(worker, sig)
    assert [args for args, _ in t.calls] == [(1,), (2,)]
    assert first.options == {}


def test_a_group_sent_from_a_task_is_its_child(app, t, worker):
    @app.task(name="p.spawn", shared=False)
    def spawn():
        group(t.ident.s(1), t.ident.s(2)).apply_async()

    parent = run(worker, spawn.s())
    (child,) = parent.children
    assert isinstance(child, GroupResult)
    assert child.get(timeout=0) == [1, 2]


# -- map, starmap, chunks


def test_map_and_starmap_run_one_task(t, worker):
    """B-CANV-071: one message, sequential calls; options may be merged when applied."""
    assert get(worker, t.tsum.map([[1, 2], [3]]), shadow="mapped") == [3, 3]
    assert get(worker, t.add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert [m.task for m in worker.seen] == ["celery.map", "celery.starmap"]
    assert worker.seen[0].headers["shadow"] == "mapped"


def test_a_map_over_a_generator_is_sent_as_a_list(t, worker):
    assert get(worker, t.ident.map(i for i in range(3))) == [0, 1, 2]


def test_map_is_plain_data(t):
    """B-CANV-003: task and it, immutable; chunks adds n. B-CANV-002: no subtask_type."""
    mapped = t.add.map([1, 2])
    assert isinstance(mapped, xmap)
    assert mapped == {
        "task": "celery.map",
        "args": (),
        "kwargs": {"task": t.add.s(), "it": [1, 2]},
        "options": {},
        "subtask_type": None,
        "immutable": True,
    }
    cut = t.add.chunks([(1, 2)], 10)
    assert (cut.kwargs["n"], cut.immutable, cut.subtask_type) == (10, True, None)


@pytest.mark.parametrize("way", ["call", "apply_async", "group", "apply_chunks"])
def test_chunks_are_a_group_of_starmaps(t, worker, way):
    """B-CANV-072: called, applied or converted."""
    cut = t.add.chunks([(1, 2), (3, 4), (5, 6)], 2)
    result = {
        "call": lambda: cut(),
        "apply_async": lambda: cut.apply_async(),
        "group": lambda: cut.group().apply_async(),
        "apply_chunks": lambda: chunks.apply_chunks(
            t.add.s(), [(1, 2), (3, 4), (5, 6)], 2, app=t.add.app
        ),
    }[way]()
    assert isinstance(result, GroupResult)
    assert [m.task for m in worker.run()] == ["celery.starmap"] * 2
    assert result.get(timeout=0) == [[3, 7], [11]]


def test_chunks_in_a_chain_and_in_a_group_are_their_pieces(t, worker):
    cut = t.add.chunks([(1, 2), (3, 4), (5, 6)], 2)
    assert get(worker, chain(cut, t.ident.s())) == [[3, 7], [11]]
    assert get(worker, group(cut, t.ident.s(1))) == [[3, 7], [11], 1]


# -- chords


def test_the_body_gets_the_values_in_header_order(t, worker):
    """B-CANV-050: whatever order they end in."""
    assert get(worker, chord([t.add.s(i, i) for i in range(5)], t.ident.s())) == [0, 2, 4, 6, 8]


def test_the_body_descends_from_the_last_header_task(t, worker):
    """B-CANV-031: parent and root are those of the last header task; group is the header's."""
    result = run(worker, chord([t.ident.s(1), t.ident.s(2)], t.whoami.s()))
    last = worker.seen[1].id
    got = result.get(timeout=0)
    assert (got["parent"], got["root"]) == (last, last)
    assert (got["group"], got["index"]) == (result.parent.id, None)


def test_an_empty_header_starts_the_body_at_once(t, worker):
    """B-CANV-051: with []."""
    assert get(worker, chord([], t.ident.s())) == []


def test_nested_groups_in_a_header_keep_their_order(t, worker):
    """B-CANV-051: flattened into the header list; upstream reverses each nested group."""
    i = t.ident.s
    header = [group(i(1), i(2), i(3)), i(4), group(i(5), i(6))]
    assert get(worker, chord(header, t.ident.s())) == [1, 2, 3, 4, 5, 6]


def test_a_group_as_body_gets_the_list_in_each_member(t, worker):
    """B-CANV-051: the result is a GroupResult."""
    result = run(worker, chord([t.ident.s(1), t.ident.s(2)], group(t.ident.s(), t.tsum.s())))
    assert isinstance(result, GroupResult)
    assert result.get(timeout=0) == [[1, 2], 3]


def test_a_chain_that_ends_in_a_group_is_one_element_of_a_header(t, worker):
    """B-CANV-054: its value is the list."""
    header = [t.add.s(1, 3), chain(t.add.s(4, 5), group(t.ident.s(), t.ident.s()))]
    assert get(worker, chord(header, t.ident.s())) == [4, [9, 9]]


def test_a_nested_group_before_a_task_is_flattened(t, worker):
    """B-CANV-054: chain(t, group(a, group(b, c)), u) gives u three values."""
    sig = chain(t.ident.s(1), group(t.add.s(1), group(t.add.s(2), t.add.s(3))), t.ident.s())
    assert get(worker, sig) == [2, 3, 4]


def test_chords_within_chords(t, worker):
    """B-CANV-051: the value of an inner chord is that of its body."""
    inner = chord([t.ident.s(1), t.ident.s(2)], t.tsum.s())
    assert get(worker, chord([inner, t.ident.s(5)], t.ident.s())) == [3, 5]
    assert get(worker, chord([t.ident.s(1)], chord([t.tsum.s(), t.tsum.s()], t.ident.s()))) == [
        1, 1,
    ]  # fmt: skip


def test_a_long_workflow(t, worker):
    sig = chain(
        t.ident.s(1),
        group(t.add.s(1), chain(t.add.s(2), t.add.s(3))),
        t.tsum.s(),
        group(t.add.s(0), t.add.s(1)),
        group(t.ident.s(), t.tsum.s()),
        t.ident.s(),
        t.ident.s(),
    )
    assert get(worker, sig) == [[8, 9], 17]


def test_a_failing_header_task_fails_the_body(t, worker):
    """B-CANV-051, B-CANV-055: the others run to their end, the body never; its state is FAILURE."""
    result = run(worker, chord([t.boom.s(), t.ident.s(1)], t.ident.s()))
    assert sorted(m.task for m in worker.seen) == ["p.boom", "p.ident"]
    fresh = AsyncResult(result.id, app=t.add.app)
    assert fresh.state == "FAILURE"
    assert isinstance(fresh.result, ChordError)
    assert result.parent.results[1].get(timeout=0) == 1


def test_what_get_raises_for_a_failed_header(t, worker):
    """B-CANV-052: the header task's error by way of the parents, else ChordError."""
    result = run(worker, chord([t.boom.s(), t.ident.s(1)], t.ident.s()))
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=0)
    with pytest.raises(ChordError):
        result.get(timeout=0, follow_parents=False)
    with pytest.raises(ChordError):
        AsyncResult(result.id, app=t.add.app).get(timeout=0)
    assert isinstance(result.get(timeout=0, propagate=False), ChordError)


def test_a_failing_body_fails_with_its_own_error(t, worker):
    """B-CANV-051: get raises it."""
    with pytest.raises(ValueError, match="boom"):
        get(worker, chord([t.ident.s(1)], t.boom.s()))


def test_errbacks_of_a_body_run_once(t, worker):
    """B-CANV-057: the direct style gets (Context of the body, ChordError, None)."""
    result = run(
        worker, chord([t.boom.s(), t.boom.s(), t.ident.s(1)], t.ident.s().on_error(t.direct.s()))
    )
    ((request, exc, traceback),) = t.calls
    assert request.id == result.id
    assert isinstance(exc, ChordError)
    assert traceback is None


def test_errbacks_with_one_argument_get_the_id_of_the_body(t, worker):
    """B-CANV-057: as a message of their own."""
    result = run(worker, chord([t.boom.s()], t.ident.s().on_error(t.by_id.s())))
    assert t.calls == [result.id]


@pytest.mark.parametrize(("on_header", "expected"), [(False, 1), (True, 3)])
def test_link_error_of_a_chord(t, app, worker, on_header, expected):
    """B-CANV-058, B-CANV-035: once for the body, and with the setting for each failing task."""
    app.conf.task_allow_error_cb_on_chord_header = on_header
    sig = chord([t.boom.s(), t.boom.s(), t.ident.s(1)], t.ident.s())
    sig.link_error(t.direct.s())
    run(worker, sig)
    assert len(t.calls) == expected


@pytest.mark.parametrize("on_header", [False, True])
def test_link_error_given_at_the_call_is_for_the_body(t, app, worker, on_header):
    """B-CANV-058, B-CANV-035: one call in either case."""
    app.conf.task_allow_error_cb_on_chord_header = on_header
    run(worker, chord([t.boom.s(), t.ident.s(1)], t.ident.s()), link_error=t.direct.s())
    assert len(t.calls) == 1


def test_errbacks_that_the_body_brought_are_not_for_the_header(t, app, worker):
    """B-CANV-058: put on the body with on_error before the chord was made."""
    app.conf.task_allow_error_cb_on_chord_header = True
    run(worker, chord([t.boom.s(), t.ident.s(1)], t.ident.s().on_error(t.direct.s())))
    assert len(t.calls) == 1


def test_a_group_as_body_fails_member_by_member(t, worker):
    """B-CANV-059: each member runs its own errbacks and those of the group, each once."""
    sig = chord([t.boom.s()], group(t.ident.s(), t.ident.s().on_error(t.by_id.s())))
    sig.link_error(t.direct.s())
    result = run(worker, sig)
    assert len([c for c in t.calls if isinstance(c, tuple)]) == 2
    assert [c for c in t.calls if isinstance(c, str)] == [result.results[1].id]
    assert [r.state for r in result] == ["FAILURE", "FAILURE"]


def test_a_failing_header_reaches_the_end_of_a_composed_body(t, worker):
    """B-CANV-051: a chain or chord as body fails as a whole."""
    for body in (chain(t.ident.s(), t.ident.s()), chord([t.ident.s()], t.ident.s())):
        result = run(worker, chord([t.boom.s(), t.ident.s(1)], body))
        assert AsyncResult(result.id, app=t.add.app).state == "FAILURE"


def test_a_failing_inner_chord_fails_the_outer_one(t, worker):
    """B-CANV-051: for a chord, and a chain, in the header."""
    for inner in (chord([t.boom.s()], t.ident.s()), chain(t.boom.s(), t.ident.s())):
        result = run(worker, chord([inner, t.ident.s(1)], t.ident.s()))
        assert isinstance(AsyncResult(result.id, app=t.add.app).result, ChordError)


def test_a_callback_of_a_chord_is_called_after_the_body(t, worker):
    """B-CANV-060, B-CANV-035: once, with the body's result; the given body is not changed."""
    body = t.tsum.s()
    sig = chord([t.ident.s(1), t.ident.s(2)], body)
    sig.link(t.note.s())
    run(worker, sig)
    assert t.calls == [((3,), {})]
    assert body.options == {}


def test_options_of_a_chord(t, app, worker):
    """B-CANV-036, B-CANV-064: queue-like ones for header and body, countdown for the header."""
    chord([t.ident.s(1)], t.tsum.s()).apply_async(shadow="both", countdown=60)
    header, body = worker.run()
    assert [header.headers["shadow"], body.headers["shadow"]] == ["both", "both"]
    assert header.headers["eta"] is not None
    assert body.headers["eta"] is None


def test_arguments_of_a_chord_go_to_the_header(t, worker):
    """B-CANV-067, B-CANV-037: in front of each member's, and keywords."""
    assert get(worker, chord([t.add.s(1), t.add.s(2)], t.ident.s()), (9,)) == [10, 11]
    assert get(worker, chord([t.add.s(1), t.add.s(2)], t.ident.s()), None, {"y": 5}) == [6, 7]


def test_a_chord_needs_a_body_at_the_call(t, worker):
    """B-CANV-065: AttributeError without one; chord(header)(body) gives it."""
    with pytest.raises(AttributeError, match="body"):
        chord([t.ident.s(1)]).apply_async()
    result = chord([t.ident.s(1)])(t.tsum.s())
    worker.run()
    assert result.get(timeout=0) == 1


def test_chords_need_a_result_store(t, app, worker):
    """B-CANV-066: nothing is sent without one."""
    from t.harness.inline import InlineWorker, memory_app

    bare = memory_app()
    bare.conf.result_backend = "disabled"

    @bare.task(name="p.bare", shared=False)
    def bare_task(x):
        return x

    other = InlineWorker(bare)
    with pytest.raises(NotImplementedError):
        chord([bare_task.s(1)], bare_task.s()).apply_async()
    assert other.sent() == []
    other.close()


def test_links_run_together_as_a_group(t, worker):
    """B-CALL-020, B-CANV-027: two callbacks are one GroupResult among the children."""
    sig = t.ident.s(1)
    sig.link(t.add.s(1))
    sig.link(t.add.s(2))
    result = run(worker, sig)
    (child,) = result.children
    assert isinstance(child, GroupResult)
    assert child.get(timeout=0) == [2, 3]


# -- replacing


def test_a_replacement_takes_over_id_and_chain(t, app, worker):
    """B-CANV-068: the caller's result is the replacement's value; the chain goes on with it."""

    @app.task(name="p.replacing", bind=True, shared=False)
    def replacing(self, x):
        return self.replace(t.add.s(x, 10))

    assert get(worker, replacing.s(1)) == 11
    assert get(worker, chain(replacing.s(1), t.add.s(100))) == 111
    assert get(worker, chord([replacing.s(1), t.ident.s(2)], t.ident.s())) == [11, 2]


def test_a_group_as_replacement_has_a_list_as_value(t, app, worker):
    """B-CANV-069: and is one element of a chord's header."""

    @app.task(name="p.fanning", bind=True, shared=False)
    def fanning(self, x):
        return self.replace(group(t.add.s(x, 1), t.add.s(x, 2)))

    assert get(worker, fanning.s(1)) == [2, 3]
    assert get(worker, chord([fanning.s(1), t.ident.s(2)], t.ident.s())) == [[2, 3], 2]


def test_a_chain_as_replacement_has_the_value_of_its_last_task(t, app, worker):
    """B-CANV-070: callbacks of the replaced task run once, after the replacement."""

    @app.task(name="p.lengthening", bind=True, shared=False)
    def lengthening(self, x):
        return self.replace(chain(t.add.s(x, 1), t.add.s(1)))

    result = lengthening.s(1).apply_async(link=t.note.s())
    worker.run()
    assert result.get(timeout=0) == 3
    assert t.calls == [((3,), {})]


IGNORED_PARTS = {
    "header": lambda t: [t.ignoring.s(), t.ident.s(1)],
    "start of a chain": lambda t: [chain(t.ignoring.s(), t.ident.s()), t.ident.s(1)],
    "end of a chain": lambda t: [chain(t.ident.s(1), t.ignoring.s()), t.ident.s(1)],
}


@pytest.mark.parametrize("position", IGNORED_PARTS)
def test_a_header_task_that_is_ignored_fails_the_chord(app, t, worker, position):
    """Differs from B-CANV-051, where the body stays PENDING for ever."""
    result = chord(IGNORED_PARTS[position](t), t.ident.s().on_error(t.direct.s())).apply_async()
    worker.run()
    fresh = AsyncResult(result.id, app=app)
    assert isinstance(fresh.result, ChordError)
    assert "not now" in str(fresh.result)
    assert [call[0].id for call in t.calls] == [result.id]


def test_what_an_ignored_header_task_has_stored_is_its_value(app, t, worker):
    """B-TASK-047: no state but the task's own."""

    @app.task(name="p.own_state", shared=False, bind=True)
    def own_state(self):
        self.update_state(state="SUCCESS", meta=7)
        raise Ignore

    result = chord([own_state.s(), t.ident.s(1)], t.ident.s()).apply_async()
    worker.run()
    assert result.get(timeout=0) == [7, 1]


def test_a_task_that_sends_itself_again_and_is_ignored_leaves_its_chord_to_that_call(
    app, t, worker
):
    @app.task(name="p.again", shared=False, bind=True)
    def again(self, late=False):
        if late:
            return 3
        request = self.request
        self.apply_async(
            (True,),
            task_id=request.id,
            chord=request.chord,
            group_id=request.group,
            group_index=request.group_index,
        )
        raise Ignore

    result = chord([again.s(), t.ident.s(1)], t.ident.s()).apply_async()
    worker.run()
    assert result.get(timeout=0) == [3, 1]


@pytest.mark.parametrize(
    "flow",
    [
        lambda t: chord([t.ident.s(1).set(expires=60)], t.ident.s()),
        lambda t: chain(t.ident.s(1).set(expires=60), t.ident.s()),
    ],
    ids=["chord", "chain"],
)
def test_no_broker_drops_what_others_wait_for(t, worker, flow):
    """A worker discards it when it has expired, and tells the others."""
    flow(t).apply_async()
    (sent,) = worker.sent()
    assert sent.headers["expires"] is not None
    assert "expiration" not in sent.properties
