"""Random histories of a bucket, its events and its runs: after each run everything is what the model says."""

import contextlib
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from faults.amounts import HISTORIES, SEED
from faults.comparison import Seen, compare, look
from faults.events import CREATED, REMOVED, send
from faults.model import BROKEN, KINDS, LONG_ID, OTHER_PICTURE, PICTURE, VALID, File, Model, Person, split
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from minio.deleteobjects import DeleteObject
from pg8000.native import Connection as Driver
from pipeline import ONE_STORE, Pipeline
from rig import Database, prepare_database

from rollcall.servers import Postgres

pytestmark = ONE_STORE

USERS = ["1", "1.d", "0001", "é + ?"]
RECORDS = [f"{user}.{end}" for user in USERS for end in ("csv", "CSV", "Csv")]
IMAGES = [f"{user}.{end}" for user in USERS for end in ("png", "PNG", "jpg", "jpeg")]
NOBODYS = [".csv", ".png", f"{LONG_ID}.csv", "notes.txt", "nested/1.csv", "1"]
KEYS = RECORDS + IMAGES + NOBODYS
ANY = st.integers(min_value=0, max_value=1 << 16)
RESET = """
truncate users, ledger, runs, versions restart identity;
insert into versions (version) values (0);
delete from state;
insert into state default values
"""


@dataclass(slots=True)
class Stage:
    """What all histories of a test are played on."""

    pipeline: Pipeline
    owner: Driver
    server: Postgres
    one_batch: bool
    counts: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)  # that are in the bucket now

    def clear(self) -> None:
        """Make everything as set-up leaves it; the outputs of the last history stay, as somebody else's."""
        if self.keys:
            pipeline = self.pipeline
            objects = [DeleteObject(key) for key in self.keys]
            errors = pipeline.store.remove_objects(
                bucket_name=pipeline.bucket.source, delete_object_list=objects
            )
            assert not list(errors)
            self.keys.clear()
        self.owner.run(RESET)


class History(RuleBasedStateMachine):
    """One history; events wait in `pending` until they are delivered, or lost."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        stage.clear()
        self.stage, self.pipeline = stage, stage.pipeline
        self.model = Model()
        self.versions: dict[str, set[Person]] = {}  # every valid one that a user ever had in the bucket
        self.lost: dict[str, File] = {}  # the last valid content of each key
        self.sent: list[tuple[str, str]] = []  # every event, in the order in which it happened
        self.pending: list[int] = []  # which of them were not delivered yet
        self.settled = 0  # how many there were when the last run ended
        self.remove = self.is_changed = self.was_set_up = self.was_rehearsed = False

    # ------------------------------------------------------------------------------------------ the bucket

    @rule(key=st.sampled_from(RECORDS), kind=st.sampled_from(sorted(VALID)))
    def put_record(self, key: str, kind: str) -> None:
        self._put(key, KINDS[kind])

    @rule(files=st.lists(st.tuples(st.sampled_from(RECORDS), st.sampled_from(sorted(KINDS))), min_size=2))
    def put_records(self, files: list[tuple[str, str]]) -> None:
        for key, kind in files:
            self._put(key, KINDS[kind])

    @rule(keys=st.lists(st.sampled_from(IMAGES), min_size=2))
    def put_pictures(self, keys: list[str]) -> None:
        for key in keys:
            self._put(key, PICTURE)

    @rule(key=st.sampled_from(IMAGES + NOBODYS), picture=st.sampled_from([PICTURE, OTHER_PICTURE]))
    def put_other(self, key: str, picture: File) -> None:
        self._put(key, picture)

    @rule(key=st.sampled_from(RECORDS), kind=st.sampled_from(sorted(BROKEN)))
    def break_record(self, key: str, kind: str) -> None:
        self._put(key, KINDS[kind])
        self._count("broken")

    @precondition(lambda self: self.lost)
    @rule(number=ANY)
    def mend(self, number: int) -> None:
        key = sorted(self.lost)[number % len(self.lost)]
        self._put(key, self.lost[key])
        self._count("mended")

    @precondition(lambda self: self.model.files)
    @rule(number=ANY)
    def delete(self, number: int) -> None:
        self._delete(self._pick(number))

    @precondition(lambda self: self.model.files)
    @rule(number=ANY, other=ANY)
    def rename(self, number: int, other: int) -> None:
        key = self._pick(number)
        others = next(keys for keys in (RECORDS, IMAGES, NOBODYS) if key in keys)
        file, new = self.model.files[key], others[other % len(others)]
        if new != key:
            self._put(new, file)
            self._delete(key)
            self._count("renamed")

    # ------------------------------------------------------------------------------------------ the events

    @precondition(lambda self: self.pending)
    @rule(number=ANY)
    def deliver(self, number: int) -> None:
        self._deliver(self.pending.pop(number % len(self.pending)))

    @precondition(lambda self: self.pending)
    @rule()
    def deliver_all(self) -> None:
        while self.pending:
            self._deliver(self.pending.pop(0))

    @precondition(lambda self: self.sent)
    @rule(number=ANY)
    def deliver_again(self, number: int) -> None:
        self._deliver(number % len(self.sent))
        self._count("repeated")

    @precondition(lambda self: self.pending)
    @rule(number=ANY)
    def lose(self, number: int) -> None:
        self.pending.pop(number % len(self.pending))
        self._count("lost")

    # -------------------------------------------------------------------------------------------- the runs

    @precondition(lambda self: self.is_changed)
    @rule(query=st.sampled_from(["", "", "full=true"]))
    def run(self, query: str) -> None:
        before, empty = self._look(), self._is_refused()
        status, report = self._post(self._client(), query)
        if empty:
            assert (status, report["code"]) == (422, "source_empty")
            self._count("refused_as_empty")
            assert self._look().users == before.users
            status, report = self._post(self._client(), f"{query}&allow_empty=true")
        assert status == 200, report
        self._ended_well(before, report)

    @precondition(lambda self: self.is_changed)
    @rule()
    def run_twice_at_once(self) -> None:
        before, query = self._look(), "allow_empty=true"
        with ThreadPoolExecutor(2) as threads:
            answers = [answer.result(20) for answer in [self._begin(threads, query) for _ in range(2)]]
        assert {status for status, _ in answers} <= {200, 409}
        reports = [report for status, report in answers if status == 200]
        assert reports
        self._count("two_runs_at_once")
        self._ended_well(before, None if len(reports) > 1 else reports[0])

    @precondition(lambda self: self.pending)
    @rule(number=ANY)
    def run_while_an_event_comes(self, number: int) -> None:
        key, event = self.sent[self.pending.pop(number % len(self.pending))]
        before = self._look()
        with ThreadPoolExecutor(1) as threads:
            run = self._begin(threads, "allow_empty=true")
            assert send(self._client(), self.pipeline.bucket.source, key, event) == 204
            status, report = run.result(20)
        assert status == 200, report
        self._count("runs_beside_an_event")
        # The event may have committed a record before the run found another one to come first.
        self._told(before)
        self._ended_well(before, None, after_event=True)

    @rule(key=st.sampled_from(RECORDS + IMAGES), kind=st.sampled_from(sorted(KINDS)), is_told=st.booleans())
    def run_while_a_file_changes(self, key: str, kind: str, is_told: bool) -> None:
        before = self._look()
        with ThreadPoolExecutor(1) as threads:
            run = self._begin(threads, "allow_empty=true")
            self._put(key, KINDS[kind] if key in RECORDS else OTHER_PICTURE)
            if is_told:
                last = self.sent[self.pending.pop()]
                assert send(self._client(), self.pipeline.bucket.source, *last) == 204
            status, report = run.result(20)
        assert status == 200, report
        self._count("runs_beside_a_change")
        self._told(before)
        self.run("")

    @precondition(lambda self: self.is_changed and not self.was_rehearsed)
    @rule()
    def rehearse(self) -> None:
        self.was_rehearsed = True
        self._count("rehearsed")
        before = self._look()
        status, said = self._post(self._client(), "dry_run=true&allow_empty=true")
        assert (status, said["state"]) == (200, "dry_run")
        assert self._look() == before
        status, done = self._post(self._client(), "allow_empty=true")
        assert status == 200, done
        counted = ("listed", "ignored", "unchanged", "upserted", "removed", "rejected", "rejects", "output")
        assert {name: said[name] for name in counted} == {name: done[name] for name in counted}
        self._ended_well(before, done)

    # ------------------------------------------------------------------------------------------- the world

    @rule()
    def switch_between_keep_and_remove(self) -> None:
        self.remove = not self.remove
        self.is_changed = True

    @precondition(lambda self: not self.was_set_up)
    @rule()
    def set_up_again(self) -> None:
        self.was_set_up = True
        self._count("set_up_again")
        before = self._look()
        prepare_database(self.stage.server, self.pipeline.database.settings.database)
        assert self._look() == before

    @rule(key=st.sampled_from(["output.csv", "rejects.csv"]))
    def delete_output(self, key: str) -> None:
        self.pipeline.remove_output(key)
        self.is_changed = True
        self._count("outputs_deleted")

    @rule(key=st.sampled_from(["output.csv", "rejects.csv"]))
    def overwrite_output(self, key: str) -> None:
        self.pipeline.put_output(key, b"user_id,first_name\nnobody,Nobody\n")
        self.is_changed = True
        self._count("outputs_overwritten")

    def teardown(self) -> None:
        """End every history that went well with a run."""
        if sys.exc_info()[0] is None:
            self.run("")
            self._count("histories")

    # ---------------------------------------------------------------------------------------------- inside

    def _pick(self, number: int) -> str:
        return sorted(self.model.files)[number % len(self.model.files)]

    def _put(self, key: str, file: File) -> None:
        self.pipeline.put(key, file.body)
        self.stage.keys.add(key)
        self.model.files[key] = file
        owner = split(key)
        if isinstance(file.becomes, tuple) and owner:
            self.lost[key] = file
            self.versions.setdefault(owner[0], set()).add(file.becomes)
        self._happened(key, CREATED)

    def _delete(self, key: str) -> None:
        self.pipeline.remove(key)
        del self.model.files[key]
        self._happened(key, REMOVED)

    def _happened(self, key: str, event: str) -> None:
        self.pending.append(len(self.sent))
        self.sent.append((key, event))
        self._count("changes")
        self.is_changed = True

    def _deliver(self, number: int) -> None:
        """Deliver an event: its user is current, and nobody else changes.

        That a key is there says nothing of another record of the user, whose own event is still to come.
        """
        key, event = self.sent[number]
        self._count_event(number)
        before = self._look()
        assert send(self._client(), self.pipeline.bucket.source, key, event) == 204
        self._told(before)
        owner = split(key)
        seen = self._look()
        user_id = owner[0] if owner else ""
        assert [row for row in seen.users if row[1] != user_id] == [
            row for row in before.users if row[1] != user_id
        ]
        records = self.model.records(user_id)
        if records and (records[0] == key or key not in self.model.files):
            becomes = self.model.files[records[0]].becomes
            if isinstance(becomes, tuple):
                assert seen.people[user_id] == becomes, "the user is not current after the event"

    def _count_event(self, number: int) -> None:
        """Count an event that is delivered, and what is odd about it."""
        key, _ = self.sent[number]
        self._count("events")
        self._count("events_after_a_run", number < self.settled)
        self._count("events_after_a_later_change", key in [later for later, _ in self.sent[number + 1 :]])
        self._count("events_before_an_earlier_one", any(earlier < number for earlier in self.pending))

    def _told(self, before: Seen) -> None:
        """Tell the model whom the database holds now, after checking that it may."""
        seen = self._look()
        for user_id in {*before.people, *seen.people}:
            person = seen.people.get(user_id)
            if person is None:
                assert self.remove, "a user went although users are kept"
                assert not self.model.records(user_id), "a user went who has a record"
            elif person != before.people.get(user_id):
                assert person in self.versions[user_id], "a user is what the bucket never said"
        self._check_ids(before, seen)
        self.model.learn(seen.people)

    def _ended_well(self, before: Seen, report: dict[str, Any] | None, *, after_event: bool = False) -> None:
        """Compare everything after a run that ended well, and its report, when the run was alone."""
        self._count("runs_that_remove" if self.remove else "runs_that_keep")
        self.settled = len(self.sent)
        self.is_changed = False
        self.model.run(remove=self.remove)
        seen = self._look()
        compare(seen, self.pipeline, self.model, after_event=after_event)
        self._check_ids(before, seen)
        assert seen.runs[0]["state"] == "ok"
        is_changed = [row[1:] for row in before.users] != [row[1:] for row in seen.users]
        version_changed = before.version != seen.version
        assert version_changed or not is_changed
        if self.stage.one_batch and report is not None:
            assert version_changed == is_changed
        if report is not None:
            self._check_report(before, seen, report)

    def _check_report(self, before: Seen, seen: Seen, report: dict[str, Any]) -> None:
        files = self.model.files
        assert (report["state"], report["listed"]) == ("ok", len(files))
        assert report["ignored"] == sum(split(key) is None for key in files)
        assert report["rejected"] == len(self.model.rejects())
        assert [[one["key"], one["reason"], one["detail"]] for one in report["rejects"]] == seen.rejects
        assert report["removed"] == len(before.people.keys() - seen.people.keys())
        assert report["output"]["rows"] == len(seen.users)

    def _check_ids(self, before: Seen, seen: Seen) -> None:
        for user_id, number in before.ids.items():
            assert seen.ids.get(user_id, number) == number, "a user has another id than before"

    def _count(self, what: str, number: int = 1) -> None:
        self.stage.counts[what] += number

    def _look(self) -> Seen:
        return look(self.stage.owner)

    def _is_refused(self) -> bool:
        # What only remembers that a key is gone is no object.
        entries = [entry for entry in self._look().ledger if entry["user_id"] or entry["reason"]]
        return not self.model.files and bool(entries)

    def _client(self) -> FlaskClient:
        client = self.pipeline.client(ON_SOURCE_DELETE="remove" if self.remove else "keep")
        return client.application.test_client()

    def _begin(self, threads: ThreadPoolExecutor, query: str) -> Any:
        return threads.submit(self._post, self._client(), query)

    def _post(self, client: FlaskClient, query: str) -> tuple[int, dict[str, Any]]:
        response = client.post(f"/data?{query.removeprefix('&')}")
        assert isinstance(response.json, dict)
        return response.status_code, response.json


@pytest.mark.parametrize("size", ["small_steps", "one_batch"])
def test_after_any_history_everything_is_what_the_model_says(
    pipeline: Pipeline, owner: Driver, database: Database, postgres: Postgres, size: str, count: Any
):
    number = SEED + (size == "one_batch")
    stage = Stage(pipeline, owner, postgres, one_batch=size == "one_batch")
    options = settings(
        max_examples=max(1, HISTORIES // 2),
        stateful_step_count=40,
        deadline=None,
        database=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    history = seed(number)(
        type("History", (History,), {"__init__": lambda self: History.__init__(self, stage)})
    )
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        stack.callback(lambda: count(seed=number, **stage.counts))
        if size == "small_steps":
            patch.setattr("process_users.run.BATCH_OBJECTS", 2)
            patch.setattr("process_users.ledger.ENTRIES_PAGE", 3)
            patch.setattr("process_users.settling.LOCKED_OBJECTS", 1)
        run_state_machine_as_test(history, settings=options)
    assert stage.counts["histories"] >= HISTORIES // 2
