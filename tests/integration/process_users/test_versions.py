"""The versions of the served data: one for each change, found at once, kept for a month."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any, LiteralString

import pytest
from rig import Database

from get_data.queries import VERSION, build_user
from process_users.ledger import Ledger, create_stage
from process_users.outcomes import Outcome
from serving.postgres import Connection

COMMITS, STEP = 3_000, 100
SETTLE_OFTEN = """
do $$
begin
    for number in {first}..{last} loop
        perform pg_temp.settle(
            array(
                select o
                from json_populate_recordset(
                    cast(null as stage),
                    json_build_array(json_build_object(
                        'key', number || '.csv', 'expected', 0, 'gone', false, 'user_id', number,
                        'first_name', 'Ada', 'last_name', 'King', 'birthts', 0
                    ))
                ) o
            ),
            'src', null
        );
        commit;
    end loop;
end
$$
"""
# What requests, runs and commits read while they are in a hurry.
HOT: dict[str, tuple[str, LiteralString]] = {
    "the version": ("get_data", VERSION.sql),
    "a user": ("get_data", build_user("nobody").sql.replace(":user_id", "'nobody'")),
    "the rules": ("process_users", "select rules from state"),
    "the lock of commits": ("process_users", "select from locks where name = 'commit' for update"),
    "the next version": ("process_users", "select max(version) + 1 from versions"),
    "the lock of runs": ("process_users", "select from locks where name = 'run' for update"),
    "the runs": ("get_data", "select shown_state(runs) from runs order by run_id desc limit 20"),
}


@pytest.fixture
def session(database: Database) -> Iterator[Connection]:
    with closing(database.open_session("process_users")) as session:
        create_stage(session)
        yield session


def settle_often(session: Connection, first: int, last: int) -> None:
    """Commit a new user for each number."""
    session.run(SETTLE_OFTEN.format(first=first, last=last))  # pyright: ignore[reportArgumentType]


def count_buffers(database: Database, role: str, sql: str) -> int:
    """Return how many pages a statement reads, in a session of its own."""
    with closing(database.connect(role)) as driver:
        ((plan,),) = driver.run(f"explain (analyze, buffers, format json) {sql}") or []
    document: dict[str, Any] = (plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]
    return document["Shared Hit Blocks"] + document["Shared Read Blocks"]


def test_what_is_read_all_the_time_costs_the_same_while_somebody_holds_an_old_snapshot(
    session: Connection, database: Database
):
    settle_often(session, 1, STEP)
    with closing(database.connect()) as dump:
        dump.run("begin isolation level repeatable read")
        dump.run("select from users")
        before = {name: count_buffers(database, *hot) for name, hot in HOT.items()}
        for first in range(STEP + 1, COMMITS, STEP):
            settle_often(session, first, first + STEP - 1)
        after = {name: count_buffers(database, *hot) for name, hot in HOT.items()}
    assert database.run("select max(version) from versions") == [[COMMITS]]
    # An index of thousands is a level higher than one of ten.
    grown = {name: (before[name], after[name]) for name in HOT if after[name] > before[name] + 3}
    assert grown == {}


def test_a_version_says_of_which_run_it_is(session: Connection, database: Database):
    for number, run_id in ((1, 7), (2, None)):
        ledger = Ledger(session, bucket="src", run_id=run_id)
        user_id = str(number)
        outcome = Outcome(f"{number}.csv", 0, user_id=user_id, first_name="A", last_name="B", birthts=0)
        assert ledger.settle([outcome]).upserted == 1
    Ledger(session, bucket="src", run_id=8).settle([Outcome("1.csv", 1, gone=True)])
    assert Ledger(session, bucket="src", run_id=9).remove_users(["1"]) == 1
    rows = database.run("select version, run_id from versions order by version")
    assert rows == [[0, None], [1, 7], [2, None], [3, 9]]
    assert database.run("select count(distinct lineage) from versions") == [[4]]


@pytest.mark.parametrize(
    ("days", "left"),
    [
        ([40, 31, 29, 0], [3, 4]),
        ([60, 50, 40, 31], [4]),  # the current one stays, however old it is
        ([1, 0, 0, 0], [1, 2, 3, 4]),
    ],
)
def test_versions_are_kept_for_thirty_days(
    session: Connection,
    database: Database,
    days: list[int],
    left: list[int],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("process_users.ledger.FORGOTTEN_VERSIONS", 1)
    database.run("delete from versions")
    for number, age in enumerate(days, 1):
        database.run(
            "insert into versions (version, at) values "
            "(cast(:number as bigint), now() - cast(:age as integer) * interval '1 day')",
            number=number,
            age=age,
        )
    Ledger(session, bucket="src").forget_old_versions()
    assert database.run("select version from versions order by version") == [[number] for number in left]
