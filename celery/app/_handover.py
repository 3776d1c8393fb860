"""A result that the process of a task leaves to the main process, which stores many at once.

The main process asks for that when more tasks wait than the pool can run; while there are fewer,
each process stores its results itself, which is sooner done. A pool process then opens `handover`
for the task, and the tracer has the back-end make the document without storing it. It goes along
with the report that the task has ended; the main process tells nobody that it has before the
document is stored.

One task at a time runs in such a process, so there is one of these.
"""

from __future__ import annotations

__all__ = ("Handover", "handover")


class Handover:
    """What one task hands over.

    Attributes:
        is_open: The next document may be handed over.
        document: Task id and encoded document, None when there is none.
    """

    __slots__ = ("document", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self.document: tuple[str, bytes] | None = None

    def begin(self, is_open: bool) -> None:
        """Be ready for another task."""
        self.is_open = is_open
        self.document = None

    def give(self, task_id: str, document: bytes) -> None:
        """Hand over a document, the only one."""
        self.is_open = False
        self.document = task_id, document

    def take(self) -> tuple[str, bytes] | None:
        """Return what was handed over."""
        self.is_open = False
        document, self.document = self.document, None
        return document


handover = Handover()
