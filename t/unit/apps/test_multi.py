"""Clusters of workers: names, options and command lines of nodes, and what is done to them."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from celery.apps import multi
from celery.apps.multi import Cluster, MultiParser, NamespacedOptionParser, Node
from celery.bin.multi import MultiTool
from celery.utils.nodenames import gethostname


def nodes(*words: str, **options: Any) -> list[Node]:
    parser = NamespacedOptionParser(list(words))
    parser.parse()
    options.setdefault("cmd", "-m celery worker --detach")
    return list(MultiParser(**options).parse(parser))


def names(*words: str) -> list[str]:
    return [node.name for node in nodes(*words)]


HOST = gethostname()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["3"], [f"celery1@{HOST}", f"celery2@{HOST}", f"celery3@{HOST}"]),
        (["2", "--range-prefix=zz"], [f"zz1@{HOST}", f"zz2@{HOST}"]),
        (["foo", "bar"], [f"foo@{HOST}", f"bar@{HOST}"]),
        (["foo", "3"], [f"foo@{HOST}", f"3@{HOST}"]),
        (["a@example.com"], ["a@example.com"]),
        (["a@%h"], [f"a@{HOST}"]),
        (["foo", "--suffix=S"], ["foo@S"]),
        (["2", "-n", "example.com"], ["celery1@example.com", "celery2@example.com"]),
        (["2", "-n", "%n@example.com"], ["celery1@example.com", "celery2@example.com"]),
    ],
)
def test_nodes_are_named(words: list[str], expected: list[str]) -> None:
    """B-CLI-038, B-CLI-039: a number is a range, other words are names, @host is kept.

    B-CLI-040: %n in -n is the name alone, so no name has two hosts.
    """
    assert names(*words) == expected


def test_options_are_meant_for_all_or_some_nodes() -> None:
    """B-CLI-041: -opt:NODES value for names, comma lists, index lists and ranges."""
    found = nodes("a", "b", "c", "-c", "1", "-c:2-3", "4", "-Q:c", "big", "--foo:a,b=x", "-E")
    options = {node.name.partition("@")[0]: node.options for node in found}

    assert [options[name]["-c"] for name in "abc"] == ["1", "4", "4"]
    assert "-Q" not in options["a"]
    assert options["c"]["-Q"] == "big"
    assert options["a"]["--foo"] == options["b"]["--foo"] == "x"
    assert "--foo" not in options["c"]
    assert all(each["-E"] is None for each in options.values())


def test_an_index_beyond_the_last_node_is_an_error() -> None:
    with pytest.raises(KeyError, match="No node at index"):
        nodes("2", "-c:5", "4")


def test_the_command_line_of_a_node() -> None:
    """B-CLI-042, B-CLI-043: -m celery -A APP worker --detach OPTIONS -n NODE --executable=…."""
    (node,) = nodes("w@h", "-A", "proj", "-l", "INFO", "--pidfile=%n.pid", "--", "--extra", "x")

    assert node.argv_with_executable == (
        sys.executable,
        "-m",
        "celery",
        "-A proj",
        "worker",
        "--detach",
        "-l INFO",
        "--pidfile=w.pid",
        "--logfile=/var/log/celery/w%I.log",
        "-n w@h",
        f"--executable={sys.executable}",
        "--extra x",
    )
    assert node.prepare_argv(node.argv, node.executable)[3:5] == ["-A", "proj"]


def test_files_have_default_places() -> None:
    """B-CLI-042: /var/run/celery/%n.pid and /var/log/celery/%n%I.log."""
    (node,) = nodes("w@h")

    assert node.pidfile == "/var/run/celery/w.pid"
    assert node.logfile == "/var/log/celery/w%I.log"


def test_a_tilde_is_the_home_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """B-CLI-053: a leading ~ is expanded for the invoking user."""
    monkeypatch.setenv("HOME", "/home/me")

    assert nodes("w@h", "--pidfile=~/%n.pid")[0].pidfile == "/home/me/w.pid"


def test_a_command_without_celery_is_refused() -> None:
    """B-CLI-050: a custom --cmd must contain the word celery, else ValueError."""
    with pytest.raises(ValueError, match="'celery'"):
        nodes("w@h", cmd="-m something worker")


def test_nodes_are_made_of_keywords() -> None:
    node = Node.from_kwargs("w@h", Q="q", max_tasks_per_child=5)

    assert node.getopt("-Q") == "q"
    assert node.getopt("--nosuch", "--max-tasks-per-child") == 5
    with pytest.raises(KeyError):
        node.getopt("--nosuch")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (node,) = nodes("w@h", f"--pidfile={tmp_path}/run/%n.pid", f"--logfile={tmp_path}/%n.log")
    return node


def test_a_node_is_found_by_its_pid_file(node: Node) -> None:
    down: list[Node] = []
    assert node.pid is None
    assert not node.send(signal.SIGTERM, down.append)
    assert down == [node]

    Path(node.pidfile).parent.mkdir()
    Path(node.pidfile).write_text(f"{os.getpid()}\n")
    assert node.pid == os.getpid()
    assert node.alive()


def test_a_stale_pid_file_means_that_a_node_is_down(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.pid = 4321

    def kill(pid: int, sig: int) -> None:
        raise OSError(errno.ESRCH, "no such process")

    monkeypatch.setattr(os, "kill", kill)
    assert not node.alive()

    def forbidden(pid: int, sig: int) -> None:
        raise OSError(errno.EPERM, "not yours")

    monkeypatch.setattr(os, "kill", forbidden)
    with pytest.raises(OSError, match="not yours"):
        node.alive()


class Process:
    """Takes the place of a process that ends at once."""

    code = 0
    started: list[list[str]] = []

    def __init__(self, command: list[str], env: Any = None) -> None:
        self.started.append(command)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing."""

    def wait(self) -> int:
        return self.code


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    monkeypatch.setattr(multi, "Popen", Process)
    monkeypatch.setattr(Process, "started", [])
    return Process


def test_starting_makes_the_folder_of_the_pid_file(node: Node, process: type[Process]) -> None:
    cluster = Cluster([node])

    assert cluster.start() == [0]
    assert Path(node.pidfile).parent.is_dir()
    assert process.started == [node.prepare_argv(node.argv, node.executable)]


@pytest.mark.parametrize(("code", "told"), [(0, []), (3, [("failed", 3)]), (-9, [("signal", 9)])])
def test_how_a_start_went_is_told(
    node: Node,
    process: type[Process],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    told: list[Any],
) -> None:
    monkeypatch.setattr(process, "code", code)
    seen: list[Any] = []
    cluster = Cluster(
        [node],
        on_child_failure=lambda node, code: seen.append(("failed", code)),
        on_child_signalled=lambda node, signum: seen.append(("signal", signum)),
    )

    assert cluster.start() == [abs(code)]
    assert seen == told


class Alive:
    """Processes by pid, which end some looks after a signal."""

    def __init__(self, *nodes: Node, looks: int = 2) -> None:
        self.looks = {}
        for pid, node in enumerate(nodes, start=100):
            node.pid = pid
            self.looks[pid] = looks
        self.signalled: list[tuple[int, int]] = []

    def kill(self, pid: int, sig: int) -> None:
        if sig:
            self.signalled.append((pid, sig))
            return
        self.looks[pid] -= 1
        if self.looks[pid] < 0:
            raise OSError(errno.ESRCH, "gone")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[list[Node], Alive]:
    both = nodes("a@h", "b@h", f"--pidfile={tmp_path}/%n.pid")
    alive = Alive(*both)
    monkeypatch.setattr(os, "kill", alive.kill)
    monkeypatch.setattr(multi, "sleep", lambda seconds: None)
    return both, alive


def test_stopwait_looks_until_all_nodes_have_ended(two: tuple[list[Node], Alive]) -> None:
    """B-CLI-048: stop sends TERM to pids from pidfiles, stopwait waits for them."""
    both, alive = two
    down: list[str] = []

    Cluster(both, on_node_down=lambda node: down.append(node.name)).stopwait()

    assert alive.signalled == [(100, signal.SIGTERM), (101, signal.SIGTERM)]
    assert sorted(down) == ["a@h", "b@h"]


def test_stop_waits_for_nobody(two: tuple[list[Node], Alive]) -> None:
    both, alive = two

    Cluster(both).stop(sig=signal.SIGINT)

    assert alive.signalled == [(100, signal.SIGINT), (101, signal.SIGINT)]
    assert all(looks == 2 for looks in alive.looks.values())


def test_kill_ends_nodes_at_once(two: tuple[list[Node], Alive]) -> None:
    """B-CLI-048: kill (KILL)."""
    both, alive = two

    Cluster(both).kill()

    assert alive.signalled == [(100, signal.SIGKILL), (101, signal.SIGKILL)]


def test_restart_starts_each_node_that_has_ended(
    two: tuple[list[Node], Alive], process: type[Process]
) -> None:
    both, _ = two

    assert Cluster(both).restart() == [0, 0]
    assert len(process.started) == 2


def test_a_cluster_is_a_list_of_nodes(two: tuple[list[Node], Alive]) -> None:
    both, _ = two
    cluster = Cluster(both)

    assert list(cluster) == both
    assert cluster.find("b@h") is both[1]
    assert repr(cluster) == "<Cluster(2): a@h, b@h>"
    with pytest.raises(KeyError):
        cluster.find("c@h")


# -- the program


class Output:
    def __init__(self) -> None:
        import io

        self.out, self.err = io.StringIO(), io.StringIO()

    def run(self, *words: str) -> int:
        tool = MultiTool(stdout=self.out, stderr=self.err, nosplash=True, no_color=True)
        self.code = tool.execute_from_commandline(["celery multi", *words])
        return self.code

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


@pytest.fixture
def output() -> Output:
    return Output()


def test_names_and_formats_are_printed(output: Output) -> None:
    """B-CLI-044: %i and %I are kept for the worker, %h is the full node name."""
    output.run("names", "2")
    output.run("expand", "%n-%h-%d-%i-%I-%%", "a@x.y")

    assert output.lines == [f"celery1@{HOST}", f"celery2@{HOST}", "a-a@x.y-x.y-%i-%I-%"]


def test_command_lines_are_printed(output: Output) -> None:
    """B-CLI-043: multi show prints the commands; get prints that of one node."""
    assert output.run("show", "2", "-A", "proj") == 0
    assert len(output.lines) == 2
    assert output.lines[0].startswith(f"{sys.executable} -m celery -A proj worker --detach")

    assert output.run("get", f"celery2@{HOST}", "2", "-A", "proj") == 0
    assert f"-n celery2@{HOST}" in output.lines[-1]
    assert output.run("get", "nosuch@h", "2") == 1


def test_an_unknown_command_shows_the_usage(output: Output) -> None:
    """B-CLI-049: Invalid command: nosuch and the usage."""
    assert output.run("nosuch") == 1
    assert output.err.getvalue() == "Invalid command: nosuch\n"
    assert output.lines[0] == "usage: celery multi COMMAND ..."
    assert output.run() == 1
    assert output.run("show", "2", "-c:9", "1") == 1
    assert "No node at index '9'" in output.err.getvalue()


def test_starting_prints_each_node(
    output: Output, process: type[Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B-CLI-048: > Starting nodes... and > NODE: OK per node."""
    assert output.run("start", "w@h", f"--pidfile={tmp_path}/%n.pid") == 0
    assert output.lines == ["> Starting nodes...", "\t> w@h: OK"]

    monkeypatch.setattr(process, "code", 2)
    assert output.run("start", "w@h", f"--pidfile={tmp_path}/%n.pid") == 1
    assert "* Child terminated with exit code 2" in output.out.getvalue()
    assert output.lines[-1] == "FAILED"


def test_stopping_prints_signals_and_ends(
    output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B-CLI-046: > NODE: TERM -> PID, > Waiting for N nodes -> PIDS..., > NODE: DOWN."""
    looks = iter([None, None, OSError(errno.ESRCH, "gone")])

    def kill(pid: int, sig: int) -> None:
        found = next(looks)
        if found is not None:
            raise found

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(multi, "sleep", lambda seconds: None)
    (tmp_path / "w.pid").write_text("4321\n")

    output.run("stopwait", "w@h", f"--pidfile={tmp_path}/%n.pid")
    text = output.out.getvalue()
    assert "> w@h: TERM -> 4321" in text
    assert "> Waiting for 1 node -> 4321..." in text
    assert "> w@h: DOWN" in text

    (tmp_path / "w.pid").unlink()
    output.run("stop", "w@h", f"--pidfile={tmp_path}/%n.pid")
    assert output.lines[-1] == "> w@h: DOWN"


@pytest.mark.parametrize(
    ("word", "signum"), [("-9", 9), ("-INT", signal.SIGINT), ("-E", signal.SIGTERM)]
)
def test_the_signal_may_be_chosen(word: str, signum: int) -> None:
    """B-CLI-048: stop sends TERM (-SIG to change)."""
    parser = NamespacedOptionParser(["w@h", word])
    parser.parse()

    assert MultiTool(nosplash=True)._find_sig_argument(parser) == signum


def test_nothing_is_printed_when_quiet() -> None:
    output = Output()
    output.run("--quiet", "stop", "w@h", "--pidfile=/nonexistent/%n.pid")

    assert output.out.getvalue() == ""


@pytest.mark.parametrize(
    "words", [["start"], ["start", "-A", "proj"], ["stop", "0"], ["get"], ["expand", "%n"]]
)
def test_a_command_without_nodes_says_so_and_fails(words, capsys) -> None:
    assert MultiTool(nosplash=True).execute_from_commandline(["celery multi", *words]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"No nodes to {words[0]}: say how many or which, see celery multi help\n"
