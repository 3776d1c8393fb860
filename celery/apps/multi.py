"""
Clusters of workers on one host: which nodes, with which options, and starting and stopping them.

Used by ``celery multi``. A command line names nodes and options; options may be meant for some
nodes only (``-c:2,3 4``). :class:`NamespacedOptionParser` takes it apart, :class:`MultiParser`
makes :class:`Node` objects of it, and a :class:`Cluster` starts them or sends them signals.
Nodes are found again by their pid files.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
from collections import OrderedDict, UserList, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from subprocess import Popen
from time import sleep
from typing import Any, ClassVar, TypeAlias

from celery.platforms import IS_WINDOWS, Pidfile, signal_name
from celery.utils.nodenames import gethostname, host_format, node_format, nodesplit

__all__ = ("Cluster", "Node")

CELERY_EXE = "celery"

#: Options of the umbrella command, which have to stand before the name of the command.
_GLOBAL_OPTIONS = frozenset(
    {
        "-A",
        "--app",
        "-b",
        "--broker",
        "--result-backend",
        "--loader",
        "--config",
        "--workdir",
        "-C",
        "--no-color",
        "-q",
        "--quiet",
    }
)

Argv = list[str]
Hook = Callable[..., Any]
#: Options by name, in the order given; None for those without a value.
Options = OrderedDict[str, Any]


def celery_exe(*args: str) -> str:
    """Return the words of a command line that starts the library."""
    return " ".join((CELERY_EXE, *args))


def build_nodename(name: str, prefix: str, suffix: str) -> tuple[str, str, str]:
    """
    Complete the name of a node.

    Returns:
        Full name, its part before and its part after the ``@``.
    """
    hostname = suffix
    if "@" in name:
        nodename = host_format(name)
        shortname, hostname = nodesplit(nodename)
        return nodename, shortname or "", hostname
    shortname = f"{prefix}{name}"
    return host_format(f"{shortname}@{hostname}"), shortname, hostname


def build_expander(nodename: str, shortname: str, hostname: str) -> Callable[[str], str]:
    """Return a function that replaces ``%n`` and its like for one node."""
    return partial(
        node_format,
        name=nodename,
        N=shortname,
        d=hostname,
        h=nodename,
        i="%i",
        I="%I",
    )


def format_opt(opt: str, value: Any) -> str:
    """Return an option as one word (``--opt=value``) or two (``-o value``)."""
    if not value:
        return opt
    separator = "=" if opt.startswith("--") else " "
    return f"{opt}{separator}{value}"


def maybe_call(fun: Hook | None, *args: Any, **kwargs: Any) -> None:
    """Call *fun*, if it is one."""
    if fun is not None:
        fun(*args, **kwargs)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for a callback that was not given."""


class NamespacedOptionParser:
    """
    Takes a command line apart whose options may name nodes: ``-c:1,2 4``, ``--opt:node=value``.

    Attributes:
        options: Options for all nodes.
        values: Words that are no options: the names of nodes.
        passthrough: What followed ``--``, as text.
        namespaces: Options by what they named.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args = args
        self.options: Options = OrderedDict()
        self.values: list[str] = []
        self.passthrough = ""
        self.namespaces: dict[str, Options] = defaultdict(OrderedDict)

    def parse(self) -> None:
        """Fill the attributes."""
        rest = [arg for arg in self.args if arg]
        if "--" in rest:
            at = rest.index("--")
            self.passthrough = " ".join(rest[at + 1 :])
            del rest[at:]
        words = iter(enumerate(rest))
        for i, arg in words:
            if arg.startswith("--"):
                self.process_long_opt(arg[2:])
            elif arg[0] == "-" and len(arg) > 1:
                following = rest[i + 1] if i + 1 < len(rest) else ""
                has_value = bool(following) and following[0] != "-"
                self.process_short_opt(arg[1:], following if has_value else None)
                if has_value:
                    next(words)
            else:
                self.values.append(arg)

    def process_long_opt(self, arg: str, value: str | None = None) -> None:
        """Note ``--arg``, given without its dashes; it may contain the value."""
        name, separator, given = arg.partition("=")
        self.add_option(name, given if separator else value, short=False)

    def process_short_opt(self, arg: str, value: str | None = None) -> None:
        """Note ``-arg value``, given without the dash."""
        self.add_option(arg, value, short=True)

    def optmerge(self, ns: str, defaults: Mapping[str, Any] | None = None) -> Options:
        """Return the options for all nodes, or *defaults*, under those of *ns*."""
        base = self.options if defaults is None else defaults
        return OrderedDict({**base, **self.namespaces[ns]})

    def add_option(self, name: str, value: Any, short: bool = False, ns: str | None = None) -> None:
        """Note an option; a colon in its name is followed by the nodes it is for."""
        plain, colon, nodes = name.partition(":")
        target = self.namespaces[nodes] if colon else self.options
        if ns is not None and not colon:
            target = self.namespaces[ns]
        target[("-" if short else "--") + plain] = value


class Node:
    """
    One worker: how it is started, and where it can be found.

    Args:
        name: Full node name.
        cmd: Command to start it with, after the interpreter.
        append: Words at the end of its command line.
        options: Its options.
        extra_args: More words, before those at the end.
    """

    def __init__(
        self,
        name: str,
        cmd: str | None = None,
        append: str | None = None,
        options: Mapping[str, Any] | None = None,
        extra_args: str | None = None,
    ) -> None:
        self.name = name
        self.cmd = cmd or f"-m {celery_exe('worker', '--detach')}"
        self.append = append
        self.extra_args = extra_args or ""
        self.options = self._with_defaults(options or {})
        shortname, hostname = nodesplit(name)
        self.expander = build_expander(name, shortname or "", hostname)
        self.argv = self._prepare_argv()
        self._pid: int | None = None

    @classmethod
    def from_kwargs(cls, name: str, **kwargs: Any) -> Node:
        """Make a node whose options are given as keyword arguments."""
        options = OrderedDict(
            (f"-{key}" if len(key) == 1 else f"--{key.replace('_', '-')}", value)
            for key, value in kwargs.items()
        )
        return cls(name, options=options)

    def _with_defaults(self, given: Mapping[str, Any]) -> Options:
        options: Options = OrderedDict(given)
        for names, default in (
            (("--pidfile", "-p"), "/var/run/celery/%n.pid"),
            (("--logfile", "-f"), "/var/log/celery/%n%I.log"),
            (("--executable",), sys.executable),
        ):
            for name in names:
                if name in options:
                    options[name] = os.path.expanduser(options[name])
                    break
            else:
                options[names[0]] = default
        return options

    def _prepare_argv(self) -> tuple[str, ...]:
        expand = self.expander
        command = [expand(word) for word in self.cmd.split(" ")]
        if CELERY_EXE not in command:
            raise ValueError(
                f"The command of a node must contain the word {CELERY_EXE!r}, as in "
                f"'-m celery worker --detach', not {self.cmd!r}"
            )
        at = command.index(CELERY_EXE) + 1
        options = OrderedDict(self.options)
        before = [
            word
            for name in list(options)
            if name in _GLOBAL_OPTIONS
            for word in self._words(name, options.pop(name))
        ]
        own = [("-n", self.name)]
        executable = options.pop("--executable", None)
        after = [word for name, value in options.items() for word in self._words(name, value)]
        after += [word for name, value in own for word in self._words(name, value)]
        if executable:
            after += self._words("--executable", executable)
        extra = [self.extra_args] if self.extra_args else []
        end = [expand(self.append)] if self.append else []
        return (*command[:at], *before, *command[at:], *after, *extra, *end)

    def _words(self, name: str, value: Any) -> list[str]:
        return [format_opt(name, self.expander(str(value)) if value else value)]

    def alive(self) -> bool:
        """Say whether its process lives."""
        return self.send(0)

    def send(self, sig: int, on_error: Hook | None = None) -> bool:
        """
        Send its process a signal.

        Args:
            on_error: Called with the node when there is no such process.

        Returns:
            Whether there is a process.
        """
        pid = self.pid
        if not pid:
            maybe_call(on_error, self)
            return False
        try:
            os.kill(pid, sig)
        except OSError as exc:
            if exc.errno != errno.ESRCH:
                raise
            maybe_call(on_error, self)
            return False
        return True

    def start(self, env: Mapping[str, str] | None = None, **kwargs: Any) -> int:
        """
        Start it and wait until it has detached.

        Args:
            env: Its environment.
            kwargs: Callbacks ``on_spawn``, ``on_signalled`` and ``on_failure``.

        Returns:
            Exit code of the process that detached.
        """
        return self._waitexec(
            self.argv, path=self.executable, env=env or dict(os.environ), **kwargs
        )

    def _waitexec(
        self,
        argv: Sequence[str],
        path: str,
        env: Mapping[str, str],
        on_spawn: Hook | None = None,
        on_signalled: Hook | None = None,
        on_failure: Hook | None = None,
    ) -> int:
        command = self.prepare_argv(argv, path)
        maybe_call(on_spawn, self, argstr=" ".join(command), env=env)
        with Popen(command, env=env) as process:
            return self.handle_process_exit(
                process.wait(), on_signalled=on_signalled, on_failure=on_failure
            )

    def handle_process_exit(
        self,
        retcode: int,
        on_signalled: Hook | None = None,
        on_failure: Hook | None = None,
    ) -> int:
        """Tell what the exit code means, and return it without sign."""
        if retcode < 0:
            maybe_call(on_signalled, self, -retcode)
            return -retcode
        if retcode > 0:
            maybe_call(on_failure, self, retcode)
        return retcode

    def prepare_argv(self, argv: Sequence[str], path: str) -> Argv:
        """Return the command line for the operating system."""
        return shlex.split(" ".join([path, *argv]), posix=not IS_WINDOWS)

    def getopt(self, *alt: str) -> Any:
        """
        Return the value of an option by any of its names.

        Raises:
            KeyError: It has none of them.
        """
        for name in alt:
            if name in self.options:
                return self.options[name]
        raise KeyError(alt[0])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"

    @cached_property
    def pidfile(self) -> str:
        """Path of its pid file."""
        return self.expander(self.getopt("--pidfile", "-p"))

    @cached_property
    def logfile(self) -> str:
        """Path of its log file, the index of the process left open."""
        return self.expander(self.getopt("--logfile", "-f"))

    @property
    def pid(self) -> int | None:
        """Id of its process, from the pid file; None without one."""
        if self._pid is None:
            # A file that is broken tells as little as none.
            with suppress(ValueError):
                return Pidfile(self.pidfile).read_pid()
        return self._pid

    @pid.setter
    def pid(self, value: int | None) -> None:
        self._pid = value

    @cached_property
    def executable(self) -> str:
        """The interpreter it runs with."""
        return str(self.options["--executable"])

    @cached_property
    def argv_with_executable(self) -> tuple[str, ...]:
        """The whole command line."""
        return (self.executable, *self.argv)


#: The class, for annotations where another attribute has its name.
_Node: TypeAlias = Node


class MultiParser:
    """
    Makes nodes of a parsed command line.

    Args:
        cmd: Command to start a node with.
        append: Words at the end of each command line.
        prefix: Before the names of nodes.
        suffix: Host part of the names; this host's by default.
        range_prefix: Before the numbers, where nodes are given as a number.
    """

    Node: ClassVar[type[_Node]] = Node

    def __init__(
        self,
        cmd: str = "celery worker",
        append: str = "",
        prefix: str = "",
        suffix: str = "",
        range_prefix: str = "celery",
    ) -> None:
        self.cmd = cmd
        self.append = append
        self.prefix = prefix
        self.suffix = suffix
        self.range_prefix = range_prefix

    def parse(self, p: NamespacedOptionParser) -> Iterator[_Node]:
        """Yield the nodes that *p* describes."""
        names, options = p.values, OrderedDict(p.options)
        given_prefix = options.pop("--prefix", self.prefix) or ""
        short, long = options.pop("-n", None), options.pop("--hostname", None)
        # Either a pattern of the whole name, as %n@example.com, or the part for the host.
        pattern = long or short or ""
        host_part = "" if "@" in pattern else pattern
        suffix = options.pop("--suffix", self.suffix) or host_part or gethostname()
        range_prefix = options.pop("--range-prefix", "") or given_prefix or self.range_prefix
        cmd = options.pop("--cmd", self.cmd)
        append = options.pop("--append", self.append)
        is_range = len(names) == 1 and names[0].isdigit()
        if is_range:
            names = [str(number) for number in range(1, int(names[0]) + 1)]
        prefix = range_prefix if is_range else given_prefix
        by_node = self._resolve_namespaces(p, names)
        for name in names:
            nodename, shortname, host = build_nodename(name, prefix, suffix)
            if "@" in pattern:
                nodename = host_format(pattern, host=host, name=shortname)
            yield self.Node(
                nodename,
                cmd=cmd,
                append=append,
                options=OrderedDict({**options, **by_node.get(name, {})}),
                extra_args=p.passthrough,
            )

    def _resolve_namespaces(
        self, p: NamespacedOptionParser, names: Sequence[str]
    ) -> dict[str, Options]:
        """
        Return the options of each node that options were meant for.

        Raises:
            KeyError: A number is beyond the last node.
        """
        found: dict[str, Options] = defaultdict(OrderedDict)
        for ns, options in p.namespaces.items():
            for part in ns.split(","):
                for name in self._named(part, names):
                    found[name].update(options)
        return found

    def _named(self, part: str, names: Sequence[str]) -> Iterable[str]:
        if part in names:
            return (part,)
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            return (part,)
        wanted = range(int(first), int(last or first) + 1)
        if wanted.start < 1 or wanted.stop > len(names) + 1:
            raise KeyError(f"No node at index {part!r}")
        return [names[index - 1] for index in wanted]


class Cluster(UserList[Node]):
    """
    Several nodes; the callbacks tell what is done to them.

    Args:
        nodes: The nodes.
        cmd: Command to start a node with.
        env: Environment of the nodes.
        on_stopping_preamble: Called with the nodes before signals are sent.
        on_send_signal: Called with node and name of the signal.
        on_still_waiting_for: Called with the nodes that live yet.
        on_still_waiting_progress: Called with them at each look.
        on_still_waiting_end: Called when there are none.
        on_node_start: Called with each node that is started.
        on_node_restart: Called with each node that is restarted.
        on_node_shutdown_ok: Called with each node that has ended after a restart's signal.
        on_node_status: Called with node and exit code after its start.
        on_node_signal: Called with node and name of the signal.
        on_node_signal_dead: Called with a node that could not be signalled.
        on_node_down: Called with a node that was not running.
        on_child_spawn: Called with node, command line and environment.
        on_child_signalled: Called with node and the signal that ended its start.
        on_child_failure: Called with node and the exit code of a failed start.
    """

    on_child_failure: Hook
    on_child_signalled: Hook
    on_child_spawn: Hook
    on_node_down: Hook
    on_node_restart: Hook
    on_node_shutdown_ok: Hook
    on_node_signal: Hook
    on_node_signal_dead: Hook
    on_node_start: Hook
    on_node_status: Hook
    on_send_signal: Hook
    on_still_waiting_end: Hook
    on_still_waiting_for: Hook
    on_still_waiting_progress: Hook
    on_stopping_preamble: Hook

    def __init__(
        self,
        nodes: Iterable[Node],
        cmd: str | None = None,
        env: Mapping[str, str] | None = None,
        on_stopping_preamble: Hook | None = None,
        on_send_signal: Hook | None = None,
        on_still_waiting_for: Hook | None = None,
        on_still_waiting_progress: Hook | None = None,
        on_still_waiting_end: Hook | None = None,
        on_node_start: Hook | None = None,
        on_node_restart: Hook | None = None,
        on_node_shutdown_ok: Hook | None = None,
        on_node_status: Hook | None = None,
        on_node_signal: Hook | None = None,
        on_node_signal_dead: Hook | None = None,
        on_node_down: Hook | None = None,
        on_child_spawn: Hook | None = None,
        on_child_signalled: Hook | None = None,
        on_child_failure: Hook | None = None,
    ) -> None:
        given = dict(locals())
        # A callback that was not given does nothing, so that no call of one has to ask.
        vars(self).update({k: v or _nothing for k, v in given.items() if k.startswith("on_")})
        self.nodes = list(nodes)
        self.env = env
        self.cmd = cmd or celery_exe("worker")

    @property
    def data(self) -> list[Node]:  # type: ignore[override]  # the list is called nodes here
        """The nodes."""
        return self.nodes

    def start(self) -> list[int]:
        """Start all nodes; return their exit codes."""
        return list(map(self.start_node, self.nodes))

    def start_node(self, node: Node) -> int:
        """Start one node; return the exit code of its start."""
        return self._bring_up(node, self.on_node_start)

    def _bring_up(self, node: Node, announce: Hook) -> int:
        announce(node)
        Path(node.pidfile).parent.mkdir(parents=True, exist_ok=True)
        code = node.start(
            self.env,
            on_failure=self.on_child_failure,
            on_signalled=self.on_child_signalled,
            on_spawn=self.on_child_spawn,
        )
        self.on_node_status(node, code)
        return code

    def restart(self, sig: int = signal.SIGTERM) -> list[int]:
        """Stop all nodes with a signal, each started again when it is down."""
        codes: list[int] = []
        self._stop_nodes(
            retry=2,
            on_down=lambda node: codes.append(self._bring_up(node, self.on_node_restart)),
            sig=sig,
            restart_down=True,
        )
        return codes

    def kill(self) -> None:
        """Kill all nodes at once; their tasks are lost."""
        self.send_all(signal.SIGKILL)

    def send_all(self, sig: int) -> None:
        """Send all nodes a signal."""
        announced = signal_name(sig)
        for node in self.nodes:
            if not node.pid:
                self.on_node_down(node)
                continue
            self.on_node_signal(node, announced)
            node.send(sig, self.on_node_signal_dead)

    def stop(
        self,
        retry: float | None = None,
        callback: Hook | None = None,
        sig: int = signal.SIGTERM,
    ) -> None:
        """Send all nodes a signal, and wait for their end if *retry* seconds are given."""
        self._stop_nodes(retry=retry, on_down=callback, sig=sig)

    def stopwait(
        self,
        retry: float = 2,
        callback: Hook | None = None,
        sig: int = signal.SIGTERM,
    ) -> None:
        """Send all nodes a signal and look every *retry* seconds until they have ended."""
        self._stop_nodes(retry=retry, on_down=callback, sig=sig)

    def _stop_nodes(
        self,
        retry: float | None,
        on_down: Hook | None,
        sig: int,
        restart_down: bool = False,
    ) -> None:
        ended = on_down or self.on_node_down
        running = list(self.getpids(on_down=ended if restart_down else self.on_node_down))
        if running:
            for node in self.shutdown_nodes(running, sig=sig, retry=retry):
                ended(node)

    def shutdown_nodes(
        self,
        nodes: Iterable[Node],
        sig: int = signal.SIGTERM,
        retry: float | None = None,
    ) -> Iterator[Node]:
        """
        Send nodes a signal and yield each when it is down.

        Args:
            sig: The signal.
            retry: Seconds between looks; without it only those are yielded that are down at once.
        """
        waiting = list(nodes)
        self.on_stopping_preamble(waiting)
        for node in list(waiting):
            self.on_send_signal(node, signal_name(sig))
            if not node.send(sig, self.on_node_signal_dead):
                waiting.remove(node)
                yield node
        if retry:
            yield from self._wait_for_end(waiting, float(retry))

    def _wait_for_end(self, waiting: list[Node], interval_s: float) -> Iterator[Node]:
        self.on_still_waiting_for(waiting)
        while waiting:
            ended = self._first_ended(waiting)
            if ended is not None:
                self.on_node_shutdown_ok(ended)
                waiting.remove(ended)
                yield ended
                self.on_still_waiting_for(waiting)
            if waiting:
                sleep(interval_s)
        self.on_still_waiting_end()

    def _first_ended(self, waiting: list[Node]) -> Node | None:
        for node in waiting:
            self.on_still_waiting_progress(waiting)
            if not node.alive():
                return node
        return None

    def find(self, name: str) -> Node:
        """
        Return the node of that name.

        Raises:
            KeyError: There is none.
        """
        return {node.name: node for node in self.nodes}[name]

    def getpids(self, on_down: Hook | None = None) -> Iterator[Node]:
        """Yield the nodes that have a pid file; *on_down* is called with the others."""
        down = on_down or _nothing
        for node in self.nodes:
            if not node.pid:
                down(node)
                continue
            yield node

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({len(self)}): {', '.join(n.name for n in self)}>"
