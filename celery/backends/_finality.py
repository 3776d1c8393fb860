"""Which stored states a later write must not replace: one pure decision for all stores.

Writes about one task can come in the wrong order. A task may be delivered twice, and then a
second run must not take back a success. And the message of a retry is sent before the state RETRY
is stored, so that the next attempt can have ended by then: without this, the task would look as
if it were still to be tried, for ever.
"""

from __future__ import annotations

from celery.states import READY_STATES, RETRY, SUCCESS

_SUCCESS_ONLY = frozenset({SUCCESS})


def lasting_states(new: str) -> frozenset[str]:
    """Return the stored states that stay when *new* is to be written."""
    return READY_STATES if new == RETRY else _SUCCESS_ONLY


def stays(stored: str, new: str) -> bool:
    """Say whether *stored* is kept when *new* is to be written."""
    return stored in lasting_states(new)
