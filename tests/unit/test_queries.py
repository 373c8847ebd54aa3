import re
from datetime import date

import pytest

from get_data.filters import Filter
from get_data.formats import JSON
from get_data.queries import build_export, build_page, build_rare_page, build_stats, build_user

TODAY = date(2024, 2, 29)
HOSTILE = "'; drop table users; --"

# filter, its conditions, their parameters
WHERE = [
    (Filter(), "", {}),
    (Filter(min_age=0), "", {}),  # everybody: nobody has completed less
    (Filter(is_image_exists=True), "where img_path is not null", {}),
    (Filter(is_image_exists=False), "where img_path is null", {}),
    (
        Filter(min_age=1),
        "where birthdate < cast(:born_before as timestamptz)",
        {"born_before": "2023-03-01T00:00:00Z"},
    ),
    (
        Filter(max_age=0),
        "where birthdate >= cast(:born_from as timestamptz)",
        {"born_from": "2023-03-01T00:00:00Z"},
    ),
    (Filter(after=HOSTILE), "where user_id > :after", {"after": HOSTILE}),
    (
        Filter(is_image_exists=True, min_age=4, max_age=150, after="5"),
        "where img_path is not null and birthdate < cast(:born_before as timestamptz)"
        " and birthdate >= cast(:born_from as timestamptz) and user_id > :after",
        {"born_before": "2020-03-01T00:00:00Z", "born_from": "1873-03-01T00:00:00Z", "after": "5"},
    ),
]


@pytest.mark.parametrize(("asked", "where", "parameters"), WHERE)
def test_a_filter_becomes_conditions_and_parameters(asked: Filter, where: str, parameters: dict):
    for build in (build_page, build_rare_page):
        got = build(asked, TODAY, JSON)
        assert _conditions(got.sql) == where
        assert got.parameters == {"separator": ",\n ", "limit": None, **parameters}
    got = build_export(asked, TODAY, JSON)
    assert (_conditions(got.sql), got.parameters) == (where, parameters)


@pytest.mark.parametrize(
    ("asked", "where", "parameters"),
    [
        (Filter(min_age=0), "where users > 0", {}),
        (
            Filter(is_image_exists=True, min_age=4, max_age=150),
            "where users > 0 and with_picture and day < cast(:born_before as date)"
            " and day >= cast(:born_from as date)",
            {"born_before": "2020-03-01", "born_from": "1873-03-01"},
        ),
        (
            Filter(is_image_exists=False, max_age=0),
            "where users > 0 and not with_picture and day >= cast(:born_from as date)",
            {"born_from": "2023-03-01"},
        ),
    ],
)
def test_figures_take_the_same_conditions_by_day(asked: Filter, where: str, parameters: dict):
    got = build_stats(asked, TODAY)
    assert _conditions(got.sql, table="birth_counts") == where
    bounds = got.parameters.pop("bounds")
    assert got.parameters == {"oldest": 150, **parameters}
    assert isinstance(bounds, list)
    assert (len(bounds), bounds[0], bounds[-1]) == (150, "1874-03-01", "2023-03-01")


def test_values_never_become_sql():
    asked = Filter(is_image_exists=True, min_age=1, max_age=2, limit=3, after=HOSTILE)
    other = Filter(is_image_exists=True, min_age=4, max_age=5, limit=6, after="5")
    for build in (build_page, build_rare_page, build_export):
        assert build(asked, TODAY, JSON).sql == build(other, date(1999, 1, 1), JSON).sql
    assert build_stats(asked, TODAY).sql == build_stats(other, TODAY).sql
    assert build_user(HOSTILE).sql == build_user("5").sql


def _conditions(sql: str, table: str = "users") -> str:
    """Return the where clause over a table."""
    inner = re.search(rf"{table}\n(.*?)(?:order|group) by", sql, re.DOTALL)
    assert inner
    return " ".join(inner[1].split())
