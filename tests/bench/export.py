"""GET /data of a million users: complete, soon begun, in constant memory; beside psql's COPY of its bytes."""
# ruff: noqa: S608  constants

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
from crowd import Compare
from rig import AS_IN_IMAGES, Database, Function, StartFunction

from get_data.formats import JSON
from rollcall.servers import packaged_programs

ROUNDS = 5
MIB = 1 << 20
# The quickest way found to have psql write a user a line: CSV whose quote and delimiter JSON never holds.
FORMAT = "format csv, quote e'\\x01', delimiter e'\\x02'"
COPY_JSON = f"copy (select {JSON.line} from users order by user_id) to stdout with ({FORMAT})"
COPY_CSV = """
copy (
    select user_id, first_name, last_name,
           cast(date_part('epoch', birthdate) * 1000 as bigint) as birthts,
           img_path
    from users
    order by user_id
) to stdout with (format csv, header)
"""


@pytest.fixture
def function(million: Database, start_function: StartFunction) -> Function:
    return start_function("get-data", {**million.env("get_data"), **AS_IN_IMAGES})


def test_export_as_json(function: Function, million: Database, compare: Compare) -> None:
    idle = read_memory(function)
    want = hashlib.sha256(read_copy_as_json(million)).hexdigest()
    assert want == hashlib.sha256(read_export(function, "/data")).hexdigest()
    ours, first, copies = measure(function, million, "/data", COPY_JSON)
    compare(5, "GET /data, 1,000,000 users", ours, copies, beside="psql's COPY", at_most=1.2)
    compare(5, "its first byte", first * 1000, 50, beside="wanted", unit="ms", at_most=1)
    for exports in (1, 4):
        growth = measure_growth(function, idle, exports=exports) / MIB
        compare(5, f"memory it takes, {exports} at once", growth, 32, beside="wanted", unit="MiB", at_most=1)


def test_export_as_csv(function: Function, million: Database, compare: Compare) -> None:
    want = hashlib.sha256(run_copy(million, COPY_CSV, subprocess.PIPE)).hexdigest()
    assert want == hashlib.sha256(read_export(function, "/data?format=csv")).hexdigest()
    ours, _, copies = measure(function, million, "/data?format=csv", COPY_CSV)
    compare(6, "GET /data?format=csv", ours, copies, beside="psql's COPY", at_most=1.5)


def measure(function: Function, database: Database, target: str, copy: str) -> tuple[float, float, float]:
    """Return the medians of an export, of its first byte and of psql's COPY, taken in turn."""
    copies, exports, firsts = [], [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run_copy(database, copy, subprocess.DEVNULL)
        copies.append(time.perf_counter() - started)
        taken, first = fetch_export(function, target, lambda part: None)
        exports.append(taken)
        firsts.append(first)
    return median(exports), median(firsts), median(copies)


def read_copy_as_json(database: Database) -> bytes:
    """Return what GET /data should answer, made from psql's lines."""
    lines = run_copy(database, COPY_JSON, subprocess.PIPE)
    return (
        JSON.opening.encode()
        + lines.rstrip(b"\n").replace(b"\n", JSON.separator.encode())
        + JSON.closing.encode()
    )


def run_copy(database: Database, copy: str, output: int) -> bytes:
    psql = packaged_programs() / "bin" / "psql"
    env = {**database.env("get_data"), "PATH": os.defpath}
    return subprocess.run([psql, "-qXAtc", copy], env=env, stdout=output, check=True).stdout


def read_export(function: Function, target: str) -> bytes:
    parts: list[bytes] = []
    fetch_export(function, target, parts.append)
    return b"".join(parts)


def fetch_export(function: Function, target: str, write: Callable[[bytes], None]) -> tuple[float, float]:
    """Return how long all of it took, and the first byte of it."""
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, function.url + target)
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
        list(pool.map(lambda _: fetch_export(function, "/data", lambda part: None), range(exports)))
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
