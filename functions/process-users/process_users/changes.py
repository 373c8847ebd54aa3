"""Where bucket and ledger differ: one pass over two streams that are both ordered by key."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from process_users.bucket import to_place
from process_users.keys import SourceKey, parse_key
from process_users.ledger import Entry
from process_users.listings import Listed
from process_users.runs import Counts


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A part of the bucket: keys after start_after up to and with end, None for the last there is."""

    start_after: str = ""
    end: str | None = None


class Change(NamedTuple):
    """A key to settle; `expected` is its ledger entry's revision, 0 for none, None when nobody asked for it.

    `source` None: the key names nothing under the prefix. `listed` None: no listing can be relied on.
    """

    key: str
    source: SourceKey | None
    listed: Listed | None
    expected: int | None


def find_changes(
    listing: Iterable[Listed], entries: Iterator[Entry], prefix: str, *, full: bool, counts: Counts
) -> Iterator[Change]:
    """Compare key by key what bucket and ledger say; adds to `counts`.

    With `full`, every object that is not ignored is a change.
    """
    for key, listed, entry in _merge(listing, entries):
        expected = entry.revision if entry else 0
        if listed is None:
            yield Change(key, parse_key(key, prefix), None, expected)
            continue
        counts.listed += 1
        is_settled = entry is not None and is_same(entry.etag, listed)
        if is_settled and not full:
            counts.unchanged += 1
        elif (source := parse_key(key, prefix)) is None:
            counts.ignored += 1
            if entry is not None:  # made with another prefix
                yield Change(key, None, listed, expected)
        elif entry is None or is_settled:
            yield Change(key, source, listed, expected)
        else:
            # Where both differ, the ledger may be the newer one: a picture that went since would come back.
            yield Change(key, source, None, expected)


def to_dated_etag(etag: str | None, day: str) -> str | None:
    """Return what the ledger keeps where not the content alone decides, but also the day it was stored."""
    return f"{etag} {day}" if etag else None


def is_same(etag: str | None, listed: Listed) -> bool:
    """True when the ledger's etag, dated or not, is that of the object in the listing."""
    return bool(etag and listed.etag) and etag in (listed.etag, to_dated_etag(listed.etag, listed.day))


def _merge(
    listing: Iterable[Listed], entries: Iterator[Entry]
) -> Iterator[tuple[str, Listed | None, Entry | None]]:
    """Pair two streams by key; at least one of each pair is there."""
    entry = next(entries, None)
    for listed in listing:
        while entry is not None and entry.key != listed.key and to_place(entry.key) < to_place(listed.key):
            yield entry.key, None, entry
            entry = next(entries, None)
        if entry is not None and entry.key == listed.key:
            yield listed.key, listed, entry
            entry = next(entries, None)
        else:
            yield listed.key, listed, None
    while entry is not None:
        yield entry.key, None, entry
        entry = next(entries, None)
