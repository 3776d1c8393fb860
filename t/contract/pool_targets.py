"""Functions that pools run in tests; importable, so that they reach other processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded

from celery.app import _coroutines
from celery.app._sealing import sealing


def add(x: int, y: int) -> int:
    return x + y


def echo(value: Any) -> Any:
    return value


def size_of(value: bytes) -> int:
    return len(value)


def boom(message: str) -> None:
    raise KeyError(message)


def raise_named(name: str) -> None:
    raise {
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt("from the body"),
        "MemoryError": MemoryError(),
        "GeneratorExit": GeneratorExit(),
    }[name]


def recurse() -> None:
    recurse()


def exit_hard(status: int) -> None:
    os._exit(status)


def kill_self(signum: int) -> None:
    os.kill(os.getpid(), signum)
    threading.Event().wait()  # a handler of ours ends this


def kill_outright() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def unpicklable() -> Any:
    return threading.Lock()


class Stubborn(Exception):
    """Pickles, but can't be built again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


def raise_stubborn() -> None:
    raise Stubborn(1, 2)


class Unreadable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


def unreadable() -> Any:
    return Unreadable()


def note(path: str, text: str) -> str:
    """Append a line to a file in one write, so that lines of processes don't mix."""
    with open(path, "ab", buffering=0) as file:
        file.write(f"{text}\n".encode())
    return text


def notes(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


def wait_for_file(path: str, timeout: float = 30.0) -> str:
    """Block until *path* exists; the tests' way to hold a body."""
    give_up = time.monotonic() + timeout
    while not os.path.exists(path):
        if time.monotonic() > give_up:
            raise TimeoutError(path)
        time.sleep(0.002)
    return path


def begin_and_wait(begun: str, path: str) -> str:
    note(begun, str(os.getpid()))
    return wait_for_file(path)


def seal() -> None:
    """Do what a tracer does when the body of its task has ended."""
    call = sealing.get()
    assert call is not None
    call()


def end_and_wait(begun: str, path: str) -> str:
    """Be a task that has ended, and takes its time to store that."""
    seal()
    note(begun, str(os.getpid()))
    return wait_for_file(path)


def green_end_and_wait(library: str, begun: str, path: str) -> str:
    """Do the same while other green threads run."""
    seal()
    note(begun, "begun")
    while not os.path.exists(path):
        __import__(library).sleep(0.002)
    return path


def swallow_exit(path: str) -> str:
    try:
        wait_for_file(path)
    except SystemExit:
        return "survived"
    return "never asked"


def cleanup_on_exit(path: str, cleaned: str) -> None:
    try:
        wait_for_file(path)
    finally:
        note(cleaned, "cleaned")


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def spin(seconds: float) -> str:
    """Use the processor until *seconds* have passed; can be interrupted anywhere."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        count += 1
    return "spun"


def allocate(mebibytes: int) -> int:
    KEPT.append(bytearray(os.urandom(1024) * 1024 * mebibytes))
    return os.getpid()


KEPT: list[bytearray] = []


def who_am_i(*_: Any) -> tuple[int, str, int]:
    from billiard.process import current_process

    process = current_process()
    return os.getpid(), process.name, process.index


def title() -> str:
    import setproctitle

    return str(setproctitle.getproctitle())


def signal_dispositions() -> dict[str, Any]:
    return {
        name: repr(signal.getsignal(getattr(signal, name)))
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGCHLD")
    } | {"blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))}


def open_sockets() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return found


class Holder:
    def __init__(self, value: int) -> None:
        self.value = value

    def bump(self) -> int:
        self.value += 1
        return self.value


def current_app_name() -> str:
    from celery import _state

    return str(_state.get_current_app().main)


def green_pause(library: str, seconds: float) -> float:
    __import__(library).sleep(seconds)
    return seconds


def green_cleanup(library: str, cleaned: list[str]) -> None:
    try:
        __import__(library).sleep(30)
    finally:
        cleaned.append("cleaned")


async def coro_pause(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def coro_boom(message: str) -> None:
    await asyncio.sleep(0)
    raise KeyError(message)


async def coro_raise(name: str) -> None:
    await asyncio.sleep(0)
    raise_named(name)


async def coro_begin_and_wait(begun: str, path: str) -> str:
    note(begun, str(os.getpid()))
    while not os.path.exists(path):
        await asyncio.sleep(0.002)
    return path


async def coro_cleanup(begun: str, cleaned: str) -> None:
    note(begun, "begun")
    try:
        await asyncio.sleep(30)
    finally:
        await asyncio.sleep(0)
        note(cleaned, "cleaned")


async def coro_catch_soft_limit(begun: str) -> str:
    note(begun, "begun")
    try:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(30))
    except SoftTimeLimitExceeded as exc:
        await asyncio.sleep(0)
        return f"caught {type(exc).__bases__[0].__name__}"
    return "never asked"


async def coro_spin(begun: str, seconds: float) -> str:
    """Use the processor without ever waiting for anything."""
    note(begun, "begun")
    return spin(seconds)


async def coro_keep(key: str) -> tuple[int, int]:
    """Return what tells the loop, and how often this was called on it."""
    loop: Any = asyncio.get_running_loop()
    LOOPS[id(loop)] = LOOPS.get(id(loop), 0) + 1
    return id(loop), LOOPS[id(loop)]


LOOPS: dict[int, int] = {}


def run_coroutine(name: str, *args: Any) -> Any:
    """Do with a coroutine what a tracer does in pools that run plain functions."""
    return _coroutines.complete(globals()[name](*args))


def python_version() -> str:
    return sys.version
