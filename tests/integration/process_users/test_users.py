"""Which users there are after a run, and why: seen in the table, the report and both outputs."""

import csv
import io
from dataclasses import dataclass

import pytest
from pipeline import HEADER, OUTPUT_HEADER, REJECTS_HEADER, Pipeline, to_csv

ADA = ("Ada", "King", 612_302_400_000)
GRACE = ("Grace", "Hopper", -1_989_360_000_000)


@dataclass(frozen=True, slots=True)
class Dirt:
    """A file that is rejected, and what is said of it."""

    key: str
    body: bytes
    reason: str
    detail: str


DIRT = [
    Dirt(".csv", to_csv(), "key_invalid", "the key has no user id before its extension"),
    Dirt(
        f"{'k' * 129}.csv",
        to_csv(),
        "key_invalid",
        "the user id has 129 characters, at most 128 are accepted",
    ),
    Dirt(".png", b"", "key_invalid", "the key has no user id before its extension"),
    Dirt("twice.csv", to_csv(), "duplicate", "another record of this user has a smaller key"),
    Dirt("large.csv", to_csv().ljust(65_537), "too_large", "the file is larger than 65536 bytes"),
    Dirt("latin.csv", HEADER.encode() + b"Ren\xe9, King, 0", "not_utf8", "the file is not UTF-8"),
    Dirt(
        "quotes.csv",
        to_csv('A"da'),
        "csv_malformed",
        "the file is not CSV as RFC 4180 has it: check its quotes",
    ),
    Dirt("empty.csv", b"", "row_count", "wanted a header and exactly one row, found no header"),
    Dirt("cells.csv", to_csv("Ada, of"), "cell_count", "the header has 3 cells, the row has 4"),
    Dirt("column.csv", b"first_name,birthts\nAda,0", "column_missing", "the column last_name is missing"),
    Dirt(
        "columns.csv",
        b"first_name,last_name,birthts,BIRTHTS\nAda,King,0,0",
        "column_repeated",
        "the column birthts is there more than once",
    ),
    Dirt("nameless.csv", to_csv(last_name=""), "name_empty", "last_name is empty"),
    Dirt("long.csv", to_csv("x" * 201), "name_too_long", "first_name is longer than 200 characters"),
    Dirt("control.csv", to_csv("A\tda"), "name_control", "first_name has control characters"),
    Dirt(
        "date.csv",
        to_csv(birthts="1989-05-28"),
        "birthts_malformed",
        "birthts: wanted milliseconds since 1970-01-01 UTC as a whole number of up to 15 digits",
    ),
    Dirt(
        "unborn.csv",
        to_csv(birthts=99_999_999_999_999),
        "birthts_out_of_range",
        "birthts: wanted a time from 1900-01-01 to the end of the UTC day on which the file was last "
        "modified",
    ),
]


def test_every_kind_of_dirt_is_reported_and_stops_nobody_else(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.put("twice.CSV")
    for dirt in DIRT:
        pipeline.put(dirt.key, dirt.body)
    report = pipeline.run()
    want = sorted(DIRT, key=lambda dirt: dirt.key.encode())
    assert report["rejects"] == [
        {"key": dirt.key, "reason": dirt.reason, "detail": dirt.detail} for dirt in want
    ]
    assert report["rejected"] == len(DIRT)
    assert pipeline.user_ids() == ["1000", "twice"]
    quoted = [f'"{dirt.detail}"' if "," in dirt.detail else dirt.detail for dirt in want]
    assert pipeline.fetch("rejects.csv").text == REJECTS_HEADER + "".join(
        f"{dirt.key},{dirt.reason},{detail}\n" for dirt, detail in zip(want, quoted, strict=True)
    )


def test_a_changed_record_updates_its_row_in_place(pipeline: Pipeline):
    pipeline.put("1000.csv", to_csv(*ADA))
    pipeline.put("1001.csv", to_csv(*ADA))
    pipeline.run()
    ids = pipeline.database.run("select id from users order by user_id")
    pipeline.put("1000.csv", to_csv(*GRACE))
    assert pipeline.run()["upserted"] == 1
    assert pipeline.users() == [("1000", *GRACE, None), ("1001", *ADA, None)]
    assert pipeline.database.run("select id from users order by user_id") == ids


def test_birth_dates_are_kept_to_the_millisecond(pipeline: Pipeline):
    moments = {"a": -2_208_988_800_000, "b": -1, "c": 0, "d": 1, "e": 612_302_400_123, "f": 999_999_999_999}
    for user_id, birthts in moments.items():
        pipeline.put(f"{user_id}.csv", to_csv(birthts=birthts))
    pipeline.run()
    assert {user[0]: user[3] for user in pipeline.users()} == moments
    lines = pipeline.fetch("output.csv").text.splitlines()[1:]
    assert [line.split(",")[3] for line in lines] == [str(birthts) for birthts in moments.values()]


@pytest.mark.parametrize("mode", ["keep", "remove"])
def test_the_last_valid_record_of_a_user_stays_when_the_file_breaks(pipeline: Pipeline, mode: str):
    pipeline.put("1000.csv", to_csv(*ADA))
    pipeline.put("1000.png")
    pipeline.run(ON_SOURCE_DELETE=mode)
    pipeline.put("1000.csv", b"broken")
    report = pipeline.run(ON_SOURCE_DELETE=mode)
    assert (report["upserted"], report["removed"], report["rejected"]) == (0, 0, 1)
    assert pipeline.users() == [("1000", *ADA, f"{pipeline.bucket.source}/1000.png")]
    pipeline.remove("1000.png")  # the picture goes its own way
    pipeline.run(ON_SOURCE_DELETE=mode)
    assert pipeline.users() == [("1000", *ADA, None)]
    pipeline.put("1000.csv", to_csv(*GRACE))
    assert pipeline.run(ON_SOURCE_DELETE=mode)["rejected"] == 0
    assert pipeline.users() == [("1000", *GRACE, None)]
    assert pipeline.rejects() == {}


def test_a_user_whose_record_was_never_valid_is_none(pipeline: Pipeline):
    pipeline.put("1000.csv", b"broken")
    pipeline.put("1000.png")
    pipeline.put("1001.png")
    report = pipeline.run()
    assert (report["listed"], report["ignored"], report["upserted"]) == (3, 0, 0)
    assert pipeline.users() == []
    assert pipeline.fetch("output.csv").text == OUTPUT_HEADER


def test_a_rejected_file_is_not_read_again_until_it_changes(pipeline: Pipeline, asked: list[str]):
    pipeline.put("1000.csv", b"broken")
    pipeline.put("1001.csv")
    pipeline.run()
    assert sorted(asked) == ["1000.csv", "1001.csv"]
    asked.clear()
    assert pipeline.run()["unchanged"] == 2
    assert asked == []
    pipeline.put("1000.csv", b"broken otherwise")
    pipeline.run()
    assert asked == ["1000.csv"]


def test_what_is_too_large_is_not_read_at_all(pipeline: Pipeline, asked: list[str]):
    pipeline.put("1000.csv", to_csv().ljust(65_537))
    pipeline.put("1001.csv", to_csv().ljust(65_536, b"\n"))
    pipeline.put("1002.png", b"x" * 100_000)
    pipeline.run()
    assert asked == ["1001.csv"]
    assert pipeline.rejects() == {"1000.csv": "too_large"}
    assert pipeline.user_ids() == ["1001"]


def test_the_next_record_takes_over_when_the_smallest_key_goes(pipeline: Pipeline):
    for key, name in (("1000.CSV", "First"), ("1000.Csv", "Second"), ("1000.csv", "Third")):
        pipeline.put(key, to_csv(name))
    seen = []
    for key in ("1000.CSV", "1000.Csv", "1000.csv"):
        pipeline.run()
        seen.append(([user[1] for user in pipeline.users()], pipeline.rejects()))
        assert len(pipeline.fetch("rejects.csv").text.splitlines()) == 1 + len(pipeline.rejects())
        pipeline.remove(key)
    assert seen == [
        (["First"], {"1000.Csv": "duplicate", "1000.csv": "duplicate"}),
        (["Second"], {"1000.csv": "duplicate"}),
        (["Third"], {}),
    ]


def test_the_smallest_key_is_the_record_even_when_it_is_broken(pipeline: Pipeline):
    pipeline.put("1000.csv", to_csv("Second"))
    pipeline.run()
    pipeline.put("1000.CSV", b"broken")
    pipeline.run()
    assert pipeline.rejects() == {"1000.CSV": "row_count", "1000.csv": "duplicate"}
    assert [user[1] for user in pipeline.users()] == ["Second"]  # the last valid one
    pipeline.put("1000.csv", to_csv("Changed"))
    pipeline.run()
    assert [user[1] for user in pipeline.users()] == ["Second"]
    pipeline.remove("1000.CSV")
    pipeline.run()
    assert [user[1] for user in pipeline.users()] == ["Changed"]
    assert pipeline.rejects() == {}


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("left", [None, b"broken", to_csv("Third")], ids=["gone", "broken", "changed"])
def test_what_takes_over_is_what_the_bucket_holds_now(pipeline: Pipeline, left: bytes | None):
    """The record that takes over changed too, but its batch comes later."""
    pipeline.put("1000.CSV", to_csv("First"))
    pipeline.put("1000.csv", to_csv("Second"))
    pipeline.put("notes.txt")
    pipeline.run()
    pipeline.remove("1000.CSV", *(["1000.csv"] if left is None else []))
    if left is not None:
        pipeline.put("1000.csv", left)
    pipeline.run()
    # Second was never anybody's: that record was a duplicate as long as it said so.
    assert [user[1] for user in pipeline.users()] == ["Third" if left == to_csv("Third") else "First"]
    assert pipeline.rejects() == ({"1000.csv": "row_count"} if left == b"broken" else {})


def test_a_broken_record_beside_another_is_a_duplicate_first(pipeline: Pipeline):
    pipeline.put("1000.CSV")
    pipeline.put("1000.csv", b"broken")
    pipeline.run()
    assert pipeline.rejects() == {"1000.csv": "duplicate"}
    pipeline.remove("1000.CSV")
    pipeline.run()
    assert pipeline.rejects() == {"1000.csv": "row_count"}


def test_the_next_picture_takes_over_when_the_first_goes(pipeline: Pipeline):
    order = ["1000.PNG", "1000.png", "1000.JPG", "1000.jpg", "1000.JPEG", "1000.jpeg"]
    pipeline.put("1000.csv")
    for key in reversed(order):
        pipeline.put(key)
        pipeline.run()
        assert pipeline.pictures() == {"1000": key}
    for key, following in zip(order, [*order[1:], None], strict=True):
        pipeline.remove(key)
        pipeline.run()
        assert pipeline.pictures() == {"1000": following}


def test_a_renamed_file_keeps_its_user(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.run(ON_SOURCE_DELETE="remove")
    before = pipeline.database.run("select * from users")
    pipeline.put("1000.CSV")
    pipeline.remove("1000.csv")
    report = pipeline.run(ON_SOURCE_DELETE="remove")
    assert (report["upserted"], report["removed"]) == (0, 0)
    assert pipeline.database.run("select * from users") == before


def test_a_user_whose_record_disappears_stays_without_their_picture(pipeline: Pipeline):
    pipeline.put("1000.csv", to_csv(*ADA))
    pipeline.put("1000.png")
    pipeline.put("other.csv", to_csv(*GRACE))
    pipeline.run()
    pipeline.remove("1000.csv")
    pipeline.run()
    assert pipeline.users()[0] == ("1000", *ADA, f"{pipeline.bucket.source}/1000.png")
    pipeline.remove("1000.png")
    report = pipeline.run()
    assert (report["upserted"], report["removed"]) == (1, 0)
    assert pipeline.users() == [("1000", *ADA, None), ("other", *GRACE, None)]
    pipeline.put("1000.jpg")  # a picture alone is enough for a user who is known
    pipeline.run()
    assert pipeline.pictures() == {"1000": "1000.jpg", "other": None}


def test_a_user_whose_record_disappears_goes_with_remove(pipeline: Pipeline):
    for key in ("1000.csv", "1000.png", "1001.csv"):
        pipeline.put(key)
    pipeline.run(ON_SOURCE_DELETE="remove")
    pipeline.remove("1000.csv")
    report = pipeline.run(ON_SOURCE_DELETE="remove")
    assert (report["upserted"], report["removed"], report["output"]["rows"]) == (0, 1, 1)
    assert pipeline.user_ids() == ["1001"]
    pipeline.put("1000.csv")  # the picture is still there
    pipeline.run(ON_SOURCE_DELETE="remove")
    assert pipeline.pictures() == {"1000": "1000.png", "1001": None}


def test_switching_to_remove_removes_who_was_kept_and_switching_back_keeps_who_is_there(pipeline: Pipeline):
    for user_id in ("kept", "later", "there"):
        pipeline.put(f"{user_id}.csv")
    pipeline.run()
    pipeline.remove("kept.csv")
    pipeline.run()
    assert pipeline.user_ids() == ["kept", "later", "there"]
    assert pipeline.run(ON_SOURCE_DELETE="remove")["removed"] == 1
    assert pipeline.user_ids() == ["later", "there"]
    pipeline.remove("later.csv")
    assert pipeline.run()["removed"] == 0
    assert pipeline.user_ids() == ["later", "there"]


ODD_USERS = (
    *("0001", "1", "01", "1000.d", ".dot", "a b", " ", "a+b", "a%20b", "%", "100%", "é", "e\u0301", "日本"),
    *("=1+1", "@x", "-", "'", "a'b", '"q"', "a,b", "a&b=c", "a;b", "[x]", "{y}", "~", "#", "?", "!", "$(x)"),
    *("NA", "null", "None", "nan", "True", "1e5", "\uff5e", "\U0001d4b3", "\\.", "\\N", "a\\nb"),
)


def test_user_ids_of_any_kind_are_kept_as_they_are_and_sort_as_bytes(pipeline: Pipeline):
    for user_id in ODD_USERS:
        pipeline.put(f"{user_id}.csv")
        pipeline.put(f"{user_id}.png")
    pipeline.run()
    want = sorted(ODD_USERS, key=str.encode)
    assert pipeline.user_ids() == want
    assert pipeline.pictures() == {user_id: f"{user_id}.png" for user_id in want}
    lines = list(csv.reader(io.StringIO(pipeline.fetch("output.csv").text)))
    assert [line[0] for line in lines[1:]] == want
    unchanged = pipeline.run()
    assert unchanged["unchanged"] == 2 * len(ODD_USERS)
    pipeline.remove(*(f"{user_id}.png" for user_id in ODD_USERS))
    pipeline.run()
    assert set(pipeline.pictures().values()) == {None}


def test_keys_that_are_no_file_of_a_user_are_ignored_and_counted(pipeline: Pipeline):
    for key in (
        "1000.csv",
        "readme.txt",
        "1000.gif",
        "folder/1001.csv",
        "folder/deep/1002.png",
        "noextension",
    ):
        pipeline.put(key)
    report = pipeline.run()
    assert (report["listed"], report["ignored"], report["upserted"], report["rejected"]) == (6, 5, 1, 0)
    assert pipeline.user_ids() == ["1000"]
    again = pipeline.run()
    assert (again["listed"], again["ignored"], again["unchanged"]) == (6, 5, 1)


def test_only_keys_directly_under_the_prefix_are_the_source(pipeline: Pipeline):
    for key in ("1.csv", "in/2.csv", "in/2.png", "in/deeper/3.csv", "inn/4.csv"):
        pipeline.put(key)
    report = pipeline.run(SOURCE_PREFIX="in/")
    assert (report["listed"], report["ignored"], report["upserted"]) == (3, 1, 1)
    assert pipeline.users() == [("2", *ADA, f"{pipeline.bucket.source}/in/2.png")]


@pytest.mark.parametrize("mode", ["keep", "remove"])
def test_another_prefix_is_another_source(pipeline: Pipeline, mode: str):
    for key in ("1.csv", "1.png", "x.csv", "in/2.csv", "in/2.png", "in/x.csv", "in/x.png"):
        pipeline.put(key)
    here, there = {"1": "1.png", "x": None}, {"2": "in/2.png", "x": "in/x.png"}
    # With keep, users whose files are of the other prefix stay, but without pictures.
    kept_here, kept_there = ({"2": None}, {"1": None}) if mode == "keep" else ({}, {})
    pipeline.run(ON_SOURCE_DELETE=mode)
    assert pipeline.pictures() == here
    pipeline.run(ON_SOURCE_DELETE=mode, SOURCE_PREFIX="in/")
    assert pipeline.pictures() == there | kept_there
    pipeline.run(ON_SOURCE_DELETE=mode)
    assert pipeline.pictures() == here | kept_here


@pytest.mark.parametrize("mode", ["keep", "remove"])
def test_another_bucket_is_another_source(pipeline: Pipeline, mode: str):
    for key in ("1.csv", "1.png", "2.csv", "2.png", "3.csv", "3.png"):
        pipeline.put(key)
    pipeline.run(ON_SOURCE_DELETE=mode)
    other = pipeline.bucket.output
    for key, body in (("1.csv", to_csv()), ("1.png", b"png"), ("2.csv", b"broken"), ("2.png", b"png")):
        pipeline.put_output(key, body)
    pipeline.run(ON_SOURCE_DELETE=mode, SOURCE_BUCKET=other, OUTPUT_BUCKET=pipeline.bucket.source)
    want = {"1": f"{other}/1.png", "2": f"{other}/2.png"} | ({"3": None} if mode == "keep" else {})
    assert {user[0]: user[4] for user in pipeline.users()} == want
    assert pipeline.rejects()["2.csv"] == "row_count"


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("mode", ["keep", "remove"])
def test_it_does_not_matter_into_how_many_batches_a_user_falls(pipeline: Pipeline, mode: str):
    # Between record and picture of 1000 lie the files of another user, so each is in a batch of its own.
    for key in ("1000.csv", "1000.d.csv", "1000.d.png", "1000.jpg", "1000.png", "1000.CSV"):
        pipeline.put(key)
    pipeline.run(ON_SOURCE_DELETE=mode)
    assert pipeline.pictures() == {"1000": "1000.png", "1000.d": "1000.d.png"}
    assert pipeline.rejects() == {"1000.csv": "duplicate"}
    pipeline.remove("1000.CSV", "1000.png", "1000.d.csv", "1000.d.png")
    pipeline.run(ON_SOURCE_DELETE=mode)
    kept: dict[str, str | None] = {"1000.d": None} if mode == "keep" else {}
    assert pipeline.pictures() == {"1000": "1000.jpg"} | kept
    assert pipeline.rejects() == {}
    pipeline.put("1000.CSV", to_csv(*GRACE))
    pipeline.put("1000.png")
    pipeline.remove("1000.csv", "1000.jpg")
    pipeline.run(ON_SOURCE_DELETE=mode)
    assert pipeline.users()[0] == ("1000", *GRACE, f"{pipeline.bucket.source}/1000.png")
