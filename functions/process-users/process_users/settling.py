"""Settling keys: read what each one is now, and commit that together with the users that follow from it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from process_users.batches import build_batch, to_copy_text
from process_users.bucket import PAUSES_S, Bucket, Presence, Reading
from process_users.changes import Change, to_dated_etag
from process_users.keys import SourceKey, list_record_keys, parse_key
from process_users.ledger import Ledger
from process_users.outcomes import Outcome
from process_users.records import MAX_BYTES, Reject, parse_record, reject_too_large

# Read while no other can commit, as many as are read at once; other records of their users come on top.
LOCKED_OBJECTS = 32
LOCKED_PAUSES_S = PAUSES_S[:1]


@dataclass(frozen=True, slots=True)
class Settler:
    """Settles keys under a prefix of one bucket in one ledger; for one thread."""

    prefix: str
    bucket: Bucket
    ledger: Ledger

    def settle_batch(self, outcomes: Sequence[Outcome]) -> int:
        """Commit what was read of one batch; returns how many users changed.

        What another commit settled after it was read here is read again, now with all other commits waiting.
        """
        outcomes = self._add_successors(outcomes)
        applied = self.ledger.settle_batch(to_copy_text(build_batch(outcomes)))
        return applied.upserted + self._settle_locked(applied.conflicts)

    def settle_keys(self, keys: Sequence[str]) -> int:
        """Settle a few keys by what the bucket holds now; returns how many users changed."""
        applied = self.ledger.settle(self._read_keys(keys, pauses_s=PAUSES_S))
        return applied.upserted + self._settle_locked(applied.conflicts)

    def settle_alone(self, source: SourceKey) -> bool:
        """Settle a key without asking the ledger before, which spares an event a twelfth of its time.

        Returns False, with no key settled, when it has to be asked: somebody else commits too, the user has
        other such keys, or the key is gone.
        """
        outcomes = self._read_revisions({source.key: None}, pauses_s=PAUSES_S)
        if any(outcome.gone for outcome in outcomes):
            return False
        return not self.ledger.settle(outcomes).conflicts

    def settle_event(self, source: SourceKey) -> bool:
        """Settle a key that something happened to, and its known rivals; returns False when it is gone.

        Rivals are the user's other keys of which one takes over when another goes: its own event may still be
        on its way. What is gone is remembered until the next run, so that who read it before cannot commit it
        now.
        """
        outcomes = self._read_rivals(source, pauses_s=PAUSES_S)
        if self.ledger.settle(outcomes).conflicts:
            with self.ledger.commit():
                outcomes = self._read_rivals(source, pauses_s=LOCKED_PAUSES_S)
                self.ledger.settle(outcomes)
        return not any(outcome.is_blank for outcome in outcomes if outcome.key == source.key)

    def remove_users(self, user_ids: Sequence[str]) -> tuple[int, int]:
        """Remove users whose record is gone; returns how many changed instead, and how many were removed.

        A record may have moved to a key that was passed before it came there, so each that it can have is
        asked for once more.
        """
        keys = [key for user_id in user_ids for key in list_record_keys(user_id, self.prefix)]
        upserted = self.settle_keys(keys)
        return upserted, self.ledger.remove_users(user_ids)

    def _settle_locked(self, keys: Sequence[str]) -> int:
        """Settle keys while no other can commit, in parts, as others wait meanwhile."""
        upserted = 0
        for start in range(0, len(keys), LOCKED_OBJECTS):
            with self.ledger.commit():
                outcomes = self._read_keys(keys[start : start + LOCKED_OBJECTS], pauses_s=LOCKED_PAUSES_S)
                upserted += self.ledger.settle(outcomes).upserted
        return upserted

    def _read_rivals(self, source: SourceKey, *, pauses_s: Sequence[float]) -> list[Outcome]:
        """Find out what a key and its known rivals are; what is gone becomes what remembers that."""
        revisions = {source.key: 0, **self.ledger.fetch_rivals(source)}
        outcomes = self._read_revisions(revisions, pauses_s=pauses_s)
        return [Outcome(outcome.key, outcome.expected) if outcome.gone else outcome for outcome in outcomes]

    def _read_keys(self, keys: Sequence[str], *, pauses_s: Sequence[float]) -> list[Outcome]:
        """Find out what keys are of which no listing says anything, and their users' other known records."""
        revisions = {**dict.fromkeys(keys, 0), **self.ledger.fetch_revisions(keys)}
        return self._read_revisions(revisions, pauses_s=pauses_s)

    def _add_successors(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Add what the records are now of which one may take over from one that is gone or nobody's now.

        They may have changed too without having had their turn. A user must not become what the ledger still
        says of them: it would stay the user's last valid version when the record turns out to be broken.
        """
        gone = [outcome.key for outcome in outcomes if outcome.user_id is None]
        revisions = self.ledger.fetch_revisions(gone) if gone else {}
        for outcome in outcomes:
            revisions.pop(outcome.key, None)
        return [*outcomes, *self._read_revisions(revisions, pauses_s=PAUSES_S)]

    def _read_revisions(
        self, revisions: Mapping[str, int | None], *, pauses_s: Sequence[float]
    ) -> list[Outcome]:
        changes = [
            Change(key, parse_key(key, self.prefix), None, revision) for key, revision in revisions.items()
        ]
        return read_outcomes(self.bucket, changes, pauses_s=pauses_s)


def read_outcomes(
    bucket: Bucket, changes: Iterable[Change], *, pauses_s: Sequence[float] = PAUSES_S
) -> list[Outcome]:
    """Find out what each key is, asking the bucket for those that the listing does not say it all of."""
    outcomes: list[Outcome] = []
    asked: dict[str, Change] = {}
    sources: list[SourceKey] = []
    for change in changes:
        outcome = _judge_listed(change)
        if outcome is not None:
            outcomes.append(outcome)
        elif change.source is not None:
            asked[change.key] = change
            sources.append(change.source)
    for reading in bucket.read(sources, pauses_s=pauses_s):
        outcome = _judge_reading(asked[reading.source.key], reading)
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
    """Return what a key was found to be when it was asked for, None when that could not be told."""
    source = reading.source
    if reading.presence is Presence.GONE:
        return Outcome(change.key, change.expected, gone=True)
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
