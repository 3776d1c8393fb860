"""
A monitor in the terminal: ``celery events``.

One thread captures events into a state, another draws it. The lower half of the
screen lists the latest tasks, one of which is selected; keys do something with it.
"""

from __future__ import annotations

import curses
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import count
from math import ceil
from textwrap import wrap
from typing import TYPE_CHECKING, Any, ClassVar

from celery import _state, states
from celery.utils.text import abbr, abbrtask

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.events.state import State

__all__ = ("CursesMonitor", "evtop")

BORDER_SPACING = 4
LEFT_BORDER_OFFSET = 3
UUID_WIDTH = 36
STATE_WIDTH = 8
TIMESTAMP_WIDTH = 8
MIN_WORKER_WIDTH = 15
MIN_TASK_WIDTH = 16

STATUS_SCREEN = "events: {s.event_count} tasks: {s.task_count} workers: {w_alive}/{w_all}"


class CursesMonitor:
    """
    Draws a state and obeys keys.

    Args:
        keymap: Functions by key, over the usual ones.
    """

    keymap: Mapping[str, Callable[[], Any]] = {}
    win: Any = None
    #: Milliseconds to wait for a key.
    screen_delay = 10
    selected_task: str | None = None
    selected_position = 0
    selected_str = "Selected: "
    foreground = curses.COLOR_BLACK
    background = curses.COLOR_WHITE
    online_str = "Workers online: "
    help_title = "Keys: "
    help = "j:down k:up i:info t:traceback r:result c:revoke l:limit ^c: quit"
    greet = "celery events 5.7.0"
    info_str = "Info: "

    #: Keys that mean another one.
    keyalias: ClassVar[dict[int, str]] = {
        curses.KEY_DOWN: "J",
        curses.KEY_UP: "K",
        curses.KEY_ENTER: "I",
    }

    def __init__(
        self, state: State, app: Celery, keymap: Mapping[str, Callable[[], Any]] | None = None
    ) -> None:
        self.app = app
        self.state = state
        self.keymap = {
            "J": self.move_selection_down,
            "K": self.move_selection_up,
            "C": self.revoke_selection,
            "T": self.selection_traceback,
            "R": self.selection_result,
            "I": self.selection_info,
            "L": self.selection_rate_limit,
            **(self.keymap if keymap is None else keymap),
        }
        self.lock = threading.RLock()
        #: Attributes of text by state; complete once there is a screen.
        self.state_colors: dict[str, int] = {}

    # -- geometry

    @property
    def screen_width(self) -> int:
        """Columns of the terminal."""
        return int(self.win.getmaxyx()[1])

    @property
    def screen_height(self) -> int:
        """Lines of the terminal."""
        return int(self.win.getmaxyx()[0])

    @property
    def display_width(self) -> int:
        """Columns for text."""
        return self.screen_width - BORDER_SPACING

    @property
    def display_height(self) -> int:
        """Lines for tasks."""
        return self.screen_height - 10

    @property
    def limit(self) -> int:
        """Number of tasks that fit."""
        return self.display_height

    def format_row(self, uuid: str, task: str, worker: str, timestamp: str, state: str) -> str:
        """Return one line of the table, its columns fitted to the screen."""
        room = self.display_width - UUID_WIDTH - TIMESTAMP_WIDTH - STATE_WIDTH - 4
        worker_width = max(MIN_WORKER_WIDTH, room // 3)
        task_width = max(MIN_TASK_WIDTH, room - worker_width)
        columns = (
            abbr(uuid, UUID_WIDTH).ljust(UUID_WIDTH),
            abbr(worker, worker_width).ljust(worker_width),
            abbrtask(task, task_width).ljust(task_width),
            timestamp.ljust(TIMESTAMP_WIDTH),
            abbr(state, STATE_WIDTH).ljust(STATE_WIDTH),
        )
        return " ".join(columns)[: self.display_width].ljust(self.display_width)

    # -- selection

    def find_position(self) -> int:
        """Return the line of the selected task, 0 if it isn't on the screen."""
        for i, (uuid, _) in enumerate(self.tasks):
            if uuid == self.selected_task:
                return i
        return 0

    def move_selection_up(self) -> None:
        """Select the task above."""
        self.move_selection(-1)

    def move_selection_down(self) -> None:
        """Select the task below."""
        self.move_selection(1)

    def move_selection(self, direction: int = 1) -> None:
        """Select the task *direction* lines below."""
        tasks = self.tasks
        if tasks:
            at = min(max(self.find_position() + direction, 0), len(tasks) - 1)
            self.selected_task = tasks[at][0]

    def handle_keypress(self) -> None:
        """Obey one key, if there is one."""
        try:
            key = self.win.getkey().upper()
        except curses.error:
            return
        code = getattr(curses, key, None) if key.startswith("KEY_") else None
        key = self.keyalias.get(code, key) if code is not None else key
        handler = self.keymap.get(key)
        if handler is not None:
            handler()

    # -- dialogues

    def alert(self, callback: Callable[[int, int, int], Any], title: str | None = None) -> None:
        """
        Show another screen until a key is pressed.

        Args:
            callback: Draws it: called with height, width and first line; returns the next one.
        """
        self.win.erase()
        y = count(2)
        if title:
            self.safe_add_str(next(y), 3, title, curses.A_BOLD | curses.A_UNDERLINE)
        callback(self.screen_height, self.screen_width, next(y))
        self.safe_add_str(self.screen_height - 1, 0, "Press any key to continue...", curses.A_BOLD)
        self.win.refresh()
        while True:
            try:
                self.win.getkey()
                return
            except curses.error:
                continue

    def _show_lines(self, title: str, text: str) -> None:
        def draw(height: int, width: int, y: int) -> None:
            lines = [part for line in text.splitlines() for part in wrap(line, width - 6) or [""]]
            for line in lines[: height - y - 2]:
                self.safe_add_str(y, 3, line)
                y += 1

        self.alert(draw, title)

    def selection_rate_limit(self) -> None:
        """Ask for a rate limit of the selected task's type, and set it."""
        task = self._selection()
        if task is None or not task.name:
            return curses.beep()

        def ask(height: int, width: int, y: int) -> None:
            self.safe_add_str(y, 3, "New rate limit: ")
            limit = self.readline(y + 2, 3)
            if limit:
                reply = self.app.control.rate_limit(task.name, limit.strip(), reply=True)
                self.alert_remote_control_reply(reply)

        return self.alert(ask, f"Rate limit of {task.name}")

    def alert_remote_control_reply(self, reply: Any) -> None:
        """Show what workers replied."""
        if not reply:
            self._show_lines("Remote Control Command Replies", "No replies received in 1s deadline")
            return
        lines = []
        for each in reply:
            for node, answer in each.items():
                word = "ERROR" if "error" in answer else "OK"
                lines.append(f"{node}: {word} {answer.get('error') or answer.get('ok')}")
        self._show_lines("Remote Control Command Replies", "\n".join(lines))

    def readline(self, x: int, y: int) -> str:
        """Read a line of text, typed at that place; empty when given up."""
        buffer = ""
        curses.echo()
        try:
            for column in count():
                character = self.win.getch(x, y + column)
                if character in (10, curses.KEY_ENTER):
                    break
                if character == 27:
                    return ""
                if character != -1:
                    buffer += chr(character)
        finally:
            curses.noecho()
        return buffer

    def revoke_selection(self) -> None:
        """Revoke the selected task."""
        if not self.selected_task:
            return curses.beep()
        return self.alert_remote_control_reply(
            self.app.control.revoke(self.selected_task, reply=True)
        )

    def selection_info(self) -> None:
        """Show what is known about the selected task."""
        if (task := self._selection()) is not None:
            known = task.info(extra=["state"])
            lines = (f"{name:>15}: {value}" for name, value in known.items())
            self._show_lines(f"Task details for {task.uuid}", "\n".join(lines))

    def selection_result(self) -> None:
        """Show the result of the selected task."""
        if (task := self._selection()) is not None:
            text = task.result or task.exception or "(none yet)"
            self._show_lines(f"Result of {task.uuid}", str(text))

    def selection_traceback(self) -> None:
        """Show the traceback of the selected task."""
        task = self._selection()
        if task is None or task.state not in states.EXCEPTION_STATES:
            curses.beep()
        else:
            self._show_lines(f"Traceback of {task.uuid}", task.traceback or "")

    def _selection(self) -> Any:
        return self.state.tasks[self.selected_task] if self.selected_task else None

    # -- drawing

    def display_task_row(self, lineno: int, task: Any) -> None:
        """Draw the line of one task."""
        attributes = curses.A_REVERSE if task.uuid == self.selected_task else curses.A_NORMAL
        timestamp = datetime.fromtimestamp(task.timestamp or time.time()).astimezone()
        line = self.format_row(
            task.uuid,
            task.name or "(unknown)",
            task.worker.hostname if task.worker is not None else "",
            timestamp.strftime("%H:%M:%S"),
            task.state,
        )
        self.safe_add_str(lineno, LEFT_BORDER_OFFSET, line, attributes)
        if task.state in self.state_colors and attributes == curses.A_NORMAL:
            self.safe_add_str(
                lineno,
                LEFT_BORDER_OFFSET + len(line.rstrip()) - len(abbr(task.state, STATE_WIDTH)),
                abbr(task.state, STATE_WIDTH),
                self.state_colors[task.state],
            )

    def draw(self) -> None:
        """Obey a key and draw everything."""
        with self.lock:
            self.handle_keypress()
            self.win.erase()
            y = count(1)
            x = LEFT_BORDER_OFFSET
            self.safe_add_str(next(y), x, self.greet, curses.A_DIM)
            next(y)
            header = self.format_row("UUID", "TASK", "WORKER", "TIME", "STATE")
            self.safe_add_str(next(y), x, header, curses.A_BOLD | curses.A_UNDERLINE)
            tasks = self.tasks
            for row in range(min(len(tasks), self.display_height)):
                self.display_task_row(next(y), tasks[row][1])
            self._draw_footer(self.screen_height - 5)
            self.win.refresh()

    def _draw_footer(self, y: int) -> None:
        x = LEFT_BORDER_OFFSET
        alive = [worker.hostname or "" for worker in self.state.alive_workers()]
        counts = STATUS_SCREEN.format(
            s=self.state, w_alive=len(alive), w_all=len(self.state.workers)
        )
        for title, text in (
            (self.selected_str, self._selection_text()),
            (self.online_str, ", ".join(sorted(alive))),
            (self.info_str, counts),
            (self.help_title, self.help),
        ):
            self.safe_add_str(y, x, title, curses.A_BOLD)
            self.safe_add_str(y, x + len(title), text[: max(0, self.display_width - len(title))])
            y += 1

    def _selection_text(self) -> str:
        task = self.state.tasks.get(self.selected_task) if self.selected_task else None
        if task is None:
            return ""
        info = task.info(["args", "kwargs", "result", "exception", "runtime"])
        return " ".join(f"{name}={value}" for name, value in info.items())

    def safe_add_str(self, y: int, x: int, string: str, *args: Any, **kwargs: Any) -> None:
        """Draw text, as much of it as there is room for."""
        if 0 <= y < self.screen_height and x < self.screen_width:
            try:
                self.win.addnstr(y, x, string, self.screen_width - x - 1, *args, **kwargs)
            except curses.error:
                # The last cell of the screen cannot be written without an error.
                return

    def init_screen(self) -> None:
        """Take the terminal over."""
        with self.lock:
            self.win = curses.initscr()
            # Waiting for a key is what sets the pace of drawing.
            self.win.timeout(500)
            self.win.keypad(True)
            curses.noecho()
            curses.cbreak()
            if curses.has_colors():
                self._init_colors()

    def _init_colors(self) -> None:
        curses.start_color()
        curses.use_default_colors()
        for number, (color, names) in enumerate(
            (
                (curses.COLOR_GREEN, (states.SUCCESS,)),
                (curses.COLOR_RED, tuple(states.EXCEPTION_STATES)),
                (curses.COLOR_YELLOW, (states.STARTED, states.RECEIVED)),
                (curses.COLOR_MAGENTA, (states.REVOKED,)),
            ),
            start=1,
        ):
            curses.init_pair(number, color, -1)
            for name in names:
                self.state_colors[name] = curses.color_pair(number)

    def nap(self) -> None:
        """Wait until the next drawing."""
        curses.napms(self.screen_delay)

    def resetscreen(self) -> None:
        """Give the terminal back."""
        with self.lock:
            self.win.keypad(False)
            for give_back in (curses.nocbreak, curses.echo, curses.endwin):
                give_back()

    @property
    def workers(self) -> list[str | None]:
        """Names of the workers that live."""
        return [worker.hostname for worker in self.state.alive_workers()]

    @property
    def tasks(self) -> list[tuple[str, Any]]:
        """The tasks on the screen, by id."""
        return list(self.state.tasks_by_time(limit=self.limit))


class DisplayThread(threading.Thread):
    """Draws until told to stop."""

    def __init__(self, display: CursesMonitor) -> None:
        self.display = display
        self.shutdown = False
        super().__init__(name="events-display", daemon=True)

    def run(self) -> None:
        """Draw and nap in turns."""
        while not self.shutdown:
            self.display.draw()
            self.display.nap()


def capture_events(app: Celery, state: State, display: CursesMonitor) -> None:
    """Merge events into *state* until interrupted; connects again when the broker was lost."""

    def tell(exc: BaseException, interval: float) -> None:
        print(  # noqa: T201 - the terminal is ours
            f"Connection Error: {exc!r}. Retry in {ceil(interval)}s.", file=sys.stderr
        )

    while True:
        with app.connection_for_read() as connection:
            try:
                connection.ensure_connection(
                    tell, app.conf.broker_connection_max_retries, interval_start=1
                )
                receiver = app.events.Receiver(connection, handlers={"*": state.event})
                display.resetscreen()
                display.init_screen()
                receiver.capture()
            except connection.connection_errors + connection.channel_errors as exc:
                print(f"Connection lost: {exc!r}", file=sys.stderr)  # noqa: T201 - as above


def evtop(app: Celery | None = None) -> None:
    """Run the monitor until interrupted."""
    app = _state.app_or_default(app)
    display = CursesMonitor(app.events.State(), app)
    display.init_screen()
    refresher = DisplayThread(display)
    refresher.start()
    try:
        # An interrupt is the way to leave.
        with suppress(KeyboardInterrupt, SystemExit):
            capture_events(app, display.state, display)
    finally:
        refresher.shutdown = True
        refresher.join(1.0)
        display.resetscreen()
