-- migrate:up

-- Before anything is read from it: a commit of the former release that ends now would be lost.
lock table state in access exclusive mode;

-- The versions of what get-data serves, in the order of their commits; the highest is the current one. A commit
-- inserts a row here rather than update one: while somebody holds an old snapshot, every former version of an updated
-- row stays and is read again by each query, and a new row is found by the index at once.
create table versions (
    version bigint primary key,
    lineage uuid not null default gen_random_uuid(),  -- a restored database counts the same numbers for other data
    at timestamptz not null default clock_timestamp(),
    run_id bigint                                     -- null: an event
);
insert into versions (version, lineage) select data_version, lineage from state;

-- Each commit locks this row, so commits are serial. Nobody updates it, so there is only ever one version of it.
insert into locks (name) values ('commit');

-- Two numbers that commits change. They are sequences because these are overwritten in their place.
create sequence commits;         -- counts commits, for ledger.revision
create sequence last_committer;  -- a random number that only the session that committed last knows
select setval('commits', commits) from state where commits > 0;

alter table state
    drop column commits,
    drop column data_version,
    drop column lineage,
    drop column bucket;

-- migrate:down

alter table state
    add column lineage uuid not null default gen_random_uuid(),
    add column commits bigint not null default 0,
    add column data_version bigint not null default 0,
    add column bucket text not null default '';
update state
set data_version = current.version,
    lineage = current.lineage,
    commits = (select last_value from commits)
from (select version, lineage from versions order by version desc limit 1) current;
drop sequence commits, last_committer;
delete from locks where name = 'commit';
drop table versions;
