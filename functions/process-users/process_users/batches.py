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


# Every type is named, because pandas would guess wrong: integers with gaps become floats, "NA" may become
# a missing value.
DTYPES = {
    "key": "str",
    "expected": "int64",
    "gone": "bool",
    "etag": "str",
    "user_id": "str",
    "picture": "Int16",
    "first_name": "str",
    "last_name": "str",
    "birthts": "Int64",
    "reason": "str",
    "detail": "str",
}


def build_batch(outcomes: Sequence[Outcome]) -> pandas.DataFrame:
    """Return the outcomes as a DataFrame with the columns and types of DTYPES; each key is in it once."""
    columns = zip(*outcomes, strict=True) if outcomes else ([] for _ in DTYPES)
    typed = zip(DTYPES.items(), columns, strict=True)
    batch = pandas.DataFrame({name: pandas.array(list(cells), dtype=dtype) for (name, dtype), cells in typed})
    if not batch["key"].is_unique:
        raise ValueError("a key is in the batch twice")
    return batch


def to_copy_text(batch: pandas.DataFrame) -> bytes:
    """Return the batch as CSV for COPY: every text quoted, so that no key can end a row; missing is empty."""
    text = batch.to_csv(index=False, header=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return text.encode()
