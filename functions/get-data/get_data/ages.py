"""Ages in completed calendar years, as bounds of birth dates, so that an index can find them. Pure."""

from collections.abc import Iterable
from datetime import date, timedelta

OLDEST = 150  # years; nobody is older


def born_before(age: int, today: date) -> date:
    """Return the first date of birth too late to have completed `age` years today.

    Who was born on 29 February completes a year on 1 March in common years.
    """
    try:
        latest = today.replace(year=today.year - age)
    except ValueError:  # today is 29 February and that year has none: 1 March of it is too late
        latest = date(today.year - age, 2, 28)
    return latest + timedelta(days=1)


def to_age(born: date, today: date) -> int:
    """Return how many years are completed today, by the same rule; none before the birth."""
    return max(0, today.year - born.year - ((today.month, today.day) < (born.month, born.day)))


def decade_counts(counts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sum up (age, count) by decades: (its first age, count) from 0 to the last that has anybody."""
    sums: dict[int, int] = {}
    for age, count in counts:
        sums[age // 10 * 10] = sums.get(age // 10 * 10, 0) + count
    return [(first, sums.get(first, 0)) for first in range(0, max(sums, default=-1) + 1, 10)]
