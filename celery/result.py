"""What a caller holds after sending tasks: results by id, alone or in sets.

A result object is an id, a back-end to ask, and the results it depends on. `AsyncResult`
stands for one task, `GroupResult` for the members of a group, `EagerResult` for a task
that ran in this process. This is the public face; the parts are in `celery._result`.
"""

from __future__ import annotations

from celery._result.eager import EagerResult
from celery._result.joining import (
    E_WOULDBLOCK as E_WOULDBLOCK,
    allow_join_result as allow_join_result,
    assert_will_not_block as assert_will_not_block,
    denied_join_result as denied_join_result,
)
from celery._result.node import ResultBase, result_from_tuple
from celery._result.sets import GroupResult, ResultSet
from celery._result.single import AsyncResult

__all__ = (
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "result_from_tuple",
)

# Pickles, documentation and messages of errors name the place that stays.
for _public in (
    AsyncResult, EagerResult, GroupResult, ResultBase, ResultSet, result_from_tuple,
    allow_join_result, assert_will_not_block, denied_join_result,
):  # fmt: skip
    _public.__module__ = __name__
del _public
