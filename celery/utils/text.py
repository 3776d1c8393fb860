"""Cutting, filling and joining text for people to read."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from functools import partial
from re import Match, Pattern
from typing import Any

__all__ = (
    "abbr",
    "abbrtask",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "pluralize",
    "pretty",
    "simple_format",
    "str_to_list",
    "strtobool",
    "truncate",
)

STRTOBOOL_DEFAULT_TABLE = {
    "false": False,
    "no": False,
    "0": False,
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
    "off": False,
}

UNKNOWN_SIMPLE_FORMAT_KEY = "Unknown format %{0} in string {1!r}; if the % is meant, write %%."

#: A percent sign and the key that follows it.
RE_FORMAT = re.compile(r"%(\w|%)")


def str_to_list(s: Any) -> Any:
    """Split a comma-separated string; anything else passes through."""
    return s.split(",") if isinstance(s, str) else s


def strtobool(term: Any, table: Mapping[str, bool] | None = None) -> Any:
    """
    Read a boolean from text such as ``yes`` or ``0``, in any case; anything but text passes.

    Raises:
        TypeError: The text is not in *table*.
    """
    if not isinstance(term, str):
        return term
    try:
        return (STRTOBOOL_DEFAULT_TABLE if table is None else table)[term.lower()]
    except KeyError:
        raise TypeError(f"{term!r} is not a boolean") from None


def dedent_initial(s: str, n: int = 4) -> str:
    """Remove the indentation of the first line if it is *n* spaces."""
    return s.removeprefix(" " * n)


def dedent(s: str, sep: str = "\n") -> str:
    """Remove an indentation of four spaces from each line."""
    return sep.join(dedent_initial(line) for line in s.splitlines())


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """Break the lines of *s* at *width*, each line being a paragraph."""
    from textwrap import fill  # rarely needed, and this module is imported by nearly all

    return sep.join(fill(paragraph, width) for paragraph in s.split(sep))


def join(l: Iterable[str | None], sep: str = "\n") -> str:  # noqa: E741 - the public name
    """Join those strings that are not empty."""
    return sep.join(part for part in l if part)


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """Make *s* end with at least *n* separators."""
    return s + sep * (n - s.count(sep))


ensure_newlines = partial(ensure_sep, "\n")


def abbr(S: str, max: int, ellipsis: str = "...") -> str:
    """Cut *S* to *max* characters, *ellipsis* included."""
    if len(S) <= max:
        return S
    return S[: max - len(ellipsis)] + ellipsis if ellipsis else S[:max]


def abbrtask(S: str | None, max: int) -> str:
    """Shorten the name of a task, the module first: ``a.b.[.]add``."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    module, _, name = S.rpartition(".")
    return abbr(module, max - len(name), ellipsis="[.]") + name


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """Put *indent* spaces before each line."""
    margin = " " * indent
    return sep.join(margin + line for line in t.split(sep))


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """Cut *s* to about *maxlen* characters, at a word where there is one, and add *suffix*."""
    if not maxlen or len(s) < maxlen:
        return s
    head, space, _ = s[:maxlen].rpartition(" ")
    return (head if space else s[:maxlen]) + suffix


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """Add *suffix* to *text* unless *n* is one."""
    return text + suffix if n != 1 else text


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """Format *value* over several lines where one of *width* will not hold it."""
    from pprint import pformat  # see above

    if isinstance(value, dict):
        body = pformat(value, 4, nl_width)[1:]
        return f"{{{sep} {body}"
    if isinstance(value, tuple):
        return f"{sep}{' ' * 4}{pformat(value, width=nl_width, **kw)}"
    return pformat(value, width=width, **kw)


def match_case(s: str, other: str) -> str:
    """Return *s* in the case of *other*."""
    return s.upper() if other.isupper() else s.lower()


def simple_format(
    s: Any,
    keys: Mapping[str, Any],
    pattern: Pattern[str] = RE_FORMAT,
    expand: str = r"\1",
) -> Any:
    """
    Replace ``%k`` by ``keys["k"]`` and ``%%`` by a percent sign.

    Values may be functions without arguments.  Empty strings and None pass through.

    Raises:
        ValueError: A key is not known.
    """
    if not s:
        return s
    table: dict[str, Any] = {**keys, "%": "%"}

    def value_of(match: Match[str]) -> str:
        key = match.expand(expand)
        try:
            value = table[key]
        except KeyError:
            raise ValueError(UNKNOWN_SIMPLE_FORMAT_KEY.format(key, s)) from None
        return str(value() if callable(value) else value)

    return pattern.sub(value_of, s)


def remove_repeating(substr: str, s: str) -> str:
    """Remove every occurrence of *substr* but the first."""
    first = s.find(substr)
    if first < 0:
        return s
    end = first + len(substr)
    return s[:end] + s[end:].replace(substr, "")


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """Leave out the module of *task_name* where *s*, a list of signatures, repeats it."""
    module, _, _ = task_name.rpartition(".")
    return remove_repeating(module + ".", s)


class WhateverIO(io.StringIO):
    """A text buffer that takes bytes as well."""

    def __init__(self, v: str | bytes | None = None, *a: Any, **kw: Any) -> None:
        super().__init__(v.decode() if isinstance(v, bytes) else v, *a, **kw)

    def write(self, data: str | bytes) -> int:
        """Append *data*."""
        return super().write(data.decode() if isinstance(data, bytes) else data)
