"""The record of runs, and the lock that lets one go on at a time."""

import time
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from serving.postgres import RUN_LOCK as LOCK
from serving.postgres import Connection

KEPT_RUNS = 1_000
LOCK_WAIT_S = 2  # for a run that has the lock to say its number

COLUMNS = (
    "run_id", "state", "started_at", "ended_at", "full", "listed", "ignored", "unchanged", "upserted",
    "removed", "rejected", "error",
)  # fmt: skip


class RunInProgressError(Exception):
    """Another run holds the lock; `run_id` is its number, None when it ended just now."""

    def __init__(self, run_id: int | None) -> None:
        super().__init__("another run is going on" if run_id is None else f"run {run_id} is going on")
        self.run_id = run_id


@dataclass(slots=True)
class Counts:
    """What a run has met so far: objects listed, ignored, unchanged; users upserted, removed."""

    listed: int = 0
    ignored: int = 0
    unchanged: int = 0
    upserted: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A run that holds the lock."""

    run_id: int
    started_at: datetime


def begin_run(connection: Connection, *, full: bool) -> Run:
    """Take the lock for the life of the connection and record the run; raises RunInProgressError."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while not connection.run("select pg_try_advisory_lock(:lock)", lock=LOCK)[0][0]:
        holder = connection.run(_FIND_HOLDER, lock=LOCK)
        if holder or time.monotonic() > deadline:
            raise RunInProgressError(holder[0][0] if holder else None)
        time.sleep(0.02)
    with connection.transaction():
        connection.run("update runs set state = 'lost', ended_at = now() where state = 'running'")
        connection.run(_FORGET_OLD, kept=KEPT_RUNS)
        rows = connection.run(_INSERT, full=full)
    return Run(*rows[0])


def record_progress(connection: Connection, run: Run, counts: Counts) -> None:
    """Show the counts so far to whoever asks for the runs."""
    connection.run_prepared(_UPDATE, run_id=run.run_id, **_as_parameters(counts))


def end_run(connection: Connection, run: Run, counts: Counts, *, rejected: int, error: str | None) -> None:
    """Record the end of a run: `failed` with the code of a problem, else `ok`."""
    with connection.transaction():
        connection.run_prepared(_UPDATE, run_id=run.run_id, **_as_parameters(counts))
        connection.run(_END, run_id=run.run_id, rejected=rejected, error=error)


def fetch_runs(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Return the last runs, the newest first."""
    return [_to_document(row) for row in connection.run(_SELECT_LAST, lock=LOCK, limit=limit)]


def fetch_run(connection: Connection, run_id: int) -> dict[str, Any] | None:
    """Return one run, None when there is none of this number."""
    rows = connection.run(_SELECT_ONE, lock=LOCK, run_id=run_id)
    return _to_document(rows[0]) if rows else None


def fetch_figures(connection: Connection) -> tuple[float, float, int, int, int]:
    """Return the last good run: end (Unix time, 0: never), seconds, objects; then rejects and dues now."""
    rows = connection.run_prepared(_SELECT_FIGURES)
    return tuple(rows[0])  # pyright: ignore[reportReturnType]  as the statement says


def to_timestamp(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC, to milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _as_parameters(counts: Counts) -> dict[str, int]:
    return {field.name: getattr(counts, field.name) for field in fields(counts)}


def _to_document(row: list[Any]) -> dict[str, Any]:
    document: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for name in ("started_at", "ended_at"):
        document[name] = to_timestamp(document[name]) if document[name] else None
    return document


_HOLDER = """
select pid
from pg_locks
where locktype = 'advisory' and granted and classid = 0 and objid = cast(:lock as bigint)
  and database = (select oid from pg_database where datname = current_database())
"""

_FIND_HOLDER = f"""
select run_id
from runs
where state = 'running' and pid in ({_HOLDER})
order by run_id desc
limit 1
"""  # noqa: S608  a constant of this module

_FORGET_OLD = """
delete from runs
where run_id <= (select run_id from runs order by run_id desc offset cast(:kept as bigint) - 1 limit 1)
"""

_INSERT = """
insert into runs (state, pid, "full")
values ('running', pg_backend_pid(), cast(:full as boolean))
returning run_id, started_at
"""

_UPDATE = """
update runs
set listed = cast(:listed as bigint),
    ignored = cast(:ignored as bigint),
    unchanged = cast(:unchanged as bigint),
    upserted = cast(:upserted as bigint),
    removed = cast(:removed as bigint)
where run_id = cast(:run_id as bigint)
"""

_END = """
update runs
set state = case when cast(:error as text) is null then 'ok' else 'failed' end,
    error = cast(:error as text),
    rejected = cast(:rejected as bigint),
    ended_at = clock_timestamp()
where run_id = cast(:run_id as bigint)
"""

# A run whose session no longer holds the lock was killed.
_SELECT = f"""
select run_id,
       case when state = 'running' and pid not in ({_HOLDER}) then 'lost' else state end,
       started_at, ended_at, "full", listed, ignored, unchanged, upserted, removed, rejected, error
from runs
"""  # noqa: S608  a constant of this module

_SELECT_LAST = _SELECT + "order by run_id desc limit cast(:limit as bigint)"
_SELECT_ONE = _SELECT + "where run_id = cast(:run_id as bigint)"

_SELECT_FIGURES = """
select cast(coalesce(extract(epoch from ended_at), 0) as float8),
       cast(coalesce(extract(epoch from ended_at - started_at), 0) as float8),
       coalesce(listed, 0),
       (select count(*) from rejects),
       (select count(*) from due)
from (values (1)) as always
left join lateral (
    select started_at, ended_at, listed
    from runs
    where state = 'ok'
    order by run_id desc
    limit 1
) as good on true
"""
