from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline import Pipeline
from rig import Bucket, Database, Gateway, StartFunction

from rollcall.servers import serving


@pytest.fixture
def pipeline(bucket: Bucket, database: Database) -> Iterator[Pipeline]:
    """process-users over buckets and a database of the test's own."""
    with Pipeline(bucket, database, {"EVENTS_TOKEN": "events"}) as pipeline:
        yield pipeline


@pytest.fixture
def gateway(pipeline: Pipeline, start_function: StartFunction, tmp_path: Path) -> Iterator[Gateway]:
    """Both functions with few threads, and the gateway before them."""
    threads = {"THREADS": "4"}
    process_users = start_function("process-users", {**pipeline.env(), **threads})
    get_data = start_function("get-data", {**pipeline.database.env("get_data"), **threads})
    with serving(
        lambda port: Gateway(
            port=port, process_users=process_users, get_data=get_data, home=tmp_path / "gateway"
        )
    ) as gateway:
        yield gateway
