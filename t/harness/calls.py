"""What something costs in calls of functions written in Python, which no load changes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any


def python_calls(action: Callable[[], Any], within: str = "") -> list[str]:
    """
    Return the names of the functions that *action* calls, in order.

    The garbage collector rests meanwhile: what it calls back is nobody's cost here.

    Args:
        within: Part of the paths of the files whose functions count.
    """
    calls: list[str] = []

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and within in frame.f_code.co_filename:
            calls.append(frame.f_code.co_qualname)

    gc.disable()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls
