-- migrate:up

-- Only a table's owner may analyze it, before Postgres 17 without exception. A run calls this after a large load, when
-- autovacuum may not come by for a while.
create function refresh_statistics() returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    analyze public.users, public.ledger;
end
$$;

-- migrate:down

drop function refresh_statistics();
