"""A process-users that can be killed at any exchange with Postgres or the store."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from faults.events import notification
from faults.proxy import Exchange, Tap, proxied
from pipeline import MAIN, Pipeline
from rig import FUNCTIONS

from rollcall.ports import HOST
from rollcall.processes import stop

# Where at an exchange: the request is never sent, or half of it, or its answer never comes; `lose` spares the
# process and cuts its connection after the server has done what was asked.
MOMENTS = ("before", "half", "after", "lose")


class Victim:
    """Answers requests in forks of one process; each may be killed at one exchange of its choice."""

    def __init__(self, process: subprocess.Popen[bytes], tap: Tap) -> None:
        self._process, self._tap = process, tap
        self._pid = 0
        self._is_known = threading.Event()
        self.struck: Exchange | None = None
        self._read()

    def ask(self, request: Mapping[str, Any], *, number: int, moment: str) -> dict[str, Any] | None:
        """Send a request, and strike at this exchange; returns the answer, None when it was killed.

        `struck` is the exchange, None when the request was answered with fewer.
        """
        self._is_known.clear()
        self.struck = None
        self._tap.reset()

        def strike(exchange: Exchange, data: bytes) -> bytes | None:
            if exchange.number != number or self.struck is not None:
                return data
            self.struck = exchange
            if moment != "lose":
                assert self._is_known.wait(10)
                os.kill(self._pid, signal.SIGKILL)
            return data[: len(data) // 2] if moment == "half" else None

        if moment in ("before", "half"):
            self._tap.on_request = strike
        else:
            self._tap.on_answer = strike
        self._send(request)
        self._pid = self._read()["pid"]
        self._is_known.set()
        answer = self._read()
        # A request of a dead process may still be under way: nothing is struck twice.
        self._tap.on_request = self._tap.on_answer = lambda exchange, data: data
        return answer

    @property
    def exchanges(self) -> list[Exchange]:
        """Return the exchanges of the last request."""
        return list(self._tap.exchanges)

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended; its stderr says why"
        return json.loads(line)


@contextmanager
def killable(pipeline: Pipeline, home: Path, *, remove: bool, batch_objects: int) -> Iterator[Victim]:
    """Start a function whose connections go through proxies."""
    tap = Tap()
    with ExitStack() as stack:
        postgres = stack.enter_context(proxied(pipeline.database.settings.port, tap))
        store = stack.enter_context(proxied(pipeline.bucket.store.port, tap))
        env = {
            **pipeline.env(ON_SOURCE_DELETE="remove" if remove else "keep"),
            "PGPORT": str(postgres.port),
            "MINIO_ENDPOINT": f"http://{HOST}:{store.port}",
            "PATH": os.defpath,
            "HOME": str(home),
            "TMPDIR": str(home),  # killed processes leave files behind
            "PYTHONPATH": f"{FUNCTIONS}:{FUNCTIONS / 'process-users'}",
            "OPENBLAS_NUM_THREADS": "1",  # forks have one thread
        }
        log = stack.enter_context((home / "log").open("w"))
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked.py")), MAIN, str(batch_objects)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        stack.callback(_end, process)
        yield Victim(process, tap)


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()
    stop(process)


def run_request(query: str = "") -> dict[str, Any]:
    return {"method": "POST", "path": f"/data?allow_empty=true&{query}".removesuffix("&")}


def event_request(bucket: str, key: str, event: str) -> dict[str, Any]:
    return {
        "method": "POST",
        "path": "/events",
        "data": json.dumps(notification(bucket, key, event)),
        "headers": {"Authorization": "Bearer events"},
    }
