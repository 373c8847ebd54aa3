"""GET /data of a million users: complete, soon begun, in constant memory; beside psql's COPY of its bytes."""

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median

import psutil
import pycurl
import pytest
from rig import Database, Function, StartFunction

from get_data.formats import JSON
from rollcall.servers import packaged_programs

USERS = 1_000_000
ROUNDS = 5
MIB = 1 << 20
# The quickest way found to have psql write a user a line: CSV whose quote and delimiter JSON never holds.
FORMAT = "format csv, quote e'\\x01', delimiter e'\\x02'"
COPY = f"copy (select {JSON.line} from users order by user_id) to stdout with ({FORMAT})"  # noqa: S608  constants


@pytest.fixture
def database(database: Database) -> Database:
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate, img_path)
        select n::text, 'First' || n % 997, 'Last' || n % 99991,
               timestamptz '1930-01-01Z' + n * interval '2903 seconds',
               case when n % 10 < 9 then 'src-data/' || n || '.png' end
        from generate_series(1000, 1000 + cast(:count as integer) - 1) as n
        order by n::text collate "C"
        """,
        count=USERS,
    )
    database.run("vacuum analyze users")
    return database


@pytest.fixture
def function(database: Database, start_function: StartFunction) -> Function:
    return start_function("get-data", {**database.env("get_data"), "WORKERS": "2"})


def test_export(function: Function, database: Database) -> None:
    idle = read_memory(function)
    want = hashlib.sha256(read_copy(database)).hexdigest()
    assert want == hashlib.sha256(read_export(function)).hexdigest()
    ours, first, copies = [], [], []
    for _ in range(ROUNDS):
        copies.append(time_copy(database))
        taken, first_byte = time_export(function)
        ours.append(taken)
        first.append(first_byte)
    alone, together = measure_growth(function, idle, exports=1), measure_growth(function, idle, exports=4)
    print(
        f"\n{USERS:,} users as JSON: ours {median(ours):.2f} s, psql's COPY {median(copies):.2f} s, "
        f"ratio {median(ours) / median(copies):.2f}; first byte {median(first) * 1000:.0f} ms, "
        f"at most {max(first) * 1000:.0f} ms; workers grew {alone / MIB:.0f} MiB, with four at once "
        f"{together / MIB:.0f} MiB"
    )
    assert median(first) <= 0.1
    assert max(alone, together) <= 32 * MIB


def read_copy(database: Database) -> bytes:
    """Return what GET /data should answer, made from psql's lines."""
    lines = run_copy(database, subprocess.PIPE).rstrip(b"\n").replace(b"\n", JSON.separator.encode())
    return JSON.opening.encode() + lines + JSON.closing.encode()


def run_copy(database: Database, output: int) -> bytes:
    psql = packaged_programs() / "bin" / "psql"
    env = {**database.env("get_data"), "PATH": os.defpath}
    return subprocess.run([psql, "-qXAtc", COPY], env=env, stdout=output, check=True).stdout


def time_copy(database: Database) -> float:
    started = time.perf_counter()
    run_copy(database, subprocess.DEVNULL)
    return time.perf_counter() - started


def read_export(function: Function) -> bytes:
    parts: list[bytes] = []
    fetch_export(function, parts.append)
    return b"".join(parts)


def time_export(function: Function) -> tuple[float, float]:
    """Return how long all of it took, and the first byte of it."""
    return fetch_export(function, lambda part: None)


def fetch_export(function: Function, write: Callable[[bytes], None]) -> tuple[float, float]:
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, f"{function.url}/data")
    curl.setopt(pycurl.WRITEFUNCTION, write)
    try:
        curl.perform()  # raises when the answer is cut off
        assert curl.getinfo(pycurl.RESPONSE_CODE) == 200
        return curl.getinfo(pycurl.TOTAL_TIME), curl.getinfo(pycurl.STARTTRANSFER_TIME)
    finally:
        curl.close()


def measure_growth(function: Function, idle: dict[int, int], *, exports: int) -> int:
    """Return by how many bytes the worker that grew most is above idle while these exports run at once."""
    with sampling(function) as highest, ThreadPoolExecutor(exports) as pool:
        list(pool.map(lambda _: time_export(function), range(exports)))
    return max(highest[pid] - memory for pid, memory in idle.items())


@contextmanager
def sampling(function: Function) -> Iterator[dict[int, int]]:
    """Note the most memory of each worker during the block."""
    highest = read_memory(function)
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            for pid, memory in read_memory(function).items():
                highest[pid] = max(highest[pid], memory)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def read_memory(function: Function) -> dict[int, int]:
    """Return the resident bytes of each worker, by its process id."""
    family = [
        child for child in psutil.Process().children(recursive=True) if str(function.port) in child.cmdline()
    ]
    master = min(family, key=lambda process: process.create_time())
    return {worker.pid: worker.memory_info().rss for worker in family if worker != master}
