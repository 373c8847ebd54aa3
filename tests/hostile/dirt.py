"""Kinds of dirt: how a file of each is made, and the reason that it must be rejected for.

Every file is made anew from random parts, so that no two are alike; what is wrong with it is its kind alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

COLUMNS = ("first_name", "last_name", "birthts")
LINE_ENDS = ("\n", "\r\n", "\r")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LETTERS = "abcdefghijklmnopqrstuvwxyzäéøßžλдש日本語한ก"
# No comma, quote or line end: a plain cell; no control character.
SIGNS = " .-'’;:!?#$%&()*+/<=>@[]^_`{|}~😀‍\\"  # noqa: RUF001
CONTROLS = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))]
NO_UTF8 = (b"\xff", b"\xfe", b"\xc3", b"\xe9", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\xaf", b"\x80")
FIRST_MS = -2_208_988_800_000  # 1900-01-01

Build = Callable[[Random], bytes]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a good file is made of; a kind replaces one of them."""

    header: tuple[str, ...]
    row: tuple[str, ...]
    line_end: str

    def to_bytes(self) -> bytes:
        return self.line_end.join((", ".join(self.header), ", ".join(self.row), "")).encode()


def build_name(random: Random, length: int | None = None) -> str:
    length = length or random.randint(2, 30)
    inner = "".join(random.choice(LETTERS + SIGNS) for _ in range(length - 2))
    return f"{random.choice(LETTERS)}{inner}{random.choice(LETTERS)}"[:length]


def build_birthts(random: Random) -> int:
    return random.randrange(FIRST_MS, 1_700_000_000_000)


def build_parts(random: Random) -> Parts:
    """A file that keeps the rules, its columns in any order and case, among others."""
    cells = {
        "first_name": build_name(random),
        "last_name": build_name(random),
        "birthts": str(build_birthts(random)),
        f"extra {random.randrange(1_000)}": random.choice(["", "x", '"a ""quoted"" one, with a comma"']),
    }
    names = random.sample(list(cells), len(cells))
    header = tuple(random.choice((str.lower, str.upper, str.title))(name) for name in names)
    return Parts(header, tuple(cells[name] for name in names), random.choice(LINE_ENDS))


def build_good(random: Random) -> tuple[bytes, tuple[str, str, int]]:
    """Return a good file, and what is in it."""
    first, last, birthts = build_name(random), build_name(random), build_birthts(random)
    return f"first_name, last_name, birthts\n{first}, {last}, {birthts}\n".encode(), (first, last, birthts)


def with_cell(random: Random, column: str, text: str) -> bytes:
    """A good file with another text in one column."""
    parts = build_parts(random)
    place = [name.lower() for name in parts.header].index(column)
    row = (*parts.row[:place], text, *parts.row[place + 1 :])
    return Parts(parts.header, row, parts.line_end).to_bytes()


def with_name(random: Random, text: str) -> bytes:
    return with_cell(random, random.choice(COLUMNS[:2]), text)


def quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def cut(random: Random, text: str) -> tuple[str, str]:
    place = random.randint(0, len(text))
    return text[:place], text[place:]


# ------------------------------------------------------------------- the kinds, in the order of their reasons


def too_large(random: Random) -> bytes:
    body = build_parts(random).to_bytes()
    return body + b"\n" * (random.randint(65_537, 200_000) - len(body))


def not_utf8(random: Random) -> bytes:
    body = build_parts(random).to_bytes()
    place = random.randint(0, len(body))
    # Before an ASCII character or the end, so that the bytes around cannot complete it.
    while place < len(body) and body[place] >= 0x80:
        place += 1
    return body[:place] + random.choice(NO_UTF8) + body[place:]


def another_encoding(random: Random) -> bytes:
    text = build_parts(random).to_bytes().decode() + "é"
    return text.encode(random.choice(("utf-16", "utf-32", "utf-16-be", "cp1252", "latin-1")), "replace")


def stray_quote(random: Random) -> bytes:
    before, after = cut(random, build_name(random))
    return with_name(random, f'x{before}"{after}')


def open_quote(random: Random) -> bytes:
    return build_parts(random).to_bytes() + f'"{build_name(random)}'.encode()


def text_after_quote(random: Random) -> bytes:
    return with_name(random, f"{quote(build_name(random))}{random.choice([' ', 'x', ' x', chr(9)])}")


def blank_before_first_quote(random: Random) -> bytes:
    parts = build_parts(random)
    return Parts(parts.header, (" " + quote("x"), *parts.row[1:]), parts.line_end).to_bytes()


def no_header(random: Random) -> bytes:
    return "".join(random.choice(LINE_ENDS) for _ in range(random.randint(0, 50))).encode()


def no_row(random: Random) -> bytes:
    return (", ".join(build_parts(random).header) + random.choice(["", *LINE_ENDS])).encode()


def many_rows(random: Random) -> bytes:
    parts = build_parts(random)
    row = ", ".join(parts.row).encode() + parts.line_end.encode()
    return parts.to_bytes() + row * random.randint(1, 200)


def row_of_blanks(random: Random) -> bytes:
    return build_parts(random).to_bytes() + random.choice([b" ", b"\t", b"\xc2\xa0", b'""']) + b"\n"


def too_many_cells(random: Random) -> bytes:
    parts = build_parts(random)
    return Parts(parts.header, parts.row + ("x",) * random.randint(1, 500), parts.line_end).to_bytes()


def too_few_cells(random: Random) -> bytes:
    parts = build_parts(random)
    # Not one alone: that may be empty, and then it is no row.
    return Parts(parts.header, parts.row[: random.randint(2, 3)], parts.line_end).to_bytes()


def another_separator(random: Random) -> bytes:
    separator = random.choice(";|:\t")
    return f"{separator.join(COLUMNS)}\n{separator.join(('Ann', 'Other', '0'))}\n".encode()


def missing_column(random: Random) -> bytes:
    parts = build_parts(random)
    column = random.choice(COLUMNS)
    other = random.choice(
        [column[1:], f"{column}s", column.replace("t", "7"), f"_{column}", f"{column}\u200b"]
    )
    header = tuple(other if name.lower() == column else name for name in parts.header)
    return Parts(header, parts.row, parts.line_end).to_bytes()


def repeated_column(random: Random) -> bytes:
    parts, column = build_parts(random), random.choice(COLUMNS)
    again = random.choice((column, column.upper(), f"{column} ", quote(column)))
    return Parts((*parts.header, again), (*parts.row, "x"), parts.line_end).to_bytes()


def empty_name(random: Random) -> bytes:
    return with_name(random, random.choice(["", " ", "\t", "\u00a0", "\u3000\u2003", '""', '" "']))


def long_name(random: Random) -> bytes:
    return with_name(random, build_name(random, random.randint(201, 5_000)))


def control_in_name(random: Random) -> bytes:
    before, after = cut(random, build_name(random))
    return with_name(random, quote(f"x{before}{random.choice(CONTROLS)}{after}x"))


def control_around_name(random: Random) -> bytes:
    # Those that Python's own strip() would take for blanks.
    control = random.choice("\x0b\x0c\x1c\x1d\x1e\x1f\x85\n\r")
    name = build_name(random)
    return with_name(random, quote(random.choice([f"{control}{name}", f"{name}{control}"])))


def malformed_birthts(random: Random) -> bytes:
    digits = str(random.randrange(10**9))
    arabic = "".join(chr(ord(digit) + 0x630) for digit in digits)
    forms = [
        *("", "-", "+1", "NA", "null", "NaN", "inf", "0x1F", "1e12", "--1", "- 1", "1_0", "1 0", "1.0", "²³"),
        *(f"{digits}.0", f"{digits}e3", f"{digits}L", f"'{digits}", f"{digits}\u2011", f"+{digits}", arabic),
        *("9" * random.randint(16, 400), "-" + "0" * 16, "01:00", "1990-01-01"),
    ]
    return with_cell(random, "birthts", random.choice(forms))


def birthts_before_1900(random: Random) -> bytes:
    return with_cell(random, "birthts", str(random.randint(-(10**15) + 1, FIRST_MS - 1)))


def birthts_in_the_future(random: Random) -> bytes:
    # From the day after tomorrow on, so that no midnight comes in between.
    first = (datetime.now(UTC) + timedelta(days=2) - EPOCH) // timedelta(milliseconds=1)
    return with_cell(random, "birthts", str(random.randint(first, 10**15 - 1)))


KINDS: dict[Build, str] = {
    too_large: "too_large",
    not_utf8: "not_utf8",
    another_encoding: "not_utf8",
    stray_quote: "csv_malformed",
    open_quote: "csv_malformed",
    text_after_quote: "csv_malformed",
    blank_before_first_quote: "csv_malformed",
    no_header: "row_count",
    no_row: "row_count",
    many_rows: "row_count",
    row_of_blanks: "row_count",
    too_many_cells: "cell_count",
    too_few_cells: "cell_count",
    another_separator: "column_missing",
    missing_column: "column_missing",
    repeated_column: "column_repeated",
    empty_name: "name_empty",
    long_name: "name_too_long",
    control_in_name: "name_control",
    control_around_name: "name_control",
    malformed_birthts: "birthts_malformed",
    birthts_before_1900: "birthts_out_of_range",
    birthts_in_the_future: "birthts_out_of_range",
}


def build_files(random: Random, count: int) -> Iterator[tuple[str, bytes, str]]:
    """Yield so many files of each kind: a user id that tells the kind, the file, and the reason."""
    for build, reason in KINDS.items():
        for number in range(count):
            yield f"{build.__name__} {number}", build(random), reason
