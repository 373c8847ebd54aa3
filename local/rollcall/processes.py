"""Programs as processes of their own: started, remembered, and stopped by id."""

import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from rollcall.private_files import check_ours, open_log, write_private

# A start is recorded before the program begins: until it is told to go on, it is a shell that ends when its
# starter does. So no kill can leave a process behind that the record does not know.
GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")


class StartError(Exception):
    """A program did not come up; the message says which, why, and where its log is."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine that a program runs under."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "Account":
        """The account with this name; KeyError when there is none."""
        entry = pwd.getpwnam(name)
        return cls(name, entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start, and how to ask it to stop."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    cwd: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Started:
    """A process as it is recorded: its id alone may belong to another one later."""

    name: str
    pid: int
    created: float
    arguments: tuple[str, ...]

    def process(self) -> psutil.Process | None:
        """The process if it still is the one that was started."""
        try:
            process = psutil.Process(self.pid)
            # the clock may have been set since; argv[0] may be a launcher that replaced itself
            same = abs(process.create_time() - self.created) < 5 and self._runs_in(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return process if same else None

    def _runs_in(self, process: psutil.Process) -> bool:
        return tuple(process.cmdline())[-len(self.arguments) :] == self.arguments


class Register:
    """The processes started from one directory, kept in a file so that a later start can end what is left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started: dict[str, Started] = {}

    def add(self, started: Started) -> None:
        """Remembers a process in place of an earlier one of the same name."""
        self._started[started.name] = started
        self._write()

    def forget(self, name: str) -> None:
        """Drops a process that has ended."""
        if self._started.pop(name, None):
            self._write()

    def end_leftovers(self) -> list[str]:
        """Kills what an earlier holder of this file left running; answers the names."""
        if not self._path.exists():
            return []
        found = {started.name: process for started in self._read() if (process := started.process())}
        family = [member for process in found.values() for member in _family(process)]
        for process in found.values():
            kill_group(process.pid)
        kill_all(family)
        self._write()
        return list(found)

    def _read(self) -> list[Started]:
        check_ours(self._path)  # or another account could choose whom we kill
        try:
            entries = json.loads(self._path.read_text())
            return [Started(**{**entry, "arguments": tuple(entry["arguments"])}) for entry in entries]
        except (ValueError, TypeError, KeyError) as error:
            raise StartError(
                f"{self._path} is damaged: end what still runs, then remove this file"
            ) from error

    def _write(self) -> None:
        write_private(self._path, json.dumps([asdict(started) for started in self._started.values()]))


def start(program: Program, register: Register | None = None) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, so that a Ctrl-C meant for its starter does not reach it."""
    read_end, write_end = os.pipe()
    try:
        process = _open(program, stdin=read_end)
    except OSError as error:
        os.close(write_end)
        raise StartError(f"{program.name} could not be started: {error}") from error
    finally:
        os.close(read_end)
    created = psutil.Process(process.pid).create_time()
    if register:
        register.add(Started(program.name, process.pid, created, program.argv[1:]))
    with os.fdopen(write_end, "wb") as go:
        go.write(b"\n")
    return process


def _open(program: Program, *, stdin: int) -> subprocess.Popen[bytes]:
    account = program.account
    with open_log(program.log) as log:
        return subprocess.Popen(
            [*GATE, *program.argv],
            env=dict(program.env),
            cwd=program.cwd,
            stdin=stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )


def stop(
    process: subprocess.Popen[bytes], stop_signal: signal.Signals = signal.SIGTERM, grace_s: float = 10
) -> None:
    """Asks a process to stop, and kills it with what it started when it has not within the grace."""
    if process.poll() is None:
        process.send_signal(stop_signal)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        kill_group(process.pid)
        process.wait()
    kill_group(process.pid)


def kill_group(leader: int) -> None:
    """Kills all processes of the group that this leader began, the leader included."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:
        # macOS says so of a group in which only processes that have ended are left
        return


def _family(process: psutil.Process) -> list[psutil.Process]:
    """The process and its descendants: those of PostgreSQL are in groups of their own."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """Kills processes and returns when they are gone."""
    processes = list(processes)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    wait_until(lambda: all(map(_is_gone, processes)), timeout_s=10, what="processes that were killed")


def _is_gone(process: psutil.Process) -> bool:
    try:
        # nobody may ever ask for the exit status of an orphan: in some containers process 1 does not
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Returns as soon as the condition holds; TimeoutError that says what was waited for otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.02)


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for messages."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-count:])
