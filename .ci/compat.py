"""Run the recorded compatibility checks; fail when a section drops below its last figure.

The figures live in ``.ci/compat.json``. They only ever rise: ``--update`` writes the
present ones. The argument is the checker's path; without it there is nothing to compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "compat.json"


def measure(checker: Path) -> dict[str, list[int]]:
    """Return ``{section: [present, total]}``."""
    done = subprocess.run(
        [sys.executable, str(checker), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    report = json.loads(done.stdout)
    return {name: [row["present"], row["total"]] for name, row in report.items()}


def main() -> int:
    paths = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    if not paths or not paths[0].exists():
        print("no recordings at hand: nothing to compare")
        return 0
    now = measure(paths[0])
    if "--update" in sys.argv:
        FIGURES.write_text(json.dumps(now, indent=1) + "\n")
    last = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    worse = 0
    for name, (present, total) in now.items():
        floor = last.get(name, [0, 0])[0]
        mark = "" if present >= floor else f"   BELOW the last figure, {floor}"
        worse += present < floor
        print(f"{name:12} {present:5}/{total:<5} {100 * present / max(1, total):5.1f} %{mark}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
