import csv
import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from fuzz import plain
from hypothesis import example, given
from hypothesis import strategies as st

from process_users.records import Record, Reject, parse_record, reject_too_large

MODIFIED = datetime(2026, 11, 23, 12, tzinfo=UTC)
LAST_MS = 1_795_478_399_999  # 2026-11-23T23:59:59.999Z
FIRST_MS = -2_208_988_800_000  # 1900-01-01T00:00:00Z
HEADER = "first_name, last_name, birthts\n"
COLUMNS = ("first_name", "last_name", "birthts")
KING = Record("Ada", "King", 612_302_400_000)

GOOD = [
    ("the usual form", HEADER + "Ada, King, 612302400000\n", KING),
    ("no newline at the end", HEADER + "Ada, King, 612302400000", KING),
    ("no blanks", "first_name,last_name,birthts\nAda,King,612302400000\n", KING),
    (
        "many blanks and tabs",
        " first_name ,\t last_name\t,  birthts \n  Ada ,  King\t, 612302400000  \n",
        KING,
    ),
    ("CRLF", "first_name,last_name,birthts\r\nAda,King,612302400000\r\n", KING),
    ("CR", "first_name,last_name,birthts\rAda,King,612302400000\r", KING),
    ("mixed line ends", "first_name,last_name,birthts\r\nAda,King,612302400000\r", KING),
    ("a BOM", "\ufeff" + HEADER + "Ada, King, 612302400000\n", KING),
    ("empty lines anywhere", "\n\r\n" + HEADER + "\n\nAda, King, 612302400000\n\n\r\n", KING),
    ("another case", "First_Name, LAST_NAME, BirthTS\nAda, King, 612302400000", KING),
    ("another order", "birthts,last_name,first_name\n612302400000,King,Ada", KING),
    ("more columns", "id,first_name,note,last_name,birthts,\n7,Ada,,King,612302400000,x", KING),
    ("an extra column twice", "first_name,last_name,birthts,x,x\nAda,King,612302400000,1,2", KING),
    ("all quoted", '"first_name", "last_name", "birthts"\n"Ada", "King", "612302400000"', KING),
    ("quotes before a line end", '"first_name",last_name,"birthts"\r\n"Ada",King,"612302400000"\r\n', KING),
    ("a comma in quotes", HEADER + '"Ada", "King, Countess", 0', Record("Ada", "King, Countess", 0)),
    ("quotes in quotes", HEADER + '"""Ada""", King, 0', Record('"Ada"', "King", 0)),
    ("quotes alone", HEADER + '"""", King, 0', Record('"', "King", 0)),
    ("blanks in quotes are stripped too", HEADER + '" Ada ", " King ", " 0 "', Record("Ada", "King", 0)),
    (
        "blanks of any kind are stripped",
        HEADER + "\u3000Ada\xa0, \u2003\tKing\u2028, 0\u202f",
        Record("Ada", "King", 0),
    ),
    ("NA and null are names", HEADER + "NA, null, 0", Record("NA", "null", 0)),
    ("None and nan are names", HEADER + "None, nan, 0", Record("None", "nan", 0)),
    ("digits are names", HEADER + "007, 1e12, 0", Record("007", "1e12", 0)),
    ("what spreadsheets take for formulas", HEADER + "=1+1, @x, 0", Record("=1+1", "@x", 0)),
    ("any script", HEADER + "Žofie, 日本, 0", Record("Žofie", "日本", 0)),
    ("joined characters", HEADER + "a\u200db, \u05d0, 0", Record("a\u200db", "\u05d0", 0)),
    (
        "names as long as they may be",
        HEADER + f"{'é' * 200}, {'日' * 200}, 0",
        Record("é" * 200, "日" * 200, 0),
    ),
    ("before 1970", HEADER + "Ada, King, -1", Record("Ada", "King", -1)),
    ("minus zero", HEADER + "Ada, King, -0", Record("Ada", "King", 0)),
    ("leading zeros", HEADER + "Ada, King, 000000000000042", Record("Ada", "King", 42)),
    ("the first moment", HEADER + f"Ada, King, {FIRST_MS}", Record("Ada", "King", FIRST_MS)),
    ("the last moment", HEADER + f"Ada, King, {LAST_MS}", Record("Ada", "King", LAST_MS)),
]

NO_UTF8 = "the file is not UTF-8"
NO_CSV = "the file is not CSV as RFC 4180 has it: check its quotes"
NO_DIGITS = "birthts: wanted milliseconds since 1970-01-01 UTC as a whole number of up to 15 digits"
NO_DAY = (
    "birthts: wanted a time from 1900-01-01 to the end of the UTC day on which the file was last modified"
)


def wanted_rows(found: str) -> str:
    return f"wanted a header and exactly one row, found {found}"


BAD = [
    (b"x" * 65_537, "too_large", "the file is larger than 65536 bytes"),
    (b"first_name, last_name, birthts\nRen\xe9, King, 0", "not_utf8", NO_UTF8),
    ((HEADER + "Ada, King, 0").encode("utf-16"), "not_utf8", NO_UTF8),
    (b"\xed\xa0\x80", "not_utf8", NO_UTF8),
    (HEADER + 'Ada "the" Countess, King, 0', "csv_malformed", NO_CSV),
    (HEADER + '"Ada"x, King, 0', "csv_malformed", NO_CSV),
    (HEADER + '"Ada" , King, 0', "csv_malformed", NO_CSV),
    (HEADER + '"Ada, King, 0', "csv_malformed", NO_CSV),
    (HEADER + ' "Ada", King, 0', "csv_malformed", NO_CSV),
    (HEADER + 'Ada, King, 0"', "csv_malformed", NO_CSV),
    (HEADER + '"""', "csv_malformed", NO_CSV),
    ("", "row_count", wanted_rows("no header")),
    ("\ufeff", "row_count", wanted_rows("no header")),
    ("\n\r\n\r", "row_count", wanted_rows("no header")),
    (HEADER, "row_count", wanted_rows("0 rows")),
    ("Ada, King, 612302400000", "row_count", wanted_rows("0 rows")),
    (HEADER + "Ada, King, 0\nJoan, Clarke, 0", "row_count", wanted_rows("2 rows")),
    (HEADER + "Ada, King, 0\n \n", "row_count", wanted_rows("2 rows")),
    (HEADER + 'Ada, King, 0\n""\n', "row_count", wanted_rows("2 rows")),
    (HEADER + "Ada, King, 0\n,,", "row_count", wanted_rows("2 rows")),
    (HEADER + "Ada, King", "cell_count", "the header has 3 cells, the row has 2"),
    (HEADER + "Ada, King, 0,", "cell_count", "the header has 3 cells, the row has 4"),
    (HEADER + "Ada King 0", "cell_count", "the header has 3 cells, the row has 1"),
    ("first_name, last_name, birthts,\nAda, King, 0", "cell_count", "the header has 4 cells, the row has 3"),
    ("firstname,last_name,birthts\nAda,King,0", "column_missing", "the column first_name is missing"),
    ("first_name;last_name;birthts\nAda;King;0", "column_missing", "the column first_name is missing"),
    ("first_name,last name,birthts\nAda,King,0", "column_missing", "the column last_name is missing"),
    ("first_name,last_name\nAda,King", "column_missing", "the column birthts is missing"),
    ('"first_name\n",last_name,birthts\nAda,King,0', "column_missing", "the column first_name is missing"),
    (
        "first_name,last_name,birthts,First_Name \nAda,King,0,Ada",
        "column_repeated",
        "the column first_name is there more than once",
    ),
    (
        "birthts,first_name,last_name,birthts\n0,Ada,King,0",
        "column_repeated",
        "the column birthts is there more than once",
    ),
    (HEADER + ", King, 0", "name_empty", "first_name is empty"),
    (HEADER + 'Ada,"  ", 0', "name_empty", "last_name is empty"),
    (HEADER + "Ada,\u3000, 0", "name_empty", "last_name is empty"),
    (HEADER + f"{'x' * 201}, King, 0", "name_too_long", "first_name is longer than 200 characters"),
    (HEADER + f"Ada, {'日' * 201}, 0", "name_too_long", "last_name is longer than 200 characters"),
    (HEADER + '"A\nda", King, 0', "name_control", "first_name has control characters"),
    (HEADER + "Ada, Ki\tng, 0", "name_control", "last_name has control characters"),
    (HEADER + "Ada, Ki\x00ng, 0", "name_control", "last_name has control characters"),
    *(
        (HEADER + body, "name_control", f"{column} has control characters")
        for column, body in (
            *(("first_name", '"Ada\n", King, 0'), ("first_name", '"\r\n", King, 0')),
            *(("last_name", "Ada, \x0bKing, 0"), ("last_name", "Ada, King\x1f, 0")),
            *(("last_name", "Ada, King\x85, 0"), ("last_name", "Ada, King \x0c , 0")),
        )
    ),
    (HEADER + "A\x85da, King, 0", "name_control", "first_name has control characters"),
    (HEADER + "A\x7fda, King, 0", "name_control", "first_name has control characters"),
    *(
        (HEADER + f"Ada, King, {birthts}", "birthts_malformed", NO_DIGITS)
        for birthts in (
            *("", "NA", "+1", "1.0", "1e12", "0x10", "1_000", "- 1", "--1", "1 000", "1990-01-01"),
            *("1234567890123456", "-1234567890123456", "\u0661\u0662", "١", "1\u00b2"),  # noqa: RUF001
            *("0\x1f", "\x0b0", '"0\n"'),
        )
    ),
    (HEADER + f"Ada, King, {LAST_MS + 1}", "birthts_out_of_range", NO_DAY),
    (HEADER + f"Ada, King, {FIRST_MS - 1}", "birthts_out_of_range", NO_DAY),
    (HEADER + "Ada, King, 999999999999999", "birthts_out_of_range", NO_DAY),
    (HEADER + "Ada, King, -999999999999999", "birthts_out_of_range", NO_DAY),
]

# Each file breaks two rules or more; the one that comes first in the contract is the reason.
PRECEDENCE = [
    (b"\xff" * 65_537, "too_large"),
    (b'\xff"a"b\n', "not_utf8"),
    ('a"b', "csv_malformed"),
    ("x\n1,2\n1,2", "row_count"),
    ("x,y\n1", "cell_count"),
    ("first_name,first_name,last_name\n,,", "column_missing"),
    ("first_name,first_name,last_name,birthts\n,,,", "column_repeated"),
    (HEADER + f"{'x' * 201},,x", "name_empty"),
    (HEADER + f"A\x01da, {'x' * 201}, x", "name_too_long"),
    (HEADER + "Ada, Ki\x01ng, x", "name_control"),
    (HEADER + "Ada, King, 9999999999999999", "birthts_malformed"),
]


def to_bytes(body: bytes | str) -> bytes:
    return body if isinstance(body, bytes) else body.encode()


@pytest.mark.parametrize(("body", "want"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_a_file_that_keeps_the_rules_is_a_record(body: str, want: Record):
    assert parse_record(body.encode(), MODIFIED) == want


@pytest.mark.parametrize(("body", "reason", "detail"), BAD)
def test_a_file_that_breaks_a_rule_is_rejected_with_its_code(body: bytes | str, reason: str, detail: str):
    assert parse_record(to_bytes(body), MODIFIED) == Reject(reason, detail)


@pytest.mark.parametrize(("body", "reason"), PRECEDENCE, ids=[row[1] for row in PRECEDENCE])
def test_the_first_rule_that_a_file_breaks_is_its_reason(body: bytes | str, reason: str):
    got = parse_record(to_bytes(body), MODIFIED)
    assert isinstance(got, Reject)
    assert got.reason == reason


def test_a_file_may_have_65536_bytes():
    body = (HEADER + "Ada, King, 612302400000").encode().ljust(65_536, b"\n")
    assert parse_record(body, MODIFIED) == KING
    assert parse_record(body + b"\n", MODIFIED) == reject_too_large()


@pytest.mark.parametrize(
    ("modified", "last_ms"),
    [
        (datetime(2026, 11, 23, 0, 0, tzinfo=UTC), LAST_MS),
        (datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC), LAST_MS),
        (datetime(2026, 11, 24, 1, tzinfo=timezone(timedelta(hours=2))), LAST_MS),  # still the 23rd in UTC
        (datetime(2024, 2, 28, 23, tzinfo=UTC), 1_709_164_799_999),
    ],
)
def test_nobody_is_born_after_the_utc_day_of_the_file(modified: datetime, last_ms: int):
    body = HEADER + "Ada, King, "
    assert parse_record(f"{body}{last_ms}".encode(), modified) == Record("Ada", "King", last_ms)
    assert parse_record(f"{body}{last_ms + 1}".encode(), modified) == Reject("birthts_out_of_range", NO_DAY)


@pytest.mark.parametrize(("body", "reason", "detail"), BAD)
def test_no_detail_quotes_the_file(body: bytes | str, reason: str, detail: str):
    got = parse_record(to_bytes(body), MODIFIED)
    assert isinstance(got, Reject)
    assert not {"Ada", "King", "Joan", "Countess"} & set(got.detail.replace(":", "").split())


NEARLY = st.lists(st.sampled_from([*'",\r\n \t1-é\x01', *COLUMNS])).map("".join)


NAMES = (
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)
    .map(str.strip)
    .filter(bool)
)
RECORDS = st.builds(Record, NAMES, NAMES, st.integers(FIRST_MS, LAST_MS))


@given(
    record=RECORDS,
    columns=st.permutations([*COLUMNS, "note"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
)
def test_every_valid_record_comes_back_from_the_file_that_the_csv_module_writes(
    record: Record, columns: list[str], quoting: int, line_end: str, bom: bool
):
    row = {
        "first_name": record.first_name,
        "last_name": record.last_name,
        "birthts": record.birthts,
        "note": 'a"\n,',
    }
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting, lineterminator=line_end)  # pyright: ignore[reportArgumentType]
    writer.writerows([columns, [row[column] for column in columns]])
    assert parse_record(text.getvalue().encode("utf-8-sig" if bom else "utf-8"), MODIFIED) == record


# Text that comes near to a row: random bytes hardly ever get past the first rules.
ROWS = st.lists(st.sampled_from([*'",\r\n \t1-é\x01\xa0', '""', "\r\n", "Ada,King,", ",King,0"])).map("".join)


@given(st.binary(max_size=300) | NEARLY.map(str.encode) | ROWS.map(lambda row: (HEADER + row).encode()))
@example(f'{HEADER}"a""b",  "c",1\r\n'.encode())
@example(f'{HEADER}a,"b\r\nc",\r'.encode())
@example(f'{HEADER}a,,"" '.encode())
def test_a_second_reading_of_the_rules_agrees(body: bytes):
    got, want = parse_record(body, MODIFIED), plain.read(body, MODIFIED)
    if isinstance(got, Record):
        assert (got.first_name, got.last_name, got.birthts) == want
    else:
        assert got.reason == want


@pytest.mark.parametrize("body", [row[1] for row in GOOD] + [row[0] for row in (*BAD, *PRECEDENCE)])
def test_the_second_reading_knows_the_tables_too(body: bytes | str):
    got, want = parse_record(to_bytes(body), MODIFIED), plain.read(to_bytes(body), MODIFIED)
    assert want == ((got.first_name, got.last_name, got.birthts) if isinstance(got, Record) else got.reason)
