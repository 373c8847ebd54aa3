"""Query string to filter: every parameter checked, none guessed. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from urllib.parse import quote, urlencode

from get_data.ages import OLDEST
from get_data.formats import FORMATS
from serving.parameters import integer_parser, parse_boolean, parse_query
from serving.problems import ProblemError

MAX_LIMIT = 10_000
MAX_USER_ID = 128  # characters
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which users are asked for, as asked; None asks for nothing in particular.

    Ages are in completed years and inclusive; `after` is the user id that a page starts behind. `format` and
    `spreadsheet` are how the answer is to be written.
    """

    is_image_exists: bool | None = None
    min_age: int | None = None
    max_age: int | None = None
    limit: int | None = None
    after: str | None = None
    format: str | None = None
    spreadsheet: bool | None = None

    @property
    def has_ages(self) -> bool:
        """Whether any age is left out; nobody has completed less than no year."""
        return bool(self.min_age) or self.max_age is not None

    @property
    def is_selective(self) -> bool:
        """Whether anybody is left out for what is known of them."""
        return self.has_ages or self.is_image_exists is not None

    def to_query(self) -> str:
        """Return the one query string that all spellings of this filter share, percent-encoded."""
        values = ((name, getattr(self, name)) for name in _NAMES)
        return urlencode(
            [(name, value) for name, value in values if value is not None], quote_via=quote, safe=""
        )


_NAMES = tuple(field.name for field in fields(Filter))


def parse_filter(query: bytes) -> Filter:
    """Parse the query string of a list of users; raises ProblemError that names the parameter."""
    return _to_filter(parse_query(query, _FILTERS | _PAGING | _FORM))


def parse_stats_filter(query: bytes) -> Filter:
    """Parse the query string of figures, which have no pages; raises ProblemError."""
    return _to_filter(parse_query(query, _FILTERS))


def _to_filter(values: Mapping[str, object]) -> Filter:
    asked = Filter(**values)  # pyright: ignore[reportArgumentType]  the tables below parse each field to its type
    if asked.min_age is not None and asked.max_age is not None and asked.min_age > asked.max_age:
        raise ProblemError(
            "parameter_conflict",
            f"min_age is {asked.min_age} and max_age is {asked.max_age}; "
            "accepted is a min_age that is not above max_age",
            members={"parameter": "min_age"},
        )
    return asked


def _parse_user_id(value: str) -> str:
    if len(value) > MAX_USER_ID or _CONTROL.search(value):
        raise ValueError(f"a user id: at most {MAX_USER_ID} characters, none of them a control character")
    return value


def _parse_format(value: str) -> str:
    if value not in FORMATS:
        *others, last = FORMATS
        raise ValueError(f"{', '.join(others)} or {last}")
    return value


_FILTERS: dict[str, Callable[[str], object]] = {
    "is_image_exists": parse_boolean,
    "min_age": integer_parser(0, OLDEST),
    "max_age": integer_parser(0, OLDEST),
}
_PAGING: dict[str, Callable[[str], object]] = {
    "limit": integer_parser(1, MAX_LIMIT),
    "after": _parse_user_id,
}
_FORM: dict[str, Callable[[str], object]] = {"format": _parse_format, "spreadsheet": parse_boolean}
