-- migrate:up

-- How many users were born on each day (UTC), with a picture and without. Figures come from here: to count the users takes
-- longer the more there are. Triggers keep it whoever changes users, so nobody else writes here.
create table birth_counts (
    day date not null,
    with_picture boolean not null,
    users bigint not null,
    primary key (day, with_picture)
);

create function count_inserted() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- In one order, so that two transactions do not wait for each other.
    insert into public.birth_counts as counted
    select (birthdate at time zone 'UTC')::date as day, img_path is not null as with_picture, count(*)
    from added
    group by 1, 2
    order by 1, 2
    on conflict (day, with_picture) do update set users = counted.users + excluded.users;
    return null;
end
$$;

create function count_deleted() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.birth_counts as counted
    select (birthdate at time zone 'UTC')::date as day, img_path is not null as with_picture, -count(*)
    from removed
    group by 1, 2
    order by 1, 2
    on conflict (day, with_picture) do update set users = counted.users + excluded.users;
    return null;
end
$$;

create function count_updated() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.birth_counts as counted
    select (birthdate at time zone 'UTC')::date as day, img_path is not null as with_picture, sum(change)
    from (
        select birthdate, img_path, -1 as change from removed
        union all
        select birthdate, img_path, 1 from added
    ) as changes
    group by 1, 2
    having sum(change) <> 0
    order by 1, 2
    on conflict (day, with_picture) do update set users = counted.users + excluded.users;
    return null;
end
$$;

create function count_truncated() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from public.birth_counts;
    return null;
end
$$;

-- Before the first count, so that nothing is missed in between: creating a trigger waits for those who write.
create trigger count_inserted after insert on users
referencing new table as added for each statement execute function count_inserted();
create trigger count_deleted after delete on users
referencing old table as removed for each statement execute function count_deleted();
create trigger count_updated after update on users
referencing old table as removed new table as added for each statement execute function count_updated();
create trigger count_truncated after truncate on users for each statement execute function count_truncated();

insert into birth_counts
select (birthdate at time zone 'UTC')::date, img_path is not null, count(*)
from users
group by 1, 2;

-- migrate:down

drop trigger count_inserted on users;
drop trigger count_deleted on users;
drop trigger count_updated on users;
drop trigger count_truncated on users;
drop function count_inserted(), count_deleted(), count_updated(), count_truncated();
drop table birth_counts;
