"""
``celery multi``: start and stop several workers on one host.

``celery multi start 3 -A proj -c:1 2`` and the like; :mod:`celery.apps.multi` does the work, this
module prints what is done.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from typing import IO, Any, ClassVar

import click

from celery.apps.multi import Cluster, MultiParser, NamespacedOptionParser, Node
from celery.bin.base import CeleryCommand
from celery.platforms import EX_FAILURE, EX_OK, signals
from celery.utils import term
from celery.utils.text import pluralize

__all__ = ("MultiTool",)

USAGE = """\
usage: {prog_name} COMMAND ...

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
Options for {prog_name} itself: --nosplash, --quiet, --verbose, --no-color.
"""

Command = Callable[..., Any]

# How much is printed.
_SILENT, _NORMAL, _TALKATIVE = range(3)


def splash(fun: Command) -> Command:
    """Print name and version before the command *fun*."""

    @wraps(fun)
    def greeted(self: MultiTool, *args: Any, **kwargs: Any) -> Any:
        self.splash()
        return fun(self, *args, **kwargs)

    return greeted


def using_cluster(fun: Command) -> Command:
    """Give the command *fun* the cluster that its arguments describe."""

    @wraps(fun)
    def with_cluster(self: MultiTool, *argv: str, **kwargs: Any) -> Any:
        return fun(self, self.cluster_from_argv(argv), **kwargs)

    return with_cluster


def using_cluster_and_sig(fun: Command) -> Command:
    """Give the command *fun* the cluster and the signal that its arguments describe."""

    @wraps(fun)
    def with_cluster_and_signal(self: MultiTool, *argv: str, **kwargs: Any) -> Any:
        p, cluster = self._cluster_from_argv(argv)
        return fun(self, cluster, self._find_sig_argument(p), **kwargs)

    return with_cluster_and_signal


def _exit_code(codes: Sequence[int]) -> int:
    return EX_FAILURE if any(codes) else EX_OK


class TermLogger:
    """Prints messages, errors and progress to a terminal."""

    splash_text = "celery multi v{version}"
    splash_context: ClassVar[dict[str, str]] = {"version": "5.7.0"}

    #: Exit code in the end.
    retcode = EX_OK

    prog_name = "celery multi"

    def setup_terminal(
        self,
        stdout: IO[str] | None,
        stderr: IO[str] | None,
        nosplash: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        no_color: bool = False,
        **kwargs: Any,
    ) -> None:
        """Say where and how much is printed."""
        out, err = stdout or sys.stdout, stderr or sys.stderr
        self.stdout, self.stderr = out, err
        self.no_color, self.nosplash = no_color, nosplash
        self.quiet, self.verbose = quiet, verbose

    def say(self, m: Any, newline: bool = True, file: IO[str] | None = None) -> None:
        """Print *m*."""
        print(m, file=file or self.stdout, end="\n" if newline else "", flush=True)

    def note(self, msg: Any, newline: bool = True) -> None:
        """Print *msg*, unless nothing is wanted."""
        self._say_from(_NORMAL, msg, newline)

    def info(self, msg: Any, newline: bool = True) -> None:
        """Print *msg* if much is wanted."""
        self._say_from(_TALKATIVE, msg, newline)

    def _say_from(self, level: int, msg: Any, newline: bool) -> None:
        wanted = _SILENT if self.quiet else _TALKATIVE if self.verbose else _NORMAL
        if wanted >= level:
            self.say(msg, newline)

    def carp(self, m: Any, newline: bool = True, file: IO[str] | None = None) -> None:
        """Print *m* to standard error."""
        self.say(m, newline, file if file is not None else self.stderr)

    def error(self, msg: Any = None) -> int:
        """Print *msg* and the usage; return the exit code for failure."""
        if msg:
            self.carp(msg)
        self.usage()
        return EX_FAILURE

    def ok(self, m: Any, newline: bool = True, file: IO[str] | None = None) -> int:
        """Print *m* and return the exit code for success."""
        self.say(m, newline, file)
        return EX_OK

    @splash
    def usage(self) -> None:
        """Print the usage."""
        self.say(USAGE.format(prog_name=self.prog_name))

    @cached_property
    def colored(self) -> term.colored:
        """A painter for terminal text."""
        return term.colored(enabled=self.stdout.isatty() and not self.no_color)

    def splash(self) -> None:
        """Print name and version."""
        if self.nosplash:
            return
        line = self.splash_text.format_map(self.splash_context)
        self.note(self.colored.cyan(line))


class NoNodes(Exception):
    """A command line names no nodes."""


class MultiTool(TermLogger):
    """The program ``celery multi``."""

    MultiParser: ClassVar[type[MultiParser]] = MultiParser
    OptionParser: ClassVar[type[NamespacedOptionParser]] = NamespacedOptionParser

    #: Options of this program itself.
    reserved_options: ClassVar[list[tuple[str, str]]] = [
        ("--nosplash", "nosplash"),
        ("--quiet", "quiet"),
        ("-q", "quiet"),
        ("--verbose", "verbose"),
        ("--no-color", "no_color"),
    ]

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        cmd: str | None = None,
        fh: IO[str] | None = None,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.env = env
        self.cmd = cmd
        # An old name for the output.
        self.fh = fh
        self.setup_terminal(stdout or fh, stderr, **kwargs)
        self.prog_name = "celery multi"
        self.commands: dict[str, Command] = {
            "start": self.start,
            "show": self.show,
            "stop": self.stop,
            "stopwait": self.stopwait,
            "stop_verify": self.stopwait,
            "restart": self.restart,
            "kill": self.kill,
            "names": self.names,
            "expand": self.expand,
            "get": self.get,
            "help": self.help,
        }

    def execute_from_commandline(self, argv: Sequence[str], cmd: str | None = None) -> int:
        """Run the command of a command line whose first word is the program; return the code."""
        words = self._handle_reserved_options(list(argv))
        self.cmd = cmd if cmd is not None else self.cmd
        self.prog_name = os.path.basename(words.pop(0))
        if words and words[0] in ("--help", "-h"):
            words[0] = "help"
        if not self.validate_arguments(words):
            return self.error()
        return self.call_command(words[0], words[1:])

    def validate_arguments(self, argv: Sequence[str]) -> bool:
        """Say whether there is a command."""
        return bool(argv) and argv[0][0] != "-"

    def call_command(self, command: str, argv: Sequence[str]) -> int:
        """Run a command; return its exit code."""
        run = self.commands.get(command)
        if run is None:
            return self.error(f"Invalid command: {command}")
        try:
            return run(*argv) or EX_OK
        except NoNodes:
            self.carp(f"No nodes to {command}: say how many or which, see {self.prog_name} help")
            return EX_FAILURE
        except KeyError as exc:
            return self.error(f"Invalid arguments: {exc.args[0] if exc.args else exc}")

    def _handle_reserved_options(self, argv: list[str]) -> list[str]:
        kept = []
        ours = dict(self.reserved_options)
        at = argv.index("--") if "--" in argv else len(argv)
        for word in argv[:at]:
            if word in ours:
                setattr(self, ours[word], True)
            else:
                kept.append(word)
        return kept + argv[at:]

    # -- commands

    @splash
    @using_cluster
    def start(self, cluster: Cluster) -> int:
        """Start the nodes."""
        self.note("> Starting nodes...")
        return _exit_code(cluster.start())

    @splash
    @using_cluster_and_sig
    def restart(self, cluster: Cluster, sig: int, **kwargs: Any) -> int:
        """Stop the nodes and start them again."""
        return _exit_code(cluster.restart(sig=sig, **kwargs))

    @splash
    @using_cluster_and_sig
    def stop(self, cluster: Cluster, sig: int, **kwargs: Any) -> None:
        """Send the nodes a signal."""
        cluster.stop(sig=sig, **kwargs)

    @splash
    @using_cluster_and_sig
    def stopwait(self, cluster: Cluster, sig: int, **kwargs: Any) -> None:
        """Send the nodes a signal and wait for their end."""
        cluster.stopwait(sig=sig, **kwargs)

    stop_verify = stopwait

    @using_cluster
    def names(self, cluster: Cluster) -> None:
        """Print the names of the nodes."""
        for node in cluster:
            self.say(node.name)

    def get(self, wanted: str = "", *argv: str) -> int:
        """Print the command line of one node."""
        try:
            node = self.cluster_from_argv(argv).find(wanted)
        except KeyError:
            return EX_FAILURE
        return self.ok(" ".join(node.argv))

    @using_cluster
    def show(self, cluster: Cluster) -> int:
        """Print the command lines of the nodes."""
        return self.ok("\n".join(" ".join(node.argv_with_executable) for node in cluster))

    @splash
    @using_cluster
    def kill(self, cluster: Cluster) -> None:
        """Kill the nodes."""
        cluster.kill()

    def expand(self, template: str = "", *argv: str) -> int:
        """Print a text with its formats replaced, for each node."""
        cluster = self.cluster_from_argv(argv)
        return self.ok("\n".join(node.expander(template) for node in cluster))

    def help(self, *argv: str) -> None:
        """Print the usage."""
        self.say(USAGE.format(prog_name=self.prog_name))

    # -- nodes

    def _find_sig_argument(self, p: NamespacedOptionParser) -> int:
        """Return the signal among the options (``-9``, ``-INT``), TERM by default."""
        for name in reversed(list(p.options)):
            short = name[1:]
            if name.startswith("--") or p.options[name] is not None:
                continue
            if short.isdigit():
                return int(short)
            if short.isupper() and signals.supported(short):
                return int(signals.signum(short))
        return signal.SIGTERM

    def _nodes_from_argv(
        self, argv: Sequence[str], cmd: str | None = None
    ) -> tuple[NamespacedOptionParser, list[Node]]:
        p = self.OptionParser(argv)
        p.parse()
        command = cmd or self.cmd
        parser = self.MultiParser(cmd=command or "-m celery worker --detach")
        return p, list(parser.parse(p))

    def _cluster_from_argv(
        self, argv: Sequence[str], cmd: str | None = None
    ) -> tuple[NamespacedOptionParser, Cluster]:
        p, nodes = self._nodes_from_argv(argv, cmd=cmd)
        if not nodes:
            raise NoNodes
        return p, self.Cluster(nodes, cmd=cmd)

    def cluster_from_argv(self, argv: Sequence[str], cmd: str | None = None) -> Cluster:
        """Return the cluster that a command line describes."""
        return self._cluster_from_argv(argv, cmd=cmd)[1]

    def Cluster(self, nodes: Sequence[Node], cmd: str | None = None) -> Cluster:
        """Return a cluster that tells this object what is done."""
        hooks = (
            "on_stopping_preamble",
            "on_send_signal",
            "on_still_waiting_for",
            "on_still_waiting_progress",
            "on_still_waiting_end",
            "on_node_start",
            "on_node_restart",
            "on_node_shutdown_ok",
            "on_node_status",
            "on_node_signal",
            "on_node_signal_dead",
            "on_node_down",
            "on_child_spawn",
            "on_child_signalled",
            "on_child_failure",
        )
        callbacks = {name: getattr(self, name) for name in hooks}
        return _Cluster(nodes, cmd=cmd, env=self.env, **callbacks)

    # -- what is done to them

    def on_stopping_preamble(self, nodes: Sequence[Node]) -> None:
        """Print that nodes are stopped."""
        self.note(self.colored.blue("> Stopping nodes..."))

    def on_send_signal(self, node: Node, sig: str) -> None:
        """Print that a node is sent a signal."""
        self.note(f"\t> {node.name}: {sig} -> {node.pid}")

    def on_still_waiting_for(self, nodes: Sequence[Node]) -> None:
        """Print for which nodes we wait."""
        if nodes:
            pids = ", ".join(str(node.pid) for node in nodes if node.pid) or "ending"
            count = f"{len(nodes)} {pluralize(len(nodes), 'node')}"
            self.note(self.colored.blue(f"> Waiting for {count} -> {pids}..."), newline=False)

    def on_still_waiting_progress(self, nodes: Sequence[Node]) -> None:
        """Print that we still wait."""
        self.note(".", newline=False)

    def on_still_waiting_end(self) -> None:
        """End the line of dots."""
        self.note("")

    def on_node_signal_dead(self, node: Node) -> None:
        """Print that a node has no process."""
        self.note(f"Could not signal {node.name} ({node.pid}): No such process")

    def on_node_start(self, node: Node) -> None:
        """Print that a node is started."""
        self.note(f"\t> {node.name}: ", newline=False)

    def on_node_restart(self, node: Node) -> None:
        """Print that a node is restarted."""
        self.note(self.colored.blue(f"> Restarting node {node.name}: "), newline=False)

    def on_node_down(self, node: Node) -> None:
        """Print that a node is down."""
        self.note(f"> {node.name}: {self.DOWN}")

    def on_node_shutdown_ok(self, node: Node) -> None:
        """Print that a node ended."""
        self.note(f"\n\t> {node.name}: {self.OK}")

    def on_node_status(self, node: Node, retval: int) -> None:
        """Print how the start of a node went."""
        self.note(self.FAILED if retval else self.OK)

    def on_node_signal(self, node: Node, sig: str) -> None:
        """Print that a node is sent a signal, where that is no question of stopping it."""
        self.note(f"Sending {sig} to node {node.name} ({node.pid})")

    def on_child_spawn(self, node: Node, argstr: str, env: Mapping[str, str]) -> None:
        """Print a command line, if much is wanted."""
        self.info(f"  {argstr}")

    def on_child_signalled(self, node: Node, signum: int) -> None:
        """Print that the start of a node was ended by a signal."""
        self.note(f"* Child was terminated by signal {signum}")

    def on_child_failure(self, node: Node, retcode: int) -> None:
        """Print that the start of a node failed."""
        self.note(f"* Child terminated with exit code {retcode}")

    @cached_property
    def OK(self) -> str:
        """The word OK in green."""
        return str(self.colored.green("OK"))

    @cached_property
    def FAILED(self) -> str:
        """The word FAILED in red."""
        return str(self.colored.red("FAILED"))

    @cached_property
    def DOWN(self) -> str:
        """The word DOWN in magenta."""
        return str(self.colored.magenta("DOWN"))


#: The class, under a name that no method of the program has.
_Cluster = Cluster


class _MultiCommand(CeleryCommand):
    """A command that takes its words as they were written, ``--`` included."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse nothing."""
        ctx.args = list(args)
        return ctx.args


@click.command(
    "multi",
    cls=_MultiCommand,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
@click.pass_context
def multi(ctx: click.Context) -> None:
    """Start and stop several workers: multi start 3 -A proj; multi help tells more."""
    cmd = MultiTool(quiet=ctx.obj.quiet, no_color=ctx.obj.no_color)
    words = list(ctx.args)
    app = ctx.parent.params.get("app") if ctx.parent is not None else None
    if app and words and not {"-A", "--app"}.intersection(words):
        # The umbrella command has taken this option; the nodes need it too.
        at = words.index("--") if "--" in words else len(words)
        words[at:at] = ["-A", app]
    ctx.exit(cmd.execute_from_commandline(["celery multi", *words]))


def main() -> None:
    """Run the program."""
    sys.exit(MultiTool().execute_from_commandline(["celery multi", *sys.argv[1:]]))
