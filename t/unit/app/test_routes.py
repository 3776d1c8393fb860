from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from kombu import Exchange, Queue

from celery.app import routes
from celery.exceptions import QueueNotFound


class Known(dict):
    """Queues that are created when asked for, unless *closed*."""

    closed = False

    def __missing__(self, name):
        if self.closed:
            raise KeyError(name)
        self[name] = Queue(name, Exchange(name), routing_key=name)
        return self[name]


def router(task_routes=None, closed=False):
    queues = Known(celery=Queue("celery", Exchange("celery"), routing_key="celery"))
    queues.closed = closed
    app = SimpleNamespace(conf=SimpleNamespace(task_default_queue="celery"))
    return routes.Router(routes.prepare(task_routes), queues, app=app)


def by_function(name, args, kwargs, options, task=None, **kw):
    by_function.calls.append((name, args, kwargs, dict(options), task, kw))
    return {"queue": "fn"} if name == "fn.task" else None


by_function.calls = []


class OldRouter:
    def route_for_task(self, task, args=None, kwargs=None):
        return "old"


def test_without_routes_a_task_goes_to_the_default_queue():
    found = router().route({}, "t")

    assert found["queue"].name == "celery"


def test_the_queue_of_a_call_beats_the_route():
    """B-ROUT-001: options of the call come before task_routes."""
    found = router({"t": {"queue": "routed", "priority": 3}}).route({"queue": "mine"}, "t")

    assert found["queue"].name == "mine"
    assert found["priority"] == 3


def test_the_routing_key_of_a_call_replaces_that_of_the_route_whose_queue_stays():
    """B-ROUT-001: a router only fills in what is missing."""
    found = router({"t": {"queue": "q", "routing_key": "a"}}).route({"routing_key": "b"}, "t")

    assert found["queue"].name == "q"
    assert found["routing_key"] == "b"


def test_an_option_of_none_counts_as_missing():
    found = router({"t": {"queue": "q", "routing_key": "a"}}).route(
        {"queue": None, "routing_key": None}, "t"
    )

    assert found["queue"].name == "q"
    assert found["routing_key"] == "a"


@pytest.mark.parametrize("route", ["q", {"queue": "q"}])
def test_a_route_is_a_queue_name_or_publish_options(route):
    """B-ROUT-002: a string means {'queue': string}."""
    assert router({"t": route}).route({}, "t")["queue"].name == "q"


def test_a_route_may_hold_any_publish_option():
    """B-ROUT-002: any publish option may stand in a route."""
    found = router({"t": {"queue": "q", "priority": 7, "compression": "zlib"}}).route({}, "t")

    assert (found["priority"], found["compression"]) == (7, "zlib")


@pytest.mark.parametrize(
    "task_routes",
    [
        by_function,
        f"{__name__}.by_function",
        [{"other": "x"}, by_function],
        ({"other": "x"}, f"{__name__}:by_function", {"fn.task": "later"}),
    ],
)
def test_routers_come_as_mapping_function_path_or_a_list_of_these(task_routes):
    """B-ROUT-003: the first router that gives something wins."""
    assert router(task_routes).route({}, "fn.task")["queue"].name == "fn"


@pytest.mark.parametrize("nothing", [None, {}, ""])
def test_an_empty_answer_passes_on_to_the_next_router(nothing):
    """B-ROUT-003: None and {} mean "next"."""
    found = router([lambda *args, **kw: nothing, {"t": "second"}]).route({}, "t")

    assert found["queue"].name == "second"


def test_an_exact_name_beats_patterns_listed_before_it():
    """B-ROUT-004: exact names win, even if listed later."""
    assert router({"p.*": "glob", "p.add": "exact"}).route({}, "p.add")["queue"].name == "exact"


def test_the_first_matching_pattern_wins():
    """B-ROUT-004: patterns are tried in order."""
    found = router([[("p.a*", "first"), ("p.*", "second")]])

    assert found.route({}, "p.add")["queue"].name == "first"
    assert found.route({}, "p.mul")["queue"].name == "second"


@pytest.mark.parametrize(
    ("pattern", "name", "hit"),
    [
        ("feed.?", "feed.a", True),
        ("feed.?", "feed.ab", False),
        ("feed.[ab]", "feed.b", True),
        ("feed.[!ab]", "feed.b", False),
        (re.compile("add"), "p.add", False),
        (re.compile("add"), "add.p", True),
        (re.compile(r".*\.add$"), "p.add", True),
    ],
)
def test_patterns_are_globs_or_expressions_anchored_at_the_start(pattern, name, hit):
    """B-ROUT-004: fnmatch rules; compiled expressions match from the start."""
    found = router({pattern: "hit"}).route({}, name)

    assert found["queue"].name == ("hit" if hit else "celery")


def test_a_list_of_pairs_is_one_element_of_the_list_of_routers():
    """B-ROUT-005: the list of pairs itself must be an element."""
    assert router(([("p.*", "q1")],)).route({}, "p.x")["queue"].name == "q1"


def test_a_bare_list_of_pairs_is_refused():
    """B-ROUT-005: given bare it fails with ValueError."""
    with pytest.raises(ValueError, match="inside the list of routers"):
        routes.prepare([("p.*", "q1")])


def test_a_router_function_gets_name_arguments_options_and_task():
    """B-ROUT-006: called as f(name, args, kwargs, options, task=...)."""
    by_function.calls.clear()
    task = object()

    router(by_function).route({"priority": 1}, "x", (1,), {"k": 2}, task)

    assert by_function.calls == [("x", (1,), {"k": 2}, {"priority": 1}, task, {})]


def test_an_object_with_route_for_task_is_a_router_too():
    assert router(OldRouter()).route({}, "t")["queue"].name == "old"
    assert router(f"{__name__}.OldRouter").route({}, "t")["queue"].name == "old"


def test_a_route_with_an_exchange_and_no_queue_looks_no_queue_up():
    """B-ROUT-007: published there without a queue."""
    found = router({"t": {"exchange": "x", "routing_key": "rk"}}, closed=True).route({}, "t")

    assert found == {"exchange": "x", "routing_key": "rk"}


def test_a_call_with_an_exchange_gets_no_default_queue():
    found = router().route({"exchange": "x", "routing_key": "rk"}, "t")

    assert found == {"exchange": "x", "routing_key": "rk"}


def test_a_queue_name_expands_to_the_queue_with_its_exchange():
    """B-ROUT-008: the queue brings exchange and routing key, the route may give its own."""
    found = router({"t": {"queue": "q", "routing_key": "own"}}).route({}, "t")

    assert found["queue"].exchange.name == "q"
    assert found["routing_key"] == "own"


def test_a_queue_object_is_used_as_it_is():
    """B-ROUT-009: the queue option may be a kombu.Queue."""
    queue = Queue("mine", Exchange("e"), routing_key="k")

    assert router().route({"queue": queue}, "t")["queue"] is queue


def test_an_unknown_queue_that_may_not_be_created_is_an_error():
    """B-ROUT-016: QueueNotFound names the queue."""
    with pytest.raises(QueueNotFound, match="Queue 'zz' missing from task_queues"):
        router(closed=True).route({"queue": "zz"}, "t")


def test_routing_leaves_the_options_of_the_call_and_the_route_alone():
    task_routes = {"t": {"queue": "q"}}
    options = {"priority": 1}

    router(task_routes).route(options, "t")

    assert options == {"priority": 1}
    assert task_routes == {"t": {"queue": "q"}}
