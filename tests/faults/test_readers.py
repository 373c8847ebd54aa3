"""Two hundred readers while runs and events commit: each answer is of one moment, pages leave nobody out."""

import csv
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import urllib3
from faults.amounts import READERS
from faults.events import CREATED, notification
from faults.model import record
from pipeline import ONE_STORE, Pipeline
from rig import StartFunction

from get_data.users import CHUNK_USERS

pytestmark = ONE_STORE
# Users of three kinds, one among the other: of the first, all get another name in one commit of a run; of the
# second, some in events; the others are never touched. The first are in every page and in every chunk of an
# export, of which there are at least three: one that is neither the first nor the last.
STILL = [f"{number:05}s" for number in range(2 * CHUNK_USERS)]
MOVING = [f"{number:05}m" for number in range(0, len(STILL), 40)]
TOLD = [f"{number:05}e" for number in range(20)]
EVERYBODY = sorted([*MOVING, *TOLD, *STILL])
COMMITS = 12
PAGE_USERS = 97  # two of those who move at least
PAUSE_S = 0.05
FORMATS = ("json", "csv", "ndjson")

Names = list[tuple[str, str]]  # user id and first name, in the order of the answer


@dataclass(slots=True)
class Library:
    """A bucket that changes, and readers of what is served of it."""

    pipeline: Pipeline
    process_users: str  # their addresses
    get_data: str
    closed: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)

    def change(self, name: str, user_ids: list[str]) -> None:
        file = record(name)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda user_id: self.pipeline.put(f"{user_id}.csv", file.body), user_ids))

    def commit(self) -> None:
        """Commit another name for all who move, again and again."""
        for number in range(1, COMMITS + 1):
            self.change(f"Name {number}", MOVING)
            self.run()
            self.counts["runs"] += 1

    def run(self) -> None:
        with urllib3.PoolManager(retries=False, timeout=60) as pool:
            response = pool.request("POST", f"{self.process_users}/data")
        assert response.status == 200, response.data
        assert response.json()["upserted"] >= len(MOVING)

    def tell(self) -> None:
        """Commit events as long as anybody reads."""
        headers = {"Authorization": "Bearer events", "Connection": "close"}
        with urllib3.PoolManager(retries=False, timeout=60, headers=headers) as pool:
            for number, user_id in enumerate(itertools.cycle(TOLD)):
                if self.closed.wait(PAUSE_S):
                    return
                key = f"{user_id}.csv"
                self.pipeline.put(key, record(f"Event {number}").body)
                body = json.dumps(notification(self.pipeline.bucket.source, key, CREATED))
                assert pool.request("POST", f"{self.process_users}/events", body=body).status == 204
                self.counts["events"] += 1

    def read(self, number: int) -> None:
        """Read all users again and again, by pages or at once."""
        seen, form = 0, FORMATS[number // 2 % 3]
        # A connection for each request: one that is kept may be closed just as it is used again.
        with urllib3.PoolManager(retries=False, timeout=60, headers={"Connection": "close"}) as pool:
            while True:
                answers = self.read_pages(pool) if number % 2 else self.read_all(pool, form)
                names: Names = []
                for answer in answers:
                    seen = check_moment(answer, seen)
                    names += answer
                self.counts["pagers_rounds" if number % 2 else "exports"] += 1
                assert [user_id for user_id, _ in names] == EVERYBODY, "somebody is missing, or there twice"
                assert {name for user_id, name in names if user_id in STILL_IDS} == {"Still"}
                if self.closed.wait(PAUSE_S):
                    return

    def read_pages(self, pool: urllib3.PoolManager) -> Iterator[Names]:
        """Follow the links from page to page."""
        target: str | None = f"/data?limit={PAGE_USERS}"
        while target:
            response = pool.request("GET", self.get_data + target)
            assert response.status == 200, response.data
            self.counts["pages"] += 1
            yield parse_json(response.data)
            link = response.headers.get("Link", "")
            target = link.partition("<")[2].partition(">")[0] or None

    def read_all(self, pool: urllib3.PoolManager, form: str) -> Iterator[Names]:
        """Read an export, as soon as there is a place for one: everybody in one answer."""
        while True:
            response = pool.request("GET", f"{self.get_data}/data?format={form}")
            if response.status == 200:
                assert response.headers.get("Transfer-Encoding") == "chunked", "it came at once"
                yield {"json": parse_json, "csv": parse_csv, "ndjson": parse_ndjson}[form](response.data)
                return
            assert response.json()["code"] == "exports_busy"
            self.counts["busy"] += 1
            time.sleep(0.5)


STILL_IDS = frozenset(STILL)


def check_parts() -> None:
    """Check that whoever reads a part of another moment is found out: by chunks, and within a page."""
    chunks, pages = split(CHUNK_USERS), split(PAGE_USERS)
    assert len(chunks) >= 3
    assert all(not part.isdisjoint(MOVING) for part in chunks)
    assert all(len(part.intersection(MOVING)) > 1 for part in pages[:-1])


def split(count: int) -> list[set[str]]:
    """Return everybody, so many at a time."""
    return [set(EVERYBODY[start : start + count]) for start in range(0, len(EVERYBODY), count)]


def check_moment(names: Names, earliest: int) -> int:
    """Check that who is changed in one commit has one name, and none of an earlier moment; returns which."""
    moments = {int(name.removeprefix("Name ")) for user_id, name in names if user_id[-1] == "m"}
    assert len(moments) == 1, f"an answer is of more than one moment: {moments}"
    (moment,) = moments
    assert moment >= earliest, "an answer is older than the one before it"
    return moment


def parse_json(body: bytes) -> Names:
    """Parse an answer, keeping a member that is there twice."""
    pairs = json.loads(body, object_pairs_hook=list)
    return [(user_id, dict(user)["first_name"]) for user_id, user in pairs]


def parse_ndjson(body: bytes) -> Names:
    users = map(json.loads, body.splitlines())
    return [(user["user_id"], user["first_name"]) for user in users]


def parse_csv(body: bytes) -> Names:
    return [(row["user_id"], row["first_name"]) for row in csv.DictReader(StringIO(body.decode()))]


def test_each_of_two_hundred_readers_sees_one_moment_while_runs_and_events_commit(
    pipeline: Pipeline, start_function: StartFunction, count: Any
):
    check_parts()
    env = {**pipeline.database.env("get_data"), "WORKERS": "2", "THREADS": "16"}
    library = Library(
        pipeline,
        start_function("process-users", pipeline.env()).url,
        start_function("get-data", env).url,
    )
    library.change("Still", STILL)
    library.change("Event", TOLD)
    library.change("Name 0", MOVING)
    library.run()
    with ThreadPoolExecutor(READERS + 1) as threads:
        acting = [threads.submit(closing(library, library.read), number) for number in range(READERS)]
        acting.append(threads.submit(closing(library, library.tell)))
        closing(library, library.commit)()
        for actor in acting:
            actor.result(120)
    count(readers=READERS, **library.counts)


def closing(library: Library, act: Callable[..., None]) -> Callable[..., None]:
    """Let somebody act; the library closes when the one who commits is done, or anybody fails."""

    def acting(*args: object) -> None:
        try:
            act(*args)
        except BaseException:
            library.closed.set()
            raise
        if act == library.commit:
            library.closed.set()

    return acting
