"""Runs and events at once, interleaved by hand: nothing is lost, and nothing old wins over something new."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from pipeline import ONE_STORE, Pipeline, document, stopping_after_reading, to_csv

pytestmark = ONE_STORE
REMOVED = "s3:ObjectRemoved:Delete"


def names(pipeline: Pipeline) -> dict[str, str]:
    return {user[0]: user[1] for user in pipeline.users()}


def test_what_was_settled_after_it_was_read_is_read_again(pipeline: Pipeline):
    pipeline.put("1000.csv", to_csv("Old"))
    pipeline.put("1001.csv", to_csv("Other"))
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()
        pipeline.put("1000.csv", to_csv("New"))
        pipeline.notify("1000.csv")
        pause.end()
        assert run.result(10).status_code == 200
    assert names(pipeline) == {"1000": "New", "1001": "Other"}
    assert "New" in pipeline.fetch("output.csv").text


def test_a_record_that_breaks_meanwhile_is_read_again_too(pipeline: Pipeline):
    pipeline.put("1000.csv", to_csv("Old"))
    pipeline.run()
    pipeline.put("1000.csv", to_csv("Newer"))
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()
        pipeline.put("1000.csv", b"broken")
        pipeline.notify("1000.csv")
        pause.end()
        assert document(run.result(10))["rejects"][0]["reason"] == "row_count"
    assert names(pipeline) == {"1000": "Old"}  # Newer was never committed


@pytest.mark.parametrize("mode", ["keep", "remove"])
def test_a_record_that_goes_meanwhile_does_not_come_back(pipeline: Pipeline, mode: str):
    pipeline.put("1000.csv", to_csv("Old"))
    pipeline.put("1001.csv")
    pipeline.settings["ON_SOURCE_DELETE"] = mode
    pipeline.run()
    pipeline.put("1000.csv", to_csv("New"))
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()
        pipeline.remove("1000.csv")
        pipeline.notify("1000.csv", REMOVED)
        pause.end()
        assert run.result(10).status_code == 200
    assert names(pipeline) == ({"1000": "Old"} if mode == "keep" else {}) | {"1001": "Ada"}
    assert pipeline.database.run("select key from ledger") == [["1001.csv"]]


def test_a_file_that_comes_back_while_it_is_found_gone_stays(pipeline: Pipeline):
    for key in ("1000.csv", "1000.png", "1001.csv"):
        pipeline.put(key)
    pipeline.settings["ON_SOURCE_DELETE"] = "remove"
    pipeline.run()
    pipeline.remove("1000.csv", "1000.png")
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()  # both are known to be gone
        pipeline.put("1000.csv", to_csv("Back"))
        pipeline.put("1000.png")
        pipeline.notify("1000.csv")
        pipeline.notify("1000.png")
        pause.end()
        assert document(run.result(10))["removed"] == 0
    assert names(pipeline)["1000"] == "Back"
    assert pipeline.pictures()["1000"] == "1000.png"


@pytest.mark.usefixtures("small_steps")
def test_a_file_that_the_listing_missed_is_asked_for_before_anything_is_removed(pipeline: Pipeline):
    for key in ("1000.csv", "1001.csv", "1001.png", "1002.csv"):
        pipeline.put(key)
    pipeline.settings["ON_SOURCE_DELETE"] = "remove"
    pipeline.run()
    pipeline.put("1000.csv", to_csv("Changed"))
    pipeline.remove("1001.csv", "1001.png")
    with pipeline.holding_commits() as gate:
        run = pipeline.begin()
        gate.wait_for()  # the bucket was listed, 1000.csv is read; 1001 comes after it
        pipeline.put("1001.csv", to_csv("Back"))
        pipeline.put("1001.png")
        gate.open_now()
        assert document(run.result(10))["removed"] == 0
    assert names(pipeline) == {"1000": "Changed", "1001": "Back", "1002": "Ada"}
    assert pipeline.pictures()["1001"] == "1001.png"


def test_a_picture_that_comes_while_its_record_is_settled_is_not_lost(pipeline: Pipeline):
    pipeline.put("1000.csv")
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()  # it has listed no picture
        pipeline.put("1000.png")
        pipeline.notify("1000.png")
        pause.end()
        assert run.result(10).status_code == 200
    assert pipeline.pictures() == {"1000": "1000.png"}


def test_a_record_that_comes_while_its_picture_is_settled_is_not_lost(pipeline: Pipeline):
    pipeline.put("1000.png")
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()
        pipeline.put("1000.csv")
        pipeline.notify("1000.csv")
        pause.end()
        assert run.result(10).status_code == 200
    assert pipeline.pictures() == {"1000": "1000.png"}


def test_a_smaller_record_that_comes_meanwhile_makes_the_other_a_duplicate(pipeline: Pipeline):
    pipeline.put("1000.csv", to_csv("Second"))
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()
        pipeline.put("1000.CSV", to_csv("First"))
        pipeline.notify("1000.CSV")
        pause.end()
        assert run.result(10).status_code == 200
    assert names(pipeline) == {"1000": "First"}
    assert pipeline.rejects() == {"1000.csv": "duplicate"}


def test_many_conflicts_are_read_again_a_few_at_a_time(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("process_users.settling.LOCKED_OBJECTS", 2)
    keys = [f"{number}.csv" for number in range(1000, 1005)]
    for key in keys:
        pipeline.put(key, to_csv("Old"))
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()
        for key in keys:
            pipeline.put(key, to_csv("New"))
            pipeline.notify(key)
            pipeline.put(key, to_csv("Newer"))  # so that each shows whether it is read again
        pause.end()
        assert run.result(10).status_code == 200
    assert set(names(pipeline).values()) == {"Newer"}


def test_a_change_that_no_event_told_of_is_found_by_the_next_run(pipeline: Pipeline):
    pipeline.put("1000.csv", to_csv("Old"))
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()
        pipeline.put("1000.csv", to_csv("New"))
        pause.end()
        assert run.result(10).status_code == 200
    assert names(pipeline) == {"1000": "Old"}
    pipeline.run()
    assert names(pipeline) == {"1000": "New"}


def test_a_change_between_listing_and_reading_is_not_read_twice(pipeline: Pipeline, asked: list[str]):
    """The ledger keeps the etag of what was read, not of what was listed."""
    user_ids = ("1000", "1001", "1002")
    for user_id in user_ids:
        pipeline.put(f"{user_id}.csv", to_csv("Old"))
    pipeline.run()
    for user_id in user_ids:
        pipeline.put(f"{user_id}.csv", to_csv("Newer"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("process_users.run.BATCH_OBJECTS", 1)
        with pipeline.holding_commits() as gate:
            run = pipeline.begin()
            gate.wait_for()
            # While the first is committed, the second is read, but not yet the third.
            pipeline.put("1002.csv", to_csv("Newest"))
            gate.open_now()
            assert run.result(10).status_code == 200
    assert names(pipeline) == {"1000": "Newer", "1001": "Newer", "1002": "Newest"}
    asked.clear()
    pipeline.run()
    assert asked == []


def test_record_and_picture_of_a_new_user_may_be_settled_at_once(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.put("1000.png")
    pipeline.client(EVENTS_TOKEN="events")
    with ThreadPoolExecutor(2) as threads, pipeline.holding_commits() as gate:
        events = [threads.submit(pipeline.notify, key) for key in ("1000.csv", "1000.png")]
        gate.wait_for(2)
        gate.open_now()
        for event in events:
            event.result(10)
    assert pipeline.pictures() == {"1000": "1000.png"}


@pytest.mark.usefixtures("small_steps")
def test_a_file_that_grows_too_large_after_it_was_listed_is_rejected(pipeline: Pipeline, asked: list[str]):
    pipeline.run()
    pipeline.put("1000.csv")
    pipeline.put("1001.csv")
    pipeline.put("1002.csv")
    with pipeline.holding_commits() as gate:
        run = pipeline.begin()
        gate.wait_for()
        # While the first is committed, the second is read, but not yet the third.
        pipeline.put("1002.csv", to_csv().ljust(200_000))
        gate.open_now()
        assert document(run.result(10))["rejects"][0]["reason"] == "too_large"
    assert names(pipeline) == {"1000": "Ada", "1001": "Ada"}
    asked.clear()
    assert pipeline.run()["unchanged"] == 3
    assert asked == []


@pytest.mark.usefixtures("small_steps")
def test_a_file_that_goes_after_it_was_listed_is_just_gone(pipeline: Pipeline):
    pipeline.run()
    pipeline.put("1000.csv")
    pipeline.put("1001.csv")
    pipeline.put("1002.csv")
    with pipeline.holding_commits() as gate:
        run = pipeline.begin()
        gate.wait_for()
        pipeline.remove("1002.csv")
        gate.open_now()
        report = document(run.result(10))
    assert (report["listed"], report["upserted"], report["rejected"]) == (3, 2, 0)
    assert names(pipeline) == {"1000": "Ada", "1001": "Ada"}
