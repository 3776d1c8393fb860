"""The fields of a crontab, read from text."""

from __future__ import annotations

import re
from collections.abc import Callable

from celery.utils.time import weekday, yearmonth

# Of the module that users know.
_PUBLIC = "celery.schedules"


class ParseException(Exception):
    """A crontab field is not well formed."""


class crontab_parser:
    """
    Reads one crontab field.

    It is a comma-separated list of ``*``, ``N`` and ``A-B``, the first and the last optionally with
    a step: ``*/15``, ``10-3/2``.  Ranges may wrap around.  Numbers may be names of days or months.

    Args:
        max_: How many values there are.
        min_: The first of them.
    """

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_
        number = r"(\w+)"
        step = r"/(\w+)"
        self.pats: tuple[tuple[re.Pattern[str], Callable[..., list[int]]], ...] = (
            (re.compile(rf"\*{step}"), lambda step: self._every(step, self._all())),
            (re.compile(r"\*"), self._all),
            (
                re.compile(rf"{number}-{number}{step}"),
                lambda first, last, step: self._every(step, self._range(first, last)),
            ),
            (re.compile(rf"{number}-{number}"), self._range),
            (re.compile(number), lambda text: [self._number(text)]),
        )

    def parse(self, spec: str) -> set[int]:
        """
        Return the values that *spec* stands for.

        Raises:
            ParseException: A part is empty or negative.
            ValueError: A value is out of range, or unknown.
        """
        values: set[int] = set()
        for part in spec.split(","):
            if not part:
                raise self.ParseException(f"empty part in {spec!r}")
            values.update(self._part(part))
        return values

    def _part(self, part: str) -> list[int]:
        for pattern, read in self.pats:
            match = pattern.fullmatch(part)
            if match:
                return read(*match.groups())
        if part.endswith("/"):
            raise self.ParseException(f"empty filter in {part!r}")
        if part.startswith("-") or "--" in part:
            raise self.ParseException(f"negative numbers are not supported: {part!r}")
        raise ValueError(f"Invalid crontab field {part!r}.")

    def _all(self) -> list[int]:
        return list(range(self.min_, self.min_ + self.max_))

    def _range(self, first: str, last: str) -> list[int]:
        start, end = self._number(first), self._number(last)
        if start <= end:
            return list(range(start, end + 1))
        return [*range(start, self.min_ + self.max_), *range(self.min_, end + 1)]

    def _every(self, step: str, values: list[int]) -> list[int]:
        if not step.isdecimal() or int(step) < 1:
            raise ValueError(f"Invalid step: {step!r} is not a positive number.")
        return values[:: int(step)]

    def _number(self, text: str) -> int:
        number = int(text) if text.isdecimal() else self._named(text)
        last = self.min_ + self.max_ - 1
        if number > last:
            raise ValueError(f"Invalid end range: {number} > {last}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number

    def _named(self, name: str) -> int:
        for look_up in (yearmonth, weekday):
            try:
                return look_up(name)
            except KeyError:
                continue
        raise ValueError(f"Invalid weekday or month name {name!r}.")


ParseException.__module__ = crontab_parser.__module__ = _PUBLIC
