"""The port of result back-ends: what a state means for chords, chains and errbacks."""

from __future__ import annotations

import warnings

import pytest

from celery import states
from celery.app.task import Context
from celery.backends.base import (
    E_CHORD_NO_BACKEND,
    E_NO_BACKEND,
    BaseBackend,
    DisabledBackend,
    KeyValueStoreBackend,
    compress_payload,
    decompress_payload,
)
from celery.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    ChordError,
    ImproperlyConfigured,
)


class Recorder(KeyValueStoreBackend):
    """Keeps values in a dictionary and notes finished parts of chords."""

    def __init__(self, *args, **kwargs):
        self.values = {}
        self.parts = []
        super().__init__(*args, **kwargs)

    def get(self, key):
        return self.values.get(key)

    def set(self, key, value):
        self.values[key] = value

    def mget(self, keys):
        return [self.values.get(key) for key in keys]

    def delete(self, key):
        self.values.pop(key, None)

    def on_chord_part_return(self, request, state, result, **kwargs):
        self.parts.append((request.id, state, result))


class Flaky(Recorder):
    """Fails as often as it is told."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.failures = 0
        self.reconnected = 0

    def _fail(self):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")

    def get(self, key):
        self._fail()
        return super().get(key)

    def exception_safe_to_retry(self, exc):
        return isinstance(exc, ConnectionError)

    def on_backend_retryable_error(self, exc):
        self.reconnected += 1


@pytest.fixture
def recorder(app):
    return Recorder(app)


@pytest.fixture
def flaky(app, monkeypatch):
    app.conf.update(result_backend_always_retry=True, result_backend_max_retries=3)
    monkeypatch.setattr("celery.backends._backend.time.sleep", lambda seconds: None)
    return Flaky(app)


# -- Chords and chains


def test_a_success_counts_for_the_chord(recorder):
    request = Context(id="a", group="g", chord={"task": "body"})
    recorder.mark_as_done("a", 4, request=request)

    assert recorder.parts == [("a", states.SUCCESS, 4)]


def test_a_part_whose_result_is_read_back_is_stored_even_if_ignored(recorder):
    request = Context(id="a", group="g", chord={"task": "body"})
    recorder.mark_as_done("a", 4, request=request, store_result=False)

    assert recorder.get_result("a") == 4


def test_an_ignored_result_is_not_stored(recorder):
    """B-RES-047: neither a success nor a failure."""
    recorder.mark_as_done("a", 4, request=Context(id="a"), store_result=False)
    recorder.mark_as_failure("b", ValueError(), request=Context(id="b"), store_result=False)
    recorder.mark_as_retry("c", ValueError(), request=Context(id="c"), store_result=False)

    assert recorder.values == {}


def test_a_failure_counts_for_the_chord(recorder):
    error = ValueError("boom")
    recorder.mark_as_failure("a", error, request=Context(id="a", group="g", chord={"task": "b"}))

    assert recorder.parts == [("a", states.FAILURE, error)]


def test_a_revoked_task_counts_for_the_chord(recorder):
    """B-CANV-051: a revoked header task fails the body."""
    recorder.mark_as_revoked("a", "revoked", Context(id="a", group="g", chord={"task": "b"}))

    [(task_id, state, error)] = recorder.parts
    assert (task_id, state, str(error)) == ("a", states.REVOKED, "revoked")


def chain_link(task_id, **options):
    return {"task": "t", "args": [], "kwargs": {}, "options": {"task_id": task_id, **options}}


def test_the_rest_of_a_chain_fails_with_the_same_error(recorder):
    """B-CANV-047: the later results are FAILURE with the error of the one that failed."""
    rest = [chain_link("last"), chain_link("next")]
    recorder.mark_as_failure("a", ValueError("boom"), "tb", request=Context(id="a", chain=rest))

    for name in ("a", "next", "last"):
        document = recorder.get_task_meta(name)
        assert document["status"] == states.FAILURE
        assert repr(document["result"]) == "ValueError('boom')"
    assert recorder.get_task_meta("next")["parent_id"] == "a"
    assert recorder.get_task_meta("last")["parent_id"] == "next"


def test_a_chain_inside_of_a_header_fails_the_chord_at_its_first_task(recorder):
    """B-CANV-051: the last task of the chain carries the chord."""
    error = ValueError("boom")
    rest = [chain_link("last", group_id="g", group_index=3, chord={"task": "body"})]
    recorder.mark_as_failure("a", error, request=Context(id="a", chain=rest))

    assert recorder.parts == [("last", states.FAILURE, error)]


def test_a_chain_whose_results_are_ignored_stores_nothing_for_its_rest(recorder):
    request = Context(id="a", chain=[chain_link("next")])
    recorder.mark_as_failure("a", ValueError(), request=request, store_result=False)

    assert recorder.values == {}


# -- Errbacks


@pytest.fixture
def called(app):
    calls = []

    @app.task(name="err.direct", shared=False)
    def direct(request, exc, traceback):
        calls.append((request.id, exc, traceback))

    @app.task(name="err.bound", bind=True, shared=False)
    def bound(self, task_id, more=None):
        calls.append("never")

    @app.task(name="err.by_id", shared=False)
    def by_id(task_id, *, more=None):
        calls.append("never")

    @app.task(name="err.broken", shared=False)
    def broken(request, exc, traceback):
        raise RuntimeError("in the errback")

    app.finalize()
    return calls


def published(app):
    """Return task, arguments, parent and root of all messages in the queue."""
    found = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("celery")
        while queue.qsize():
            message = queue.get(block=False)
            headers = message.headers
            found.append(
                (headers["task"], message.payload[0], headers["parent_id"], headers["root_id"])
            )
            message.ack()
        queue.close()
    return found


def test_an_errback_of_three_arguments_is_called_here(app, recorder, called):
    """B-CALL-021, B-CALL-022: (request, exc, traceback), the traceback as text."""
    error = ValueError("boom")
    request = Context(id="a", errbacks=[app.signature("err.direct")])
    recorder.mark_as_failure("a", error, "the traceback", request=request)

    assert called == [("a", error, "the traceback")]
    assert published(app) == []


@pytest.mark.parametrize("name", ["err.by_id", "err.bound", "somewhere.else"])
def test_other_errbacks_are_published_with_the_id(app, recorder, called, name):
    """B-CALL-021, B-CALL-023: those of one argument, bound ones, and those unknown here."""
    request = Context(id="a", root_id="r", errbacks=[app.signature(name)])
    recorder.mark_as_failure("a", ValueError("boom"), request=request)

    assert called == []
    assert published(app) == [(name, ["a"], "a", "r")]


def test_the_id_comes_before_the_arguments_of_the_errback(app, recorder):
    """B-CALL-021: prepended to the stored args."""
    request = Context(id="a", errbacks=[app.signature("somewhere.else", ("more",))])
    recorder.mark_as_failure("a", ValueError("boom"), request=request)

    assert published(app) == [("somewhere.else", ["a", "more"], "a", "a")]


def test_an_errback_that_cannot_be_sent_does_not_keep_the_others(app, recorder, called, caplog):
    refused = app.signature("err.by_id", ("one", "too", "many"))
    request = Context(id="a", errbacks=[refused, app.signature("err.by_id")])
    recorder.mark_as_failure("a", ValueError("boom"), request=request)

    assert published(app) == [("err.by_id", ["a"], "a", "a")]
    assert "Errback err.by_id of task a failed" in caplog.text


def test_errbacks_of_both_kinds_go_together(app, recorder, called):
    """B-CALL-021: observed with all kinds in one list."""
    names = ["err.direct", "err.by_id", "err.direct", "somewhere.else"]
    request = Context(id="a", errbacks=[app.signature(name) for name in names])
    recorder.mark_as_failure("a", ValueError("boom"), request=request)

    assert [call[0] for call in called] == ["a", "a"]
    assert sorted(task for task, *_ in published(app)) == ["err.by_id", "somewhere.else"]


def test_an_errback_that_fails_does_not_keep_the_others(app, recorder, called, caplog):
    names = ["err.broken", "err.direct"]
    request = Context(id="a", errbacks=[app.signature(name) for name in names])
    recorder.mark_as_failure("a", ValueError("boom"), request=request)

    assert [call[0] for call in called] == ["a"]
    assert "Errback err.broken of task a failed" in caplog.text


def test_errbacks_may_be_left_to_somebody_else(app, recorder, called):
    request = Context(id="a", errbacks=[app.signature("err.direct")])
    recorder.mark_as_failure("a", ValueError(), request=request, call_errbacks=False)

    assert called == []


# -- Failing a body


def test_a_failed_body_is_stored_and_told(app, backend, called):
    """B-CANV-057: its errback gets the context of the body, the ChordError and no traceback."""
    body = app.signature("some.body", link_error=[app.signature("err.direct")])
    body.freeze("body-id")
    error = ChordError("Dependency x raised y")
    backend.chord_error_from_stack(body, error)

    assert repr(backend.get_result("body-id")) == repr(error)
    assert called == [("body-id", error, None)]


def test_a_failed_group_body_fails_each_member(app, backend, called):
    """B-CANV-059: each member runs its own errbacks and those of the group, each once."""
    own, shared = app.signature("err.direct"), app.signature("err.direct", link="marks it")
    members = [app.signature("m", link_error=[own]), app.signature("m")]
    body = app.canvas.group(members, app=app) if hasattr(app, "canvas") else None
    if body is None:
        from celery.canvas import group

        body = group(members, app=app)
    body["options"]["link_error"] = [shared]
    body.freeze("group-id")
    backend.chord_error_from_stack(body, ChordError("no"))

    ids = [member["options"]["task_id"] for member in body["kwargs"]["tasks"]]
    assert [backend.get_state(name) for name in ids] == [states.FAILURE] * 2
    assert sorted(call[0] for call in called) == sorted([ids[0], ids[0], ids[1]])


def test_failing_from_the_current_stack_keeps_the_traceback(backend):
    try:
        raise ValueError("here")
    except ValueError:
        text = backend.fail_from_current_stack("a")

    assert "ValueError: here" in text
    document = backend.get_task_meta("a")
    assert repr(document["result"]) == "ValueError('here')"
    assert document["traceback"] == text


# -- Trying again


def test_lost_connections_are_tried_again(flaky):
    """B-BACK-006: result_backend_always_retry."""
    flaky.failures = 3
    flaky.mark_as_done("a", 4)
    assert flaky.reconnected == 3

    flaky.failures = 2
    assert flaky.get_result("a") == 4


def test_tries_end(flaky):
    """B-BACK-006: after result_backend_max_retries."""
    flaky.failures = 99
    with pytest.raises(BackendStoreError) as stored:
        flaky.mark_as_done("a", 4)
    assert (stored.value.task_id, stored.value.state) == ("a", states.SUCCESS)

    with pytest.raises(BackendGetMetaError) as read:
        flaky.get_task_meta("a")
    assert read.value.task_id == "a"


def test_without_the_setting_nothing_is_tried_again(app):
    """B-BACK-006."""
    flaky = Flaky(app)
    flaky.failures = 1

    with pytest.raises(ConnectionError):
        flaky.get_task_meta("a")


def test_back_off_grows_to_its_limit(app, monkeypatch):
    """B-BACK-006: base 10 ms, max 10 s."""
    app.conf.update(result_backend_always_retry=True, result_backend_max_retries=20)
    slept = []
    monkeypatch.setattr("celery.backends._backend.time.sleep", slept.append)
    flaky = Flaky(app)
    flaky.failures = 20
    flaky.get_task_meta("a")

    assert len(slept) == 20
    assert slept[0] <= 0.01
    assert max(slept) <= 10


# -- Settings


def test_an_unknown_serializer_of_results_is_named(app):
    with pytest.raises(Exception, match="nosuch"):
        Recorder(app, serializer="nosuch")


def test_ends_are_cached_where_that_is_on(app):
    app.conf.result_cache_max = 2
    recorder = Recorder(app)
    recorder.mark_as_done("a", 4)
    assert not recorder.is_cached("a")
    recorder.get_task_meta("a")
    assert recorder.is_cached("a")
    recorder.values.clear()
    assert recorder.get_result("a") == 4

    recorder.forget("a")
    assert recorder.get_state("a") == states.PENDING


def test_states_on_the_way_are_never_cached(app):
    app.conf.result_cache_max = 0
    recorder = Recorder(app)
    recorder.store_result("a", 1, "PROGRESS")
    recorder.get_task_meta("a")

    assert not recorder.is_cached("a")


def test_by_default_nothing_is_cached(recorder):
    recorder.mark_as_done("a", 4)
    recorder.get_task_meta("a")

    assert not recorder.is_cached("a")


@pytest.mark.parametrize(("given", "answer"), [(None, 86400), (10, 10), (0, 0), (1.5, 1.5)])
def test_a_life_is_in_seconds(recorder, given, answer):
    """B-RES-015: by default result_expires, one day."""
    assert recorder.prepare_expires(given) == answer


def test_an_empty_id_is_refused(recorder):
    with pytest.raises(ValueError, match="must not be empty"):
        recorder.get_task_meta("")


def test_a_prefix_is_put_before_each_key(app):
    """B-BACK-011: global_keyprefix of the transport options."""
    app.conf.result_backend_transport_options = {"global_keyprefix": "mine:"}
    recorder = Recorder(app)

    assert recorder.get_key_for_task("i") == b"mine:celery-task-meta-i"
    assert recorder.get_key_for_group("i", ".s") == b"mine:celery-taskset-meta-i.s"
    assert recorder.get_key_for_chord("i") == b"mine:chord-unlock-i"


def test_keys_are_named_as_recorded(recorder):
    """B-RES-005, B-BACK-021."""
    assert recorder.get_key_for_task("i") == b"celery-task-meta-i"
    assert recorder.get_key_for_group("i") == b"celery-taskset-meta-i"
    assert recorder.get_key_for_chord("i") == b"chord-unlock-i"


def test_payloads_are_packed_and_unpacked():
    """B-RES-013."""
    packed = compress_payload("text", "gzip")

    assert decompress_payload(packed) == b"text"


def test_the_uri_hides_the_password(app):
    backend = Recorder(app, url="db://user:secret@host/x")

    assert "secret" not in backend.as_uri()
    assert "secret" in backend.as_uri(include_password=True)


def test_results_in_results_are_stored_by_id(recorder, app):
    child = app.AsyncResult("child")
    recorder.mark_as_done("a", child)

    assert recorder.get_result("a") == [["child", None], None]


# -- Nothing configured


def test_the_disabled_backend_says_what_to_set(app):
    disabled = DisabledBackend(app)
    for ask in (disabled.get_state, disabled.get_result, disabled.get_traceback, disabled.wait_for):
        with pytest.raises(NotImplementedError) as error:
            ask("a")
        assert str(error.value) == E_NO_BACKEND
    with pytest.raises(NotImplementedError) as error:
        disabled.ensure_chords_allowed()
    assert str(error.value) == E_CHORD_NO_BACKEND


def test_the_disabled_backend_takes_results_and_drops_them(app):
    disabled = DisabledBackend(app)
    disabled.mark_as_done("a", 4, request=Context(id="a"))
    disabled.mark_as_failure("a", ValueError(), request=Context(id="a"))

    assert disabled.as_uri() == "disabled://"


def test_a_backend_of_ones_own_needs_few_methods(app):
    class Own(BaseBackend):
        stored = {}

        def _store_result(self, task_id, result, state, traceback=None, request=None, **kwargs):
            self.stored[task_id] = {"status": state, "result": result, "task_id": task_id}

        def _get_task_meta_for(self, task_id):
            found = self.stored.get(task_id, {"status": "PENDING", "result": None})
            return self.meta_from_decoded(dict(found))

    own = Own(app)
    own.mark_as_failure("a", KeyError("x"))

    assert repr(own.wait_for("a", timeout=1)["result"]) == "KeyError('x')"
    with pytest.raises(NotImplementedError):
        own.save_group("g", None)


def test_compression_that_cannot_work_is_said_once(app):
    """B-RES-013: other back-ends warn and store plain."""
    app.conf.result_compression = "gzip"
    with pytest.warns(UserWarning, match="Recorder stores results as they are"):
        recorder = Recorder(app)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder.mark_as_done("a", 4)

    assert recorder.values[recorder.get_key_for_task("a")].startswith("{")


def test_compression_that_does_not_exist_is_named(app):
    """B-RES-013: ImproperlyConfigured."""

    class Packs(Recorder):
        supports_result_compression = True

    app.conf.result_compression = "nosuch"
    with pytest.raises(ImproperlyConfigured, match="nosuch"):
        Packs(app)
