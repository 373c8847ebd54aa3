"""Many clients that hardly read their answers: health and small pages get through all the same."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path

import pytest
from hostile.amounts import SLOW_READERS_S
from rig import AS_IN_IMAGES, Count, Database, Function, Gateway, StartFunction

from rollcall.ports import HOST
from rollcall.processes import wait_until
from rollcall.servers import serving

READERS = 100
# The largest that each kind of answer can be, and the small ones, which many leave unread as well.
LARGE = (
    *(f"/data?limit=10000&format={form}" for form in ("html", "json", "csv", "ndjson")),
    *("/?limit=10000&format=html", "/?limit=500&format=html", "/data?limit=1000", "/data"),
)
SMALL = (
    "/",
    "/data?limit=100",
    "/docs",
    "/openapi.json",
    "/stats",
    "/metrics",
    "/no/such/path",
    "/data/none",
)
PROBES = ("/healthz", "/data?limit=5")
# Of a probe. On a machine that has nothing else to do, the slowest takes half a second.
PATIENCE_S = 15
# Of a client that does not read: 30 s where it has a place, else at once; and time for a busy machine.
CUT_WITHIN_S = 120


@dataclass(slots=True)
class Reader:
    """A client with the smallest window that reads a little now and then, and asks again after each end."""

    port: int
    request: bytes
    client: socket.socket | None = None

    def read(self) -> int:
        """Read a little; returns how many answers ended."""
        try:
            if self.client is None:
                self.client = connect(self.port)
                self.client.sendall(self.request)
                self.client.setblocking(False)
            if self.client.recv(512):
                return 0
        except BlockingIOError:
            return 0
        except OSError:
            pass
        self.close()
        return 1

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None


def connect(port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.settimeout(PATIENCE_S)
    client.connect((HOST, port))
    return client


def to_request(target: str, number: int) -> bytes:
    gzip = "Accept-Encoding: gzip\r\n" if number % 5 == 0 else ""
    close = "Connection: close\r\n" if number % 3 == 0 else ""
    return f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{gzip}{close}\r\n".encode()


@contextmanager
def reading_slowly(ports: tuple[int, ...], targets: tuple[str, ...]) -> Iterator[list[int]]:
    """Have READERS at it until the end of the block; yields how many of their answers have ended."""
    readers = [
        Reader(port, to_request(target, number))
        for number, port, target in zip(range(READERS), cycle(ports), cycle(targets), strict=False)
    ]
    ended, stop = [0], threading.Event()

    def read() -> None:
        while not stop.wait(0.2):
            ended[0] += sum(reader.read() for reader in readers)

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        try:
            yield ended
        finally:
            stop.set()
            reading.result()
            for reader in readers:
                reader.close()


def probe(port: int, target: str) -> float:
    """Return how long an answer took."""
    started = time.monotonic()
    with closing(HTTPConnection(HOST, port, timeout=PATIENCE_S)) as connection:
        connection.request("GET", target)
        response = connection.getresponse()
        response.read()
    assert response.status == 200, target
    return time.monotonic() - started


def probe_all(ports: tuple[int, ...]) -> list[float]:
    return [probe(port, target) for port in ports for target in PROBES]


@pytest.fixture
def crowded(database: Database) -> Database:
    """A database of users with the longest ids and names that there can be."""
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate, img_path)
        select repeat('😀', 122) || 100000 + n, repeat('😀', 200), repeat('<', 200), to_timestamp(n),
               'src-data/a.png'
        from generate_series(1, 10000) as n
        """
    )
    return database


@pytest.fixture
def function(crowded: Database, start_function: StartFunction) -> Function:
    """get-data as its image starts it."""
    return start_function("get-data", {**crowded.env("get_data"), **AS_IN_IMAGES})


@pytest.fixture
def gateway(function: Function, tmp_path: Path) -> Iterator[Gateway]:
    with serving(
        lambda port: Gateway(port=port, process_users=function, get_data=function, home=tmp_path / "gateway")
    ) as gateway:
        yield gateway


@pytest.mark.parametrize("targets", [LARGE, SMALL], ids=["large", "small"])
def test_slow_readers_stop_nobody_else(
    function: Function, gateway: Gateway, targets: tuple[str, ...], count: Count
):
    ports = (function.port, gateway.port)
    alone = [seconds for _ in range(10) for seconds in probe_all(ports)]
    with reading_slowly(ports, targets) as ended:
        wait_until(lambda: ended[0] > 0, timeout_s=60, what="the first end of an answer")
        until, beside = time.monotonic() + SLOW_READERS_S, []
        while time.monotonic() < until:
            beside += probe_all(ports)
    count(probes=len(beside), slowest=f"{max(beside):.2f} s", alone=f"{max(alone):.2f} s")


def test_who_asks_on_and_on_without_reading_is_cut_off(function: Function):
    """By small answers alone, until the buffers are full."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ThreadPoolExecutor(24) as threads:
        for ending in [threads.submit(fill, function.port, request) for _ in range(24)]:
            assert ending.result() < CUT_WITHIN_S
            probe(function.port, "/healthz")


def fill(port: int, request: bytes) -> float:
    """Send requests until the other side hangs up; returns how long that took."""
    started = time.monotonic()
    with closing(connect(port)) as client, suppress(ConnectionError):
        client.settimeout(1)
        while time.monotonic() - started < CUT_WITHIN_S:
            with suppress(TimeoutError):  # the buffers are full, but nobody has hung up
                client.sendall(request)
    return time.monotonic() - started


def test_clients_that_do_not_hang_up_keep_nobody_out(function: Function):
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    garbage = b"no HTTP at all\r\n\r\n"
    alone = [probe(function.port, "/healthz") for _ in range(20)]
    clients = []
    for asked in (request, garbage) * 15:
        clients.append(client := connect(function.port))
        client.sendall(asked)
    beside = [probe(function.port, "/healthz") for _ in range(20)]
    for client in clients:
        client.close()
    # Each would keep everybody else waiting for 2 s.
    assert sum(beside) < 5 + 20 * sum(alone)
