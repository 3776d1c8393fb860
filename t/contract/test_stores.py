"""What single stores are asked, proved on their emulators and stand-ins."""

from __future__ import annotations

import pytest

from celery import Celery, states
from t.contract.backends import new_id


@pytest.fixture
def app_of(request):
    """Make apps whose results go to a server."""
    apps = []

    def make(url, **settings):
        app = Celery(f"stores-{new_id()}", broker="memory://", backend=url, set_as_current=False)
        app.conf.update(settings)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def sessions(backend):
    return backend.client().session.list()[1]


def test_many_results_share_a_session_of_the_consul_stand_in(app_of, consul_standin):
    backend = app_of(f"{consul_standin.url}/{new_id()}", result_expires=600).backend
    before = len(sessions(backend))
    for _ in range(10):
        backend.mark_as_done(new_id(), 4)

    assert len(sessions(backend)) == before + 1


def test_a_result_of_the_consul_stand_in_lives_from_its_last_state_on(app_of, consul_standin):
    url = f"{consul_standin.url}/{new_id()}"
    name = new_id()
    app_of(url, result_expires=600).backend.store_result(name, None, states.STARTED)
    consul_standin.pass_time(500)
    # Another process, with a session of its own.
    backend = app_of(url, result_expires=600).backend
    backend.mark_as_done(name, 4)
    consul_standin.pass_time(500)

    assert backend.get_result(name) == 4
    consul_standin.pass_time(500)
    assert app_of(url).backend.get_state(name) == states.PENDING


def test_a_session_of_the_consul_stand_in_that_somebody_ended_is_opened_again(
    app_of, consul_standin
):
    backend = app_of(f"{consul_standin.url}/{new_id()}", result_expires=600).backend
    backend.mark_as_done(new_id(), 4)
    backend.client().session.destroy(backend._session.name)
    name = new_id()
    backend.mark_as_done(name, 5)

    assert backend.get_result(name) == 5


def test_results_without_expiry_have_no_session_in_the_consul_stand_in(app_of, consul_standin):
    backend = app_of(f"{consul_standin.url}/{new_id()}", result_expires=None).backend
    name = new_id()
    backend.store_result(name, None, states.STARTED)
    backend.mark_as_done(name, 4)

    _, found = backend.client().kv.get(backend._name(backend.get_key_for_task(name)))
    assert "Session" not in found


def test_a_database_of_the_arangodb_stand_in_is_made_when_it_is_missing(app_of, arangodb_standin):
    url = f"{arangodb_standin.url}/new-{new_id()}/results"
    app_of(url).backend.mark_as_done("id", 4)

    assert app_of(url).backend.get_result("id") == 4


def test_cleaning_the_arangodb_stand_in_spares_what_others_wrote(app_of, arangodb_standin):
    """Documents of 5.7.0 have no time that a query could compare."""
    backend = app_of(f"{arangodb_standin.url}/jobs/{new_id()}", result_expires=-60).backend
    backend.mark_as_done("ours", 4)
    document = backend.encode({"_key": "celery-task-meta-theirs", "task": '{"status": "SUCCESS"}'})
    backend._ask("post", data=document)
    backend.cleanup()

    assert backend.get_state("ours") == states.PENDING
    assert backend.get_state("theirs") == states.SUCCESS


def test_the_couchdb_emulator_is_cleaned_with_any_serializer(app_of, couch_server):
    pickled = {"result_serializer": "pickle", "result_accept_content": ["pickle"]}
    url = f"{couch_server.url}/clean-{new_id()[:8]}"
    backend = app_of(url, result_expires=-60, **pickled).backend
    backend.mark_as_done("id", 4)
    backend.cleanup()

    assert backend.get_state("id") == states.PENDING


def test_of_siblings_in_the_riak_stand_in_the_success_is_read(app_of, riak_standin):
    """And the next write puts one value in their place."""
    backend = app_of(f"{riak_standin.url}/many/{new_id()}").backend
    key = backend.get_key_for_task("id")
    for state in (states.FAILURE, states.SUCCESS, states.RETRY):
        payload = backend.encode({"status": state, "result": None}).encode()
        backend._ask("PUT", key, (), data=payload, headers={"Content-Type": "application/json"})
    before = backend._ask("GET", key, (300,))
    assert before.status_code == 300

    assert backend.get_state("id") == states.SUCCESS
    assert backend.replace(key, backend.encode({"status": "x"}), backend.load(key).version)
    assert backend._ask("GET", key, ()).json() == {"status": "x"}
