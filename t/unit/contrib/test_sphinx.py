"""Documentation of tasks, built by Sphinx."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("sphinx")

ROOT = Path(__file__).parents[3]

MODULE = '''
    """Tasks of a project."""
    from celery import Celery, shared_task

    app = Celery("documented", set_as_current=False)

    @app.task
    def add(x: int, y: int = 2) -> int:
        """Add two numbers."""
        return x + y

    @app.task(bind=True)
    def again(self, n):
        """Try again."""

    @app.task
    def silent(word):
        return word

    def helper(z):
        """Help."""
'''


@pytest.fixture
def build(tmp_path: Path):
    """Build a page with these lines; returns it as text."""
    name = "documented"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))

    def run(*lines: str, **conf: object) -> str:
        source = tmp_path / "docs"
        source.mkdir()
        page = "\n".join(lines).replace("MODULE", name)
        (source / "index.rst").write_text(f"Tasks\n=====\n\n{page}\n")
        settings = "".join(f"{key} = {value!r}\n" for key, value in conf.items())
        (source / "conf.py").write_text(f"extensions = ['celery.contrib.sphinx']\n{settings}")
        # In a process of its own: Sphinx can be set up once in each.
        subprocess.run(
            [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "text", source, tmp_path / "out"],
            check=True,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        )
        return (tmp_path / "out" / "index.txt").read_text()

    return run


def test_autodoc_finds_tasks_with_their_arguments(build) -> None:
    """B-TEST-013: celery.contrib.sphinx documents tasks."""
    text = build(".. automodule:: MODULE", "   :members:")

    assert "(task) " in text
    assert ".add(x, y=2)" in text
    assert "Add two numbers." in text
    assert ".again(n)" in text  # not its self
    assert ".helper(z)" in text
    assert text.count("(task)") == 2  # one without a docstring is left out


def test_tasks_can_be_left_out(build) -> None:
    text = build(".. automodule:: MODULE", "   :members:", "   :exclude-members: add")

    assert ".again(n)" in text
    assert ".add(" not in text


def test_tasks_without_a_docstring_come_if_asked_for(build) -> None:
    text = build(".. automodule:: MODULE", "   :members:", "   :undoc-members:")

    assert ".silent(word)" in text


def test_single_tasks_can_be_documented(build) -> None:
    text = build(
        ".. autotask:: MODULE.add", "", ".. py:task:: other.task(a, b)", "", "   By hand.",
        celery_task_prefix="(job)",
    )  # fmt: skip

    assert "(job)" in text
    assert ".add(x, y=2)" in text
    assert "other.task(a, b)" in text
    assert "By hand." in text
