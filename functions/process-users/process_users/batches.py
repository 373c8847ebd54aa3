"""A batch of outcomes as one DataFrame, and as the text that Postgres copies in (pure).

Importing pandas takes a third of a second, so this module is imported with the first run.
"""

import csv
from collections.abc import Sequence

import pandas

from process_users.outcomes import Outcome


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
