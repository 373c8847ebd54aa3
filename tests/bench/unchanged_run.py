"""Runs over 100,000 objects of which none or few changed, beside the mere listing of them."""

import re
import time
from collections.abc import Iterator
from statistics import median

import pycurl
import pytest
from crowd import FIRST_ID, Compare, Crowd, FillBucket, connect, run, to_object, to_record
from rig import AS_IN_IMAGES, REGION, Bucket, Database, StartFunction
from urllib3 import PoolManager

CROWD = Crowd(52_632)
OBJECTS = CROWD.count + CROWD.pictures  # 100,000
CHANGES = 100
ROUNDS = 5
ALLOWED_S = 0.3  # for the changes
KEY_AND_ETAG = re.compile(rb"<Key>([^<]*)</Key>.*?<ETag>([^<]*)</ETag>")
TOKEN = re.compile(rb"<NextContinuationToken>([^<]*)<")


@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_unchanged_run(
    fill_bucket: FillBucket, database: Database, start_function: StartFunction, compare: Compare
) -> None:
    bucket = fill_bucket(CROWD)
    env = {**bucket.env, **database.env("process_users"), **AS_IN_IMAGES}
    function = start_function("process-users", env)
    for _ in range(4):  # whichever worker is asked, it has been asked before
        run(function)
    unchanged, changed, listings = [], [], []
    for turn in range(ROUNDS):
        listings.append(time_listing(bucket))
        seconds, report = run(function)
        assert (report["unchanged"], report["upserted"]) == (OBJECTS, 0)
        unchanged.append(seconds)
        change_some(bucket, turn)
        seconds, report = run(function)
        assert (report["unchanged"], report["upserted"]) == (OBJECTS - CHANGES, CHANGES)
        changed.append(seconds)
    few = median(unchanged)
    compare(2, "run, 100,000 objects unchanged", few, median(listings), beside="bare listing", at_most=1.5)
    bound = (few + ALLOWED_S) / few
    compare(3, "run, 100 of them changed", median(changed), few, beside="none changed", at_most=bound)


def change_some(bucket: Bucket, turn: int) -> None:
    """Give some records, from all over the bucket, another content."""
    step = CROWD.count // CHANGES
    users = range(FIRST_ID + turn, FIRST_ID + step * CHANGES, step)
    records = [
        to_object(f"{user_id}.csv", to_record(user_id + CROWD.count * (turn + 1))) for user_id in users
    ]
    with PoolManager() as http:
        connect(bucket, http).upload_snowball_objects(bucket.source, records)


def time_listing(bucket: Bucket) -> float:
    """List everything, a thousand keys at a time, finding no more than each key and etag."""
    started = time.perf_counter()
    assert sum(len(KEY_AND_ETAG.findall(page)) for page in fetch_pages(bucket)) == OBJECTS
    return time.perf_counter() - started


def fetch_pages(bucket: Bucket) -> Iterator[bytes]:
    key = bucket.store.key
    curl = pycurl.Curl()
    curl.setopt(pycurl.AWS_SIGV4, f"aws:amz:{REGION}:s3")
    curl.setopt(pycurl.USERPWD, f"{key.access}:{key.secret}")
    curl.setopt(pycurl.HTTPHEADER, ["x-amz-content-sha256: UNSIGNED-PAYLOAD"])
    token = ""
    while True:
        address = f"{bucket.store.endpoint}/{bucket.source}?{token}list-type=2&max-keys=1000"
        curl.setopt(pycurl.URL, address)
        page = curl.perform_rb()
        yield page
        found = TOKEN.search(page)
        if found is None:
            curl.close()
            return
        token = f"continuation-token={found[1].decode().replace('=', '%3D').replace('+', '%2B')}&"
