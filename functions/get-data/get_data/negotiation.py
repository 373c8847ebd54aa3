"""Which representation a client gets: by parameter, else by what it accepts. Pure."""

from dataclasses import dataclass
from functools import lru_cache

from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.http import parse_accept_header

from get_data.filters import Filter
from get_data.formats import CSV, FORMATS, JSON, SPREADSHEET, Format
from serving.problems import ProblemError


@dataclass(frozen=True, slots=True)
class Representation:
    """The form of an answer: its format, and whether it is compressed."""

    format: Format
    gzip: bool

    @property
    def name(self) -> str:
        """What tells it from the others of the same resource."""
        return f"{self.format.name}, gzip" if self.gzip else self.format.name


def choose_representation(asked: Filter, accept: str | None, encodings: str | None) -> Representation:
    """Return what the client wants by its headers; raises ProblemError when there is no such thing."""
    chosen = FORMATS[asked.format] if asked.format else _choose_format(accept)
    if asked.spreadsheet and chosen is not CSV:
        raise ProblemError(
            "parameter_conflict",
            f"spreadsheet is True and the format is {chosen.name}; accepted is spreadsheet with csv",
            members={"parameter": "spreadsheet"},
        )
    return Representation(SPREADSHEET if asked.spreadsheet else chosen, accepts_gzip(encodings))


@lru_cache(maxsize=128)  # clients send the same few headers, and one takes 20 us to read
def accepts_gzip(encodings: str | None) -> bool:
    """True when the client asks for compressed answers, or prefers none over them."""
    return parse_accept_header(encodings, Accept).best_match(["gzip", "identity"]) == "gzip"


@lru_cache(maxsize=128)
def _choose_format(accept: str | None) -> Format:
    if not accept:
        return JSON
    # Without their parameters: `application/json; charset=utf-8` is asking for JSON.
    asked = parse_accept_header(accept, MIMEAccept)
    types = MIMEAccept((value.partition(";")[0].strip(), quality) for value, quality in asked)
    by_type = {offered.media_type: offered for offered in FORMATS.values()}
    best = types.best_match(list(by_type))
    if best is None:
        raise ProblemError(
            "not_acceptable",
            f"Accept asks for none of what there is: {', '.join(by_type)}",
            members={"accepted": list(by_type)},
        )
    return by_type[best]
