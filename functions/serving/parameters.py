"""Query parameters, strictly: each known, once, not empty and in its form, or a problem that names it."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from serving.problems import ProblemError

T = TypeVar("T")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MAX_SHOWN = 80


def parse_query(query: bytes, known: Mapping[str, Callable[[str], T]]) -> dict[str, T]:
    """Parse a raw query string by a closed table: name -> parser of its value.

    A parser raises ValueError with the accepted form as its message. Raises ProblemError.
    """
    values: dict[str, T] = {}
    for part in query.split(b"&"):
        if not part:
            continue
        raw_name, _, raw_value = part.partition(b"=")
        name = _decode(raw_name, None)
        value = _decode(raw_value, name)
        if name not in known:
            accepted = ", ".join(sorted(known)) or "none"
            detail = f"{_quote(name)} is no parameter here; accepted: {accepted}"
            raise _problem("parameter_unknown", name, detail)
        if name in values:
            raise _problem("parameter_repeated", name, f"{name} came more than once, accepted is once")
        values[name] = _parse(name, value, known[name])
    return values


def parse_boolean(value: str) -> bool:
    """Parse True or False in any case."""
    if (lower := value.lower()) not in ("true", "false"):
        raise ValueError("True or False")
    return lower == "true"


def integer_parser(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a parser of ASCII digits for a number from minimum to maximum."""

    def parse(value: str) -> int:
        # Not int() alone: it takes "1_0", "+1" and the digits of other scripts.
        is_number = value.isascii() and value.isdigit() and len(value) <= 18
        if not (is_number and minimum <= int(value) <= maximum):
            raise ValueError(f"a whole number from {minimum} to {maximum} in ASCII digits")
        return int(value)

    return parse


def _parse(name: str, value: str, parser: Callable[[str], T]) -> T:
    if not value:
        raise _problem("parameter_empty", name, f"{name} is empty; {_accepted(parser)}")
    try:
        return parser(value)
    except ValueError as error:
        detail = f"{name} is {_quote(value)}; accepted is {error}"
        raise _problem("parameter_malformed", name, detail) from error


def _accepted(parser: Callable[[str], object]) -> str:
    try:
        parser("")
    except ValueError as error:
        return f"accepted is {error}"
    return "leave it out or give it a value"


def _decode(raw: bytes, name: str | None) -> str:
    text = raw.replace(b"+", b" ").decode("latin-1")
    try:
        if _BAD_PERCENT.search(text):
            raise ValueError
        decoded = unquote_to_bytes(text.encode("latin-1")).decode()
        if "\x00" in decoded:
            raise ValueError
    except ValueError as error:
        detail = f"{name or 'a name'} is {_quote(text)}; accepted is percent-encoded UTF-8 text"
        members = {"parameter": name} if name else None
        raise ProblemError("query_malformed", detail, members=members) from error
    return decoded


def _quote(text: str) -> str:
    return ascii(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")


def _problem(code: str, name: str, detail: str) -> ProblemError:
    return ProblemError(code, detail, members={"parameter": name[:_MAX_SHOWN]})
