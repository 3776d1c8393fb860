"""Unit tests share one process: each finds its registers as the one before found them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from kombu.transport import memory

import celery.app.base  # noqa: F401 - its built-in tasks belong to every app
from celery import _state, signals
from celery.backends import cache

SIGNALS = tuple(each for each in vars(signals).values() if isinstance(each, signals.Signal))


@pytest.fixture(autouse=True)
def nothing_in_memory() -> None:
    """Forget the messages of ``memory://`` and the results of ``cache+memory://``."""
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()
    cache._memory.clear()


@pytest.fixture(autouse=True)
def process_registers() -> Iterator[None]:
    """
    Put back the current and default app, the shared tasks, whether joins block, who listens to
    signals, and the environment, in which an embedded worker notes how it logs.

    A receiver that is held weakly may outlive its test: until the garbage collector has come.
    """
    shared = dict(_state._on_app_finalizers)
    current, default = _state._tls.current_app, _state.default_app
    blocks = _state._task_join_will_block
    receivers = [each.receivers for each in SIGNALS]
    environment = dict(os.environ)
    yield
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(shared)
    _state._set_current_app(current)
    _state.set_default_app(default)
    _state._set_task_join_will_block(blocks)
    for signal, listeners in zip(SIGNALS, receivers, strict=True):
        signal.receivers = listeners
    if os.environ != environment:
        os.environ.clear()
        os.environ.update(environment)
