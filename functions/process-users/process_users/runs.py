"""The record of runs, and the locks that allow one run and one dry run at a time."""

import secrets
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from serving.postgres import Connection, DatabaseUnavailableError

KEPT_RUNS = 1_000
RUN, DRY_RUN = "run", "dry_run"  # the names of the locks

COLUMNS = (
    "run_id", "state", "started_at", "ended_at", "full", "listed", "ignored", "unchanged", "upserted",
    "removed", "rejected", "error",
)  # fmt: skip


class RunInProgressError(Exception):
    """Another session has the lock; `run_id` is the number of its run, None when it does a dry run."""

    def __init__(self, run_id: int | None) -> None:
        super().__init__("a dry run is going on" if run_id is None else f"run {run_id} is going on")
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
    """A run that has the lock; `key` is that of its session's advisory lock."""

    run_id: int
    started_at: datetime
    key: int


def begin_run(connection: Connection, *, full: bool) -> Run:
    """Take the lock until end_run() or the end of the session, and record the run.

    Raises RunInProgressError while another run has the lock.
    """
    with connection.transaction():
        key = _take_lock(connection, RUN)
        connection.run("update runs set state = 'lost', ended_at = now() where state = 'running'")
        connection.run(_FORGET_OLD, kept=KEPT_RUNS)
        run_id, started_at = connection.run(_INSERT, full=full)[0]
        connection.run(_STORE_HOLDER, name=RUN, key=key, run_id=run_id)
    return Run(run_id, started_at, key)


def begin_dry_run(connection: Connection) -> None:
    """Take the lock of dry runs until the end of the session.

    Raises RunInProgressError while another dry run has it.
    """
    with connection.transaction():
        key = _take_lock(connection, DRY_RUN)
        connection.run(_STORE_HOLDER, name=DRY_RUN, key=key, run_id=None)


def record_progress(connection: Connection, run: Run, counts: Counts) -> None:
    """Show the counts so far to whoever asks for the runs."""
    connection.run_prepared(_UPDATE, run_id=run.run_id, **_as_parameters(counts))


def end_run(connection: Connection, run: Run, counts: Counts, *, rejected: int, error: str | None) -> None:
    """Record the end of a run, `failed` with the code of a problem, else `ok`, and give its lock back."""
    with connection.transaction():
        connection.run_prepared(_UPDATE, run_id=run.run_id, **_as_parameters(counts))
        connection.run(_END, run_id=run.run_id, rejected=rejected, error=error)
        connection.run(_CLEAR_HOLDER, key=run.key)
    connection.run("select pg_advisory_unlock(cast(:key as bigint))", key=run.key)


def fetch_runs(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Return the last runs, the newest first."""
    return [_to_document(row) for row in connection.run(_SELECT_LAST, limit=limit)]


def fetch_run(connection: Connection, run_id: int) -> dict[str, Any] | None:
    """Return one run, None when there is none of this number."""
    rows = connection.run(_SELECT_ONE, run_id=run_id)
    return _to_document(rows[0]) if rows else None


def fetch_figures(connection: Connection) -> tuple[float, float, int, int, int]:
    """Return the last good run: end (Unix time, 0: never), seconds, objects; then rejects and dues now."""
    rows = connection.run_prepared(_SELECT_FIGURES)
    return tuple(rows[0])  # pyright: ignore[reportReturnType]  as the statement says


def to_timestamp(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC, to milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _take_lock(connection: Connection, name: str) -> int:
    """Take the advisory lock that shows that this session is alive; returns its key, for _STORE_HOLDER.

    Needs a transaction: until it ends, everybody else who wants the same lock waits.
    """
    if not connection.run(_LOCK_ROW, name=name):
        raise DatabaseUnavailableError(f"the table locks has no row for {name}")
    if held := connection.run(_FETCH_HELD, name=name):
        raise RunInProgressError(held[0][0])
    key = secrets.randbits(63)
    connection.run("select pg_advisory_lock(cast(:key as bigint))", key=key)
    return key


def _as_parameters(counts: Counts) -> dict[str, int]:
    return {field.name: getattr(counts, field.name) for field in fields(counts)}


def _to_document(row: list[Any]) -> dict[str, Any]:
    document: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for name in ("started_at", "ended_at"):
        document[name] = to_timestamp(document[name]) if document[name] else None
    return document


_LOCK_ROW = """
select
from locks
where name = cast(:name as text)
for update
"""

_FETCH_HELD = """
select run_id
from held_locks
where name = cast(:name as text)
"""

_STORE_HOLDER = """
update locks
set pid = pg_backend_pid(),
    role = (select oid from pg_roles where rolname = session_user),
    key = cast(:key as bigint),
    run_id = cast(:run_id as bigint)
where name = cast(:name as text)
"""

_CLEAR_HOLDER = """
update locks
set pid = null, role = null, key = null, run_id = null
where key = cast(:key as bigint)
"""

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

_SELECT = """
select run_id, shown_state(runs), started_at, ended_at, "full",
       listed, ignored, unchanged, upserted, removed, rejected, error
from runs
"""

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
