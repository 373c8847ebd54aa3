"""Runs and events at once, each interleaving made with a barrier between the function and its servers."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from faults.comparison import compare, look
from faults.events import CREATED, REMOVED, send
from faults.model import BROKEN, PICTURE, VALID, File, Model, record
from faults.proxy import LONGEST_S, Tap, proxied
from flask.testing import FlaskClient
from pg8000.native import Connection as Driver
from pipeline import ONE_STORE, Pipeline, document

from process_users import ledger
from process_users.changes import KeyRange
from process_users.ledger import Ledger, create_stage
from process_users.run import settle_range
from process_users.runs import Counts
from process_users.settings import Settings
from rollcall.ports import HOST
from rollcall.processes import wait_until
from serving.postgres import Connection

pytestmark = ONE_STORE
A, B = record("Old"), record("New")
BOTH_MODES = pytest.mark.parametrize("mode", ["keep", "remove"])
TOLD = pytest.mark.parametrize("is_told", [True, False], ids=["event comes", "event is lost"])
_WAITING = """
select count(*)
from pg_stat_activity
where datname = current_database() and application_name = 'process-users' and wait_event_type = 'Lock'
"""


@dataclass(slots=True)
class Race:
    """A function behind proxies, another one in front of them, and the model of its bucket."""

    pipeline: Pipeline
    owner: Driver
    tap: Tap
    ports: dict[str, str]
    threads: ThreadPoolExecutor
    model: Model = field(default_factory=Model)
    mode: str = "keep"

    def put(self, files: Mapping[str, File]) -> None:
        for key, file in files.items():
            self.pipeline.put(key, file.body)
            self.model.files[key] = file

    def delete(self, *keys: str) -> None:
        self.pipeline.remove(*keys)
        for key in keys:
            del self.model.files[key]

    def held_client(self) -> FlaskClient:
        """Return a client of the function whose connections can be held."""
        return self._client(**self.ports)

    def begin_run(self) -> "Future[Any]":
        return self.threads.submit(self.held_client().post, "/data")

    def begin_event(self, key: str, event: str = CREATED, *, held: bool = False) -> "Future[int]":
        client = self.held_client() if held else self._client()
        return self.threads.submit(send, client, self.pipeline.bucket.source, key, event)

    def event(self, key: str, event: str = CREATED) -> None:
        """Deliver an event, past the barrier, and wait for its answer."""
        assert self.begin_event(key, event).result(LONGEST_S) == 204

    def go_as_far_as_it_can(self, event: "Future[Any]") -> None:
        """Return when the event is answered, or waits for who is held."""
        wait_until(lambda: event.done() or self.is_one_waiting(), timeout_s=LONGEST_S, what="the event")

    def is_one_waiting(self) -> bool:
        ((count,),) = self.owner.run(_WAITING) or []
        return count > 0

    def run(self) -> dict[str, Any]:
        """Do a run with nothing in its way, and compare everything with the model."""
        report = self.pipeline.run(ON_SOURCE_DELETE=self.mode)
        self.model.run(remove=self.mode == "remove")
        self.compare()
        return report

    def compare(self) -> None:
        compare(look(self.owner), self.pipeline, self.model)

    def names(self) -> dict[str, str]:
        return {user_id: person[0] for user_id, person in look(self.owner).people.items()}

    def _client(self, **ports: str) -> FlaskClient:
        client = self.pipeline.client(ON_SOURCE_DELETE=self.mode, **ports)
        return client.application.test_client()


@pytest.fixture
def race(pipeline: Pipeline, owner: Driver) -> Iterator[Race]:
    tap = Tap()
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(4))
        postgres = stack.enter_context(proxied(pipeline.database.settings.port, tap))
        store = stack.enter_context(proxied(pipeline.bucket.store.port, tap))
        ports = {"PGPORT": str(postgres.port), "MINIO_ENDPOINT": f"http://{HOST}:{store.port}"}
        yield Race(pipeline, owner, tap, ports, threads)


def ended_well(run: "Future[Any]") -> dict[str, Any]:
    response = run.result(LONGEST_S)
    assert response.status_code == 200, response.text
    return document(response)


@pytest.mark.parametrize("first", ["1.csv", "1.png"])
def test_record_and_picture_of_a_new_user_are_settled_by_two_events_at_once(race: Race, first: str):
    second = "1.png" if first == "1.csv" else "1.csv"
    race.put({"1.csv": A, "1.png": PICTURE})
    with race.tap.holding("commit", answer=False) as hold:
        held = race.begin_event(first, held=True)
        hold.wait()  # all of it is done but the commit
        other = race.begin_event(second)
        race.go_as_far_as_it_can(other)
        hold.release()
        assert (held.result(LONGEST_S), other.result(LONGEST_S)) == (204, 204)
    assert [user[1:] for user in look(race.owner).users] == [
        ["1", "Old", "King", A.becomes[2], f"{race.pipeline.bucket.source}/1.png"]
    ]
    race.run()


def test_event_1_reads_a_then_event_2_reads_and_commits_b_then_event_1_commits(race: Race):
    race.put({"1.csv": A})
    with race.tap.holding("GET /", "/1.csv ") as hold:
        one = race.begin_event("1.csv", held=True)
        hold.wait()  # A is on its way to event 1
        race.put({"1.csv": B})
        two = race.begin_event("1.csv")
        race.go_as_far_as_it_can(two)
        hold.release()
        assert (one.result(LONGEST_S), two.result(LONGEST_S)) == (204, 204)
    assert race.names() == {"1": "New"}
    race.run()


def be_alone(race: Race) -> None:
    """Have the function that can be held commit one event after the other, and nobody else."""
    race.put({"0.png": PICTURE})
    for _ in range(3):
        assert race.begin_event("0.png", held=True).result(LONGEST_S) == 204


def test_an_event_of_a_function_that_commits_alone_does_not_ask_before(
    race: Race, monkeypatch: pytest.MonkeyPatch
):
    be_alone(race)
    race.put({"1.csv": A})
    with monkeypatch.context() as patch:
        patch.delattr(Ledger, "fetch_rivals")
        assert race.begin_event("1.csv", held=True).result(LONGEST_S) == 204
    assert race.names() == {"1": "Old"}
    race.run()


@BOTH_MODES
@pytest.mark.parametrize("meanwhile", ["it changed", "it went", "it went, found by a run"])
def test_an_event_of_a_function_that_commits_alone_reads_a_then_another_commits(
    race: Race, mode: str, meanwhile: str
):
    race.mode = mode
    race.put({"1.csv": A})
    race.run()
    be_alone(race)
    with race.tap.holding("GET /", "/1.csv ") as hold:
        one = race.begin_event("1.csv", held=True)
        hold.wait()  # A is on its way
        if meanwhile == "it changed":
            race.put({"1.csv": B})
            race.event("1.csv")
        else:
            race.delete("1.csv")
            if meanwhile == "it went":
                race.event("1.csv", REMOVED)
            else:
                race.run()
        hold.release()
        assert one.result(LONGEST_S) == 204
    (whose,) = [entry["user_id"] for entry in look(race.owner).ledger if entry["key"] == "1.csv"]
    if meanwhile == "it changed":
        assert (whose, race.names()) == ("1", {"1": "New"})
    else:
        assert (whose, race.names()) == (None, {"1": "Old"} if mode == "keep" else {})
    race.run()


def test_an_event_of_a_function_that_commits_alone_finds_out_what_the_users_other_record_is(race: Race):
    race.put({"1.CSV": A, "1.csv": A})
    race.run()
    be_alone(race)
    race.delete("1.CSV")  # and its event is lost
    race.put({"1.csv": B})
    assert race.begin_event("1.csv", held=True).result(LONGEST_S) == 204
    assert race.names() == {"1": "New"}
    race.run()


def test_a_function_that_finds_itself_no_longer_alone_asks_again_before(race: Race):
    be_alone(race)
    race.put({"1.csv": A})

    def count_commits() -> int:
        before = look(race.owner).commits
        race.event("1.csv")
        assert race.begin_event("1.csv", held=True).result(LONGEST_S) == 204
        return look(race.owner).commits - before

    assert [count_commits() for _ in range(3)] == [3, 2, 2]  # the first finds out by a commit in vain


def test_event_1_finds_a_file_then_it_goes_and_event_2_settles_that_then_event_1_commits(race: Race):
    race.mode = "remove"
    race.put({"1.csv": A, "2.csv": A})
    with race.tap.holding("GET /", "/1.csv ") as hold:
        one = race.begin_event("1.csv", held=True)
        hold.wait()
        race.delete("1.csv")
        two = race.begin_event("1.csv", REMOVED)
        race.go_as_far_as_it_can(two)
        hold.release()
        assert (one.result(LONGEST_S), two.result(LONGEST_S)) == (204, 204)
    assert race.names() == {}
    race.run()


@BOTH_MODES
@TOLD
@pytest.mark.parametrize("key", ["0.csv", "1.png", "3.csv"])
def test_a_listing_page_is_read_then_a_key_is_put_and_its_event_committed(
    race: Race, mode: str, is_told: bool, key: str
):
    race.mode = mode
    race.put({"1.csv": A, "2.csv": A})
    race.run()
    race.put({"2.csv": B})
    with race.tap.holding("list-type=2", "max-keys=1000") as hold:
        run = race.begin_run()
        hold.wait()  # the page is made, and on its way
        race.put({key: PICTURE if key.endswith("png") else B})
        if is_told:
            race.event(key)
        hold.release()
        assert ended_well(run)["removed"] == 0
    if is_told:
        race.model.run(remove=mode == "remove")
        race.compare()  # the run has not undone what the event had done
    race.run()


@BOTH_MODES
@TOLD
@pytest.mark.parametrize("key", ["1.csv", "1.png", "2.csv"])
def test_a_listing_is_read_then_a_key_goes(race: Race, mode: str, is_told: bool, key: str):
    race.mode = mode
    race.put({"1.csv": A, "1.png": PICTURE, "2.csv": A, "3.csv": A})
    race.run()
    race.put({"3.csv": B})
    with race.tap.holding("list-type=2", "max-keys=1000") as hold:
        run = race.begin_run()
        hold.wait()
        race.delete(key)
        if is_told:
            race.event(key, REMOVED)
        hold.release()
        ended_well(run)
    assert race.names()["3"] == "New"
    race.run()


def test_a_listing_is_read_then_a_picture_goes_and_its_event_is_committed_then_the_ledger_is_read(
    race: Race, monkeypatch: pytest.MonkeyPatch
):
    race.put({"1.csv": A, "2.csv": A, "3.csv": A, "3.png": PICTURE})
    race.run()
    monkeypatch.setattr(ledger, "ENTRIES_PAGE", 1)
    with race.tap.holding("3.csv", answer=False) as hold:  # the ledger is asked for what comes after
        run = race.begin_run()
        hold.wait()
        race.delete("3.png")
        race.event("3.png", REMOVED)
        hold.release()
        ended_well(run)
    assert race.pipeline.pictures()["3"] is None
    race.run()


@TOLD
@pytest.mark.parametrize("new", [B, BROKEN["quote"]], ids=["valid", "broken"])
def test_a_run_reads_a_then_b_is_put(race: Race, is_told: bool, new: File):
    race.put({"1.csv": A, "2.csv": A})
    with race.tap.holding("GET /", "/1.csv ") as hold:
        run = race.begin_run()
        hold.wait()  # A is on its way to the run
        race.put({"1.csv": new})
        if is_told:
            race.event("1.csv")
        hold.release()
        ended_well(run)
    if is_told:
        race.model.run(remove=False)
        race.compare()
    else:
        assert race.names() == {"1": "Old", "2": "Old"}  # a state it had meanwhile
        race.model.learn(look(race.owner).people)
    race.run()


@BOTH_MODES
def test_a_run_finds_a_key_gone_then_it_comes_back_and_its_event_is_committed(race: Race, mode: str):
    race.mode = mode
    race.put({"1.csv": A, "1.png": PICTURE, "2.csv": A})
    race.run()
    race.delete("1.csv", "1.png")
    with race.tap.holding("GET /", "/1.csv ") as hold:
        run = race.begin_run()
        hold.wait()  # that it is gone is on its way
        race.put({"1.csv": B, "1.png": PICTURE})
        race.event("1.csv")
        race.event("1.png")
        hold.release()
        assert ended_well(run)["removed"] == 0
    race.model.run(remove=mode == "remove")
    race.compare()


@pytest.mark.parametrize("text", ["copy stage", "select upserted", "commit"])
def test_a_run_is_about_to_commit_a_then_b_is_put_and_its_event_comes(race: Race, text: str):
    race.put({"1.csv": A, "2.csv": A})
    # The first commit of all is that of the record of the run.
    with race.tap.holding(text, answer=False, skip=1 if text == "commit" else 0) as hold:
        run = race.begin_run()
        hold.wait()
        race.put({"1.csv": B})
        event = race.begin_event("1.csv")
        race.go_as_far_as_it_can(event)
        hold.release()
        ended_well(run)
        assert event.result(LONGEST_S) == 204
    assert race.names() == {"1": "New", "2": "Old"}
    race.run()


def test_output_csv_is_being_stored_then_an_event_is_committed(race: Race):
    race.put({"1.csv": A})
    with race.tap.holding("PUT /", "/output.csv", answer=False) as hold:
        run = race.begin_run()
        hold.wait()
        race.put({"1.csv": B})
        race.event("1.csv")
        hold.release()
        ended_well(run)
    assert "Old" in race.pipeline.fetch("output.csv").text
    race.run()  # and takes it to be out of date


@pytest.mark.parametrize("first", ["low", "high"])
def test_two_key_ranges_with_files_of_one_user_in_both(race: Race, first: str):
    """Record and picture are no neighbours in a listing: 1.csv < 1.d.csv < 1.png."""
    race.put({"1.csv": A, "1.d.csv": B, "1.png": PICTURE, "1.jpg": PICTURE})
    ranges = {"low": KeyRange(end="1.d.csv"), "high": KeyRange(start_after="1.d.csv")}
    second = "high" if first == "low" else "low"
    with race.tap.holding("commit", answer=False) as hold:
        one = race.threads.submit(settle_one_range, race.pipeline.env(**race.ports), ranges[first])
        hold.wait()
        two = race.threads.submit(settle_one_range, race.pipeline.env(), ranges[second])
        race.go_as_far_as_it_can(two)
        hold.release()
        one.result(LONGEST_S)
        two.result(LONGEST_S)
    race.model.run(remove=False)
    assert look(race.owner).people == race.model.people
    assert race.pipeline.pictures() == {"1": "1.png", "1.d": None}
    assert race.run()["upserted"] == 0


def settle_one_range(env: dict[str, str], key_range: KeyRange) -> None:
    """Do what one of several workers of a run would do."""
    settings = Settings.from_env(env)
    connection = Connection(settings.postgres, application_name="process-users")
    try:
        create_stage(connection)
        ledger = Ledger(connection, bucket=settings.source_bucket)
        settle_range(key_range, settings, ledger, full=False, counts=Counts(), report=lambda: None)
    finally:
        connection.close()


@pytest.mark.parametrize("new", [VALID["grace"], BROKEN["cells"]], ids=["valid", "broken"])
@pytest.mark.parametrize(("old", "moved"), [("1.csv", "1.CSV"), ("1.CSV", "1.csv")])
@pytest.mark.parametrize("by", ["run", "event"])
def test_a_record_moves_before_it_is_read_and_its_user_never_goes(
    race: Race, by: str, old: str, moved: str, new: File
):
    """Copied, then deleted: the bucket held a record of this user at every moment."""
    race.mode = "remove"
    race.put({old: A, "2.csv": A})
    race.run()
    number = look(race.owner).ids["1"]
    race.put({old: B})
    with race.tap.holding("GET /", f"/{old} ", answer=False) as hold:
        going_on = race.begin_run() if by == "run" else race.begin_event(old, REMOVED, held=True)
        hold.wait()
        race.put({moved: new})
        race.delete(old)
        hold.release()
        going_on.result(LONGEST_S)
    assert look(race.owner).ids.get("1") == number
    race.run()


@pytest.mark.parametrize("new", [VALID["grace"], BROKEN["cells"]], ids=["valid", "broken"])
@pytest.mark.parametrize("event", [CREATED, REMOVED])
def test_a_late_event_of_a_record_that_has_moved_does_not_remove_its_user(race: Race, event: str, new: File):
    race.mode = "remove"
    race.put({"1.csv": A, "2.csv": A})
    race.run()
    number = look(race.owner).ids["1"]
    race.put({"1.CSV": new})
    race.delete("1.csv")
    race.event("1.csv", event)
    assert look(race.owner).ids.get("1") == number
    race.run()


@pytest.mark.parametrize("new", [VALID["grace"], BROKEN["cells"]], ids=["valid", "broken"])
def test_a_record_goes_and_an_event_of_the_one_that_takes_over_comes_first(race: Race, new: File):
    race.put({"1.CSV": new, "1.csv": A})
    race.run()
    race.delete("1.CSV")
    race.event("1.csv")
    assert race.names() == {"1": "Old"}
    race.run()


def test_a_picture_goes_and_an_event_of_the_one_that_takes_over_comes_first(race: Race):
    race.put({"1.csv": A, "1.png": PICTURE, "1.jpg": PICTURE})
    race.run()
    race.delete("1.png")
    race.event("1.jpg")
    assert [user[-1] for user in look(race.owner).users] == [f"{race.pipeline.bucket.source}/1.jpg"]
    race.run()
