"""Events as MinIO sends them: one after the other over one connection, each answered when it is committed."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from statistics import median

import pytest
from crowd import FIRST_ID, Compare, Crowd, FillBucket, connect, open_bucket, run, to_object, to_record
from load import HELLO_SAYS, run_hello
from rig import AS_IN_IMAGES, Bucket, Database, Function, StartFunction
from urllib3 import PoolManager

from process_users.keys import SourceKey
from rollcall.ports import HOST
from serving.postgres import Connection

CROWD = Crowd(10_000)
EVENTS = 500
ROUNDS = 5
TOKEN = "an-events-token"
OTHER = count(CROWD.count, 7)


@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_events(
    fill_bucket: FillBucket,
    database: Database,
    start_function: StartFunction,
    tmp_path: Path,
    compare: Compare,
) -> None:
    """Each is committed to the disk when it is answered."""
    bucket = fill_bucket(CROWD)
    env = {**bucket.env, **database.env("process_users"), **AS_IN_IMAGES, "EVENTS_TOKEN": TOKEN}
    function = start_function("process-users", env)
    for _ in range(4):  # whichever worker is asked, it has been asked before
        run(function)
    settled, least = [], []
    with run_hello(tmp_path) as hello:
        for turn in range(ROUNDS):
            users = range(FIRST_ID + turn * EVENTS, FIRST_ID + (turn + 1) * EVENTS)
            change(bucket, users)
            before = fetch_version(database)
            settled.append(time_events(function, bucket, users))
            assert fetch_version(database) == before + EVENTS
            least.append(time_least(hello, bucket, database, users))
    rate, limit = EVENTS / median(settled), EVENTS / median(least)
    compare(4, "events", rate, 300, beside="the aim", unit="/s", at_least=1)
    compare(4, "hello world, read, commit", limit, 300, beside="the aim", unit="/s", for_scale=True)


def time_events(function: Function, bucket: Bucket, users: range) -> float:
    """Post an event for each user, one after the other; returns the seconds."""
    requests = [make_request(make_event(bucket, user_id)) for user_id in users]
    with connecting(function) as connection:
        started = time.perf_counter()
        for request in requests:
            answer = ask(connection, request, end=b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 204"), answer
        return time.perf_counter() - started


def time_least(hello: Function, bucket: Bucket, database: Database, users: range) -> float:
    """Do for each user what an event takes at least, one after the other; returns the seconds."""
    requests = [make_request(make_event(bucket, user_id)) for user_id in users]
    with (
        connecting(hello) as connection,
        closing(open_bucket(bucket)) as source,
        closing(Connection(database.settings, application_name="least")) as session,
    ):
        started = time.perf_counter()
        for user_id, request in zip(users, requests, strict=True):
            ask(connection, request, end=HELLO_SAYS)
            (reading,) = source.read([SourceKey(f"{user_id}.csv", str(user_id), None)])
            assert reading.body
            session.run_prepared("update state set rejects_version = rejects_version + 1")
        return time.perf_counter() - started


@contextmanager
def connecting(function: Function) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, function.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def make_request(body: bytes) -> bytes:
    """Return what MinIO sends with this body."""
    head = (
        f"POST /events HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: Go-http-client/1.1\r\n"
        f"Content-Length: {len(body)}\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + body


def ask(connection: socket.socket, request: bytes, *, end: bytes) -> bytes:
    """Send a request and return its answer, which is whole when it ends so."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(end):
        part = connection.recv(1 << 16)
        assert part, answer
        answer += part
    return answer


def fetch_version(database: Database) -> int:
    return database.run("select max(version) from versions")[0][0]


def change(bucket: Bucket, users: range) -> None:
    with PoolManager() as http:
        objects = [to_object(f"{user_id}.csv", to_record(user_id + next(OTHER))) for user_id in users]
        connect(bucket, http).upload_snowball_objects(bucket.source, objects)


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
