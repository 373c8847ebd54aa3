"""What keeps runs apart: one run and one dry run at a time, whatever other roles do with their rights."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest
from pg8000.native import Connection as Driver
from pg8000.native import DatabaseError
from pipeline import ONE_STORE, Pipeline, document, stopping_after_reading
from rig import Database

from process_users.runs import (
    Counts,
    RunInProgressError,
    begin_dry_run,
    begin_run,
    end_run,
)
from rollcall.processes import wait_until
from serving.postgres import Connection

DENIED = "42501"
MINE = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
# What somebody may try with the rights of a role that reads; what is not refused goes on while the run does.
HOSTILE = {
    "the lock of former releases": "select pg_advisory_lock(20261123)",
    "all locks there are": "select pg_advisory_lock(n) from generate_series(1, 100000) n",
    "the same shared": "select pg_try_advisory_xact_lock_shared(1, n) from generate_series(1, 100000) n",
    "the key of a lock": "select pg_try_advisory_lock(key) from locks",
    "a row lock": "select from locks for key share",
    "a row lock on state": "select from state for update",
    "table locks": "lock table users, runs, state in access share mode",
    "a strong table lock": "lock table users in share mode",
    "a serializable snapshot": "set transaction isolation level serializable; select count(*) from users",
    "an open cursor": "declare everybody cursor with hold for select * from users, runs, state",
    "ending sessions": "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()",
}


@pytest.fixture
def session(database: Database) -> Iterator[Connection]:
    with closing(database.open_session("process_users")) as session:
        yield session


def attempt(driver: Driver, statements: str) -> None:
    """Run statements in a transaction that stays open; what the role may not do is refused."""
    driver.run("begin")
    try:
        for statement in statements.split("; "):
            driver.run(statement)
    except DatabaseError as error:
        if error.args[0]["C"] != DENIED:
            raise


@ONE_STORE
@pytest.mark.parametrize("role", ["reader", "get_data"])
@pytest.mark.parametrize("attack", HOSTILE)
def test_nobody_who_only_reads_can_stop_a_run(pipeline: Pipeline, role: str, attack: str):
    pipeline.put("1000.csv")
    with closing(pipeline.database.connect(role)) as driver:
        attempt(driver, HOSTILE[attack])
        assert pipeline.run()["upserted"] == 1
        pipeline.put("1001.csv")
        pipeline.notify("1001.csv")
        assert pipeline.run("dry_run=true")["unchanged"] == 2
        assert pipeline.get("/runs/1")["state"] == "ok"


def test_a_run_gives_its_lock_back_while_its_session_goes_on(session: Connection, database: Database):
    for number in (1, 2):
        run = begin_run(session, full=False)
        assert run.run_id == number
        assert session.run(MINE) == [[1]]
        with closing(database.open_session("process_users")) as other:
            with pytest.raises(RunInProgressError, match=f"run {number} is going on"):
                begin_run(other, full=False)
            end_run(session, run, Counts(), rejected=0, error="internal" if number == 1 else None)
            assert session.run(MINE) == [[0]]
    assert database.run("select name from held_locks") == []
    assert database.run("select state from runs order by run_id") == [["failed"], ["ok"]]


@pytest.mark.parametrize("begin", [lambda session: begin_run(session, full=False), begin_dry_run])
def test_a_lock_ends_with_its_session(database: Database, begin: Callable[[Connection], object]):
    with closing(database.open_session("process_users")) as killed:
        begin(killed)
        database.run("select pg_terminate_backend(pid, 5000) from locks where pid is not null")
        with closing(database.open_session("process_users")) as next_one:
            begin(next_one)
            assert len(database.run("select from held_locks")) == 1


def test_a_row_is_held_by_its_own_living_session_alone(session: Connection, database: Database):
    """Not by whoever got the pid of a session that ended, and has taken its key."""
    begin_run(session, full=False)
    states = {
        "pid = pg_backend_pid()": "lost",  # of another session, without the advisory lock
        "key = key + 1": "lost",
        "role = (select oid from pg_roles where rolname = current_user)": "lost",
        "name = name": "running",
    }
    for change, state in states.items():
        with closing(database.connect()) as owner:
            before = database.run("select pid, role, key from locks where name = 'run'")[0]
            owner.run(f"update locks set {change} where name = 'run'")  # noqa: S608  a constant of this test
            assert session.run("select shown_state(runs) from runs") == [[state]]
            owner.run(
                "update locks set pid = cast(:pid as integer), role = cast(:role as oid), "
                "key = cast(:key as bigint) where name = 'run'",
                **dict(zip(("pid", "role", "key"), before, strict=True)),
            )


def test_who_is_refused_is_always_told_which_run_is_going_on(database: Database):
    """Also while runs begin and end all the time."""

    def run_often(session: Connection) -> list[int | None]:
        told: list[int | None] = []
        for _ in range(25):
            try:
                run = begin_run(session, full=False)
            except RunInProgressError as error:
                told.append(error.run_id)
            else:
                end_run(session, run, Counts(), rejected=0, error=None)
        return told

    with ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        sessions = [stack.enter_context(closing(database.open_session("process_users"))) for _ in range(4)]
        told = [number for numbers in threads.map(run_often, sessions) for number in numbers]
    assert None not in told
    ended = database.run("select count(*) from runs where state = 'ok'")[0][0]
    assert ended == database.run("select count(*) from runs")[0][0] == 100 - len(told)


@ONE_STORE
def test_one_dry_run_goes_on_at_a_time_beside_a_run(pipeline: Pipeline):
    pipeline.put("1000.csv")
    with stopping_after_reading() as pause:
        first = pipeline.begin("dry_run=true")
        pause.wait()
        refused = [
            pipeline.client(LOG_LEVEL=level).post("/data?dry_run=true") for level in ("info", "error") * 5
        ]
        assert pipeline.run()["upserted"] == 1
        assert len(pipeline.get("/runs")["runs"]) == 1
        assert pipeline.client().get("/healthz").status_code == 200
        pause.end()
        assert document(first.result(10))["state"] == "dry_run"
    for response in refused:
        assert (response.status_code, response.headers["Retry-After"]) == (409, "5")
        assert document(response) == {
            "type": "about:blank",
            "title": "Conflict",
            "status": 409,
            "code": "run_in_progress",
            "detail": "a dry run is going on",
            "run_id": None,
        }
    wait_until(
        lambda: pipeline.client().post("/data?dry_run=true").status_code == 200,
        timeout_s=30,
        what="the session of the first dry run to end",
    )


@ONE_STORE
def test_a_dry_run_goes_on_beside_a_run(pipeline: Pipeline):
    pipeline.put("1000.csv")
    with stopping_after_reading() as pause:
        run = pipeline.begin()
        pause.wait()
        assert pipeline.run("dry_run=true")["upserted"] == 1
        assert document(pipeline.client().post("/data"))["run_id"] == 1
        pause.end()
        assert document(run.result(10))["upserted"] == 1
