"""Servers that are killed, frozen, cut off, slow, full or changed, while both functions are in use.

Whatever happens to them, every request is answered with what is right or with 503 within 10 s, and when it is
over all goes on by itself.
"""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import urllib3
from faults.amounts import OUTAGES, SEED
from faults.comparison import compare, look
from faults.events import CREATED, notification
from faults.model import BROKEN, PICTURE, VALID, File, Model, Person, record
from faults.outages import OF_POSTGRES, OF_STORE, Outage, World, make_world
from faults.proxy import Exchange
from rig import Function, StartFunction

from rollcall.processes import wait_until

ANSWERED_S = 10
BACK_S = 10
BEGUN_S = 40  # a server may take its time to stop
LOCK_FREE_S = 60
USERS = [f"{number:04}" for number in range(150)]
CONTENTS = [*VALID.values(), *BROKEN.values()]
# Kept users without files, so many that an export of them waits for who reads it.
LONG_NAMED, LONG = 1_500, "x" * 3_000
KEPT: dict[str, Person] = {f"kept{number:05}": (LONG, "Kept", number) for number in range(LONG_NAMED)}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request."""

    path: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Town:
    """Users whose files change, served by both functions on servers to which things happen."""

    world: World
    process_users: Function
    get_data: Function
    remove: bool
    dice: random.Random
    model: Model = field(default_factory=Model)
    versions: dict[str, set[Person]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0
    longest_lock_s: float = 0
    changed: list[str] = field(default_factory=list)

    # ------------------------------------------------------------------------------------------ what changes

    def change(self, count: int) -> None:
        """Change the files of so many users; the last one is a new valid record."""
        self.changed = []
        for user_id in self.dice.sample(USERS, count):
            key = f"{user_id}.{self.dice.choice(['csv', 'csv', 'csv', 'png'])}"
            file = self.dice.choice([record(f"Ada {self.dice.random()}"), self.dice.choice(CONTENTS)])
            if key in self.model.files and self.dice.random() < 0.3:
                self.world.pipeline.remove(key)
                del self.model.files[key]
            else:
                self._put(key, PICTURE if key.endswith("png") else file)
            self.changed.append(key)
        key = f"{self.dice.choice(USERS)}.csv"
        self._put(key, record(f"Grace {self.dice.random()}"))
        self.changed.append(key)
        self.world.unreadable = key

    def _put(self, key: str, file: File) -> None:
        self.world.pipeline.put(key, file.body)
        self.model.files[key] = file
        if isinstance(file.becomes, tuple):
            self.versions.setdefault(key.rpartition(".")[0], set()).add(file.becomes)

    # ----------------------------------------------------------------------------------------- what is asked

    def ask(self, function: Function, method: str, path: str, body: str = "") -> Answer:
        """Send one request over a connection of its own."""
        headers = {"Authorization": "Bearer events"} if path == "/events" else {}
        started = time.monotonic()
        with urllib3.PoolManager(retries=False, timeout=3 * ANSWERED_S) as pool:
            response = pool.request(method, function.url + path, body=body, headers=headers, redirect=False)
        seconds = time.monotonic() - started
        return Answer(f"{method} {path}", response.status, response.headers, response.data, seconds)

    def run(self, query: str = "") -> Answer:
        return self.ask(self.process_users, "POST", f"/data?allow_empty=true{query}")

    def event(self, key: str) -> Answer:
        body = json.dumps(notification(self.world.pipeline.bucket.source, key, CREATED))
        return self.ask(self.process_users, "POST", "/events", body)

    def export(self, is_struck: threading.Event) -> str:
        """Begin to read an export, and read the rest when the outage has begun; returns how that went."""
        with urllib3.PoolManager(retries=False, timeout=3 * ANSWERED_S) as pool:
            response = pool.request("GET", f"{self.get_data.url}/data", preload_content=False)
            is_struck.wait(3 * ANSWERED_S)
            try:
                text = response.read()
            except urllib3.exceptions.HTTPError:
                return "cut"
            finally:
                response.close()
            if response.status == 200:
                self.check_people(json.loads(text))
                return "whole"
            assert response.status == 503, text
            return "refused"

    def ask_everything(self) -> list[Answer]:
        """Ask for one of everything at once."""
        user_id = self.dice.choice(USERS)
        with ThreadPoolExecutor(16) as threads:
            answers = [
                *(
                    threads.submit(self.ask, self.get_data, "GET", path)
                    for path in (
                        "/data?limit=10",
                        f"/data?limit=100&min_age=20&after={user_id}",
                        f"/data/{user_id}",
                        f"/data/{user_id}/image",
                        "/stats",
                        "/data?format=csv&is_image_exists=true",
                        "/readyz",
                        "/healthz",
                    )
                ),
                *(
                    threads.submit(self.ask, self.process_users, "GET", path)
                    for path in ("/runs", "/readyz", "/healthz")
                ),
                threads.submit(self.event, self.dice.choice(self.changed)),
                threads.submit(self.run),
            ]
            return [answer.result() for answer in answers]

    # ------------------------------------------------------------------------------------- what must be true

    def check_answer(self, answer: Answer, away: tuple[str, ...]) -> None:
        """Check that an answer is right, or says what is away."""
        self.counts["requests"] += 1
        if answer.status == 503:
            self.counts["refused"] += 1
            document = answer.document
            assert answer.headers["Retry-After"]
            if "readyz" in answer.path:
                codes = {"postgres": "database_unavailable", "store": "store_unavailable"}
                assert {codes[name] for name in document["unavailable"]} <= set(away), answer
            else:
                assert document["code"] in away, answer
            return
        assert answer.status in (200, 204, 302, 404, 409), answer
        if answer.status == 404:
            assert answer.document["code"] in ("user_not_found", "image_not_found"), answer
        if answer.status == 409:
            assert answer.path.startswith("POST /data"), answer
        if answer.status == 200 and answer.path.startswith("GET /data?limit"):
            self.check_people(answer.document)
        if answer.status == 200 and answer.path.startswith("GET /data/"):
            self.check_people({answer.path.removeprefix("GET /data/"): answer.document})

    def check_people(self, people: Mapping[str, Any]) -> None:
        """Check that each user is what a file of theirs said at some time."""
        for user_id, user in people.items():
            person = (user["first_name"], user["last_name"], user["birthts"])
            assert KEPT.get(user_id) == person or person in self.versions[user_id], user_id

    def recover(self, away: tuple[str, ...]) -> None:
        """Check that all is well again by itself, then do a run and compare everything."""
        wait_until(self.is_ready, timeout_s=BACK_S, what="both functions to be ready")
        before = Model(dict(self.model.files), dict(self.model.people))
        after = Model(dict(self.model.files), dict(self.model.people))
        after.run(remove=self.remove)
        with self.world.owner() as owner:
            seen = look(owner)
            for user_id in {*before.people, *after.people, *seen.people}:
                allowed = [before.people.get(user_id), after.people.get(user_id)]
                assert seen.people.get(user_id) in allowed, f"{user_id} is neither as before nor as after"
            started = time.monotonic()
            while (answer := self.run()).status == 409:
                assert time.monotonic() - started < LOCK_FREE_S, "the lock of a run is still held"
                time.sleep(0.05)
            self.longest_lock_s = max(self.longest_lock_s, time.monotonic() - started - answer.seconds)
            assert answer.status == 200, answer
            self.model.learn(seen.people)
            self.model.run(remove=self.remove)
            seen = look(owner)
            owner.run("delete from runs")
        compare(seen, self.world.pipeline, self.model)
        states = Counter(run["state"] for run in seen.runs)
        # A run that lost Postgres cannot write how it ended.
        assert states["running"] == 0
        assert states["lost"] == 0 or "database_unavailable" in away
        assert {run["error"] for run in seen.runs if run["state"] == "failed"} <= set(away)
        self.counts["runs_ok"] += states["ok"]
        self.counts["runs_failed"] += states["failed"]
        self.counts["runs_lost"] += states["lost"]

    def is_ready(self) -> bool:
        return all(
            self.ask(function, "GET", "/readyz").status == 200
            for function in (self.process_users, self.get_data)
        )

    def endure(self, outage: Outage) -> None:
        """Let something happen during a run, two events and an export; ask for everything meanwhile."""
        self.change(self.dice.randrange(1, len(USERS) // 2))
        query = self.dice.choice(["", "&full=true"]) if outage.name != "postgres' disk full" else "&full=true"
        with ThreadPoolExecutor(4) as threads:
            with self.striking(outage, number=self.dice.randrange(60)) as is_struck:
                started = [
                    threads.submit(self.run, query),
                    *(threads.submit(self.event, key) for key in self.changed[-2:]),
                ]
                export = threads.submit(self.export, is_struck)
                wait_until(
                    lambda: is_struck.is_set() or all(map(Future.done, started)),
                    timeout_s=BEGUN_S,
                    what="the outage to begin",
                )
            deadline = time.monotonic() + ANSWERED_S
            for answer in self.ask_everything():
                self.slowest_s = max(self.slowest_s, answer.seconds)
                assert answer.seconds < ANSWERED_S, f"{answer.path} took {answer.seconds:.1f} s"
                self.check_answer(answer, outage.away)
            for begun in started:
                self.check_answer(begun.result(max(0, deadline - time.monotonic())), outage.away)
            how = export.result(max(0, deadline - time.monotonic()))
            self.counts[f"exports_{how}"] += 1
            assert how == "whole" or "database_unavailable" in outage.away
        outage.end(self.world)
        for side in (self.world.postgres, self.world.store):
            side.tap.reset()
        self.counts["outages"] += 1

    @contextmanager
    def striking(self, outage: Outage, *, number: int) -> Iterator[threading.Event]:
        """Begin an outage at an exchange of the block, or at its end; the event is set when it has begun."""
        left, is_struck = itertools.count(number, -1), threading.Event()
        begun: Future[None] = Future()

        def strike() -> None:
            if next(left) != 0:
                return
            try:
                begun.set_result(outage.begin(self.world))
            except BaseException as error:  # noqa: BLE001  raised where it is waited for
                begun.set_exception(error)
            is_struck.set()

        def pass_and_strike(exchange: Exchange, data: bytes) -> bytes:
            strike()
            return data

        for side in (self.world.postgres, self.world.store):
            side.tap.on_request = pass_and_strike
        yield is_struck
        for _ in range(number + 1):
            strike()
        begun.result(BEGUN_S)


@pytest.fixture
def world() -> Iterator[World]:
    with make_world() as world:
        yield world


@pytest.fixture(params=["postgres", "store"])
def town(
    request: pytest.FixtureRequest, world: World, start_function: StartFunction
) -> tuple[Town, list[Outage]]:
    """Both functions with some users; users are removed only where there are no kept ones without files."""
    remove = request.param == "store"
    mode = {"ON_SOURCE_DELETE": "remove" if remove else "keep"}
    functions = (
        start_function("process-users", {**world.env("process_users"), **mode}),
        start_function("get-data", world.env("get_data")),
    )
    town = Town(world, *functions, remove=remove, dice=random.Random(SEED))
    if not remove:
        with world.owner() as owner:
            owner.run(
                "insert into users (user_id, first_name, last_name, birthdate) "
                "select 'kept' || lpad(n::text, 5, '0'), :long, 'Kept', to_timestamp(n / 1000.0) "
                "from generate_series(0, cast(:count as bigint) - 1) n",
                long=LONG,
                count=LONG_NAMED,
            )
        town.model.learn(KEPT)
    town.change(len(USERS) - 1)
    town.recover(())
    return town, OF_STORE if remove else OF_POSTGRES


def test_whatever_happens_to_a_server_answers_are_right_or_503_and_all_goes_on_afterwards(
    town: tuple[Town, list[Outage]], count: Any
):
    inhabited, outages = town
    for number in range(OUTAGES // 2):
        outage = outages[number % len(outages)]
        try:
            inhabited.endure(outage)
            inhabited.recover(outage.away)
        except BaseException as error:
            error.add_note(f"{outage.name}, outage {number + 1}, FAULTS_SEED={SEED}")
            raise
    count(
        seed=SEED,
        **inhabited.counts,
        slowest_answer_s=round(inhabited.slowest_s, 1),
        lock_held_at_most_s=round(inhabited.longest_lock_s, 1),
    )
