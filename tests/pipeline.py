"""process-users over a bucket and a database of a test's own, and ways to stop a run at a certain point."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import quote_plus, urlsplit

import functions_framework
import pytest
from flask import Flask
from flask.testing import FlaskClient
from minio import Minio
from rig import FUNCTIONS, REGION, Bucket, Database
from urllib3 import PoolManager
from werkzeug.test import TestResponse

from process_users.bucket import Bucket as SourceBucket
from rollcall.processes import wait_until
from serving.pool import Pool

MAIN = str(FUNCTIONS / "process-users" / "main.py")
HEADER = "first_name, last_name, birthts\n"
OUTPUT_HEADER = "user_id,first_name,last_name,birthts,img_path\n"
REJECTS_HEADER = "key,reason,detail\n"
PNG = b"\x89PNG\r\n\x1a\n"
GATE = 4_711  # of pg_advisory_lock: what the trigger of `Pipeline.stopping_at` waits for

# For what does not depend on the store: a real MinIO when MINIO_BINARY names one.
BEST_STORE = "minio" if os.environ.get("MINIO_BINARY") else "rclone"
ONE_STORE = pytest.mark.parametrize("store", [BEST_STORE], indirect=True)

User = tuple[str, str, str, int, str | None]


def to_csv(first_name: str = "Ada", last_name: str = "King", birthts: int | str = 612_302_400_000) -> bytes:
    """Return a record file in its usual form."""
    return f"{HEADER}{first_name}, {last_name}, {birthts}\n".encode()


@dataclass(frozen=True, slots=True)
class Stored:
    """An output file as it is in its bucket; `modified` in seconds since 1970, with fractions."""

    text: str
    etag: str
    modified: float


@dataclass(slots=True)
class Pipeline:
    """One source bucket, its table and its outputs."""

    bucket: Bucket
    database: Database
    settings: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, FlaskClient] = field(default_factory=dict)
    _pools: list[Pool] = field(default_factory=list)
    _http: PoolManager = field(default_factory=PoolManager)

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *error: object) -> None:
        for pool in self._pools:
            pool.close()
        self._http.clear()

    @property
    def store(self) -> Minio:
        """Return an S3 client with the root credentials."""
        store = self.bucket.store
        return Minio(
            endpoint=urlsplit(store.endpoint).netloc,
            access_key=store.key.access,
            secret_key=store.key.secret,
            secure=False,
            region=REGION,
            http_client=self._http,
        )

    def env(self, **settings: str) -> dict[str, str]:
        """Return all the variables that process-users is started with."""
        return {**self.bucket.env, **self.database.env("process_users"), **self.settings, **settings}

    def client(self, **settings: str) -> FlaskClient:
        """Return the framework's test client of the function with these settings."""
        env = self.env(**settings)
        name = repr(env)
        if name not in self._clients:
            with environment(env):
                app = functions_framework.create_app("process_users", MAIN)
            assert isinstance(app, Flask)
            self._clients[name] = app.test_client()
            self._pools += (sys.modules["main"].POOL, sys.modules["main"].RUN_POOL)
        return self._clients[name]

    def put(self, key: str, body: bytes | None = None) -> None:
        """Put an object: by default a valid record, or something like a picture."""
        if body is None:
            body = to_csv() if key.lower().endswith(".csv") else PNG
        self._put(self.bucket.source, key, body)

    def remove(self, *keys: str) -> None:
        """Remove objects of the source bucket."""
        for key in keys:
            self.store.remove_object(bucket_name=self.bucket.source, object_name=key)

    def run(self, query: str = "", **settings: str) -> dict[str, Any]:
        """Do a run that must end well, and return its report."""
        response = self.client(**settings).post(f"/data?{query}")
        assert response.status_code == 200, response.text
        return document(response)

    def get(self, path: str) -> dict[str, Any]:
        """Return what the function answers with 200."""
        response = self.client().get(path)
        assert response.status_code == 200, response.text
        return document(response)

    def begin(self, query: str = "", **settings: str) -> "Future[Any]":
        """Begin a run in a thread of its own; the future is of its response."""
        client = self.client(**settings)
        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(client.post, f"/data?{query}")
        finally:
            pool.shutdown(wait=False)

    def users(self) -> list[User]:
        """Return the table, by user id."""
        rows = self.database.run(
            "select user_id, first_name, last_name, (extract(epoch from birthdate) * 1000)::bigint, img_path "
            "from users order by user_id"
        )
        return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]

    def user_ids(self) -> list[str]:
        """Return the ids of all users."""
        return [user[0] for user in self.users()]

    def pictures(self) -> dict[str, str | None]:
        """Return the picture path of each user, without the bucket it begins with."""
        start = f"{self.bucket.source}/"
        return {user[0]: user[4] and user[4].removeprefix(start) for user in self.users()}

    def rejects(self) -> dict[str, str]:
        """Return the reason of each rejected key, as rejects.csv is made from."""
        return dict(map(tuple, self.database.run("select key, reason from rejects order by key")))

    def state(self) -> dict[str, Any]:
        """Return the one row of state."""
        ((document,),) = self.database.run("select to_jsonb(state) from state")
        return document

    def version(self) -> tuple[int, str]:
        """Return the version of the data that is served, and its lineage."""
        ((version, lineage),) = self.database.run(
            "select version, lineage::text from versions order by version desc limit 1"
        )
        return version, lineage

    def tables(self) -> dict[str, list[list[Any]]]:
        """Return everything the database holds."""
        names = ("users", "ledger", "state", "versions", "runs")
        return {name: self.database.run(f"select * from {name} t order by t::text") for name in names}  # noqa: S608

    def fetch(self, key: str) -> Stored:
        """Return an output file."""
        client, bucket = self.store, self.bucket.output
        response = client.get_object(bucket_name=bucket, object_name=key)
        try:
            text = response.read().decode()
        finally:
            response.close()
            response.release_conn()
        # A listing, because only that tells fractions of a second.
        (listed,) = client.list_objects(bucket_name=bucket, prefix=key)
        assert listed.etag is not None
        assert listed.last_modified is not None
        return Stored(text, listed.etag, listed.last_modified.timestamp())

    def outputs(self) -> tuple[Stored, Stored]:
        """Return output.csv and rejects.csv."""
        return self.fetch("output.csv"), self.fetch("rejects.csv")

    def put_output(self, key: str, body: bytes) -> None:
        """Overwrite an output file, as somebody else might."""
        self._put(self.bucket.output, key, body)

    def remove_output(self, key: str) -> None:
        """Delete an output file, as somebody else might."""
        self.store.remove_object(bucket_name=self.bucket.output, object_name=key)

    def _put(self, bucket: str, key: str, body: bytes) -> None:
        self.store.put_object(bucket_name=bucket, object_name=key, data=BytesIO(body), length=len(body))

    def notify(self, key: str, event: str = "s3:ObjectCreated:Put") -> None:
        """Send the event of a key, as the bucket would."""
        s3 = {"bucket": {"name": self.bucket.source}, "object": {"key": quote_plus(key)}}
        response = self.client(EVENTS_TOKEN="events").post(
            "/events",
            data=json.dumps({"Records": [{"eventName": event, "s3": s3}]}),
            headers={"Authorization": "Bearer events"},
        )
        assert response.status_code == 204, response.text

    @contextmanager
    def holding_commits(self) -> Iterator["Gate"]:
        """Let no commit pass while the block lasts: runs read their batch and then wait at its commit."""
        connection = self.database.connect()
        try:
            connection.run("begin")
            connection.run("select from locks where name = 'commit' for update")
            yield Gate(self.database, open_now=lambda: connection.run("rollback"))
        finally:
            connection.close()

    @contextmanager
    def stopping_at(self, key: str) -> Iterator["Gate"]:
        """Make whoever writes this key's ledger entry wait inside of its transaction."""
        for statement in _TRIGGER:
            self.database.run(statement.format(key=key.replace("'", "''"), gate=GATE))
        connection = self.database.connect()
        try:
            connection.run(f"select pg_advisory_lock({GATE})")
            yield Gate(self.database, open_now=lambda: connection.run(f"select pg_advisory_unlock({GATE})"))
        finally:
            connection.close()
            self.database.run("drop trigger gate on ledger")


def document(response: TestResponse) -> dict[str, Any]:
    """Return the JSON object of an answer."""
    assert isinstance(response.json, dict), response.text
    return response.json


@contextmanager
def stopping_after_reading() -> Iterator["Pause"]:
    """Make the first who reads objects here wait, with all answers in hand, until the pause is ended."""
    pause, read = Pause(), SourceBucket.read

    def read_and_wait(self: SourceBucket, *args: Any, **kwargs: Any) -> Iterator[Any]:
        readings = list(read(self, *args, **kwargs))
        pause.stop_first()
        return iter(readings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SourceBucket, "read", read_and_wait)
        try:
            yield pause
        finally:
            pause.end()


class Pause:
    """A point of a run that can be waited for."""

    def __init__(self) -> None:
        self._first = threading.Lock()
        self._reached = threading.Event()
        self._ended = threading.Event()

    def stop_first(self) -> None:
        """Wait for the end of the pause, the first time that somebody comes here."""
        if self._first.acquire(blocking=False):
            self._reached.set()
            assert self._ended.wait(10)

    def wait(self) -> None:
        """Return when somebody waits."""
        assert self._reached.wait(10)

    def end(self) -> None:
        """Let it go on."""
        self._ended.set()


@dataclass(frozen=True, slots=True)
class Gate:
    """A place where runs wait; `open_now` lets them go on."""

    database: Database
    open_now: Callable[[], object]

    def wait_for(self, count: int = 1) -> None:
        """Return when so many sessions of process-users wait here."""
        waiting = (
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and application_name = 'process-users' and wait_event_type = 'Lock'"
        )
        wait_until(
            lambda: self.database.run(waiting)[0][0] >= count, timeout_s=10, what=f"{count} waiting sessions"
        )


_TRIGGER = (
    """
    create or replace function wait_at_gate() returns trigger language plpgsql security definer as $$
    begin
        perform pg_advisory_xact_lock({gate});
        return new;
    end
    $$
    """,
    """
    create or replace trigger gate before insert or update on ledger
    for each row when (new.key = '{key}') execute function wait_at_gate()
    """,
)


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables while a function is loaded: it reads them once."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
