"""Stamps: named values that travel with a task, and visitors that put them there.

Stamps live in a signature's options, next to the list ``stamped_headers`` that names them.
An option that is not on that list is an ordinary option.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery._canvas.chain import _chain
    from celery._canvas.chord import _chord
    from celery._canvas.group import group
    from celery._canvas.signature import Signature

#: The option that lists which options are stamps.
STAMPED = "stamped_headers"


def stamp_names(headers: Mapping[str, Any]) -> list[str]:
    """Return which of *headers* are stamps: those it lists, or all when it has no list."""
    listed = headers.get(STAMPED)
    return list(headers if listed is None else listed)


def combine(headers: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return both sets of headers as one, *more* winning, with all of their stamps listed."""
    if not more:
        return dict(headers)
    names = dict.fromkeys([*stamp_names(headers), *stamp_names(more)])
    return {**headers, **more, STAMPED: list(names)}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def stamped(
    options: Mapping[str, Any], headers: Mapping[str, Any], append: bool = False
) -> dict[str, Any]:
    """Return *options* with *headers* put in.

    Args:
        options: Options of a signature.
        headers: Stamps, and other options where it lists its stamps.
        append: Keep the old values of a stamp behind the new one, in a list.
    """
    names = stamp_names(headers)
    before = options.get(STAMPED) or []
    result = {**options, **headers}
    if append:
        for name in names:
            if name in before and name in options and name in headers:
                values = [*_as_list(headers[name]), *_as_list(options[name])]
                result[name] = [v for i, v in enumerate(values) if v not in values[:i]]
    listed = list(dict.fromkeys([*before, *names]))
    if listed:
        result[STAMPED] = listed
    else:
        result.pop(STAMPED, None)
    return result


class StampingVisitor(ABC):
    """Says what is stamped on each part of a canvas.

    Every method gets the headers collected so far and returns a mapping of stamps. Where that
    holds a ``stamped_headers`` list, only the keys on it are stamps and the rest plain options.
    """

    def on_group_start(self, group: group, **headers: Any) -> dict[str, Any]:
        """Return stamps for all members of *group*."""
        return {}

    def on_group_end(self, group: group, **headers: Any) -> None:  # noqa: B027 - optional
        """Note that all members of *group* have been stamped."""

    def on_chain_start(self, chain: _chain[Any, Any], **headers: Any) -> dict[str, Any]:
        """Return stamps for all tasks of *chain*."""
        return {}

    def on_chain_end(self, chain: _chain[Any, Any], **headers: Any) -> None:  # noqa: B027 - optional
        """Note that all tasks of *chain* have been stamped."""

    @abstractmethod
    def on_signature(self, sig: Signature[Any, Any], **headers: Any) -> dict[str, Any]:
        """Return stamps for one task."""

    def on_chord_header_start(self, sig: _chord[Any, Any], **header: Any) -> dict[str, Any]:
        """Return stamps for the header of a chord and for its body: those of a group."""
        return self.on_group_start(sig.header_group(), **header)

    def on_chord_header_end(self, sig: _chord[Any, Any], **header: Any) -> None:
        """Note that all header tasks have been stamped."""
        self.on_group_end(sig.header_group(), **header)

    def on_chord_body(self, sig: _chord[Any, Any], **header: Any) -> dict[str, Any]:
        """Return further stamps for the body of a chord."""
        return {}

    def on_callback(self, callback: Signature[Any, Any], **header: Any) -> dict[str, Any]:
        """Return further stamps for a linked task."""
        return {}

    def on_errback(self, errback: Signature[Any, Any], **header: Any) -> dict[str, Any]:
        """Return further stamps for a task linked for the case of an error."""
        return {}
