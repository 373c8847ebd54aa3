"""Lines of CSV, read back by Python's csv: each cell is what it was in Postgres."""

import csv
from collections.abc import Callable, Sequence
from io import StringIO
from itertools import product

import pytest
from faults.model import quote
from rig import Database

from process_users.outputs import REJECTS, USERS, build_csv_line
from serving.csv_lines import build_row

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
Finish = Callable[[bytes, int], bytes]
# Cells of users are quoted by to_csv(), those of rejects by Postgres, and both in the same way.
LINES = {
    USERS.finish: build_row(("first", "coalesce(second, '')", "third::text", "''", "''")),
    REJECTS.finish: build_csv_line(("first", "coalesce(second, '')", "third::text", "''", "''")),
}
either = pytest.mark.parametrize("finish", LINES)


def write(database: Database, pairs: Sequence[tuple[str, str | None]], finish: Finish) -> str:
    """Return the lines of the pairs, each with its number and two empty cells."""
    first, second = zip(*pairs, strict=True)
    rows = database.run(
        f"""
        select first, second, {LINES[finish]}
        from unnest(cast(:first as text[]), cast(:second as text[])) with ordinality
             as pairs(first, second, third)
        order by third
        """,  # noqa: S608  constants of this module
        first=list(first),
        second=list(second),
    )
    assert [(row[0], row[1]) for row in rows] == list(pairs)
    return finish("".join(row[2] for row in rows).encode(), len(rows)).decode()


def parse(text: str) -> list[list[str]]:
    return list(csv.reader(StringIO(text, newline=""), strict=True))


@either
def test_each_cell_beside_each_other_is_read_back(database: Database, finish: Finish):
    pairs = list(product(CELLS, CELLS))
    text = write(database, pairs, finish)
    assert parse(text) == [[first, second, str(n), "", ""] for n, (first, second) in enumerate(pairs, 1)]


@either
def test_null_is_read_back_as_an_empty_cell(database: Database, finish: Finish):
    text = write(database, [(cell, None) for cell in CELLS], finish)
    assert parse(text) == [[cell, "", str(n), "", ""] for n, cell in enumerate(CELLS, 1)]


@either
def test_what_needs_no_quotes_has_none(database: Database, finish: Finish):
    pairs = [*((cell, "a") for cell in CELLS), *(("a", cell) for cell in CELLS)]
    want = [f"{quote(first)},{quote(second)},{n},,\n" for n, (first, second) in enumerate(pairs, 1)]
    assert write(database, pairs, finish) == "".join(want)


@either
def test_where_nothing_needs_quotes_none_are_written(database: Database, finish: Finish):
    plain = [cell for cell in CELLS if quote(cell) == cell]
    want = [f"{cell},{cell},{n},,\n" for n, cell in enumerate(plain, 1)]
    assert write(database, [(cell, cell) for cell in plain], finish) == "".join(want)
