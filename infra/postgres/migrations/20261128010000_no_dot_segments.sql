-- migrate:up

-- Their addresses, /data/. and /data/.., become /data/ and / in a browser. The next run rejects their files.
with removed as (
    delete from users where user_id in ('.', '..') returning 1
)
update state
set data_version = data_version + 1, lineage = gen_random_uuid()
where exists (select from removed);

-- migrate:down
