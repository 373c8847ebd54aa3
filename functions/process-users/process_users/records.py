"""Records: the bytes of a file become a record or the reason why not (pure, total)."""

import re
from dataclasses import dataclass
from datetime import datetime

from process_users.keys import has_control_character

# Part of what the ledger remembers: rejected files are read again when it changes.
RULES_VERSION = "3"

MAX_BYTES = 65_536
MAX_NAME_CHARACTERS = 200
COLUMNS = ("first_name", "last_name", "birthts")
# White space, but of the control characters the tab alone: str.strip() would drop the others unseen.
_BLANKS = (
    "\t \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

_DAY_S = 86_400
_FIRST_BIRTHTS = -2_208_988_800_000  # 1900-01-01
_BIRTHTS = re.compile(r"-?[0-9]{1,15}")
# One field and what ends it. Blanks may follow a comma, so they may precede a quote there, and nowhere else;
# possessive, so that no input makes it look twice.
_QUOTED = r'"((?:[^"]|"")*+)"'
_PLAIN = r'([^",\r\n]*+)'
_END = r"(,|\r\n|\r|\n|\Z)"
_FIRST_FIELD = re.compile(f"(?:{_QUOTED}|{_PLAIN}){_END}")
_NEXT_FIELD = re.compile(f"[ \t]*+(?:{_QUOTED}|{_PLAIN}){_END}")


@dataclass(frozen=True, slots=True)
class Record:
    """A valid record; `birthts` in milliseconds since 1970-01-01 UTC."""

    first_name: str
    last_name: str
    birthts: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a file is no record: a stable code, and the rule and column in words, never the content."""

    reason: str
    detail: str


class _RejectedError(Exception):
    """Ends the parsing of a file that breaks a rule; does not leave this module."""


def parse_record(body: bytes, modified: datetime) -> Record | Reject:
    """Parse a record file that was last modified at `modified`; the first rule it breaks is its reason."""
    try:
        header, row = _parse_table(_decode(body))
        first_name, last_name, birthts = _pick_cells(header, row)
        _check_names(first_name, last_name)
        return Record(first_name, last_name, _parse_birthts(birthts, modified))
    except _RejectedError as error:
        reason, detail = error.args
        return Reject(reason, detail)


def reject_too_large() -> Reject:
    """Reject a file for its size, which is known before it is read."""
    return Reject("too_large", f"the file is larger than {MAX_BYTES} bytes")


def _decode(body: bytes) -> str:
    if len(body) > MAX_BYTES:
        too_large = reject_too_large()
        raise _RejectedError(too_large.reason, too_large.detail)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _RejectedError("not_utf8", "the file is not UTF-8") from error


def _parse_table(text: str) -> tuple[list[str], list[str]]:
    rows = _parse_rows(text)
    if len(rows) != 2:
        found = "no header" if not rows else f"{len(rows) - 1} rows"
        raise _RejectedError("row_count", f"wanted a header and exactly one row, found {found}")
    header, row = rows
    if len(header) != len(row):
        raise _RejectedError("cell_count", f"the header has {len(header)} cells, the row has {len(row)}")
    return header, row


def _parse_rows(text: str) -> list[list[str]]:
    """Split RFC 4180 text; the csv module would let quotes inside of plain fields pass."""
    rows: list[list[str]] = []
    row: list[str] = []
    position, length = 0, len(text)
    while position < length or row:
        match = (_NEXT_FIELD if row else _FIRST_FIELD).match(text, position)
        if match is None:
            raise _RejectedError("csv_malformed", "the file is not CSV as RFC 4180 has it: check its quotes")
        quoted, plain, end = match.groups()
        row.append(plain if quoted is None else quoted.replace('""', '"'))
        is_empty_line = match.end() - match.start() == len(end)
        position = match.end()
        if end != ",":
            if len(row) > 1 or not is_empty_line:
                rows.append(row)
            row = []
    return rows


def _pick_cells(header: list[str], row: list[str]) -> list[str]:
    names = [name.strip(_BLANKS).lower() for name in header]
    for column in COLUMNS:
        if column not in names:
            raise _RejectedError("column_missing", f"the column {column} is missing")
    for column in COLUMNS:
        if names.count(column) > 1:
            raise _RejectedError("column_repeated", f"the column {column} is there more than once")
    return [row[names.index(column)].strip(_BLANKS) for column in COLUMNS]


def _check_names(first_name: str, last_name: str) -> None:
    names = (("first_name", first_name), ("last_name", last_name))
    for column, name in names:
        if not name:
            raise _RejectedError("name_empty", f"{column} is empty")
    for column, name in names:
        if len(name) > MAX_NAME_CHARACTERS:
            raise _RejectedError("name_too_long", f"{column} is longer than {MAX_NAME_CHARACTERS} characters")
    for column, name in names:
        if has_control_character(name):
            raise _RejectedError("name_control", f"{column} has control characters")


def _parse_birthts(text: str, modified: datetime) -> int:
    if not _BIRTHTS.fullmatch(text):
        wanted = "wanted milliseconds since 1970-01-01 UTC as a whole number of up to 15 digits"
        raise _RejectedError("birthts_malformed", f"birthts: {wanted}")
    birthts = int(text)
    if not _FIRST_BIRTHTS <= birthts < (modified.timestamp() // _DAY_S + 1) * _DAY_S * 1000:
        wanted = "wanted a time from 1900-01-01 to the end of the UTC day on which the file was last modified"
        raise _RejectedError("birthts_out_of_range", f"birthts: {wanted}")
    return birthts
