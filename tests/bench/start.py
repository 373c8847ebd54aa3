"""From the start of get-data's process to its first answer."""

import socket
import time
from pathlib import Path
from statistics import median

import psutil
from rig import Database, Function

from rollcall.ports import HOST, choose_port
from rollcall.processes import start, stop

ROUNDS = 9


def test_start(database: Database, tmp_path: Path) -> None:
    taken, memory = zip(*(start_once(database, tmp_path / str(n)) for n in range(ROUNDS)), strict=True)
    print(
        f"\nget-data: first answer after {median(taken):.2f} s, at least {min(taken):.2f} s; "
        f"an idle worker has {max(memory) / (1 << 20):.0f} MiB"
    )
    assert median(taken) <= 0.5


def start_once(database: Database, home: Path) -> tuple[float, int]:
    """Return seconds to the first answer, and the bytes of a worker then."""
    function = Function(
        name="get-data", port=choose_port(), env={**database.env("get_data"), "WORKERS": "2"}, home=home
    )
    function.prepare()
    started = time.perf_counter()
    process = start(function.program())
    try:
        wait_for_answer(function.port)
        taken = time.perf_counter() - started
        return taken, max(worker.memory_info().rss for worker in psutil.Process(process.pid).children())
    finally:
        stop(process)


def wait_for_answer(port: int) -> None:
    while True:
        try:
            with socket.create_connection((HOST, port)) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: rollcall\r\nConnection: close\r\n\r\n")
                assert connection.recv(12) == b"HTTP/1.1 200"
                return
        except ConnectionRefusedError:
            time.sleep(0.002)
