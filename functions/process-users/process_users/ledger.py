"""The ledger of source objects and the users that follow from it: every statement, in the order of use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from serving.postgres import Connection

ENTRIES_PAGE = 5_000
COPIED_ROWS = 50_000


class Entry(NamedTuple):
    """What the ledger says of a key; `revision` changes with every commit that touches it."""

    key: str
    etag: str | None
    revision: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What a commit did: users inserted or changed, and the keys it left out.

    A key is left out because another commit settled it after it was read here: it must be read again.
    """

    upserted: int
    conflicts: list[str]


def create_stage(connection: Connection) -> None:
    """Create the temporary tables that commits of a session work with; once a session."""
    for statement in _CREATE_STAGE:
        connection.run(statement)


class Ledger:
    """The ledger over a connection that has its stage; picture paths begin with the name `bucket`."""

    def __init__(self, connection: Connection, *, bucket: str) -> None:
        self._connection = connection
        self._bucket = bucket

    def use_copies(self) -> None:
        """From now on work on temporary copies of the tables: what is done then changes nothing."""
        run = self._connection.run
        run("begin isolation level repeatable read")
        run(_CREATE_COPIES)
        for statement in (_COPY_USERS, _COPY_LEDGER):
            last: str | None = ""
            while last is not None:  # in parts, none of which takes longer than an answer may
                last = run(statement, after=last, limit=COPIED_ROWS)[0][0]
        run("commit")

    def fetch_rules(self) -> str:
        """Return the version of the rules, the bucket and the prefix that the ledger was made with."""
        return self._connection.run("select rules from state")[0][0]

    def store_rules(self, rules: str) -> None:
        """Remember what the whole ledger has now been made with."""
        self._connection.run(_STORE_RULES, rules=rules)

    def is_empty(self) -> bool:
        """True when no object was ever settled, or all are gone."""
        return not self._connection.run("select 1 from ledger limit 1")

    def fetch_entries(self, start_after: str, end: str | None) -> Iterator[Entry]:
        """Yield the entries by key as bytes, after start_after and up to end, each page as it is then."""
        while True:
            page = self._connection.run_prepared(
                _FETCH_ENTRIES, start_after=start_after, end=end, limit=ENTRIES_PAGE
            )
            yield from map(Entry._make, page)
            if len(page) < ENTRIES_PAGE:
                return
            start_after = page[-1][0]

    def fetch_revisions(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the revision of each of the keys that has an entry."""
        rows = self._connection.run_prepared(_FETCH_REVISIONS, keys=list(keys))
        return dict(map(tuple, rows))

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Do the block in one transaction while no other can commit."""
        with self._connection.transaction():
            self._connection.run(_BEGIN_COMMIT)
            yield

    def apply(self, batch: bytes) -> Applied:
        """Settle a batch, as text for COPY, and then its users, inside of `commit`."""
        run, bucket = self._connection.run_prepared, self._bucket
        self._connection.copy_in(_COPY_STAGE, [batch])
        conflicts = [row[0] for row in run(_TAKE_CONFLICTS)]
        run(_NAME_GONE)
        rejects_changed = run(_HAVE_REJECTS_CHANGED)[0][0]
        run(_DELETE_ENTRIES)
        run(_UPSERT_ENTRIES)
        rejects_changed |= run(_MARK_DUPLICATES)[0][0] > 0
        run(_FIND_TOUCHED, bucket=bucket)
        upserted = run(_UPSERT_USERS)[0][0]
        upserted += run(_UPDATE_PICTURES)[0][0]
        self._step_versions(users=upserted > 0, rejects=rejects_changed)
        return Applied(upserted, conflicts)

    def fetch_users_without_record(self, limit: int, *, after: str = "") -> list[str]:
        """Return the ids of users of whom the ledger has no record, in their order as bytes."""
        rows = self._connection.run(_FETCH_USERS_WITHOUT_RECORD, after=after, limit=limit)
        return [row[0] for row in rows]

    def lacks_record(self, user_id: str) -> bool:
        """True when there is a user of this id, but no record of theirs in the ledger."""
        return bool(self._connection.run_prepared(_LACKS_RECORD, user_id=user_id))

    def remove_users(self, user_ids: Sequence[str]) -> int:
        """Remove those of the users that have no record, in a transaction of its own; returns how many."""
        with self.commit():
            removed = self._connection.run_prepared(_REMOVE_USERS, user_ids=list(user_ids))[0][0]
            self._step_versions(users=removed > 0, rejects=False)
        return removed

    def fetch_rejects(self, limit: int) -> list[dict[str, str]]:
        """Return the first rejects by key."""
        rows = self._connection.run(_FETCH_REJECTS, limit=limit)
        return [dict(zip(("key", "reason", "detail"), row, strict=True)) for row in rows]

    def count_rejects(self) -> int:
        """Return how many objects are rejected now."""
        return self._connection.run("select count(*) from rejects")[0][0]

    def count_users(self) -> int:
        """Return how many users there are now."""
        return self._connection.run("select count(*) from users")[0][0]

    def refresh_statistics(self) -> None:
        """Let the planner know of a large load now, not when autovacuum comes by."""
        self._connection.run("analyze users, ledger")

    def _step_versions(self, *, users: bool, rejects: bool) -> None:
        if users:
            self._connection.run(_STEP_DATA_VERSION)
        if rejects:
            self._connection.run("update state set rejects_version = rejects_version + 1")


_CREATE_STAGE = (
    """
    create temp table stage (
        key text collate "C" primary key, expected bigint not null, gone boolean not null, etag text,
        user_id text collate "C", picture smallint, first_name text, last_name text, birthts bigint,
        reason text, detail text
    ) on commit delete rows
    """,
    'create temp table touched (user_id text collate "C" primary key, img_path text) on commit delete rows',
)

# Temporary tables come first in the search path, so every statement here works on the copies unchanged.
_CREATE_COPIES = """
do $$
declare
    rejects text := pg_get_viewdef('rejects');
begin
    create temp table users (like public.users including all);
    create temp table ledger (like public.ledger including all);
    create temp table state (like public.state including all);
    insert into state select * from public.state;
    execute 'create temp view rejects as ' || rejects;
end
$$
"""

_COPY_USERS = """
with copied as (
    insert into users (user_id, first_name, last_name, birthdate, img_path)
    select user_id, first_name, last_name, birthdate, img_path
    from public.users
    where user_id > cast(:after as text)
    order by user_id
    limit cast(:limit as bigint)
    returning user_id
)
select max(user_id) from copied
"""

_COPY_LEDGER = """
with copied as (
    insert into ledger
    select *
    from public.ledger
    where key > cast(:after as text)
    order by key
    limit cast(:limit as bigint)
    returning key
)
select max(key) from copied
"""

# A new lineage too: a database put back from a backup counts its versions once more, for other data.
_STEP_DATA_VERSION = """
update state
set data_version = data_version + 1,
    lineage = gen_random_uuid()
"""

_STORE_RULES = """
update state
set rules = cast(:rules as text)
where rules <> cast(:rules as text)
"""

_FETCH_REJECTS = """
select key, reason, detail
from rejects
order by key
limit cast(:limit as bigint)
"""

_FETCH_ENTRIES = """
select key, etag, revision
from ledger
where key > cast(:start_after as text) and (cast(:end as text) is null or key <= cast(:end as text))
order by key
limit cast(:limit as bigint)
"""

_FETCH_REVISIONS = "select key, revision from ledger where key = any(cast(:keys as text[]))"

_COPY_STAGE = """
copy stage from stdin (
    format csv,
    force_null (etag, user_id, picture, first_name, last_name, birthts, reason, detail)
)
"""

# The row of state makes commits serial. A batch is small beside the ledger, but the planner knows nothing of
# temporary tables and would read the whole ledger to join them: 1.8 ms instead of 0.2 at 19,000 entries.
_BEGIN_COMMIT = """
update state set commits = commits + 1;
set local enable_hashjoin = off;
set local enable_mergejoin = off
"""

# Somebody settled the key after it was read here.
_TAKE_CONFLICTS = """
delete from stage s
where s.expected <> coalesce((select l.revision from ledger l where l.key = s.key), 0)
returning s.key
"""

# Whose a gone key was, so that this user is decided about too: the key may be of a former prefix.
_NAME_GONE = """
update stage s
set user_id = l.user_id
from ledger l
where l.key = s.key and s.gone
"""

_HAVE_REJECTS_CHANGED = """
select exists (
    select 1
    from stage s
    left join ledger l on l.key = s.key
    where (s.reason, s.detail) is distinct from (l.reason, l.detail)
       or s.gone and l.duplicate
)
"""

_DELETE_ENTRIES = """
delete from ledger l
using stage s
where l.key = s.key and s.gone
"""

_UPSERT_ENTRIES = """
insert into ledger (
    key, etag, revision, user_id, picture, first_name, last_name, birthts, reason, detail
)
select s.key, s.etag, state.commits, s.user_id, s.picture,
       s.first_name, s.last_name, s.birthts, s.reason, s.detail
from stage s, state
where not s.gone
on conflict (key) do update
set etag = excluded.etag,
    revision = excluded.revision,
    user_id = excluded.user_id,
    picture = excluded.picture,
    first_name = excluded.first_name,
    last_name = excluded.last_name,
    birthts = excluded.birthts,
    reason = excluded.reason,
    detail = excluded.detail
"""

# The record of a user is the one with the smallest key, whether it is valid or not.
_MARK_DUPLICATES = """
with changed as (
    update ledger l
    set duplicate = not l.duplicate
    from (
        select key, duplicate, row_number() over (partition by user_id order by key) > 1 as is_duplicate
        from ledger
        where picture is null and user_id in (select user_id from stage)
    ) found
    where l.key = found.key and found.duplicate <> found.is_duplicate
    returning 1
)
select count(*) from changed
"""

# The users to decide about, each with the picture that is theirs now.
_FIND_TOUCHED = """
insert into touched (user_id, img_path)
select s.user_id, cast(:bucket as text) || '/' || (
    select p.key
    from ledger p
    where p.user_id = s.user_id and p.picture is not null
    order by p.picture, p.key
    limit 1
)
from (select distinct user_id from stage where user_id is not null) s
"""

_UPSERT_USERS = """
with changed as (
    insert into users (user_id, first_name, last_name, birthdate, img_path)
    select t.user_id, l.first_name, l.last_name,
           timestamptz 'epoch' + l.birthts * interval '1 millisecond', t.img_path
    from touched t
    cross join lateral (
        select *
        from ledger
        where user_id = t.user_id and picture is null and reason is null and not duplicate
        limit 1  -- there is one at most; said, it keeps the planner from reading the whole ledger in order
    ) l
    order by t.user_id
    on conflict (user_id) do update
    set first_name = excluded.first_name,
        last_name = excluded.last_name,
        birthdate = excluded.birthdate,
        img_path = excluded.img_path
    where (users.first_name, users.last_name, users.birthdate, users.img_path)
        is distinct from (excluded.first_name, excluded.last_name, excluded.birthdate, excluded.img_path)
    returning 1
)
select count(*) from changed
"""

# For users whose record is rejected or gone: they keep what they had, but not a picture that went.
_UPDATE_PICTURES = """
with changed as (
    update users u
    set img_path = t.img_path
    from touched t
    where u.user_id = t.user_id and u.img_path is distinct from t.img_path
    returning 1
)
select count(*) from changed
"""

_FETCH_USERS_WITHOUT_RECORD = """
select user_id
from users u
where user_id > cast(:after as text)
  and not exists (select 1 from ledger l where l.user_id = u.user_id and l.picture is null)
order by user_id
limit cast(:limit as bigint)
"""

_LACKS_RECORD = """
select 1
from users u
where user_id = cast(:user_id as text)
  and not exists (select 1 from ledger l where l.user_id = u.user_id and l.picture is null)
"""

_REMOVE_USERS = """
with changed as (
    delete from users u
    where user_id = any(cast(:user_ids as text[]))
      and not exists (select 1 from ledger l where l.user_id = u.user_id and l.picture is null)
    returning 1
)
select count(*) from changed
"""
