import os
from collections.abc import Iterator
from typing import Any

import pytest
from pipeline import Pipeline
from rig import Bucket, Database

from process_users.bucket import Bucket as SourceBucket

# What only a store with users, policies and odd keys can show; the embedded store has none of them.
collect_ignore = [] if os.environ.get("MINIO_BINARY") else ["test_on_minio.py"]


@pytest.fixture
def pipeline(bucket: Bucket, database: Database) -> Iterator[Pipeline]:
    """process-users over buckets and a database of the test's own, on each kind of store."""
    with Pipeline(bucket, database) as pipeline:
        yield pipeline


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all objects that are asked for, in the order of asking; listings are not in it."""
    keys: list[str] = []
    read = SourceBucket.read

    def read_and_note(self: SourceBucket, sources: Any, **options: Any) -> Iterator[Any]:
        sources = list(sources)
        keys.extend(source.key for source in sources)
        return read(self, sources, **options)

    monkeypatch.setattr(SourceBucket, "read", read_and_note)
    return keys


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every batch one object and every page of the ledger one entry."""
    monkeypatch.setattr("process_users.run.BATCH_OBJECTS", 1)
    monkeypatch.setattr("process_users.ledger.ENTRIES_PAGE", 1)
