"""The terminal of the monitor: taken over, drawn on and given back, with curses."""

from __future__ import annotations

import curses
import locale
import os
import threading
from contextlib import suppress
from typing import Any

from celery import states
from celery.events import _screen

__all__ = ("Terminal",)

#: Milliseconds to wait for a key, and so between two drawings.
_KEY_WAIT_MS = 500


class Terminal:
    """Draws lines of styled text; base of `celery.events.cursesmon.CursesMonitor`."""

    #: The window of curses; None before `init_screen`.
    win: Any = None
    #: Milliseconds to rest between two drawings, beside waiting for a key.
    screen_delay = 10

    def __init__(self) -> None:
        #: Held while one thread draws, or takes or leaves the terminal.
        self.lock = threading.RLock()
        #: Attributes of text by state and style; complete once there is a screen.
        self.state_colors: dict[str, int] = {}
        #: What bars are drawn with.
        self.bars = _screen.BARS

    @property
    def screen_width(self) -> int:
        """Columns of the terminal."""
        return int(self.win.getmaxyx()[1])

    @property
    def screen_height(self) -> int:
        """Lines of the terminal."""
        return int(self.win.getmaxyx()[0])

    def _add(self, y: int, line: _screen.Line) -> None:
        x = 0
        for text, style in line:
            self.safe_add_str(y, x, text, self.state_colors.get(style, 0))
            x += _screen.columns(text)

    def safe_add_str(self, y: int, x: int, string: str, *args: Any, **kwargs: Any) -> None:
        """Draw text, as much of it as there is room for."""
        if 0 <= y < self.screen_height and x < self.screen_width:
            try:
                self.win.addstr(y, x, _screen.cut(string, self.screen_width - x), *args, **kwargs)
            except curses.error:
                # The last cell of the screen cannot be written without an error.
                return

    def init_screen(self) -> None:
        """Take the terminal over."""
        with self.lock:
            # Otherwise curses takes each byte of a character for one of its own.
            locale.setlocale(locale.LC_ALL, "")
            if "UTF" not in locale.getpreferredencoding(False).upper():
                self.bars = _screen.ASCII_BARS
            self.win = curses.initscr()
            # Waiting for a key is what sets the pace of drawing.
            self.win.timeout(_KEY_WAIT_MS)
            self.win.keypad(True)
            curses.noecho()
            curses.cbreak()
            with suppress(curses.error):
                # Some terminals can't hide it.
                curses.curs_set(0)
            self._init_styles()

    def _init_styles(self) -> None:
        self.state_colors.update(
            bold=curses.A_BOLD,
            dim=curses.A_DIM,
            title=curses.A_REVERSE | curses.A_BOLD,
            selected=curses.A_REVERSE,
        )
        if not curses.has_colors():
            return
        curses.start_color()
        curses.use_default_colors()
        for number, (color, names) in enumerate(
            (
                (curses.COLOR_GREEN, (states.SUCCESS, "good")),
                (curses.COLOR_RED, (*states.EXCEPTION_STATES, states.REJECTED, "bad")),
                (curses.COLOR_YELLOW, (states.STARTED, states.RECEIVED)),
                (curses.COLOR_MAGENTA, (states.REVOKED,)),
                (curses.COLOR_CYAN, (states.RETRY,)),
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
            with suppress(curses.error):
                curses.curs_set(1)
            for give_back in (curses.nocbreak, curses.echo, curses.endwin):
                give_back()

    def _fit_terminal(self) -> None:
        """Notice another size of the terminal, of which curses may not have been told."""
        try:
            columns, lines = os.get_terminal_size()
        except OSError:
            return
        if (lines, columns) != (curses.LINES, curses.COLS):
            curses.resizeterm(lines, columns)
            self.win.clear()
