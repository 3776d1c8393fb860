"""Small modules about the process and the machine."""

from __future__ import annotations

import os
import sys
import threading
from types import SimpleNamespace
from typing import Optional, Union  # the older spellings are to be understood too

import pytest

from celery.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from celery.utils import annotations, debug, deprecated, static, sysinfo, term
from celery.utils.abstract import CallableSignature, CallableTask
from celery.utils.quorum_queues import detect_quorum_queues

# -- sysinfo --------------------------------------------------------------------------------------


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr(sysinfo, "CGROUP_ROOT", str(root))
    monkeypatch.setattr(sysinfo, "PROC_SELF_CGROUP", str(tmp_path / "self"))
    monkeypatch.setattr(sysinfo, "available_cpu_count", lambda: 8)

    def write(membership, **files):
        (tmp_path / "self").write_text(membership)
        for name, content in files.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name.replace("_max", ".max")).write_text(content)

    write.root = root
    return write


def test_a_quota_bounds_the_processors(cgroup):
    """B-WORK-011: ``ceil(quota)`` clamped between 1 and the affinity CPU count."""
    cgroup("0::/a/b\n", a__b__cpu_max="250000 100000\n", a__cpu_max="max 100000\n")

    assert sysinfo.cgroup_cpu_quota() == 2.5
    assert sysinfo.cpu_budget() == (3, 8, 2.5)


def test_the_narrowest_group_counts(cgroup):
    cgroup("0::/a/b\n", a__b__cpu_max="400000 100000", a__cpu_max="50000 100000")
    assert sysinfo.cpu_budget() == (1, 8, 0.5)


def test_no_quota_means_all_that_are_available(cgroup):
    """B-WORK-011: affinity count when no quota is found."""
    cgroup("0::/\n", cpu_max="max 100000")
    assert sysinfo.cpu_budget() == (8, 8, None)
    cgroup("0::/\n", cpu_max="100000 100000")
    assert sysinfo.cpu_budget(use_cgroup_quota=False) == (8, 8, None)


def test_the_older_groups_are_understood(cgroup):
    cgroup("4:cpu,cpuacct:/x\n3:memory:/x\n")
    directory = cgroup.root / "cpu" / "x"
    directory.mkdir(parents=True)
    (directory / "cpu.cfs_quota_us").write_text("150000")
    (directory / "cpu.cfs_period_us").write_text("100000")
    assert sysinfo.cgroup_cpu_quota() == 1.5
    (directory / "cpu.cfs_quota_us").write_text("-1")
    assert sysinfo.cgroup_cpu_quota() is None


def test_a_system_without_groups_has_no_quota(monkeypatch):
    monkeypatch.setattr(sysinfo, "PROC_SELF_CGROUP", "/does/not/exist")
    assert sysinfo.cgroup_cpu_quota() is None
    assert sysinfo.available_cpu_count() >= 1


def test_auto_is_the_word_for_it():
    assert sysinfo.is_auto_concurrency("auto")
    assert sysinfo.is_auto_concurrency(" AUTO ")
    assert not sysinfo.is_auto_concurrency(4)
    assert not sysinfo.is_auto_concurrency("4")


def test_the_machine_is_described():
    disk = sysinfo.df("/")
    assert disk.total_blocks > 0
    assert 0 <= disk.available <= disk.total_blocks
    assert 0 <= disk.capacity <= 100
    assert len(sysinfo.load_average()) == 3


# -- term -----------------------------------------------------------------------------------------


def test_colours_resume_after_a_coloured_part():
    paint = term.colored(enabled=True)
    text = str(paint.red("a ", paint.bold("b"), " c"))

    assert text == "\x1b[1;31ma \x1b[1mb\x1b[0m\x1b[1;31m c\x1b[0m"
    assert paint.red("a ", paint.bold("b"), " c").no_color() == "a b c"


def test_colours_can_be_switched_off():
    paint = term.colored(enabled=False)
    assert str(paint.red("a", paint.blue("b"))) == "ab"
    assert paint.green("a") + "b" == "ab"
    assert repr(term.colored().red("x")) == "'x'"
    assert set(paint.names) == {
        "black",
        "red",
        "green",
        "yellow",
        "blue",
        "magenta",
        "cyan",
        "white",
    }
    assert str(term.colored().reset("x")) == "\x1b[0mx\x1b[0m"


def test_pictures_are_written_as_a_sequence(monkeypatch):
    monkeypatch.setattr(term, "TERM_IS_SCREEN", False)
    text = term.imgcat(static.logo(), width=3)
    assert text.startswith("\x1b]1337;File=inline=1;preserveAspectRatio=0;width=3:")
    monkeypatch.setattr(term, "TERM_IS_SCREEN", True)
    assert term.imgcat(static.logo()).startswith("\x1bPtmux;")
    assert term.supports_images() in (True, False)
    assert os.path.exists(static.logo())


# -- deprecated -----------------------------------------------------------------------------------


def test_what_is_deprecated_warns_its_caller():
    def old():
        deprecated.warn("old", removal="6", alternative="Use new.")

    with pytest.warns(CDeprecationWarning, match="removed in version 6. Use new.") as caught:
        old()
    assert caught[0].filename == __file__
    with pytest.warns(CPendingDeprecationWarning, match="deprecated in version 5.9"):
        deprecated.warn("old", deprecation="5.9", removal="6")


def test_a_deprecated_function_still_works():
    @deprecated.Callable(removal="6")
    def old(x):
        """Docstring."""
        return x

    with pytest.warns(CDeprecationWarning, match="test_system.*old") as caught:
        assert old(3) == 3
    assert caught[0].filename == __file__
    assert old.__doc__ == "Docstring."


def test_a_deprecated_property_still_works():
    class Owner:
        _x = 1

        @deprecated.Property(removal="6")
        def x(self):
            return self._x

        @x.setter
        def x(self, value):
            self._x = value

        @x.deleter
        def x(self):
            del self._x

        @deprecated.Property(removal="6", description="the old name")
        def y(self):
            return 2

    owner = Owner()
    with pytest.warns(CDeprecationWarning, match=r"Owner\.x") as caught:
        assert owner.x == 1
    assert caught[0].filename == __file__
    with pytest.warns(CDeprecationWarning):
        owner.x = 5
    assert owner._x == 5
    with pytest.warns(CDeprecationWarning):
        del owner.x
    with pytest.raises(AttributeError):
        owner.y = 1
    assert isinstance(Owner.x, deprecated._DeprecatedProperty)


# -- abstract, annotations, quorum queues ---------------------------------------------------------


def test_a_class_is_a_task_by_what_it_offers():
    class Duck:
        def delay(self):
            pass

        apply_async = apply = __call__ = delay

    class Stone:
        pass

    assert isinstance(Duck(), CallableTask)
    assert not isinstance(Duck(), CallableSignature)
    assert not isinstance(Stone(), CallableTask)
    CallableSignature.register(Stone)
    assert isinstance(Stone(), CallableSignature)


def test_annotations_are_looked_into():
    assert annotations.get_optional_arg(Optional[int]) is int  # noqa: UP045
    assert annotations.get_optional_arg(int | None) is int
    assert annotations.get_optional_arg(int) is None
    assert annotations.get_optional_arg(Union[int, str, None]) is None  # noqa: UP007
    assert annotations.is_none_type(type(None))
    assert annotations.annotation_is_class(int)
    assert not annotations.annotation_is_class(list[int])
    assert annotations.annotation_issubclass(bool, int)
    assert not annotations.annotation_issubclass(list[int], list)


def test_one_quorum_queue_is_enough():
    def app(*arguments):
        queues = {
            str(n): SimpleNamespace(name=f"q{n}", queue_arguments=each)
            for n, each in enumerate(arguments)
        }
        return SimpleNamespace(amqp=SimpleNamespace(queues=queues))

    quorum = {"x-queue-type": "quorum"}
    assert detect_quorum_queues(app(None, quorum), "amqp") == (True, "q1")
    assert detect_quorum_queues(app(None, quorum), "redis") == (False, "")
    assert detect_quorum_queues(app(None, {}), "amqp") == (False, "")


# -- debug ----------------------------------------------------------------------------------------


def test_what_threads_do_is_told():
    started, stop = threading.Event(), threading.Event()

    def wait_for_it():
        started.set()
        stop.wait(10)

    thread = threading.Thread(target=wait_for_it, name="the waiting one")
    thread.start()
    assert started.wait(10)
    try:
        text = debug.cry()
    finally:
        stop.set()
        thread.join(10)

    assert "the waiting one" in text
    assert "wait_for_it" in text
    assert "timeout = 10" in text


def test_a_body_that_blocks_is_interrupted():
    with pytest.raises(RuntimeError, match="blocked in"), debug.blockdetection(0.01):
        threading.Event().wait(10)
    with debug.blockdetection(0):
        pass


def test_bytes_read_well():
    assert debug.humanbytes(0) == "0b"
    assert debug.humanbytes(2048) == "2KB"
    assert debug.humanbytes(1.5 * 2**20) == "1.5MB"
    assert debug.hfloat(3.14159265, 3) == "3.14"
    assert list(debug.sample(range(10), 3)) == [0, 3, 6]
    assert list(debug.sample(range(2), 5)) == [0, 1]


def test_memory_is_sampled(monkeypatch, capsys):
    process = SimpleNamespace(pid=os.getpid(), memory_info=lambda: SimpleNamespace(rss=2**20))
    psutil = SimpleNamespace(Process=lambda pid: process)
    monkeypatch.setattr(debug, "try_import", lambda name: psutil)
    monkeypatch.setattr(debug, "_process", None)

    assert debug.sample_mem() == "1MB"
    debug.memdump()
    assert "- rss (end): 1MB." in capsys.readouterr().out
    debug.memdump()
    assert "no sample" in capsys.readouterr().out


def test_without_psutil_linux_tells_the_memory(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(debug, "try_import", lambda name: None)
    statm = tmp_path / "statm"
    statm.write_text("40960 256 100 1 0 50 0\n")
    assert debug._rss_of_proc(str(statm)) == 256 * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "linux":
        assert debug.sample_mem() == debug._mem_sample[-1]
        debug.memdump()
        assert "- rss (end): " in capsys.readouterr().out

    monkeypatch.setattr(debug, "_rss_of_proc", lambda: None)
    assert debug.mem_rss() is None
    assert debug.sample_mem() is None
