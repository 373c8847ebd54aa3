"""A run over 10,000 users of whom nothing changed, beside the mere listing of their 19,000 objects."""

import time
from statistics import median

import pytest
from crowd import Crowd, connect, run
from rig import Bucket, Database, StartFunction
from urllib3 import PoolManager

CROWD = Crowd(10_000)
ROUNDS = 7


@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_unchanged_run(bucket: Bucket, database: Database, start_function: StartFunction) -> None:
    CROWD.put(bucket)
    env = {**bucket.env, **database.env("process_users"), "WORKERS": "2", "THREADS": "8"}
    function = start_function("process-users", env)
    for _ in range(4):  # whichever worker is asked, it has been asked before
        run(function)
    before = database.run("select commits, data_version from state")
    runs, listings = [], []
    for _ in range(ROUNDS):
        listings.append(time_listing(bucket))
        seconds, report = run(function)
        assert (report["unchanged"], report["upserted"]) == (CROWD.count + CROWD.pictures, 0)
        runs.append(seconds)
    print(
        f"\n{CROWD.count + CROWD.pictures:,} unchanged objects: a run takes {median(runs):.2f} s, at least "
        f"{min(runs):.2f} s; minio-py lists them in {median(listings):.2f} s, "
        f"ratio {median(runs) / median(listings):.2f}"
    )
    assert database.run("select commits, data_version from state") == before


def time_listing(bucket: Bucket) -> float:
    with PoolManager() as http:
        started = time.perf_counter()
        listed = sum(1 for _ in connect(bucket, http).list_objects(bucket.source, recursive=True))
        assert listed == CROWD.count + CROWD.pictures
        return time.perf_counter() - started
