"""Clients that are slow, stop or leave: they cost themselves their connection, and nobody else anything."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection

import pytest
from pipeline import ONE_STORE, Pipeline
from rig import Database, Function, Gateway
from watch import Watch, watched

from rollcall.ports import HOST
from rollcall.processes import wait_until

pytestmark = ONE_STORE
MANY = 12  # three times as many as a function has threads
SLOW_HEADERS = b"GET /stats HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
SLOW_GET = b"GET /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
SLOW_POST = b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
SLOW_EVENT = (
    b"POST /events HTTP/1.1\r\nHost: localhost\r\n"
    b"Authorization: Bearer events\r\nContent-Length: 1000\r\n\r\n"
)
EXPORT = b"GET /data HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(port: int, request: bytes) -> socket.socket:
    """Send the beginning of a request, and take in as little as possible of an answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(150)
    client.connect((HOST, port))
    client.sendall(request)
    return client


def answer(client: socket.socket) -> tuple[Watch, bytes]:
    """Drip into a request until it is answered or its connection ends; returns when, and how."""
    with watched() as watch:
        received = drip_until_answered(client)
    return watch, received


def drip_until_answered(client: socket.socket) -> bytes:
    client.settimeout(0.5)
    received = b""
    latest = time.monotonic() + 300
    while time.monotonic() < latest:
        with suppress(OSError):
            client.sendall(b"x")
        try:
            received += (part := client.recv(65_536))
        except TimeoutError:
            if received:
                break
        except OSError:
            break
        else:
            if not part:
                break
    return received


def get(port: int, target: str, *, method: str = "GET") -> tuple[int, bytes]:
    with closing(HTTPConnection(HOST, port, timeout=60)) as connection:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()


def is_quick(port: int) -> bool:
    """Whether /healthz is answered within 0.1 s, the best of a few, on a machine that is not busy."""
    times = []
    with watched() as watch:
        for _ in range(5):
            started = time.monotonic()
            assert get(port, "/healthz")[0] == 200
            times.append(time.monotonic() - started)
    return min(times) < watch.allow(0.1)


def statuses(function: Function) -> set[int]:
    lines = [line for line in function.log.read_text().splitlines() if line.startswith("{")]
    return {event["status"] for event in map(json.loads, lines) if event["event"] == "request"}


@pytest.fixture
def crowded(database: Database) -> Database:
    """A database with more users than fit into all the buffers between server, gateway and client."""
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate)
        select 100000 + n, repeat('x', 900), 'Last' || n, to_timestamp(n)
        from generate_series(1, 20000) as n
        """
    )
    return database


def test_at_the_gateway_slow_clients_hold_no_thread_of_a_function(crowded: Database, gateway: Gateway):
    functions = (gateway.get_data, gateway.process_users)
    slow = (SLOW_HEADERS, SLOW_GET, SLOW_POST)
    with ExitStack() as stack, ThreadPoolExecutor(len(slow)) as threads:
        clients = [
            [stack.enter_context(closing(connect(gateway.port, request))) for _ in range(MANY)]
            for request in slow
        ]
        # Two exports, all that four threads have room for, and pages, which have no limit of their own.
        stopped = [stack.enter_context(closing(connect(gateway.port, EXPORT))) for _ in range(2)]
        wait_for_exports(crowded, 2)
        endings = [threads.submit(answer, some[0]) for some in clients]
        assert all(is_quick(function.port) for function in functions)
        assert is_quick(gateway.port)
        assert get(gateway.port, "/data?limit=3")[0] == 200
        assert get(gateway.port, "/data", method="POST")[0] == 200
        assert get(gateway.port, "/data")[0] == 503
        for ending, kind in zip(endings, slow, strict=True):
            watch, received = ending.result()
            if kind is SLOW_HEADERS:
                assert 4 < watch.seconds < watch.allow(15)
                assert received[:10] in (b"", b"HTTP/1.1 4")
            else:
                assert received.startswith(b"HTTP/1.1 400 "), kind
        # None of the bodies has come to a function.
        assert all(408 not in statuses(function) for function in functions)
        wait_for_exports(crowded, 0, timeout_s=150)
        assert get(gateway.port, "/data?after=119500")[0] == 200
        assert all(not is_whole(client) for client in stopped)


def wait_for_exports(database: Database, count: int, *, timeout_s: float = 60) -> None:
    sql = (
        "select count(*) from pg_stat_activity where usename = 'rollcall_get_data' "
        "and datname = current_database() and state = 'idle in transaction'"
    )
    wait_until(lambda: database.run(sql)[0][0] == count, timeout_s=timeout_s, what=f"{count} exports")


def is_whole(client: socket.socket) -> bool:
    """Whether the rest of an export, read at last, ends as one should."""
    received = b""
    with suppress(OSError):
        while part := client.recv(1 << 20):
            received = received[-10:] + part
    return received.endswith(b"0\r\n\r\n")


def test_a_function_waits_ten_seconds_for_a_body_however_it_drips(gateway: Gateway):
    with closing(connect(gateway.process_users.port, SLOW_EVENT)) as client:
        watch, received = answer(client)
    assert 9 < watch.seconds < watch.allow(11)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "body_timeout"' in received
    assert is_quick(gateway.process_users.port)


@pytest.mark.parametrize("request_line", [b"GET /data", b"POST /data", b"GET /runs", b"POST /events"])
def test_no_body_is_waited_for_that_is_not_taken(gateway: Gateway, request_line: bytes):
    """Neither by the functions nor by the gateway: it is refused before any of it comes."""
    for server in (gateway, gateway.get_data, gateway.process_users):
        for body in (b"Content-Length: 1000", b"Content-Length: 9999999999", b"Transfer-Encoding: chunked"):
            head = request_line + b" HTTP/1.1\r\nHost: localhost\r\n" + body + b"\r\n\r\n"
            with closing(connect(server.port, head)) as client:
                received = b"".join(iter(lambda: client.recv(65_536), b""))
            assert received.startswith(b"HTTP/1.1 4")
            assert not received.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 499 "))


@contextmanager
def asking_for_a_run(port: int) -> Iterator[None]:
    request = b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    with closing(connect(port, request)):
        yield


@pytest.mark.parametrize("through_gateway", [True, False])
def test_who_leaves_a_run_does_not_stop_it(pipeline: Pipeline, gateway: Gateway, through_gateway: bool):
    pipeline.put("1000.csv")
    with pipeline.holding_commits() as gate:
        with asking_for_a_run(gateway.port if through_gateway else gateway.process_users.port):
            gate.wait_for()
        gate.open_now()
        wait_until(
            lambda: [run["state"] for run in pipeline.get("/runs")["runs"]] == ["ok"],
            timeout_s=60,
            what="the end of the run",
        )
    assert pipeline.user_ids() == ["1000"]
    assert pipeline.fetch("output.csv").text.count("\n") == 2
