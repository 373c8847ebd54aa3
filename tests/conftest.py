"""Real servers for the tests, one of each a worker process: nothing is mocked, nothing is skipped."""

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from disclosure import find_disclosures
from rig import (
    TEMPLATE,
    Bucket,
    Count,
    Database,
    StartFunction,
    Store,
    clone_database,
    make_buckets,
    prepare_database,
    run_function,
    run_store,
)

from rollcall.servers import Key, Postgres, embedded_postgres

# How long one example takes says nothing on a busy machine.
hypothesis.settings.register_profile("rollcall", deadline=None)
hypothesis.settings.load_profile("rollcall")

SETTINGS = ("PG", "MINIO_", "FUNCTION_", "API_TOKEN", "ALLOWED_HOSTS", "THREADS", "WORKERS")
STORES = ("rclone", "minio") if os.environ.get("MINIO_BINARY") else ("rclone",)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in os.environ:
        if name.startswith(SETTINGS) and name != "MINIO_BINARY":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server with the roles, and a migrated database to clone."""
    with embedded_postgres() as server:
        prepare_database(server, TEMPLATE)
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """A database of the test's own, as set-up leaves it."""
    with clone_database(postgres, TEMPLATE) as database:
        yield database


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An S3 store; a real MinIO as well when MINIO_BINARY names one."""
    directory = tmp_path_factory.mktemp(request.param)
    key = Key(f"root{secrets.token_hex(4)}", secrets.token_urlsafe(16))
    with run_store(request.param, directory, key) as server:
        yield Store(request.param, server.port, key)


@pytest.fixture
def bucket(store: Store) -> Bucket:
    """Empty buckets with names of the test's own."""
    return make_buckets(store)


@pytest.fixture
def start_function(tmp_path: Path) -> Iterator[StartFunction]:
    """Start a function by its folder's name with these settings; all of them stop with the test."""
    with ExitStack() as stack:
        yield lambda name, env: stack.enter_context(run_function(name, env, home=tmp_path / name))


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose functions, loaded into this process, logged what they should not."""
    report = yield
    disclosures = find_disclosures(report.capstdout, {}) if report.passed else []
    if disclosures:
        report.outcome = "failed"
        report.longrepr = f"logged what could be somebody's data: {disclosures[:5]}"
    return report
