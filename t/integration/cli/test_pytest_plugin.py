"""The plugin for pytest, in test runs of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CONFTEST = 'pytest_plugins = ("celery.contrib.pytest",)\n'

TESTS = """
    import pytest
    from celery import current_app, shared_task

    @shared_task
    def double(n):
        return 2 * n

    @pytest.fixture(scope="session")
    def celery_config():
        return {"task_default_queue": "mine", "timezone": "Europe/Oslo"}

    @pytest.fixture(scope="session")
    def celery_parameters():
        return {"strict_typing": False}

    def test_app(celery_app):
        assert celery_app.main == "celery.tests"
        assert celery_app.conf.task_default_queue == "mine"
        assert not celery_app.strict_typing
        assert current_app._get_current_object() is not celery_app

    @pytest.mark.celery(timezone="Asia/Tokyo")
    class TestMarked:
        @pytest.mark.celery(result_expires=7)
        def test_marker(self, celery_app):
            assert celery_app.conf.timezone == "Asia/Tokyo"
            assert celery_app.conf.result_expires == 7

    def test_current(celery_app, depends_on_current_app):
        assert current_app._get_current_object() is celery_app

    def test_worker(celery_app, celery_worker):
        assert type(celery_worker).__name__ == "TestWorkController"
        assert double.delay(21).get(timeout=60) == 42

        @celery_app.task(name="late")
        def late():
            return 1

        celery_worker.reload()
        assert late.delay().get(timeout=60) == 1
"""

TRAP = """
    import pytest
    from celery import current_app

    @pytest.fixture(scope="session")
    def use_celery_app_trap():
        return True

    def test_trap(celery_app):
        with pytest.raises(RuntimeError, match="current_app"):
            current_app.conf

    def test_allowed(celery_app, depends_on_current_app):
        assert current_app.main == "celery.tests"
"""


def run(folder: Path, tests: str, *options: str, conftest: str = CONFTEST) -> str:
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_it.py").write_text(textwrap.dedent(tests))
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env={"PYTHONPATH": str(root), "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return result.stdout + result.stderr


def test_apps_and_workers_are_fixtures(tmp_path: Path) -> None:
    """B-TEST-002, B-TEST-003, B-TEST-004, B-TEST-006: marker, celery_app, celery_worker, ..."""
    assert "4 passed" in run(tmp_path, TESTS, "-W", "error::pytest.PytestUnknownMarkWarning")


def test_the_current_app_may_be_trapped(tmp_path: Path) -> None:
    """B-TEST-007: use_celery_app_trap, depends_on_current_app."""
    assert "2 passed" in run(tmp_path, TRAP)


def test_the_plugin_is_inactive_until_it_is_named(tmp_path: Path) -> None:
    """B-TEST-001: inactive until pytest_plugins or PYTEST_PLUGINS name it."""
    output = run(tmp_path, "def test_it(celery_app): pass", conftest="")

    assert "fixture 'celery_app' not found" in output
    assert "1 passed" in run(
        tmp_path, "def test_it(celery_app): pass", "-p", "celery.contrib.pytest", conftest=""
    )


@pytest.mark.parametrize("timeout", [0.01])
def test_a_worker_that_does_not_end_is_an_error(tmp_path: Path, timeout: float) -> None:
    """B-TEST-005: waits up to shutdown_timeout of celery_worker_parameters, else raises."""
    tests = f"""
        import threading
        import pytest
        from celery import shared_task

        started, go_on = threading.Event(), threading.Event()

        @pytest.fixture(scope="session")
        def celery_worker_parameters():
            return {{"shutdown_timeout": {timeout}, "perform_ping_check": False}}

        @shared_task
        def hang():
            started.set()
            go_on.wait(20)

        def test_it(celery_app, celery_worker):
            hang.delay()
            assert started.wait(10)
    """
    output = run(tmp_path, tests)

    assert "1 passed" in output
    assert "1 error" in output
    assert "shutdown_timeout" in output
