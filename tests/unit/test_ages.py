from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from get_data.ages import born_before, decade_counts


@pytest.mark.parametrize(
    ("age", "today", "want"),
    [
        (0, date(2026, 11, 23), date(2026, 11, 24)),
        (1, date(2026, 11, 23), date(2025, 11, 24)),
        (18, date(2026, 12, 31), date(2009, 1, 1)),
        (18, date(2026, 1, 1), date(2008, 1, 2)),
        # born on 29 February: not yet on 28 February of a common year, but on 1 March
        (23, date(2023, 2, 28), date(2000, 2, 29)),
        (23, date(2023, 3, 1), date(2000, 3, 2)),
        # and on 29 February of a leap year
        (24, date(2024, 2, 28), date(2000, 2, 29)),
        (24, date(2024, 2, 29), date(2000, 3, 1)),
        # on 29 February, of years that have none
        (1, date(2024, 2, 29), date(2023, 3, 1)),
        (124, date(2024, 2, 29), date(1900, 3, 1)),  # 1900 was no leap year
        (150, date(2026, 11, 23), date(1876, 11, 24)),
    ],
)
def test_the_first_birth_date_that_is_too_late_for_an_age(age: int, today: date, want: date):
    assert born_before(age, today) == want


@given(
    born=st.dates(date(1900, 1, 1), date(2026, 12, 31)), today=st.dates(date(1990, 1, 1), date(2060, 12, 31))
)
def test_bounds_agree_with_counting_birthdays(born: date, today: date):
    age = _count_birthdays(born, today)
    if 0 <= age <= 150:
        assert born < born_before(age, today)
        assert born >= born_before(age + 1, today)


def _count_birthdays(born: date, today: date) -> int:
    completed = -1 if born > today else 0
    for year in range(born.year + 1, today.year + 1):
        try:
            birthday = born.replace(year=year)
        except ValueError:
            birthday = date(year, 3, 1)
        completed += birthday <= today
    return completed


def test_bounds_fall_as_ages_rise():
    for day in range(366 * 5):
        today = date(2023, 1, 1) + timedelta(days=day)
        bounds = [born_before(age, today) for age in range(151)]
        assert bounds == sorted(bounds, reverse=True)


@pytest.mark.parametrize(
    ("counts", "want"),
    [
        ([], []),
        ([(0, 1)], [(0, 1)]),
        ([(9, 1), (10, 2), (19, 4)], [(0, 1), (10, 6)]),
        ([(35, 3)], [(0, 0), (10, 0), (20, 0), (30, 3)]),
    ],
)
def test_decades_are_summed_without_gaps(counts: list[tuple[int, int]], want: list[tuple[int, int]]):
    assert decade_counts(counts) == want
