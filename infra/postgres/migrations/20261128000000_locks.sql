-- migrate:up

-- Who does a run, or a dry run, right now. An advisory lock alone would not do: everybody who may connect can take
-- it. Here a session writes itself into the row, which only process-users may do, with the random key of an
-- advisory lock that it holds. That lock ends with the session, so it is the session's sign of life.
create table locks (
    name text primary key,
    pid integer,        -- of the session; null: nobody has the lock
    role oid,           -- of the session: another role's session may get the same pid later
    key bigint,         -- of its advisory lock
    run_id bigint       -- null: a dry run, which has no number
);
insert into locks (name) values ('run'), ('dry_run');

-- The locks whose sessions are alive. A standby does not see the primary's sessions, so it takes them to be alive.
create view held_locks as
select name, run_id
from locks
where pid is not null
  and (
    pg_is_in_recovery()
    or exists (
        select
        from pg_locks held
        join pg_stat_activity session on session.pid = held.pid
        where held.locktype = 'advisory'
          and held.granted
          and held.mode = 'ExclusiveLock'
          and held.database = (select oid from pg_database where datname = current_database())
          and held.objsubid = 1  -- the key is one bigint
          and (held.classid::bigint << 32) | held.objid::bigint = locks.key
          and held.pid = locks.pid
          and session.usesysid = locks.role
    )
  );

-- A run's state as people see it: `lost` when its session ended without an end to the run.
create function shown_state(run runs) returns text
language sql
stable
return case
    when run.state <> 'running' then run.state
    when exists (select from held_locks where name = 'run' and run_id = run.run_id) then 'running'
    else 'lost'
end;

-- migrate:down

drop function shown_state(runs);
drop view held_locks;
drop table locks;
