"""The terminal monitor: what it shows, and what keys do."""

from __future__ import annotations

import curses
from datetime import UTC, datetime
from typing import Any

import pytest

from celery.events import _screen
from celery.events.cursesmon import CursesMonitor
from t.unit.events.conftest import Cluster


def text_of(lines: list[_screen.Line]) -> str:
    return "\n".join("".join(text for text, _ in line) for line in lines)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_counted_by_full_seconds() -> None:
    clock = Clock()
    rates = _screen.Rates(length=5, clock=clock)
    for second, count in enumerate((3, 0, 2)):
        clock.now = 100.5 + second
        for _ in range(count):
            rates.note(None, {"type": "task-received"})
    rates.note(None, {"type": "task-failed"})

    assert rates.history() == [0, 0, 0, 3, 0]
    clock.now = 103.0
    assert rates.history() == [0, 0, 3, 0, 3]
    assert rates.history("task-received") == [0, 0, 3, 0, 2]
    assert rates.rate("task-received") == pytest.approx(5 / _screen.MEAN_OVER_S)
    clock.now = 1000.0
    assert rates.history() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([0, 1, 4, 8], 4, "▁▂▅█"),
        ([0, 1, 4, 8], 2, "▅█"),
        ([0, 0], 5, "▁▁"),
        ([1], 0, ""),
        ([], 3, ""),
    ],
)
def test_a_history_is_drawn_as_bars(values: list[int], width: int, line: str) -> None:
    assert _screen.sparkline(values, width) == line


def test_bars_need_no_unicode() -> None:
    assert _screen.sparkline([0, 8], 2, _screen.ASCII_BARS) == "_@"


def test_the_header_counts_workers_and_tasks_by_state(cluster: Cluster) -> None:
    cluster.worker("online")
    cluster.task("received", "a")
    cluster.task("received", "b")
    cluster.task("failed", "b")
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    lines = _screen.header(cluster.state, _screen.Rates(), 80, now=moment, note="paused")

    text = text_of(lines)
    assert "workers 0/1" in text
    assert "paused" in text
    assert "03:04:05" in text
    assert "RECEIVED 1" in text
    assert "FAILURE 1" in text
    assert len(text.splitlines()[0]) == 80


@pytest.mark.parametrize("width", [80, 132, 200])
def test_rows_are_as_wide_as_the_screen(cluster: Cluster, width: int) -> None:
    uuid, node = "u" * 36, "celery@a-rather-long-host.example.com"
    cluster.task("received", uuid, node=node, name="m.t" * 30)
    cluster.task("succeeded", uuid, node=node, runtime=1.5)
    cluster.worker("heartbeat", active=3, processed=1000000, loadavg=[10.25, 9.5, 8.75])
    task = cluster.state.tasks[uuid]
    worker = cluster.state.workers["w1@h"]

    for line in (
        _screen.task_header(width),
        _screen.task_line(task, width),
        _screen.worker_header(width),
        _screen.worker_line(worker, width),
    ):
        assert width - 2 <= len(text_of([line])) <= width


@pytest.mark.parametrize(
    ("position", "count", "offset", "first"),
    [
        (0, 100, 0, 0),
        (9, 100, 0, 0),
        (10, 100, 0, 1),
        (4, 100, 5, 4),
        (99, 100, 0, 90),
        (3, 4, 3, 0),
    ],
)
def test_the_list_moves_as_little_as_possible(
    position: int, count: int, offset: int, first: int
) -> None:
    assert _screen.window(position, count, 10, offset) == first


def test_details_show_all_that_is_known_folded(cluster: Cluster) -> None:
    cluster.task("received", name="proj.add", args="(" + "1, " * 60 + ")", kwargs="{}")
    cluster.task("failed", exception="ValueError('boom')", traceback="Traceback\n  File x\n\tline")

    text = text_of(_screen.task_details(cluster.state.tasks["t1"], 60))

    assert "proj.add" in text
    assert "ValueError('boom')" in text
    assert text.endswith(" Traceback\n   File x\n     line")
    assert max(map(len, text.splitlines())) <= 60


def test_no_task_can_move_the_cursor() -> None:
    assert _screen.printable("a\x1b[2Jb\x00\r\n") == "a·[2Jb···"


def test_replies_say_who_said_what() -> None:
    replies = [{"w1@h": {"ok": "new rate limit set"}}, {"w2@h": {"error": "unknown task"}}]

    assert text_of(_screen.reply_lines(replies, 80)).splitlines() == [
        " w1@h: OK", " new rate limit set", " w2@h: ERROR", " unknown task",
    ]  # fmt: skip
    assert "No worker replied" in text_of(_screen.reply_lines([], 80))
    assert text_of(_screen.reply_lines([{"w1@h": {}}], 80)).splitlines()[1] == " nothing"


def test_wide_characters_take_two_columns() -> None:
    assert _screen.columns("中文 ab") == 7
    assert _screen.columns("e\N{COMBINING ACUTE ACCENT}") == 1
    assert _screen.cut("中文", 3) == "中"
    assert _screen.cut("abc", 2) == "ab"


def test_rows_with_wide_characters_are_aligned(cluster: Cluster) -> None:
    cluster.task("received", "first", name="proj.中文中文中文中文中文中文中文中文", args="()")
    cluster.task("received", "second", name="proj.add", args="()")
    tasks = cluster.state.tasks

    widths = {
        _screen.columns(text_of([_screen.task_line(tasks[name], 80)]))
        for name in ("first", "second")
    }

    assert len(widths) == 1
    assert widths.pop() <= 80


def test_long_text_of_wide_characters_is_folded_to_the_screen() -> None:
    lines = text_of(_screen.text_lines("中" * 100, 80)).splitlines()

    assert "".join(line.strip() for line in lines) == "中" * 100
    assert all(_screen.columns(line) <= 80 for line in lines)


# -- the monitor


class Window:
    """A screen of text, and keys that were pressed."""

    def __init__(self) -> None:
        self.lines: dict[int, str] = {}
        self.keys: list[str] = []
        self.size = (24, 80)

    def getmaxyx(self) -> tuple[int, int]:
        return self.size

    def addstr(self, y: int, x: int, text: str, *_: Any) -> None:
        line = self.lines.get(y, "").ljust(x)
        self.lines[y] = line[:x] + text + line[x + len(text) :]

    def erase(self) -> None:
        self.lines.clear()

    clear = erase

    def refresh(self) -> None:
        """Show nothing."""

    def getkey(self) -> str:
        if not self.keys:
            raise curses.error
        return self.keys.pop(0)

    def text(self) -> str:
        return "\n".join(self.lines[y] for y in sorted(self.lines))


class Screen:
    """A monitor on such a window."""

    def __init__(self, monitor: CursesMonitor) -> None:
        self.monitor = monitor
        self.monitor.win = self.window = Window()

    def press(self, *keys: str, typed: str = "") -> str:
        """Press keys and return what is shown then; *typed* answers the question of each."""
        for key in keys or ("",):
            self.window.keys = [key, *typed] if key else []
            self.monitor.draw()
        return self.window.text()


@pytest.fixture
def screen(app: Any, cluster: Cluster) -> Screen:
    cluster.task("received", "first", name="proj.add", args="(1, 2)")
    cluster.task("received", "second", name="proj.mul", node="w2@h")
    cluster.task("failed", "second", exception="ValueError('boom')", traceback="Traceback: …")
    screen = Screen(CursesMonitor(cluster.state, app))
    screen.press()
    return screen


def test_the_latest_tasks_come_first(screen: Screen) -> None:
    text = screen.press()

    assert text.index("second") < text.index("first")
    assert "RECEIVED 1  FAILURE 1" in text
    assert "Selected: exception=ValueError('boom')" in text
    assert screen.monitor.help in text


def test_keys_move_the_selection(screen: Screen) -> None:
    screen.press("j")
    assert screen.monitor.selected_task == "first"
    screen.press("k")
    assert screen.monitor.selected_task == "second"
    screen.press("KEY_DOWN")
    assert screen.monitor.selected_task == "first"
    screen.press("KEY_HOME")
    assert screen.monitor.selected_task == "second"
    screen.press("KEY_NPAGE")
    assert screen.monitor.selected_task == "first"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("i", "task         proj.mul"),
        ("\n", "worker       w1@h"),
        ("t", "Traceback: …"),
        ("r", "boom"),
    ],
)
def test_keys_show_more_about_a_task_and_another_goes_back(
    screen: Screen, key: str, shown: str
) -> None:
    assert shown in screen.press(key)
    assert shown not in screen.press("x", "j")


def test_a_long_page_can_be_scrolled(screen: Screen, cluster: Cluster) -> None:
    lines = "\n".join(f"line {n}" for n in range(50))
    cluster.task("failed", "long", traceback=lines)
    screen.press()
    assert "line 30" not in screen.press("t")
    assert "line 30" in screen.press("KEY_NPAGE")
    assert "line 49" in screen.press("KEY_NPAGE", "KEY_NPAGE")
    assert "line 0\n" in screen.press(*["KEY_PPAGE"] * 3)


def test_tasks_can_be_filtered_by_state_and_text(screen: Screen) -> None:
    text = screen.press("f", "f")
    assert "only RECEIVED" in text
    assert "proj.mul" not in text

    screen.press(*"ffffff")
    assert "only" not in screen.press("f")
    text = screen.press("/", typed="mux\x7fl\n")
    assert "only mul" in text
    assert "proj.add" not in text


def test_a_pause_keeps_the_list(screen: Screen, cluster: Cluster) -> None:
    screen.press("p")
    cluster.task("received", "third", name="proj.new")
    text = screen.press()
    assert "paused" in text
    assert "proj.new" not in text
    assert "proj.new" in screen.press("p")


def test_workers_are_listed(screen: Screen, cluster: Cluster) -> None:
    cluster.worker("heartbeat", active=2, processed=77, loadavg=[1.5, 1, 0.5])

    text = screen.press("w")

    assert "w1@h" in text
    assert "77" in text
    assert "1.5 1.0 0.5" in text
    assert "proj.mul" in screen.press("\t")


def test_the_help_names_every_key(screen: Screen) -> None:
    shown = screen.press("?")
    for key in "jkitrcxlnewf/pq?":
        assert f"{key} " in shown


def test_a_small_screen_is_no_error(screen: Screen) -> None:
    for size in ((24, 80), (12, 40), (5, 20), (2, 5), (1, 1)):
        screen.window.size = size
        for key in ("", "i", "", "q1", "w", "w"):
            screen.press(key)


class Control:
    """Notes remote commands, and answers like one worker."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, (args, kwargs)))
            return [{"w1@h": {"ok": f"{name} done"}}]

        return call


@pytest.fixture
def control(app: Any, monkeypatch: pytest.MonkeyPatch) -> Control:
    control = Control()
    monkeypatch.setitem(app.__dict__, "control", control)
    # Commands run in threads of their own; here they are waited for.
    from celery.events import cursesmon

    class Thread(cursesmon.threading.Thread):
        def start(self) -> None:
            super().start()
            self.join()

    monkeypatch.setattr(cursesmon.threading, "Thread", Thread)
    return control


@pytest.mark.parametrize(
    ("key", "typed", "call"),
    [
        ("c", "y", ("revoke", (("second",), {"terminate": False, "reply": True}))),
        ("x", "Y", ("revoke", (("second",), {"terminate": True, "reply": True}))),
        ("l", "10/m\n", ("rate_limit", (("proj.mul", "10/m"), {"reply": True}))),
        ("n", "", ("broadcast", (("query_task", {"ids": ["second"]}), {"reply": True}))),
        ("e", "", ("enable_events", ((), {"reply": True}))),
    ],
)
def test_keys_send_commands_and_show_the_replies(
    screen: Screen, control: Control, key: str, typed: str, call: Any
) -> None:
    shown = screen.press("", key, typed=typed) + screen.press("")

    assert control.calls == [call]
    assert f"{call[0]} done" in shown
    screen.press("q1")


@pytest.mark.parametrize(
    ("key", "typed"), [("c", "n"), ("x", "\n"), ("l", "5\x1b"), ("l", "\n"), ("x", "\x1b")]
)
def test_what_is_not_confirmed_is_not_done(
    screen: Screen, control: Control, key: str, typed: str
) -> None:
    screen.press("", key, typed=typed)

    assert control.calls == []


def test_the_screen_lives_on_while_a_question_is_open(
    screen: Screen, cluster: Cluster, control: Control
) -> None:
    seen = []

    def look() -> None:
        if screen.monitor._question is not None:
            seen.append(screen.window.text())
            cluster.task("received", "third", name="proj.new")

    screen.window.refresh = look  # type: ignore[method-assign]
    screen.window.keys = ["l", "1", "KEY_RESIZE", "0", "KEY_LEFT", "x", "\x7f", "/", "m", "\n"]
    screen.monitor.draw()

    assert " Rate limit of proj.mul, as in 10/m, 0 for none: 10/m_" in seen[-1]
    assert "proj.new" in seen[-1]
    assert control.calls == [("rate_limit", (("proj.mul", "10/m"), {"reply": True}))]


def test_leaving_ends_a_question(screen: Screen, control: Control) -> None:
    def leave() -> None:
        screen.monitor.leaving = screen.monitor._question is not None

    screen.window.refresh = leave  # type: ignore[method-assign]
    screen.press("c")

    assert control.calls == []


def test_a_broker_that_is_gone_is_told(screen: Screen, control: Control) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("refused")

    control.revoke = fail
    assert "could not be sent: refused" in screen.press("", "c", typed="y")
    screen.monitor.outage = "the broker is lost"
    assert "the broker is lost" in screen.press()


def test_an_alert_is_drawn_by_its_caller(screen: Screen) -> None:
    screen.window.keys = ["x"]
    seen = []
    screen.window.refresh = lambda: seen.append(screen.window.text())  # type: ignore[method-assign]

    def draw(height: int, width: int, y: int) -> int:
        screen.monitor.safe_add_str(y, 3, f"{height}x{width}")
        return y + 1

    screen.monitor.alert(draw, "Look")

    assert "Look" in seen[0]
    assert "24x80" in seen[0]


@pytest.mark.parametrize("width", [60, 200])
def test_formatted_rows_fit_the_display(app: Any, cluster: Cluster, width: int) -> None:
    monitor = CursesMonitor(cluster.state, app)
    monitor.win = Window()
    monitor.win.size = (30, width)

    row = monitor.format_row("u" * 50, "proj.tasks.add", "w1@host", "10:00:00", "SUCCESS")

    assert len(row) == width - 4
