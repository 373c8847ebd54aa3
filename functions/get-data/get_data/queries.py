"""Filter to SQL. Pure: every statement is put together from the texts of this file, values are parameters."""

# ruff: noqa: S608  the type LiteralString proves what the rule can only suspect

from dataclasses import dataclass
from datetime import date
from typing import LiteralString

from get_data.ages import OLDEST, born_before
from get_data.filters import Filter
from get_data.formats import RECORD, Format
from serving.postgres import FIRST_ROWS_SOON


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL and the values of its named parameters."""

    sql: LiteralString
    parameters: dict[str, object]


# So many users are walked through for a page, 2 ms for one of a hundred: enough when one in fifty matches.
WALKED: LiteralString = "10000 + 50 * cast(:limit as bigint)"
# Nobody is walked to when so few match: to find and sort them takes less.
FEW: LiteralString = "1000 + cast(:limit as bigint)"
# So many users who match are sorted before the first is sent; where more do, the next is never far.
RARE: LiteralString = "50000"
# By its index: however many versions there are, and were.
_CURRENT: LiteralString = (
    "(select lineage::text, version from versions order by version desc limit 1) as current"
)
VERSION = Statement(f"select * from {_CURRENT}", {})


def build_page(asked: Filter, today: date, representation: Format) -> Statement:
    """Return one page: its lines joined, the last user id, how many there are and whether more; the version.

    A single statement sees a single moment, so the version is that of the page. With ages, it is the page
    only when more is behind it: no more than WALKED are looked at, in their order, and nobody when FEW
    match. The planner cannot tell a few who match at the end of the ages from thousands, and would walk
    through a million for them.
    """
    where, parameters = _build_where(asked, today)
    walked: LiteralString = "users"
    if asked.has_ages:
        behind: LiteralString = "user_id > :after and" if asked.after is not None else ""
        # In the order of ages, so that it is their index that is asked, whatever the planner expects.
        walked = f"""(
            select *
            from users where {behind} (
                select count(*) > {FEW}
                from (select from users {where} order by birthdate limit {FEW} + 1) as matching
            )
            order by user_id
            limit {WALKED}
        ) as users"""
    return _build_page(f"{walked}\n{where}", asked, parameters, representation)


def build_rare_page(asked: Filter, today: date, representation: Format) -> Statement:
    """Return the page that build_page() did not find: from all who match, not in their order."""
    where, parameters = _build_where(asked, today)
    # By a key that no index has, so that there is nothing to walk through.
    found: LiteralString = f"""(
            select *
            from users
            {where}
            order by user_id || ''
            limit cast(:limit as bigint) + 1
        ) as users"""
    return _build_page(found, asked, parameters, representation)


def _build_page(
    source: LiteralString, asked: Filter, parameters: dict[str, object], representation: Format
) -> Statement:
    return Statement(
        f"""
select current.*, page.*
from {_CURRENT}
cross join (
    select string_agg(line, :separator order by user_id) filter (where place <= cast(:limit as bigint)),
           max(user_id) filter (where place <= cast(:limit as bigint)),
           count(*) filter (where place <= cast(:limit as bigint)),
           count(*) > cast(:limit as bigint)
    from (
        select user_id, row_number() over (order by user_id) as place, {representation.line} as line
        from {source}
        order by user_id
        limit cast(:limit as bigint) + 1
    ) as users
) as page
""",
        {"separator": representation.separator, "limit": asked.limit, **parameters},
    )


def build_look(asked: Filter, today: date) -> Statement:
    """Return whether more than RARE users match; it looks at no more of those who do."""
    where, parameters = _build_where(asked, today)
    return Statement(
        f"""
select count(*) > {RARE}
from (select from users {where} limit {RARE} + 1) as matching
""",
        parameters,
    )


def build_export(asked: Filter, today: date, representation: Format, *, are_many: bool = True) -> Statement:
    """Return the line of each user that matches.

    Many are found by walking through all users in their order: they would take too long to sort before the
    first is sent. A few are sorted: it would take too long to come by them.
    """
    where, parameters = _build_where(asked, today)
    return Statement(
        f"""
select {representation.line}
from users
{where}
order by user_id
{FIRST_ROWS_SOON if are_many else ""}
""",
        parameters,
    )


def build_user(user_id: str) -> Statement:
    """Return one user's record, null when there is none; with the version."""
    return Statement(
        f"""
select current.*, (
    select {RECORD}
    from users
    where user_id = :user_id
)
from {_CURRENT}
""",
        {"user_id": user_id},
    )


def build_picture(user_id: str) -> Statement:
    """Return the path of one user's picture, null when there is none; no row when there is no such user."""
    return Statement("select img_path from users where user_id = :user_id", {"user_id": user_id})


def build_stats(asked: Filter, today: date) -> Statement:
    """Return the data version; [age, users, users with a picture] by age; last runs; dues.

    From the counts by day of birth: all who were born on one day are of one age.
    """
    where, parameters = _build_births_where(asked, today)
    # Ages by the bounds that filters use, so that both agree; ascending, as width_bucket wants them.
    bounds = [born_before(age, today).isoformat() for age in range(OLDEST, 0, -1)]
    return Statement(
        f"""
select current.version, ages.by_age, ended.run, ended_well.run, (select count(*) from due)
from {_CURRENT}
cross join (
    select coalesce(json_agg(json_build_array(age, users, pictures)), '[]') as by_age
    from (
        select cast(:oldest as integer) - width_bucket(day, cast(:bounds as date[])) as age,
               sum(users) as users,
               coalesce(sum(users) filter (where with_picture), 0) as pictures
        from birth_counts
        {where}
        group by age
    ) as counted
) as ages
left join lateral ({_LAST_RUN} where ended_at is not null order by run_id desc limit 1) as ended on true
left join lateral ({_LAST_RUN} where state = 'ok' order by run_id desc limit 1) as ended_well on true
""",
        {"oldest": OLDEST, "bounds": bounds, **parameters},
    )


def build_runs(limit: int) -> Statement:
    """Return the last runs, the newest first."""
    return Statement(
        """
select run_id, shown_state(runs), started_at, ended_at, listed, unchanged, upserted, removed, rejected, error
from runs
order by run_id desc
limit cast(:limit as bigint)
""",
        {"limit": limit},
    )


def build_last_success() -> Statement:
    """Return when the last run that went well began and ended; no row when there was none."""
    return Statement(
        "select started_at, ended_at from runs where state = 'ok' order by run_id desc limit 1", {}
    )


def build_figures() -> Statement:
    """Return the data version and how many users there are."""
    return Statement(
        f"select version, (select coalesce(sum(users), 0)::bigint from birth_counts) from {_CURRENT}", {}
    )


def build_rejects(limit: int) -> Statement:
    """Return the first rejected keys with reason and detail."""
    return Statement(
        """
select key, reason, detail
from rejects
order by key
limit cast(:limit as bigint)
""",
        {"limit": limit},
    )


def build_reasons() -> Statement:
    """Return each reason and how many keys are rejected for it, the most frequent first."""
    return Statement(
        """
select reason, count(*)
from rejects
group by reason
order by count(*) desc, reason
""",
        {},
    )


_LAST_RUN: LiteralString = """
select json_build_object(
    'run_id', run_id,
    'state', state,
    'ended_at', to_char(ended_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
) as run
from runs
"""


def _build_where(asked: Filter, today: date) -> tuple[LiteralString, dict[str, object]]:
    conditions: list[LiteralString] = []
    parameters: dict[str, object] = {}
    if asked.is_image_exists is not None:
        conditions.append("img_path is not null" if asked.is_image_exists else "img_path is null")
    if asked.min_age:  # nobody has completed less than no year, not even who is yet to be born
        conditions.append("birthdate < cast(:born_before as timestamptz)")
        parameters["born_before"] = _to_moment(born_before(asked.min_age, today))
    if asked.max_age is not None:
        conditions.append("birthdate >= cast(:born_from as timestamptz)")
        parameters["born_from"] = _to_moment(born_before(asked.max_age + 1, today))
    if asked.after is not None:
        conditions.append("user_id > :after")
        parameters["after"] = asked.after
    return ("where " + " and ".join(conditions) if conditions else ""), parameters


def _build_births_where(asked: Filter, today: date) -> tuple[LiteralString, dict[str, object]]:
    conditions: list[LiteralString] = ["users > 0"]
    parameters: dict[str, object] = {}
    if asked.is_image_exists is not None:
        conditions.append("with_picture" if asked.is_image_exists else "not with_picture")
    if asked.min_age:
        conditions.append("day < cast(:born_before as date)")
        parameters["born_before"] = born_before(asked.min_age, today).isoformat()
    if asked.max_age is not None:
        conditions.append("day >= cast(:born_from as date)")
        parameters["born_from"] = born_before(asked.max_age + 1, today).isoformat()
    return "where " + " and ".join(conditions), parameters


def _to_moment(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"
