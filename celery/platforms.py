"""
What differs between operating systems, and what a daemon asks of one.

Exit codes, detaching from the terminal, signal handlers, and the title of the process; pid files
are in `celery.utils.pidfile`, users and groups in `celery.utils.privileges`.  `close_open_fds` is
looked up here when it is used, so it may be replaced.
"""

from __future__ import annotations

import errno
import math
import numbers
import os
import platform as _platform
import signal as _signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any

from billiard.compat import close_open_fds, get_fdmax
from billiard.process import current_process
from kombu.utils.encoding import safe_str

from celery.local import try_import
from celery.utils.pidfile import (
    EX_CANTCREAT as EX_CANTCREAT,
    PIDFILE_FLAGS as PIDFILE_FLAGS,
    PIDFILE_MODE as PIDFILE_MODE,
    PIDLOCKED as PIDLOCKED,
    LockFailed,
    Pidfile,
    create_pidlock,
    refuse_held,
    why_not_writable as why_not_writable,
)
from celery.utils.privileges import (
    ASSUMING_ROOT as ASSUMING_ROOT,
    ROOT_DISALLOWED as ROOT_DISALLOWED,
    ROOT_DISCOURAGED as ROOT_DISCOURAGED,
    check_privileges as check_privileges,
    initgroups,
    maybe_drop_privileges,
    parse_gid,
    parse_uid,
    setgid,
    setgroups,
    setuid,
)

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

SYSTEM = _platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

DAEMON_WORKDIR = "/"

LockFailed.__module__ = Pidfile.__module__ = __name__
PIDFile = Pidfile  # its name in former versions

SIGNAMES = {name for name in dir(_signal) if name.startswith("SIG") and "_" not in name}
SIGMAP = {getattr(_signal, name): name for name in SIGNAMES}


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
        refuse_held(Pidfile(os.path.join(workdir, pidfile)))

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
    refuse_held(lock)
    lock.acquire()
    lock.release()


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
