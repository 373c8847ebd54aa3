"""The ledger of source objects and the users that follow from it: every statement, in the order of use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString, NamedTuple

from process_users.keys import SourceKey
from process_users.outcomes import Outcome, to_json
from serving.postgres import Connection

ENTRIES_PAGE = 5_000
COPIED_ROWS = 50_000
FORGOTTEN_VERSIONS = 10_000  # at a time


class Entry(NamedTuple):
    """What the ledger says of a key; `revision` changes with every commit that touches it."""

    key: str
    etag: str | None
    revision: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What a commit did: users inserted or changed, and the keys it left out.

    A key is left out because another commit settled it after it was read here, or may have: it must be read
    again.
    """

    upserted: int
    conflicts: list[str]


def create_stage(connection: Connection) -> None:
    """Create the temporary table and the function that commits of a session work with; once a session."""
    connection.run(_CREATE_STAGE)


class Ledger:
    """The ledger over a connection that has its stage; picture paths begin with the name `bucket`.

    New versions of the data are those of the run `run_id`; None: of an event, or of a dry run.

    `is_alone` until a commit finds that somebody else has committed since the last one of this session.
    """

    def __init__(self, connection: Connection, *, bucket: str, run_id: int | None = None) -> None:
        self.is_alone = True
        self._connection = connection
        self._bucket = bucket
        self._run_id = run_id

    def use_copies(self) -> None:
        """From now on work on temporary copies of the tables: what is done then changes nothing."""
        run = self._connection.run
        with self._connection.transaction(snapshot=True, writable=True):
            run(_CREATE_COPIES)
            run("discard plans")  # of statements that this session has already run on the tables themselves
            for statement in (_COPY_USERS, _COPY_LEDGER):
                last: str | None = ""
                while last is not None:  # in parts, none of which takes longer than an answer may
                    last = run(statement, after=last, limit=COPIED_ROWS)[0][0]

    def fetch_rules(self) -> str:
        """Return the version of the rules, the bucket and the prefix that the ledger was made with."""
        return self._connection.run("select rules from state")[0][0]

    def store_rules(self, rules: str) -> None:
        """Remember what the whole ledger has now been made with."""
        self._connection.run(_STORE_RULES, rules=rules)

    def is_empty(self) -> bool:
        """True when no object was ever settled, or all are gone."""
        return not self._connection.run(_FETCH_ANY_ENTRY)

    def fetch_pages(self, start_after: str, end: str | None) -> Iterator[list[Entry]]:
        """Yield the entries by key as bytes, after start_after and up to end, each page as it is then."""
        while True:
            page = self._connection.run_prepared(
                _FETCH_ENTRIES, start_after=start_after, end=end, limit=ENTRIES_PAGE
            )
            yield [Entry._make(row) for row in page]
            if len(page) < ENTRIES_PAGE:
                return
            start_after = page[-1][0]

    def fetch_revisions(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the revisions of the keys that have an entry, and of all records of their users."""
        rows = self._connection.run_prepared(_FETCH_REVISIONS, keys=list(keys))
        return dict(map(tuple, rows))

    def fetch_rivals(self, source: SourceKey) -> dict[str, int]:
        """Return the revisions of a key and of its user's other records, or pictures, that have an entry."""
        is_record = source.picture is None
        rows = self._connection.run_prepared(
            _FETCH_RIVALS, key=source.key, user_id=source.user_id, is_record=is_record
        )
        return dict(map(tuple, rows))

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Do the block in one transaction while no other can commit."""
        with self._connection.transaction():
            self._connection.run("select from locks where name = 'commit' for update")
            yield

    def settle(self, outcomes: Sequence[Outcome]) -> Applied:
        """Settle a few keys and then their users: one round trip, a transaction unless one is open."""
        return self._settle(_SETTLE, outcomes=to_json(outcomes))

    def settle_batch(self, batch: bytes) -> Applied:
        """Settle a batch, as text for COPY, and then its users, in one transaction."""

        def settle() -> Applied:
            self._connection.copy_in(_COPY_STAGE, [batch])
            return self._settle(_SETTLE_STAGE)

        return self._connection.transact(settle)

    def _settle(self, statement: LiteralString, **params: object) -> Applied:
        row = self._connection.run_prepared(statement, bucket=self._bucket, run_id=self._run_id, **params)[0]
        upserted, conflicts, alone = row
        self.is_alone = self.is_alone and alone
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
            if removed:
                self._connection.run(
                    "select pg_temp.add_version(cast(:run_id as bigint))", run_id=self._run_id
                )
        return removed

    def fetch_rejects(self, limit: int) -> list[dict[str, str]]:
        """Return the first rejects by key."""
        rows = self._connection.run(_FETCH_REJECTS, limit=limit)
        return [dict(zip(("key", "reason", "detail"), row, strict=True)) for row in rows]

    def count_rejects(self) -> int:
        """Return how many objects are rejected now."""
        return self._connection.run("select count(*) from rejects")[0][0]

    def forget_old_versions(self) -> None:
        """Forget the versions older than 30 days, but never the current one."""
        while (
            self._connection.run(_FORGET_OLD_VERSIONS, limit=FORGOTTEN_VERSIONS)[0][0] == FORGOTTEN_VERSIONS
        ):
            pass

    def count_users(self) -> int:
        """Return how many users there are now."""
        return self._connection.run("select count(*) from users")[0][0]

    def refresh_statistics(self) -> None:
        """Let the planner know of a large load now, not when autovacuum comes by."""
        self._connection.run("select refresh_statistics()")


# The settling itself is a function of the session: one round trip for all of its statements, planned once.
# A session keeps its plans while the tables grow from nothing to millions of rows. So the planner, which sees
# how many there are now, must not choose to read whole tables: an index finds everything here.
_CREATE_STAGE = """
set enable_seqscan = off;
set enable_bitmapscan = off;
set enable_hashjoin = off;
set enable_mergejoin = off;
set plan_cache_mode = force_generic_plan;

create temp table stage (
    key text collate "C", expected bigint, gone boolean, etag text, user_id text collate "C",
    picture smallint, first_name text, last_name text, birthts bigint, reason text, detail text
) on commit delete rows;

create function pg_temp.add_version(run_id bigint) returns void
language plpgsql
as $$
begin
    insert into versions (version, run_id)
    select coalesce(max(version), 0) + 1, add_version.run_id
    from versions;
end
$$;

create function pg_temp.settle(
    outcomes stage[], bucket text, run_id bigint,
    out upserted bigint, out conflicts text[], out alone boolean
)
language plpgsql
as $$
declare
    this_commit bigint;
    committer bigint := nullif(current_setting('rollcall.committer', true), '');
    touched text[];  -- the users to decide about
    pictures text[];  -- that each of them has now
    rejects_changed boolean;
    any_gone boolean;
begin
    perform from locks where name = 'commit' for update;
    this_commit := nextval('commits');
    alone := (select last_value from last_committer) is not distinct from committer;
    if not alone then
        -- A new number each time: a rollback takes back the setting but not the sequence. With its former
        -- number, a session that tries again would no longer see that another has committed.
        committer := (hashtextextended(gen_random_uuid()::text, 0) & 9223372036854775806) + 1;
        perform set_config('rollcall.committer', committer::text, false);
        perform setval('last_committer', committer);
    end if;

    select coalesce(array_agg(key) filter (where is_conflict), '{}'),
           array_agg(distinct user_id) filter (where not is_conflict),
           coalesce(bool_or(changes_rejects) filter (where not is_conflict), false),
           coalesce(bool_or(gone) filter (where not is_conflict), false),
           coalesce(array_agg(outcome) filter (where not is_conflict), '{}')
    into conflicts, touched, rejects_changed, any_gone, outcomes
    from (
        select o as outcome,
               o.key,
               o.gone,
               -- Whose a gone key was, only the ledger tells: it may be of a former prefix.
               coalesce(o.user_id, l.user_id) as user_id,
               (o.reason, o.detail) is distinct from (l.reason, l.detail)
                   or o.user_id is null and l.duplicate as changes_rejects,
               case
                   -- Somebody settled the key after it was read here.
                   when o.expected is not null then o.expected <> coalesce(l.revision, 0)
                   -- Nobody asked for its revision before it was read. A session that was alone can do
                   -- without, where no other key of the user's matters.
                   else not alone or exists (
                       select
                       from ledger r
                       where r.user_id = o.user_id
                         and r.key <> o.key
                         and (r.picture is null) = (o.picture is null)
                   )
               end as is_conflict
        from unnest(outcomes) o
        left join ledger l on l.key = o.key
    ) judged;

    if any_gone then
        delete from ledger
        where key = any(array(select o.key from unnest(outcomes) o where o.gone));
    end if;

    insert into ledger (
        key, etag, revision, user_id, picture, first_name, last_name, birthts, reason, detail
    )
    select o.key, o.etag, this_commit, o.user_id, o.picture,
           o.first_name, o.last_name, o.birthts, o.reason, o.detail
    from unnest(outcomes) o
    where not o.gone
    on conflict (key) do update
    set etag = excluded.etag,
        revision = excluded.revision,
        user_id = excluded.user_id,
        picture = excluded.picture,
        first_name = excluded.first_name,
        last_name = excluded.last_name,
        birthts = excluded.birthts,
        reason = excluded.reason,
        detail = excluded.detail,
        duplicate = ledger.duplicate and excluded.user_id is not null;

    -- The record of a user is the one with the smallest key, whether it is valid or not.
    update ledger l
    set duplicate = not l.duplicate
    from (
        select key, duplicate, row_number() over (partition by user_id order by key) > 1 as is_duplicate
        from ledger
        where picture is null and user_id = any(touched)
    ) judged
    where l.key = judged.key and judged.duplicate <> judged.is_duplicate;
    rejects_changed := rejects_changed or found;

    pictures := array(
        select bucket || '/' || (
            select p.key
            from ledger p
            where p.user_id = t.user_id and p.picture is not null
            order by p.picture, p.key
            limit 1
        )
        from unnest(touched) t (user_id)
    );

    insert into users (user_id, first_name, last_name, birthdate, img_path)
    select t.user_id, l.first_name, l.last_name,
           timestamptz 'epoch' + l.birthts * interval '1 millisecond', t.img_path
    from unnest(touched, pictures) t (user_id, img_path)
    cross join lateral (
        select *
        from ledger
        where user_id = t.user_id and picture is null and reason is null and not duplicate
        limit 1  -- there is one at most; said, it keeps the planner from reading the whole ledger in order
    ) l
    on conflict (user_id) do update
    set first_name = excluded.first_name,
        last_name = excluded.last_name,
        birthdate = excluded.birthdate,
        img_path = excluded.img_path
    where (users.first_name, users.last_name, users.birthdate, users.img_path)
        is distinct from (excluded.first_name, excluded.last_name, excluded.birthdate, excluded.img_path);
    get diagnostics upserted = row_count;

    -- Whose record is rejected or gone keeps what they had, but not a picture that went.
    with changed as (
        update users u
        set img_path = t.img_path
        from unnest(touched, pictures) t (user_id, img_path)
        where u.user_id = t.user_id and u.img_path is distinct from t.img_path
        returning 1
    )
    select upserted + count(*) into upserted from changed;

    if upserted > 0 then
        perform pg_temp.add_version(run_id);
    end if;
    if rejects_changed then
        update state set rejects_version = rejects_version + 1;
    end if;
end
$$;
"""

# Temporary tables come first in the search path, so every statement here works on the copies unchanged.
_CREATE_COPIES = """
do $$
declare
    rejects text := pg_get_viewdef('rejects');
begin
    create temp table users (like public.users including all);
    create temp table ledger (like public.ledger including all);
    create temp table state (like public.state including all);
    create temp table locks (like public.locks including all);
    create temp table versions (like public.versions including all);
    create temp sequence commits;
    create temp sequence last_committer;
    insert into state select * from public.state;
    insert into locks select * from public.locks;
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

# The oldest come first by the index, so no more are looked at than are deleted.
_FORGET_OLD_VERSIONS = """
with forgotten as (
    delete from versions
    where version = any(array(
        select version
        from (select version, at from versions order by version limit cast(:limit as bigint)) oldest
        where at < now() - interval '30 days'
    )) and version < (select max(version) from versions)
    returning 1
)
select count(*) from forgotten
"""

# Entries without a user or a reason only remember, until the next run, that an event found nothing there.
_FETCH_ANY_ENTRY = """
select 1
from ledger
where user_id is not null or reason is not null
limit 1
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

_FETCH_REVISIONS = """
select key, revision
from ledger
where key = any(cast(:keys as text[]))
union all
select key, revision
from ledger
where picture is null and user_id in (
    select user_id from ledger where key = any(cast(:keys as text[])) and picture is null
)
"""

_FETCH_RIVALS = """
select key, revision
from ledger
where key = cast(:key as text)
union all
select key, revision
from ledger
where user_id = cast(:user_id as text) and (picture is null) = cast(:is_record as boolean)
"""

_COPY_STAGE = """
copy stage from stdin (
    format csv,
    force_null (etag, user_id, picture, first_name, last_name, birthts, reason, detail)
)
"""

_SETTLE_STAGE = """
select upserted, conflicts, alone
from pg_temp.settle(array(select s from stage s), cast(:bucket as text), cast(:run_id as bigint))
"""

_SETTLE = """
select upserted, conflicts, alone
from pg_temp.settle(
    array(select o from json_populate_recordset(cast(null as stage), cast(:outcomes as json)) o),
    cast(:bucket as text),
    cast(:run_id as bigint)
)
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
