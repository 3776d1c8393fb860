"""Retrying a task by itself when its body raises certain errors.

A task with ``autoretry_for`` gets its ``run`` wrapped when it is bound to its app; all other tasks
are left alone, so they pay nothing.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from celery.exceptions import Ignore, Retry
from celery.utils import functional
from celery.utils.time import get_exponential_backoff_interval

__all__ = ("add_autoretry_behaviour",)


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Wrap ``task.run`` so that errors listed in ``autoretry_for`` become retries.

    Args:
        task: The bound task instance.
        options: Options of the decorator; each falls back to the task's attribute:
            ``autoretry_for`` and ``dont_autoretry_for`` (classes), ``retry_kwargs`` (arguments of
            ``retry``), ``retry_backoff`` (factor in seconds, or a boolean), ``retry_backoff_max``
            (seconds) and ``retry_jitter``.
    """

    def option(name: str, default: Any) -> Any:
        return options.get(name, getattr(task, name, default))

    retried = tuple(option("autoretry_for", ()))
    if not retried or hasattr(task, "_orig_run"):
        return
    spared = (Ignore, Retry, *option("dont_autoretry_for", ()))
    if not any(issubclass(cls, SystemExit) for cls in retried):
        # Listing a base class of it is not enough: the process has to be able to end.
        spared += (SystemExit,)
    retry_kwargs = option("retry_kwargs", {})
    backoff = option("retry_backoff", False)
    factor = int(max(1.0, float(backoff))) if backoff else 0
    longest = int(option("retry_backoff_max", 600))
    jitter = option("retry_jitter", True)
    body = task.run

    def retry(exc: BaseException) -> Any:
        how = dict(retry_kwargs)
        if factor:
            how["countdown"] = get_exponential_backoff_interval(
                factor=factor,
                retries=task.request.retries,
                maximum=longest,
                full_jitter=jitter,
            )
        # ``retry`` raises; it only returns the error to raise when told ``throw=False``.
        raise task.retry(exc=exc, **how) from exc

    @wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return body(*args, **kwargs)
        except spared:
            raise
        except retried as exc:
            return retry(exc)

    @wraps(body)
    async def run_coroutine(*args: Any, **kwargs: Any) -> Any:
        try:
            return await body(*args, **kwargs)
        except spared:
            raise
        except retried as exc:
            return retry(exc)

    task._orig_run = body
    task.run = run_coroutine if functional.is_coroutine_function(body) else run
