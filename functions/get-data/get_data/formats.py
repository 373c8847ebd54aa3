"""The representations of users: the SQL of one user's line, and what stands around and between lines."""

from dataclasses import dataclass
from typing import LiteralString


@dataclass(frozen=True, slots=True)
class Format:
    """A representation that Postgres writes, so that no user passes through Python one by one.

    `line` is SQL over a row of users. `separator` is both SQL's and Python's: it joins lines to chunks, and
    chunks to the answer.
    """

    name: str
    media_type: str
    line: LiteralString
    opening: str
    separator: LiteralString
    closing: str


# Put together from text: json_build_object takes half as long again, concat() a tenth. A float holds these
# milliseconds exactly.
RECORD: LiteralString = """'{"first_name": ' || to_json(first_name)::text
    || ', "last_name": ' || to_json(last_name)::text
    || ', "birthts": ' || cast(date_part('epoch', birthdate) * 1000 as bigint)::text
    || ', "img_path": ' || coalesce(to_json(img_path)::text, 'null') || '}'"""

JSON = Format(
    name="json",
    media_type="application/json",
    line=f"to_json(user_id)::text || ': ' || {RECORD}",
    opening="{",
    separator=",\n ",
    closing="}\n",
)
