from datetime import UTC, datetime
from io import BytesIO

import pytest
from PIL import Image

from process_users.records import Record, Reject, parse_record
from rollcall.samples import FIRST_ID, ORDINARY_USERS, Sample, samples, users

# key_invalid and duplicate are told from keys, unreadable by no file
REASONS_OF_CONTENT = {
    "too_large",
    "not_utf8",
    "csv_malformed",
    "row_count",
    "cell_count",
    "column_missing",
    "column_repeated",
    "name_empty",
    "name_too_long",
    "name_control",
    "birthts_malformed",
    "birthts_out_of_range",
}


@pytest.fixture(scope="module")
def all_samples() -> list[Sample]:
    return list(samples())


def records(all_samples: list[Sample]) -> dict[str, bytes]:
    return {sample.key: sample.body for sample in all_samples if sample.key.lower().endswith(".csv")}


def test_they_are_the_same_every_time(all_samples: list[Sample]):
    assert list(samples()) == all_samples


def test_no_key_is_there_twice(all_samples: list[Sample]):
    keys = [sample.key for sample in all_samples]
    assert len(set(keys)) == len(keys)


def test_each_reason_has_one_file_named_after_it(all_samples: list[Sample]):
    outcomes = {key: parse_record(body, datetime.now(UTC)) for key, body in records(all_samples).items()}
    rejects = {key: outcome.reason for key, outcome in outcomes.items() if isinstance(outcome, Reject)}
    assert rejects == {f"dirt-{reason}.csv": reason for reason in REASONS_OF_CONTENT}


def test_one_key_is_too_long_and_one_record_is_there_twice(all_samples: list[Sample]):
    keys = [key.rpartition(".") for key in records(all_samples)]
    assert [stem for stem, _, _ in keys if len(stem) > 128] == ["x" * 129]
    assert sorted(suffix for stem, _, suffix in keys if stem == "duplicate") == ["CSV", "csv"]


def test_the_users_are_about_a_hundred_and_their_records_say_what_they_are(all_samples: list[Sample]):
    bodies = records(all_samples)
    want = {user.user_id: Record(user.first_name, user.last_name, user.birthts) for user in users()}
    got = {user_id: parse_record(bodies[f"{user_id}.csv"], datetime.now(UTC)) for user_id in want}
    assert got == want
    assert 90 <= len(want) <= 110
    assert {"0001", "anna.maria", "two words", "日本", str(FIRST_ID + ORDINARY_USERS - 1)} <= want.keys()


def test_the_usual_header_is_the_documented_one(all_samples: list[Sample]):
    assert records(all_samples)["1000.csv"].splitlines()[0] == b"first_name, last_name, birthts"


def test_every_picture_is_one_of_the_format_that_its_key_says(all_samples: list[Sample]):
    pictures = [sample for sample in all_samples if sample.content_type.startswith("image/")]
    for sample in pictures:
        with Image.open(BytesIO(sample.body)) as image:
            image.load()
            assert f"image/{(image.format or '').lower()}" == sample.content_type
        assert len(sample.body) < 20_000
    assert {sample.key.rpartition(".")[2] for sample in pictures} == {"png", "jpg", "jpeg", "JPG"}
