"""Migrations of a database that is in use: what the former release left stays, and there is a way back."""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from pg8000.native import identifier
from rig import REPOSITORY, Database, database_of, wanted_of

from rollcall import database as preparation
from rollcall.processes import wait_until
from rollcall.servers import Postgres, script

INFRA = REPOSITORY / "infra" / "postgres"
FORMER = "20261126000000"  # the last migration of the former release
LINEAGE = "6f1f2c9e-1b0e-4f0e-9d5a-0c1a5f0b7a11"
STATE = f"""
update state
set commits = 41, data_version = 17, lineage = '{LINEAGE}', rejects_version = 3, rules = 'v1',
    output_version = 17, output_etag = 'etag', output_rows = 1
"""  # noqa: S608


@pytest.fixture
def former(postgres: Postgres, tmp_path: Path) -> Iterator[Database]:
    """A database as the former release left it, with one user and a run."""
    database = database_of(postgres, f"former_{secrets.token_hex(4)}")
    maintenance = database_of(postgres, "postgres")
    maintenance.run(f"create database {identifier(database.settings.database)}")
    for migration in (INFRA / "migrations").iterdir():
        if migration.name[: len(FORMER)] <= FORMER:
            shutil.copy(migration, tmp_path)
    preparation.migrate(database.settings, tmp_path, {})
    database.run(STATE)
    database.run(
        "insert into users (user_id, first_name, last_name, birthdate) values ('1', 'Ada', 'King', 'epoch')"
    )
    database.run("insert into ledger (key, etag, revision, user_id) values ('1.csv', 'e', 41, '1')")
    database.run("insert into runs (state, pid) values ('ok', 1), ('running', 1)")
    yield database
    maintenance.run(f"drop database {identifier(database.settings.database)} with (force)")


def test_a_database_of_the_former_release_is_brought_up_to_date(former: Database):
    users = former.run("select * from users")
    preparation.migrate(former.settings, INFRA / "migrations", {})
    assert former.run("select * from users") == users
    assert former.run("select day::text, with_picture, users from birth_counts") == [["1970-01-01", False, 1]]
    assert former.run("select version, lineage::text, run_id from versions") == [[17, LINEAGE, None]]
    assert former.run("select nextval('commits')") == [[42]]
    assert former.run("select rejects_version, rules, output_version, output_etag from state") == [
        [3, "v1", 17, "etag"]
    ]
    states = former.run("select run_id, shown_state(runs) from runs order by run_id")
    assert states == [[1, "ok"], [2, "lost"]]


def migrate_during(former: Database, statement: str, *, until: str) -> None:
    """Migrate while a transaction is open, which ends when the migration that names `until` waits for it."""
    waiting = (
        "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' "
        "and query like '%' || :until || '%'"
    )
    with closing(former.connect()) as writer, ThreadPoolExecutor(1) as thread:
        writer.run("begin")
        writer.run(statement)
        migrating = thread.submit(preparation.prepare, wanted_of(former))
        try:
            wait_until(lambda: bool(former.run(waiting, until=until)), timeout_s=30, what="the migration")
        finally:
            writer.run("commit")
        migrating.result(30)


def test_versions_go_on_behind_a_commit_that_ends_while_they_are_made(former: Database):
    migrate_during(former, "update state set data_version = 18, commits = 42", until="create table versions")
    assert former.run("select max(version) from versions") == [[18]]
    assert former.run("select nextval('commits')") == [[43]]


def test_counts_include_whoever_is_stored_while_they_are_made(former: Database):
    """Also where transactions see a single moment unless told otherwise."""
    name = identifier(former.settings.database)
    former.run(f"alter database {name} set default_transaction_isolation to 'repeatable read'")
    migrate_during(
        former,
        "insert into users (user_id, first_name, last_name, birthdate) values ('2', 'A', 'B', 'epoch')",
        until="birth_counts",
    )
    assert former.run("select day::text, with_picture, users from birth_counts") == [["1970-01-01", False, 2]]


def test_a_commit_of_the_former_release_fails_after_the_migrations(former: Database):
    """It would take another lock than the commits of this one."""
    preparation.migrate(former.settings, INFRA / "migrations", {})
    with pytest.raises(Exception, match="42703"):
        former.run("select commits + 1 from state for update")


def test_the_migrations_can_be_taken_back(former: Database):
    preparation.migrate(former.settings, INFRA / "migrations", {})
    former.run("insert into versions (version) values (18)")
    lineage = former.run("select lineage::text from versions where version = 18")[0][0]
    newer = sum(path.name[: len(FORMER)] > FORMER for path in (INFRA / "migrations").iterdir())
    for _ in range(newer):
        command = [
            script("dbmate"),
            "--migrations-dir",
            str(INFRA / "migrations"),
            "--no-dump-schema",
            "down",
        ]
        url = preparation.build_url(former.settings, {})
        done = subprocess.run(command, env={"DATABASE_URL": url}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert former.run("select commits, data_version, lineage::text from state") == [[41, 18, lineage]]
    former.run(STATE)
