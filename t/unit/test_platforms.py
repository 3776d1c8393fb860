from __future__ import annotations

import atexit
import ctypes
import errno
import io
import os
import signal as stdlib_signal
import sys
from types import SimpleNamespace

import pytest

from celery import platforms
from celery.exceptions import SecurityError, SecurityWarning
from celery.platforms import (
    DaemonContext,
    LockFailed,
    Pidfile,
    check_privileges,
    create_pidlock,
    detached,
    fd_by_path,
    get_errno_name,
    ignore_errno,
    isatty,
    maybe_drop_privileges,
    parse_gid,
    parse_uid,
    set_mp_process_title,
    set_process_title,
    signal_name,
    signals,
    strargv,
)
from celery.utils import privileges


@pytest.fixture
def path(tmp_path):
    return tmp_path / "it.pid"


@pytest.fixture
def other_process():
    """The number of a process that runs and is not ours: our parent."""
    return os.getppid()


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


# -- pid files ------------------------------------------------------------------------------------


def test_a_pidfile_holds_our_number_while_it_is_acquired(path):
    with Pidfile(str(path)) as lock:
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == platforms.PIDFILE_MODE
        assert lock.is_locked()
        assert lock.read_pid() == os.getpid()
    assert not path.exists()


def test_a_pidfile_is_acquired_once(path):
    first = Pidfile(str(path)).acquire()
    with pytest.raises(LockFailed):
        Pidfile(str(path)).acquire()
    first.release()
    first.release()


def test_a_pidfile_that_cannot_be_made_is_a_failed_lock(tmp_path):
    with pytest.raises(LockFailed, match="No such file"):
        Pidfile(str(tmp_path / "no" / "such" / "directory")).acquire()


def test_a_child_does_not_remove_the_pidfile_of_its_parent(path):
    lock = Pidfile(str(path)).acquire()
    pid = os.fork()
    if pid == 0:
        lock.release()
        os._exit(0)
    os.waitpid(pid, 0)
    assert path.exists()


def test_a_stale_pidfile_is_removed_with_a_message(path, gone, capsys):
    """B-CLI-055: removed with a message on stderr."""
    path.write_text(f"{gone}\n")

    assert Pidfile(str(path)).remove_if_stale() is True
    assert not path.exists()
    assert "Stale pidfile" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "12", "not a number\n"])
def test_a_broken_pidfile_is_removed(path, content, capsys):
    path.write_text(content)
    with pytest.raises(ValueError, match="pidfile"):
        Pidfile(str(path)).read_pid()

    assert Pidfile(str(path)).remove_if_stale() is True
    assert not path.exists()
    assert "Broken pidfile" in capsys.readouterr().err


def test_our_own_number_from_a_former_life_is_stale(path):
    path.write_text(f"{os.getpid()}\n")
    assert Pidfile(str(path)).remove_if_stale() is True


def test_the_number_of_a_running_process_is_not_stale(path, other_process):
    path.write_text(f"{other_process}\n")
    assert Pidfile(str(path)).remove_if_stale() is False
    assert path.exists()


def test_no_pidfile_has_no_number(path):
    assert Pidfile(str(path)).read_pid() is None
    assert Pidfile(str(path)).remove_if_stale() is True
    Pidfile(str(path)).remove()


def test_a_live_pidfile_ends_the_program(path, other_process, capsys):
    """B-CLI-055, B-BEAT-040: the two lines on stderr and exit code 73."""
    path.write_text(f"{other_process}\n")

    with pytest.raises(SystemExit) as ended:
        create_pidlock(str(path))

    assert ended.value.code == 73
    assert capsys.readouterr().err == (
        f"ERROR: Pidfile ({path}) already exists.\n"
        f"Seems we're already running? (pid: {other_process})\n"
    )


def test_a_pidlock_is_released_at_exit(path, monkeypatch):
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)

    lock = create_pidlock(str(path))

    assert path.exists()
    at_exit[0]()
    assert not path.exists()
    assert lock.path == str(path)


# -- daemons --------------------------------------------------------------------------------------


@pytest.fixture
def workdir(tmp_path):
    before, mask = os.getcwd(), os.umask(0)
    os.umask(mask)
    yield tmp_path
    os.chdir(before)
    os.umask(mask)


def test_a_fake_daemon_changes_directory_and_mask_only(workdir):
    """B-CLI-054: changes umask and working directory; fake avoids the fork."""
    pid, called = os.getpid(), []
    context = DaemonContext(
        workdir=str(workdir), umask="027", fake=True, after_chdir=lambda: called.append(os.getcwd())
    )

    with context:
        assert os.getpid() == pid
        context.open()

    assert called == [str(workdir)]
    assert os.umask(0o027) == 0o027
    assert DaemonContext(umask=18).umask == 18


def test_a_daemon_has_no_terminal_no_files_and_another_process(workdir):
    """B-CLI-054: forks, closes descriptors."""
    read, write = os.pipe()
    leaked = os.open("/dev/zero", os.O_RDONLY)
    zero = os.fstat(leaked)
    pid = os.fork()
    if pid == 0:  # the process that becomes a daemon
        close = platforms.close_open_fds
        platforms.close_open_fds = lambda keep: close([*keep, write])
        with DaemonContext(workdir=str(workdir)):
            null = os.stat(os.devnull)
            facts = [
                os.getsid(0) != os.getpid(),
                all(os.fstat(fd).st_rdev == null.st_rdev for fd in range(3)),
                os.getcwd() == str(workdir),
                # What cleans up after a fork may have got the number of the file for another.
                not os.path.exists(f"/proc/self/fd/{leaked}")
                or os.fstat(leaked).st_rdev != zero.st_rdev,
            ]
            os.write(write, repr(facts).encode())
            os._exit(0)
    os.close(write)
    os.close(leaked)
    with os.fdopen(read) as pipe:
        assert pipe.read() == repr([True] * 4)
    os.waitpid(pid, 0)


def test_a_daemon_is_prepared_where_it_will_run(workdir, monkeypatch):
    """B-CLI-054: the log and the pid file are checked before there is no terminal left."""
    dropped = []
    monkeypatch.setattr(platforms, "maybe_drop_privileges", lambda **kw: dropped.append(kw))
    log, pid = workdir / "log", workdir / "pid"

    context = detached(str(log), str(pid), uid="u", gid="g", workdir=str(workdir), fake=True)
    assert dropped == [{"uid": "u", "gid": "g"}]
    assert not log.exists()
    context.open()

    assert log.exists()
    assert not pid.exists()


def test_a_second_daemon_is_refused_while_there_is_a_terminal(
    workdir, monkeypatch, other_process, capsys
):
    pid = workdir / "pid"
    pid.write_text(f"{other_process}\n")
    with pytest.raises(SystemExit) as ended:
        detached(pidfile=str(pid), workdir=str(workdir), fake=True).open()
    assert ended.value.code == platforms.EX_CANTCREAT
    assert "already exists" in capsys.readouterr().err
    monkeypatch.setattr(platforms, "resource", None)
    with pytest.raises(RuntimeError):
        detached()


# -- users and groups -----------------------------------------------------------------------------


def test_users_and_groups_have_numbers():
    assert parse_uid("root") == parse_uid(0) == parse_uid("0") == 0
    assert parse_gid("root") == 0
    assert parse_gid("12") == 12


def test_an_unknown_user_is_named():
    """B-CLI-035, B-SEC-015: ``KeyError: 'User does not exist: NAME'``."""
    with pytest.raises(KeyError, match="User does not exist: nobody-we-know"):
        parse_uid("nobody-we-know")
    with pytest.raises(KeyError, match="Group does not exist: nobody-we-know"):
        parse_gid("nobody-we-know")


class Kernel:
    """Keeps the user and groups of a process, as the system would."""

    def __init__(self, uid=0, keeps_root=False):
        self.uid, self.gid, self.groups, self.log = uid, 0, [], []
        self.keeps_root = keeps_root

    def setuid(self, uid):
        if uid == 0 and self.uid != 0 and not self.keeps_root:
            raise PermissionError
        self.log.append(("setuid", uid))
        self.uid = uid

    def setgid(self, gid):
        self.log.append(("setgid", gid))

    def initgroups(self, name, gid):
        self.log.append(("initgroups", name, gid))


@pytest.fixture
def kernel(monkeypatch):
    def install(**kwargs):
        kernel = Kernel(**kwargs)
        monkeypatch.setattr(os, "geteuid", lambda: kernel.uid)
        monkeypatch.setattr(os, "getuid", lambda: kernel.uid)
        for name in ("setuid", "setgid", "initgroups"):
            monkeypatch.setattr(os, name, getattr(kernel, name))
        user = SimpleNamespace(pw_name="celery", pw_uid=5, pw_gid=7)
        monkeypatch.setattr(
            privileges, "pwd", SimpleNamespace(getpwuid=lambda uid: user, getpwnam=lambda n: user)
        )
        return kernel

    return install


def test_privileges_are_dropped_groups_first(kernel):
    """B-SEC-015: ``--uid``, ``--gid``."""
    one = kernel()
    maybe_drop_privileges(uid="celery")
    assert one.log == [("setgid", 7), ("initgroups", "celery", 7), ("setuid", 5)]
    two = kernel()
    maybe_drop_privileges(uid="celery", gid=9)
    assert two.log[0] == ("setgid", 9)
    three = kernel()
    maybe_drop_privileges(gid=9)
    assert three.log == [("setgid", 9)]


def test_who_is_not_root_changes_nothing(kernel):
    other = kernel(uid=5)
    maybe_drop_privileges(uid="celery")
    maybe_drop_privileges()
    assert other.log == []


def test_privileges_that_come_back_are_an_error(kernel):
    """B-SEC-015: a failed change aborts the start."""
    kernel(keeps_root=True)
    with pytest.raises(SecurityError, match="can still become root"):
        maybe_drop_privileges(uid="celery")


@pytest.fixture
def as_root(monkeypatch):
    for name in ("getuid", "geteuid", "getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: 0)
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)


def test_root_with_pickle_is_refused(as_root, capsys):
    """B-SEC-003: names C_FORCE_ROOT, shows the numbers, exits 1."""
    with pytest.raises(SystemExit) as ended:
        check_privileges(["json", "pickle"])

    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert "C_FORCE_ROOT" in error
    assert "very bad idea" in error
    assert "uid=0 euid=0 gid=0 egid=0" in error


def test_root_may_be_forced_but_is_warned(as_root, monkeypatch):
    """B-SEC-003, B-WORK-006: a SecurityWarning, with pickle only if forced."""
    with pytest.warns(SecurityWarning, match="root"):
        check_privileges(["json"])
    monkeypatch.setenv("C_FORCE_ROOT", "1")
    with pytest.warns(SecurityWarning):
        check_privileges(["application/x-python-serialize"])


def test_an_ordinary_user_is_left_alone(monkeypatch, recwarn):
    for name in ("getuid", "geteuid", "getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: 1000)
    monkeypatch.setattr(privileges, "pwd", SimpleNamespace(getpwuid=lambda uid: None))
    monkeypatch.setattr(
        privileges, "grp", SimpleNamespace(getgrgid=lambda gid: SimpleNamespace(gr_name="users"))
    )
    check_privileges(["pickle"])
    assert not list(recwarn)


def test_a_user_without_an_entry_counts_as_root(monkeypatch):
    for name in ("getuid", "geteuid", "getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: 123456)
    with pytest.warns(SecurityWarning) as caught:
        check_privileges(["json"])
    assert "password database" in str(caught[0].message)


def test_groups_are_only_an_error_if_they_would_change(monkeypatch):
    def refuse(groups):
        raise PermissionError

    monkeypatch.setattr(os, "setgroups", refuse)
    platforms.setgroups(os.getgroups())
    with pytest.raises(PermissionError):
        platforms.setgroups([*os.getgroups(), 54321])


# -- signals --------------------------------------------------------------------------------------


@pytest.fixture
def usr2():
    before = stdlib_signal.getsignal(stdlib_signal.SIGUSR2)
    yield
    stdlib_signal.signal(stdlib_signal.SIGUSR2, before)


def test_handlers_are_set_by_name(usr2):
    def handler(signum, frame):
        pass

    signals["USR2"] = handler
    assert signals["SIGUSR2"] is handler
    signals.ignore("USR2")
    assert signals["USR2"] == signals.ignored
    signals.reset("USR2")
    assert signals["USR2"] == signals.default
    signals.update({"USR2": handler})
    signals.update(USR2=handler)
    assert signals["USR2"] is handler


def test_signals_have_numbers_and_names():
    assert signals.signum("TERM") == signals.signum("SIGTERM") == signals.signum(15) == 15
    assert signal_name(15) == "TERM"
    assert signals.supported("INT")
    assert not signals.supported("NOSUCH")
    signals["NOSUCH"] = signals.default
    for wrong in ("term", None, b"TERM"):
        with pytest.raises(TypeError):
            signals.signum(wrong)


def test_an_alarm_can_be_armed_and_called_off():
    signals.arm_alarm(100)
    signals.reset_alarm()
    assert stdlib_signal.getitimer(stdlib_signal.ITIMER_REAL)[0] == 0


def test_the_death_of_the_parent_can_be_a_signal():
    pid = os.fork()
    if pid == 0:
        try:
            platforms.set_pdeathsig("TERM")
            if sys.platform == "linux":
                found = ctypes.c_int()
                ctypes.CDLL(None).prctl(2, ctypes.byref(found))
                assert found.value == stdlib_signal.SIGTERM
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -- small things ---------------------------------------------------------------------------------


def test_titles_name_program_and_node(monkeypatch):
    """B-POOL-011: ``[celeryd: NODE:MainProcess] -active- (…)``."""
    set_ = []
    monkeypatch.setattr(platforms, "_setproctitle", SimpleNamespace(setproctitle=set_.append))
    monkeypatch.delenv("NOSETPS", raising=False)

    title = set_mp_process_title("celeryd", info="-active- (-A p worker)", hostname="w@h")

    assert title == "[celeryd: w@h:MainProcess] -active- (-A p worker)"
    assert set_ == [title]
    assert set_process_title("beat") == "[beat]"
    monkeypatch.setenv("NOSETPS", "1")
    set_process_title("not shown")
    assert len(set_) == 2


def test_command_lines_are_shown_without_the_program():
    assert strargv(["celery", "-A", "p", "worker"]) == "-A p worker"
    assert strargv(["manage.py", "celery", "worker"]) == "worker"


def test_errors_are_let_through_by_number():
    with ignore_errno("ENOENT"):
        os.stat("/no/such/file")
    with ignore_errno(errno.ENOENT, types=OSError):
        os.stat("/no/such/file")
    with pytest.raises(FileNotFoundError), ignore_errno(errno.EPERM):
        os.stat("/no/such/file")
    with pytest.raises(KeyError), ignore_errno("ENOENT"):
        raise KeyError("x")
    assert get_errno_name(errno.ENOENT) == get_errno_name("ENOENT") == "ENOENT"


def test_open_files_are_found_by_path(tmp_path):
    path = tmp_path / "open"
    with path.open("w") as file:
        assert fd_by_path([str(path), "/no/such/file"]) == [file.fileno()]
    assert fd_by_path([]) == []


def test_terminals_are_told_from_files():
    assert not isatty(io.StringIO())
    assert not isatty(None)
    closed = io.StringIO()
    closed.close()
    assert not isatty(closed)
    assert platforms.pyimplementation().lower() == sys.implementation.name
    assert platforms.SIGMAP[15] == "SIGTERM"
