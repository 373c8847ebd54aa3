"""The ledger over a real Postgres: what COPY reads back, and what one commit does."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from rig import Database

from process_users.batches import build_batch, to_copy_text
from process_users.ledger import Applied, Entry, Ledger, create_stage
from process_users.outcomes import Outcome
from rollcall.processes import wait_until

# What a key or a cell may hold at all, and CSV, COPY or pandas could stumble over.
TRICKY = [
    *("NA", "nan", "null", "None", "True", "1e5", "0001", " padded ", "a,b", 'a"b', '"', '""', "'"),
    *("\\N", "\\.", "\\", "\\n", "é", "日本", "a\nb", "a\rb", "a\r\nb", "\n", "a\tb", "\x01", "\x7f"),
    *("\x85", "\u2028", "\ufeff", "=1+1", "\U0001d4b3", ":key", "$1", "{}", "%s", "--", ";"),
]


TABLES = (
    "select * from users order by id",
    "select * from ledger order by key",
    "select * from versions",
    "select * from state",
    "select * from locks order by name",
    "select c.last_value, l.last_value from commits c, last_committer l",
)


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with opened(database) as ledger:
        yield ledger


@contextmanager
def opened(database: Database) -> Iterator[Ledger]:
    """The ledger over a session of its own."""
    with closing(database.open_session("process_users")) as connection:
        create_stage(connection)
        yield Ledger(connection, bucket="src")


Apply = Callable[..., Applied]


def fetch_entries(ledger: Ledger, start_after: str, end: str | None) -> list[Entry]:
    return [entry for page in ledger.fetch_pages(start_after, end) for entry in page]


def settle_batch(ledger: Ledger, *outcomes: Outcome) -> Applied:
    return ledger.settle_batch(to_copy_text(build_batch(outcomes)))


def settle_few(ledger: Ledger, *outcomes: Outcome) -> Applied:
    return ledger.settle(outcomes)


def settle_few_locked(ledger: Ledger, *outcomes: Outcome) -> Applied:
    with ledger.commit():
        return ledger.settle(outcomes)


@pytest.fixture(params=[settle_batch, settle_few, settle_few_locked])
def apply(request: pytest.FixtureRequest) -> Apply:
    """The ways to settle the same outcomes."""
    return request.param


def valid(key: str, expected: int | None = 0, name: str = "Ada", birthts: int = 0) -> Outcome:
    user_id = key.rpartition(".")[0]
    return Outcome(key, expected, etag="e", user_id=user_id, first_name=name, last_name=name, birthts=birthts)


def picture(key: str, expected: int | None = 0) -> Outcome:
    return Outcome(key, expected, etag="e", user_id=key.rpartition(".")[0], picture=0)


def test_postgres_reads_back_what_was_written_whatever_it_holds(
    apply: Apply, ledger: Ledger, database: Database
):
    outcomes = [valid(f"{text}.csv", name=text) for text in TRICKY]
    assert apply(ledger, *outcomes) == Applied(len(TRICKY), [])
    want = [[f"{text}.csv", text, text, text] for text in sorted(TRICKY, key=str.encode)]
    assert sorted(want) == sorted(
        database.run("select key, user_id, first_name, last_name from ledger order by key")
    )
    assert {row[0] for row in database.run("select user_id from users")} == set(TRICKY)
    assert [entry.key for entry in fetch_entries(ledger, "", None)] == [
        row[0] for row in sorted_by_bytes(want)
    ]
    assert ledger.fetch_revisions([row[0] for row in want]) == {row[0]: 1 for row in want}


def sorted_by_bytes(rows: list[list[str]]) -> list[list[str]]:
    return sorted(rows, key=lambda row: row[0].encode())


@pytest.mark.parametrize("page", [1, 2, 3, 5_000])
def test_entries_come_in_the_order_of_bytes_in_pages_of_any_size(
    apply: Apply, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, page: int
):
    monkeypatch.setattr("process_users.ledger.ENTRIES_PAGE", page)
    keys = sorted(
        (f"{text}.csv" for text in ("a", "B", "10", "9", "é", "\uff5e", "\U0001d4b3")), key=str.encode
    )
    apply(ledger, *map(valid, keys))
    assert [entry.key for entry in fetch_entries(ledger, "", None)] == keys
    assert [entry.key for entry in fetch_entries(ledger, keys[1], keys[4])] == keys[2:5]
    assert fetch_entries(ledger, keys[-1], None) == []


def test_every_commit_gives_its_keys_a_new_revision(apply: Apply, ledger: Ledger):
    apply(ledger, valid("1.csv"), valid("2.csv"))
    apply(ledger, valid("2.csv", 1))
    assert ledger.fetch_revisions(["1.csv", "2.csv", "3.csv"]) == {"1.csv": 1, "2.csv": 2}


def test_a_key_that_another_commit_settled_is_left_out_and_reported(
    apply: Apply, ledger: Ledger, database: Database
):
    apply(ledger, valid("1.csv", name="First"), valid("2.csv", name="First"))
    got = apply(
        ledger,
        valid("1.csv", 0, name="Stale"),  # read before there was an entry
        valid("2.csv", 1, name="Fresh"),
        valid("3.csv", 1, name="Stale"),  # its entry went meanwhile
        Outcome("1.png", 9, gone=True),
    )
    assert got == Applied(1, ["1.csv", "3.csv", "1.png"])
    assert database.run("select user_id, first_name from users order by user_id") == [
        ["1", "First"],
        ["2", "Fresh"],
    ]


@pytest.mark.parametrize("settle", [settle_few, settle_few_locked])
def test_what_nobody_asked_for_is_settled_by_a_session_that_is_alone(
    settle: Apply, ledger: Ledger, database: Database
):
    assert settle(ledger, valid("1.csv", None)) == Applied(0, ["1.csv"])  # its first commit
    for name in ("One", "Two"):
        assert settle(ledger, valid("1.csv", None, name=name)) == Applied(1, [])
    with opened(database) as other:
        assert settle(other, valid("1.csv", None)) == Applied(0, ["1.csv"])
    assert settle(ledger, valid("1.csv", None), valid("2.csv", None)) == Applied(0, ["1.csv", "2.csv"])
    assert database.run("select first_name from users") == [["Two"]]
    with pytest.raises(LookupError):
        apply_and_fail(ledger)
    assert settle(ledger, valid("2.csv", None)) == Applied(1, [])


def test_a_session_that_waited_for_the_commit_of_another_is_not_alone(ledger: Ledger, database: Database):
    waiting_ones = """
        select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
    """
    settle_few(ledger, valid("1.csv"))
    with opened(database) as other, ThreadPoolExecutor(1) as thread:
        with other.commit():
            waiting = thread.submit(settle_few, ledger, valid("1.csv", None, name="Stale"))
            wait_until(lambda: bool(database.run(waiting_ones)), timeout_s=10, what="the settling")
            settle_few(other, valid("1.csv", 1, name="Fresh"))
        assert waiting.result() == Applied(0, ["1.csv"])
    assert database.run("select first_name from users") == [["Fresh"]]


def test_a_session_whose_commit_was_rolled_back_still_finds_that_another_came_between(
    ledger: Ledger, database: Database
):
    settle_few(ledger, valid("1.csv"))
    with opened(database) as other:
        settle_few(other, valid("1.csv", 1, name="Fresh"))
    with pytest.raises(LookupError):
        apply_and_fail(ledger)
    assert settle_few(ledger, valid("1.csv", None, name="Stale")) == Applied(0, ["1.csv"])
    assert database.run("select first_name from users") == [["Fresh"]]


def test_a_database_that_was_put_back_and_is_as_far_again_is_another_one(ledger: Ledger, database: Database):
    settle_few(ledger, valid("1.csv"))
    database.run("select setval('commits', 1, false)")
    with opened(database) as other:
        settle_few(other, valid("1.csv", 1, name="Fresh"))
    assert database.run("select last_value from commits") == [[1]]
    assert settle_few(ledger, valid("1.csv", None, name="Stale")) == Applied(0, ["1.csv"])


def test_what_nobody_asked_for_is_left_out_where_another_key_of_the_user_matters(ledger: Ledger):
    settle_few(ledger, valid("1.csv"), picture("2.png"))
    assert settle_few(ledger, valid("2.csv", None), picture("1.png", None)) == Applied(2, [])
    assert settle_few(ledger, valid("2.CSV", None), picture("1.PNG", None)) == Applied(0, ["2.CSV", "1.PNG"])


def test_what_is_as_before_changes_no_version_and_no_user(apply: Apply, ledger: Ledger, database: Database):
    apply(ledger, valid("1.csv"), picture("1.png"), Outcome("bad.csv", 0, user_id="bad", reason="row_count"))
    versions = "select max(version), max(rejects_version) from versions, state"
    before = database.run(versions)
    bad = Outcome("bad.csv", 1, etag="other", user_id="bad", reason="row_count")
    assert apply(ledger, valid("1.csv", 1), picture("1.png", 1), bad) == Applied(0, [])
    assert database.run(versions) == before


def test_a_rehearsal_works_on_copies(apply: Apply, ledger: Ledger, database: Database):
    apply(ledger, valid("1.csv"), valid("2.csv"))
    before = [database.run(table) for table in TABLES]
    ledger.use_copies()
    got = apply(ledger, valid("1.csv", 1, name="Other"), Outcome("2.csv", 1, gone=True))
    assert got == Applied(1, [])
    assert ledger.remove_users(["1", "2"]) == 1
    assert ledger.count_users() == 1
    assert [database.run(table) for table in TABLES] == before


def test_a_commit_that_fails_leaves_nothing(apply: Apply, ledger: Ledger, database: Database):
    with pytest.raises(LookupError):
        apply_and_fail(ledger)
    assert database.run("select from ledger") == database.run("select from users") == []
    assert apply(ledger, valid("1.csv")) == Applied(1, [])


def apply_and_fail(ledger: Ledger) -> None:
    with ledger.commit():
        ledger.settle([valid("1.csv")])
        raise LookupError


def test_what_an_event_found_gone_is_remembered_and_is_nobodys(
    apply: Apply, ledger: Ledger, database: Database
):
    apply(ledger, valid("1.CSV", name="First"), valid("1.csv", name="Second"), picture("1.png"))
    got = apply(ledger, Outcome("1.csv", 1), Outcome("1.png", 1), Outcome("never.csv", 0))
    assert got == Applied(1, [])
    assert database.run("select first_name, img_path from users") == [["First", None]]
    assert database.run("select from rejects") == []
    assert database.run("select rejects_version from state") == [[2]]
    assert apply(ledger, valid("never.csv", 0)) == Applied(0, ["never.csv"])
    apply(ledger, *(Outcome(key, 2, gone=True) for key in ("1.csv", "1.png", "never.csv")))
    assert [entry.key for entry in fetch_entries(ledger, "", None)] == ["1.CSV"]


def test_a_ledger_that_remembers_only_what_is_gone_is_empty(apply: Apply, ledger: Ledger):
    apply(ledger, valid("1.csv"))
    assert not ledger.is_empty()
    apply(ledger, Outcome("1.csv", 1))
    assert ledger.is_empty()
