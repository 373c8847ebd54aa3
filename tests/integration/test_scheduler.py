"""The scheduler as a process, calling an upstream that can be made to fail."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from rig import REPOSITORY

from rollcall.ports import HOST, choose_port
from rollcall.processes import wait_until
from rollcall.servers import http_status

PYTHONPATH = os.pathsep.join(str(REPOSITORY / folder) for folder in ("local", "functions"))


@contextmanager
def scheduler(url: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "rollcall.scheduler"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": PYTHONPATH, "PROCESS_URL": url, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def upstream(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(REPOSITORY / "tests" / "upstream.py"), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def function() -> Iterator[str]:
    """The address of a function that does what the query says."""
    port = choose_port()
    with upstream(port):
        wait_until(lambda: http_status(port, "/healthz") == 200, timeout_s=60, what="the function")
        yield f"http://{HOST}:{port}/data"


def read_events(process: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    """Read the next lines of the log; each is one JSON object."""
    assert process.stdout
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_the_first_call_comes_at_once_and_the_next_from_start_to_start(function: str) -> None:
    """Calls of 2 s, 3 s apart: from end to start, they would be 5 s apart."""
    with scheduler(f"{function}?sleep_s=2", PROCESS_INTERVAL_S="3") as process:
        events = read_events(process, 5)
    assert [event["event"] for event in events] == ["scheduler.started", *["scheduler.called"] * 4]
    begun, *ended = [datetime.fromisoformat(event["time"]) for event in events]
    assert (ended[0] - begun).total_seconds() - events[1]["seconds"] < 3
    apart = [(after - before).total_seconds() for before, after in pairwise(ended)]
    # A busy machine makes any of them late, and the next one early.
    assert min(apart) < 4.5
    assert max(apart) > 2.5
    assert {event["status"] for event in events[1:]} == {200}
    assert events[1]["run_id"] == 7
    assert "secret" not in json.dumps(events)  # keys of rejects name users


def test_a_run_of_somebody_else_is_fine(function: str) -> None:
    with scheduler(f"{function}?status=409") as process:
        called = read_events(process, 2)[1]
    assert (called["event"], called["level"], called["status"]) == ("scheduler.called", "info", 409)


def test_a_refusal_is_an_error_and_waits_for_the_next_time(function: str) -> None:
    with scheduler(f"{function}?status=401", PROCESS_INTERVAL_S="1") as process:
        events = read_events(process, 3)[1:]
    assert [(event["event"], event["level"]) for event in events] == [("scheduler.called", "error")] * 2


@pytest.mark.parametrize("what", ["status=503", "break=start"])
def test_an_unavailable_function_is_called_again_soon(function: str, what: str) -> None:
    with scheduler(f"{function}?{what}") as process:
        events = read_events(process, 3)[1:]
    assert [event["event"] for event in events] == ["scheduler.unavailable"] * 2
    assert [event["again_in_s"] for event in events] == [5, 10]


def test_a_function_that_comes_up_late_is_called_then() -> None:
    port = choose_port()
    with scheduler(f"http://{HOST}:{port}/data") as process:
        assert read_events(process, 2)[1]["event"] == "scheduler.unavailable"
        with upstream(port):
            assert read_events(process, 1)[0]["status"] == 200


def test_calls_never_overlap(function: str) -> None:
    with scheduler(f"{function}?sleep_s=2.5", PROCESS_INTERVAL_S="1") as process:
        events = [event["event"] for event in read_events(process, 4)]
    assert events == ["scheduler.started", "scheduler.skipped", "scheduler.skipped", "scheduler.called"]


def test_the_token_and_a_new_connection_go_with_each_call() -> None:
    port = choose_port()
    with upstream(port) as function:
        with scheduler(f"http://{HOST}:{port}/data", API_TOKEN="a-token") as process:
            log = json.dumps(read_events(process, 2))
        assert function.stdout
        request = json.loads(function.stdout.readline())
    assert request["headers"]["authorization"] == "Bearer a-token"
    assert request["headers"]["connection"] == "close"
    assert (request["method"], request["path"]) == ("POST", "/data")
    assert "a-token" not in log


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_even_in_a_call(stop: signal.Signals) -> None:
    """And not when the call has ended, which takes longer than is waited for here."""
    port = choose_port()
    with upstream(port) as function:
        wait_until(lambda: http_status(port, "/healthz") == 200, timeout_s=60, what="the function")
        with scheduler(f"http://{HOST}:{port}/data?sleep_s=600") as process:
            assert function.stdout
            assert json.loads(function.stdout.readline())["method"] == "POST"
            process.send_signal(stop)
            assert process.wait(timeout=60) == 0
            assert [event["event"] for event in read_events(process, 2)] == [
                "scheduler.started",
                "scheduler.stopped",
            ]


def test_wrong_settings_are_named() -> None:
    with scheduler("localhost:8080", PROCESS_INTERVAL_S="25m") as process:
        failed = read_events(process, 1)[0]
        assert process.wait(timeout=60) == 1
    assert "PROCESS_URL is 'localhost:8080', wanted an address such as" in failed["detail"]
    assert "PROCESS_INTERVAL_S is '25m', wanted a whole number from 1 to 604800" in failed["detail"]
