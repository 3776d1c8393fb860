"""The examples of the user guide do what it says."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging

GUIDE = Path(__file__).parents[2] / "docs" / "userguide"
PYTHON_BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", re.MULTILINE)


@pytest.fixture(autouse=True)
def logging_left_alone() -> Iterator[None]:
    """Have workers set up no logging, which all tests share."""

    def nothing(**kwargs: Any) -> None:
        """Take the set-up over."""

    setup_logging.connect(nothing)
    yield
    setup_logging.disconnect(nothing)


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page, in order."""
    return [textwrap.dedent(text) for text in PYTHON_BLOCK.findall((GUIDE / page).read_text())]


def defined_by(code: str) -> dict[str, Any]:
    """Return what a block defines, as the module ``tasks``; its broker looks for messages often."""
    names: dict[str, Any] = {"__name__": "tasks"}
    exec(code, names)
    names["app"].conf.broker_transport_options = {"polling_interval": 0.01}
    return names


def a_worker(app: Any) -> Any:
    """Run a worker of *app* for a while."""
    return start_worker(app, perform_ping_check=False)


def prompts_of(page: str, names: dict[str, Any]) -> None:
    """Run what follows prompts on a page."""
    text = (GUIDE / page).read_text()
    examples = doctest.DocTestParser().get_doctest(text, names, page, str(GUIDE / page), 0)
    assert examples.examples
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(
        examples, out=report.append
    )
    assert not report, "".join(report)


@pytest.mark.parametrize("page", ["canvas.rst", "results.rst"])
def test_what_follows_a_prompt_is_what_a_worker_answers(page):
    names = defined_by(blocks(page)[0])
    with start_worker(names["app"], pool="threads", concurrency=2, perform_ping_check=False):
        prompts_of(page, names)


@pytest.mark.parametrize("page", ["signals.rst", "testing.rst"])
def test_what_follows_a_prompt_happens_in_this_process(page):
    prompts_of(page, defined_by(blocks(page)[0]))


def test_a_step_lives_as_long_as_its_worker():
    names = defined_by(blocks("extending.rst")[0])
    prompts_of("extending.rst", {**names, "a_worker": a_worker})


def test_a_step_reads_messages_of_its_own():
    announcer, listener, *_ = blocks("extending.rst")
    names = defined_by(announcer + listener)
    app, diary = names["app"], names["diary"]
    app.task(lambda: len(diary), name="tasks.length")
    with app.connection_for_write() as connection, connection.SimpleQueue("notes") as queue:
        queue.put({"note": 1})
        with a_worker(app):
            # Two messages of one channel are taken in turn, so by the second answer it is there.
            for _ in range(2):
                app.tasks["tasks.length"].delay().get(timeout=10)
            assert {"note": 1} in diary


def test_the_fixtures_of_pytest_work_as_shown(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ("celery.contrib.pytest",)\n')
    (tmp_path / "test_shown.py").write_text(blocks("testing.rst")[-1])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shown.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_a_command_of_ones_own_is_registered():
    from celery.worker.control import Panel

    names: dict[str, Any] = {"__name__": "tasks", "diary": ["one", "two", "three"]}
    command = next(text for text in blocks("extending.rst") if "inspect_command" in text)
    try:
        exec(command, names)
        assert Panel.data["last_lines"](None, n=2) == ["two", "three"]
        assert Panel.meta["last_lines"].help == "Show the last lines of the diary."
    finally:
        Panel.data.pop("last_lines")
        Panel.meta.pop("last_lines")


def test_every_signal_is_described():
    from celery import signals
    from celery.utils.dispatch import Signal

    page = (GUIDE / "signals.rst").read_text()
    for name, signal in vars(signals).items():
        if isinstance(signal, Signal):
            assert f"``{name}``" in page
            for argument in signal.providing_args or ():
                assert f"``{argument}``" in page, (name, argument)
