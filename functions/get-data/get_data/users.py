"""Read users, as text made of many at a time: a page, one record, figures, or all of them chunk by chunk."""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import date
from typing import Any

from get_data.ages import decade_counts
from get_data.filters import Filter
from get_data.formats import JSON, Format
from get_data.queries import (
    VERSION,
    Statement,
    build_export,
    build_figures,
    build_look,
    build_page,
    build_picture,
    build_rare_page,
    build_stats,
    build_user,
)
from serving.pool import Pool
from serving.postgres import Column, Connection

# One takes 4 ms, so the first byte does not wait; half of it takes an eighth longer, twice no less.
CHUNK_USERS = 2_000


@dataclass(frozen=True, slots=True)
class Version:
    """What the table's content is known by; `lineage` tells this database from another."""

    lineage: str
    data_version: int


@dataclass(frozen=True, slots=True)
class Lines:
    """A page of users in order, without what stands around them; `text` is empty when there are none.

    `last` is the user id of the last one when it is known that more are behind it.
    """

    version: Version
    text: bytes
    last: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some users of an export, in order, a line each; its text is made by whoever sends it."""

    version: Version
    lines: Column
    format: Format

    def is_empty(self) -> bool:
        """Whether there are no users left for it."""
        return not self.lines.split()

    def to_text(self) -> bytes:
        """Return the lines as they are sent, without what stands around them."""
        lines = self.lines.split()
        return self.format.finish(self.format.separator.encode().join(lines), len(lines))


def fetch_version(pool: Pool) -> Version:
    """Read the version alone."""
    with pool.connection() as connection:
        return Version(*_fetch_row(connection, VERSION))


def fetch_page(pool: Pool, asked: Filter, today: date, representation: Format = JSON) -> Lines:
    """Read a page of at most `asked.limit` users."""
    with pool.connection() as connection:
        return fetch_page_within(connection, asked, today, representation)


def fetch_page_within(
    connection: Connection, asked: Filter, today: date, representation: Format = JSON
) -> Lines:
    """Read a page by a session that the caller has, perhaps with other things of the same moment."""
    row = _fetch_row(connection, build_page(asked, today, representation))
    if asked.has_ages and not row[-1]:
        row = _fetch_row(connection, build_rare_page(asked, today, representation))
    lineage, version, text, last, count, more = row
    finished = representation.finish((text or "").encode(), count)
    return Lines(Version(lineage, version), finished, last if more else None)


def fetch_user(pool: Pool, user_id: str) -> tuple[Version, str | None]:
    """Read one record, None when there is no such user."""
    with pool.connection() as connection:
        lineage, version, record = _fetch_row(connection, build_user(user_id))
    return Version(lineage, version), record


def fetch_picture(pool: Pool, user_id: str) -> str | None:
    """Read the path of a user's picture, None without one; raises KeyError when there is no such user."""
    statement = build_picture(user_id)
    with pool.connection() as connection:
        rows = connection.run_prepared(statement.sql, **statement.parameters)
    if not rows:
        raise KeyError(user_id)
    return rows[0][0]


def fetch_figures(pool: Pool) -> tuple[int, int]:
    """Read the data version and how many users there are."""
    with pool.connection() as connection:
        version, users = _fetch_row(connection, build_figures())
    return version, users


def fetch_stats(pool: Pool, asked: Filter, today: date) -> dict[str, object]:
    """Read the figures of all users that match."""
    with pool.connection() as connection:
        version, ages, run, good_run, due = _fetch_row(connection, build_stats(asked, today))
    count = sum(users for _, users, _ in ages)
    decades = decade_counts((age, users) for age, users, _ in ages)
    return {
        "count": count,
        "average_age": round(sum(age * users for age, users, _ in ages) / count, 2) if count else None,
        "with_picture": sum(pictures for _, _, pictures in ages),
        "ages": [{"min_age": age, "max_age": age + 9, "count": users} for age, users in decades],
        "data_version": version,
        "last_run": run,
        "last_ok_run": good_run,
        "due": due,
    }


def read_chunks(
    pool: Pool, asked: Filter, today: date, representation: Format = JSON
) -> Generator[Chunk, None, None]:
    """Read everything that matches from one snapshot, at least one chunk; the last one may be empty.

    Once begun it holds a session: read it to its end or close it.
    """
    with pool.connection() as connection, connection.transaction(snapshot=True):
        version = Version(*_fetch_row(connection, VERSION))
        are_many = not asked.is_selective or _fetch_row(connection, build_look(asked, today))[0]
        statement = build_export(asked, today, representation, are_many=are_many)
        for lines in connection.read_column(statement.sql, CHUNK_USERS, **statement.parameters):
            try:
                yield Chunk(version, lines, representation)
            except GeneratorExit:
                return  # nothing is left unread: the session goes back as good as new


def _fetch_row(connection: Connection, statement: Statement) -> list[Any]:
    return connection.run_prepared(statement.sql, **statement.parameters)[0]
