"""The representations of users: the SQL of one user's line, and what stands around and between lines."""

from dataclasses import dataclass, replace
from typing import LiteralString

from serving.csv_lines import build_csv_line


@dataclass(frozen=True, slots=True)
class Format:
    """A representation that Postgres writes, so that no user passes through Python one by one.

    `line` is SQL over a row of users. `separator` is both SQL's and Python's: it joins lines to chunks, and
    chunks to the answer. `file_name` is what a browser saves the answer as, None where it shows it.
    """

    name: str
    media_type: str
    line: LiteralString
    opening: str
    separator: LiteralString
    closing: str
    file_name: str | None = None


# A float holds these milliseconds exactly.
_BIRTHTS: LiteralString = "cast(date_part('epoch', birthdate) * 1000 as bigint)::text"

# Put together from text: json_build_object takes half as long again, concat() a tenth.
_MEMBERS: LiteralString = f"""'"first_name": ' || to_json(first_name)::text
    || ', "last_name": ' || to_json(last_name)::text
    || ', "birthts": ' || {_BIRTHTS}
    || ', "img_path": ' || coalesce(to_json(img_path)::text, 'null') || '}}'"""
RECORD: LiteralString = f"'{{' || {_MEMBERS}"


def _to_literal(text: LiteralString) -> LiteralString:
    """Return SQL that keeps a spreadsheet from taking a text for a formula."""
    return f"regexp_replace({text}, '^(?=[-=+@\\t\\r])', '''')"


_NAMES: tuple[LiteralString, ...] = ("user_id", "first_name", "last_name")
_IMG_PATH: LiteralString = "coalesce(img_path, '')"

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
    line=build_csv_line((*_NAMES, _BIRTHTS, _IMG_PATH), plain=(_BIRTHTS,)),
    opening="user_id,first_name,last_name,birthts,img_path\n",
    separator="",
    closing="",
    file_name="users.csv",
)
SPREADSHEET = replace(
    CSV,
    name="csv for spreadsheets",
    line=build_csv_line([_to_literal(cell) for cell in (*_NAMES, _BIRTHTS, _IMG_PATH)]),
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
HTML = replace(JSON, name="html", media_type="text/html")

# What `format` and `Accept` can ask for, the preferred one first.
FORMATS = {representation.name: representation for representation in (JSON, CSV, NDJSON, HTML)}
