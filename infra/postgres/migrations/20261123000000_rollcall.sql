-- migrate:up

-- What get-data serves: one row a user, updated in place. Text sorts as bytes, as the bucket lists it.
create table users (
    id bigint generated always as identity primary key,
    user_id text collate "C" not null unique,
    first_name text not null,
    last_name text not null,
    birthdate timestamptz not null,
    img_path text
);
create index users_birthdate on users (birthdate, user_id);

-- What each source object was found to be. A run compares it with the bucket; the user's record and
-- picture are chosen from it.
create table ledger (
    key text collate "C" primary key,
    etag text,                      -- of the answer that was read; null: every run reads it again
    revision bigint not null,       -- the number of the commit that wrote it
    user_id text collate "C",       -- null: the key names no user
    picture smallint,               -- null: a record; 0 png, 1 jpg, 2 jpeg: the lowest is the user's
    first_name text,                -- of a valid record, so that it can take over without being read again
    last_name text,
    birthts bigint,                 -- milliseconds since 1970-01-01 UTC
    reason text,                    -- why it is rejected, whatever else the user has
    detail text,
    duplicate boolean not null default false  -- a record of a user who has one with a smaller key
);
create index ledger_user on ledger (user_id);
create index ledger_rejected on ledger (key) where reason is not null or duplicate;

create view rejects as
select key,
       case when duplicate then 'duplicate' else reason end as reason,
       case when duplicate then 'another record of this user has a smaller key' else detail end as detail
from ledger
where reason is not null or duplicate;

-- One row. Every commit passes it, so commits are serial.
create table state (
    id boolean primary key default true check (id),
    lineage uuid not null default gen_random_uuid(),  -- tells a version from one of the same number elsewhere
    commits bigint not null default 0,
    data_version bigint not null default 0,           -- changes exactly when what get-data serves changes
    rejects_version bigint not null default 0,
    rules text not null default '',                   -- version of the rules, bucket and prefix of the ledger
    bucket text not null default '',
    output_version bigint,                            -- data_version of the output.csv that was stored
    output_etag text,
    output_rows bigint,
    rejects_output_version bigint,
    rejects_output_etag text
);
insert into state default values;

create table runs (
    run_id bigint generated always as identity primary key,
    state text not null check (state in ('running', 'ok', 'failed', 'lost')),
    pid integer not null,                             -- of the session that holds the lock while it runs
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    "full" boolean not null default false,
    listed bigint not null default 0,
    ignored bigint not null default 0,
    unchanged bigint not null default 0,
    upserted bigint not null default 0,
    removed bigint not null default 0,
    rejected bigint not null default 0,
    error text                                        -- a problem code
);

-- migrate:down

drop table runs, state cascade;
drop view rejects;
drop table ledger, users;
