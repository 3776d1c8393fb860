"""The cache back-end: which caches there are, and memory as one of them."""

from __future__ import annotations

import sys
import threading
import time
from uuid import uuid4

import pytest
from kombu.utils.encoding import ensure_bytes

from celery import Celery
from celery.app.task import Context
from celery.backends import _keyvalue, cache
from celery.backends._memcached import PylibmcClient, PythonMemcachedClient
from celery.backends.cache import MAX_RELATIVE_EXPIRES, CacheBackend, DummyClient, _exptime, _Memory
from celery.exceptions import ImproperlyConfigured


def make(url=None, **settings):
    app = Celery("cache", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return CacheBackend(app, url=url)


@pytest.mark.parametrize("url", [None, "", "nosuchcache://h:1/"])
def test_without_a_known_cache_all_of_them_are_listed(url):
    """B-BACK-003."""
    with pytest.raises(ImproperlyConfigured) as error:
        make(url)

    for name in ("memcache", "memcached", "pylibmc", "pymemcache", "memory"):
        assert name in str(error.value)


def test_the_setting_is_used_where_there_is_no_url():
    assert make(cache_backend="memory").backend == "memory"


@pytest.mark.parametrize("name", ["memcache", "memcached", "pylibmc", "pymemcache"])
def test_all_names_of_memcached_are_one_driver(name):
    """B-BACK-022: pymemcache, wherever it is installed."""
    backend = make(f"{name}://one:1;two:2/", cache_backend_options={"behaviors": {}, "timeout": 1})

    assert backend.servers == ["one:1", "two:2"]
    assert type(backend.client).__module__.startswith("pymemcache")
    assert backend.as_uri() == f"{name}://one:1;two:2/"


def hide(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_without_pymemcache_another_driver_that_is_installed_is_used(monkeypatch):
    pytest.importorskip("pylibmc", reason="it has no wheels for Python 3.13 and later")
    hide(monkeypatch, "pymemcache")
    assert make("memcached://h:1/").Client is PylibmcClient

    hide(monkeypatch, "pylibmc")
    assert make("memcached://h:1/").Client is PythonMemcachedClient


def test_the_settings_pick_a_driver():
    backend = make("memcached://h:1/", cache_backend_options={"driver": "memcache"})
    assert backend.Client is PythonMemcachedClient

    with pytest.raises(ImproperlyConfigured, match="pymemcache, pylibmc, memcache"):
        make("memcached://h:1/", cache_backend_options={"driver": "bmemcached"})


@pytest.mark.parametrize(
    ("driver", "package"),
    [(None, "pymemcache"), ("pylibmc", "pylibmc"), ("memcache", "python-memcached")],
)
def test_a_missing_driver_is_named(monkeypatch, driver, package):
    """B-BACK-004."""
    hide(monkeypatch, "pymemcache", "pylibmc", "memcache")

    with pytest.raises(ImproperlyConfigured, match=f"pip install {package}"):
        make("memcached://h:1/", cache_backend_options={"driver": driver} if driver else {})


@pytest.mark.parametrize(("seconds", "answer"), [(None, 0), (0, 0), (0.5, 1), (60, 60)])
def test_a_life_is_relative(seconds, answer):
    assert _exptime(seconds) == answer


def test_a_life_over_thirty_days_is_a_point_in_time():
    """B-BACK-022."""
    assert _exptime(MAX_RELATIVE_EXPIRES) == MAX_RELATIVE_EXPIRES
    assert _exptime(MAX_RELATIVE_EXPIRES + 1) > time.time()


def test_only_one_of_two_workers_starts_the_body_of_a_chord(monkeypatch):
    """B-CANV-062: a part that is delivered again while the body is being started."""
    app = Celery("cache", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_always_eager = True
    monkeypatch.setattr(_keyvalue, "CLAIM_LOOK_S", 0.01)
    starting, refused, calls = threading.Event(), threading.Event(), []

    @app.task(shared=False)
    def body(values):
        calls.append(values)
        starting.set()
        assert refused.wait(10)

    ids = [uuid4().hex, uuid4().hex]
    sig = body.s()
    sig.freeze()
    backend, claim = app.backend, CacheBackend.claim

    def noted(self, *args):
        granted = claim(self, *args)
        if not granted:
            refused.set()
        return granted

    monkeypatch.setattr(CacheBackend, "claim", noted)
    group_id = uuid4().hex
    backend.apply_chord((group_id, [app.AsyncResult(task_id) for task_id in ids]), sig)

    def end(task_id):
        request = Context(id=task_id, group=group_id, chord=dict(sig))
        app.backend.mark_as_done(task_id, 1, request=request)

    end(ids[0])
    first = threading.Thread(target=end, args=(ids[1],))
    first.start()
    assert starting.wait(10)
    end(ids[1])
    first.join(10)
    assert calls == [[1, 1]]


def test_the_bookkeeping_of_a_chord_lives_as_long_as_is_said():
    """B-CANV-063: the counter and the group, whether results live longer or not."""
    for results_s, chords_s in ((1000, 50), (50, 1000), (50, None)):
        backend = make("memory://", result_expires=results_s, result_chord_expires=chords_s)
        group_id = uuid4().hex
        members = [backend.app.AsyncResult(uuid4().hex)]
        backend.apply_chord((group_id, members), None)
        for key in (backend.get_key_for_chord(group_id), backend.get_key_for_group(group_id)):
            left = cache._memory._entries[ensure_bytes(key)][1] - time.monotonic()
            assert left == pytest.approx(chords_s or results_s, abs=5)


def test_a_long_life_of_chords_is_warned_of():
    with pytest.warns(UserWarning, match="result_chord_expires"):
        make("memory://", result_chord_expires=MAX_RELATIVE_EXPIRES + 1)


def test_all_clients_of_a_process_share_the_memory():
    DummyClient().set("k", 1)
    assert DummyClient().get(b"k") == 1

    DummyClient().flush_all()
    assert DummyClient().get("k") is None


def test_memory_counts_and_tells_what_was_there():
    client = DummyClient()
    assert client.incr("n") is None
    client.set("n", b"0")
    assert client.incr("n") == 1
    assert client.add("n", 5) is False
    assert client.touch("n", 100) is True
    assert client.delete("n") is True
    assert client.delete("n") is False
    assert client.touch("n", 100) is False


def test_memory_is_bounded():
    memory = _Memory(2)
    for key in "abc":
        memory.write(key, key)

    assert len(memory) == 2
    assert memory.read("a") is None
    assert memory.read("c") == "c"


def test_what_has_expired_is_gone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(cache.time, "monotonic", lambda: now[0])
    memory = _Memory(2)
    memory.write("a", 1, 10)
    now[0] += 9
    assert memory.read("a") == 1
    now[0] += 1
    assert memory.read("a") is None
