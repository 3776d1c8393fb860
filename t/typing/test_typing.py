"""What type checkers find in code that uses tasks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "t" / "typing" / "cases"

Errors = dict[str, dict[int, str]]


def mypy(folder: Path) -> Errors:
    options = ["--strict", "--no-error-summary", "--no-incremental", "--hide-error-context"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--config-file", ROOT / "pyproject.toml", CASES],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr or done.stdout
    found: Errors = defaultdict(dict)
    for file, line, text in re.findall(r"^(.+?):(\d+): error: (.*)$", done.stdout, re.MULTILINE):
        found[Path(file).name][int(line)] = text
    return found


def pyright(folder: Path) -> Errors:
    config = folder / "pyrightconfig.json"
    config.write_text(json.dumps({
        "include": [str(CASES)], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard",
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
    }))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--level", "error",
         "--pythonpath", sys.executable, "-p", config],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr or done.stdout
    found: Errors = defaultdict(dict)
    for item in json.loads(done.stdout)["generalDiagnostics"]:
        found[Path(item["file"]).name][item["range"]["start"]["line"] + 1] = item["message"]
    return found


@pytest.mark.parametrize("check", [mypy, pyright])
@pytest.mark.timeout(400)
def test_right_code_passes_and_wrong_code_does_not(check, tmp_path: Path) -> None:
    lines = (CASES / "wrong.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# E")}
    assert len(wrong) > 10

    found = check(tmp_path)

    assert found["right.py"] == {}
    assert set(found["wrong.py"]) == wrong, found["wrong.py"]
