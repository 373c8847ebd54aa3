"""Why Postgres cannot be used, and what is done again because of others."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from pipeline import ONE_STORE, Pipeline
from rig import Bucket, Database
from serving_settings import read_settings

from rollcall.ports import choose_port
from rollcall.processes import wait_until
from serving.postgres import Connection, DatabaseUnavailableError

LONG_S = 30
RAISE = """
create function fail_sometimes() returns trigger language plpgsql security definer as $$
begin
    if nextval('attempts') <= {failures} then
        raise exception using errcode = '{code}';
    end if;
    return new;
end
$$
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "wrong"}, "refuses the password"),
        ({"user": "nobody"}, "refuses the password|does not let this user in"),
        ({"database": "nothing"}, "no database of the name PGDATABASE"),
        ({"host": "nowhere.invalid"}, "cannot be resolved"),
        ({"host": "/nowhere"}, "no socket of PGPORT"),
        ({"port": choose_port()}, "the connection was refused"),
        ({"sslmode": "require"}, "offers no TLS"),
    ],
    ids=["password", "user", "database", "name", "socket", "port", "tls"],
)
def test_the_reason_says_what_is_wrong(database: Database, change: dict, reason: str):
    settings = replace(read_settings(database, "get_data"), **change)
    with pytest.raises(DatabaseUnavailableError, match=reason):
        Connection(settings, application_name="test")


def test_a_session_that_the_server_ended_is_lost_whatever_its_code(database: Database):
    with closing(Connection(read_settings(database, "get_data"), application_name="ended")) as session:
        session.run("set idle_in_transaction_session_timeout = '50ms'")
        session.run("begin")
        wait_until(session.is_closed_by_server, timeout_s=LONG_S, what="the server to end the session")
        with pytest.raises(DatabaseUnavailableError, match=r"was lost \(25P03\)"):
            session.run_prepared("select cast(:number as bigint)", number=1)
        assert session.broken


@ONE_STORE
@pytest.mark.parametrize(
    ("code", "failures", "status"),
    [("40001", 2, 200), ("40P01", 2, 200), ("40001", 99, 503), ("53100", 1, 503), ("40003", 1, 503)],
)
def test_a_commit_that_others_had_rolled_back_is_done_again(
    bucket: Bucket, database: Database, code: str, failures: int, status: int
):
    database.run("create sequence attempts")
    database.run(RAISE.format(code=code, failures=failures))
    database.run("create trigger fail before insert on ledger for each row execute function fail_sometimes()")
    with Pipeline(bucket, database) as pipeline:
        pipeline.put("1.csv")
        response = pipeline.client().post("/data")
        assert (response.status_code, response.headers.get("Retry-After")) == (
            status,
            "5" if status == 503 else None,
        )
        if code == "53100":
            assert "disk of Postgres is full" in response.text
        assert pipeline.user_ids() == (["1"] if status == 200 else [])


def test_of_two_that_wait_for_each_other_both_commit(database: Database):
    database.run("create table pair as select n, 0 as times from generate_series(1, 2) n")
    owner = read_settings(database, "owner")
    step = "update pair set times = times + 1 where n = cast(:n as integer)"
    waiting = (
        "select count(*) from pg_stat_activity where application_name = 'pair' and wait_event_type = 'Lock'"
    )
    with (
        closing(Connection(owner, application_name="pair")) as session,
        closing(database.connect()) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        other.run("set deadlock_timeout = '100s'")  # the session is the one that is rolled back
        other.run("begin")
        other.run(step, n=2)

        def work() -> None:
            session.run(step, n=1)
            session.run(step, n=2)

        done = thread.submit(session.transact, work)
        wait_until(lambda: database.run(waiting) == [[1]], timeout_s=LONG_S, what="the session to wait")
        other.run(step, n=1)
        other.run("commit")
        done.result(LONG_S)
    assert database.run("select times from pair order by n") == [[2], [2]]
