"""Rare garbage collections while a program starts.

What is imported makes hundreds of thousands of objects and next to no garbage, so that looking
for some takes a fifth of the time until a worker consumes.
"""

from __future__ import annotations

import gc

__all__ = ("collect_as_usual", "collect_rarely")

#: Objects, more than were freed since, after which there is a collection meanwhile.
RARELY = 50_000

_usual: tuple[int, int, int] | None = None


def collect_rarely() -> None:
    """Collect garbage rarely, until `collect_as_usual`; harmless twice."""
    global _usual  # noqa: PLW0603 - the collector is one per process
    thresholds = gc.get_threshold()
    if _usual is None and 0 < thresholds[0] < RARELY:
        _usual = thresholds
        gc.set_threshold(RARELY, *thresholds[1:])


def collect_as_usual() -> None:
    """Undo `collect_rarely`, unless somebody else has decided since; harmless without."""
    global _usual
    usual, _usual = _usual, None
    if usual is not None and gc.get_threshold()[0] == RARELY:
        gc.set_threshold(*usual)
