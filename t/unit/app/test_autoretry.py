from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery.app.autoretry import add_autoretry_behaviour
from celery.exceptions import Ignore, Reject, Retry


class Lost(ConnectionError):
    pass


class FakeTask:
    """A bound task whose ``retry`` behaves like the real one."""

    max_retries = 3

    def __init__(self, error=None, retries=0, **attributes):
        self.error = error
        self.request = SimpleNamespace(retries=retries)
        self.retried_with = []
        for name, value in attributes.items():
            setattr(self, name, value)

    def run(self, *args, **kwargs):
        if self.error is not None:
            raise self.error
        return args, kwargs

    def retry(self, exc=None, **options):
        self.retried_with.append(options)
        if self.request.retries >= options.get("max_retries", self.max_retries):
            raise exc
        raise Retry("again", exc)


def attempt(error, retries=0, **options):
    """Run a task that fails with *error* and give the options of its retry."""
    task = FakeTask(error, retries)
    add_autoretry_behaviour(task, **options)
    with pytest.raises(Retry) as caught:
        task.run()
    assert caught.value.exc is error
    return task.retried_with[-1]


def test_a_task_without_autoretry_is_left_alone():
    task = FakeTask()
    body = task.run

    add_autoretry_behaviour(task)

    assert task.run == body


def test_success_passes_arguments_and_value_through():
    task = FakeTask()
    add_autoretry_behaviour(task, autoretry_for=(Exception,))

    assert task.run(1, k=2) == ((1,), {"k": 2})
    assert task.retried_with == []


def test_a_listed_error_becomes_a_retry_with_that_error():
    """B-TASK-029: an exception of these classes is turned into retry(exc=that, **retry_kwargs)."""
    options = attempt(Lost("x"), autoretry_for=(OSError,), retry_kwargs={"countdown": 7})

    assert options == {"countdown": 7}


def test_another_error_is_raised_as_it_is():
    task = FakeTask(ValueError("x"))
    add_autoretry_behaviour(task, autoretry_for=(OSError,))

    with pytest.raises(ValueError, match="x"):
        task.run()
    assert task.retried_with == []


def test_subclasses_may_be_excluded():
    """B-TASK-029: dont_autoretry_for excludes subclasses."""
    task = FakeTask(Lost("x"))
    add_autoretry_behaviour(task, autoretry_for=(OSError,), dont_autoretry_for=(Lost,))

    with pytest.raises(Lost):
        task.run()
    assert task.retried_with == []


@pytest.mark.parametrize("error", [Ignore(), Retry(), SystemExit(3)])
def test_ignore_retry_and_exit_pass_untouched(error):
    """B-TASK-029: Ignore and Retry pass through, and SystemExit unless listed."""
    task = FakeTask(error)
    add_autoretry_behaviour(task, autoretry_for=(BaseException,))

    with pytest.raises(type(error)) as caught:
        task.run()
    assert caught.value is error
    assert task.retried_with == []


def test_exit_is_retried_when_it_is_listed():
    """B-TASK-029: SystemExit is retried if listed."""
    assert attempt(SystemExit(1), autoretry_for=(SystemExit,)) == {}


def test_reject_is_retried_like_any_exception():
    """B-TASK-029: Reject is an Exception and is retried under autoretry_for=(Exception,)."""
    assert attempt(Reject("no"), autoretry_for=(Exception,)) == {}


def test_without_backoff_the_task_decides_about_the_delay():
    """B-TASK-030: no countdown is given, so the default_retry_delay of the task applies."""
    assert "countdown" not in attempt(Lost(), autoretry_for=(Lost,), retry_backoff=False)


@pytest.mark.parametrize(
    ("backoff", "longest", "delays"),
    [
        (True, 600, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]),
        (0.5, 600, [1, 2, 4]),
        (2.5, 600, [2, 4, 8]),
        ("2", 600, [2, 4, 8]),
        (3, 600, [3, 6, 12]),
        (10, 50, [10, 20, 40, 50, 50]),
    ],
)
def test_backoff_doubles_up_to_its_maximum(backoff, longest, delays):
    """B-TASK-031: min(retry_backoff_max, factor * 2**retries)."""
    found = [
        attempt(
            Lost(),
            retries,
            autoretry_for=(Lost,),
            retry_backoff=backoff,
            retry_backoff_max=longest,
            retry_jitter=False,
            retry_kwargs={"max_retries": 99},
        )["countdown"]
        for retries in range(len(delays))
    ]

    assert found == delays


def test_jitter_spreads_the_delay_from_zero_to_the_backoff():
    """B-TASK-032: by default a random integer from 0 to the computed value inclusive."""
    found = {
        attempt(Lost(), 2, autoretry_for=(Lost,), retry_backoff=True)["countdown"]
        for _ in range(300)
    }

    assert found == {0, 1, 2, 3, 4}


def test_backoff_wins_over_the_countdown_of_retry_kwargs():
    """B-TASK-033: retry_backoff wins over retry_kwargs['countdown']."""
    options = attempt(
        Lost(),
        autoretry_for=(Lost,),
        retry_backoff=4,
        retry_jitter=False,
        retry_kwargs={"countdown": 99},
    )

    assert options["countdown"] == 4


def test_max_retries_of_retry_kwargs_reach_the_retry():
    """B-TASK-033: retry_kwargs['max_retries'] overrides max_retries of the task."""
    options = attempt(Lost(), 4, autoretry_for=(Lost,), retry_kwargs={"max_retries": 5})

    assert options["max_retries"] == 5


def test_the_original_error_ends_the_last_retry():
    """B-TASK-034: after the last retry the original exception is the result."""
    error = ValueError("kept")
    task = FakeTask(error, retries=3)
    add_autoretry_behaviour(task, autoretry_for=(ValueError,))

    with pytest.raises(ValueError, match="kept") as caught:
        task.run()
    assert caught.value is error


def test_retry_kwargs_are_not_changed():
    """B-TASK-035: retry_kwargs is not mutated between attempts."""
    retry_kwargs = {"max_retries": 5}

    attempt(Lost(), autoretry_for=(Lost,), retry_backoff=True, retry_kwargs=retry_kwargs)

    assert retry_kwargs == {"max_retries": 5}


def test_the_options_also_work_as_class_attributes():
    """B-TASK-035: all these options also work as class attributes."""

    class Configured(FakeTask):
        autoretry_for = (Lost,)
        retry_backoff = 5
        retry_jitter = False

    task = Configured(Lost())
    add_autoretry_behaviour(task)

    with pytest.raises(Retry):
        task.run()
    assert task.retried_with == [{"countdown": 5}]


def test_a_task_is_wrapped_once():
    task = FakeTask(Lost())
    add_autoretry_behaviour(task, autoretry_for=(Lost,))
    wrapped = task.run

    add_autoretry_behaviour(task, autoretry_for=(Lost,))

    assert task.run is wrapped
