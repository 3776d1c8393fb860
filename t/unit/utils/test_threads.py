from __future__ import annotations

import asyncio
import socket
import threading
from types import SimpleNamespace

import greenlet
import pytest

from celery.utils import threads
from celery.utils.threads import (
    Local,
    LocalManager,
    LocalStack,
    bgThread,
    bound_open_broker_sockets,
    default_socket_timeout,
    release_local,
)


def in_thread(fun):
    answer = []
    thread = threading.Thread(target=lambda: answer.append(fun()))
    thread.start()
    thread.join(10)
    return answer[0]


def test_a_stack_belongs_to_its_thread():
    stack = LocalStack()
    stack.push("main")

    assert in_thread(lambda: stack.top) is None
    assert in_thread(lambda: (stack.push("other"), stack.top, len(stack))[1:]) == ("other", 1)
    assert stack.top == "main"
    assert stack.stack == ["main"]


def test_a_stack_belongs_to_its_greenlet():
    stack = LocalStack()
    stack.push("main")

    def run():
        assert stack.top is None
        stack.push("green")
        return stack.pop()

    assert greenlet.greenlet(run).switch() == "green"
    assert stack.top == "main"


def test_objects_come_off_in_reverse():
    stack = LocalStack()
    stack.push(1)
    stack.push(2)
    proxy = stack()

    assert proxy + 1 == 3
    assert (stack.pop(), stack.pop(), stack.pop()) == (2, 1, None)
    assert len(stack) == 0
    with pytest.raises(RuntimeError, match="unbound"):
        proxy + 1


def test_a_stack_belongs_to_its_coroutine_and_what_that_starts():
    stack = LocalStack()
    stack.push("main")

    async def part(name):
        stack.push(name)
        await asyncio.sleep(0)
        seen = stack.stack
        stack.pop()
        return seen

    async def whole():
        stack.push("whole")
        return await asyncio.gather(part("one"), part("two"), asyncio.to_thread(lambda: stack.top))

    assert asyncio.run(whole()) == [["main", "whole", "one"], ["main", "whole", "two"], "whole"]
    assert stack.stack == ["main"]


def test_attributes_belong_to_their_thread():
    local = Local()
    local.x = 1
    proxy = local("x")

    assert local.x == 1
    assert proxy == 1
    assert in_thread(lambda: hasattr(local, "x")) is False
    assert [values for _, values in local] == [{"x": 1}]
    del local.x
    with pytest.raises(AttributeError):
        local.x
    with pytest.raises(AttributeError):
        del local.x
    assert not proxy


def test_a_manager_releases_all_it_knows():
    local, stack = Local(), LocalStack()
    local.x = 1
    stack.push(1)
    manager = LocalManager([local, stack])

    manager.cleanup()

    assert not hasattr(local, "x")
    assert stack.top is None
    assert repr(manager) == "<LocalManager storages: 2>"
    assert LocalManager(local).locals == [local]
    assert LocalManager().locals == []
    assert manager.get_ident() == threads.get_ident()
    stack.push(1)
    release_local(stack)
    assert len(stack) == 0


def test_a_background_thread_turns_until_it_is_stopped():
    turned = threading.Event()

    class Service(bgThread):
        turns = 0

        def body(self):
            self.turns += 1
            if self.turns == 3:
                turned.set()

    service = Service()
    service.stop()
    service = Service()
    service.start()
    assert turned.wait(10)
    service.stop()
    service.stop()

    assert not service.is_alive()
    assert service.name == "Service"
    assert service.daemon


def test_a_crash_of_a_background_thread_ends_the_process(monkeypatch, capsys):
    codes = []

    class Service(bgThread):
        def body(self):
            self._stop_requested.set()
            raise ValueError("broken")

    monkeypatch.setattr(threads.os, "_exit", codes.append)
    Service(name="it").run()

    assert codes == [1]
    error = capsys.readouterr().err
    assert "'it' crashed: ValueError('broken')" in error
    assert "Traceback" in error
    with pytest.raises(NotImplementedError):
        bgThread().body()


def test_new_sockets_get_a_timeout_for_a_while():
    before = socket.getdefaulttimeout()
    with default_socket_timeout(3):
        assert socket.getdefaulttimeout() == 3
    assert socket.getdefaulttimeout() == before


def test_open_sockets_get_a_timeout_for_a_while():
    one, two = socket.socketpair()
    channel = SimpleNamespace(client=SimpleNamespace(connection=SimpleNamespace(_sock=two)))
    established = SimpleNamespace(transport=SimpleNamespace(sock=one), channels=[channel])
    two.settimeout(1)

    with bound_open_broker_sockets(SimpleNamespace(_connection=established), 5):
        assert one.gettimeout() == 5
        assert two.gettimeout() == 1
        two.close()
    assert one.gettimeout() is None
    one.close()
    bound_open_broker_sockets(SimpleNamespace(), 5).close()
