"""The age chart as geometry: a bar a decade, each with the filter that it stands for. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from get_data.ages import decade_counts
from get_data.filters import Filter
from get_data.overview import Age

WIDTH = 320
ROW = 24
LABEL = 64  # what stands left of the bars
COUNT = 56  # and right of the longest


@dataclass(frozen=True, slots=True)
class Bar:
    """One decade; `y` and `width` are in the chart's own units."""

    min_age: int
    max_age: int
    users: int
    y: int
    width: float
    asked: Filter
    is_selected: bool


def build_bars(ages: Iterable[Age], asked: Filter) -> list[Bar]:
    """Return the bars from the youngest decade to the oldest that has anybody."""
    decades = decade_counts((age.years, age.users) for age in ages)
    while decades and decades[0][1] == 0:
        decades = decades[1:]
    most = max((users for _, users in decades), default=0)
    return [
        _to_bar(place, first, users, scale=(WIDTH - LABEL - COUNT) / most, asked=asked)
        for place, (first, users) in enumerate(decades)
    ]


def _to_bar(place: int, first: int, users: int, *, scale: float, asked: Filter) -> Bar:
    last = first + 9
    selected = (asked.min_age, asked.max_age) == (first, last)
    chosen = replace(
        asked,
        min_age=None if selected else first,  # chosen once more, it is given up
        max_age=None if selected else last,
        after=None,
    )
    return Bar(
        min_age=first,
        max_age=last,
        users=users,
        y=place * ROW,
        width=round(users * scale, 1),
        asked=chosen,
        is_selected=_overlaps(first, last, asked),
    )


def _overlaps(first: int, last: int, asked: Filter) -> bool:
    return (asked.min_age or 0) <= last and (asked.max_age is None or asked.max_age >= first)
