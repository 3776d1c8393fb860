"""The registers of a worker, and the file that keeps some of them."""

from __future__ import annotations

import pytest

from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.utils.collections import LimitedSet
from celery.worker import state


@pytest.mark.parametrize(("wanted", "code"), [(True, 0), (0, 0), (1, 1), (3, 3)])
def test_a_warm_stop_is_raised_with_its_exit_code(wanted, code):
    """B-EXT-018."""
    state.should_stop = wanted
    with pytest.raises(WorkerShutdown) as stopped:
        state.maybe_shutdown()
    assert stopped.value.code == code


@pytest.mark.parametrize(("wanted", "code"), [(True, 0), (0, 0), (1, 1)])
def test_a_cold_stop_comes_before_a_warm_one(wanted, code):
    """B-EXT-018."""
    state.should_stop, state.should_terminate = True, wanted
    with pytest.raises(WorkerTerminate) as stopped:
        state.maybe_shutdown()
    assert stopped.value.code == code


@pytest.mark.parametrize("wanted", [None, False])
def test_nothing_is_raised_unless_asked_for(wanted):
    state.should_stop = state.should_terminate = wanted
    state.maybe_shutdown()


def test_a_request_moves_through_the_registers(make_request):
    request = make_request()

    state.task_scheduled(request)
    assert request in state.scheduled_requests
    state.task_reserved(request)
    assert request not in state.scheduled_requests
    assert request in state.reserved_requests
    state.task_accepted(request)
    assert request in state.active_requests
    assert state.total_count == {"add": 1}
    assert state.all_total_count == [1]
    assert state.requests == {request.id: request}
    state.task_ready(request, successful=True)

    assert not state.requests
    assert request not in state.active_requests
    assert request not in state.reserved_requests
    assert request.id in state.successful_requests


def test_a_running_request_is_not_scheduled_again(make_request):
    request = make_request()
    state.task_reserved(request)
    state.task_scheduled(request)

    assert request not in state.scheduled_requests


def test_a_second_delivery_is_not_forgotten_with_the_first(make_request):
    """B-WORK-021: the register of ids knows the later one."""
    first, second = make_request(id="same"), make_request(id="same")
    state.task_reserved(first)
    state.task_reserved(second)

    state.task_ready(first)

    assert state.requests == {"same": second}


def test_limits_of_the_registers():
    """B-WORK-048."""
    assert (state.revoked.maxlen, state.revoked.expires) == (50000, 10800.0)
    assert (state.successful_requests.maxlen, state.successful_requests.expires) == (1000, 10800.0)


class Clock:
    value = 5

    def adjust(self, other):
        self.value = max(self.value, other) + 1
        return self.value

    def forward(self):
        self.value += 1
        return self.value


class Registers:
    def __init__(self):
        self.revoked = LimitedSet()


def test_revoked_ids_come_back_from_the_file(tmp_path):
    """B-WORK-049."""
    before = Registers()
    before.revoked.add("a")
    before.revoked.add("b")
    clock = Clock()
    state.Persistent(before, str(tmp_path / "db"), clock).save()

    after, later = Registers(), Clock()
    kept = state.Persistent(after, str(tmp_path / "db"), later)

    assert {"a", "b"} == set(after.revoked)
    assert later.value > 5
    kept.close()


def test_ids_from_elsewhere_count_from_now():
    """B-WORK-049: times of another clock are not looked at."""
    state.merge_revoked({"x": 17.0, "y": 99.0})
    state.merge_revoked(["z"])

    assert {"x", "y", "z"} == set(state.revoked)
    assert state.revoked.as_dict()["x"] != 17.0
