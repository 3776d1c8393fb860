"""What a process published just before its end arrives, though no publish is answered."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import pytest

from celery import Celery
from celery._transport import _amqp_outlet, _amqp_publishing
from t.harness.proxy import Proxy
from t.harness.servers import RabbitMQServer
from t.harness.worker import ROOT, WorkerProcess, eventually

pytestmark = pytest.mark.rabbitmq

#: More than the server takes from a connection before it looks at what it has.
COUNT = 4000

PROJECT = f"""
import multiprocessing, os
from celery import Celery

app = Celery("farewell", broker=os.environ["BROKER"])
app.conf.task_ignore_result = True
app.conf.task_routes = {{"many": "asked"}}

def publish(count={COUNT}):
    for number in range(count):
        app.send_task("noop", (number,))

@app.task(name="many")
def many(count):
    publish(count)
"""

ENDS = {
    "app.close": "publish(); app.close()",
    "interpreter": "publish()",
    "error": "publish(); raise SystemExit(0)",
    "multiprocessing": "p = multiprocessing.Process(target=publish); p.start(); p.join()",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "farewell.py").write_text(PROJECT)
    return tmp_path


def waiting(url: str, queue: str = "celery") -> int:
    """Return how many messages wait in a queue; none, where there is no queue yet."""
    parts = urlsplit(url)
    with amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        parts.username,
        parts.password,
        virtual_host=parts.path[1:],
    ) as connection:
        try:
            count: int = connection.channel().queue_declare(queue, passive=True).message_count
        except amqp.NotFound:
            return 0
        return count


@pytest.mark.parametrize("end", ENDS)
def test_a_client_that_ends_leaves_nothing_behind(amqp_url: str, folder: Path, end: str) -> None:
    code = f"from farewell import *\n{ENDS[end]}"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BROKER": amqp_url, "PYTHONPATH": f"{ROOT}:{folder}"},
        check=True,
        timeout=120,
    )

    eventually(lambda: waiting(amqp_url) == COUNT)


def test_children_that_end_leave_nothing_behind(amqp_url: str, folder: Path) -> None:
    """A task publishes, and its process ends with it."""
    with Celery("client", broker=amqp_url, set_as_current=False) as app:
        app.conf.task_ignore_result = True
        with WorkerProcess(
            *("-c", "2", "-Q", "asked", "--max-tasks-per-child", "1"),
            conf={},
            app="farewell",
            cwd=folder,
            env={"BROKER": amqp_url},
        ):
            for _ in range(4):
                app.send_task("many", (COUNT // 4,), queue="asked")
            # Noop tasks are nobody's: the worker listens to the other queue.
            eventually(lambda: waiting(amqp_url) == COUNT)


def test_the_end_does_not_wait_for_ever_for_a_silent_broker(
    amqp_url: str,
    rabbitmq_server: RabbitMQServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_amqp_outlet, "ANSWER_S", 0.5)
    monkeypatch.setattr(_amqp_publishing, "ANSWER_S", 0.5)
    with Proxy(rabbitmq_server.port) as proxy:
        url = amqp_url.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/")
        app = Celery("client", broker=url, set_as_current=False)
        app.send_task("noop", ignore_result=True)
        proxy.swallow()
        with caplog.at_level(logging.ERROR):
            app.close()

    assert f":{proxy.port}" in caplog.text
    assert "may be lost" in caplog.text
