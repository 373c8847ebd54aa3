"""Figures come from counts by day of birth, which are right whoever changes users and however."""

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from io import BytesIO

import pytest
from flask.testing import FlaskClient
from get_data_client import open_client
from rig import Database

from get_data.ages import to_age

COUNTED = """
select (birthdate at time zone 'UTC')::date, img_path is not null, count(*)
from users
group by 1, 2
order by 1, 2
"""
KEPT = "select day, with_picture, users from birth_counts where users <> 0 order by day, with_picture"
# Few days, so that many users share one; with the moments around midnight.
MOMENT = "timestamptz '1990-01-01Z' + {} * interval '1 day' + interval '{} ms'"
CHANGES = (
    "insert into users (user_id, first_name, last_name, birthdate, img_path) "
    "select gen_random_uuid(), 'a', 'b', {moment}, {path} from generate_series(1, {number})",
    "update users set birthdate = {moment} where id % 7 = {rest}",
    "update users set img_path = {path} where id % 5 = {rest}",
    "update users set first_name = 'c' where id % 3 = {rest}",
    "update users set birthdate = birthdate + interval '1 ms', img_path = {path}",
    "delete from users where id % 11 = {rest}",
    "insert into users (user_id, first_name, last_name, birthdate, img_path) "
    "select user_id, 'd', 'e', {moment}, {path} from users where id % 4 = {rest} "
    "on conflict (user_id) do update set birthdate = excluded.birthdate, img_path = excluded.img_path",
    "with moved as (delete from users where id % 9 = {rest} returning *) "
    "insert into users (user_id, first_name, last_name, birthdate) "
    "select user_id || 'x', 'f', 'g', {moment} from moved",
    "truncate users",
)


@pytest.fixture
def client(database: Database) -> Iterator[FlaskClient]:
    with open_client(database.env("get_data")) as client:
        yield client


def write_change(chance: random.Random) -> str:
    change = chance.choice(CHANGES[:-1] if chance.random() < 0.95 else CHANGES)
    return change.format(
        moment=MOMENT.format(chance.randrange(-4, 4), chance.choice((0, 1, 86_399_999))),
        path=chance.choice(("null", "'src-data/a.png'")),
        number=chance.randrange(1, 60),
        rest=chance.randrange(3),
    )


@pytest.mark.parametrize("seed", range(4))
def test_counts_agree_with_counting_whatever_was_done(database: Database, seed: int):
    chance = random.Random(seed)
    for number in range(60):
        change = write_change(chance)
        if number % 10 == 9:
            database.run(
                f"do $$ begin {change}; raise exception 'taken back'; exception when others then end $$"
            )
        else:
            database.run(change)
        assert database.run(KEPT) == database.run(COUNTED), change


def test_counts_agree_with_counting_after_copy(database: Database):
    rows = "".join(f"{n}\tAda\tKing\t19{n % 90 + 10}-01-01Z\n" for n in range(500))
    with closing(database.connect()) as connection:
        connection.run(
            "copy users (user_id, first_name, last_name, birthdate) from stdin", stream=BytesIO(rows.encode())
        )
    assert sum(users for _, _, users in database.run(KEPT)) == 500
    assert database.run(KEPT) == database.run(COUNTED)


def test_figures_agree_with_the_users(database: Database, client: FlaskClient):
    today = datetime.now(UTC).date()
    born = [
        date(today.year - age, today.month, 1) + timedelta(days) for age in range(3, 90) for days in (0, 27)
    ]
    for number, day in enumerate(born):
        database.run(
            "insert into users (user_id, first_name, last_name, birthdate, img_path) "
            "values (:id, 'a', 'b', cast(:day as date), :path)",
            id=str(number),
            day=day,
            path="src-data/a.png" if number % 3 == 0 else None,
        )
    for least, most, picture in (
        (None, None, None),
        (30, 39, None),
        (31, None, True),
        (None, 5, False),
        (88, 88, None),
    ):
        asked = {"min_age": least, "max_age": most, "is_image_exists": picture}
        got = client.get(
            "/stats", query_string={name: value for name, value in asked.items() if value is not None}
        )
        ages = [
            (to_age(day, today), number % 3 == 0)
            for number, day in enumerate(born)
            if (least or 0) <= to_age(day, today) <= (150 if most is None else most)
            and picture in (None, number % 3 == 0)
        ]
        stats = got.get_json()
        assert stats["count"] == len(ages)
        assert stats["with_picture"] == sum(has_picture for _, has_picture in ages)
        assert sum(decade["count"] for decade in stats["ages"]) == len(ages)
    metrics = client.get("/metrics").text
    assert f"rollcall_users {float(len(born))}" in metrics


def test_figures_do_not_look_at_the_users(database: Database, client: FlaskClient):
    """However many there are: by what Postgres has read."""
    database.run(
        "insert into users (user_id, first_name, last_name, birthdate) select n, 'a', 'b', 'epoch' "
        "from generate_series(1, 3000) as n"
    )
    database.run("alter table users rename to hidden_users")
    try:
        assert client.get("/stats").get_json()["count"] == 3000
        assert "rollcall_users 3000.0" in client.get("/metrics").text
    finally:
        database.run("alter table hidden_users rename to users")
