from collections.abc import Iterator

import pytest
from pg8000.native import Connection as Driver
from pipeline import Pipeline
from rig import Bucket, Database


@pytest.fixture
def pipeline(bucket: Bucket, database: Database) -> Iterator[Pipeline]:
    """process-users over buckets and a database of the test's own."""
    with Pipeline(bucket, database, {"EVENTS_TOKEN": "events"}) as pipeline:
        yield pipeline


@pytest.fixture
def owner(database: Database) -> Iterator[Driver]:
    """A session that may read and write everything."""
    connection = database.connect()
    yield connection
    connection.close()
