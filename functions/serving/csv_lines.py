"""Users as CSV: Postgres writes their rows, and cells are quoted here, where they need it."""

import re
from typing import LiteralString

# Milliseconds since 1970-01-01 UTC, which a float holds exactly.
BIRTHTS: LiteralString = "cast(date_part('epoch', birthdate) * 1000 as bigint)::text"
# A user as both functions write it: the names of the cells, and SQL of each over a row of users.
USER_CELLS: dict[str, LiteralString] = {
    "user_id": "user_id",
    "first_name": "first_name",
    "last_name": "last_name",
    "birthts": BIRTHTS,
    "img_path": "coalesce(img_path, '')",
}
# ASCII's separators of units and of records: control characters, which no cell of a user holds.
_CELL_END, _ROW_END = b"\x1f", b"\x1e"
_TO_CSV = bytes.maketrans(_CELL_END + _ROW_END, b",\n")
_SIGNS = (b'"', b",", b"\r", b"\n")
_has_sign = re.compile(rb'[",\r\n]').search


def build_row(cells: tuple[LiteralString, ...]) -> LiteralString:
    """Return SQL of a row for to_csv(); each cell is SQL of a text, not null."""
    between: LiteralString = " || e'\\x1f' || "
    return f"{between.join(cells)} || e'\\x1e'"


USER_ROW = build_row(tuple(USER_CELLS.values()))


def to_csv(rows: bytes, count: int) -> bytes:
    """Return CSV of so many rows of users, one behind the other; RFC 4180 says which cells are quoted.

    A million users take 0.15 s where no cell is quoted, 0.5 s where one in thousands is, and 2 s where each
    user has one; to find out in SQL took 0.65 s at least. Raises ValueError when a cell holds one of the
    separators, which only somebody else can have written.
    """
    if rows.count(_ROW_END) != count or rows.count(_CELL_END) != (len(USER_CELLS) - 1) * count:
        raise ValueError("a cell holds a character that separates cells or rows")
    if any(sign in rows for sign in _SIGNS):
        rows = _ROW_END.join(_quote_row(row) if _has_sign(row) else row for row in rows.split(_ROW_END))
    return rows.translate(_TO_CSV)


def _quote_row(row: bytes) -> bytes:
    return _CELL_END.join(_quote(cell) if _has_sign(cell) else cell for cell in row.split(_CELL_END))


def _quote(cell: bytes) -> bytes:
    return b'"%b"' % cell.replace(b'"', b'""')
