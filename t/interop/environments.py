"""Virtual environments of other packages, beside that of the tests; made when one is first used."""

from __future__ import annotations

import fcntl
import os
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: This package, for those that need it: pip then gets no other where one asks for Celery.
THIS = ("-e", f"{ROOT}[redis]")


def interpreter(name: str, variable: str, *packages: str) -> str:
    """
    Return the path of a Python that has *packages*.

    Processes that want the same one wait for the first; so do those that install this tree, because
    building it writes into it.

    Args:
        name: Of the folder, where the environment variable *variable* names no other.
    """
    home = Path(os.environ.get(variable) or ROOT / name)
    python, stamp, wanted = home / "bin" / "python", home / ".complete", "\n".join(packages)
    lock = ROOT / ".venv-of-this-tree.lock" if THIS[-1] in packages else Path(f"{home}.lock")
    with lock.open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(home, with_pip=True, clear=not stamp.exists())
            subprocess.run(
                [python, "-m", "pip", "install", "-q", *packages], check=True, timeout=600
            )
            stamp.write_text(wanted)
    return str(python)
