-- migrate:up

-- Their addresses, /data/. and /data/.., become /data/ and / in a browser. The next run rejects their files.
with removed as (
    delete from users where user_id in ('.', '..') returning 1
)
insert into versions (version)
select max(version) + 1
from versions
having exists (select from removed);

-- migrate:down
