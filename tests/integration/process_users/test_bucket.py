"""Listing and reading a bucket, on each kind of store."""

from collections.abc import Iterator

import pytest
from pipeline import Pipeline, to_csv

from process_users.bucket import Bucket, Presence, StoreUnavailableError
from process_users.keys import SourceKey, parse_key
from process_users.settings import StoreSettings

KEYS = ["1000.csv", "1000.d.csv", "1000.png", "a b.csv", "in/1.csv", "in/2.csv", "é.csv", "日本.csv"]


@pytest.fixture
def source(pipeline: Pipeline) -> Iterator[Bucket]:
    key = pipeline.bucket.store.key
    settings = StoreSettings(pipeline.bucket.store.endpoint, "us-east-1", key.access, key.secret)
    bucket = Bucket(settings, pipeline.bucket.source)
    yield bucket
    bucket.close()


def to_source(key: str) -> SourceKey:
    source = parse_key(key, "")
    assert source is not None
    return source


@pytest.mark.parametrize("page_keys", [1, 2, 3, 1000])
def test_a_listing_is_the_same_in_pages_of_any_size(pipeline: Pipeline, source: Bucket, page_keys: int):
    for key in KEYS:
        pipeline.put(key)

    def listed(prefix: str = "", **options: str) -> list[str]:
        pages = source.list_pages(prefix, page_keys=page_keys, **options)
        return [listed.key for page in pages for listed in page]

    assert listed() == KEYS
    assert listed("in/") == ["in/1.csv", "in/2.csv"]
    assert listed("no") == []
    for place, key in enumerate(KEYS):
        assert listed(start_after=key) == KEYS[place + 1 :]
        assert listed(end=key) == KEYS[: place + 1]
    assert listed(start_after="1000.d.csv", end="a b.csv") == ["1000.png", "a b.csv"]


def test_listing_and_reading_tell_the_same_etag_and_the_time_of_change(pipeline: Pipeline, source: Bucket):
    pipeline.put("1000.csv")
    ((listed,),) = source.list_pages("")
    (reading,) = source.read([to_source("1000.csv")])
    stat = pipeline.store.stat_object(bucket_name=pipeline.bucket.source, object_name="1000.csv")
    assert stat.last_modified is not None
    assert (reading.presence, reading.body, reading.is_too_large) == (Presence.THERE, to_csv(), False)
    assert (listed.etag, listed.size) == (reading.etag, len(to_csv()))
    assert reading.modified == int(stat.last_modified.timestamp())
    assert source.fetch_etag("1000.csv") == listed.etag
    assert source.fetch_etag("1001.csv") is None


def test_reading_tells_what_is_there_gone_or_too_large(pipeline: Pipeline, source: Bucket):
    lots = b"x" * 3_000_000
    bodies = {
        "empty.csv": b"",
        "most.csv": lots[:65_536],
        "more.csv": lots[:65_537],
        "lots.csv": lots,
    }
    for key, body in bodies.items():
        pipeline.put(key, body)
    pipeline.put("empty.png", b"")
    pipeline.put("lots.png", lots)
    keys = [*bodies, "empty.png", "lots.png", "gone.csv", "gone.png"]
    readings = {reading.source.key: reading for reading in source.read(map(to_source, keys))}
    assert {key for key, reading in readings.items() if reading.presence is Presence.GONE} == {
        "gone.csv",
        "gone.png",
    }
    assert {key for key, reading in readings.items() if reading.is_too_large} == {"more.csv", "lots.csv"}
    assert {key: readings[key].body for key in ("empty.csv", "most.csv", "empty.png", "lots.png")} == {
        "empty.csv": b"",
        "most.csv": lots[:65_536],
        "empty.png": b"",
        "lots.png": b"",
    }


def test_more_than_are_asked_for_at_once_are_read(pipeline: Pipeline, source: Bucket):
    bodies = {f"{number}.csv": to_csv(birthts=number) for number in range(70)}
    for key, body in bodies.items():
        pipeline.put(key, body)
    assert {reading.source.key: reading.body for reading in source.read(map(to_source, bodies))} == bodies


def test_a_bucket_that_is_not_there_is_a_store_that_is_away(pipeline: Pipeline):
    key = pipeline.bucket.store.key
    settings = StoreSettings(pipeline.bucket.store.endpoint, "us-east-1", key.access, key.secret)
    bucket = Bucket(settings, "no-such-bucket")
    with pytest.raises(StoreUnavailableError, match=r"no-such-bucket cannot be listed: NoSuchBucket \(404\)"):
        list(bucket.list_pages(""))
    with pytest.raises(StoreUnavailableError):
        list(bucket.read([to_source("1000.csv")]))
    bucket.close()


def test_an_empty_picture_has_an_etag_as_every_other(pipeline: Pipeline, source: Bucket):
    keys = [f"{number}.png" for number in range(40)]
    for key in keys:
        pipeline.put(key, b"")
    pipeline.put("full.png")
    (listed,) = source.list_pages("")
    etags = {reading.source.key: reading.etag for reading in source.read(map(to_source, [*keys, "full.png"]))}
    assert etags == {found.key: found.etag for found in listed}
    assert all(etags.values())


def test_an_empty_picture_over_another_is_settled_by_one_run(pipeline: Pipeline, asked: list[str]):
    pipeline.put("1000.csv")
    pipeline.put("1000.png")
    pipeline.run()
    pipeline.put("1000.png", b"")
    pipeline.run()
    asked.clear()
    assert pipeline.run()["unchanged"] == 2
    assert asked == []
    assert "rollcall_due_objects 0.0" in pipeline.client().get("/metrics").text
