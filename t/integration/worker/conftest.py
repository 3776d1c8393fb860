"""Fixtures of the worker tests: a project on a broker, its journal, its worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kombu import pools

from celery import Celery
from t.harness.worker import Journal, WorkerProcess


class Project:
    """A broker, a result store, settings, and a client app of the project's tasks."""

    def __init__(self, broker_url: str, folder: Path) -> None:
        self.folder = folder
        results = folder / "results"
        results.mkdir()
        self.conf: dict[str, Any] = {
            "broker_url": broker_url,
            "result_backend": f"file://{results}",
        }
        self.journal = Journal(folder / "journal")
        self._stack = ExitStack()
        self._app: Celery | None = None

    @property
    def app(self) -> Celery:
        """A client; made with the settings as they are on first use."""
        if self._app is None:
            self._app = Celery("client", set_as_current=False)
            self._app.conf.update(self.conf)
        return self._app

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        """Send a task by name; returns its result."""
        return self.app.send_task(name, args=args, **options)

    def worker(self, *options: str, **kwargs: Any) -> WorkerProcess:
        """Start a worker and wait until it is ready; it ends with the test."""
        return self._stack.enter_context(self.unstarted(*options, **kwargs))

    def unstarted(self, *options: str, **kwargs: Any) -> WorkerProcess:
        """Return a worker that the test starts itself."""
        conf = {**self.conf, **kwargs.pop("conf", {})}
        return WorkerProcess(*options, conf=conf, **kwargs)

    def gate(self, name: str = "gate") -> Path:
        """Return the path of a file that gated tasks wait for."""
        return self.folder / name

    def queue_length(self, queue: str = "celery") -> int:
        """Return how many messages wait in *queue*."""
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            try:
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
            except connection.channel_errors:
                return 0

    def reconnect(self) -> None:
        """Let the client start over, where its connections were closed, too."""
        self._app = None
        # kombu keeps them for the whole process, by URL.
        pools.reset()

    def close(self) -> None:
        """End the workers and let go of the broker."""
        self._stack.close()
        if self._app is not None:
            self._app.close()


@pytest.fixture
def make_project(tmp_path: Path) -> Iterator[Callable[[str], Project]]:
    """Make projects that end with the test."""
    made: list[Project] = []

    def make(url: str) -> Project:
        folder = tmp_path / f"p{len(made)}"
        folder.mkdir()
        made.append(Project(url, folder))
        return made[-1]

    yield make
    for project in made:
        project.close()


@pytest.fixture
def on_redis(redis_url: str, make_project: Callable[[str], Project]) -> Project:
    """A project on Redis."""
    return make_project(redis_url)


@pytest.fixture
def on_rabbitmq(amqp_url: str, make_project: Callable[[str], Project]) -> Project:
    """A project on RabbitMQ."""
    return make_project(amqp_url)


@pytest.fixture(params=["redis", "rabbitmq"])
def project(request: pytest.FixtureRequest) -> Project:
    """A project on each broker."""
    made: Project = request.getfixturevalue(f"on_{request.param}")
    return made
