"""`Generic` for classes that are generic to type checkers only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Generic as Generic
else:

    class Generic:
        """What ``typing.Generic`` is to type checkers, leaving no trace among the bases."""

        def __class_getitem__(cls, params: Any) -> Any:
            return cls()

        def __mro_entries__(self, bases: Any) -> tuple[()]:
            return ()
