from __future__ import annotations

import pickle
from datetime import datetime

import pytest

from celery import exceptions as exc

PICKLED = [
    exc.AlreadyRegistered("a"),
    exc.AlwaysEagerIgnored("a"),
    exc.BackendError("a"),
    exc.BackendGetMetaError("a", task_id="id"),
    exc.BackendStoreError("a", task_id="id", state="SUCCESS"),
    exc.CDeprecationWarning("a"),
    exc.CPendingDeprecationWarning("a"),
    exc.CeleryCommandException("a", exit_code=3),
    exc.CeleryError("a"),
    exc.CeleryWarning("a"),
    exc.ChordError("a"),
    exc.DuplicateNodenameWarning("a"),
    exc.DuplicateTaskNameWarning("a"),
    exc.FixupWarning("a"),
    exc.Ignore("a"),
    exc.ImproperlyConfigured("a"),
    exc.IncompleteStream("a"),
    exc.InvalidTaskError("a"),
    exc.MaxRetriesExceededError("a", task_args=(1,), task_kwargs={"x": 2}),
    exc.NotConfigured("a"),
    exc.NotRegistered("a"),
    exc.OperationalError("a"),
    exc.QueueNotFound("a"),
    exc.Reject("why", requeue=True),
    exc.Retry("msg", KeyError("x"), 10, is_eager=True),
    exc.SecurityError("a"),
    exc.SecurityWarning("a"),
    exc.SoftTimeLimitExceeded("a"),
    exc.TaskError("a"),
    exc.TaskPredicate("a"),
    exc.TaskRevokedError("a"),
    exc.Terminated("a"),
    exc.TimeLimitExceeded("a"),
    exc.TimeoutError("a"),
    exc.WorkerLostError("a"),
    exc.WorkerShutdown(1),
    exc.WorkerTerminate(1),
]


@pytest.mark.parametrize("error", PICKLED, ids=lambda error: type(error).__name__)
def test_an_error_survives_a_pickle_with_all_it_says(error):
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert repr(copy) == repr(error)
    assert {k: repr(v) for k, v in vars(copy).items()} == {
        k: repr(v) for k, v in vars(error).items()
    }


def test_every_exported_exception_is_among_those_pickled():
    classes = {
        name
        for name in exc.__all__
        if isinstance(getattr(exc, name), type) and issubclass(getattr(exc, name), BaseException)
    }

    assert classes == {type(error).__name__ for error in PICKLED}


@pytest.mark.parametrize(
    ("retry", "text"),
    [
        (exc.Retry(when=5), "Retry in 5s"),
        (exc.Retry(exc=ValueError("x"), when=5), "Retry in 5s: ValueError('x')"),
        (exc.Retry(when=datetime(2030, 1, 1)), "Retry at 2030-01-01 00:00:00"),
        (exc.Retry("only this", exc=ValueError("x"), when=5), "only this"),
        (exc.Retry(exc="text", when=2.5), "Retry in 2.5s: text"),
    ],
)
def test_a_retry_says_when_and_why(retry, text):
    """B-TASK-024: the forms of ``str(Retry)``."""
    assert str(retry) == text


def test_humanize_gives_only_the_time_of_a_retry():
    """B-TASK-024: humanize() gives the ``in …s`` / ``at …`` part."""
    assert exc.Retry("message", when=5).humanize() == "in 5s"
    assert exc.Retry(when=datetime(2030, 1, 1)).humanize() == "at 2030-01-01 00:00:00"


def test_a_retry_with_an_exception_that_cannot_be_pickled_keeps_its_text():
    class Local(Exception):
        pass

    copy = pickle.loads(pickle.dumps(exc.Retry(exc=Local("x"), when=1)))

    assert copy.exc is None
    assert str(copy) == "Retry in 1s: Local('x')"


def test_the_repr_of_a_bad_exception_does_not_break_a_retry():
    class Bad(Exception):
        def __repr__(self):
            raise RuntimeError("no repr")

    assert "Bad" in str(exc.Retry(exc=Bad(), when=1))


def test_a_rejection_reads_as_the_stored_result_shows_it():
    """B-TASK-048: the text is ``reject requeue=False: REASON``."""
    assert repr(exc.Reject("REASON")) == "reject requeue=False: REASON"
    assert str(exc.Reject("REASON", requeue=True)) == "reject requeue=True: REASON"


def test_reraise_uses_the_given_traceback():
    try:
        raise KeyError("first")
    except KeyError as error:
        tb = error.__traceback__

    with pytest.raises(ValueError, match="second") as caught:
        exc.reraise(ValueError, ValueError("second"), tb)
    assert caught.traceback[-1].frame.code.name == ("test_reraise_uses_the_given_traceback")


def test_an_unregistered_task_is_named():
    assert "'proj.add'" in repr(exc.NotRegistered("proj.add"))


def test_names_of_version_three_are_the_same_classes():
    assert exc.RetryTaskError is exc.Retry
    assert exc.SystemTerminate is exc.WorkerTerminate


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        exc.nonsense  # type: ignore[attr-defined]
