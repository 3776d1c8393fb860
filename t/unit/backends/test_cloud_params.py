"""Stores whose place stands in settings: what is refused, and what is shown of it."""

from __future__ import annotations

from collections import namedtuple

import pytest

from celery import Celery
from celery.backends import cassandra, gcs
from celery.backends.cassandra import STATES_READ, CassandraBackend
from celery.backends.gcs import GCSBackend
from celery.exceptions import ImproperlyConfigured

CASSANDRA = {
    "cassandra_servers": ["h"],
    "cassandra_keyspace": "lab",
    "cassandra_table": "results",
}
Row = namedtuple("Row", "status result")


def app_with(**settings):
    app = Celery("params", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return app


@pytest.mark.parametrize(
    ("module", "driver", "url", "extra"),
    [(gcs, "storage", "gs://b?gcs_project=p", "gcs"), (cassandra, "cassandra", None, "cassandra")],
)
def test_a_missing_driver_is_named_with_what_brings_it(monkeypatch, module, driver, url, extra):
    """B-BACK-004."""
    monkeypatch.setattr(module, driver, None)
    made = {"gcs": GCSBackend, "cassandra": CassandraBackend}[extra]

    with pytest.raises(ImproperlyConfigured, match=rf'pip install "celery\[{extra}\]"'):
        made(app=app_with(**CASSANDRA), url=url)


# -- Google Cloud Storage


def test_the_query_of_the_url_wins_over_settings():
    app = app_with(gcs_project="other", gcs_threadpool_maxsize=3)
    backend = GCSBackend(app=app, url="gs://bucket/some/path/?gcs_project=p&firestore_project=f")

    assert (backend.bucket_name, backend.base_path, backend.project, backend.firestore_project) == (
        "bucket",
        "some/path",
        "p",
        "f",
    )
    assert backend.as_uri() == "gs://bucket/some/path"


def test_chords_are_counted_in_the_project_of_the_bucket_unless_told_otherwise():
    backend = GCSBackend(app=app_with(gcs_bucket="b", gcs_project="p"), url="gs://")

    assert backend.firestore_project == "p"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gcs_project": "p"}, "gcs_bucket"),
        ({"gcs_bucket": "b"}, "gcs_project"),
        ({"gcs_bucket": "b", "gcs_project": "p", "gcs_ttl": -1}, "greater than or equal to 0"),
    ],
)
def test_what_is_missing_or_wrong_is_named(settings, said):
    with pytest.raises(ImproperlyConfigured, match=said):
        GCSBackend(app=app_with(**settings), url="gs://")


class Bucket:
    def __init__(self, rules):
        self.lifecycle_rules = rules

    def get_bucket(self, name, timeout):
        return self


RULE = {"action": {"type": "Delete"}, "condition": {"daysSinceCustomTime": 0}}


@pytest.mark.parametrize(
    ("rules", "good"),
    [([RULE], True), ([], False), ([{**RULE, "condition": {"age": 1}}], False)],
)
def test_a_life_of_results_needs_a_rule_of_the_bucket(monkeypatch, rules, good):
    monkeypatch.setattr(GCSBackend, "client", Bucket(rules))
    app = app_with(gcs_bucket="b", gcs_project="p", gcs_ttl=60)
    if good:
        assert GCSBackend(app=app, url="gs://").ttl == 60
    else:
        with pytest.raises(ImproperlyConfigured, match="lifecycle rule"):
            GCSBackend(app=app, url="gs://")


# -- Cassandra


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cassandra_servers": None}, "needs cassandra_keyspace"),
        ({"cassandra_keyspace": None}, "needs cassandra_keyspace"),
        ({"cassandra_table": None}, "needs cassandra_keyspace"),
        ({"cassandra_secure_bundle_path": "/b.zip"}, "not both"),
        ({"cassandra_bundle_path": "/b.zip"}, "not both"),
    ],
)
def test_servers_or_a_bundle_and_a_table_are_needed(changes, said):
    """B-BACK-023: exactly one of servers or bundle path."""
    with pytest.raises(ImproperlyConfigured, match=said):
        CassandraBackend(app=app_with(**{**CASSANDRA, **changes}))


def test_a_password_is_not_shown_when_authentication_is_wrong():
    app = app_with(
        **CASSANDRA,
        cassandra_auth_provider="NoSuchProvider",
        cassandra_auth_kwargs={"username": "u", "password": "hush"},
    )
    with pytest.raises(ImproperlyConfigured, match="NoSuchProvider") as error:
        CassandraBackend(app=app)

    assert "hush" not in str(error.value)
    assert error.value.__suppress_context__


@pytest.mark.parametrize(("seconds", "words"), [(None, ""), (60, " USING TTL 60")])
def test_rows_live_as_long_as_the_setting_says(seconds, words):
    """B-BACK-023: TTL cassandra_entry_ttl."""
    backend = CassandraBackend(app=app_with(**CASSANDRA, cassandra_entry_ttl=seconds))

    assert backend.cqlexpires == words


class First:
    def __init__(self, row):
        self.row = row

    def one(self):
        return self.row


@pytest.mark.parametrize(
    ("newest_first", "counts"),
    [
        ([], None),
        (["SUCCESS", "STARTED"], 0),
        (["FAILURE", "SUCCESS", "STARTED"], 1),
        (["SUCCESS", "SUCCESS"], 1),
        (["RETRY", "FAILURE"], 1),
        (["STARTED", "FAILURE"], 0),
    ],
)
def test_the_reader_decides_which_state_counts(monkeypatch, newest_first, counts):
    rows = [Row(status, number) for number, status in enumerate(newest_first)]
    backend = CassandraBackend(app=app_with(**CASSANDRA))
    asked = []

    def run(text, values, consistency):
        asked.append(text)
        return rows

    monkeypatch.setattr(backend, "_run", run)
    found = backend._read("id")

    assert (found.result if found else None) == counts
    assert len(asked) == 1


def test_of_many_states_the_first_success_is_asked_for(monkeypatch):
    backend = CassandraBackend(app=app_with(**CASSANDRA))
    answers = [[Row("PROGRESS", n) for n in range(STATES_READ)], First(Row("SUCCESS", "first"))]
    monkeypatch.setattr(backend, "_run", lambda *_: answers.pop(0))

    assert backend._read("id").result == "first"
    assert answers == []
