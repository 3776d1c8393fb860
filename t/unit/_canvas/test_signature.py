"""Signatures of single tasks."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from celery.canvas import Signature, chain, group, maybe_signature, signature, task_name_from
from celery.exceptions import NotRegistered
from celery.utils.abstract import CallableSignature

PLAIN = {
    "task": "p.add",
    "args": (1, 2),
    "kwargs": {"k": 3},
    "options": {"queue": "q"},
    "subtask_type": None,
    "immutable": False,
}


def test_a_signature_is_a_dict_of_six_keys(t):
    """B-CANV-001: exactly these keys, equal to a plain dict of the same content."""
    sig = Signature("p.add", (1, 2), {"k": 3}, {"queue": "q"})
    assert isinstance(sig, dict)
    assert sig == PLAIN
    assert t.add.s(1, 2, k=3).set(queue="q") == PLAIN


def test_plain_data_becomes_the_right_kind(t):
    """B-CANV-002: signature(dict) and from_dict rebuild the class that the data names."""
    for sig in (
        t.add.s(1),
        t.add.s(1) | t.add.s(2),
        group(t.add.s(1), t.add.s(2)),
        group(t.add.s(1), t.add.s(2)) | t.tsum.s(),
    ):
        plain = json.loads(json.dumps(sig))
        for rebuilt in (signature(plain), Signature.from_dict(plain)):
            assert type(rebuilt) is type(sig)
            assert rebuilt["subtask_type"] == sig["subtask_type"]
            assert repr(rebuilt) == repr(sig)


def test_the_repr_shows_the_call(t):
    """B-CANV-004: p.add(1, 2, k=3)."""
    assert repr(t.add.s(1, 2, k=3)) == "p.add(1, 2, k=3)"


def test_call_arguments_come_first_and_options_win(t, worker):
    """B-CANV-005: args are prepended, kwargs and options merged with the new ones winning."""
    sig = t.note.signature((2,), {"a": 1, "b": 1}, shadow="old")
    sig.apply_async((1,), {"b": 2}, shadow="new")
    (sent,) = worker.sent()
    assert sent.body[:2] == [[1, 2], {"a": 1, "b": 2}]
    assert sent.headers["shadow"] == "new"


def test_an_immutable_signature_takes_options_only(t, worker):
    """B-CANV-005: args and kwargs are dropped without a word."""
    t.note.si(5).apply_async((1,), {"b": 2}, shadow="new")
    (sent,) = worker.sent()
    assert sent.body[:2] == [[5], {}]
    assert sent.headers["shadow"] == "new"


def test_a_clone_is_independent_of_its_original(t):
    """B-CANV-006: clone merges into a copy."""
    original = t.add.s(2, k=1).set(link=[t.note.s()])
    clone = original.clone((1,), {"k": 2}, queue="q")
    assert (clone.args, clone.kwargs, clone.options["queue"]) == ((1, 2), {"k": 2}, "q")
    clone.link(t.ident.s())
    clone.kwargs["z"] = 1
    assert (original.args, original.kwargs) == ((2,), {"k": 1})
    assert original.options == {"link": [t.note.s()]}


def test_replace_puts_something_else_in_place(t):
    """B-CANV-006: replace replaces wholly, and only what is given."""
    sig = t.add.s(1, k=1).set(queue="q")
    replaced = sig.replace(args=(9,), options={"priority": 3})
    assert (replaced.args, replaced.kwargs, replaced.options) == ((9,), {"k": 1}, {"priority": 3})
    assert sig.options == {"queue": "q"}


def test_set_changes_options_in_place(t):
    """B-CANV-007: and returns the signature."""
    sig = t.add.s(1)
    assert sig.set(immutable=True, queue="q") is sig
    assert sig.immutable
    assert sig.options == {"queue": "q"}


def test_links_are_kept_once(t):
    """B-CANV-008: equal callbacks are not added twice; link returns what was linked."""
    sig, callback = t.add.s(1), t.note.s()
    assert sig.link(callback) is callback
    sig.link(t.note.s())
    assert sig.link_error(callback) is callback
    assert sig.on_error(t.note.s()) is sig
    assert sig.options == {"link": [callback], "link_error": [callback]}


def test_a_pipe_leaves_the_links_of_its_operands(t):
    """B-CANV-008: a | b is unaffected by links."""
    a = t.add.s(1)
    a.link(t.note.s())
    assert (a | t.add.s(2)).tasks[0].options == {"link": [t.note.s()]}


def test_flatten_links_lists_all_callbacks(t):
    """B-CANV-009: the signature and its links, recursively, also from plain data."""
    a, b, c = t.add.s(1), t.add.s(2), t.add.s(3)
    b.link(dict(c))
    a.link(b)
    assert a.flatten_links() == [a, b, c]


def test_inverting_sends_and_waits(t, app):
    """B-CANV-010: ~sig is sig.apply_async().get()."""
    app.conf.task_always_eager = True
    assert ~t.add.s(1, 2) == 3


def test_calling_a_task_signature_runs_it_here(t, worker):
    """B-CANV-010: no message is sent."""
    assert t.add.s(2)(1) == 3
    assert worker.sent() == []


def test_signature_of_a_signature_is_a_copy(t):
    """B-CANV-011: equal, not the same."""
    sig = t.add.s(1)
    assert signature(sig) == sig
    assert signature(sig) is not sig


def test_maybe_signature_keeps_copies_or_builds(t, app):
    sig = t.add.s(1)
    assert maybe_signature(None) is None
    assert maybe_signature(sig) is sig
    assert maybe_signature(sig, clone=True) is not sig
    assert maybe_signature(dict(sig), app=app).app is app


def test_an_unknown_task_can_be_sent_but_not_looked_at(app, worker):
    """B-CANV-012: type raises NotRegistered, sending works."""
    sig = Signature("nowhere.at_all", (1,), app=app)
    with pytest.raises(NotRegistered):
        sig.type
    result = sig.apply_async()
    (sent,) = worker.sent()
    assert (sent.task, sent.id) == ("nowhere.at_all", result.id)


def test_old_names_mean_the_same(t):
    """B-CANV-013: subtask is signature."""
    from celery import canvas

    assert canvas.subtask is canvas.signature
    assert canvas.maybe_subtask is canvas.maybe_signature
    assert t.add.subtask((1,)) == t.add.signature((1,))


def test_reprcall_shows_arguments_in_front(t):
    """B-CANV-014: reprcall(*args) prepends."""
    assert t.add.s(2).reprcall(1) == "p.add(1, 2)"


def test_a_signature_knows_how_it_is_pickled_and_copied(t):
    for sig in (t.add.s(1), t.add.s(1) | t.add.s(2), group(t.add.s(i) for i in range(3))):
        for other in (pickle.loads(pickle.dumps(sig)), copy.deepcopy(sig), copy.copy(sig)):
            assert other == sig
            assert other is not sig
        assert type(pickle.loads(pickle.dumps(sig))) is type(sig)


def test_a_deep_copy_shares_nothing(t):
    sig = t.add.s([1]) | t.add.s(2)
    other = copy.deepcopy(sig)
    other.tasks[0].args[0].append(2)
    assert sig.tasks[0].args == ([1],)


def test_signatures_belong_to_the_abstract_class(t):
    assert isinstance(t.add.s(), CallableSignature)
    assert isinstance(chain(t.add.s(), t.add.s()), CallableSignature)


def test_task_names_come_from_tasks_and_text(t):
    assert task_name_from(t.add) == "p.add"
    assert task_name_from("p.add") == "p.add"


def test_option_dicts_are_replaced_not_merged(t):
    """B-CANV-040: nested dicts such as headers are taken over whole."""
    sig = t.add.s().set(headers={"a": 1})
    assert sig.clone(headers={"b": 2}).options["headers"] == {"b": 2}


def test_freezing_gives_ids_once(t, app):
    """B-CANV-024: the id is kept on a second freeze, other ids are taken over; nothing is sent."""
    sig = t.add.s(1, 2)
    result = sig.freeze("id-1", group_id="g", root_id="r", parent_id="p", group_index=3)
    assert result.id == sig.id == "id-1"
    assert sig.options == {
        "task_id": "id-1",
        "reply_to": app.thread_oid,
        "group_id": "g",
        "root_id": "r",
        "parent_id": "p",
        "group_index": 3,
    }
    assert sig.freeze("id-2").id == "id-1"


def test_freezing_notes_the_chord(t):
    """B-CANV-024: chord is an option like the ids."""
    sig = t.add.s(1, 2)
    sig.freeze(chord=t.tsum.s())
    assert sig.options["chord"] == t.tsum.s()


def test_an_unfrozen_signature_gets_a_new_id_each_time(t, worker):
    """B-CANV-039: a frozen one keeps its id."""
    sig = t.add.s(1, 2)
    assert sig.apply_async().id != sig.apply_async().id
    sig.freeze()
    assert sig.apply_async().id == sig.apply_async().id == sig.id


def test_route_name_is_routed_instead_of_the_name(t, app, worker):
    """B-CALL-036: apply_async(route_name=…) routes by that name."""
    app.conf.task_routes = {"elsewhere": {"priority": 7}}
    t.add.s(1, 2).apply_async(route_name="elsewhere")
    (sent,) = worker.sent()
    assert sent.task == "p.add"
    assert sent.properties["priority"] == 7
