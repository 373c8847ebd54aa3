"""Many users in a bucket, for what is measured; nine in ten have a picture."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from itertools import islice
from json import loads
from typing import Any

from minio import Minio
from minio.commonconfig import SnowballObject
from rig import REGION, Bucket, Function
from urllib3 import PoolManager

from process_users.bucket import Bucket as Source
from rollcall.ports import HOST
from serving.settings import Environment, StoreSettings

THREADS = 2
OBJECTS_AT_ONCE = 2_000
FIRST_ID = 100_000


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many users, put into a bucket by `put`."""

    count: int

    @property
    def pictures(self) -> int:
        return self.count * 9 // 10

    def put(self, bucket: Bucket) -> None:
        """Put every object, many with each request: MinIO unpacks them."""
        objects = self._make_objects()
        parts = iter(lambda: list(islice(objects, OBJECTS_AT_ONCE)), [])
        with PoolManager(maxsize=THREADS) as http, ThreadPoolExecutor(THREADS) as threads:
            client = connect(bucket, http)
            for _ in threads.map(lambda part: client.upload_snowball_objects(bucket.source, part), parts):
                pass

    def _make_objects(self) -> Iterator[SnowballObject]:
        for user_id in range(FIRST_ID, FIRST_ID + self.count):
            yield to_object(f"{user_id}.csv", to_record(user_id))
            if user_id < FIRST_ID + self.pictures:
                yield to_object(f"{user_id}.png", b"\x89PNG\r\n\x1a\n")


Compare = Callable[..., None]
FillBucket = Callable[[Crowd], Bucket]


def to_object(key: str, body: bytes) -> SnowballObject:
    return SnowballObject(key, data=BytesIO(body), length=len(body))


def connect(bucket: Bucket, http: PoolManager) -> Minio:
    """Return an S3 client with the root credentials over these connections."""
    key = bucket.store.key
    return Minio(
        endpoint=f"{HOST}:{bucket.store.port}",
        access_key=key.access,
        secret_key=key.secret,
        secure=False,
        region=REGION,
        http_client=http,
    )


def open_bucket(bucket: Bucket) -> Source:
    """Open the source bucket by the client of process-users; to be closed."""
    return Source(StoreSettings.from_environment(Environment(bucket.env)), bucket.source)


def to_record(user_id: int) -> bytes:
    """Return the record file of an invented user."""
    birthts = (user_id * 7_919_000_003) % 1_500_000_000_000
    return f"first_name, last_name, birthts\nFirst{user_id % 997}, Last{user_id}, {birthts}\n".encode()


def run(function: Function) -> tuple[float, dict[str, Any]]:
    """Ask for a run; return its seconds as the caller sees them, and the report."""
    connection = HTTPConnection(HOST, function.port, timeout=600)
    try:
        started = time.perf_counter()
        connection.request("POST", "/data")
        response = connection.getresponse()
        report = loads(response.read())
        assert response.status == 200, report
        return time.perf_counter() - started, report
    finally:
        connection.close()
