"""Results in SQL databases: rows as recorded, older tables, clean-up."""

from __future__ import annotations

import json
import pickle
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from celery import Celery
from celery.app.task import Context
from celery.backends.database import DatabaseBackend, retry, session_cleanup
from celery.backends.database.models import Task, TaskExtended, TaskSet
from celery.exceptions import BackendStoreError, ImproperlyConfigured

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "result_documents.json").read_text(encoding="utf-8")
)["database_rows"]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/results.sqlite"


@pytest.fixture(autouse=True)
def default_tables():
    yield
    Task.configure()
    TaskSet.configure()


def make(url, **settings):
    app = Celery("database", broker="memory://", backend=f"db+{url}", set_as_current=False)
    app.conf.update(settings)
    return app


def rows(url, table="celery_taskmeta"):
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return [
                dict(row._mapping) for row in connection.execute(sa.text(f"SELECT * FROM {table}"))
            ]
    finally:
        engine.dispose()


def execute(url, *statements):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


def assert_like(row, recorded):
    """Compare a row with a recorded one, whose bytes are shown as text."""
    for name, value in recorded.items():
        if isinstance(value, str) and value.startswith("b'"):
            assert repr(row[name]) == value
        elif value == "<datetime>":
            assert row[name] is not None
        elif name not in {"id", "task_id", "taskset_id"}:
            assert row[name] == value, name


def test_a_row_is_as_recorded(url):
    """B-BACK-015, B-BACK-016: the value alone, serialized; nothing of the call."""
    make(url).backend.mark_as_done("a", 4, request=Context(task="demo.add", args=[2, 2]))

    [row] = rows(url)
    assert set(row) == set(GOLDEN["success"])
    assert_like(row, GOLDEN["success"])
    assert row["task_id"] == "a"


def test_an_extended_row_is_as_recorded(url):
    """B-BACK-016: with result_extended the call, serialized."""
    request = Context(
        task="demo.add",
        args=[2, 2],
        kwargs={},
        hostname="w1@lab",
        delivery_info={"routing_key": "celery"},
    )
    make(url, result_extended=True).backend.mark_as_done("a", 4, request=request)

    [row] = rows(url)
    assert_like(row, GOLDEN["success, result_extended"])


def test_a_group_row_holds_its_tuple(url):
    """B-BACK-016."""
    app = make(url)
    ids = ["<uuid-2>", "<uuid-3>"]
    app.GroupResult("<uuid-1>", [app.AsyncResult(name) for name in ids]).save()

    [row] = rows(url, "celery_tasksetmeta")
    assert row["taskset_id"] == "<uuid-1>"
    assert_like(row, GOLDEN["group"])


def test_children_are_stored(url):
    """B-BACK-017."""
    app = make(url)
    request = Context()
    request.children.append(app.AsyncResult("<uuid-1>"))
    app.backend.mark_as_done("a", 4, request=request)

    [row] = rows(url)
    assert repr(row["children"]) == GOLDEN["chain, first"]["children"]


def test_the_tables_have_their_columns_and_indexes(url):
    """B-BACK-015: names, lengths, unique ids, an index on date_done."""
    make(url).backend.get_state("a")
    inspector = sa.inspect(sa.create_engine(url))

    types = {
        column["name"]: str(column["type"]) for column in inspector.get_columns("celery_taskmeta")
    }
    assert types == {
        "id": "INTEGER",
        "task_id": "VARCHAR(155)",
        "status": "VARCHAR(50)",
        "result": "BLOB",
        "date_done": "DATETIME",
        "traceback": "TEXT",
        "children": "BLOB",
        "name": "VARCHAR(155)",
        "args": "BLOB",
        "kwargs": "BLOB",
        "worker": "VARCHAR(155)",
        "retries": "INTEGER",
        "queue": "VARCHAR(155)",
        "stamps": "BLOB",
    }
    for table, unique in (("celery_taskmeta", "task_id"), ("celery_tasksetmeta", "taskset_id")):
        assert [found["name"] for found in inspector.get_indexes(table)] == [
            f"ix_{table}_date_done"
        ]
        constraints = inspector.get_unique_constraints(table)
        assert [found["column_names"] for found in constraints] == [[unique]]


def test_tables_can_have_other_names(url):
    """B-BACK-015: by the keys task and group."""
    app = make(url, database_table_names={"task": "my_tasks", "group": "my_groups"})
    app.backend.mark_as_done("a", 4)
    app.GroupResult("g", [app.AsyncResult("a")]).save()

    assert len(rows(url, "my_tasks")) == 1
    assert len(rows(url, "my_groups")) == 1
    indexes = sa.inspect(sa.create_engine(url)).get_indexes("my_tasks")
    assert [found["name"] for found in indexes] == ["ix_my_tasks_date_done"]
    assert app.backend.get_result("a") == 4


@pytest.mark.postgresql
def test_tables_can_be_in_other_schemas(postgresql_url):
    """B-BACK-015."""
    execute(postgresql_url, "CREATE SCHEMA one", "CREATE SCHEMA two")
    app = make(postgresql_url, database_table_schemas={"task": "one", "group": "two"})
    app.backend.mark_as_done("a", 4)
    app.GroupResult("g", [app.AsyncResult("a")]).save()

    assert len(rows(postgresql_url, "one.celery_taskmeta")) == 1
    assert len(rows(postgresql_url, "two.celery_tasksetmeta")) == 1


def test_tables_are_only_made_where_that_is_wanted(url):
    """B-BACK-015: database_create_tables_at_setup."""
    make(url, database_create_tables_at_setup=False).backend
    assert sa.inspect(sa.create_engine(url)).get_table_names() == []

    make(url).backend
    assert "celery_taskmeta" in sa.inspect(sa.create_engine(url)).get_table_names()


OLD_TABLE = """
CREATE TABLE celery_taskmeta (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
 task_id VARCHAR(155) UNIQUE, status VARCHAR(50), result BLOB, date_done DATETIME, traceback TEXT,
 name VARCHAR(155), args BLOB, kwargs BLOB, worker VARCHAR(155), retries INTEGER,
 queue VARCHAR(155))
"""


def test_an_older_table_gets_the_column_of_children(url):
    """B-BACK-017: children by itself; stamps only by hand, and left out until then."""
    execute(url, OLD_TABLE)
    app = make(url, result_extended=True)
    request = Context(task="t", args=[1], kwargs={}, stamped_headers=["s"], stamps={"s": 1})
    request.children.append(app.AsyncResult("child"))
    app.backend.mark_as_done("a", 4, request=request)

    document = app.backend.get_task_meta("a")
    assert document["children"] == [[["child", None], None]]
    assert document["name"] == "t"
    assert "s" not in document
    [row] = rows(url)
    assert "children" in row
    assert "stamps" not in row


@pytest.mark.parametrize("value", [4, "text", None, {"a": [1, {2, 3}]}, datetime(2020, 1, 1)])
def test_rows_that_older_versions_pickled_are_read(url, value):
    """B-BACK-017."""
    app = make(url)
    app.backend.mark_as_done("a", "x")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        set_result(url, "a", pickle.dumps(value, protocol))
        assert app.AsyncResult("a").get(timeout=1) == value


def test_errors_in_older_rows_are_read(url):
    """B-BACK-017."""
    app = make(url)
    app.backend.mark_as_failure("a", ValueError("x"))
    plain = {"exc_type": "KeyError", "exc_module": "builtins", "exc_message": ["old"]}
    set_result(url, "a", pickle.dumps(plain))

    assert repr(app.AsyncResult("a").result) == "KeyError('old')"


def test_groups_in_older_rows_are_read(url):
    """B-BACK-017: they were pickled as objects."""
    app = make(url)
    app.GroupResult("g", [app.AsyncResult("a")]).save()
    members = [app.AsyncResult("a"), app.AsyncResult("b")]
    tuples = ("g", None), [member.as_tuple() for member in members]
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE celery_tasksetmeta SET result = :value"),
            {"value": pickle.dumps(tuples)},
        )
    engine.dispose()

    assert [member.id for member in app.GroupResult.restore("g")] == ["a", "b"]


class Evil:
    def __reduce__(self):
        return eval, ("__import__('os').mkdir('/tmp/never-made')",)


def test_a_pickle_in_a_row_cannot_run_code(url):
    app = make(url)
    app.backend.mark_as_done("a", "x")
    set_result(url, "a", pickle.dumps(Evil()))

    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval"):
        app.backend.get_task_meta("a")
    assert not Path("/tmp/never-made").exists()


def set_result(url, task_id, value):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE celery_taskmeta SET result = :value WHERE task_id = :task_id"),
            {"value": value, "task_id": task_id},
        )
    engine.dispose()


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
def test_values_are_in_the_serializer_of_results(url, serializer):
    """B-BACK-017: honours result_serializer."""
    app = make(url, result_serializer=serializer, result_accept_content=[serializer])
    app.backend.mark_as_done("a", {"n": [1]})

    [row] = rows(url)
    expected = {"json": b'{"n": [1]}', "yaml": b"n:\n- 1\n"}
    assert row["result"] == expected.get(serializer, row["result"])
    assert app.AsyncResult("a").get(timeout=1) == {"n": [1]}


def test_the_clean_up_deletes_old_rows_of_tasks_and_groups(url):
    """B-BACK-018: by date_done, also rows of tasks that never ended."""
    app = make(url, result_expires=3600)
    app.backend.mark_as_done("old", 4)
    app.backend.store_result("stuck", None, "STARTED")
    app.GroupResult("g", [app.AsyncResult("old")]).save()
    yesterday = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=1)
    for table in ("celery_taskmeta", "celery_tasksetmeta"):
        execute(url, f"UPDATE {table} SET date_done = '{yesterday}'")
    app.backend.mark_as_done("new", 4)
    app.backend.cleanup()

    assert [row["task_id"] for row in rows(url)] == ["new"]
    assert rows(url, "celery_tasksetmeta") == []


def test_a_url_is_needed():
    """B-BACK-003."""
    app = Celery("database", broker="memory://", backend="database", set_as_current=False)

    with pytest.raises(ImproperlyConfigured, match=r"Missing connection string!.*database_url"):
        app.backend


def test_the_url_may_be_a_setting(url):
    """B-BACK-003."""
    app = Celery("database", broker="memory://", backend="database", set_as_current=False)
    app.conf.database_url = url
    app.backend.mark_as_done("a", 4)

    assert len(rows(url)) == 1


def test_errors_that_go_away_are_tried_three_times_more(url, monkeypatch):
    """B-BACK-006: the database back-end defaults to retry with 3 tries."""
    backend = make(url).backend
    assert (backend.always_retry, backend.max_retries) == (True, 3)
    tries = []

    def locked(*args, **kwargs):
        tries.append(1)
        raise sa.exc.OperationalError("UPDATE", {}, Exception("database is locked"))

    monkeypatch.setattr(backend, "_store_result", locked)
    monkeypatch.setattr("celery.backends._backend.time.sleep", lambda seconds: None)
    with pytest.raises(BackendStoreError):
        backend.mark_as_done("a", 4)
    assert len(tries) == 4


def test_engines_are_made_with_the_options_and_shown_to_the_callback(url):
    """B-BACK-017: pool_pre_ping, pool_recycle=3600, database_engine_callback."""
    seen = []
    app = make(url, database_engine_callback=seen.append)
    app.backend.mark_as_done("a", 4)

    [engine] = seen
    assert engine.pool._pre_ping is True
    assert engine.pool._recycle == 3600


def test_a_task_row_tells_its_columns_as_a_mapping(url):
    """B-BACK-015: what dashboards read through a session."""
    app = make(url, result_extended=True)
    app.backend.mark_as_done("a", 4, request=Context(task="t", args=[], kwargs={}))
    assert app.backend.task_cls is TaskExtended
    session = app.backend.ResultSession()
    with session_cleanup(session):
        task = session.query(app.backend.task_cls).filter_by(task_id="a").one()
        assert task.to_dict()["name"] == "t"
        assert app.backend.meta_from_decoded(task.to_dict())["result"] == 4


def test_a_session_is_rolled_back_after_an_error(url):
    app = make(url)
    session = app.backend.ResultSession()
    session.add(Task("a"))
    session.flush()

    def fail():
        with session_cleanup(session):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert rows(url) == []


def test_a_function_can_be_told_to_try_again():
    calls = []

    @retry
    def flaky(value):
        calls.append(value)
        if len(calls) < 3:
            raise sa.exc.OperationalError("", {}, Exception())
        return value

    assert flaky(7) == 7
    assert calls == [7, 7, 7]


def test_workers_that_start_together_make_the_tables_once(url):
    together = threading.Barrier(6)
    errors = []

    def start():
        try:
            together.wait(10)
            DatabaseBackend(app=make(url), url=url).mark_as_done("a", 1)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert errors == []
    assert len(rows(url)) == 1


def test_a_database_that_cannot_be_reached_is_named():
    app = make("postgresql+psycopg2://user:secret@127.0.0.1:1/none", result_backend_max_retries=0)

    with pytest.raises(ImproperlyConfigured, match=r"127\.0\.0\.1:1") as error:
        app.backend
    assert "secret" not in str(error.value)
