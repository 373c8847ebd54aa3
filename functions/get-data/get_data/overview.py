"""What the page shows, read from one snapshot: users, ages, runs and rejected files."""

import json
import unicodedata
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from get_data.ages import OLDEST, to_age
from get_data.filters import Filter
from get_data.formats import HTML
from get_data.queries import (
    Statement,
    build_last_success,
    build_reasons,
    build_rejects,
    build_runs,
    build_stats,
)
from get_data.users import fetch_page_within
from serving.pool import Pool
from serving.postgres import Connection, Row

SHOWN_RUNS = 6
SHOWN_REJECTS = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class User:
    """One row of the table."""

    user_id: str
    first_name: str
    last_name: str
    born: date
    age: int
    has_picture: bool

    @property
    def initials(self) -> str:
        """What stands for a picture that is not there."""
        return _to_initial(self.first_name) + _to_initial(self.last_name)


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as process-users recorded it; `error` is a problem code."""

    run_id: int
    state: str
    started_at: datetime
    ended_at: datetime | None
    listed: int
    unchanged: int
    upserted: int
    removed: int
    rejected: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Reject:
    """A file that is rejected now, and why."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Reason:
    """How many files are rejected for one reason."""

    code: str
    files: int


@dataclass(frozen=True, slots=True)
class Age:
    """How many users are of one age, and how many of them have a picture."""

    years: int
    users: int
    pictures: int


@dataclass(frozen=True, slots=True)
class Overview:
    """What is shown; `ages` are those of all users with the filter's pictures, whatever ages it asks for.

    `last` is the user id that the next page starts behind, None on the last page. `due` objects
    are read again by the next run, changed or not. `in_step` is when the last run began that ended well: what
    changed in the bucket since then may be missing. `succeeded` is when it ended.
    """

    users: list[User]
    last: str | None
    ages: list[Age]
    runs: list[Run]
    in_step: datetime | None
    succeeded: datetime | None
    rejects: list[Reject]
    reasons: list[Reason]
    due: int

    @property
    def rejected(self) -> int:
        """How many files are rejected, shown or not."""
        return sum(reason.files for reason in self.reasons)


def fetch_overview(pool: Pool, asked: Filter, today: date) -> Overview:
    """Read a page of at most `asked.limit` users and what goes with it."""
    with pool.connection() as connection:
        return connection.transact(lambda: _fetch_overview(connection, asked, today), snapshot=True)


def _fetch_overview(connection: Connection, asked: Filter, today: date) -> Overview:
    everybody = replace(asked, min_age=None, max_age=None, after=None)
    page = fetch_page_within(connection, asked, today, HTML)
    _, ages, _, _, due = _fetch(connection, build_stats(everybody, today))[0]
    runs = _fetch(connection, build_runs(SHOWN_RUNS))
    success = _fetch(connection, build_last_success())
    rejects = _fetch(connection, build_rejects(SHOWN_REJECTS))
    reasons = _fetch(connection, build_reasons())
    return Overview(
        users=_to_users(page.text, today),
        last=page.last,
        ages=[Age(*age) for age in ages],
        runs=[Run(*run) for run in runs],
        in_step=success[0][0] if success else None,
        succeeded=success[0][1] if success else None,
        rejects=[Reject(*reject) for reject in rejects],
        reasons=[Reason(*reason) for reason in reasons],
        due=due,
    )


def select_ages(ages: list[Age], asked: Filter) -> list[Age]:
    """Return those that the filter asks for."""
    least = asked.min_age or 0
    most = OLDEST if asked.max_age is None else asked.max_age
    return [age for age in ages if least <= age.years <= most]


def _to_initial(name: str) -> str:
    """Return the first character with the marks that belong to it."""
    end = 1
    while unicodedata.category(name[end : end + 1] or " ").startswith("M"):
        end += 1
    return name[:end].upper()


def _to_users(lines: bytes, today: date) -> list[User]:
    return [_to_user(user_id, record, today) for user_id, record in json.loads(b"{%b}" % lines).items()]


def _to_user(user_id: str, record: dict, today: date) -> User:
    born = (_EPOCH + timedelta(milliseconds=record["birthts"])).date()
    return User(
        user_id=user_id,
        first_name=record["first_name"],
        last_name=record["last_name"],
        born=born,
        age=to_age(born, today),
        has_picture=record["img_path"] is not None,
    )


def _fetch(connection: Connection, statement: Statement) -> list[Row]:
    return connection.run_prepared(statement.sql, **statement.parameters)
