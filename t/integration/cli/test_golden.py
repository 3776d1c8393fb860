"""What commands print on a terminal of 80 columns, word by word."""

from __future__ import annotations

import re
import socket
import textwrap
from itertools import takewhile

import pytest

from t.harness.servers import free_port
from t.harness.worker import WorkerProcess
from t.integration.cli.conftest import Program, shown, terminal

pytestmark = pytest.mark.redis

LOG = """\
[2026-01-01 10:00:00,001: INFO/MainProcess] w1@h ready.
[2026-01-01 10:00:01,001: INFO/MainProcess] Task proj.add[id-1] received
[2026-01-01 10:00:01,002: INFO/ForkPoolWorker-1] Task proj.add[id-1] succeeded in 0.1s: 3
[2026-01-01 10:00:02,001: INFO/MainProcess] Task proj.fail[id-2] received
[2026-01-01 10:00:02,002: ERROR/ForkPoolWorker-1] Task proj.fail[id-2] raised unexpected: E()
Traceback (most recent call last):
  File "tasks.py", line 1, in fail
E
[2026-01-01 10:00:03,001: INFO/MainProcess] Task proj.add[id-3] received
"""

OLD_SETTINGS = "BROKER_URL = 'redis://'\nCELERYD_CONCURRENCY = 4\n"

CAMERA = """
from celery.events.snapshot import Polaroid

class Camera(Polaroid):
    def on_shutter(self, state):
        print("workers:", sorted(state.workers), flush=True)
"""

MULTI_USAGE = """
    usage: celery multi COMMAND ...

    NODES is a number (3 means celery1, celery2 and celery3) or a list of names.

        start NODES [WORKER OPTIONS]      start nodes as daemons
        restart NODES [-SIG] [OPTIONS]    stop nodes and start each again
        stop NODES [-SIG]                 send nodes a signal (-TERM by default)
        stopwait NODES [-SIG]             the same, and wait until they have ended
        kill NODES                        end nodes at once, running tasks are lost

        names NODES                       print node names
        show NODES [WORKER OPTIONS]       print the command lines of start
        get NODE NODES [WORKER OPTIONS]   print the command line of one of them
        expand TEMPLATE NODES             print a text, with %n, %h and %d replaced
                                          for each node
        help                              print this

    Options of one node, or some, name them after a colon: -c:2 8, -Q:1-3,big batch.
    Options for celery multi itself: --nosplash, --quiet, --verbose, --no-color.
    """

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def other_broker(program: Program) -> str:
    return program.env["T_BROKER"].rsplit("/", 1)[0] + "/9"


def same(program: Program, words: str, expected: str, code: int = 0) -> None:
    """Run a command and compare what the terminal shows; names of this run are made stable."""
    broker, other = program.env["T_BROKER"], other_broker(program)
    words = words.replace("BROKER", broker).replace("OTHER", other)
    text = UUID.sub("ID", shown(program, *words.split(), code=code))
    names = ((broker.replace("://", "://:**@"), "BROKER"), (socket.gethostname(), "HOST"))
    for found, name in names:
        text = text.replace(found, name)
    assert text == textwrap.dedent(expected).strip("\n")


def test_logs_are_evaluated(program: Program) -> None:
    """B-CLI-030."""
    (program.folder / "w.log").write_text(LOG)
    same(
        program,
        "logtool stats w.log",
        """
        Report
        ======

        Task total: 3
        Task errors: 1
        Task success: 1
        Task completed: 2

        Tasks
        =====
        proj.add   2
        proj.fail  1
        """,
    )
    same(
        program,
        "logtool traces w.log",
        """
        Traceback (most recent call last):
          File "tasks.py", line 1, in fail
        E
        """,
    )
    same(
        program,
        "logtool errors w.log",
        """
        [2026-01-01 10:00:02,002: ERROR/ForkPoolWorker-1] Task proj.fail[id-2] raised un
        expected: E()
        """,
    )
    same(program, "logtool incomplete w.log", "Did not complete: proj.add[id-3]")
    ready = "[2026-01-01 10:00:00,001: INFO/MainProcess] w1@h ready."
    same(program, "logtool debug w.log", ready)
    error = "Error: Cannot read none.log: No such file or directory"
    same(program, "logtool stats none.log", error, code=1)


def test_settings_are_upgraded(program: Program) -> None:
    """B-CLI-029."""
    file = program.folder / "old.py"
    file.write_text(OLD_SETTINGS)
    same(
        program,
        "upgrade settings old.py",
        """
        processing old.py...
        writing backup to old.py.orig...
        Changes to your setting have been made!
        """,
    )
    assert file.read_text() == "broker_url = 'redis://'\nworker_concurrency = 4\n"
    assert (program.folder / "old.py.orig").read_text() == OLD_SETTINGS
    same(
        program,
        "upgrade settings old.py",
        """
        processing old.py...
        Your settings are already up to date.
        """,
    )


def test_tasks_migrate(program: Program) -> None:
    """B-CLI-031."""
    same(program, "call proj.add -a [1,2]", "ID")
    same(
        program,
        "migrate BROKER OTHER -t 0.2",
        """
        Migrating task 1/1: proj.add[ID]
        1 task migrated.
        """,
    )
    same(program, "migrate BROKER OTHER -t 0.2", "0 tasks migrated.")
    same(
        program,
        "migrate foo://nowhere OTHER",
        """
        Usage: python -m celery migrate [OPTIONS] SOURCE DESTINATION
        Try 'python -m celery migrate --help' for help.

        Error: The source 'foo://nowhere' is no URL of a broker: No such transport:
        foo.
        """,
        code=2,
    )


def test_a_broker_that_is_away_is_told_of_readably(program: Program) -> None:
    """B-CLI-010: its URL, what went wrong, and what to do."""
    port = free_port()
    away = f"redis://:secret@127.0.0.1:{port}/0"
    text = shown(program, "status", code=69, T_BROKER=away)
    assert text.splitlines()[:2] == [
        "Error: Could not connect to the message broker. Please make sure your broker",
        "(e.g., RabbitMQ or Redis) is running and the connection settings are correct.",
    ]
    joined = " ".join(text.split())
    assert f"Reason: OperationalError: redis://:**@127.0.0.1:{port}/0: Error 111" in joined
    assert f"(while running 'status' with redis://:**@127.0.0.1:{port}/0)." in joined
    assert text.endswith(
        "\n\nThe URL is taken from the setting broker_url, from the environment variable\n"
        "CELERY_BROKER_URL or from the option --broker."
    )
    text = shown(program, "migrate", away, other_broker(program), code=69)
    assert text.startswith(f"Error: Could not connect to the source redis://:**@127.0.0.1:{port}/0")


def test_what_no_worker_answers_is_told_with_the_queues(program: Program) -> None:
    """B-CLI-012: how long was waited, for whom, where, and what waits there."""
    for _ in range(2):
        program.output("call", "proj.add", "-a", "[1, 2]")
    same(
        program,
        "inspect ping -t 0.3",
        """
        Error: No nodes replied within time constraint: waited 0.3 s for any worker.

            broker  BROKER
            queue   celery: 2 waiting

        Is a worker running, with this app and this broker? A busy one answers
        later: see -t. 'celery doctor' looks deeper.
        """,
        code=69,
    )
    same(
        program,
        "control enable_events -t 0.3 -d w1",
        """
        Error: No nodes replied within time constraint: waited 0.3 s for w1.

            broker  BROKER
            queue   celery: 2 waiting

        The names of nodes have an @, as in celery@host; 'celery status' lists
        them. 'celery doctor' looks deeper.
        """,
        code=69,
    )


@pytest.mark.rabbitmq
def test_a_queue_that_nobody_reads_is_named_where_the_broker_knows(
    program: Program, amqp_url: str
) -> None:
    program.env["T_BROKER"] = amqp_url
    assert "queue   celery: nothing waits there\n" in shown(program, "status", "-t", ".3", code=69)
    program.output("call", "proj.add", "-a", "[1, 2]")
    text = shown(program, "status", "-t", "0.3", code=69)

    assert "\n    queue   celery: 1 waiting, nobody consumes\n" in text


def test_several_workers_are_described(program: Program) -> None:
    """B-CLI-038, B-CLI-042, B-CLI-043, B-CLI-044, B-CLI-046, B-CLI-049."""
    same(
        program,
        "multi names 3",
        """
        celery1@HOST
        celery2@HOST
        celery3@HOST
        """,
    )
    first, second = program.output("multi", "show", "2", "-c:1", "4").splitlines()
    for line, name in ((first, "celery1"), (second, "celery2")):
        assert "-m celery -A proj worker --detach " in line
        assert f" -n {name}@{socket.gethostname()}" in line
        assert (" -c 4" in line) is (name == "celery1")
    same(
        program,
        "multi expand %n-%d a@x b@y",
        """
        a-x
        b-y
        """,
    )
    same(
        program,
        "multi stopwait w9@lab --pidfile=%n.pid",
        """
        celery multi v5.7.0
        > w9@lab: DOWN
        """,
    )
    same(program, "multi help", MULTI_USAGE)
    same(program, "multi --help", MULTI_USAGE)
    text = shown(program, "multi", "nosuch", code=1)
    assert text == "Invalid command: nosuch\ncelery multi v5.7.0\n" + textwrap.dedent(
        MULTI_USAGE
    ).strip("\n")


def test_the_broker_is_shown_and_talked_to(program: Program) -> None:
    """B-CLI-023, B-CLI-032."""
    same(
        program,
        "list bindings",
        f"""
        Queue                        Exchange                     Routing Key
        {"=" * 70}
        celery                       celery                       celery
        """,
    )
    same(
        program,
        "amqp queue.declare zz",
        """
        -> connecting to BROKER.
        -> connected.
        queue:zz messages:0 consumers:0
        OK
        """,
    )


def test_schedules_are_shown(program: Program) -> None:
    store = f"--store=sqlite:///{program.folder / 'beat.db'}"
    same(program, f"schedule {store} list", "There are no entries.")
    same(program, f"schedule {store} add hourly proj.add --every 3600", "OK: hourly was added")
    same(
        program,
        f"schedule {store} list",
        """
        hourly: proj.add <freq: 1.00 hour> (run time)
            runs: 0, last or first seen: never
        """,
    )


def test_a_mistake_names_the_way_out(program: Program) -> None:
    """B-CLI-001, B-CLI-006, B-CLI-018, B-CLI-021."""
    same(
        program,
        "status -A proj",
        """
        Usage: python -m celery [OPTIONS] [COMMAND] [ARGS]...
        Try 'python -m celery --help' for help.

        Error: -A is an option of 'celery' itself and has to come before the command:

            celery -A VALUE status ...
        """,
        code=2,
    )
    same(
        program,
        "control ping",
        """
        Usage: python -m celery control [OPTIONS] COMMAND
        Try 'python -m celery control --help' for help.

        Error: Command ping not recognized. Did you mean 'celery inspect ping'?
        Available control commands: add_consumer, autoscale, cancel_consumer,
        disable_events, election, enable_events, heartbeat, pool_grow, pool_restart,
        pool_shrink, rate_limit, revoke, revoke_by_stamped_headers, shutdown,
        terminate, time_limit
        """,
        code=2,
    )
    same(
        program,
        "events -c nosuch.Camera",
        """
        Usage: python -m celery events [OPTIONS]
        Try 'python -m celery events --help' for help.

        Error: Cannot load the camera 'nosuch.Camera': No module named 'nosuch'. Name a
        class, as in module.Class.
        """,
        code=2,
    )
    same(
        program,
        "call proj.add --countdown soon",
        """
        Usage: python -m celery call [OPTIONS] NAME
        Try 'python -m celery call --help' for help.

        Error: Invalid value for '--countdown': 'soon' is not a valid float.
        """,
        code=2,
    )


def test_drawings_and_reports_begin_as_they_should(program: Program) -> None:
    """B-CLI-027, B-CLI-028."""
    text = shown(program, "report")
    assert text.lstrip().startswith("software -> celery:5.7.0 kombu:")
    assert "settings -> transport:redis results:file://" in text
    for what in ("bootsteps worker", "bootsteps consumer", "workers nodes:a,b threads:2"):
        output = program.output("graph", *what.split())
        assert output.startswith("digraph dependencies {\n")
        assert output.endswith("}\n")
    root = re.search(r'root="(.+?)"]', output)
    # Programs that draw in circles put it in the middle.
    assert root is not None
    assert f'\n    "{root[1]}" [' in output


def test_workers_are_steered(program: Program, worker: WorkerProcess) -> None:
    """B-CLI-013, B-CLI-016, B-CLI-017, B-CLI-019, B-CLI-020, B-CLI-022."""
    same(
        program,
        "inspect registered",
        """
        ->  w1@lab: OK
            * proj.add
            * proj.fail

        1 node online.
        """,
    )
    same(
        program,
        "control rate_limit proj.add 5/x",
        """
        ->  w1@lab: ERROR
            Invalid rate limit '5/x': KeyError('x'); write it like 5, 10/m or 100/h
        """,
    )
    same(
        program,
        "control pool_grow",
        """
        ->  w1@lab: ERROR
            pool_grow is not supported: the pool 'solo' cannot change its size.
        """,
    )
    done = program.output("call", "proj.add", "-a", "[20, 22]").strip()
    same(program, f"result {done}", "42")
    text = shown(program, "inspect", "active_queues")
    # Longer than the screen.
    assert text.endswith("'max_priority': None}\n\n1 node online.")
    assert "\n       'routing_key': 'celery',\n" in text
    same(
        program,
        "control shutdown",
        """
        ->  w1@lab: OK
            told to shut down
        """,
    )
    assert worker.wait() == 0


def test_events_are_shown_and_photographed(program: Program) -> None:
    """B-CLI-034, B-EVT-016: as lines, and by a camera of the project."""
    (program.folder / "cam.py").write_text(CAMERA)
    with (
        program.worker("-n", "w1@lab", "-P", "solo", "-E"),
        terminal(program, "events", "--camera", "cam.Camera", "-F", "0.1") as camera,
        terminal(program, "events", "--dump") as dump,
    ):
        dump.wait_for("-> evdump: starting capture...", "heartbeat: active=0, clock=")
        task = program.output("call", "proj.add", "-a", "[1, 2]").strip()
        dump.wait_for("task succeeded: proj.add", "result=3")
        assert re.search(
            rf"w1@lab \[[\d-]+ [\d:.+]+\] task received: proj\.add\({task}\) args=\[1, 2\] kwargs=",
            "".join(dump.lines),
        )
        camera.wait_for("workers: ['w1@lab']")
        for screen in (camera, dump):
            screen.press("\x03")
            screen.wait()
            assert "Traceback" not in screen.output()


def test_workers_and_beat_introduce_themselves(program: Program) -> None:
    """What runs where is said in 80 columns; Ctrl-C ends it."""
    beat = f"beat -l INFO -s {program.folder / 'schedule'}"
    for words, greeting in (
        ("worker -n w1@lab -P solo -l INFO", "w1@lab ready."),
        (beat, "beat: Starting..."),
    ):
        with terminal(program, *words.split()) as screen:
            screen.wait_for(greeting)
            # Before it, Python may warn; behind it is the log.
            lines = iter(screen.output().partition("v5.7.0")[2].splitlines())
            banner = list(takewhile(lambda line: not line.startswith("[20"), lines))
            banner = [line for line in banner if str(program.folder) not in line]
            assert any(program.env["T_BROKER"][-8:] in line for line in banner)
            assert max(map(len, banner)) < 80
            screen.press("\x03")
            screen.wait()
            assert "Traceback" not in screen.output()
