-- What the roles may do in this database. Set-up runs this after the migrations, each time, in one transaction: these
-- rights hold afterwards, whatever was granted before. Set-up puts the name in place of :"database", and in place of
-- :"process_users", :"get_data" and :"reader" those of this installation's roles.

revoke all on database :"database" from public, :"process_users", :"get_data", :"reader";
grant connect on database :"database" to :"process_users", :"get_data", :"reader";
grant temporary on database :"database" to :"process_users";  -- to load a batch with COPY

revoke create on schema public from public;
revoke all on schema public from :"process_users", :"get_data", :"reader";
grant usage on schema public to :"process_users", :"get_data", :"reader";

revoke all on all tables in schema public from public, :"process_users", :"get_data", :"reader";
revoke all on all sequences in schema public from public, :"process_users", :"get_data", :"reader";
revoke all on all functions in schema public from public, :"process_users", :"get_data", :"reader";

grant select on users, birth_counts, ledger, rejects, due, state, versions, runs, held_locks to :"reader";
grant select on users, birth_counts, rejects, due, versions, runs, held_locks to :"get_data";
grant select, insert, update, delete on users, ledger, runs to :"process_users";
grant select, update on state to :"process_users";
grant select on rejects, due, held_locks to :"process_users";
-- Whoever may write here could stop all runs and commits.
grant select, update on locks to :"process_users";
grant select, update on sequence commits, last_committer to :"process_users";
grant select, insert, delete on versions to :"process_users";
grant execute on function shown_state(runs) to :"process_users", :"get_data", :"reader";
grant execute on function refresh_statistics() to :"process_users";

-- Everybody may write large objects, which fill the disk. Only a superuser can keep the roles from that.
do $$
declare
    function regprocedure;
begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        for function in select oid from pg_proc where pronamespace = 'pg_catalog'::regnamespace
                                                  and proname ~ '^(lo_|lo(read|write)$)' loop
            execute format('revoke execute on function %s from public', function);
        end loop;
    end if;
end
$$;

-- Whoever takes many advisory locks fills the server's table of locks, and then nobody gets any lock. Only a superuser
-- can keep the roles from that; process-users needs a lock for each run.
do $$
begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        revoke execute on function
            pg_advisory_lock(bigint), pg_advisory_lock(integer, integer),
            pg_advisory_lock_shared(bigint), pg_advisory_lock_shared(integer, integer),
            pg_advisory_xact_lock(bigint), pg_advisory_xact_lock(integer, integer),
            pg_advisory_xact_lock_shared(bigint), pg_advisory_xact_lock_shared(integer, integer),
            pg_try_advisory_lock(bigint), pg_try_advisory_lock(integer, integer),
            pg_try_advisory_lock_shared(bigint), pg_try_advisory_lock_shared(integer, integer),
            pg_try_advisory_xact_lock(bigint), pg_try_advisory_xact_lock(integer, integer),
            pg_try_advisory_xact_lock_shared(bigint), pg_try_advisory_xact_lock_shared(integer, integer)
        from public, :"process_users", :"get_data", :"reader";
        grant execute on function pg_advisory_lock(bigint) to :"process_users";
    end if;
end
$$;
