"""The directory that holds all state of one `make run`, and who may use it."""

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dotenv import dotenv_values

from rollcall.env_file import make_secret
from rollcall.private_files import (
    NotOursError,
    check_ours,
    check_parents,
    make_private,
    open_private,
    write_private,
)
from rollcall.processes import StartError
from rollcall.servers import is_refuge, remove_home
from rollcall.terminal import say

SECRETS = (
    *("POSTGRES_PASSWORD", "PROCESS_USERS_PGPASSWORD", "GET_DATA_PGPASSWORD", "READER_PGPASSWORD"),
    *("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    *("PROCESS_USERS_ACCESS_KEY", "PROCESS_USERS_SECRET_KEY"),
    *("GET_DATA_ACCESS_KEY", "GET_DATA_SECRET_KEY"),
    *("UPLOADER_ACCESS_KEY", "UPLOADER_SECRET_KEY"),
)
# All that is ever in the directory; the lock comes last.
PARTS = (
    *("secrets", "secrets.new", "env", "env.new", "processes.json", "processes.json.new", "processes.new"),
    *("logs", "home", "buckets", "postgres", "lock"),
)
MARKER = "make run of Rollcall made this directory, and make clean removes it. Its process:"
ADVICE = "Set RUN_DIR to a directory of yours, new or empty"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where everything of one run is."""

    path: Path

    @property
    def buckets(self) -> Path:
        """Buckets, as folders."""
        return self.path / "buckets"

    @property
    def postgres(self) -> Path:
        """The home of PostgreSQL."""
        return self.path / "postgres"

    @property
    def env(self) -> Path:
        """What another client needs."""
        return self.path / "env"

    @property
    def processes(self) -> Path:
        """The record of what was started."""
        return self.path / "processes.json"

    def log(self, name: str) -> Path:
        """The log of one program."""
        return self.path / "logs" / f"{name}.log"

    def home(self, name: str) -> Path:
        """A home directory for one program, made on the way."""
        home = self.path / "home" / name
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return home

    def read_secrets(self) -> Mapping[str, str]:
        """The passwords and keys of this directory, made up the first time."""
        path = self.path / "secrets"
        known = read_variables(path) if path.exists() else {}
        if not path.exists() and (self.postgres / "data").exists():
            raise StartError(
                f"{path} is gone, and with it the password of the data: remove {self.path} to begin anew"
            )
        missing = {name: make_secret() for name in SECRETS if name not in known}
        if missing:
            write_variables(path, {**known, **missing})
        return {**known, **missing}

    def check_parts(self) -> None:
        """Raises StartError when another account may have prepared a part; takes secrets from their eyes."""
        try:
            for part in self._parts():
                if not (part == self.postgres and part.is_symlink() and is_refuge(part)):
                    check_ours(part)
        except NotOursError as error:
            raise StartError(f"{error}. {ADVICE}") from error
        for part in (self.path / "secrets", self.env, self.processes):
            if make_private(part):
                say(f"{part} was readable by other accounts: only you can read it now")

    def remove(self) -> list[str]:
        """Removes all that `make run` made; returns the names of what is left, which is not its own."""
        remove_home(self.postgres)
        for name in PARTS:
            part = self.path / name
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
        left = sorted(_names(self.path))
        if not left:
            self.path.rmdir()
        return left

    def _parts(self) -> Iterator[Path]:
        for name in PARTS:
            yield self.path / name
        for folder in (self.path / "logs", self.path / "home"):
            if folder.is_dir() and not folder.is_symlink():
                yield from folder.iterdir()


@contextmanager
def claim(path: Path) -> Iterator[RunDirectory]:
    """The directory, made when missing, for this process alone; StartError unless it is ours."""
    try:
        check_parents(path)
        _make(path)
        # before anything else in it: the lock says whose directory it is
        lock = open_private(path / "lock")
    except NotOursError as error:
        raise StartError(f"{error}. {ADVICE}") from error
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}. {ADVICE}") from error
    with lock:
        _take(lock, path)
        directory = RunDirectory(path)
        directory.check_parts()
        (path / "logs").mkdir(mode=0o700, exist_ok=True)
        (path / "home").mkdir(mode=0o700, exist_ok=True)
        yield directory


def is_run_directory(path: Path) -> bool:
    """Whether `make run` made this directory: its lock says so."""
    try:
        with open_private(path / "lock", create=False) as lock:
            text = lock.read()
    except (OSError, NotOursError, UnicodeDecodeError):
        return False
    # A lock of an earlier release holds the process id alone.
    is_earlier = text.strip().isdecimal() and {"lock", "logs", "home"} <= _names(path) <= set(PARTS)
    return text.startswith(MARKER) or is_earlier


def _make(path: Path) -> None:
    """Makes the directory, or finds it empty or made by `make run`."""
    check_ours(path)
    if not path.exists():
        path.mkdir(parents=True)
    elif not is_run_directory(path) and not _is_empty(path):
        raise StartError(f"{path} holds files that make run did not make. {ADVICE}")
    # nobody may list it, but an unprivileged PostgreSQL may pass through
    path.chmod(0o711)


def _is_empty(path: Path) -> bool:
    """Whether nothing is there, or the lock alone, without a word: its maker was killed right then."""
    lock = path / "lock"
    return not _names(path) or (_names(path) == {"lock"} and lock.is_file() and not lock.stat().st_size)


def _names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def _take(lock: IO[str], path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        process = (lock.read().split() or ["?"])[-1]
        raise StartError(
            f"make run is already at work in {path} (process {process}): "
            "stop that one, or set RUN_DIR to have two"
        ) from error
    # The marker is never gone meanwhile: it is written over itself.
    lock.seek(0)
    lock.write(f"{MARKER}\n{os.getpid()}\n")
    lock.truncate()
    lock.flush()


def read_variables(path: Path) -> dict[str, str]:
    """The variables of a file of NAME=value lines."""
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def write_variables(path: Path, variables: Mapping[str, str]) -> None:
    """Writes a private file of NAME=value lines, which a shell can source."""
    write_private(path, "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()))
