"""A long time of mixed use of both functions: memory, sessions and open files stay what they were."""

import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import urllib3
from faults.amounts import SEED, SOAK_S
from faults.comparison import compare, look
from faults.events import CREATED, REMOVED, notification
from faults.model import BROKEN, PICTURE, VALID, Model, Person, record
from pg8000.native import Connection as Driver
from pipeline import ONE_STORE, Pipeline
from rig import Function, StartFunction

from process_users.transfers import CONCURRENCY

pytestmark = ONE_STORE
THREADS = 8
USERS = [f"{number:03}" for number in range(300)]
CONTENTS = [*VALID.values(), *BROKEN.values()]
SAMPLES = 80
MORE_BYTES = 16 << 20  # of memory at the end, in any process: an eighth of a function's
ALONE = 40  # runs and exports, when nobody else asks for anything
MORE_SOCKETS = ALONE // 2  # after them; each leaves none
LOOKS = 10
MORE_FILES = 4  # other than sockets, when no run goes on
# At most. For an event about a user whose record is gone a thread opens many connections to the store at once
# and keeps them until the store closes them, so how many there are says nothing. A run lists, reads, asks
# again and stores by connections of its own; a session is two files.
SOCKETS = {
    "process-users": (THREADS + 3) * CONCURRENCY + 2 * (THREADS + 1) + 2 * THREADS,
    "get-data": 2 * (THREADS + 1) + 2 * THREADS,
}
# What is read, with the status that is right.
READS = {
    "/data": 200,
    "/data?format=csv&spreadsheet=true": 200,
    "/data?format=ndjson&min_age=30": 200,
    "/data?limit=20&after=100": 200,
    "/data?is_image_exists=true&max_age=40&limit=5": 200,
    "/?format=html": 200,
    "/stats": 200,
    "/openapi.json": 200,
    "/metrics": 200,
    "/readyz": 200,
    "/data/nobody": 404,
    "/data?limit=0": 400,
}
RUNS_READS = {"/runs": 200, "/runs/0": 404, "/metrics": 200, "/readyz": 200}
_SESSIONS = """
select usename, count(*)
from pg_stat_activity
where datname = current_database() and usename in ('rollcall_process_users', 'rollcall_get_data')
group by usename
"""


@dataclass(slots=True)
class Sample:
    """What all processes of a function hold at one moment, by process id: bytes, sockets and other files."""

    memory: dict[int, int]
    sockets: dict[int, int]
    files: dict[int, int]
    sessions: int


@dataclass(slots=True)
class Town:
    """Users whose files change, and both functions in use."""

    pipeline: Pipeline
    process_users: Function
    get_data: Function
    ended: threading.Event = field(default_factory=threading.Event)
    model: Model = field(default_factory=Model)
    versions: dict[str, set[Person]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def write(self) -> None:
        """Change a file, and tell of most changes."""
        dice = random.Random(SEED)
        with open_pool() as pool:
            while not self.ended.wait(0.1):
                key = f"{dice.choice(USERS)}.{dice.choice(['csv', 'csv', 'png'])}"
                event = CREATED
                if key in self.model.files and dice.random() < 0.2:
                    self.pipeline.remove(key)
                    del self.model.files[key]
                    event = REMOVED
                else:
                    self.put(key, dice)
                self.counts["changes"] += 1
                if dice.random() < 0.7:
                    self.tell(pool, key, event)

    def put(self, key: str, dice: random.Random) -> None:
        file = dice.choice([record(f"Ada {dice.random()}"), dice.choice(CONTENTS)])
        if key.endswith("png"):
            file = PICTURE
        self.pipeline.put(key, file.body)
        self.model.files[key] = file
        if isinstance(file.becomes, tuple):
            self.versions.setdefault(key.rpartition(".")[0], set()).add(file.becomes)

    def tell(self, pool: urllib3.PoolManager, key: str, event: str) -> None:
        body = json.dumps(notification(self.pipeline.bucket.source, key, event))
        headers = {"Authorization": "Bearer events", "Connection": "close"}
        response = pool.request("POST", f"{self.process_users.url}/events", body=body, headers=headers)
        assert response.status == 204, response.data
        self.counts["events"] += 1

    def warm_up(self) -> None:
        """Have each thread of process-users open all that it keeps: connections to both servers."""
        with open_pool() as pool, ThreadPoolExecutor(2 * THREADS) as threads:
            key = f"{USERS[0]}.csv"
            list(threads.map(lambda _: self.tell(pool, key, REMOVED), range(20 * THREADS)))

    def run(self) -> None:
        """Do runs of all kinds."""
        dice = random.Random(SEED + 1)
        with open_pool() as pool:
            while not self.ended.wait(2):
                query = dice.choice(["", "", "", "?full=true", "?dry_run=true"])
                response = pool.request("POST", f"{self.process_users.url}/data{query}")
                assert response.status == 200, response.data
                self.counts["runs"] += 1

    def read(self, function: Function, reads: dict[str, int]) -> None:
        """Ask for everything in turn, half of it again with its tag."""
        dice = random.Random(SEED + 2)
        with open_pool() as pool:
            while not self.ended.wait(0.1):
                path, status = dice.choice(list(reads.items()))
                response = pool.request("GET", function.url + path)
                assert response.status == status, (path, response.status, response.data[:200])
                self.counts["reads"] += 1
                if "ETag" in response.headers and dice.random() < 0.5:
                    headers = {"If-None-Match": response.headers["ETag"], "Connection": "close"}
                    again = pool.request("GET", function.url + path, headers=headers)
                    assert again.status in (200, 304), (path, again.status)

    def work_alone(self) -> None:
        """Do a run over something new and an export, again and again."""
        dice = random.Random(SEED + 3)
        with open_pool() as pool:
            for _ in range(ALONE):
                self.put(f"{USERS[0]}.csv", dice)
                for method, function in (("POST", self.process_users), ("GET", self.get_data)):
                    response = pool.request(method, f"{function.url}/data")
                    assert response.status == 200, response.data

    def until_it_ends(self, actor: Callable[..., None], *args: object) -> None:
        """Let somebody act; whoever fails ends it for all."""
        try:
            actor(*args)
        finally:
            self.ended.set()


def open_pool() -> urllib3.PoolManager:
    """Return a client that keeps no connections: one may be closed just as it is used again."""
    return urllib3.PoolManager(retries=False, timeout=60, headers={"Connection": "close"})


def list_processes(function: Function) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("HOME") == str(function.home)
    ]


def fetch_memory(process: psutil.Process) -> int:
    """Return the bytes that are a process's alone: not those of libraries, which others may use as well."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def list_files(process: psutil.Process) -> list[str]:
    """Return what the open files of a process are."""
    found = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            found.append(str(link.readlink()))
    return found


def count_sockets(processes: list[psutil.Process]) -> dict[int, int]:
    """Return the least of several looks: how many sockets each process keeps."""
    least: dict[int, int] = {}
    for _ in range(LOOKS):
        for process in processes:
            sockets = sum(name.startswith("socket:") for name in list_files(process))
            least[process.pid] = min(sockets, least.get(process.pid, sockets))
        time.sleep(0.05)
    return least


def take_sample(function: Function, processes: list[psutil.Process], owner: Driver) -> Sample:
    """Measure what is held now; raises NoSuchProcess when a process has ended."""
    sessions = dict(map(tuple, owner.run(_SESSIONS) or []))
    files = {process.pid: list_files(process) for process in processes}
    sockets = {pid: sum(name.startswith("socket:") for name in names) for pid, names in files.items()}
    return Sample(
        {process.pid: fetch_memory(process) for process in processes},
        sockets,
        {pid: len(names) - sockets[pid] for pid, names in files.items()},
        sessions.get(function.name.replace("-", "_"), 0),
    )


@contextmanager
def in_use(town: Town) -> Iterator[None]:
    """Have everybody act during the block; raises what any of them met."""
    with ThreadPoolExecutor(6) as threads:
        actors = [
            threads.submit(town.until_it_ends, town.write),
            threads.submit(town.until_it_ends, town.run),
            threads.submit(town.until_it_ends, town.read, town.process_users, RUNS_READS),
            *(threads.submit(town.until_it_ends, town.read, town.get_data, READS) for _ in range(3)),
        ]
        try:
            yield
        finally:
            town.ended.set()
        for actor in actors:
            actor.result(60)


def check_flat(name: str, samples: list[Sample]) -> dict[str, object]:
    """Compare the second quarter with the last; returns figures to print."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    grown = max(
        statistics.median(one.memory[pid] for one in late)
        - statistics.median(one.memory[pid] for one in early)
        for pid in late[-1].memory
    )
    # At the least, that is between two runs.
    files = max(
        min(one.files[pid] for one in late) - min(one.files[pid] for one in early) for pid in late[-1].files
    )
    sockets = max(max(one.sockets.values()) for one in samples)
    sessions = max(one.sessions for one in samples)
    assert grown < MORE_BYTES, f"{name} holds {grown / 1e6:.1f} MB more"
    assert files <= MORE_FILES, f"{name} has {files} more open files"
    assert sockets <= SOCKETS[name], f"{name} has {sockets} sockets"
    assert sessions <= THREADS + 1, f"{name} has {sessions} sessions"
    short = name.replace("-", "_")
    return {
        f"{short}_MB": round(sum(late[-1].memory.values()) / 1e6),
        f"{short}_grew_MB": round(grown / 1e6, 1),
        f"{short}_sockets_at_most": sockets,
        f"{short}_files_grew": files,
        f"{short}_sessions_at_most": sessions,
    }


def test_after_a_long_time_of_mixed_use_nothing_has_grown(
    pipeline: Pipeline, owner: Driver, start_function: StartFunction, count: Any
):
    functions = (
        start_function("process-users", pipeline.env(THREADS=str(THREADS))),
        start_function("get-data", {**pipeline.database.env("get_data"), "THREADS": str(THREADS)}),
    )
    town = Town(pipeline, *functions)
    town.warm_up()
    processes = {function.name: list_processes(function) for function in functions}
    samples: dict[str, list[Sample]] = {function.name: [] for function in functions}
    with in_use(town):
        for _ in range(SAMPLES):
            if town.ended.wait(SOAK_S / SAMPLES):
                break
            for function in functions:
                samples[function.name].append(take_sample(function, processes[function.name], owner))
    figures = {key: value for name in samples for key, value in check_flat(name, samples[name]).items()}
    kept = {name: count_sockets(found) for name, found in processes.items()}
    town.work_alone()
    for name, found in processes.items():
        left = max(now - kept[name][pid] for pid, now in count_sockets(found).items())
        assert left < MORE_SOCKETS, f"{name} has {left} more sockets after {ALONE} times"
        figures[f"{name.replace('-', '_')}_sockets_left"] = left
    for function in functions:
        check_log(function)
    seen = look(owner)
    for user_id, person in seen.people.items():
        assert person in town.versions[user_id], "a user is what no file said"
    town.model.learn(seen.people)
    pipeline.run()
    town.model.run(remove=False)
    compare(look(owner), pipeline, town.model)
    count(seed=SEED, seconds=SOAK_S, **town.counts, **figures)


def check_log(function: Function) -> None:
    """Check that nothing was worth a warning."""
    lines = [json.loads(line) for line in function.log.read_text().splitlines() if line.startswith("{")]
    assert lines
    assert [line for line in lines if line["level"] not in ("info", "debug")] == []
