"""How statements find their rows: by an index, whatever the statistics said when their plans were made."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from rig import Database

from process_users.batches import build_batch, to_copy_text
from process_users.ledger import Ledger, create_stage
from process_users.outcomes import Outcome
from serving.postgres import Connection

USERS = 4_000
BATCH = 1_000
SCANS = "select relname, seq_scan from pg_stat_user_tables where relname in ('users', 'ledger', 'versions')"
# When statistics may have been taken, and what the tables held then.
MOMENTS = {
    "of empty tables": (),
    "of few rows": ("insert into ledger (key, revision) values ('x', 1)",),
    "after all was deleted": (
        "insert into ledger (key, revision) select n, 1 from generate_series(1, 5000) n",
        "analyze",
        "delete from ledger",
    ),
}


@pytest.fixture
def session(database: Database) -> Iterator[Connection]:
    with closing(database.open_session("process_users")) as session:
        create_stage(session)
        yield session


def make_batch(first: int, count: int, *, expected: int = 0) -> list[Outcome]:
    outcomes = []
    for number in range(first, first + count):
        whose = Outcome(f"{number}.csv", expected, etag="e", user_id=str(number))
        outcomes.append(whose._replace(first_name="A", last_name="B", birthts=number))
        outcomes.append(whose._replace(key=f"{number}.png", picture=0))
    return outcomes


def settle(ledger: Ledger, outcomes: list[Outcome]) -> int:
    return ledger.settle_batch(to_copy_text(build_batch(outcomes))).upserted


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_first_load_reads_no_table_from_end_to_end(session: Connection, database: Database, moment: str):
    for statement in (*MOMENTS[moment], "vacuum analyze"):
        database.run(statement)
    before = dict(map(tuple, database.run(SCANS)))
    ledger = Ledger(session, bucket="src")
    for first in range(0, USERS, BATCH):
        assert settle(ledger, make_batch(first, BATCH)) == BATCH
        keys = [f"{number}.csv" for number in range(first, first + BATCH)]
        assert len(ledger.fetch_revisions(keys)) == BATCH
        assert sum(len(page) for page in ledger.fetch_pages(keys[0], None))
        ledger.fetch_users_without_record(100)
        assert not ledger.lacks_record(str(first))
        ledger.remove_users([str(first)])
        ledger.settle([Outcome(f"{first}.csv", None, user_id=str(first), reason="unreadable")])
        ledger.fetch_rejects(100)
        ledger.forget_old_versions()
    session.run("select pg_stat_force_next_flush()")
    session.run("select")
    session.close()
    with closing(database.connect()) as owner:
        owner.run("select pg_stat_clear_snapshot()")
        after = dict(map(tuple, owner.run(SCANS) or []))
    assert after == before


def test_a_batch_of_which_everything_is_in_conflict_takes_no_longer_by_the_square(session: Connection):
    """Each of many keys was looked for in the list of all of them."""
    ledger = Ledger(session, bucket="src")
    assert settle(ledger, make_batch(0, 10_000)) == 10_000
    applied = ledger.settle_batch(to_copy_text(build_batch(make_batch(0, 10_000))))
    assert (applied.upserted, len(applied.conflicts)) == (0, 20_000)


def test_statistics_are_refreshed_by_a_function_that_only_a_run_may_call(
    session: Connection, database: Database
):
    settle(Ledger(session, bucket="src"), make_batch(0, 10))
    Ledger(session, bucket="src").refresh_statistics()
    estimates = database.run("select reltuples from pg_class where relname in ('users', 'ledger') order by 1")
    assert estimates == [[10], [20]]
    for role in ("get_data", "reader"):
        with closing(database.connect(role)) as driver, pytest.raises(Exception, match="42501"):
            driver.run("select refresh_statistics()")
    assert not database.run(
        "select from pg_class, aclexplode(relacl) where relname = 'users' and privilege_type = 'MAINTAIN' "
        "and grantee <> relowner"
    )
