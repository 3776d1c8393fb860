"""The tutorials, done as a newcomer would: files in a folder, a worker, a second terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from t.harness.worker import ROOT, WorkerProcess

CLIENT_S = 60


class Folder:
    """A user's project folder, with a worker and scripts that run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **files: str) -> None:
        """Write modules; ``pkg__mod`` is ``pkg/mod.py``."""
        for name, text in files.items():
            target = self.path / (name.replace("__", "/") + ".py")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(textwrap.dedent(text))

    def worker(self, app: str, *options: str) -> WorkerProcess:
        return WorkerProcess(*options, conf={}, app=app, cwd=self.path)

    def python(self, script: str) -> str:
        """Run *script* as in a second terminal and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=CLIENT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def celery(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a ``celery`` command."""
        return subprocess.run(
            [sys.executable, "-m", "celery", *arguments],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=CLIENT_S,
            check=False,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(params=["redis", "rabbitmq with rpc"])
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Broker and back-end of the two classic set-ups."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return url, url
    return request.getfixturevalue("amqp_url"), "rpc://"


def test_first_steps(folder: Folder, urls: tuple[str, str]):
    """A module with tasks, a worker, ``delay`` and ``get``."""
    broker, backend = urls
    folder.write(
        tasks=f"""
        from celery import Celery

        app = Celery('tasks', broker={broker!r}, backend={backend!r})

        @app.task
        def add(x, y):
            return x + y

        @app.task
        def fail():
            raise ValueError('no')
        """
    )
    with folder.worker("tasks") as worker:
        printed = folder.python(
            """
            from tasks import add, fail
            result = add.delay(4, 4)
            print(result.get(timeout=10), result.ready(), result.state)
            failed = fail.delay()
            try:
                failed.get(timeout=10)
            except ValueError as exc:
                print(repr(exc), failed.state, 'Traceback' in failed.traceback)
            print(repr(failed.get(propagate=False)))
            """
        )
        worker.wait_for(r"Task tasks.add\[.*\] received")
        worker.wait_for(r"Task tasks.add\[.*\] succeeded in .*s: 8")
    assert printed.splitlines() == [
        "8 True SUCCESS",
        "ValueError('no') FAILURE True",
        "ValueError('no')",
    ]


def test_the_answer_comes_within_the_second_that_the_tutorial_waits(
    folder: Folder, urls: tuple[str, str]
):
    broker, backend = urls
    folder.write(
        tasks=f"""
        from celery import Celery
        app = Celery('tasks', broker={broker!r}, backend={backend!r})

        @app.task
        def add(x, y):
            return x + y
        """
    )
    with folder.worker("tasks"):
        assert folder.python("from tasks import add; print(add.delay(4, 4).get(timeout=1))") == "8"


def test_a_package_as_project(folder: Folder, redis_url: str):
    """``proj/celery.py`` and ``proj/tasks.py``, found by ``-A proj`` (B-CLI-005)."""
    folder.write(
        proj__celery=f"""
        from celery import Celery

        app = Celery('proj', broker={redis_url!r}, backend={redis_url!r}, include=['proj.tasks'])
        app.conf.update(result_expires=3600)

        if __name__ == '__main__':
            app.start()
        """,
        proj__tasks="""
        from .celery import app

        @app.task
        def add(x, y):
            return x + y

        @app.task
        def mul(x, y):
            return x * y

        @app.task
        def xsum(numbers):
            return sum(numbers)
        """,
    )
    (folder.path / "proj" / "__init__.py").touch()
    with folder.worker("proj"):
        printed = folder.python(
            """
            from celery import chain, chord, group
            from proj.tasks import add, mul, xsum
            print(add.delay(2, 2).get(timeout=10))
            print(add.s(2, 2).delay().get(timeout=10))
            print(add.s(2).delay(8).get(timeout=10))
            print(group(add.s(i, i) for i in range(10))().get(timeout=10))
            print(chain(add.s(4, 4) | mul.s(8))().get(timeout=10))
            print(chord((add.s(i, i) for i in range(10)), xsum.s())().get(timeout=10))
            """
        )
    assert printed.splitlines() == [
        "4",
        "4",
        "10",
        str([0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
        "64",
        "90",
    ]


def test_a_configuration_module(folder: Folder, redis_url: str):
    """``celeryconfig.py`` read by ``config_from_object``, as new users write it."""
    folder.write(
        celeryconfig=f"""
        broker_url = {redis_url!r}
        result_backend = {redis_url!r}
        task_serializer = 'json'
        result_serializer = 'json'
        accept_content = ['json']
        timezone = 'Europe/Oslo'
        enable_utc = True
        """,
        tasks="""
        from celery import Celery

        app = Celery('tasks')
        app.config_from_object('celeryconfig')

        @app.task
        def add(x, y):
            return x + y
        """,
    )
    with folder.worker("tasks"):
        assert folder.python("from tasks import add; print(add.delay(1, 2).get(timeout=10))") == "3"
        assert folder.python("from tasks import app; print(app.timezone)") == "Europe/Oslo"


def test_a_task_routed_to_a_low_priority_queue(folder: Folder, redis_url: str):
    """``task_routes`` sends it there; only the worker of that queue runs it (B-ROUT-002)."""
    folder.write(
        tasks=f"""
        from celery import Celery

        app = Celery('tasks', broker={redis_url!r}, backend={redis_url!r})
        app.conf.task_routes = {{'tasks.add': 'low-priority'}}

        @app.task(bind=True)
        def add(self, x, y):
            return [x + y, self.request.delivery_info['routing_key']]
        """
    )
    with folder.worker("tasks", "-n", "normal@%h") as normal:
        with folder.worker("tasks", "-n", "low@%h", "-Q", "low-priority") as low:
            printed = folder.python("from tasks import add; print(add.delay(2, 2).get(timeout=10))")
            low.wait_for(r"Task tasks.add\[.*\] succeeded")
        assert normal.count(r"Task tasks.add\[.*\] received") == 0
    assert printed == "[4, 'low-priority']"


def test_a_rate_limit_by_annotation(folder: Folder, redis_url: str):
    """``task_annotations`` with ``10/m``; ``inspect registered`` shows it (B-APP-065)."""
    folder.write(
        tasks=f"""
        import time
        from celery import Celery

        app = Celery('tasks', broker={redis_url!r}, backend={redis_url!r})
        app.conf.task_annotations = {{'tasks.add': {{'rate_limit': '10/m'}}}}

        @app.task
        def add(x, y):
            return time.time()
        """
    )
    with folder.worker("tasks", "-c", "2"):
        first, second = json.loads(
            folder.python(
                """
                from tasks import add
                results = [add.delay(1, 1), add.delay(2, 2)]
                print([result.get(timeout=20) for result in results])
                """
            )
        )
        shown = folder.celery("-A", "tasks", "inspect", "registered", "-t", "5")
    assert 5.5 < second - first < 15
    assert "rate_limit=10/m" in shown.stdout


def test_the_commands_of_the_first_steps(folder: Folder, redis_url: str):
    """``call``, ``result``, ``status``, ``inspect ping``, ``report`` (B-CLI-013, B-CLI-021)."""
    folder.write(
        tasks=f"""
        from celery import Celery
        app = Celery('tasks', broker={redis_url!r}, backend={redis_url!r})

        @app.task
        def add(x, y):
            return x + y
        """
    )
    with folder.worker("tasks", "-n", "one@here"):
        called = folder.celery("-A", "tasks", "call", "tasks.add", "-a", "[2, 3]")
        assert called.returncode == 0, called.stderr
        task_id = called.stdout.strip()
        result = folder.celery("-A", "tasks", "result", task_id)
        assert result.stdout.strip() == "5"
        ping = folder.celery("-A", "tasks", "inspect", "ping", "-t", "5", "-d", "one@here")
        assert "one@here: OK" in ping.stdout
        assert "1 node online." in ping.stdout
        status = folder.celery("-A", "tasks", "status", "-t", "5", "-d", "one@here")
        assert "one@here: OK" in status.stdout
        report = folder.celery("-A", "tasks", "report")
        assert "software -> celery:5.7" in report.stdout
