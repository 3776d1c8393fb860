"""
What differs between operating systems, and what a daemon asks of one.

Exit codes, pid files, detaching from the terminal, dropping privileges, signal handlers, and the
title of the process.  `close_open_fds` is looked up here when it is used, so it may be replaced.
"""

from __future__ import annotations

import atexit
import errno
import math
import numbers
import os
import platform as _platform
import signal as _signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any

from billiard.compat import close_open_fds, get_fdmax
from billiard.process import current_process
from kombu.utils.encoding import safe_str

from celery.exceptions import SecurityError, SecurityWarning, reraise
from celery.local import try_import

grp: ModuleType | None = try_import("grp")
pwd: ModuleType | None = try_import("pwd")
resource: ModuleType | None = try_import("resource")
_setproctitle: ModuleType | None = try_import("setproctitle")

__all__ = (
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "IS_WINDOWS",
    "SIGMAP",
    "SYSTEM",
    "DaemonContext",
    "IS_macOS",
    "LockFailed",
    "Pidfile",
    "close_open_fds",
    "create_pidlock",
    "detached",
    "fd_by_path",
    "get_errno_name",
    "get_fdmax",
    "ignore_errno",
    "initgroups",
    "isatty",
    "maybe_drop_privileges",
    "parse_gid",
    "parse_uid",
    "pyimplementation",
    "set_mp_process_title",
    "set_process_title",
    "setgid",
    "setgroups",
    "setuid",
    "signal_name",
    "signals",
)

EX_OK = 0
EX_FAILURE = 1
EX_USAGE = 64
EX_UNAVAILABLE = 69
EX_CANTCREAT = 73

SYSTEM = _platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

DAEMON_WORKDIR = "/"

PIDFILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
PIDFILE_MODE = 0o644

PIDLOCKED = """ERROR: Pidfile ({0}) already exists.
Seems we're already running? (pid: {1})"""

ROOT_DISALLOWED = """\
This worker would run as root, and it accepts pickled messages: whoever can send one message can
then do anything to this machine, which is a very bad idea.

Start it as another user (--uid), or take pickle out of accept_content.  If you know what you are
doing, set the environment variable C_FORCE_ROOT.

User information: uid={uid} euid={euid} gid={gid} egid={egid}
"""

ROOT_DISCOURAGED = """\
The worker runs as root, so every mistake in a task is made with all rights; start it as another
user (--uid).  User information: uid={uid} euid={euid} gid={gid} egid={egid}
"""

ASSUMING_ROOT = "The user has no entry in the password database, so its rights count as root's."

SIGNAMES = {name for name in dir(_signal) if name.startswith("SIG") and "_" not in name}
SIGMAP = {getattr(_signal, name): name for name in SIGNAMES}


class LockFailed(Exception):
    """Another process holds the lock, or its file can't be made."""


def pyimplementation() -> str:
    """Return the name of the Python implementation."""
    return _platform.python_implementation()


def isatty(fh: Any) -> bool:
    """Say whether the file *fh* is a terminal; what can't tell is none."""
    try:
        return bool(fh.isatty())
    except (AttributeError, ValueError):  # not a file, or closed
        return False


def get_errno_name(n: int | str) -> str:
    """Return the name of an error number; a name is returned as it is."""
    return errno.errorcode[n] if isinstance(n, int) else n


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def ignore_errno(*errnos: int | str, **kwargs: Any) -> Iterator[None]:
    """
    Let errors pass that have one of these numbers (or names, such as ``"ENOENT"``).

    Args:
        errnos: The numbers.
        kwargs: ``types`` are the classes of errors to look at; by default all.
    """
    numbers = {getattr(errno, each) if isinstance(each, str) else each for each in errnos}
    types: tuple[type[BaseException], ...] = kwargs.get("types") or (Exception,)
    try:
        yield
    except types as exc:
        if getattr(exc, "errno", None) not in numbers:
            raise


def fd_by_path(paths: Iterable[str]) -> list[int]:
    """Return the descriptors of this process that are open on one of *paths*."""
    wanted = set()
    for path in paths:
        with suppress(OSError):
            status = os.stat(path)
            wanted.add((status.st_dev, status.st_ino))
    found = []
    for fd in range(get_fdmax(2048)) if wanted else ():
        with suppress(OSError):
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) in wanted:
                found.append(fd)
    return found


# -- pid files ------------------------------------------------------------------------------------


class Pidfile:
    """
    A file that holds the number of the process that has it.

    Also a context: entering acquires it, leaving removes it.
    """

    path: str = None  # type: ignore[assignment]  # set for each

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._owner: int | None = None

    def acquire(self) -> Pidfile:
        """
        Write the file.

        Raises:
            LockFailed: It exists, or can't be made.
        """
        try:
            self.write_pid()
        except OSError as exc:
            reraise(LockFailed, LockFailed(str(exc)), exc.__traceback__)
        return self

    __enter__ = acquire

    def is_locked(self) -> bool:
        """Say whether the file exists."""
        return os.path.exists(self.path)

    def release(self, *args: Any) -> None:
        """Remove the file; a child of the process that wrote it leaves it alone."""
        if self._owner in (None, os.getpid()):
            self.remove()

    __exit__ = release

    def read_pid(self) -> int | None:
        """
        Return the number in the file, None if there is no file.

        Raises:
            ValueError: The file holds something else, or was not written to its end.
        """
        try:
            with open(self.path) as content:
                line = content.readline()
        except FileNotFoundError:
            return None
        if not line.endswith("\n"):
            raise ValueError(f"the pidfile {self.path} is incomplete")
        try:
            return int(line)
        except ValueError:
            raise ValueError(f"the pidfile {self.path} holds no number: {line!r}") from None

    def remove(self) -> None:
        """Remove the file if it is there and we may."""
        with ignore_errno(errno.ENOENT, errno.EACCES):
            os.unlink(self.path)

    def remove_if_stale(self) -> bool:
        """Remove the file if no process has it any more, and say so on stderr."""
        try:
            pid = self.read_pid()
        except ValueError:
            _complain("Broken pidfile found - Removing it.")
            pid = None
        if not pid:
            self.remove()
            return True
        # In a container the number of a former life is often our own.  A process of another user
        # (EPERM) took over the number of one that ended: ours would run as we do.
        if pid != os.getpid() and self._runs(pid):
            return False
        _complain("Stale pidfile exists - Removing it.")
        self.remove()
        return True

    @staticmethod
    def _runs(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError, OverflowError):
            return False
        return True

    def write_pid(self) -> None:
        """Make the file, which must not exist, and write our number to the disk."""
        content = f"{os.getpid()}\n"
        fd = os.open(self.path, PIDFILE_FLAGS, PIDFILE_MODE)
        with os.fdopen(fd, "w") as pidfile:
            pidfile.write(content)
            pidfile.flush()
            os.fsync(fd)
        self._owner = os.getpid()
        with open(self.path) as written:
            if written.read() != content:
                raise LockFailed(f"the pidfile {self.path} was changed by another process")


PIDFile = Pidfile  # its name in former versions


def create_pidlock(pidfile: str) -> Pidfile:
    """Acquire the file for the life of the process, or end it with status 73 if one has it."""
    lock = Pidfile(pidfile)
    _refuse_held(lock)
    lock.acquire()
    atexit.register(lock.release)
    return lock


def _refuse_held(lock: Pidfile) -> None:
    if lock.is_locked() and not lock.remove_if_stale():
        _complain(PIDLOCKED.format(lock.path, lock.read_pid()))
        raise SystemExit(EX_CANTCREAT)


def why_not_writable(path: str) -> str | None:
    """Return why a file can't be written, None if it can; it doesn't have to be there."""
    if os.path.isdir(path):
        return "it is a folder"
    if os.path.exists(path):
        return None if os.access(path, os.W_OK) else "permission denied"
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"no permission in {folder}"


# -- daemons --------------------------------------------------------------------------------------


class DaemonContext:
    """
    Takes the process away from its terminal while it is open.

    Args:
        pidfile: Not used here; see `detached`.
        workdir: Directory to change to; the root by default.
        umask: File creation mask, a number or octal text.
        fake: Don't fork, for debugging.
        after_chdir: Called after that change.
        after_forkers: Run what billiard has to do after a fork.
        kwargs: Ignored.
    """

    _is_open = False

    def __init__(
        self,
        pidfile: str | None = None,
        workdir: str | None = None,
        umask: int | str | None = None,
        fake: bool = False,
        after_chdir: Callable[[], Any] | None = None,
        after_forkers: bool = True,
        **kwargs: Any,
    ) -> None:
        self.workdir = workdir or DAEMON_WORKDIR
        self.umask = int(umask, 8) if isinstance(umask, str) else umask
        self.fake = fake
        self.after_chdir = after_chdir
        self.after_forkers = after_forkers
        self.stdfds = (sys.__stdin__, sys.__stdout__, sys.__stderr__)

    def redirect_to_null(self, fd: int | None) -> None:
        """Make the descriptor *fd* read nothing and write nowhere."""
        if fd is not None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, fd)
            if null != fd:
                os.close(null)

    def _drop_descriptors(self) -> None:
        """Close all files but the standard streams, and give those nothing to talk to."""
        standard = filter(None, self.stdfds)
        close_open_fds([*standard, *fd_by_path(["/dev/urandom"])])
        for number in (0, 1, 2):
            self.redirect_to_null(number)

    def open(self) -> DaemonContext:
        """Become a daemon, once."""
        if self._is_open:
            return self
        if not self.fake:
            self._detach()
        os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(self.umask)
        if self.after_chdir:
            self.after_chdir()
        if not self.fake:
            self._drop_descriptors()
            if self.after_forkers:
                from billiard import util

                util._run_after_forkers()
        self._is_open = True
        return self

    __enter__ = open

    def close(self, *args: Any) -> None:
        """Note that it may be opened again; what was done can't be undone."""
        self._is_open = False

    __exit__ = close

    def _detach(self) -> None:
        # The first child leads a new session; its own child does not, so no terminal can come back.
        if os.fork() > 0:
            os._exit(0)
        os.setsid()
        if os.fork() > 0:
            os._exit(0)


def detached(
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: str | int | None = None,
    gid: str | int | None = None,
    umask: int | str = 0,
    workdir: str | None = None,
    fake: bool = False,
    **opts: Any,
) -> DaemonContext:
    """
    Prepare to become a daemon: drop privileges now, fork when the result is entered.

    Args:
        logfile: Must be writable after the change of user and directory; checked there.
        pidfile: Must not belong to a running process; checked there.
        uid: User to become.
        gid: Group to become a member of; by default that of the user.
        umask: File creation mask.
        workdir: Directory to change to; by default the present one.
        fake: Don't fork.
        opts: Passed to `DaemonContext`.

    Raises:
        RuntimeError: The system has no daemons.
    """
    if not resource:
        raise RuntimeError("this system can't detach a process from its terminal")
    workdir = os.getcwd() if workdir is None else workdir
    signals.reset("SIGCLD")
    maybe_drop_privileges(uid=uid, gid=gid)
    if pidfile:
        # While there is somebody who waits for the exit code.
        _refuse_held(Pidfile(os.path.join(workdir, pidfile)))

    def check_files() -> None:
        # Later there is no terminal left to complain to.
        if logfile:
            with open(logfile, "a"):
                pass
        if pidfile:
            _check_pidfile(pidfile)

    return DaemonContext(umask=umask, workdir=workdir, fake=fake, after_chdir=check_files, **opts)


def _check_pidfile(path: str) -> None:
    lock = Pidfile(path)
    _refuse_held(lock)
    lock.acquire()
    lock.release()


# -- users and groups -----------------------------------------------------------------------------


def parse_uid(uid: int | str) -> int:
    """
    Return the number of a user, given that or a name.

    Raises:
        KeyError: There is no such user.
    """
    return _id_of(uid, pwd and pwd.getpwnam, "pw_uid", "User")


def parse_gid(gid: int | str) -> int:
    """
    Return the number of a group, given that or a name.

    Raises:
        KeyError: There is no such group.
    """
    return _id_of(gid, grp and grp.getgrnam, "gr_gid", "Group")


def _id_of(name: int | str, look_up: Any, field: str, kind: str) -> int:
    try:
        return int(name)
    except ValueError:
        pass
    try:
        if look_up is None:
            raise KeyError(name)
        return int(getattr(look_up(name), field))
    except KeyError:
        raise KeyError(f"{kind} does not exist: {name}") from None


def setgroups(groups: list[int]) -> None:
    """Become a member of these groups, of as many as the system allows."""
    limit = len(groups)
    with suppress(ValueError, OSError):
        limit = max(os.sysconf("SC_NGROUPS_MAX"), 1)
    try:
        os.setgroups(groups[:limit])
    except PermissionError:
        # Without privileges this is only an error if it would change something.
        if set(groups) != set(os.getgroups()):
            raise


def initgroups(uid: int, gid: int) -> None:
    """Become a member of all groups of the user *uid*, and of *gid*."""
    if pwd is not None:
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)


def setgid(gid: int | str) -> None:
    """Change the group of the process, by number or name."""
    os.setgid(parse_gid(gid))


def setuid(uid: int | str) -> None:
    """Change the user of the process, by number or name."""
    os.setuid(parse_uid(uid))


def maybe_drop_privileges(uid: int | str | None = None, gid: int | str | None = None) -> None:
    """
    Become another user and group, for good; only root can, for others nothing happens.

    Args:
        uid: The user, by number or name.
        gid: The group; by default that of the user.

    Raises:
        SecurityError: Root's privileges are still there afterwards.
    """
    if sys.platform == "win32" or not (uid or gid):
        return
    if os.geteuid():
        if not os.getuid():
            raise SecurityError("the effective user is not root, but the real one is")
        return
    if uid:
        user = parse_uid(uid)
        group = parse_gid(gid) if gid else _group_of(user)
        # Groups first: afterwards we may not.
        setgid(group)
        initgroups(user, group)
        setuid(user)
        _check_root_is_gone()
    elif gid:
        setgid(gid)


def _group_of(uid: int) -> int:
    if pwd is None:
        raise KeyError(f"User does not exist: {uid}")
    return int(pwd.getpwuid(uid).pw_gid)


def _check_root_is_gone() -> None:
    try:
        os.setuid(0)
    except PermissionError:
        return
    if os.getuid() == 0 or os.geteuid() == 0:
        raise SecurityError("privileges were dropped, but the process can still become root")


def check_privileges(accept_content: Collection[str] | None) -> None:
    """
    Refuse to run as root with pickle accepted; warn about root in any case.

    Raises:
        SystemExit: As above, unless the environment has ``C_FORCE_ROOT``.
    """
    if not hasattr(os, "geteuid"):
        return
    uid, euid, gid, egid = os.getuid(), os.geteuid(), os.getgid(), os.getegid()
    if not _has_roots_rights(uid, euid, gid, egid):
        return
    about = {"uid": uid, "euid": euid, "gid": gid, "egid": egid}
    pickled = {"pickle", "application/x-python-serialize"} & set(accept_content or ())
    if pickled and not os.environ.get("C_FORCE_ROOT"):
        _complain(ROOT_DISALLOWED.format(**about))
        raise SystemExit(EX_FAILURE)
    warnings.warn(SecurityWarning(ROOT_DISCOURAGED.format(**about)), stacklevel=2)


def _has_roots_rights(uid: int, euid: int, gid: int, egid: int) -> bool:
    if 0 in (uid, euid, gid, egid):
        return True
    if pwd is not None and grp is not None:
        try:
            pwd.getpwuid(euid)
            return grp.getgrgid(egid).gr_name in ("sudo", "wheel")
        except KeyError:
            warnings.warn(SecurityWarning(ASSUMING_ROOT), stacklevel=3)
            return True
    return False


# -- signals --------------------------------------------------------------------------------------


class Signals:
    """
    Signal handlers by name, with or without ``SIG``: ``signals["TERM"] = handler``.

    Python only lets the main thread set handlers, and each system has signals of its own; setting
    one where that is not possible does nothing.
    """

    ignored = _signal.SIG_IGN
    default = _signal.SIG_DFL

    def arm_alarm(self, seconds: float) -> None:
        """Have SIGALRM sent in *seconds*."""
        if hasattr(_signal, "setitimer"):
            _signal.setitimer(_signal.ITIMER_REAL, seconds)
        elif hasattr(_signal, "alarm"):
            _signal.alarm(math.ceil(seconds))

    def reset_alarm(self) -> None:
        """Call the alarm off."""
        if hasattr(_signal, "alarm"):
            _signal.alarm(0)

    def supported(self, name: str) -> bool:
        """Say whether the system has this signal."""
        try:
            self.signum(name)
        except AttributeError:
            return False
        return True

    def signum(self, name: str | int) -> int:
        """
        Return the number of a signal.

        Raises:
            AttributeError: The system has no such signal.
            TypeError: *name* is neither text nor a number.
        """
        if isinstance(name, numbers.Number):
            return int(name)
        if not isinstance(name, str) or not name.isupper():
            raise TypeError(f"a signal is named by upper-case text or a number, not by {name!r}")
        number: int = getattr(_signal, name if name.startswith("SIG") else f"SIG{name}")
        return number

    def reset(self, *signal_names: str) -> None:
        """Give these signals their default handlers."""
        self.update((name, self.default) for name in signal_names)

    def ignore(self, *names: str) -> None:
        """Ignore these signals."""
        self.update((name, self.ignored) for name in names)

    def __getitem__(self, name: str) -> Any:
        return _signal.getsignal(self.signum(name))

    def __setitem__(self, name: str, handler: Any) -> None:
        # No such signal, or not the main thread: see the class.
        with suppress(AttributeError, ValueError):
            _signal.signal(self.signum(name), handler)

    def update(
        self,
        _d_: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        **sigmap: Any,
    ) -> None:
        """Set several handlers."""
        wanted = {**dict(_d_ or ()), **sigmap}
        for name in wanted:
            self[name] = wanted[name]


#: What ``prctl`` calls it, in ``linux/prctl.h``.
_PR_SET_PDEATHSIG = 1

signals = Signals()
# The names under which programs have them.
get_signal, install_signal_handler = signals.signum, signals.__setitem__
reset_signal, ignore_signal = signals.reset, signals.ignore


def signal_name(signum: int) -> str:
    """Return the name of a signal, without ``SIG``."""
    return SIGMAP[signum].removeprefix("SIG")


def set_pdeathsig(name: str | int) -> None:
    """Have the system send us this signal when our parent ends; only Linux can."""
    number = signals.signum(name)
    if sys.platform == "linux":
        c_library().prctl(_PR_SET_PDEATHSIG, number)


@cache
def c_library() -> Any:
    """Return what calls the functions of the C library, loaded once for all processes to come."""
    import ctypes

    return ctypes.CDLL(None)


# -- the title of the process ---------------------------------------------------------------------


def strargv(argv: list[str]) -> str:
    """Join the arguments of a command line, without the program."""
    first = 2 if "manage" in argv[0] else 1
    return " ".join(argv[first:])


def set_process_title(progname: str, info: str | None = None) -> str:
    """
    Set what process lists show: ``[progname]`` and *info*.  Needs the package setproctitle.

    Returns:
        The title.
    """
    title = f"[{progname}]"
    if info:
        title = f"{title} {info}"
    if _setproctitle is not None and not os.environ.get("NOSETPS"):
        _setproctitle.setproctitle(safe_str(title))
    return title


def set_mp_process_title(
    progname: str, info: str | None = None, hostname: str | None = None
) -> str:
    """Set the title to the program, the node, the name of this process in its pool, and *info*."""
    node = f"{progname}: {hostname}" if hostname else progname
    return set_process_title(f"{node}:{current_process().name}", info=info)
