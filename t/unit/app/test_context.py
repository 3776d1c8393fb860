"""The request context."""

from __future__ import annotations

import pickle

import pytest

from celery._protocol.rest import Rest
from celery.app._context import LongChainContext
from celery.app.task import Context


def test_unset_fields_read_as_their_defaults():
    """B-APP-061."""
    context = Context()

    assert (context.id, context.retries, context.called_directly) == (None, 0, True)
    assert context.timelimit is context.time_limit is context.soft_time_limit is None
    with pytest.raises(AttributeError):
        context.no_such_field


def test_fields_come_from_a_mapping_and_from_keywords():
    context = Context({"id": "i", "tenant": "a"}, id="j")

    assert (context.id, context.tenant) == ("j", "a")
    assert context.get("tenant") == "a"
    assert context.get("no_such_field", 5) == 5
    context.update(id="k")
    assert context.id == "k"
    context.clear()
    assert context.id is None


def test_both_limits_are_read_from_their_pair():
    """B-TASK-009: the hard one first."""
    context = Context({"timelimit": [9, 3]})

    assert (context.time_limit, context.soft_time_limit) == (9, 3)
    options = context.as_execution_options()
    assert (options["time_limit"], options["soft_time_limit"]) == (9, 3)


def test_children_are_collected_per_context():
    """B-TASK-016."""
    one, two = Context(), Context()
    one.children.append(1)

    assert (one.children, two.children) == ([1], [])


def test_the_options_of_the_same_call():
    """B-TASK-028: names are those of `apply_async`."""
    context = Context(id="i", group="g", callbacks=[1], errbacks=[2], retries=4, shadow="s")
    options = context.as_execution_options()

    assert options["task_id"] == "i"
    assert options["group_id"] == "g"
    assert (options["link"], options["link_error"]) == ([1], [2])
    assert (options["retries"], options["shadow"]) == (4, "s")


def test_a_context_is_made_of_what_there_is():
    context = Context(id="i")

    assert Context.of(None, context, hostname="h") is context
    assert context.hostname == "h"
    assert Context.of(None, {"id": "j"}).id == "j"
    assert Context.of(None, None).id is None


def test_a_context_pickles():
    context = pickle.loads(pickle.dumps(Context(id="i", args=[1])))

    assert isinstance(context, Context)
    assert (context.id, context.args) == ("i", [1])
    assert Context.__module__ == "celery.app.task"
    assert "'id': 'i'" in repr(context)


def test_an_undecoded_chain_reads_as_a_list():
    """B-CANV-029: `request.chain` is the reversed rest, which tasks may change."""
    context = LongChainContext({"chain": Rest('{"task": "a"}, {"task": "b"}')})
    assert context.get("chain") is context.chain
    assert context.chain == [{"task": "a"}, {"task": "b"}]
    context.chain.pop()
    assert vars(context)["chain"] == context.chain == [{"task": "a"}]
    context.chain = None
    assert context.chain is None
    assert repr(context).startswith("<Context: ")
