from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.parameters import integer_parser, parse_boolean, parse_query
from serving.problems import ProblemError

KNOWN: Mapping[str, Callable[[str], object]] = {
    "full": parse_boolean,
    "limit": integer_parser(1, 1000),
    "after": str,
}

GOOD = [
    (b"", {}),
    (b"&&", {}),
    (b"full=true", {"full": True}),
    (b"full=FALSE&limit=1", {"full": False, "limit": 1}),
    (b"limit=1000&", {"limit": 1000}),
    (b"limit=0007", {"limit": 7}),
    (b"after=a+b%2B%C3%A9%25", {"after": "a b+é%"}),
    (b"after=a=b", {"after": "a=b"}),
    (b"%66ull=%74rue", {"full": True}),
]

BOOLEAN = "True or False"
NUMBER = "a whole number from 1 to 1000 in ASCII digits"
BAD = [
    (b"x=1", "parameter_unknown", "x", "'x' is no parameter here; accepted: after, full, limit"),
    (b"Full=true", "parameter_unknown", "Full", "'Full' is no parameter here; accepted: after, full, limit"),
    (b"=1", "parameter_unknown", "", "'' is no parameter here; accepted: after, full, limit"),
    (b"full=true&full=true", "parameter_repeated", "full", "full came more than once, accepted is once"),
    (b"full", "parameter_empty", "full", f"full is empty; accepted is {BOOLEAN}"),
    (b"limit=", "parameter_empty", "limit", f"limit is empty; accepted is {NUMBER}"),
    (b"after=", "parameter_empty", "after", "after is empty; leave it out or give it a value"),
    (b"full=1", "parameter_malformed", "full", f"full is '1'; accepted is {BOOLEAN}"),
    (b"full=+true", "parameter_malformed", "full", f"full is ' true'; accepted is {BOOLEAN}"),
    *(
        (f"limit={value}".encode(), "parameter_malformed", "limit", f"limit is {shown}; accepted is {NUMBER}")
        for value, shown in [
            ("0", "'0'"),
            ("1001", "'1001'"),
            ("-1", "'-1'"),
            ("1.0", "'1.0'"),
            ("1_0", "'1_0'"),
            ("0x1", "'0x1'"),
            ("%D9%A1", "'\\u0661'"),
            ("%C2%B9", "'\\xb9'"),
            ("9" * 100, f"'{'9' * 80}...'"),
        ]
    ),
]


@pytest.mark.parametrize(("query", "want"), GOOD)
def test_parameters_are_read(query: bytes, want: dict[str, object]):
    assert parse_query(query, KNOWN) == want


@pytest.mark.parametrize(("query", "code", "parameter", "detail"), BAD)
def test_a_bad_parameter_is_named_with_what_came_and_what_is_accepted(
    query: bytes, code: str, parameter: str, detail: str
):
    with pytest.raises(ProblemError) as error:
        parse_query(query, KNOWN)
    problem = error.value
    assert (problem.status, problem.code, problem.members, problem.detail) == (
        400,
        code,
        {"parameter": parameter},
        detail,
    )


@pytest.mark.parametrize("text", ["%", "%f", "%zz", "%FF", "a%C3", "%00", "%ED%A0%80", "\xff"])
@pytest.mark.parametrize("form", ["after={}", "{}=1", "{}"])
def test_a_query_that_is_not_percent_encoded_text_is_malformed(text: str, form: str):
    with pytest.raises(ProblemError) as error:
        parse_query(form.format(text).encode("latin-1"), KNOWN)
    assert (error.value.status, error.value.code) == (400, "query_malformed")
    assert error.value.detail.endswith("; accepted is percent-encoded UTF-8 text")
    assert error.value.members == ({"parameter": "after"} if form == "after={}" else {})


def test_where_nothing_is_accepted_it_says_so():
    with pytest.raises(ProblemError, match="'a' is no parameter here; accepted: none"):
        parse_query(b"a=1", {})


@given(st.binary(max_size=60))
def test_any_query_is_read_or_a_problem(query: bytes):
    with suppress(ProblemError):
        parse_query(query, KNOWN)
