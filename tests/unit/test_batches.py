import csv
import io

import pytest

from process_users.batches import build_batch, to_copy_text
from process_users.outcomes import Outcome

# Text that pandas, CSV or COPY would like to read as something else; each cell is to stay as it is.
TRICKY = [
    *("NA", "NaN", "nan", "null", "NULL", "None", "n/a", "", "-", "True", "1e5", "1_000", "0x1F", "inf"),
    *("0001", "007", "1.0", " padded ", "a,b", 'a"b', '"', '""', "'", "\\N", "\\.", "\\", "%s", "é", "日本"),
    *("a\nb", "a\rb", "a\r\nb", "a\tb", "\x01", "\x7f", "\x85", "\u2028", "\ufeff", "=1+1", "\U0001d4b3"),
]


def read_back(text: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode(), newline=""), lineterminator="\n"))


def test_the_columns_are_the_fields_of_an_outcome():
    assert list(build_batch([]).columns) == list(Outcome._fields)
    assert to_copy_text(build_batch([])) == b""


def test_integers_with_gaps_stay_integers():
    batch = build_batch(
        [
            Outcome("a.csv", 9_007_199_254_740_993, birthts=-2_208_988_800_000),
            Outcome("b.png", 0, picture=0),
            Outcome("c.csv", 1, birthts=9_007_199_254_740_993),  # no float holds it
        ]
    )
    assert [row[:2] for row in read_back(to_copy_text(batch))] == [
        ["a.csv", "9007199254740993"],
        ["b.png", "0"],
        ["c.csv", "1"],
    ]
    assert [row[8] for row in read_back(to_copy_text(batch))] == ["-2208988800000", "", "9007199254740993"]
    assert [row[5] for row in read_back(to_copy_text(batch))] == ["", "0", ""]


def test_every_text_is_quoted_and_what_is_missing_is_empty():
    batch = build_batch(
        [
            Outcome("1000.csv", 7, etag="e1", user_id="1000", first_name="NA", last_name="null", birthts=0),
            Outcome("1001.csv", 0, gone=True),
            Outcome("1002.png", 0, etag="e2", user_id="1002", picture=2),
            Outcome('"a,\nb".csv', 0, reason="key_invalid", detail='its "key"'),
        ]
    )
    assert to_copy_text(batch).decode().split("\n") == [
        '"1000.csv",7,False,"e1","1000","","NA","null",0,"",""',
        '"1001.csv",0,True,"","","","","","","",""',
        '"1002.png",0,False,"e2","1002",2,"","","","",""',
        '"""a,',
        'b"".csv",0,False,"","","","","","","key_invalid","its ""key"""',
        "",
    ]


def test_no_name_is_taken_for_something_else():
    outcomes = [
        Outcome(f"{number}.csv", 0, user_id=text, first_name=text, last_name=text)
        for number, text in enumerate(TRICKY)
    ]
    rows = read_back(to_copy_text(build_batch(outcomes)))
    assert [[row[4], row[6], row[7]] for row in rows] == [[text] * 3 for text in TRICKY]


def test_a_key_is_in_a_batch_once():
    with pytest.raises(ValueError, match="a key is in the batch twice"):
        build_batch([Outcome("a.csv", 0), Outcome("b.csv", 0), Outcome("a.csv", 1)])
