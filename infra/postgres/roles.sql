-- The roles of Rollcall and what they may do with the database itself; grants.sql has their rights on tables.
-- Run by the owner, in the database, before the migrations; repeatable. No passwords here: set-up gives them.

do $$
declare
    role text;
begin
    foreach role in array array['process_users', 'get_data', 'reader'] loop
        if not exists (select from pg_roles where rolname = role) then
            execute format('create role %I', role);
        end if;
        if not (select rolcanlogin from pg_roles where rolname = role) then
            execute format('alter role %I login', role);
        end if;
    end loop;
end
$$;

-- Postgres lets everybody connect and make temporary tables; here only those who need it may.
do $$
declare
    name text := current_database();
begin
    execute format('revoke connect, temporary on database %I from public', name);
    execute format('grant connect on database %I to process_users, get_data, reader', name);
    execute format('grant temporary on database %I to process_users', name);  -- to load a batch with COPY
end
$$;

-- As from Postgres 15 on: nobody but the owner makes tables.
revoke create on schema public from public;
