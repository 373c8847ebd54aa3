"""kill -9 at every step of runs and events, and at random ones of larger runs: the next run repairs all."""

import random
import time
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faults.amounts import KILLS, SEED, STEPS_APART
from faults.comparison import Seen, compare, fetch_output, look
from faults.events import CREATED, REMOVED
from faults.killing import MOMENTS, Victim, event_request, killable, run_request
from faults.model import BROKEN, PICTURE, VALID, File, Model, Person, record
from pg8000.native import Connection as Driver
from pipeline import ONE_STORE, Pipeline

from rollcall.processes import wait_until

pytestmark = ONE_STORE

LOCK_FREE_S = 1
_LOCKS = """
select 1
from pg_locks
where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())
"""
TABLES = ("users", "ledger", "runs", "state", "versions")
Files = Mapping[str, File | None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a first run has settled, what changed since, and the request that is killed."""

    before: Files
    changes: Files
    event: tuple[str, str] | None = None
    remove: bool = False


SETTLED: Files = {
    "1.csv": VALID["ada"],
    "1.png": PICTURE,
    "2.csv": VALID["grace"],
    "2.jpg": PICTURE,
    "3.csv": VALID["null"],
    "4.CSV": VALID["quoted"],
    "4.csv": VALID["ada"],
    "5.csv": BROKEN["date"],
    "6.csv": VALID["script"],
    ".csv": VALID["ada"],
    "notes.txt": PICTURE,
}
CHANGES: Files = {
    "1.csv": BROKEN["quote"],
    "1.png": None,
    "1.jpg": PICTURE,
    "2.csv": None,
    "3.csv": None,
    "3.CSV": VALID["ada"],
    "4.CSV": None,
    "5.csv": VALID["grace"],
    "5.png": PICTURE,
    "6.csv": None,
    "7.csv": record("New"),
}
SCENARIOS = {
    "a first run": Scenario({}, SETTLED),
    "a run that keeps": Scenario(SETTLED, CHANGES),
    "a run that removes": Scenario(SETTLED, CHANGES, remove=True),
    "an event of a new record": Scenario(SETTLED, {"7.csv": record("New")}, ("7.csv", CREATED)),
    "an event of a broken record": Scenario(SETTLED, {"1.csv": BROKEN["quote"]}, ("1.csv", CREATED)),
    "an event of a picture": Scenario(SETTLED, {"1.png": None, "1.jpg": PICTURE}, ("1.png", REMOVED)),
    "an event of a rename": Scenario(
        SETTLED, {"3.csv": None, "3.CSV": VALID["ada"]}, ("3.csv", REMOVED), remove=True
    ),
    "an event of a user who goes": Scenario(SETTLED, {"6.csv": None}, ("6.csv", REMOVED), remove=True),
}


@dataclass(slots=True)
class Scene:
    """A scenario in its bucket and tables, which can be put back to where its request begins."""

    pipeline: Pipeline
    owner: Driver
    remove: bool
    model: Model = field(default_factory=Model)
    outputs: dict[str, bytes] = field(default_factory=dict)

    def change(self, files: Files) -> None:
        for key, file in files.items():
            if file is None:
                self.pipeline.remove(key)
                del self.model.files[key]
            else:
                self.pipeline.put(key, file.body)
                self.model.files[key] = file

    def save(self) -> None:
        self.model.learn(look(self.owner).people)
        self.owner.run("drop schema if exists saved cascade; create schema saved")
        for table in TABLES:
            self.owner.run(f"create table saved.{table} as table {table}")
        self.outputs = {key: fetch_output(self.pipeline, key)[0] for key in ("output.csv", "rejects.csv")}

    def restore(self) -> None:
        """Put tables and outputs back; whoever was killed may still hold a lock for a moment."""
        self.owner.run("truncate users, ledger, runs, state, versions")
        for table in TABLES:
            self.owner.run(f"insert into {table} overriding system value table saved.{table}")
        for key, body in self.outputs.items():
            self.pipeline.put_output(key, body)

    def run(self) -> float:
        """Do a run as soon as there may be one, compare everything; returns how long the lock was held."""
        started = time.monotonic()
        wait_until(self.is_lock_free, timeout_s=10, what="the lock of a run that was killed")
        waited_s = time.monotonic() - started
        client = self.pipeline.client(ON_SOURCE_DELETE="remove" if self.remove else "keep")
        response = client.post("/data?allow_empty=true")
        assert response.status_code == 200, response.text
        self.model.run(remove=self.remove)
        compare(look(self.owner), self.pipeline, self.model)
        return waited_s

    def is_lock_free(self) -> bool:
        return not self.owner.run(_LOCKS)


def set_scene(pipeline: Pipeline, owner: Driver, scenario: Scenario) -> Scene:
    scene = Scene(pipeline, owner, scenario.remove)
    scene.change(scenario.before)
    scene.run()
    scene.save()
    scene.change(scenario.changes)
    return scene


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_crash_at_any_step_is_repaired_by_one_run(
    pipeline: Pipeline, owner: Driver, tmp_path: Path, name: str, count: Any
):
    scenario = SCENARIOS[name]
    scene = set_scene(pipeline, owner, scenario)
    request = run_request()
    if scenario.event is not None:
        request = event_request(pipeline.bucket.source, *scenario.event)
    counts: Counter[str] = Counter()
    held_s, begun, dice = [], deepcopy(scene.model), random.Random(SEED)
    with killable(pipeline, tmp_path, remove=scenario.remove, batch_objects=4) as victim:
        for moment in MOMENTS:
            # Where fewer than all steps are taken, each time others.
            number = dice.randrange(STEPS_APART)
            while True:
                if crash(scene, victim, request, number=number, moment=moment):
                    counts[moment] += 1
                    held_s.append(scene.run())
                    scene.model = deepcopy(begun)
                    number += STEPS_APART
                elif counts[moment]:
                    break
                else:
                    number = dice.randrange(number)  # there are fewer steps than lie apart
    assert set(counts) == set(MOMENTS)
    count(seed=SEED, **counts, lock_held_at_most_s=round(max(held_s), 2))
    assert max(held_s) < LOCK_FREE_S


def crash(scene: Scene, victim: Victim, request: Mapping[str, Any], *, number: int, moment: str) -> bool:
    """Strike a request at one exchange; False when it had fewer."""
    scene.restore()
    answer = victim.ask(request, number=number, moment=moment)
    if victim.struck is None:
        assert answer is not None
        assert answer["status"] in (200, 204), answer
        return False
    assert (answer is None) == (moment != "lose"), f"{moment} {victim.struck.label}"
    if answer is not None:
        # What was lost is asked for again, or said to be away: never anything else.
        assert answer["status"] in (200, 204, 503), answer
    check_halfway(scene, look(scene.owner))
    return True


def check_halfway(scene: Scene, seen: Seen) -> None:
    """Check that each user is as before or as the bucket says: half of a change is never seen."""
    after = deepcopy(scene.model)
    after.run(remove=scene.remove)
    for user_id in {*scene.model.people, *after.people, *seen.people}:
        allowed = [scene.model.people.get(user_id), after.people.get(user_id)]
        assert seen.people.get(user_id) in allowed, "a user is neither as before nor as after"


USERS = [f"{number:04}" for number in range(150)]
CONTENTS = [*VALID.values(), *BROKEN.values()]


@dataclass(slots=True)
class Crowd:
    """A larger bucket that changes between runs; each user has one picture at most."""

    scene: Scene
    dice: random.Random
    versions: dict[str, set[Person]] = field(default_factory=dict)

    def change(self, count: int) -> None:
        for user_id in self.dice.sample(USERS, count):
            # Half of what happens is a new version of a valid record.
            file = self.dice.choice([record(f"Ada {self.dice.random()}"), self.dice.choice(CONTENTS)])
            key = f"{user_id}.{self.dice.choice(['csv', 'csv', 'CSV', 'png'])}"
            if key.endswith("png"):
                file = PICTURE
            if key in self.scene.model.files and self.dice.random() < 0.4:
                self.scene.change({key: None})
                continue
            self.scene.change({key: file})
            if isinstance(file.becomes, tuple):
                self.versions.setdefault(user_id, set()).add(file.becomes)

    def check_told(self, before: Seen, seen: Seen) -> None:
        """Check after a kill that nobody went who has a record, and that all say what their files said."""
        for user_id in {*before.people, *seen.people}:
            person = seen.people.get(user_id)
            if person is None:
                assert self.scene.remove
                assert not self.scene.model.records(user_id), "a user went who has a record"
            elif person != before.people.get(user_id):
                assert person in self.versions[user_id]
        self.scene.model.learn(seen.people)


@pytest.mark.parametrize("mode", ["keep", "remove"])
def test_random_kills_of_larger_runs_lose_nobody(
    pipeline: Pipeline, owner: Driver, tmp_path: Path, mode: str, count: Any
):
    dice = random.Random(SEED)
    crowd = Crowd(Scene(pipeline, owner, mode == "remove"), dice)
    crowd.change(len(USERS))
    crowd.change(len(USERS))
    counts: Counter[str] = Counter()
    length = 400
    with killable(pipeline, tmp_path, remove=crowd.scene.remove, batch_objects=25) as victim:
        while counts["kills"] < KILLS // 2:
            counts["runs"] += 1
            is_fresh = dice.random() < 0.4
            if is_fresh:
                start_over(crowd.scene)
            for _ in range(dice.choice([1, 1, 2, 3])):
                crowd.change(dice.randrange(30))
                query = dice.choice(["", "full=true"])
                counts["kills"] += kill(crowd, victim, query, number=dice.randrange(length), fresh=is_fresh)
                if victim.struck is None:
                    length = max(50, length * 3 // 4)
            length = min(600, length + 40)
            crowd.scene.run()
    count(seed=SEED, **counts)


def start_over(scene: Scene) -> None:
    """Empty the tables, as in a new database over an old bucket."""
    scene.owner.run("truncate users, ledger, runs, state; insert into state default values")
    scene.model.learn({})


def kill(crowd: Crowd, victim: Victim, query: str, *, number: int, fresh: bool) -> bool:
    """Kill a run at one exchange; False when it had fewer and ended well."""
    scene = crowd.scene
    before = look(scene.owner)
    # A run that was killed before may hold the lock for a moment.
    answer = None

    def is_begun() -> bool:
        nonlocal answer
        moment = crowd.dice.choice(["before", "half", "after"])
        answer = victim.ask(run_request(query), number=number, moment=moment)
        return answer is None or answer["status"] != 409

    wait_until(is_begun, timeout_s=10, what="the lock of a run that was killed")
    seen = look(scene.owner)
    if answer is not None:
        assert answer["status"] == 200, answer
        scene.model.run(remove=scene.remove)
        compare(seen, scene.pipeline, scene.model)
        return False
    crowd.check_told(before, seen)
    if fresh and not before.runs and seen.runs:
        # Each user is counted when they come and when their picture comes, at most.
        pictures = sum(user[5] is not None for user in seen.users)
        assert seen.runs[0]["upserted"] <= len(seen.users) + pictures, "a user was counted and is not there"
    return True
