"""Settling keys: read what each one is now, and commit that together with the users that follow from it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from process_users.batches import Outcome, build_batch, to_copy_text
from process_users.bucket import PAUSES_S, Bucket, Presence, Reading
from process_users.changes import Change, to_dated_etag
from process_users.keys import SourceKey, list_record_keys, parse_key
from process_users.ledger import Ledger
from process_users.records import MAX_BYTES, Reject, parse_record, reject_too_large

LOCKED_OBJECTS = 32  # read while no other can commit: as many as are read at once
LOCKED_PAUSES_S = PAUSES_S[:1]


def settle_changes(changes: Iterable[Change], prefix: str, bucket: Bucket, ledger: Ledger) -> int:
    """Read and commit one batch; returns how many users changed.

    What another commit settled after it was read here is read again, now with all other commits waiting.
    """
    outcomes = _read_outcomes(changes, bucket, pauses_s=PAUSES_S)
    with ledger.commit():
        applied = ledger.apply(to_copy_text(build_batch(outcomes)))
    return applied.upserted + settle_keys(applied.conflicts, prefix, bucket, ledger)


def settle_keys(keys: Sequence[str], prefix: str, bucket: Bucket, ledger: Ledger) -> int:
    """Settle keys by what the bucket holds now, while no other can commit; returns how many users changed.

    They are few, or commit in parts: others wait meanwhile.
    """
    parts = (keys[start : start + LOCKED_OBJECTS] for start in range(0, len(keys), LOCKED_OBJECTS))
    return sum(_settle_locked(part, prefix, bucket, ledger) for part in parts)


def _settle_locked(keys: Sequence[str], prefix: str, bucket: Bucket, ledger: Ledger) -> int:
    with ledger.commit():
        revisions = ledger.fetch_revisions(keys)
        changes = [Change(key, parse_key(key, prefix), None, revisions.get(key, 0)) for key in keys]
        outcomes = _read_outcomes(changes, bucket, pauses_s=LOCKED_PAUSES_S)
        return ledger.apply(to_copy_text(build_batch(outcomes))).upserted


def remove_users(user_ids: Sequence[str], prefix: str, bucket: Bucket, ledger: Ledger) -> tuple[int, int]:
    """Remove users whose record is gone; returns how many changed instead, and how many were removed.

    A record may have moved to a key that was passed before it came there, so each that it can have is asked
    for once more.
    """
    keys = [key for user_id in user_ids for key in list_record_keys(user_id, prefix)]
    upserted = settle_keys(keys, prefix, bucket, ledger)
    return upserted, ledger.remove_users(user_ids)


def _read_outcomes(changes: Iterable[Change], bucket: Bucket, *, pauses_s: Sequence[float]) -> list[Outcome]:
    """Find out what each key is, asking the bucket for those that the listing does not say it all of."""
    outcomes: list[Outcome] = []
    asked: dict[SourceKey, Change] = {}
    for change in changes:
        outcome = _judge_listed(change)
        if outcome is not None:
            outcomes.append(outcome)
        elif change.source is not None:
            asked[change.source] = change
    for reading in bucket.read(asked, pauses_s=pauses_s):
        outcome = _judge_reading(asked[reading.source], reading)
        if outcome is not None:
            outcomes.append(outcome)
    return outcomes


def _judge_listed(change: Change) -> Outcome | None:
    """Return the outcome of a key that need not be read, None for the others."""
    source, listed = change.source, change.listed
    if source is None:
        return Outcome(change.key, change.expected, gone=True)
    if listed is None:
        return None  # nothing is removed or cleared before the bucket was asked for it
    etag = listed.etag or None
    if source.user_id is None:
        return _to_reject(change, source, etag, _key_invalid(source))
    if source.picture is not None:
        return _to_picture(change, source, etag)
    if listed.size > MAX_BYTES:
        return _to_reject(change, source, etag, reject_too_large())
    return None


def _judge_reading(change: Change, reading: Reading) -> Outcome | None:
    """Return what a key was found to be when it was asked for, None when that changes nothing."""
    source = reading.source
    if reading.presence is Presence.GONE:
        return Outcome(change.key, change.expected, gone=True) if change.expected else None
    is_record = source.user_id is not None and source.picture is None
    if reading.presence is Presence.UNREADABLE:
        unreadable = Reject("unreadable", "the object could not be read")
        return _to_reject(change, source, None, unreadable) if is_record else None
    if source.user_id is None:
        return _to_reject(change, source, reading.etag, _key_invalid(source))
    if source.picture is not None:
        return _to_picture(change, source, reading.etag)
    modified = datetime.fromtimestamp(reading.modified, UTC)
    parsed = reject_too_large() if reading.is_too_large else parse_record(reading.body, modified)
    if isinstance(parsed, Reject):
        etag = reading.etag
        if parsed.reason == "birthts_out_of_range":
            etag = to_dated_etag(etag, modified.date().isoformat())
        return _to_reject(change, source, etag, parsed)
    return Outcome(
        change.key,
        change.expected,
        etag=reading.etag,
        user_id=source.user_id,
        first_name=parsed.first_name,
        last_name=parsed.last_name,
        birthts=parsed.birthts,
    )


def _key_invalid(source: SourceKey) -> Reject:
    return Reject("key_invalid", source.detail or "")


def _to_picture(change: Change, source: SourceKey, etag: str | None) -> Outcome:
    return Outcome(change.key, change.expected, etag=etag, user_id=source.user_id, picture=source.picture)


def _to_reject(change: Change, source: SourceKey, etag: str | None, reject: Reject) -> Outcome:
    return Outcome(
        change.key,
        change.expected,
        etag=etag,
        user_id=source.user_id,
        picture=source.picture,
        reason=reject.reason,
        detail=reject.detail,
    )
