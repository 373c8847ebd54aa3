"""The lock of a run: soon free when its holder is killed or cut off, who then writes nothing more."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import pytest
import urllib3
from faults.comparison import compare, look
from faults.model import PICTURE, VALID, File, Model, record
from faults.proxy import LONGEST_S, Proxy, Tap, proxied
from pg8000.native import Connection as Driver
from pipeline import ONE_STORE, Pipeline, document
from rig import Function, StartFunction

from process_users import outputs
from rollcall.ports import HOST
from rollcall.processes import kill_all, wait_until

pytestmark = ONE_STORE
KILLED_S = 1
CUT_OFF_S = 60
HELD = """
select count(*)
from pg_locks
where locktype = 'advisory' and granted
  and database = (select oid from pg_database where datname = current_database())
"""
TERMINATE = """
select pg_terminate_backend(pid, 5000)
from pg_locks
where locktype = 'advisory' and granted
  and database = (select oid from pg_database where datname = current_database())
"""


class Scene:
    """A function behind proxies that does a run over a few users."""

    def __init__(self, pipeline: Pipeline, owner: Driver, stack: ExitStack) -> None:
        self.pipeline, self.owner, self.tap = pipeline, owner, Tap()
        self.postgres = stack.enter_context(proxied(pipeline.database.settings.port, self.tap))
        self.store = stack.enter_context(proxied(pipeline.bucket.store.port, self.tap))
        self.threads = stack.enter_context(ThreadPoolExecutor(2))
        self.model = Model()
        for key, file in {"1.csv": VALID["ada"], "1.png": PICTURE, "2.csv": VALID["grace"]}.items():
            self.put(key, file)

    @property
    def ports(self) -> dict[str, str]:
        return {"PGPORT": str(self.postgres.port), "MINIO_ENDPOINT": f"http://{HOST}:{self.store.port}"}

    @property
    def env(self) -> dict[str, str]:
        return self.pipeline.env(WORKERS="2", **self.ports)

    def is_held(self) -> bool:
        ((count,),) = self.owner.run(HELD) or []
        return count > 0

    def measure(self, timeout_s: float) -> float:
        """Return after how many seconds from now the lock is free."""
        started = time.monotonic()
        wait_until(lambda: not self.is_held(), timeout_s=timeout_s, what="the lock to be free")
        return time.monotonic() - started

    def put(self, key: str, file: File) -> None:
        self.pipeline.put(key, file.body)
        self.model.files[key] = file

    def begin_run(self) -> "Future[Any]":
        client = self.pipeline.client(**self.ports)
        return self.threads.submit(client.application.test_client().post, "/data")

    def run(self) -> None:
        """Do a run with nothing in its way, and compare everything."""
        self.pipeline.run()
        self.model.run(remove=False)
        compare(look(self.owner), self.pipeline, self.model)


@pytest.fixture
def scene(pipeline: Pipeline, owner: Driver) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(pipeline, owner, stack)


def post(function: Function) -> int:
    with urllib3.PoolManager(retries=False) as pool:
        return pool.request("POST", f"{function.url}/data", timeout=60).status


def list_processes(function: Function) -> list[psutil.Process]:
    """Return the function's processes, the master first."""
    found = [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("HOME") == str(function.home)
    ]
    return sorted(found, key=psutil.Process.create_time)


def find_worker(family: list[psutil.Process], proxy: Proxy) -> psutil.Process:
    """Return the process that does the run: no other is connected to the store."""
    for process in family:
        if any(one.raddr and one.raddr.port == proxy.port for one in process.net_connections("tcp")):
            return process
    raise LookupError("no process is connected to the store")


@contextmanager
def run_stopped(scene: Scene, where: str, begin: Callable[[], "Future[Any]"]) -> Iterator["Future[Any]"]:
    """Begin a run and have it wait: for the store between two statements, or for Postgres in one."""
    if where == "in a statement":
        with scene.pipeline.holding_commits() as gate:
            run = begin()
            gate.wait_for()
            yield run
    else:
        with scene.tap.holding("GET /", "/1.csv ") as hold:
            run = begin()
            hold.wait()
            yield run


WHERE = pytest.mark.parametrize("where", ["between statements", "in a statement"])


@WHERE
@pytest.mark.parametrize("who", ["worker", "master", "group"])
def test_the_lock_is_free_within_a_second_after_kill_9(
    scene: Scene, start_function: StartFunction, who: str, where: str, count: Any
):
    function = start_function("process-users", scene.env)
    with run_stopped(scene, where, lambda: scene.threads.submit(post, function)) as run:
        assert scene.is_held()
        family = list_processes(function)
        if who == "group":
            os.killpg(family[0].pid, signal.SIGKILL)
        else:
            victim = family[0] if who == "master" else find_worker(family, scene.store)
            victim.kill()
        seconds = scene.measure(10)
    with pytest.raises(urllib3.exceptions.HTTPError):
        run.result(10)
    count(lock_held_s=round(seconds, 2))
    assert seconds < KILLED_S
    assert scene.pipeline.get("/runs/1")["state"] == "lost"
    scene.run()
    kill_all(family)


@WHERE
def test_the_lock_is_free_within_a_minute_after_the_network_is_cut_and_the_next_run_goes_on(
    scene: Scene, where: str, count: Any
):
    with run_stopped(scene, where, scene.begin_run) as run:
        scene.postgres.unplug()
        seconds = scene.measure(CUT_OFF_S + 10)
    answer = run.result(LONGEST_S)
    assert (answer.status_code, document(answer)["code"]) == (503, "database_unavailable")
    scene.put("1.csv", record("New"))
    scene.run()
    count(lock_held_s=round(seconds, 1))
    assert seconds < CUT_OFF_S


# What a message holds, and how many with it come before. Each fetch asks the portal for a single row.
FETCH = "\0\0\0\0\1S\0\0\0\4"
STORING = {
    "before its lines": ("from users order by", 0),
    "between two fetches": (FETCH, 1),
    "after its lines": ("select 1 as alive", 0),
    "when it is stored": ("output_version = cast", 0),
}


@pytest.mark.parametrize("where", STORING)
def test_a_run_that_loses_its_lock_while_it_stores_its_output_leaves_that_of_the_next_run(
    scene: Scene, where: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outputs, "FETCHED_ROWS", 1)
    message, skip = STORING[where]
    with scene.tap.holding(message, answer=False, skip=skip) as hold:
        run = scene.begin_run()
        hold.wait()
        scene.owner.run(TERMINATE)
        scene.put("1.csv", record("New"))
        scene.run()
        hold.release()
        assert document(run.result(LONGEST_S))["code"] == "database_unavailable"
    compare(look(scene.owner), scene.pipeline, scene.model)
    assert [run["state"] for run in look(scene.owner).runs] == ["ok", "lost"]
