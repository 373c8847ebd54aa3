"""Events as MinIO sends them: one after the other over one connection, each answered when it is committed."""

import json
import time
from http.client import HTTPConnection
from itertools import count
from statistics import median

import pytest
from crowd import FIRST_ID, Compare, Crowd, FillBucket, connect, run, to_object, to_record
from rig import AS_IN_IMAGES, Bucket, Database, StartFunction
from urllib3 import PoolManager

from rollcall.ports import HOST

CROWD = Crowd(10_000)
EVENTS = 500
ROUNDS = 5
TOKEN = "an-events-token"
OTHER = count(CROWD.count, 7)


@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_events(
    fill_bucket: FillBucket, database: Database, start_function: StartFunction, compare: Compare
) -> None:
    """Each is committed to the disk when it is answered."""
    rate = measure_rate(fill_bucket(CROWD), database, start_function)
    compare(4, "events", rate, 300, beside="the aim", unit="/s", at_least=1)


def measure_rate(bucket: Bucket, database: Database, start_function: StartFunction) -> float:
    """Return how many events of changed records are settled a second."""
    env = {**bucket.env, **database.env("process_users"), **AS_IN_IMAGES, "EVENTS_TOKEN": TOKEN}
    function = start_function("process-users", env)
    run(function)
    taken = []
    for turn in range(ROUNDS):
        users = range(FIRST_ID + turn * EVENTS, FIRST_ID + (turn + 1) * EVENTS)
        change(bucket, users)
        before = fetch_version(database)
        taken.append(time_events(function.port, [make_event(bucket, user_id) for user_id in users]))
        assert fetch_version(database) == before + EVENTS
    return EVENTS / median(taken)


def fetch_version(database: Database) -> int:
    return database.run("select data_version from state")[0][0]


def change(bucket: Bucket, users: range) -> None:
    with PoolManager() as http:
        objects = [to_object(f"{user_id}.csv", to_record(user_id + next(OTHER))) for user_id in users]
        connect(bucket, http).upload_snowball_objects(bucket.source, objects)


def time_events(port: int, bodies: list[bytes]) -> float:
    connection = HTTPConnection(HOST, port)
    headers = {
        "User-Agent": "Go-http-client/1.1",
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        "Accept-Encoding": "gzip",
    }
    try:
        started = time.perf_counter()
        for body in bodies:
            connection.request("POST", "/events", body, headers)
            response = connection.getresponse()
            text = response.read()
            assert response.status == 204, text
        return time.perf_counter() - started
    finally:
        connection.close()


def make_event(bucket: Bucket, user_id: int) -> bytes:
    """Return what MinIO posts when a record was put; in the form of internal/event of its last release."""
    key = f"{user_id}.csv"
    record = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "awsRegion": "",
        "eventTime": "2026-11-25T01:03:47.123Z",
        "eventName": "s3:ObjectCreated:Put",
        "userIdentity": {"principalId": bucket.store.key.access},
        "requestParameters": {
            "principalId": bucket.store.key.access,
            "region": "",
            "sourceIPAddress": HOST,
        },
        "responseElements": {
            "x-amz-id-2": "dd9025bab4ad464b049177c95eb6ebf374d3b3fd1af9251148b658df7ac2e3e8",
            "x-amz-request-id": "18B0A5B5F3A0E0C8",
            "x-minio-deployment-id": "3b1b1f6c-65d3-44ff-b1f3-8d9a1e1d7c0e",
            "x-minio-origin-endpoint": bucket.store.endpoint,
        },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "Config",
            "bucket": {
                "name": bucket.source,
                "ownerIdentity": {"principalId": bucket.store.key.access},
                "arn": f"arn:aws:s3:::{bucket.source}",
            },
            "object": {
                "key": key,
                "size": 67,
                "eTag": "d97d88ef2a319876a4432a8aed4f6866",
                "contentType": "text/csv",
                "userMetadata": {"content-type": "text/csv"},
                "sequencer": "18B0A5B5F3C3B1A2",
            },
        },
        "source": {"host": HOST, "port": "", "userAgent": "MinIO (linux; amd64) minio-py/7.2.20"},
    }
    document = {"EventName": record["eventName"], "Key": f"{bucket.source}/{key}", "Records": [record]}
    return json.dumps(document, separators=(",", ":")).encode()
