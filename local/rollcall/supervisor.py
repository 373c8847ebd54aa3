"""Keeps programs running until it is told to stop: what ends by itself is started again."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

from rollcall.log_watch import shorten
from rollcall.processes import Program, Register, StartError, kill_group, last_lines, start

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0
STEADY_AFTER_S = 30.0  # a program that ran so long begins with the first wait again
GRACE_S = 10.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(Exception):
    """Somebody asked to stop."""


class Signals:
    """The signals of this process as something to wait for."""

    def __init__(self) -> None:
        self.stops = 0  # how often somebody asked to stop
        self._read_end, self._write_end = os.pipe()

    def __enter__(self) -> Self:
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it has to be heard to end a wait
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # the signals stay caught: one that comes late must not spoil the exit status
        signal.set_wakeup_fd(-1)

    def wait(self, seconds: float) -> None:
        """Returns after the time, or as soon as a signal came: a stop, or the end of a child."""
        if select.select([self._read_end], [], [], seconds)[0]:
            os.read(self._read_end, 4096)

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        """Returns when the condition holds; StoppedError when asked to stop, StartError after the time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.stops:
                raise StoppedError
            if time.monotonic() > deadline:
                raise StartError(f"waited {timeout_s:g} s for {what}")
            self.wait(0.02)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stops += 1


@dataclass(slots=True)
class Child:
    """A program and its process, the last one while it waits for its next start."""

    program: Program
    prepare: Callable[[], None]
    process: subprocess.Popen[bytes]
    started_at: float
    wait_s: float = FIRST_WAIT_S
    due_at: float | None = None  # of the next start

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None


class Supervisor:
    """Programs by name, in the order of their start."""

    def __init__(self, register: Register, say: Callable[[str, str], None], signals: Signals) -> None:
        self._register = register
        self._say = say
        self._signals = signals
        self._children: dict[str, Child] = {}

    def start(self, program: Program, prepare: Callable[[], None] = lambda: None) -> None:
        """Starts a program and keeps it running; `prepare` comes before each of its starts."""
        prepare()
        process = start(program, self._register)
        self._children[program.name] = Child(program, prepare, process, time.monotonic())

    def run(self, program: Program, *, timeout_s: float) -> None:
        """Runs a program to its end; StartError when that is a failure."""
        process = start(program, self._register)
        self._children[program.name] = child = Child(program, lambda: None, process, time.monotonic())
        self._signals.wait_until(lambda: process.poll() is not None, timeout_s=timeout_s, what=program.name)
        if process.returncode != 0:
            raise StartError(_describe_end(child))
        self._forget(program.name)

    def check_start(self) -> None:
        """Raises StartError when a program has ended: at the start that is no accident."""
        for child in self._children.values():
            if child.has_ended:
                raise StartError(_describe_end(child))

    def keep_running(self) -> None:
        """Starts again what has ended and has waited its time."""
        now = time.monotonic()
        for child in self._children.values():
            if child.due_at is None and child.has_ended:
                self._plan_restart(child, now)
            elif child.due_at is not None and now >= child.due_at:
                child.prepare()
                child.process = start(child.program, self._register)
                child.started_at, child.due_at = now, None

    def names(self) -> list[str]:
        """What is kept running, in the order of its start."""
        return list(self._children)

    def _plan_restart(self, child: Child, now: float) -> None:
        kill_group(child.process.pid)  # workers that lost their master would keep its port
        if now - child.started_at > STEADY_AFTER_S:
            child.wait_s = FIRST_WAIT_S
        code = _describe_code(child.process.returncode)
        self._say(child.program.name, f"ended ({code}), starts again in {child.wait_s:g} s")
        self._register.forget(child.program.name)
        child.due_at = now + child.wait_s
        child.wait_s = min(child.wait_s * 2, LONGEST_WAIT_S)

    def stop(self, names: Iterable[str] | None = None) -> None:
        """Stops programs, all by default, side by side; at once when asked to stop a second time."""
        children = [self._children[name] for name in (self.names() if names is None else names)]
        for child in children:
            if not child.has_ended:
                child.process.send_signal(child.program.stop_signal)
        deadline = time.monotonic() + GRACE_S
        while not all(child.has_ended for child in children):
            if time.monotonic() > deadline or self._signals.stops > 1:
                break
            self._signals.wait(0.1)
        for child in children:
            kill_group(child.process.pid)
            child.process.wait()
            self._forget(child.program.name)

    def _forget(self, name: str) -> None:
        del self._children[name]
        self._register.forget(name)


def _describe_code(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def _describe_end(child: Child) -> str:
    log = child.program.log
    lines = last_lines(log, 20).splitlines()
    told = [text for line in lines if (text := shorten(line))] or lines
    reason = "\n".join(f"  {text}" for text in told[-5:])
    return (
        f"{child.program.name} ended ({_describe_code(child.process.returncode)}); its log is {log}\n{reason}"
    )
