"""
Users and groups: becoming another one, and not running as root by mistake.

`celery.platforms` offers these functions under their public names.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection
from contextlib import suppress
from types import ModuleType
from typing import Any

from celery.exceptions import SecurityError, SecurityWarning
from celery.local import try_import

grp: ModuleType | None = try_import("grp")
pwd: ModuleType | None = try_import("pwd")

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
        sys.stderr.write(f"{ROOT_DISALLOWED.format(**about)}\n")
        raise SystemExit(1)
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
