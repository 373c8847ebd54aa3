from collections.abc import Callable, Iterator

import pytest
from pg8000.native import Connection as Driver
from pipeline import Pipeline
from rig import Bucket, Database

Count = Callable[..., None]


@pytest.fixture
def pipeline(bucket: Bucket, database: Database) -> Iterator[Pipeline]:
    """process-users over buckets and a database of the test's own."""
    with Pipeline(bucket, database, {"EVENTS_TOKEN": "events"}) as pipeline:
        yield pipeline


@pytest.fixture
def owner(database: Database) -> Iterator[Driver]:
    """A session that may read and write everything."""
    connection = database.connect()
    yield connection
    connection.close()


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Note numbers that are printed at the end."""

    def note(**numbers: object) -> None:
        for name, number in numbers.items():
            record_property(name, number)

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of each test, whichever process ran it."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    for report in reports:
        numbers = dict(getattr(report, "user_properties", ()))
        if numbers and getattr(report, "when", "") == "call":
            text = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in numbers.items())
            terminalreporter.write_line(f"{report.nodeid.rpartition('/')[2]}: {text}")
