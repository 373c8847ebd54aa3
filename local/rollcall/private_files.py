"""Files and directories that no other account can have prepared or can change.

Whoever may write to a directory can put links into it, and lead what is written there anywhere. Run by the
machine's own Python as well, so it needs nothing but the standard library.
"""

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import IO

_REPOSITORY = Path(__file__).resolve().parents[2]


class NotOursError(Exception):
    """Another account may have prepared this, or can change it; the message says what, and why."""


def check_ours(path: Path) -> None:
    """Raises NotOursError unless this is a real file or directory of ours that only we may write to."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    _check(path, found)


def check_parents(path: Path) -> None:
    """Raises NotOursError when another account can replace a directory above this path.

    Sticky directories such as /tmp are fine. Directories above this code are not looked at: whoever can
    replace them can replace the code as well.
    """
    trusted = {0, os.geteuid(), _REPOSITORY.stat().st_uid}
    real = path.absolute().parent.resolve()
    for parent in {*path.absolute().parents, real, *real.parents} - {_REPOSITORY, *_REPOSITORY.parents}:
        try:
            found = parent.lstat()
        except FileNotFoundError:
            continue
        shared = (
            found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX and not stat.S_ISLNK(found.st_mode)
        )
        if shared or found.st_uid not in trusted:
            raise NotOursError(f"other accounts can replace {path}: {parent} {_describe(found)}")


def check_readable(path: Path) -> None:
    """Raises NotOursError unless this file comes from us, from root or from the owner of this code."""
    found = path.lstat()
    trusted = {0, _REPOSITORY.stat().st_uid}
    _check(path, found, owner=found.st_uid if found.st_uid in trusted else os.geteuid())


def open_private(path: Path, *, create: bool = True) -> IO[str]:
    """Opens a file of ours to read and write, made when it is missing; never through a link."""
    check_ours(path)  # says more than the system, which has the last word
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    file = os.fdopen(os.open(path, flags, 0o600), "r+", encoding="utf-8")
    try:
        _check(path, os.fstat(file.fileno()))
    except NotOursError:
        file.close()
        raise
    return file


def open_log(path: Path) -> IO[bytes]:
    """Opens a log to append to; never through a link."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab")


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner reads, whole or not at all; a link in its place is replaced."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if os.geteuid() == 0 and path.exists():  # the file stays its owner's when root rewrites it
            owner = path.lstat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
    new.replace(path)


def make_private(path: Path) -> bool:
    """Takes other accounts' right to read a file away; true when they had it."""
    if not path.exists() or not path.stat().st_mode & 0o077:
        return False
    path.chmod(0o600)
    return True


def _check(path: Path, found: os.stat_result, *, owner: int = -1) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise NotOursError(f"{path} is a link, which can lead anywhere")
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise NotOursError(f"{path} is neither a file nor a directory")
    if found.st_uid != (os.geteuid() if owner < 0 else owner):
        raise NotOursError(f"{path} {_describe(found)}, and you are {_name(os.geteuid())}")
    if found.st_mode & (0o002 if _is_own_group(found.st_gid) else 0o022):
        raise NotOursError(f"other accounts may write to {path} (chmod go-w {path} ends that)")


def _is_own_group(gid: int) -> bool:
    """Whether nobody else is in this group: many systems give each account one, and let it write."""
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    return os.geteuid() != 0 and group.gr_name == _name(os.geteuid()) and not group.gr_mem


def _describe(found: os.stat_result) -> str:
    if found.st_mode & 0o002 and not stat.S_ISLNK(found.st_mode):
        return "is writable by everybody"
    return f"belongs to {_name(found.st_uid)}"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"account {uid}"
