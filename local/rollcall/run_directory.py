"""The directory that holds all state of one `make run`, and who may use it."""

import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from rollcall.env_file import make_secret, write_private
from rollcall.processes import StartError

SECRETS = (
    *("POSTGRES_PASSWORD", "PROCESS_USERS_PGPASSWORD", "GET_DATA_PGPASSWORD", "READER_PGPASSWORD"),
    *("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    *("PROCESS_USERS_ACCESS_KEY", "PROCESS_USERS_SECRET_KEY"),
    *("GET_DATA_ACCESS_KEY", "GET_DATA_SECRET_KEY"),
    *("UPLOADER_ACCESS_KEY", "UPLOADER_SECRET_KEY"),
)


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
        home.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def claim(path: Path) -> Iterator[RunDirectory]:
    """The directory, made when missing, for this process alone."""
    directory = RunDirectory(path)
    try:
        _make(path)
        # before anything else in it: the lock says whose directory it is
        lock = (path / "lock").open("a+")
    except OSError as error:
        raise StartError(
            f"{error.filename}: {error.strerror}. Set RUN_DIR to a directory of yours, new or empty"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise StartError(
                f"make run is already at work in {path} (process {lock.read().strip()}): "
                "stop that one, or set RUN_DIR to have two"
            ) from error
        (path / "logs").mkdir(mode=0o700, exist_ok=True)
        (path / "home").mkdir(mode=0o700, exist_ok=True)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield directory


def _make(path: Path) -> None:
    if path.is_dir() and any(path.iterdir()) and not (path / "lock").exists():
        # `make clean` removes all of it
        raise StartError(f"{path} holds files of somebody else: set RUN_DIR to a new or empty directory")
    if not path.exists():
        path.mkdir(parents=True)
        # nobody may list it, but an unprivileged PostgreSQL may pass through
        path.chmod(0o711)


def read_variables(path: Path) -> dict[str, str]:
    """The variables of a file of NAME=value lines."""
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def write_variables(path: Path, variables: Mapping[str, str]) -> None:
    """Writes a private file of NAME=value lines, which a shell can source."""
    write_private(path, "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()))
