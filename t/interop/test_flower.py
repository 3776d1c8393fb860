"""Flower 2 as it comes from PyPI, with our package and our workers: its HTTP API and its pages."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from t.harness.servers import free_port, missing
from t.interop.nodes import APPS, READY_S, Site

pytestmark = pytest.mark.redis

ROOT = Path(__file__).parents[2]

CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1400,1000", "--remote-debugging-port=0",
)  # fmt: skip


def eventually(claim: Callable[[], Any], timeout_s: float = READY_S) -> Any:
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while True:
        answer = claim()
        if answer:
            return answer
        assert time.monotonic() < end, f"{claim} still answers {answer!r}"
        pause.wait(0.05)


@contextmanager
def program(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program beside the test."""
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(READY_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Flower:
    """A running Flower, and the worker w1@lab that it watches."""

    def __init__(self, url: str, gate: Path) -> None:
        self.url = url
        self.gate = gate

    def ask(self, path: str, data: Any = None, **fields: Any) -> Any:
        """Call the HTTP API; posts when there is *data* or a field, of which None is none."""
        body = None
        if data is not None:
            body = json.dumps(data).encode()
        elif fields:
            body = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(f"{self.url}{path}", data=body, timeout=30) as answer:
            text = answer.read().decode()
        with suppress(ValueError):
            return json.loads(text)
        return text

    def send(self, name: str, *args: Any) -> str:
        """Send a task through Flower; returns its id."""
        return str(self.ask(f"/api/task/async-apply/{name}", {"args": args})["task-id"])

    def state_of(self, task_id: str) -> str | None:
        try:
            return self.ask(f"/api/task/info/{task_id}").get("state")  # type: ignore[no-any-return]
        except urllib.error.HTTPError:
            return None

    def wait_for(self, task_id: str, state: str) -> None:
        eventually(lambda: self.state_of(task_id) == state)

    def pool_size(self) -> int:
        workers = self.ask("/api/workers?refresh=true&workername=w1@lab")
        return int(workers["w1@lab"]["stats"]["pool"]["max-concurrency"])

    def shrink_to(self, size: int) -> bool:
        """Shrink the pool by one process, which has to be idle, unless it has that size."""
        if self.pool_size() > size:
            with suppress(urllib.error.HTTPError):
                message = self.ask("/api/worker/pool/shrink/w1@lab", n=1)["message"]
                assert "Shrinking" in message
        return self.pool_size() == size


@pytest.fixture(scope="module")
def flower(
    redis_server: Any, flower_python: str, our_python: str, tmp_path_factory: Any
) -> Iterator[Flower]:
    folder = tmp_path_factory.mktemp("flower")
    site = Site(
        f"redis://127.0.0.1:{redis_server.port}/5", f"redis://127.0.0.1:{redis_server.port}/6"
    )
    env = {
        **site.environment(), "PYTHONPATH": str(ROOT), "FLOWER_UNAUTHENTICATED_API": "true",
    }  # fmt: skip
    port = free_port()
    with ExitStack() as stack:
        worker = [
            our_python, "-m", "celery", "-A", "flower_app", "worker", "-n", "w1@lab", "-c", "1",
            "-E", "-l", "INFO",
        ]  # fmt: skip
        stack.enter_context(program(*worker, cwd=APPS, env=env))
        command = [
            flower_python, "-m", "celery", "-A", "flower_app", "flower", f"--port={port}",
            "--address=127.0.0.1",
        ]  # fmt: skip
        stack.enter_context(program(*command, cwd=APPS, env=env))
        running = Flower(f"http://127.0.0.1:{port}", folder / "gate")

        def sees_worker() -> bool:
            try:
                known = running.ask("/api/workers?refresh=true")
            except OSError:
                return False
            return "stats" in known.get("w1@lab", {})

        eventually(sees_worker)
        yield running
        running.gate.touch()


def test_the_api_runs_tasks_and_tells_about_them(flower: Flower) -> None:
    added, failed = flower.send("flower.add", 40, 2), flower.send("flower.fail")
    flower.wait_for(added, "SUCCESS")
    flower.wait_for(failed, "FAILURE")

    assert flower.ask(f"/api/task/result/{added}")["result"] == 42
    info = flower.ask(f"/api/task/info/{added}")
    assert (info["name"], info["args"], info["result"]) == ("flower.add", "[40, 2]", "42")
    assert info["worker"] == "w1@lab"
    info = flower.ask(f"/api/task/info/{failed}")
    assert info["exception"] == "ValueError('boom')"
    assert "Traceback" in info["traceback"]
    assert {added, failed} <= flower.ask("/api/tasks").keys()
    assert {"flower.add", "flower.fail"} <= set(flower.ask("/api/task/types")["task-types"])
    assert flower.ask("/api/queues/length")["active_queues"][0]["name"] == "celery"
    assert flower.ask("/healthcheck") == "OK"
    metrics = flower.ask("/metrics")
    assert 'flower_worker_online{worker="w1@lab"} 1.0' in metrics


def test_the_api_steers_workers(flower: Flower) -> None:
    pool = "/api/worker/pool"
    assert flower.pool_size() == 1
    assert "Growing" in flower.ask(f"{pool}/grow/w1@lab", n=2)["message"]
    eventually(lambda: flower.pool_size() == 3)
    eventually(lambda: flower.shrink_to(1))
    answer = flower.ask("/api/task/rate-limit/flower.add", workername="w1@lab", ratelimit="100/m")
    assert answer == {"message": "new rate limit set successfully"}
    answer = flower.ask("/api/task/timeout/flower.add", workername="w1@lab", hard=60, soft=30)
    assert answer == {"message": "time limits set successfully"}
    answer = flower.ask("/api/worker/queue/add-consumer/w1@lab", queue="extra")
    assert answer == {"message": "add consumer extra"}
    answer = flower.ask("/api/worker/queue/cancel-consumer/w1@lab", queue="extra")
    assert answer == {"message": "no longer consuming from extra"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        flower.ask(f"{pool}/autoscale/w1@lab", min=1, max=3)
    assert "Autoscale not enabled" in caught.value.read().decode()


def test_the_api_ends_tasks(flower: Flower) -> None:
    running = flower.send("flower.wait_for", str(flower.gate))
    flower.wait_for(running, "STARTED")
    waiting = flower.send("flower.add", 1, 2)
    flower.wait_for(waiting, "RECEIVED")

    assert "Revoked" in flower.ask(f"/api/task/revoke/{waiting}", terminate="false")["message"]
    assert "Revoked" in flower.ask(f"/api/task/revoke/{running}", terminate="true")["message"]
    flower.wait_for(running, "REVOKED")
    flower.wait_for(waiting, "REVOKED")


# -- the pages


@pytest.fixture
def browse(flower_python: str, tmp_path: Path) -> Iterator[Callable[..., list[Any]]]:
    """Run steps in a browser; returns what they read."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        missing("chromium is not installed; t/harness/install-servers.sh chromium does so")
    profile = tmp_path / "profile"
    command = (chromium, *CHROMIUM, f"--user-data-dir={profile}", "about:blank")
    with program(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        file = profile / "DevToolsActivePort"
        port = eventually(lambda: file.exists() and file.read_text().split("\n")[0])

        def run(*steps: tuple[str, str]) -> list[Any]:
            done = subprocess.run(
                [flower_python, str(APPS / "browser.py"), port],
                input=json.dumps(steps),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            seen: list[Any] = json.loads(done.stdout)
            return seen

        yield run


def shows(text: str) -> tuple[str, str]:
    # What is written in capitals is up to the style.
    lower = json.dumps(text.lower())
    return ("until", f"document.body.innerText.toLowerCase().includes({lower})")


def click(selector: str) -> tuple[str, str]:
    return ("do", f"document.querySelector({json.dumps(selector)}).click()")


def fill(selector: str, value: str) -> tuple[str, str]:
    return ("do", f"document.querySelector({json.dumps(selector)}).value = {json.dumps(value)}")


def test_the_pages_show_and_steer(flower: Flower, browse: Callable[..., list[Any]]) -> None:
    flower.gate.unlink(missing_ok=True)
    # An earlier test may have left a limit.
    flower.ask("/api/task/rate-limit/flower.add", workername="w1@lab", ratelimit="0")
    done = flower.send("flower.add", 20, 22)
    flower.wait_for(done, "SUCCESS")
    limit = "document.getElementById('task-rate-limit-flower.fail')"

    browse(
        ("open", f"{flower.url}/workers"),
        shows("w1@lab"),
        shows("Online"),
        ("open", f"{flower.url}/worker/w1@lab"),
        shows("Pool controls"),
        fill("#pool-size", "1"),
        click("#worker-pool-grow"),
        shows("Growing"),
        click("#worker-pool-shrink"),
        shows("Shrinking"),
        click("#worker-tab-limits"),
        shows("flower.fail"),
        ("do", f"{limit}.closest('div').querySelector('input').value = '7'"),
        ("do", f"{limit}.click()"),
        shows("new rate limit set successfully"),
    )

    running = flower.send("flower.wait_for", str(flower.gate))
    flower.wait_for(running, "STARTED")
    (result,) = browse(
        ("open", f"{flower.url}/tasks"),
        shows("flower.add"),
        shows(done[:8]),
        ("open", f"{flower.url}/task/{done}"),
        shows("flower.add"),
        shows("SUCCESS"),
        ("read", "document.body.innerText"),
        ("open", f"{flower.url}/task/{running}"),
        shows("STARTED"),
        click("#task-terminate"),
        shows("Revoked"),
        ("open", f"{flower.url}/broker"),
        shows("celery"),
    )
    assert "42" in result
    assert "w1@lab" in result
    flower.wait_for(running, "REVOKED")
