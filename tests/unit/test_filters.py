import string
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from get_data.filters import Filter, parse_filter, parse_stats_filter
from serving.problems import ProblemError

GOOD = [
    (b"", Filter()),
    (b"&&", Filter()),
    (b"is_image_exists=True", Filter(is_image_exists=True)),
    (b"is_image_exists=tRUE", Filter(is_image_exists=True)),
    (b"is_image_exists=False", Filter(is_image_exists=False)),
    (b"is%5Fimage%5fexists=%74rue", Filter(is_image_exists=True)),
    (b"min_age=0", Filter(min_age=0)),
    (b"min_age=018", Filter(min_age=18)),
    (b"min_age=18&max_age=18", Filter(min_age=18, max_age=18)),
    (b"max_age=150", Filter(max_age=150)),
    (b"limit=1", Filter(limit=1)),
    (b"limit=10000", Filter(limit=10_000)),
    (b"after=0001", Filter(after="0001")),
    (b"after=a%20b", Filter(after="a b")),
    (b"after=a+b", Filter(after="a b")),
    (b"after=a%2Bb", Filter(after="a+b")),
    (b"after=%25", Filter(after="%")),
    (b"after=a=b", Filter(after="a=b")),
    (b"after=%E6%97%A5%E6%9C%AC", Filter(after="日本")),
    ("after=日本".encode(), Filter(after="日本")),
    ("after=a\u00a0\u200bb".encode(), Filter(after="a\u00a0\u200bb")),
    (b"after=" + b"x" * 128, Filter(after="x" * 128)),
    (
        b"after=5&limit=2&max_age=40&min_age=30&is_image_exists=true",
        Filter(is_image_exists=True, min_age=30, max_age=40, limit=2, after="5"),
    ),
]

BOOLEAN = "True or False"
YEARS = "a whole number from 0 to 150 in ASCII digits"
LIMITS = "a whole number from 1 to 10000 in ASCII digits"
USER_ID = "a user id: at most 128 characters, none of them a control character"
KNOWN = "accepted: after, format, is_image_exists, limit, max_age, min_age, spreadsheet"
ONCE = "came more than once, accepted is once"
NOT_TEXT = "accepted is percent-encoded UTF-8 text"

# query, code, the parameter that is named, what came and what is accepted
BAD = [
    (b"page=2", "parameter_unknown", "page", f"'page' is no parameter here; {KNOWN}"),
    (b"Min_age=2", "parameter_unknown", "Min_age", f"'Min_age' is no parameter here; {KNOWN}"),
    (b"=2", "parameter_unknown", "", f"'' is no parameter here; {KNOWN}"),
    (b"min_age%20=2", "parameter_unknown", "min_age ", f"'min_age ' is no parameter here; {KNOWN}"),
    (b"%E6%97%A5=2", "parameter_unknown", "日", f"'\\u65e5' is no parameter here; {KNOWN}"),
    (b"min_age=1&min_age=1", "parameter_repeated", "min_age", f"min_age {ONCE}"),
    (b"after=a&after=b", "parameter_repeated", "after", f"after {ONCE}"),
    (b"min_age=", "parameter_empty", "min_age", f"min_age is empty; accepted is {YEARS}"),
    (b"min_age", "parameter_empty", "min_age", f"min_age is empty; accepted is {YEARS}"),
    (
        b"is_image_exists=",
        "parameter_empty",
        "is_image_exists",
        f"is_image_exists is empty; accepted is {BOOLEAN}",
    ),
    (b"limit=", "parameter_empty", "limit", f"limit is empty; accepted is {LIMITS}"),
    (b"after=a%00b", "query_malformed", "after", f"after is 'a%00b'; {NOT_TEXT}"),
    (b"after=%FF", "query_malformed", "after", f"after is '%FF'; {NOT_TEXT}"),
    (b"after=\xff", "query_malformed", "after", f"after is '\\xff'; {NOT_TEXT}"),
    (
        b"after=%ED%A0%80",
        "query_malformed",
        "after",
        f"after is '%ED%A0%80'; {NOT_TEXT}",
    ),  # half of a surrogate pair
    (b"after=%", "query_malformed", "after", f"after is '%'; {NOT_TEXT}"),
    (b"after=%4", "query_malformed", "after", f"after is '%4'; {NOT_TEXT}"),
    (b"after=%zz", "query_malformed", "after", f"after is '%zz'; {NOT_TEXT}"),
    (b"%zz=1", "query_malformed", None, f"a name is '%zz'; {NOT_TEXT}"),
    (
        b"min_age=40&max_age=39",
        "parameter_conflict",
        "min_age",
        "min_age is 40 and max_age is 39; accepted is a min_age that is not above max_age",
    ),
]


# query, the parameter that is named, what is shown of it, what is accepted
MALFORMED = [
    (b"is_image_exists=yes", "is_image_exists", "'yes'", BOOLEAN),
    (b"is_image_exists=1", "is_image_exists", "'1'", BOOLEAN),
    (b"is_image_exists=True%20", "is_image_exists", "'True '", BOOLEAN),
    (b"min_age=x", "min_age", "'x'", YEARS),
    (b"min_age=%D9%A1%D9%A2", "min_age", "'\\u0661\\u0662'", YEARS),
    (b"min_age=%EF%BC%91", "min_age", "'\\uff11'", YEARS),
    (b"min_age=%C2%B2", "min_age", "'\\xb2'", YEARS),
    (b"min_age=1_0", "min_age", "'1_0'", YEARS),
    (b"min_age=%2B1", "min_age", "'+1'", YEARS),
    (b"min_age=+1", "min_age", "' 1'", YEARS),
    (b"min_age=1%0A", "min_age", "'1\\n'", YEARS),
    (b"min_age=-1", "min_age", "'-1'", YEARS),
    (b"min_age=18.0", "min_age", "'18.0'", YEARS),
    (b"min_age=1e1", "min_age", "'1e1'", YEARS),
    (b"min_age=0x1", "min_age", "'0x1'", YEARS),
    (b"min_age=151", "min_age", "'151'", YEARS),
    (b"max_age=151", "max_age", "'151'", YEARS),
    (b"max_age=" + b"9" * 5000, "max_age", f"'{'9' * 80}...'", YEARS),
    (b"limit=0", "limit", "'0'", LIMITS),
    (b"limit=10001", "limit", "'10001'", LIMITS),
    (b"limit=all", "limit", "'all'", LIMITS),
    (b"after=" + b"x" * 129, "after", f"'{'x' * 80}...'", USER_ID),
    (b"after=a%0Ab", "after", "'a\\nb'", USER_ID),
    (b"after=%C2%85", "after", "'\\x85'", USER_ID),
]


@pytest.mark.parametrize(("query", "want"), GOOD)
def test_a_query_is_parsed_to_what_it_says(query: bytes, want: Filter):
    assert parse_filter(query) == want


@pytest.mark.parametrize(("query", "code", "parameter", "detail"), BAD)
def test_a_bad_query_is_refused_and_named(query: bytes, code: str, parameter: str | None, detail: str):
    with pytest.raises(ProblemError) as caught:
        parse_filter(query)
    got = caught.value
    assert (got.status, got.code, got.members.get("parameter"), got.detail) == (400, code, parameter, detail)


@pytest.mark.parametrize(("query", "parameter", "shown", "accepted"), MALFORMED)
def test_a_malformed_value_is_shown_with_what_is_accepted(
    query: bytes, parameter: str, shown: str, accepted: str
):
    with pytest.raises(ProblemError) as caught:
        parse_filter(query)
    got = caught.value
    assert (got.status, got.code, got.members) == (400, "parameter_malformed", {"parameter": parameter})
    assert got.detail == f"{parameter} is {shown}; accepted is {accepted}"


@pytest.mark.parametrize("query", [b"limit=5", b"after=5"])
def test_figures_have_no_pages(query: bytes):
    with pytest.raises(ProblemError) as caught:
        parse_stats_filter(query)
    assert caught.value.code == "parameter_unknown"


@given(st.binary(max_size=40) | st.text(string.printable, max_size=40).map(str.encode))
def test_no_query_does_anything_but_parse_or_be_refused(query: bytes):
    with suppress(ProblemError):
        parse_filter(query)


AGES = st.none() | st.integers(0, 150)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)


@given(st.none() | st.booleans(), AGES, AGES, st.none() | st.integers(1, 10_000), st.none() | TEXTS)
def test_a_filter_written_as_query_is_read_back(
    image: bool | None, one: int | None, other: int | None, limit: int | None, after: str | None
):
    low, high = (one, other) if one is None or other is None else sorted((one, other))
    asked = Filter(is_image_exists=image, min_age=low, max_age=high, limit=limit, after=after)
    query = asked.to_query()
    assert parse_filter(query.encode("ascii")) == asked
    assert not set(query) & set(" <>\"'/\\")


def test_all_spellings_of_a_filter_share_one_query():
    want = "is_image_exists=True&min_age=5&after=a%20b"
    for query in (
        b"is_image_exists=TRUE&min_age=5&after=a+b",
        b"after=a%20b&min_age=005&is_image_exists=true",
    ):
        assert parse_filter(query).to_query() == want
    assert quote("a b") in want
