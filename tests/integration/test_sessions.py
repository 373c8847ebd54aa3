"""Sessions with Postgres: how many, for whom, for how long, and what each is set to."""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from get_data_client import insert_many, open_client
from idle_proxy import ending_idle
from pipeline import ONE_STORE, Pipeline, document, stopping_after_reading
from rig import (
    AS_IN_IMAGES,
    ROLE_PREFIX,
    TEMPLATE,
    Bucket,
    Database,
    StartFunction,
    clone_database,
    database_of,
    prepare_database,
)
from serving_settings import read_settings
from urllib3 import PoolManager

from rollcall.processes import wait_until
from rollcall.servers import QUICK, Postgres, embedded_postgres
from serving.pool import Pool
from serving.postgres import Connection, DatabaseUnavailableError
from serving.session import SETTINGS

LONG_S = 30


@contextmanager
def pool_of(database: Database, role: str = "get_data", **options: float) -> Iterator[Pool]:
    settings = read_settings(database, role)
    options = {"size": 2, **options}
    with closing(Pool(lambda: Connection(settings, application_name="test"), **options)) as pool:  # pyright: ignore[reportArgumentType]
        yield pool


def count_sessions(database: Database, role: str) -> int:
    count = "select count(*) from pg_stat_activity where usename = :role and datname = current_database()"
    return database.run(count, role=ROLE_PREFIX + role)[0][0]


# ------------------------------------------------------------------------------------------------ the pool


def test_a_borrower_waits_for_a_session_that_another_gives_back(database: Database):
    with pool_of(database, size=1, wait_s=LONG_S) as pool, ThreadPoolExecutor(1) as thread:

        def borrow() -> object:
            with pool.connection() as connection:
                return connection.run("select pg_backend_pid()")

        with pool.connection() as connection:
            pid = connection.run("select pg_backend_pid()")
            waiting = thread.submit(borrow)
            assert not waiting.done()
        assert waiting.result(LONG_S) == pid


def test_a_borrower_who_waits_in_vain_is_told_how_many_sessions_there_are(database: Database):
    with (
        pool_of(database, size=1, wait_s=0.1) as pool,
        pool.connection(),
        pytest.raises(DatabaseUnavailableError, match=r"all 1 sessions .* are in use"),
        pool.connection(),
    ):
        pass


def test_when_the_server_has_no_session_left_the_next_borrower_gets_that_of_another(postgres: Postgres):
    with alone_on(postgres, "test_limit") as (database, role):
        database.run(f"alter role {ROLE_PREFIX}{role} connection limit 1")
        with pool_of(database, role, size=5, wait_s=LONG_S) as pool, ThreadPoolExecutor(4) as threads:

            def borrow(_: int) -> object:
                with pool.connection() as connection:
                    return connection.run("select pg_backend_pid()")

            assert len({str(pid) for pid in threads.map(borrow, range(12))}) == 1


def test_when_the_server_has_a_session_again_who_waits_gets_it(postgres: Postgres):
    with alone_on(postgres, "test_limit_2") as (database, role):
        database.run(f"alter role {ROLE_PREFIX}{role} connection limit 0")
        with pool_of(database, role, wait_s=LONG_S) as pool, ThreadPoolExecutor(1) as thread:
            begun = threading.Event()

            def borrow() -> object:
                begun.set()
                with pool.connection() as connection:
                    return connection.run("select 1")

            waiting = thread.submit(borrow)
            begun.wait(LONG_S)
            database.run(f"alter role {ROLE_PREFIX}{role} connection limit 1")
            assert waiting.result(LONG_S) == [[1]]


def test_when_the_server_has_none_for_long_the_reason_says_so(postgres: Postgres):
    with alone_on(postgres, "test_limit_3") as (database, role):
        database.run(f"alter role {ROLE_PREFIX}{role} connection limit 0")
        with (
            pool_of(database, role, wait_s=0.5) as pool,
            pytest.raises(DatabaseUnavailableError, match="no session left"),
            pool.connection(),
        ):
            pass


@contextmanager
def alone_on(server: Postgres, role: str) -> Iterator[tuple[Database, str]]:
    """A role of the test's own: a limit of one that others use would be theirs too."""
    with clone_database(server, TEMPLATE) as database:
        name = ROLE_PREFIX + role
        database.run(f"create role {name} login password 'of-tests'")
        database.run(f'grant connect on database "{database.settings.database}" to {name}')
        try:
            yield replace(database, passwords={**database.passwords, role: "of-tests"}), role
        finally:
            database.run(f"drop owned by {name}")
            database.run(f"drop role {name}")


def test_idle_sessions_are_given_back_except_those_that_are_kept(database: Database):
    with pool_of(database, size=4, kept=1, idle_s=0.2) as pool:
        with pool.connection(), pool.connection(), pool.connection():
            pass
        assert count_sessions(database, "get_data") >= 1
        wait_until(lambda: count_sessions(database, "get_data") == 1, timeout_s=LONG_S, what="one session")
        with pool.connection() as connection:
            assert connection.run("select 1") == [[1]]


def test_a_kept_session_is_opened_early_and_again_when_it_is_lost(database: Database):
    find = (
        "select pid from pg_stat_activity "
        "where datname = current_database() and usename = 'rollcall_get_data'"
    )
    with pool_of(database, kept=1) as pool:
        pool.start()
        wait_until(lambda: count_sessions(database, "get_data") == 1, timeout_s=LONG_S, what="a session")
        (pid,) = database.run(find)[0]
        database.run("select pg_terminate_backend(:pid)", pid=pid)
        wait_until(lambda: database.run(find) not in ([], [[pid]]), timeout_s=LONG_S, what="another")


def test_a_session_that_changes_hands_is_there_all_the_time(database: Database):
    settings = read_settings(database, "get_data")
    seen: list[bool] = []

    class Watched(Connection):
        def is_closed_by_server(self) -> bool:
            seen.append(pool.has_session)
            return super().is_closed_by_server()

        def __setattr__(self, name: str, value: object) -> None:
            if name == "used" and hasattr(self, "used"):
                seen.append(pool.has_session)
            super().__setattr__(name, value)

    with closing(Pool(lambda: Watched(settings, application_name="test"), size=1)) as pool:
        assert not pool.has_session
        for _ in range(2):
            with pool.connection() as connection:
                connection.run("select 1")
            connection.used -= 1  # so long ago that the next borrower looks whether it is still there
    assert len(seen) > 3
    assert all(seen)


def test_a_pool_leaves_nothing_behind(database: Database):
    with pool_of(database, kept=1) as pool, pool.connection():
        pass
    wait_until(lambda: count_sessions(database, "get_data") == 0, timeout_s=LONG_S, what="no sessions")
    assert [thread for thread in threading.enumerate() if thread.name == "sessions"] == []


# ------------------------------------------------------------------------------------- a server that is full


@pytest.fixture
def small_server() -> Iterator[Database]:
    """A database on a server that has few sessions: 17 for those who do not administer it."""
    with embedded_postgres(options={**QUICK, "max_connections": "20"}) as server:
        yield prepare_database(server, "small")


@ONE_STORE
def test_on_a_full_server_a_run_gets_its_session(
    small_server: Database, bucket: Bucket, start_function: StartFunction
):
    insert_many(small_server, 5_000)
    with Pipeline(bucket, small_server) as pipeline, ThreadPoolExecutor(40) as threads:
        pipeline.put("1.csv")
        env = {**pipeline.env(), **AS_IN_IMAGES}
        process_users = start_function("process-users", env)
        get_data = start_function("get-data", {**env, **small_server.env("get_data")})
        http = PoolManager(maxsize=40)

        def ask(url: str) -> int:
            return http.request("GET", url, timeout=60, retries=False).status

        paths = [f"{get_data.url}/data", f"{get_data.url}/data?limit=9", f"{process_users.url}/runs"] * 16
        statuses = set(threads.map(ask, paths))
        run = http.request("POST", f"{process_users.url}/data", timeout=60, retries=False)
        assert run.status == 200, run.data
        assert 200 in statuses
        assert statuses <= {200, 503}
        assert ask(f"{process_users.url}/readyz") == 200
        assert count_sessions(small_server, "get_data") + count_sessions(small_server, "process_users") <= 17
        http.clear()


@pytest.fixture
def pipeline(bucket: Bucket, database: Database) -> Iterator[Pipeline]:
    with Pipeline(bucket, database) as pipeline:
        yield pipeline


@ONE_STORE
def test_a_run_gives_its_session_back(pipeline: Pipeline):
    pipeline.put("1.csv")
    pids = set()
    for _ in range(3):
        pipeline.run()
        with sys.modules["main"].RUN_POOL.connection() as connection:
            pids.add(connection.run("select pg_backend_pid()")[0][0])
    assert len(pids) == 1
    pipeline.run("dry_run=true")
    with sys.modules["main"].POOL.connection() as connection:
        assert connection.run("select to_regclass('pg_temp.users')") == [[None]]


class TakenMeanwhile:
    """The pool of runs when a run takes its session before readiness does."""

    has_session = False

    def start(self) -> None:
        """Nothing to start."""

    def connection(self) -> object:
        self.has_session = True
        raise DatabaseUnavailableError("all 1 sessions that this process may have with Postgres are in use")


@ONE_STORE
def test_a_run_that_takes_its_session_first_makes_nothing_unready(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    assert pipeline.get("/readyz") == {"status": "ready"}
    monkeypatch.setattr(sys.modules["main"], "RUN_POOL", TakenMeanwhile())
    assert pipeline.get("/readyz") == {"status": "ready"}


# ---------------------------------------------------------------------------------- what others have set

HOSTILE = {
    "statement_timeout": "3s",
    "lock_timeout": "1ms",
    # Not shorter: they may end a session before it is set up.
    "idle_in_transaction_session_timeout": "2s",
    "idle_session_timeout": "2s",
    "transaction_timeout": "3s",
    "client_connection_check_interval": "0",
    "tcp_keepalives_idle": "7000",
    "tcp_keepalives_interval": "7000",
    "tcp_keepalives_count": "99",
    "tcp_user_timeout": "5000",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "client_encoding": "LATIN1",
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "xmloption": "document",
    "transform_null_equals": "on",
    "row_security": "off",
    "gin_fuzzy_search_limit": "1",
    "restrict_nonsystem_relation_kind": "view",
    "check_function_bodies": "off",
    "default_tablespace": "pg_default",
    "temp_tablespaces": "pg_default",
    "default_table_access_method": "heap",
    "exit_on_error": "on",
    "client_min_messages": "debug1",
    "plan_cache_mode": "force_custom_plan",
    "jit": "on",
}
FURTHER = {
    "search_path": "pg_catalog",
    "enable_seqscan": "off",
    "enable_indexscan": "off",
    "plpgsql.extra_errors": "all",
}


def test_each_setting_is_tried():
    assert HOSTILE.keys() == SETTINGS.keys()


@pytest.fixture(params=["role", "database"])
def hostile(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database on a server of its own, where everything is set against us."""
    with embedded_postgres() as server:
        database = prepare_database(server, "hostile")
        for name, value in {**HOSTILE, **FURTHER}.items():
            for role in ("process_users", "get_data"):
                whose = f"role {ROLE_PREFIX}{role}" if request.param == "role" else "database hostile"
                text = value if name in ("search_path", "DateStyle") else f"'{value}'"
                database_of(server, "postgres").run(f"alter {whose} set {name} to {text}")
        yield database


def test_what_others_have_set_does_not_reach_a_session(hostile: Database, database: Database):
    show = "select name, setting from pg_settings where name not like '%file%' order by name"
    sessions = [
        Connection(read_settings(where, "get_data"), application_name="test") for where in (hostile, database)
    ]
    try:
        got, want = [dict(map(tuple, session.run(show))) for session in sessions]
    finally:
        for session in sessions:
            session.close()
    got["search_path"] = got["search_path"].strip('"')  # as quote_all_identifiers was at first
    names = [*SETTINGS, "search_path", "enable_seqscan", "enable_indexscan"]
    assert {name: got[name] for name in names} == {name: want[name] for name in names}


@ONE_STORE
def test_whatever_others_have_set_everything_works(hostile: Database, bucket: Bucket):
    with Pipeline(bucket, hostile) as pipeline:
        for number in range(20):
            pipeline.put(f"{number}.csv")
        pipeline.put("1.png")
        pipeline.put("bad.csv", b"x")
        assert pipeline.run()["upserted"] == 20
        pipeline.put("20.csv")
        pipeline.notify("20.csv")
        report = pipeline.run("full=true")
        assert (report["output"]["rows"], report["rejected"]) == (21, 1)
        assert pipeline.run("dry_run=true")["listed"] == 23
        assert pipeline.get("/readyz") == {"status": "ready"}
    with open_client(hostile.env("get_data")) as client:
        assert client.get("/data").get_json()["1"] == {
            "first_name": "Ada",
            "last_name": "King",
            "birthts": 612_302_400_000,
            "img_path": f"{bucket.source}/1.png",
        }
        assert client.get("/stats").get_json()["count"] == 21
        assert client.get("/data?min_age=10&limit=2").status_code == 200
        assert client.get("/", headers={"Accept": "text/html"}).status_code == 200


def test_a_role_that_acts_as_another_acts_as_itself(postgres: Postgres):
    with alone_on(postgres, "test_acting") as (database, role):
        database.run(f"grant {ROLE_PREFIX}reader to {ROLE_PREFIX}{role}")
        database.run(f"alter role {ROLE_PREFIX}{role} set role = {ROLE_PREFIX}reader")
        connection = Connection(read_settings(database, role), application_name="test")
        assert connection.run("select current_user") == [[ROLE_PREFIX + role]]
        connection.close()


# ------------------------------------------------------------------------------ proxies with an idle limit


def test_a_lent_session_is_kept_alive(database: Database):
    with pool_of(database) as pool, pool.connection() as connection, connection.transaction(snapshot=True):
        columns = connection.read_column("select n::text from generate_series(1, 9) n", 4)
        first = next(columns).split()
        (pid,) = connection.run("select pg_backend_pid()")[0]
        last = "select query, state from pg_stat_activity where pid = :pid"
        want = [["select", "idle in transaction"]]
        wait_until(lambda: database.run(last, pid=pid) == want, timeout_s=LONG_S, what="a sign of life")
        rest = [text for column in columns for text in column.split()]
        assert [*first, *rest] == [str(number).encode() for number in range(1, 10)]


@ONE_STORE
def test_a_run_lasts_behind_a_proxy_that_ends_idle_sessions(pipeline: Pipeline):
    with ending_idle(pipeline.database, idle_s=3) as proxied, Pipeline(pipeline.bucket, proxied) as behind:
        behind.put("1.csv")
        with stopping_after_reading() as pause:
            run = behind.begin()
            pause.wait()
            time.sleep(7)  # twice what the proxy allows
            pause.end()
            assert document(run.result(LONG_S))["upserted"] == 1
