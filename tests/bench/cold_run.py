"""A first run, its growth and its memory, beside others who read the same records."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

import psutil
import pytest
from crowd import FIRST_ID, Compare, Crowd, FillBucket, open_bucket, run
from peers import time_dlt, time_original, time_rclone
from rig import AS_IN_IMAGES, Bucket, Database, Function, StartFunction

from process_users.keys import SourceKey

MIB = 1 << 20
FEW, MANY = Crowd(10_000), Crowd(100_000)
ROUNDS = 5
LONG_ROUNDS = 3


@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_cold_run(
    fill_bucket: FillBucket, database: Database, start_function: StartFunction, copies: Path, compare: Compare
) -> None:
    bucket = fill_bucket(FEW)
    function = start(start_function, bucket, database)
    run_cold(function, database, FEW)
    taken, copied, readings = [], [], []
    for _ in range(ROUNDS):
        copied.append(time_rclone(bucket, FEW.count, copies))
        taken.append(run_cold(function, database, FEW))
        readings.append(time_reading(bucket, FEW))
    ours, work = median(taken), "cold run of 10,000 users"
    theirs, read = median(copied), median(readings)
    compare(1, work, ours, theirs, beside="rclone copy of the records", at_most=0.55)
    compare(1, "reading the records", read, theirs, beside="rclone copy of the records", for_scale=True)
    compare(1, work, ours, time_original(bucket, database), beside="S3 Select one by one", at_most=1 / 12)
    compare(1, work, ours, time_dlt(bucket, database, FEW.count), beside="dlt, merge", at_most=1 / 12)


@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_growth(
    fill_bucket: FillBucket, database: Database, start_function: StartFunction, copies: Path, compare: Compare
) -> None:
    ratios, peaks = [], []
    for crowd in (FEW, MANY):
        bucket = fill_bucket(crowd)
        function = start(start_function, bucket, database)
        with sampling(function) as memory:
            run_cold(function, database, crowd)
        peaks.append(max(memory.values()) / MIB)
        rounds = ROUNDS if crowd is FEW else LONG_ROUNDS
        taken, copied = [], []
        for _ in range(rounds):
            copied.append(time_rclone(bucket, crowd.count, copies))
            taken.append(run_cold(function, database, crowd))
        ours, theirs, work = median(taken), median(copied), f"cold run of {crowd.count:,} users"
        compare(11, work, ours, theirs, beside="rclone copy of the records", for_scale=True)
        ratios.append(ours / theirs)
    few, many = ratios
    compare(11, "ours to rclone's, 100,000 users", many, few, beside="10,000 users", unit="x", at_most=1.2)
    few, many = peaks
    bound = (few + 32) / few
    compare(11, "most memory, 100,000 users", many, few, beside="10,000 users", unit="MiB", at_most=bound)


def start(start_function: StartFunction, bucket: Bucket, database: Database) -> Function:
    return start_function("process-users", {**bucket.env, **database.env("process_users"), **AS_IN_IMAGES})


def run_cold(function: Function, database: Database, crowd: Crowd) -> float:
    """Do a run that is the first one, as far as the tables know; returns its seconds."""
    database.run("truncate users, ledger, runs")
    database.run("update state set rules = '', output_version = null, rejects_output_version = null")
    seconds, report = run(function)
    assert report["upserted"] == report["output"]["rows"] == crowd.count
    return seconds


def time_reading(bucket: Bucket, crowd: Crowd) -> float:
    """Read every record, whose keys are known, and make nothing of them; returns the seconds."""
    users = range(FIRST_ID, FIRST_ID + crowd.count)
    keys = [SourceKey(f"{user_id}.csv", str(user_id), None) for user_id in users]
    with closing(open_bucket(bucket)) as source:
        started = time.perf_counter()
        assert sum(1 for reading in source.read(keys) if reading.body) == crowd.count
        return time.perf_counter() - started


@contextmanager
def sampling(function: Function) -> Iterator[dict[int, int]]:
    """Note the most memory of each process of the function during the block."""
    (server,) = (child for child in psutil.Process().children() if str(function.port) in child.cmdline())
    highest: dict[int, int] = {}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            for process in (server, *server.children()):  # a worker may begin a moment after another
                highest[process.pid] = max(highest.get(process.pid, 0), process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()
