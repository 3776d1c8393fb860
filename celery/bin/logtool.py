"""``celery logtool``: evaluate the log files of workers."""

from __future__ import annotations

import fileinput
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import click

from celery.bin.base import CeleryCommand, consume_preload_options, handle_preload_options

__all__ = ("logtool",)

#: Lines of a message, as opposed to those of a traceback that follows it.
RE_LOG_START = re.compile(r"^\[\d{4}-\d\d-\d\d ")
RE_TASK_RECEIVED = re.compile(r".+?\] Task .+? received|.+?\] Received task:")
RE_TASK_READY = re.compile(
    r".+?\] Task .+? (succeeded|raised|failed|retry|ignored|reject|received a soft)"
)
#: Name and id of a task.
RE_TASK_INFO = re.compile(r"([^\s\[\]:]+)\[([0-9a-zA-Z._:-]+)\]")
RE_TASK_RESULT = re.compile(r".+?\] Task .+?\] (\w+)")

REPORT_FORMAT = """\
Report
======

Task total: {task[total]}
Task errors: {task[errors]}
Task success: {task[succeeded]}
Task completed: {task[completed]}

Tasks
=====
{task[types].format}
"""

_ENDED_WELL = "succeeded"
_ENDED_BADLY = frozenset({"raised", "failed"})


def task_info(line: str) -> tuple[str, str]:
    """
    Return name and id of the task that a line speaks of.

    Raises:
        ValueError: It speaks of none.
    """
    # The process name in the prefix of the line may look like a task, too.
    found = RE_TASK_INFO.search(line, line.find("] ") + 1)
    if found is None:
        raise ValueError(f"no task in this line: {line!r}")
    return found[1], found[2]


class _TaskTypes(Counter[str]):
    """Numbers of tasks by name, which print as a table."""

    @property
    def format(self) -> str:
        """Names and numbers, the most frequent first."""
        if not self:
            return "- none -"
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {number}" for name, number in self.most_common())


class Audit:
    """
    Reads log lines and adds up what became of tasks.

    Args:
        on_task_error: Called with line, name, id and the word for the end of each failed task.
        on_trace: Called with the lines of each traceback.
        on_debug: Called with each line that speaks of no task.
    """

    def __init__(
        self,
        on_task_error: Callable[[str, str, str, str | None], Any] | None = None,
        on_trace: Callable[[list[str]], Any] | None = None,
        on_debug: Callable[[str], Any] | None = None,
    ) -> None:
        self.ids: set[str] = set()
        self.names: dict[str, str] = {}
        self.results: dict[str, str | None] = {}
        self.ready: set[str] = set()
        self.task_types = _TaskTypes()
        self.task_errors = 0
        self.on_task_error = on_task_error
        self.on_trace = on_trace
        self.on_debug = on_debug
        self.prev_line: str | None = None
        self._trace: list[str] = []

    def run(self, files: Iterable[str]) -> Audit:
        """Read files, or standard input if there are none."""
        try:
            with fileinput.input(tuple(files), encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self.feed(line)
        except OSError as exc:
            raise click.ClickException(f"Cannot read {exc.filename}: {exc.strerror}") from exc
        self._end_trace()
        return self

    def task_received(self, line: str, task_name: str, task_id: str) -> None:
        """Note that a task came."""
        self.names[task_id] = task_name
        self.ids.add(task_id)
        self.task_types[task_name] += 1

    def task_ready(self, line: str, task_name: str, task_id: str, result: str | None) -> None:
        """Note that a task ended."""
        self.ready.add(task_id)
        self.results[task_id] = result
        if result in _ENDED_BADLY:
            self.task_error(line, task_name, task_id, result)

    def task_error(self, line: str, task_name: str, task_id: str, result: str | None) -> None:
        """Note that a task failed."""
        self.task_errors += 1
        if self.on_task_error is not None:
            self.on_task_error(line, task_name, task_id, result)

    def feed(self, line: str) -> None:
        """Read one line."""
        if not RE_LOG_START.match(line):
            if self.prev_line is not None:
                self._trace.append(line)
            return
        self._end_trace()
        self.prev_line = line
        if RE_TASK_RECEIVED.match(line):
            self.task_received(line, *task_info(line))
        elif RE_TASK_READY.match(line):
            result = RE_TASK_RESULT.match(line)
            self.task_ready(line, *task_info(line), result[1] if result else None)
        elif self.on_debug is not None:
            self.on_debug(line)

    def _end_trace(self) -> None:
        trace, self._trace = self._trace, []
        is_trace = any(line.startswith("Traceback ") for line in trace)
        if is_trace and self.on_trace is not None:
            self.on_trace(trace)

    def incomplete_tasks(self) -> set[str]:
        """Return the ids of tasks that came and did not end."""
        return self.ids - self.ready

    def report(self) -> dict[str, Any]:
        """Return the sums, for :data:`REPORT_FORMAT`."""
        succeeded = sum(result == _ENDED_WELL for result in self.results.values())
        return {
            "task": {
                "types": self.task_types,
                "total": len(self.ids),
                "errors": self.task_errors,
                "completed": len(self.ready),
                "succeeded": succeeded,
            }
        }


@click.group("logtool", invoke_without_command=False, context_settings={"allow_extra_args": True})
def logtool() -> None:
    """Evaluate the log files of workers."""


def _command(name: str) -> Callable[[Any], click.Command]:
    """Return a decorator for a command that reads files."""

    def make(fun: Any) -> click.Command:
        prepared = click.pass_context(handle_preload_options(consume_preload_options(fun)))
        with_files = click.argument("files", nargs=-1)(prepared)
        command: click.Command = logtool.command(name, cls=CeleryCommand)(with_files)
        return command

    return make


@_command("stats")
def stats(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Count tasks, errors and successes in FILES."""
    click.echo(REPORT_FORMAT.format(**Audit().run(files).report()), nl=False)


@_command("traces")
def traces(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Print the tracebacks in FILES."""
    Audit(on_trace=lambda lines: click.echo("".join(lines))).run(files)


@_command("errors")
def errors(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Print the lines in FILES that tell of failed tasks."""
    Audit(on_task_error=lambda line, *_: click.echo(line, nl=False)).run(files)


@_command("incomplete")
def incomplete(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Print the tasks in FILES that came and did not end."""
    audit = Audit().run(files)
    for task_id in sorted(audit.incomplete_tasks()):
        click.echo(f"Did not complete: {audit.names[task_id]}[{task_id}]")


@_command("debug")
def debug(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Print the lines in FILES that speak of no task."""
    Audit(on_debug=lambda line: click.echo(line, nl=False)).run(files)
