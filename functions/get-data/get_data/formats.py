"""The representations of users: the SQL of one user's line, and what stands around and between lines."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import LiteralString

from serving.csv_lines import BIRTHTS, USER_CELLS, USER_ROW, build_row, to_csv


@dataclass(frozen=True, slots=True)
class Format:
    """A representation of which Postgres writes the lines, so that few users pass Python one by one.

    `line` is SQL over a row of users. `separator` stands between lines: Postgres joins those of a page by it,
    Python those of an export. `finish` makes what is sent of lines and their number. `file_name` is what a
    browser saves the answer as, None where it shows it. A page of more than `few_users` counts as a large
    answer before it is made.
    """

    name: str
    media_type: str
    line: LiteralString
    opening: str
    separator: LiteralString
    closing: str
    finish: Callable[[bytes, int], bytes] = lambda lines, count: lines
    file_name: str | None = None
    few_users: int = 1_000


# Put together from text: json_build_object takes half as long again, concat() a tenth.
_MEMBERS: LiteralString = f"""'"first_name": ' || to_json(first_name)::text
    || ', "last_name": ' || to_json(last_name)::text
    || ', "birthts": ' || {BIRTHTS}
    || ', "img_path": ' || coalesce(to_json(img_path)::text, 'null') || '}}'"""
RECORD: LiteralString = f"'{{' || {_MEMBERS}"


# How a formula begins for a spreadsheet, in full width as well; what may stand before it; and where a cell
# begins: also at a semicolon or a tab, where the spreadsheets of some countries split our cells.
_FORMULA: LiteralString = r"[-=+@\uFF0D\uFF1D\uFF0B\uFF20\t\r\n]"
_BLANKS: LiteralString = r'[\s"\u00A0\u00AD\u2000-\u200F\u2028-\u202F\u205F-\u2064\u3000\uFEFF]*'
_BEGIN: LiteralString = r"^(?![-+]?[0-9]+$)|[;\t\r\n]"


def _to_literal(text: LiteralString) -> LiteralString:
    """Return SQL that keeps a spreadsheet from taking a text for a formula; numbers stay as they are."""
    return f"regexp_replace({text}, '({_BEGIN})(?={_BLANKS}{_FORMULA})', '\\1''', 'g')"


JSON = Format(
    name="json",
    media_type="application/json",
    line=f"to_json(user_id)::text || ': ' || {RECORD}",
    opening="{",
    separator=",\n ",
    closing="}\n",
)
CSV = Format(
    name="csv",
    media_type="text/csv",
    line=USER_ROW,
    opening=f"{','.join(USER_CELLS)}\n",
    separator="",
    closing="",
    finish=to_csv,
    file_name="users.csv",
)
SPREADSHEET = replace(
    CSV,
    name="csv for spreadsheets",
    line=build_row(tuple(_to_literal(cell) for cell in USER_CELLS.values())),
)
NDJSON = Format(
    name="ndjson",
    media_type="application/x-ndjson",
    line=f"""'{{"user_id": ' || to_json(user_id)::text || ', ' || {_MEMBERS} || '\n'""",
    opening="",
    separator="",
    closing="",
    file_name="users.ndjson",
)
# The page is made from the same lines; it is for people, so it comes in pages only.
HTML = replace(JSON, name="html", media_type="text/html", few_users=100)

# What `format` and `Accept` can ask for, the preferred one first.
FORMATS = {representation.name: representation for representation in (JSON, CSV, NDJSON, HTML)}
