"""A second reading of records, written from FILES.md's table of rules alone: one character after the other.

It shares nothing with the product, so that where both agree, both have understood the rules alike.
"""

import unicodedata
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEEDED = ("first_name", "last_name", "birthts")


class BrokenError(Exception):
    """A rule is broken; its reason is the message."""


def read(body: bytes, modified: datetime) -> tuple[str, str, int] | str:
    """Return the names and birthts of a record file, or the reason it is rejected for."""
    try:
        return read_or_break(body, modified)
    except BrokenError as broken:
        return str(broken)


def read_or_break(body: bytes, modified: datetime) -> tuple[str, str, int]:
    check(len(body) <= 65_536, "too_large")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise BrokenError("not_utf8") from None
    table = split(text[1:] if text.startswith("\ufeff") else text)
    check(len(table) == 2, "row_count")
    header, row = ([trim(cell) for cell in line] for line in table)
    check(len(header) == len(row), "cell_count")
    names = [name.lower() for name in header]
    check(all(name in names for name in NEEDED), "column_missing")
    check(all(names.count(name) == 1 for name in NEEDED), "column_repeated")
    first_name, last_name, birthts = (row[names.index(name)] for name in NEEDED)
    check(first_name != "" and last_name != "", "name_empty")
    check(len(first_name) <= 200 and len(last_name) <= 200, "name_too_long")
    controls = [character for character in first_name + last_name if unicodedata.category(character) == "Cc"]
    check(not controls, "name_control")
    digits = birthts[1:] if birthts[:1] == "-" else birthts
    check(1 <= len(digits) <= 15 and all(digit in "0123456789" for digit in digits), "birthts_malformed")
    moment = EPOCH + timedelta(milliseconds=int(birthts)) if -(10**13) < int(birthts) < 10**14 else None
    day = modified.astimezone(UTC).date()
    check(moment is not None and moment.year >= 1900 and moment.date() <= day, "birthts_out_of_range")
    return first_name, last_name, int(birthts)


def check(holds: bool, reason: str) -> None:
    if not holds:
        raise BrokenError(reason)


def split(text: str) -> list[list[str]]:
    """Split CSV into lines of cells, without empty lines; line ends within quotes are content."""
    table: list[list[str]] = []
    cells: list[str] = []
    rest = list(reversed(text))  # its end is what comes next
    while rest:
        line_is_new = not cells
        if line_is_new and rest[-1] in "\r\n":
            skip_line_end(rest)
            continue
        if not line_is_new:
            blanks = skip_blanks(rest)
            cells.append(take_quoted(rest) if rest[-1:] == ['"'] else blanks + take_plain(rest))
        else:
            cells.append(take_quoted(rest) if rest[-1] == '"' else take_plain(rest))
        if rest[-1:] == [","]:
            rest.pop()
            if not rest:
                cells.append("")
        else:
            check(not rest or rest[-1] in "\r\n", "csv_malformed")
            skip_line_end(rest)
            table.append(cells)
            cells = []
    return [*table, cells] if cells else table


def skip_line_end(rest: list[str]) -> None:
    if rest and rest.pop() == "\r" and rest[-1:] == ["\n"]:
        rest.pop()


def skip_blanks(rest: list[str]) -> str:
    """Skip what may stand between a comma and a quote."""
    skipped = ""
    while rest and rest[-1] in " \t":
        skipped += rest.pop()
    return skipped


def take_plain(rest: list[str]) -> str:
    cell = ""
    while rest and rest[-1] not in ",\r\n":
        check(rest[-1] != '"', "csv_malformed")
        cell += rest.pop()
    return cell


def take_quoted(rest: list[str]) -> str:
    cell = ""
    rest.pop()
    while True:
        check(bool(rest), "csv_malformed")
        character = rest.pop()
        if character == '"':
            if rest[-1:] != ['"']:
                return cell
            rest.pop()
        cell += character


def trim(cell: str) -> str:
    """Take blanks off both ends: tabs and what Unicode calls a space or a separator."""
    while cell and is_blank(cell[0]):
        cell = cell[1:]
    while cell and is_blank(cell[-1]):
        cell = cell[:-1]
    return cell


def is_blank(character: str) -> bool:
    return character == "\t" or unicodedata.category(character) in ("Zs", "Zl", "Zp")
