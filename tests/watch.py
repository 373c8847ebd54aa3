"""Bounds on time that hold on a machine with nothing else to do, and stretch with its load."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

WORK_S = 0.03  # of one piece of work
PAUSE_S = 0.2


class Watch:
    """How long a block took, and how many times longer than alone a piece of work took meanwhile."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stretch = 1.0
        self._is_over = threading.Event()
        self._started = time.monotonic()

    def allow(self, seconds: float) -> float:
        """Return the time that this many seconds of an idle machine may have taken here."""
        return seconds * self._stretch

    def run(self) -> None:
        """Work a little, again and again, until the block is over."""
        while True:
            self._stretch = max(self._stretch, _stretch_of_work())
            if self._is_over.wait(PAUSE_S):
                return

    def stop(self) -> None:
        self.seconds = time.monotonic() - self._started
        self._is_over.set()


def _stretch_of_work() -> float:
    started, worked = time.monotonic(), time.thread_time()
    while time.thread_time() - worked < WORK_S:
        pass
    return (time.monotonic() - started) / WORK_S


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch a block of code."""
    watch = Watch()
    worker = threading.Thread(target=watch.run)
    worker.start()
    try:
        yield watch
    finally:
        watch.stop()
        worker.join()
