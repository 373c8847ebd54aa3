"""What a run is: compare bucket and ledger, settle what differs in batches, bring the outputs up to date."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

from process_users.bucket import Bucket, StoreUnavailableError
from process_users.changes import KeyRange, find_changes
from process_users.ledger import Ledger
from process_users.outcomes import Outcome
from process_users.outputs import USERS, store_outputs
from process_users.runs import Counts, Run, begin_dry_run, begin_run, end_run, record_progress, to_timestamp
from process_users.settings import Settings
from process_users.settling import Settler, read_outcomes
from serving.ahead import read_ahead, use_behind
from serving.logs import log, log_error
from serving.postgres import Connection, DatabaseUnavailableError

BATCH_OBJECTS = 2_000
PAGES_AHEAD = 4
REMOVED_USERS = 100  # at a time: the bucket is asked for each of them before
REPORTED_REJECTS = 100
LARGE_LOAD_USERS = 1_000


class SourceEmptyError(Exception):
    """The bucket lists nothing although the ledger does: rather a fault than everybody's leaving."""

    code = "source_empty"


EXPECTED_ERRORS = (SourceEmptyError, StoreUnavailableError, DatabaseUnavailableError)


@dataclass(frozen=True, slots=True)
class Options:
    """How a run was asked for."""

    full: bool = False
    dry_run: bool = False
    allow_empty: bool = False


def run_once(settings: Settings, connection: Connection, options: Options) -> dict[str, Any]:
    """Do one run over this session and return its report; it is closed unless a run ended well.

    Raises RunInProgressError, SourceEmptyError, StoreUnavailableError or DatabaseUnavailableError. What was
    committed before stays, and the next run goes on from there.
    """
    try:
        if not options.dry_run:
            return _carry_out(settings, connection, options, begin_run(connection, full=options.full))
        begin_dry_run(connection)
        report = _rehearse(settings, connection, options)
        connection.close()  # and with it the copies of the tables
        return report
    except BaseException:
        connection.close()  # and with it the lock
        raise


def settle_range(
    key_range: KeyRange,
    settings: Settings,
    ledger: Ledger,
    *,
    full: bool,
    counts: Counts,
    report: Callable[[], None],
) -> None:
    """Bring the ledger and the users in step with one part of the bucket.

    Adds to `counts`, and calls `report` after each batch. Three things go on at once: one thread lists what
    comes next, this one reads, and one, which alone uses the ledger meanwhile, commits what was read before.
    """
    prefix, start_after, end = settings.source_prefix, key_range.start_after, key_range.end
    with (
        closing(Bucket(settings.store, settings.source_bucket)) as listed_bucket,
        closing(Bucket(settings.store, settings.source_bucket)) as read_bucket,
        closing(Bucket(settings.store, settings.source_bucket)) as asked_bucket,
        ThreadPoolExecutor(1) as lister,
        ThreadPoolExecutor(1) as committer,
        closing(read_ahead(listed_bucket.list_pages(prefix, start_after, end), lister, PAGES_AHEAD)) as pages,
        closing(read_ahead(ledger.fetch_pages(start_after, end), committer, 1)) as entries,
    ):
        settler = Settler(prefix, asked_bucket, ledger)

        def commit(outcomes: Sequence[Outcome]) -> None:
            counts.upserted += settler.settle_batch(outcomes)
            report()

        changes = find_changes(
            chain.from_iterable(pages), chain.from_iterable(entries), prefix, full=full, counts=counts
        )
        batches = iter(lambda: list(islice(changes, BATCH_OBJECTS)), [])
        use_behind((read_outcomes(read_bucket, batch) for batch in batches), committer, commit)


def _carry_out(settings: Settings, connection: Connection, options: Options, run: Run) -> dict[str, Any]:
    """Do the run that holds the lock, and record how it ended."""
    started = time.monotonic()
    counts = Counts()
    log("run.started", run_id=run.run_id, full=options.full)
    ledger = Ledger(connection, bucket=settings.source_bucket, run_id=run.run_id)
    try:
        report = lambda: record_progress(connection, run, counts)  # noqa: E731
        _settle_all(settings, ledger, options, counts=counts, report=report)
        rows = store_outputs(connection, settings)
        ledger.forget_old_versions()
        document = {
            "run_id": run.run_id,
            "state": "ok",
            "started_at": to_timestamp(run.started_at),
            "seconds": round(time.monotonic() - started, 3),
            **_describe(settings, ledger, counts, rows=rows),
        }
        end_run(connection, run, counts, rejected=document["rejected"], error=None)
    except Exception as error:
        is_expected = isinstance(error, EXPECTED_ERRORS)
        code = error.code if is_expected else "internal"
        told = {"cause": str(error)} if is_expected else {}  # of others it may quote data
        log_error("run.failed", error, run_id=run.run_id, problem=code, **told)
        with suppress(DatabaseUnavailableError):  # then the run shows as lost
            end_run(connection, run, counts, rejected=ledger.count_rejects(), error=code)
        raise
    log("run.finished", run_id=run.run_id, seconds=document["seconds"], **asdict(counts))
    return document


def _rehearse(settings: Settings, connection: Connection, options: Options) -> dict[str, Any]:
    """Do a run on copies of the tables: its report is what a run would do now."""
    started_at, started = datetime.now(UTC), time.monotonic()
    counts = Counts()
    ledger = Ledger(connection, bucket=settings.source_bucket)
    ledger.use_copies()
    _settle_all(settings, ledger, options, counts=counts, report=lambda: None)
    return {
        "run_id": None,
        "state": "dry_run",
        "started_at": to_timestamp(started_at),
        "seconds": round(time.monotonic() - started, 3),
        **_describe(settings, ledger, counts, rows=ledger.count_users()),
    }


def _settle_all(
    settings: Settings, ledger: Ledger, options: Options, *, counts: Counts, report: Callable[[], None]
) -> None:
    if ledger.is_empty():
        # Now, so that after a first run that was killed the next one goes on from there.
        ledger.store_rules(settings.rules)
    elif not options.allow_empty:
        _check_not_empty(settings)
    # Made with other rules, bucket or prefix, the ledger says nothing of what is there now.
    full = options.full or ledger.fetch_rules() != settings.rules
    for key_range in (KeyRange(),):
        settle_range(key_range, settings, ledger, full=full, counts=counts, report=report)
    if settings.remove_users:
        # Last, because a record may have moved to a key that is settled later.
        _remove_users(settings, ledger, counts=counts, report=report)
    ledger.store_rules(settings.rules)
    if counts.upserted >= LARGE_LOAD_USERS:
        ledger.refresh_statistics()


def _remove_users(settings: Settings, ledger: Ledger, *, counts: Counts, report: Callable[[], None]) -> None:
    bucket, after = Bucket(settings.store, settings.source_bucket), ""
    settler = Settler(settings.source_prefix, bucket, ledger)
    try:
        while user_ids := ledger.fetch_users_without_record(REMOVED_USERS, after=after):
            upserted, removed = settler.remove_users(user_ids)
            counts.upserted += upserted
            counts.removed += removed
            after = user_ids[-1]
            report()
    finally:
        bucket.close()


def _check_not_empty(settings: Settings) -> None:
    bucket = Bucket(settings.store, settings.source_bucket)
    try:
        if bucket.is_empty(settings.source_prefix):
            raise SourceEmptyError(
                f"{settings.source_bucket}/{settings.source_prefix} lists no object although it did before; "
                "nothing was changed. If that is meant, run again with allow_empty=true"
            )
    finally:
        bucket.close()


def _describe(settings: Settings, ledger: Ledger, counts: Counts, *, rows: int) -> dict[str, Any]:
    return {
        **asdict(counts),
        "rejected": ledger.count_rejects(),
        "rejects": ledger.fetch_rejects(REPORTED_REJECTS),
        "output": {"bucket": settings.output_bucket, "key": USERS.key, "rows": rows},
    }
