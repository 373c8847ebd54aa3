"""The first run over 10,000 users, beside S3 Select and an upsert for one after the other; its memory."""

import csv
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import psutil
import pytest
from crowd import Crowd, connect, run
from minio import Minio
from minio.select import CSVInputSerialization, CSVOutputSerialization, SelectRequest
from pg8000.native import Connection as Driver
from rig import Bucket, Database, Function, StartFunction
from urllib3 import PoolManager

FEW, MANY = Crowd(1_000), Crowd(10_000)
ROUNDS = 3
FACTOR = 10
MIB = 1 << 20
GROWTH = 32 * MIB
AS_IN_IMAGES = {"WORKERS": "2", "THREADS": "8"}
UPSERT = """
insert into original (user_id, first_name, last_name, birthdate, img_path)
values (:user_id, :first_name, :last_name,
        timestamptz 'epoch' + cast(:birthts as bigint) * interval '1 ms',
        :img_path)
on conflict (user_id) do update
set first_name = excluded.first_name,
    last_name = excluded.last_name,
    birthdate = excluded.birthdate,
    img_path = excluded.img_path
"""
CELLS = "user_id, first_name, last_name, birthdate, img_path"


@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_cold_run(bucket: Bucket, database: Database, start_function: StartFunction) -> None:
    env = {**bucket.env, **database.env("process_users"), **AS_IN_IMAGES}
    FEW.put(bucket)
    few = measure_peak(start_function("process-users", env), FEW)
    MANY.put(bucket)
    forget(database)
    function = start_function("process-users", env)
    many = measure_peak(function, MANY)
    taken = []
    for _ in range(ROUNDS):
        forget(database)
        seconds, report = run(function)
        assert report["upserted"] == MANY.count
        taken.append(seconds)
    original = time_original(bucket, database)
    ratio = original / median(taken)
    print(
        f"\n{MANY.count:,} users with {MANY.pictures:,} pictures: a cold run takes {median(taken):.2f} s "
        f"({', '.join(f'{seconds:.2f}' for seconds in taken)}), S3 Select and an upsert for one after the "
        f"other {original:.1f} s, {ratio:.1f} times as long; the worker's peak is {many / MIB:.0f} MiB, "
        f"with {FEW.count:,} users {few / MIB:.0f} MiB"
    )
    assert ratio >= FACTOR
    assert many - few <= GROWTH


def forget(database: Database) -> None:
    """Make the next run the first one."""
    database.run("truncate users, ledger, runs")
    database.run("update state set rules = '', output_version = null, rejects_output_version = null")


def measure_peak(function: Function, crowd: Crowd) -> int:
    """Return the most bytes that a worker has while it does its first run."""
    with sampling(function) as memory:
        assert run(function)[1]["upserted"] == crowd.count
    return max(memory.values())


@contextmanager
def sampling(function: Function) -> Iterator[dict[int, int]]:
    """Note the most memory of each process of the function during the block."""
    family = [
        child for child in psutil.Process().children(recursive=True) if str(function.port) in child.cmdline()
    ]
    highest = dict.fromkeys((process.pid for process in family), 0)
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            for process in family:
                highest[process.pid] = max(highest[process.pid], process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def time_original(bucket: Bucket, database: Database) -> float:
    """Return the seconds that it takes one after the other; both tables must come out the same."""
    database.run("create table original (like users including all)")
    connection = database.connect()
    try:
        with PoolManager() as http:
            started = time.perf_counter()
            do_original(connect(bucket, http), bucket.source, connection)
            taken = time.perf_counter() - started
        difference = f"select {CELLS} from users except select {CELLS} from original"  # noqa: S608  constants
        assert connection.run(difference) == []
        return taken
    finally:
        connection.close()


def do_original(client: Minio, bucket: str, connection: Driver) -> None:
    keys = {listed.object_name or "" for listed in client.list_objects(bucket, recursive=True)}
    for key in sorted(keys):
        user_id, _, extension = key.rpartition(".")
        if extension == "csv":
            picture = f"{user_id}.png"
            row = select_record(client, bucket, key)
            img_path = f"{bucket}/{picture}" if picture in keys else None
            connection.run(UPSERT, user_id=user_id, img_path=img_path, **row)


def select_record(client: Minio, bucket: str, key: str) -> dict[str, str]:
    request = SelectRequest(
        "select * from S3Object", CSVInputSerialization(file_header_info="USE"), CSVOutputSerialization()
    )
    with client.select_object_content(bucket, key, request) as result:
        text = b"".join(result.stream()).decode()
    cells = [cell.strip() for cell in next(csv.reader(io.StringIO(text)))]
    return dict(zip(("first_name", "last_name", "birthts"), cells, strict=True))
