"""When the program patches the standard library for green threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from t.harness.worker import ROOT

PROBE = """
import sys
if "gevent" in sys.modules:
    from gevent import monkey
    print("gevent", monkey.is_module_patched("socket"))
elif "eventlet" in sys.modules:
    from eventlet import patcher
    print("eventlet", patcher.is_monkey_patched("socket"))
else:
    print("none")
sys.stdout.flush()
sys.exit(0)
"""


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["-P", "gevent"], "gevent True"),
        (["--pool=gevent"], "gevent True"),
        (["-P", "eventlet"], "eventlet True"),
        (["-P", "threads"], "none"),
        (["-P", "asyncio"], "none"),
        ([], "none"),
    ],
)
def test_modules_are_patched_before_the_app_is_imported_if_the_command_line_says_so(
    tmp_path: Path, options: list[str], seen: str
) -> None:
    """B-POOL-012: gevent and eventlet patch at program start, only with -P on the command line."""
    (tmp_path / "probe.py").write_text(PROBE)

    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "probe", "worker", *options],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stdout.strip() == seen, done.stderr
