"""Lines of CSV that Postgres writes, read back by Python's csv: each cell is what it was."""

import csv
from collections.abc import Sequence
from io import StringIO
from itertools import product

from faults.model import quote
from rig import Database

from serving.csv_lines import build_csv_line

SIGNS = [
    '"',
    ",",
    "\r",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\v",
    "\f",
    "\x85",
    "\ufeff",
    "\\",
    "\\.",
    "\\n",
    "'",
    ";",
    "%",
    "_",
]
PLAIN = ("", "a", "Zoë 日本 🙂", "NULL", "\\N", "0", "=1+1")
# Each sign alone, twice, before, behind and within others.
CELLS = sorted(
    {*PLAIN, *(form.replace("?", sign) for sign in SIGNS for form in ("?", "??", "?a", "a?", "a?b"))}
)
LINE = build_csv_line(("first", "coalesce(second, '')", "third::text"), plain=("third::text",))
WRITE = f"""
select first, second, {LINE}
from unnest(cast(:first as text[]), cast(:second as text[])) with ordinality as pairs(first, second, third)
order by third
"""  # noqa: S608  constants of this module


def write(database: Database, pairs: Sequence[tuple[str, str | None]]) -> list[str]:
    """Return the line of each pair and its number."""
    first, second = zip(*pairs, strict=True)
    rows = database.run(WRITE, first=list(first), second=list(second))
    assert [(row[0], row[1]) for row in rows] == list(pairs)
    return [row[2] for row in rows]


def parse(lines: list[str]) -> list[list[str]]:
    return list(csv.reader(StringIO("".join(lines), newline=""), strict=True))


def test_each_cell_beside_each_other_is_read_back(database: Database):
    pairs = list(product(CELLS, CELLS))
    lines = write(database, pairs)
    assert parse(lines) == [[first, second, str(n)] for n, (first, second) in enumerate(pairs, 1)]


def test_null_is_read_back_as_an_empty_cell(database: Database):
    lines = write(database, [(cell, None) for cell in CELLS])
    assert parse(lines) == [[cell, "", str(n)] for n, cell in enumerate(CELLS, 1)]


def test_what_needs_no_quotes_has_none(database: Database):
    pairs = [*((cell, "a") for cell in CELLS), *(("a", cell) for cell in CELLS)]
    want = [f"{quote(first)},{quote(second)},{n}\n" for n, (first, second) in enumerate(pairs, 1)]
    assert write(database, pairs) == want
