"""
Entries that were added or changed at run time, as plain data.

A definition has some of the fields ``task``, ``schedule``, ``args``, ``kwargs``, ``options`` and
``enabled``; those that it lacks come from the settings.  A schedule is one of::

    {"every": 30.0}                    seconds; with "relative": true rounded to their unit
    {"crontab": "*/5 3 * * mon"}       the five fields of a crontab file
    {"solar": ["sunset", 51.5, 0.0]}   event, latitude, longitude
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.schedules import ParseException, crontab, schedule, solar

__all__ = ("FIELDS", "InvalidDefinition", "check", "describe_schedule", "overlaid", "read_schedule")

#: Fields of a definition and the types of their values.
FIELDS: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "schedule": dict,
    "args": (list, tuple),
    "kwargs": dict,
    "options": dict,
    "enabled": bool,
}


class InvalidDefinition(ValueError):
    """A definition is not well formed."""


def check(definition: Mapping[str, Any], is_whole: bool) -> None:
    """
    Refuse a definition that beat could not use.

    Args:
        definition: To check.
        is_whole: No settings stand behind it, so it has to say what to run, and when.

    Raises:
        InvalidDefinition: Says what is wrong.
    """
    for name, value in definition.items():
        if name not in FIELDS:
            raise InvalidDefinition(
                f"an entry has no field {name!r}; there are: {', '.join(FIELDS)}"
            )
        if not isinstance(value, FIELDS[name]):
            raise InvalidDefinition(f"{name!r} can't be {value!r}")
    if is_whole:
        for name in ("task", "schedule"):
            if not definition.get(name):
                raise InvalidDefinition(f"a new entry needs the field {name!r}")
    if "schedule" in definition:
        read_schedule(definition["schedule"])


def read_schedule(described: Mapping[str, Any]) -> Any:
    """
    Return the schedule that is described.

    Raises:
        InvalidDefinition: There is no such schedule.
    """
    kinds = [kind for kind in ("every", "crontab", "solar") if kind in described]
    if len(kinds) != 1 or set(described) - {*kinds, "relative"}:
        raise InvalidDefinition(
            f"a schedule has one of 'every', 'crontab' and 'solar', not {dict(described)!r}"
        )
    value = described[kinds[0]]
    try:
        match kinds[0]:
            case "every":
                if float(value) <= 0:
                    raise InvalidDefinition(f"an interval has to be positive, not {value!r}")
                return schedule(float(value), relative=bool(described.get("relative", False)))
            case "crontab":
                return crontab.from_string(value)
            case _:
                event, latitude, longitude = value
                return solar(event, float(latitude), float(longitude))
    except (TypeError, ValueError, AttributeError, ParseException) as exc:
        raise InvalidDefinition(f"{kinds[0]} can't be {value!r}: {exc}") from exc


def describe_schedule(given: Any) -> dict[str, Any]:
    """
    Describe a schedule, or seconds, as plain data.

    Raises:
        InvalidDefinition: It is of another kind.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, int | float):
        return {"every": float(given)}
    if type(given) is schedule:
        described: dict[str, Any] = {"every": given.run_every.total_seconds()}
        return {**described, "relative": True} if given.relative else described
    if type(given) is crontab:
        names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        fields = (_field(getattr(given, f"_orig_{name}"), getattr(given, name)) for name in names)
        return {"crontab": " ".join(fields)}
    if type(given) is solar:
        return {"solar": [given.event, given.lat, given.lon]}
    raise InvalidDefinition(f"can't keep {given!r}: it is neither an interval, a crontab nor solar")


def _field(given: Any, values: set[int]) -> str:
    # A star has a meaning of its own around clock changes.
    return given if isinstance(given, str) else ",".join(str(value) for value in sorted(values))


def overlaid(fields: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Return what an entry is made of; None if it does not run.

    Args:
        fields: Those from the settings; empty if these don't know the entry.
        definition: What was defined at run time; it goes before.
    """
    if not definition.get("enabled", True):
        return None
    whole = {**fields, **definition}
    whole.pop("enabled", None)
    if "schedule" in definition:
        whole["schedule"] = read_schedule(definition["schedule"])
    return whole if {"task", "schedule"} <= set(whole) else None
