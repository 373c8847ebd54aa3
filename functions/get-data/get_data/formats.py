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


# Put together from text: json_build_object takes half as long again. Twelve digits of a float are exact here.
RECORD: LiteralString = """concat(
    '{"first_name": ', to_json(first_name),
    ', "last_name": ', to_json(last_name),
    ', "birthts": ', cast(date_part('epoch', birthdate) * 1000 as bigint),
    ', "img_path": ', coalesce(to_json(img_path), 'null'),
    '}'
)"""

JSON = Format(
    name="json",
    media_type="application/json",
    line=f"concat(to_json(user_id), ': ', {RECORD})",
    opening="{",
    separator=",\n ",
    closing="}\n",
)
