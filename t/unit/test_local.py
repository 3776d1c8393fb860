from __future__ import annotations

import pickle
import sys
import types

import pytest

from celery import local
from celery.local import PromiseProxy, Proxy, maybe_evaluate, try_import


class Box:
    """A box."""

    def __init__(self, value=1):
        self.value = value

    def __call__(self, *args):
        return args

    def __eq__(self, other):
        return isinstance(other, Box) and other.value == self.value

    __hash__ = None

    def __enter__(self):
        return "inside"

    def __exit__(self, *exc_info):
        self.value = "left"


def test_a_proxy_asks_for_its_target_each_time():
    targets = iter([Box(1), Box(2)])
    proxy = Proxy(lambda: next(targets))

    assert [proxy.value, proxy.value] == [1, 2]


def test_a_proxy_is_an_instance_of_the_class_of_its_target():
    proxy = Proxy(Box)

    assert isinstance(proxy, Box)
    assert isinstance(proxy, Proxy)
    assert proxy.__class__ is Box
    assert type(proxy) is Proxy


def test_a_proxy_passes_on_changes_calls_and_contexts():
    box = Box()
    proxy = Proxy(lambda: box)

    proxy.value = 5
    assert box.value == 5
    assert proxy(1, 2) == (1, 2)
    with proxy as inside:
        assert inside == "inside"
    assert box.value == "left"
    del proxy.value
    assert not hasattr(box, "value")


def test_a_proxy_passes_arguments_to_its_finder():
    proxy = Proxy(Box, (7,), name="given", __doc__="also given")

    assert proxy.value == 7
    assert proxy.__name__ == "given"
    assert proxy.__doc__ == "also given"


def test_a_proxy_tells_name_module_and_docstring_of_its_target():
    proxy = Proxy(lambda: Box)

    assert proxy.__name__ == "Box"
    assert proxy.__module__ == __name__
    assert proxy.__doc__ == "A box."
    assert Proxy.__module__ == "celery.local"
    assert "Behaves like" in Proxy.__doc__


@pytest.mark.parametrize(
    ("operate", "expected"),
    [
        (lambda n: n + 1, 8),
        (lambda n: 1 + n, 8),
        (lambda n: n - 2, 5),
        (lambda n: 10 - n, 3),
        (lambda n: n * 2, 14),
        (lambda n: n / 2, 3.5),
        (lambda n: n // 2, 3),
        (lambda n: n % 4, 3),
        (lambda n: n**2, 49),
        (lambda n: 2**n, 128),
        (lambda n: n << 1, 14),
        (lambda n: n >> 1, 3),
        (lambda n: n & 3, 3),
        (lambda n: n | 8, 15),
        (lambda n: n ^ 1, 6),
        (lambda n: -n, -7),
        (lambda n: +n, 7),
        (lambda n: abs(-n), 7),
        (lambda n: ~n, -8),
        (lambda n: n < 8, True),
        (lambda n: n <= 6, False),
        (lambda n: n > 8, False),
        (lambda n: n >= 7, True),
        (lambda n: n == 7, True),
        (lambda n: n != 7, False),
        (lambda n: int(n), 7),
        (lambda n: float(n), 7.0),
        (lambda n: complex(n), 7 + 0j),
        (lambda n: hex(n), "0x7"),
        (lambda n: divmod(n, 2), (3, 1)),
        (lambda n: round(n), 7),
        (lambda n: f"{n:03d}", "007"),
        (lambda n: list(range(n)), [0, 1, 2, 3, 4, 5, 6]),
        (lambda n: hash(n), 7),
        (lambda n: str(n), "7"),
        (lambda n: repr(n), "7"),
        (lambda n: bool(n), True),
    ],
)
def test_a_proxy_takes_part_in_every_operation(operate, expected):
    assert operate(Proxy(lambda: 7)) == expected


def test_a_proxy_to_a_container_behaves_as_one():
    target = [1, 2, 3]
    proxy = Proxy(lambda: target)

    proxy[0] = 9
    del proxy[1]
    assert target == [9, 3]
    assert len(proxy) == 2
    assert 9 in proxy
    assert list(proxy) == [9, 3]
    assert "append" in dir(proxy)


def test_a_proxy_without_target_is_false_and_says_so():
    def unbound():
        raise RuntimeError("nothing here")

    proxy = Proxy(unbound)

    assert not proxy
    assert repr(proxy) == "<Proxy unbound>"
    assert dir(proxy) == []
    with pytest.raises(RuntimeError):
        proxy.value


def test_a_proxy_pickles_as_its_target():
    assert pickle.loads(pickle.dumps(Proxy(lambda: [1]))) == [1]
    assert type(pickle.loads(pickle.dumps(Proxy(lambda: [1])))) is list


def test_a_promise_asks_once_and_runs_what_waited_in_order():
    made, told = [], []

    def make():
        made.append(1)
        return Box(4)

    promise = PromiseProxy(make)
    promise.__then__(told.append, "first")
    promise.__then__(told.append, "second")
    assert not promise.__evaluated__()
    assert not told

    assert promise.value == 4
    assert promise.value == 4

    assert made == [1]
    assert told == ["first", "second"]
    assert promise.__evaluated__()
    promise.__then__(told.append, "at once")
    assert told[-1] == "at once"


def test_a_promise_that_fails_may_be_asked_again():
    answers = iter([RuntimeError("not yet"), 5])

    def make():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    promise = PromiseProxy(make)
    with pytest.raises(RuntimeError, match="not yet"):
        promise + 1
    assert not promise.__evaluated__()
    assert promise + 1 == 6


def test_maybe_evaluate_opens_promises_only():
    box = Box()
    assert maybe_evaluate(PromiseProxy(lambda: box)) is box
    assert maybe_evaluate(box) is box
    assert maybe_evaluate(None) is None


def test_try_import_gives_the_default_for_what_is_not_installed():
    assert try_import("json") is sys.modules["json"]
    assert try_import("no.such.module") is None
    assert try_import("no.such.module", 3) == 3


@pytest.fixture
def package(monkeypatch):
    module = types.ModuleType("lazy_package")
    monkeypatch.setitem(sys.modules, "lazy_package", module)
    return module


def test_a_lazy_module_imports_a_name_when_it_is_used(package):
    old, new = local.recreate_module(
        "lazy_package",
        by_module={"json": ["dumps", "loads"]},
        direct={"tools": "functools"},
        answer=42,
    )

    assert old is new is package
    assert "dumps" not in vars(new)
    import json

    assert new.dumps is json.dumps
    assert "dumps" in vars(new)
    assert new.tools.partial
    assert new.answer == 42
    assert {"dumps", "loads", "tools", "answer"} <= set(dir(new))
    assert pickle.loads(pickle.dumps(new)) is new
    with pytest.raises(AttributeError, match="nonsense"):
        new.nonsense


def test_old_modules_forward_to_the_current_app():
    """B-LEG-010: ``celery.registry``, ``celery.messaging``, ``celery.log`` remain importable."""
    import celery
    from celery import Celery

    app = Celery(set_as_current=True)
    module = local.get_compat_module(celery, "registry")

    assert module.tasks is app.tasks
    assert local.getappattr("amqp.queues") is app.amqp.queues
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense
    assert "tasks" in dir(module)


def test_a_class_property_belongs_to_the_class():
    class Owner:
        _value = 1
        value = local.class_property(lambda cls: cls._value)

        @value.setter
        def value(cls, new):
            cls._value = new

        frozen = local.class_property(lambda cls: 3)

    assert Owner.value == 1
    instance = Owner()
    instance.value = 2
    assert Owner.value == 2
    with pytest.raises(AttributeError):
        instance.frozen = 1


def test_reclassmethod_makes_a_class_method_of_any_method():
    class Other:
        @classmethod
        def tell(cls):
            return cls

    class Owner:
        tell = local.reclassmethod(Other.tell)

    assert Owner.tell() is Owner


def test_a_promise_shows_the_documentation_of_its_target():
    def target():
        """What it is."""

    assert PromiseProxy(lambda: target).__doc__ == "What it is."
    assert PromiseProxy(lambda: target, __doc__="Given.").__doc__ == "Given."
    assert "Asks for its target" in PromiseProxy.__doc__
