"""What a run is: compare bucket and ledger key by key, read what differs, commit in batches, write the outputs."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from process_users.batches import Outcome
from process_users.bucket import Bucket, Listed, Presence, Reading
from process_users.keys import SourceKey, parse_key
from process_users.ledger import Entry, Ledger
from process_users.outputs import USERS, store_outputs
from process_users.records import MAX_BYTES, Record, parse_record, reject_too_large
from process_users.runs import Counts, Run, begin_run, end_run, record_progress, to_timestamp
from process_users.settings import Settings
from serving.logs import log
from serving.postgres import Connection, DatabaseUnavailableError

BATCH_OBJECTS = 4_000
LOCKED_OBJECTS = 32  # read while no other can commit: as many as are read at once
REPORTED_REJECTS = 100
LARGE_LOAD_USERS = 1_000


class SourceEmptyError(Exception):
    """The bucket lists nothing although the ledger does: rather a fault than everybody's leaving."""

    code = "source_empty"


@dataclass(frozen=True, slots=True)
class Options:
    """How a run was asked for."""

    full: bool = False
    dry_run: bool = False
    allow_empty: bool = False


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A part of the bucket: keys after start_after up to and with end, None for the last there is."""

    start_after: str = ""
    end: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A key where bucket and ledger differ; `listed` None: only the ledger has it.

    `source` None: the key lies outside of the prefix. `expected` is its ledger entry's revision, 0 for none.
    """

    key: str
    source: SourceKey | None
    listed: Listed | None
    expected: int


def run_once(settings: Settings, connect: Callable[[], Connection], options: Options) -> dict[str, Any]:
    """Do one run and return its report.

    Raises RunInProgressError, SourceEmptyError, StoreUnavailableError or DatabaseUnavailableError. What was
    committed before stays, and the next run goes on from there.
    """
    connection = connect()
    try:
        if options.dry_run:
            return _rehearse(settings, connection, options)
        run = begin_run(connection, full=options.full)
        return _carry_out(settings, connection, options, run)
    finally:
        connection.close()  # and with it the lock


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

    `counts` is added to, and `report` called after each batch.
    """
    bucket = Bucket(settings.store, settings.source_bucket)
    try:
        changes = find_changes(key_range, settings.source_prefix, bucket, ledger, full=full, counts=counts)
        while batch := list(islice(changes, BATCH_OBJECTS)):
            counts.upserted += _settle(batch, settings, bucket, ledger)
            report()
    finally:
        bucket.close()


def find_changes(
    key_range: KeyRange, prefix: str, bucket: Bucket, ledger: Ledger, *, full: bool, counts: Counts
) -> Iterator[Change]:
    """Compare the two streams key by key, holding no more of either than a page."""
    listing = bucket.list_objects(prefix, start_after=key_range.start_after, end=key_range.end)
    entries = ledger.fetch_entries(key_range.start_after, key_range.end)
    for listed, entry in _merge(listing, entries):
        if listed is None:
            yield Change(entry.key, parse_key(entry.key, prefix), None, entry.revision)
            continue
        counts.listed += 1
        if entry is not None and entry.etag and entry.etag == listed.etag and not full:
            counts.unchanged += 1
        elif (source := parse_key(listed.key, prefix)) is None:
            counts.ignored += 1
        else:
            yield Change(listed.key, source, listed, entry.revision if entry else 0)


def _merge(listing: Iterator[Listed], entries: Iterator[Entry]) -> Iterator[Any]:
    """Pair two streams that are ordered by key; None stands for the one that lacks it."""
    entry = next(entries, None)
    for listed in listing:
        while entry is not None and entry.key < listed.key:
            yield None, entry
            entry = next(entries, None)
        if entry is not None and entry.key == listed.key:
            yield listed, entry
            entry = next(entries, None)
        else:
            yield listed, None
    while entry is not None:
        yield None, entry
        entry = next(entries, None)


def settle_keys(keys: Sequence[str], settings: Settings, bucket: Bucket, ledger: Ledger, *, remove_users: bool) -> int:
    """Settle keys by what the bucket holds now, while no other can commit; returns how many users changed."""
    upserted = 0
    for start in range(0, len(keys), LOCKED_OBJECTS):
        with ledger.commit():
            part = keys[start : start + LOCKED_OBJECTS]
            revisions = ledger.fetch_revisions(part)
            changes = [Change(key, parse_key(key, settings.source_prefix), None, revisions.get(key, 0)) for key in part]
            upserted += ledger.apply(_read(changes, bucket), remove_users=remove_users).upserted
    return upserted


def _settle(changes: list[Change], settings: Settings, bucket: Bucket, ledger: Ledger) -> int:
    outcomes = _read(changes, bucket)
    with ledger.commit():
        applied = ledger.apply(outcomes)
    return applied.upserted + settle_keys(applied.conflicts, settings, bucket, ledger, remove_users=False)


def _read(changes: Iterable[Change], bucket: Bucket) -> list[Outcome]:
    """Find out what each key is now, asking the bucket where the listing does not say it all."""
    asked = {change.key: change for change in changes}
    outcomes = [outcome for change in asked.values() if (outcome := _judge_unread(change)) is not None]
    for outcome in outcomes:
        del asked[outcome.key]
    for reading in bucket.read(change.source for change in asked.values() if change.source is not None):
        outcome = _judge(asked[reading.source.key], reading)
        if outcome is not None:
            outcomes.append(outcome)
    return outcomes


def _judge_unread(change: Change) -> Outcome | None:
    """Return the outcome of a key that need not be read, None for the others."""
    source, listed = change.source, change.listed
    if source is None:
        return Outcome(change.key, change.expected, gone=True)
    if listed is None:
        return None  # nothing is removed or cleared before the bucket was asked for it
    if source.user_id is None or source.picture is not None:
        return _to_outcome(change, source, listed.etag or None)
    if listed.size > MAX_BYTES:
        too_large = reject_too_large()
        return _to_outcome(change, source, listed.etag or None, too_large.reason, too_large.detail)
    return None


def _judge(change: Change, reading: Reading) -> Outcome | None:
    """Return what a key was found to be when it was read, None when that changes nothing."""
    source = reading.source
    if reading.presence is Presence.GONE:
        return Outcome(change.key, change.expected, gone=True) if change.expected else None
    if reading.presence is Presence.UNREADABLE:
        if source.picture is not None or source.user_id is None:
            return None
        return _to_outcome(change, source, None, "unreadable", "the object could not be read")
    if source.user_id is None or source.picture is not None:
        return _to_outcome(change, source, reading.etag)
    if reading.is_too_large:
        parsed = reject_too_large()
    else:
        parsed = parse_record(reading.body, datetime.fromtimestamp(reading.modified, UTC))
    if isinstance(parsed, Record):
        return Outcome(
            change.key,
            change.expected,
            etag=reading.etag,
            user_id=source.user_id,
            first_name=parsed.first_name,
            last_name=parsed.last_name,
            birthts=parsed.birthts,
        )
    return _to_outcome(change, source, reading.etag, parsed.reason, parsed.detail)


def _to_outcome(
    change: Change, source: SourceKey, etag: str | None, reason: str | None = None, detail: str | None = None
) -> Outcome:
    """Return the outcome of a picture or of a reject; that of a key that names no user is its own."""
    if source.user_id is None:
        reason, detail = "key_invalid", source.detail
    return Outcome(
        change.key,
        change.expected,
        etag=etag,
        user_id=source.user_id,
        picture=source.picture,
        reason=reason,
        detail=detail,
    )


def _carry_out(settings: Settings, connection: Connection, options: Options, run: Run) -> dict[str, Any]:
    started = time.monotonic()
    counts = Counts()
    log("run.started", run_id=run.run_id, full=options.full)
    try:
        ledger = Ledger(connection, bucket=settings.source_bucket)
        _settle_all(settings, ledger, options, counts=counts, report=lambda: record_progress(connection, run, counts))
        rows = store_outputs(connection, settings)
        rejected = ledger.count_rejects()
        rejects = ledger.fetch_rejects(REPORTED_REJECTS)
        end_run(connection, run, counts, rejected=rejected, error=None)
    except Exception as error:
        code = getattr(error, "code", "internal")
        log("run.failed", run_id=run.run_id, code=code, detail=str(error) if code != "internal" else "")
        with suppress(DatabaseUnavailableError):  # then the run shows as lost
            end_run(connection, run, counts, rejected=0, error=code)
        raise
    seconds = time.monotonic() - started
    log("run.finished", run_id=run.run_id, seconds=round(seconds, 3), rejected=rejected, **asdict(counts))
    return {
        "run_id": run.run_id,
        "state": "ok",
        "started_at": to_timestamp(run.started_at),
        "seconds": round(seconds, 3),
        **asdict(counts),
        "rejected": rejected,
        "rejects": rejects,
        "output": {"bucket": settings.output_bucket, "key": USERS.key, "rows": rows},
    }


def _rehearse(settings: Settings, connection: Connection, options: Options) -> dict[str, Any]:
    """Do a run on copies of the tables: the report of what a run would do now."""
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
        **asdict(counts),
        "rejected": ledger.count_rejects(),
        "rejects": ledger.fetch_rejects(REPORTED_REJECTS),
        "output": {"bucket": settings.output_bucket, "key": USERS.key, "rows": ledger.count_users()},
    }


def _settle_all(
    settings: Settings, ledger: Ledger, options: Options, *, counts: Counts, report: Callable[[], None]
) -> None:
    if not options.allow_empty and not ledger.is_empty():
        _check_not_empty(settings)
    # Made with other rules, bucket or prefix, the ledger says nothing of what is there now.
    full = options.full or ledger.fetch_rules() != settings.rules
    for key_range in (KeyRange(),):
        settle_range(key_range, settings, ledger, full=full, counts=counts, report=report)
    if settings.remove_users:
        # Last, because a record may have moved to a key that is settled later.
        counts.removed = ledger.remove_users()
    ledger.store_rules(settings.rules)
    if counts.upserted >= LARGE_LOAD_USERS:
        ledger.refresh_statistics()


def _check_not_empty(settings: Settings) -> None:
    bucket = Bucket(settings.store, settings.source_bucket)
    try:
        if next(bucket.list_objects(settings.source_prefix, page_keys=1), None) is None:
            raise SourceEmptyError(
                f"{settings.source_bucket}/{settings.source_prefix} lists no object although it did before; nothing "
                "was changed. If that is meant, run again with allow_empty=true"
            )
    finally:
        bucket.close()
