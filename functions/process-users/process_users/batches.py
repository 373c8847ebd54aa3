"""A batch of outcomes as one DataFrame, and as the text that Postgres copies in (pure).

Importing pandas takes a third of a second, so this module is imported with the first run.
"""

import csv
from collections.abc import Sequence
from typing import NamedTuple

import pandas


class Outcome(NamedTuple):
    """What one key was found to be; the columns of the table `stage`.

    `expected` is the revision of the key's ledger entry before it was read, 0 for none. `etag` None: every
    run reads it again. `picture` None: a record. `birthts` in milliseconds since 1970-01-01 UTC.
    """

    key: str
    expected: int
    gone: bool = False
    etag: str | None = None
    user_id: str | None = None
    picture: int | None = None
    first_name: str | None = None
    last_name: str | None = None
    birthts: int | None = None
    reason: str | None = None
    detail: str | None = None


def build_batch(outcomes: Sequence[Outcome]) -> pandas.DataFrame:
    """Return the outcomes as a DataFrame with a column for each field; each key is in it once.

    Every cell stays the object it is. Left to infer types, pandas makes floats of integers with gaps and
    missing values of names such as "NA".
    """
    batch = pandas.DataFrame(outcomes, columns=list(Outcome._fields), dtype=object)
    if not batch["key"].is_unique:
        raise ValueError("a key is in the batch twice")
    return batch


def to_copy_text(batch: pandas.DataFrame) -> bytes:
    """Return the batch as CSV for COPY: every text quoted, so that no key can end a row; missing is empty."""
    text = batch.to_csv(index=False, header=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return text.encode()
