"""What a caller says relative to now, made absolute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from celery._protocol import options

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def clock() -> datetime:
    return NOW


def no_clock() -> datetime:
    raise AssertionError("the clock was read for nothing")


def test_a_countdown_becomes_the_moment_that_many_seconds_from_now():
    """B-CALL-011: the eta is now plus the countdown, in UTC with +00:00."""
    assert options.header_eta(60, None, clock) == "2030-01-02T03:05:05+00:00"


def test_a_countdown_wins_over_an_eta():
    """B-CALL-011: of both given in one call, the countdown is used."""
    assert options.header_eta(1, NOW + timedelta(days=1), clock) == "2030-01-02T03:04:06+00:00"


def test_a_negative_countdown_lies_in_the_past():
    """B-CALL-030: it is accepted, and the task runs at once."""
    assert options.header_eta(-5, None, clock) == "2030-01-02T03:04:00+00:00"


def test_an_aware_eta_keeps_its_offset_and_a_naive_one_has_none():
    """B-CALL-012: moments are sent as they were given."""
    oslo = timezone(timedelta(hours=1))
    assert options.header_eta(None, NOW.astimezone(oslo), no_clock) == "2030-01-02T04:04:05+01:00"
    assert options.header_eta(None, NOW.replace(tzinfo=None), no_clock) == "2030-01-02T03:04:05"


def test_an_eta_given_as_text_is_passed_through():
    """B-CALL-012: text is not checked."""
    assert options.header_eta(None, "whenever", no_clock) == "whenever"


def test_no_time_means_no_header_and_no_look_at_the_clock():
    assert options.header_eta(None, None, no_clock) is None
    assert options.header_expires(None, no_clock, None) == (None, None)


def test_a_countdown_that_is_no_number_is_refused():
    """B-CALL-013: a TypeError at the caller."""
    with pytest.raises(TypeError):
        options.header_eta("soon", None, clock)  # type: ignore[arg-type]


def test_expires_in_seconds_counts_from_now_and_sets_the_ttl():
    """B-CALL-014, B-CALL-015: seconds from publishing; the broker may drop it after as many."""
    assert options.header_expires(120, clock, None) == ("2030-01-02T03:06:05+00:00", 120.0)


def test_expires_as_a_moment_sets_the_ttl_to_what_is_left():
    text, ttl = options.header_expires(NOW + timedelta(seconds=30), clock, None)
    assert (text, ttl) == ("2030-01-02T03:04:35+00:00", 30.0)


def test_expires_as_iso_text_is_sent_as_it_is():
    """B-CALL-014: an ISO string is one of the forms."""
    assert options.header_expires("2030-01-02T03:04:15+00:00", clock, None) == (
        "2030-01-02T03:04:15+00:00",
        10.0,
    )


@pytest.mark.parametrize("past", [-10, NOW - timedelta(seconds=10)])
def test_what_has_expired_already_is_sent_without_a_ttl(past):
    """B-CALL-014: it is published all the same, and revoked by the worker."""
    text, ttl = options.header_expires(past, clock, None)
    assert text == "2030-01-02T03:03:55+00:00"
    assert ttl is None


def test_expires_of_another_type_is_refused_by_name():
    with pytest.raises(TypeError, match="expires must be"):
        options.header_expires([1], clock, None)  # type: ignore[arg-type]


def test_an_absurd_countdown_is_refused_by_name():
    with pytest.raises(ValueError, match="-3000000000"):
        options.header_eta(-3_000_000_000, None, clock)
