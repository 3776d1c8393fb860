"""
A monitor in the terminal: ``celery events``.

One thread captures events into a state, another draws it and obeys keys. What is drawn comes from
`celery.events._screen`, and `celery.events._terminal` draws it. Remote commands are sent from
threads of their own, so the screen never waits for workers.
"""

from __future__ import annotations

import curses
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import count
from math import ceil
from time import sleep
from typing import TYPE_CHECKING, Any, ClassVar

from celery import _state, states
from celery.events import _screen
from celery.events._terminal import Terminal
from celery.events.dumper import REFUSED_S
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

#: Lines above the rows of a table: the header and the titles of its columns.
_TOP = 4

#: Lines below them: what was selected or told, and the keys.
_BOTTOM = 2

HELP = """\
up down j k        select          PgUp PgDn Home End   select by the page
Enter i            details         Tab w                workers or tasks
t                  traceback       r                    result
c                  revoke: don't run it when its turn comes
x                  terminate: also end the process that runs it
l                  set the rate limit of tasks of this name
n                  ask the workers about this task, or a worker about itself
e                  have the workers send events about tasks, or no longer
f                  show one state only, or all again
/                  show what has a text in its name, id or worker only
p space            pause, and go on
q Ctrl-C           quit
?                  this page; any other key closes it"""


class _Page:
    """Text over the table, which can be longer than the screen."""

    def __init__(self, title: str, lines: Callable[[int], list[_screen.Line]]) -> None:
        self.title = title
        #: Called with the width at each drawing, so a task is shown as it is now.
        self.lines = lines
        self.offset = 0


class _Question:
    """A question at the bottom of the screen, and what is typed there."""

    def __init__(self, text: str, one_key: bool) -> None:
        self.text, self.one_key = text, one_key
        self.typed = ""
        #: None until there is one; empty when given up with Escape.
        self.answer: str | None = None

    def take(self, key: str) -> None:
        """Take one key, as curses names it."""
        if key == "\x1b":
            self.answer = ""
        elif key in _ENTER or self.one_key:
            self.answer = self.typed or key
        elif key in _BACKSPACE:
            self.typed = self.typed[:-1]
        elif len(key) == 1 and key.isprintable():
            self.typed += key

    def line(self) -> _screen.Line:
        """Return how it looks."""
        return [(f" {self.text} ", "bold"), (f"{self.typed}_", "plain")]


class CursesMonitor(Terminal):
    """
    Draws a state and obeys keys.

    Args:
        keymap: Functions by key, over the usual ones.
    """

    keymap: Mapping[str, Callable[[], Any]] = {}
    selected_task: str | None = None
    selected_worker: str | None = None
    selected_position = 0
    selected_str = "Selected: "
    foreground = curses.COLOR_BLACK
    background = curses.COLOR_WHITE
    online_str = "Workers online: "
    help_title = "Keys: "
    help = "?:help i:info t:traceback r:result c:revoke x:terminate l:limit f:filter q:quit"
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
        super().__init__()
        self.app = app
        self.state = state
        self.keymap = {
            "J": self.move_selection_down,
            "K": self.move_selection_up,
            "KEY_NPAGE": lambda: self.move_selection(self.limit),
            "KEY_PPAGE": lambda: self.move_selection(-self.limit),
            "KEY_HOME": lambda: self.move_selection(-len(self._rows)),
            "KEY_END": lambda: self.move_selection(len(self._rows)),
            "C": self.revoke_selection,
            "X": self.terminate_selection,
            "T": self.selection_traceback,
            "R": self.selection_result,
            "I": self.selection_info,
            "\n": self.selection_info,
            "L": self.selection_rate_limit,
            "N": self.inspect_selection,
            "E": self.toggle_events,
            "W": self.toggle_workers,
            "\t": self.toggle_workers,
            "F": self.next_filter,
            "/": self.search,
            "P": self.toggle_pause,
            " ": self.toggle_pause,
            "?": self.show_help,
            "Q": self.quit,
            **(self.keymap if keymap is None else keymap),
        }
        self.rates = _screen.Rates()
        if state.event_callback is None:
            state.event_callback = self.rates.note
        #: Told in the line above the keys until the next key.
        self.message: _screen.Line = []
        #: Why there are no events, empty while connected.
        self.outage = ""
        #: Set once the user wants to leave.
        self.leaving = False
        #: What collects the events now.
        self.receiver: Any = None
        self._page: _Page | None = None
        self._question: _Question | None = None
        self._shows_workers = False
        self._wanted_state: str | None = None
        self._wanted_text = ""
        self._sends_events = False
        self._frozen: list[str] | None = None
        #: Ids or node names of all rows, of those on the screen and of those that are not.
        self._rows: list[str] = []
        self._offset = 0

    # -- geometry

    @property
    def display_width(self) -> int:
        """Columns for text."""
        return self.screen_width - BORDER_SPACING

    @property
    def display_height(self) -> int:
        """Lines for the rows of a table."""
        return max(self.screen_height - _TOP - _BOTTOM, 1)

    @property
    def limit(self) -> int:
        """Number of rows that fit."""
        return self.display_height

    def format_row(self, uuid: str, task: str, worker: str, timestamp: str, state: str) -> str:
        """Return five cells as one line as wide as the display."""
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
        """Return the place of the selected row among all rows, 0 if it is not one of them."""
        try:
            return self._rows.index(self._selected() or "")
        except ValueError:
            return 0

    def _selected(self) -> str | None:
        """Return the id of the selected row; the first one until another was chosen."""
        chosen = self.selected_worker if self._shows_workers else self.selected_task
        return chosen or next(iter(self._rows), None)

    def move_selection_up(self) -> None:
        """Select the row above."""
        self.move_selection(-1)

    def move_selection_down(self) -> None:
        """Select the row below."""
        self.move_selection(1)

    def move_selection(self, direction: int = 1) -> None:
        """Select the row *direction* lines below; scroll where text is shown."""
        if self._page is not None:
            self._page.offset += direction
            return
        self._collect()
        if self._rows:
            at = min(max(self.find_position() + direction, 0), len(self._rows) - 1)
            if self._shows_workers:
                self.selected_worker = self._rows[at]
            else:
                self.selected_task = self._rows[at]

    def _collect(self) -> None:
        """Find the rows that are wanted, the latest tasks first."""
        if self._shows_workers:
            self._rows = sorted(name for name in list(self.state.workers.data) if name)
        elif self._frozen is not None:
            self._rows = self._frozen
        else:
            self._rows = [
                uuid
                for uuid, task in self.state.tasks_by_time()
                if _screen.matches(task, self._wanted_state, self._wanted_text)
            ]

    def toggle_workers(self) -> None:
        """Show the workers, or the tasks again."""
        self._shows_workers = not self._shows_workers
        self._offset = 0

    def next_filter(self) -> None:
        """Show tasks of the next state only; after the last, of all states."""
        choices = (None, *_screen.STATES)
        self._wanted_state = choices[(choices.index(self._wanted_state) + 1) % len(choices)]
        self._thaw()

    def search(self) -> None:
        """Ask for a text, and show the tasks that have it only."""
        self._wanted_text = self._ask("Show only what has this in name, id or worker:")
        self._thaw()

    def toggle_pause(self) -> None:
        """Keep the list of tasks as it is, or let it move again."""
        if self._frozen is None:
            self._collect()
            self._frozen = list(self._rows)
        else:
            self._frozen = None

    def _thaw(self) -> None:
        self._frozen, self._offset, self.selected_task = None, 0, None

    def quit(self) -> None:
        """End the program, as Ctrl-C does."""
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    def handle_keypress(self) -> None:
        """Obey one key, if there is one."""
        try:
            key = self.win.getkey()
        except curses.error:
            return
        if key == "KEY_RESIZE":
            curses.update_lines_cols()
            # What the terminal has made of the old lines is not what curses remembers.
            self.win.clear()
            return
        if self._question is not None:
            self._question.take(key)
            return
        code = getattr(curses, key, None) if key.startswith("KEY_") else None
        key = self.keyalias.get(code, key) if code is not None else key.upper()
        self.message = []
        if self._page is not None and key not in _SCROLLING:
            self._page = None
            return
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
        while not self.leaving:
            try:
                self.win.getkey()
                return
            except curses.error:
                continue

    def show_help(self) -> None:
        """Show what each key does."""
        self._show_text("Keys", HELP)

    def _show_text(self, title: str, text: str) -> None:
        self._page = _Page(title, lambda width: _screen.text_lines(text, width))

    def _ask(self, question: str, *, one_key: bool = False) -> str:
        """Read what is typed above the keys, while the screen lives on; empty if given up."""
        asked = self._question = _Question(question, one_key)
        while asked.answer is None and not self.leaving:
            self._paint()
            self.handle_keypress()
        self._question = None
        return (asked.answer or "").strip()

    def _is_sure(self, question: str) -> bool:
        return self._ask(f"{question} [y/N]", one_key=True).lower() == "y"

    def readline(self, x: int, y: int) -> str:
        """Read a line of text; it is typed above the keys, whatever the place *x*, *y*."""
        return self._ask("")

    # -- commands

    def _send(self, title: str, command: Callable[[], Any]) -> None:
        """Send a remote command without waiting for it; show the replies when they have come."""
        self.message = [(f" {title}: asking the workers...", "bold")]

        def run() -> None:
            try:
                reply = command()
            except Exception as exc:  # noqa: BLE001 - whatever the broker raises; the user reads it
                self.message = []
                self._show_text(title, f"This could not be sent: {exc}")
                return
            self.message = []
            self.alert_remote_control_reply(reply, title)

        threading.Thread(target=run, name="events-command", daemon=True).start()

    def alert_remote_control_reply(self, reply: Any, title: str = "Replies of the workers") -> None:
        """Show what workers replied."""
        self._page = _Page(title, lambda width: _screen.reply_lines(reply, width))

    def selection_rate_limit(self) -> None:
        """Ask for a rate limit of tasks of the selected name, and set it."""
        task = self._selection()
        if task is None or not task.name:
            return curses.beep()
        name = task.name
        limit = self._ask(f"Rate limit of {name}, as in 10/m, 0 for none:")
        if limit:
            self._send(
                f"Rate limit of {name}",
                lambda: self.app.control.rate_limit(name, limit, reply=True),
            )
        return None

    def revoke_selection(self) -> None:
        """Revoke the selected task, after asking."""
        self._revoke("Revoke", terminate=False)

    def terminate_selection(self) -> None:
        """Revoke the selected task, and end the process that runs it, after asking."""
        self._revoke("Terminate", terminate=True)

    def _revoke(self, word: str, *, terminate: bool) -> None:
        task_id = None if self._shows_workers else self._selected()
        if task_id is None:
            curses.beep()
        elif self._is_sure(f"{word} {task_id}?"):
            self._send(
                f"{word} {task_id}",
                lambda: self.app.control.revoke(task_id, terminate=terminate, reply=True),
            )

    def inspect_selection(self) -> None:
        """Ask the selected worker about itself, or all workers about the selected task."""
        selected = self._selected()
        if selected is None:
            curses.beep()
        elif self._shows_workers:
            self._send(f"About {selected}", lambda: self._about_worker(selected))
        else:
            self._send(
                f"Who has {selected}",
                lambda: self.app.control.broadcast("query_task", {"ids": [selected]}, reply=True),
            )

    def _about_worker(self, name: str) -> Any:
        ask = self.app.control.inspect(destination=[name], limit=1)
        stats = (ask.stats() or {}).get(name)
        if stats is None:
            return []
        queues = (ask.active_queues() or {}).get(name) or []
        active = (ask.active() or {}).get(name) or []
        lines = [
            f"pid {stats['pid']}, up {stats['uptime']} s, prefetch {stats.get('prefetch_count')}",
            f"pool {stats['pool'].get('implementation')}, {stats['pool'].get('max-concurrency')}",
            f"queues {', '.join(queue['name'] for queue in queues)}",
            *(f"ran {name} {number}" for name, number in sorted(stats["total"].items())),
            *(f"runs {task['name']} {task['id']}" for task in active),
        ]
        return [{name: {"ok": "\n".join(lines)}}]

    def toggle_events(self) -> None:
        """Have the workers send events about tasks, or no longer."""
        self._sends_events = not self._sends_events
        if self._sends_events:
            self._send("Task events on", lambda: self.app.control.enable_events(reply=True))
        else:
            self._send("Task events off", lambda: self.app.control.disable_events(reply=True))

    def selection_info(self) -> None:
        """Show what is known about the selected task or worker."""
        if self._shows_workers:
            self.inspect_selection()
        elif (task := self._selection()) is not None:
            self._page = _Page(f"Task {task.uuid}", lambda width: _screen.task_details(task, width))

    def selection_result(self) -> None:
        """Show the result of the selected task."""
        if (task := self._selection()) is not None:
            self._show_text(
                f"Result of {task.uuid}", str(task.result or task.exception or "(none yet)")
            )

    def selection_traceback(self) -> None:
        """Show the traceback of the selected task."""
        task = self._selection()
        if task is None or task.state not in states.EXCEPTION_STATES:
            curses.beep()
        else:
            self._show_text(f"Traceback of {task.uuid}", task.traceback or "(none)")

    def _selection(self) -> Any:
        # Past the cache's own look-up: looking at a task is no use of it.
        return None if self._shows_workers else self.state.tasks.data.get(self._selected())

    # -- drawing

    def display_task_row(self, lineno: int, task: Any) -> None:
        """Draw the line of one task."""
        selected = task.uuid == self._selected()
        self._add(lineno, _screen.task_line(task, self.screen_width, selected=selected))

    def draw(self) -> None:
        """Obey a key and draw everything."""
        with self.lock:
            self.handle_keypress()
            self._paint()

    def _paint(self) -> None:
        self._fit_terminal()
        width, height = self.screen_width, self.screen_height
        self.win.erase()
        now = datetime.now().astimezone()
        note = self.outage or ("paused" if self._frozen is not None else "")
        lines = _screen.header(self.state, self.rates, width, now=now, note=note, bars=self.bars)
        for y, line in enumerate(lines):
            self._add(y, line)
        if self._page is not None:
            self._draw_page(self._page)
        else:
            self._draw_table()
        question = self._question.line() if self._question is not None else None
        self._add(height - 2, question or self.message or self._status())
        self.safe_add_str(height - 1, 1, self.help, self.state_colors.get("dim", 0))
        self.win.refresh()

    def _draw_page(self, page: _Page) -> None:
        lines = page.lines(self.screen_width)
        height = self.limit
        page.offset = max(min(page.offset, len(lines) - height), 0)
        self._add(_TOP - 1, [(f" {page.title}", "bold")])
        for row, line in enumerate(lines[page.offset : page.offset + height]):
            self._add(_TOP + row, line)

    def _draw_table(self) -> None:
        self._collect()
        width, limit = self.screen_width, self.limit
        self._offset = _screen.window(self.find_position(), len(self._rows), limit, self._offset)
        visible = self._rows[self._offset : self._offset + limit]
        if self._shows_workers:
            self._add(_TOP - 1, _screen.worker_header(width))
            for row, name in enumerate(visible):
                worker = self.state.workers.data.get(name)
                if worker is not None:
                    selected = name == self._selected()
                    self._add(_TOP + row, _screen.worker_line(worker, width, selected=selected))
            return
        self._add(_TOP - 1, _screen.task_header(width))
        for row, uuid in enumerate(visible):
            # A list that is paused may name tasks that were forgotten meanwhile.
            if (task := self.state.tasks.data.get(uuid)) is not None:
                self.display_task_row(_TOP + row, task)

    def _status(self) -> _screen.Line:
        """Return the line above the keys: filters, or a short look at the selected task."""
        if self._page is not None:
            return [(" any key to go back, up and down to scroll", "dim")]
        filters = [part for part in (self._wanted_state, self._wanted_text) if part]
        line: _screen.Line = [(f" only {' '.join(filters)} ", "bold")] if filters else []
        if (task := self._selection()) is not None:
            info = task.info(["args", "kwargs", "result", "exception"])
            text = " ".join(f"{name}={value}" for name, value in info.items())
            line.append((f" {self.selected_str}{_screen.printable(text)}", "plain"))
        elif not self._rows and not self._shows_workers and not filters:
            line.append((" no tasks yet; press e if the workers run without -E", "dim"))
        return line

    @property
    def workers(self) -> list[str | None]:
        """Names of the workers that live."""
        return [worker.hostname for worker in self.state.alive_workers()]

    @property
    def tasks(self) -> list[tuple[str, Any]]:
        """The latest tasks, as many as fit, by id."""
        return list(self.state.tasks_by_time(limit=self.limit))


#: What curses calls the key that ends a line, and the one that takes a character back.
_ENTER = frozenset({"\n", "\r", "KEY_ENTER"})
_BACKSPACE = frozenset({"\b", "\x7f", "KEY_BACKSPACE"})

#: Keys that move a page rather than close it.
_SCROLLING = frozenset({"J", "K", "KEY_NPAGE", "KEY_PPAGE", "KEY_HOME", "KEY_END"})


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
        display.outage = f"no broker, next attempt in {ceil(interval)} s"

    while not display.leaving:
        with app.connection_for_read() as connection:
            try:
                connection.ensure_connection(
                    tell,
                    app.conf.broker_connection_max_retries,
                    interval_start=1,
                    interval_max=4,
                )
                receiver = app.events.Receiver(connection, handlers={"*": state.event})
                display.outage = ""
                display.receiver = receiver
                receiver.should_stop = display.leaving
                receiver.capture()
            except connection.connection_errors + connection.channel_errors as exc:
                display.outage = "the broker is lost"
                if not isinstance(exc, connection.recoverable_connection_errors):
                    display.outage = f"the broker refuses: {exc}"
                    sleep(REFUSED_S)


def evtop(app: Celery | None = None) -> None:
    """Run the monitor until interrupted."""
    app = _state.app_or_default(app)
    display = CursesMonitor(app.events.State(), app)
    display.init_screen()
    refresher = DisplayThread(display)
    refresher.start()

    def leave(signum: int, frame: Any) -> None:
        # The exception alone is lost when it strikes in a destructor.
        display.leaving = True
        if display.receiver is not None:
            display.receiver.should_stop = True
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, leave)
    try:
        # An interrupt is the way to leave.
        with suppress(KeyboardInterrupt, SystemExit):
            capture_events(app, display.state, display)
    finally:
        refresher.shutdown = True
        refresher.join(1.0)
        display.resetscreen()
