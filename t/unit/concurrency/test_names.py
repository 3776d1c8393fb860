"""How pools are found by name."""

from __future__ import annotations

import importlib

import pytest

from celery import concurrency
from celery.concurrency import get_available_pool_names, get_implementation
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("prefork", PreforkPool),
        ("processes", PreforkPool),
        ("solo", SoloPool),
        ("threads", ThreadPool),
        ("celery.concurrency.solo:TaskPool", SoloPool),
        (SoloPool, SoloPool),
    ],
)
def test_a_name_a_path_or_a_class_stands_for_a_pool(name: object, pool: type) -> None:
    assert get_implementation(name) is pool


def test_the_names_are_those_of_the_command_line() -> None:
    """B-CLI-036: prefork, eventlet, gevent, solo, processes, threads, custom; and asyncio."""
    assert set(get_available_pool_names()) == {
        "prefork", "eventlet", "gevent", "solo", "processes", "threads", "asyncio", "custom",
    }  # fmt: skip


def test_the_environment_names_the_custom_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """B-POOL-013: the class path in CELERY_CUSTOM_WORKER_POOL."""
    monkeypatch.setenv("CELERY_CUSTOM_WORKER_POOL", "celery.concurrency.thread:TaskPool")
    importlib.reload(concurrency)
    try:
        assert concurrency.get_implementation("custom") is ThreadPool
    finally:
        monkeypatch.undo()
        importlib.reload(concurrency)


def test_a_custom_pool_without_a_path_says_what_to_set() -> None:
    with pytest.raises(ValueError, match="CELERY_CUSTOM_WORKER_POOL"):
        get_implementation("custom")
