"""Commands as a user sees them, on a terminal of 80 columns."""

from __future__ import annotations

import pytest

from t.harness.servers import RabbitMQServer, free_port
from t.harness.worker import WorkerProcess
from t.integration.cli.conftest import Program, shown, terminal

pytestmark = pytest.mark.redis


def test_what_workers_tell(program: Program, worker: WorkerProcess) -> None:
    """B-CLI-013, B-CLI-014, B-CLI-020: replies, how many there were, empty lists."""
    assert shown(program, "status", "-t", "3") == "->  w1@lab: OK\n\n1 node online."
    assert shown(program, "inspect", "ping", "-t", "3") == (
        "->  w1@lab: OK\n    pong\n\n1 node online."
    )
    assert shown(program, "inspect", "active", "-t", "3") == (
        "->  w1@lab: OK\n    - empty -\n\n1 node online."
    )
    assert shown(program, "control", "rate_limit", "proj.add", "5/m", "-t", "3") == (
        "->  w1@lab: OK\n    new rate limit set successfully"
    )


def test_silence_is_explained(program: Program) -> None:
    """B-CLI-012: exit code 69; how long was waited, and for whom."""
    text = shown(program, "inspect", "ping", "-d", "a@x,b@x", "-t", "0.5", code=69)
    assert "No nodes replied within time constraint" in text
    assert "waited 0.5 s for a@x" in text
    text = shown(program, "status", "-t", "0.5", code=69)
    assert " s for any worker." in " ".join(text.split())


def test_an_unreachable_broker_is_named(program: Program) -> None:
    """B-CLI-010: which URL, which error."""
    port = free_port()
    text = shown(program, "inspect", "ping", code=69, T_BROKER=f"redis://127.0.0.1:{port}/0")

    joined = text.replace("\n", "")
    assert "Could not connect to the message broker" in joined
    assert str(port) in joined
    assert "refused" in joined


@pytest.mark.rabbitmq
def test_what_rabbitmq_refuses_is_told(program: Program, rabbitmq_server: RabbitMQServer) -> None:
    """One sentence, whether it is the password or the virtual host; and nothing is called done."""
    wrong_password = f"amqp://guest:wrong@127.0.0.1:{rabbitmq_server.port}//"
    wrong_vhost = f"amqp://guest:guest@127.0.0.1:{rabbitmq_server.port}/nowhere"
    for words, broker, reason in (
        (["status"], wrong_password, "ACCESS_REFUSED - Login was refused"),
        (["events", "--dump"], wrong_password, "ACCESS_REFUSED - Login was refused"),
        (["purge", "-f"], wrong_password, "ACCESS_REFUSED - Login was refused"),
        (["inspect", "ping"], wrong_vhost, "NOT_ALLOWED - vhost nowhere not found"),
    ):
        text = " ".join(shown(program, *words, code=69, T_BROKER=broker).split())
        assert "Error: The message broker refuses this. Please make sure that user" in text
        assert reason in text
        assert "Traceback" not in text


def test_deleting_asks_first(program: Program) -> None:
    """B-CLI-024: a warning with the names of the queues, and a question."""
    program.output("call", "proj.add", "-a", "[1, 2]")
    with terminal(program, "purge") as screen:
        screen.wait_for("celery", "[y/N]")
        screen.press("n\r")
        assert screen.wait() == 1
        assert "Aborted!" in screen.text()
    with terminal(program, "purge") as screen:
        screen.wait_for("[y/N]")
        screen.press("y\r")
        assert screen.wait() == 0
        assert "Purged 1 message from 1 known task queue." in screen.text()


def test_the_shell_has_the_app_and_its_tasks(program: Program) -> None:
    """B-CLI-033."""
    with terminal(program, "shell", "--python") as screen:
        screen.wait_for(">>>")
        screen.press("app.main, add(40, 2), group\r")
        screen.wait_for("('proj', 42, <class")
        screen.press("exit()\r")
        assert screen.wait() == 0


def test_the_broker_can_be_talked_to(program: Program) -> None:
    """B-CLI-032: the prompt counts commands."""
    with terminal(program, "amqp") as screen:
        screen.wait_for("1>")
        screen.press("queue.declare zz\r")
        screen.wait_for("queue:zz messages:0 consumers:0", "2>")
        screen.press("\x04")
        assert screen.wait() == 0
