"""The table that `make bench` ends with: a row for each comparison, both sides measured in one run."""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from crowd import Compare, Crowd, FillBucket
from rig import TEMPLATE, Bucket, Database, Store, clone_database, make_buckets, prepare_database

from rollcall.servers import Postgres, embedded_postgres

MILLION = 1_000_000
HEADER = ("#", "work", "ours", "beside", "theirs", "ratio", "bound")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server as it is in production: what it has committed is on the disk."""
    with embedded_postgres(options={}) as server:
        prepare_database(server, TEMPLATE)
        yield server


@pytest.fixture(scope="session")
def fill_bucket(store: Store) -> FillBucket:
    """Put a crowd into a bucket, once for all that measures with it."""

    @cache
    def fill(crowd: Crowd) -> Bucket:
        bucket = make_buckets(store)
        crowd.put(bucket)
        return bucket

    return fill


@pytest.fixture(scope="session")
def copies() -> Iterator[Path]:
    """A folder for what others copy, all of which goes when nothing is measured any more."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def compare(record_property: Callable[[str, object], None]) -> Iterator[Compare]:
    """Note a row of the table, and hold its ratio, ours to theirs, against a bound.

    Called as `compare(1, "cold run of 10,000 users", 3.7, 8.1, beside="rclone copy", at_most=0.55)`; figures
    in seconds unless `unit` says otherwise. `at_least` is for figures of which more is better. `for_scale`
    notes what is measured only to tell what part of ours it takes. All rows of a test are noted before one
    that misses its bound fails it.
    """
    missed: list[str] = []

    def note(
        number: int,
        work: str,
        ours: float,
        theirs: float,
        *,
        beside: str,
        unit: str = "s",
        at_most: float | None = None,
        at_least: float | None = None,
        for_scale: bool = False,
    ) -> None:
        ratio = ours / theirs
        bound = "-"
        if not for_scale:
            bound = f"<= {at_most:.3g}" if at_most is not None else f">= {at_least:.3g}"
        figures = (f"{ours:,.4g} {unit}", beside, f"{theirs:,.4g} {unit}", f"{ratio:.2f}", bound)
        record_property("row", (number, work, *figures))
        if (at_most is not None and ratio > at_most) or (at_least is not None and ratio < at_least):
            missed.append(f"{work}: {ratio:.2f} times {beside}, wanted {bound}")

    yield note
    assert not missed, "; ".join(missed)


@pytest.fixture(scope="session")
def million(postgres: Postgres) -> Iterator[Database]:
    """A million users of 0 to 99 years, 10,000 of each age, and 90 above; nine in ten have a picture."""
    with clone_database(postgres, TEMPLATE) as database:
        database.run(
            """
            insert into users (user_id, first_name, last_name, birthdate, img_path)
            select n::text, 'First' || n % 997, 'Last' || n % 99991,
                   case
                       when n % 11111 = 0 then timestamptz '1910-01-01Z'
                       else now() - n * 7919 % cast(:count as bigint) * interval '3155 seconds'
                   end,
                   case when n % 10 < 9 then 'src-data/' || n || '.png' end
            from generate_series(1000, 1000 + cast(:count as bigint) - 1) as n
            order by n::text collate "C"
            """,
            count=MILLION,
        )
        database.run("vacuum analyze users")
        yield database


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    rows: list[tuple[Any, ...]] = [
        value
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "row"
    ]
    if not rows:
        return
    texts = [HEADER, *(tuple(map(str, row)) for row in sorted(rows, key=lambda row: row[0]))]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for text in texts:
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(text, widths, strict=True))
        )
