"""What a key was found to be (pure)."""

import json
from collections.abc import Sequence
from typing import NamedTuple


class Outcome(NamedTuple):
    """What one key was found to be; the columns of the table `stage`.

    `expected` is the revision of the key's ledger entry before it was read, 0 for none; None: nobody asked.
    `etag` None: every run reads it again. `picture` None: a record. `birthts` in milliseconds since
    1970-01-01 UTC.
    """

    key: str
    expected: int | None
    gone: bool = False
    etag: str | None = None
    user_id: str | None = None
    picture: int | None = None
    first_name: str | None = None
    last_name: str | None = None
    birthts: int | None = None
    reason: str | None = None
    detail: str | None = None

    @property
    def is_blank(self) -> bool:
        """True of what only remembers that the key was settled: nothing is there."""
        return self.user_id is None and self.reason is None


def to_json(outcomes: Sequence[Outcome]) -> str:
    """Return outcomes as a JSON array of objects: a few go with the statement that settles them."""
    return json.dumps([outcome._asdict() for outcome in outcomes])
