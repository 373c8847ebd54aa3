"""From the start of a function's process to its first answer, and the memory of a worker then."""

import socket
import time
from pathlib import Path
from statistics import median

import psutil
import pytest
from crowd import Compare
from load import make_hello
from rig import AS_IN_IMAGES, Database, Function

from rollcall.ports import HOST, choose_port
from rollcall.processes import start, stop

ROUNDS = 9


@pytest.mark.parametrize(
    ("name", "at_most_s", "at_most_mib"), [("get-data", 0.35, 60), ("process-users", 0.7, 110)]
)
def test_start(
    name: str, at_most_s: float, at_most_mib: int, database: Database, tmp_path: Path, compare: Compare
) -> None:
    env = {**database.env(name.replace("-", "_")), **AS_IN_IMAGES}
    started = (
        start_once(Function(name=name, port=choose_port(), env=env, home=tmp_path / str(turn)))
        for turn in range(ROUNDS)
    )
    taken, memory = zip(*started, strict=True)
    work = f"{name}: start to first answer"
    compare(10, work, median(taken), at_most_s, beside="the aim", at_most=1)
    work = f"{name}: memory of an idle worker"
    compare(10, work, max(memory) / (1 << 20), at_most_mib, beside="the aim", unit="MiB", at_most=1)


def test_start_of_hello(tmp_path: Path, compare: Compare) -> None:
    source = make_hello(tmp_path)
    taken = []
    for turn in range(ROUNDS):
        home = tmp_path / str(turn)
        hello = Function(name="hello", port=choose_port(), env=AS_IN_IMAGES, home=home, source=source)
        taken.append(start_once(hello)[0])
    work = "hello world: start to first answer"
    compare(10, work, median(taken), 0.35, beside="the aim", for_scale=True)


def start_once(function: Function) -> tuple[float, int]:
    """Return seconds to the first answer, and the bytes of a worker then."""
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
