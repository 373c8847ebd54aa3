-- migrate:up

-- Objects that the next run reads again although they may be as they were: because they could not be read, or
-- because the store names no etag to know them by. An entry without a user or a reason is no object.
create view due as
select key
from ledger
where etag is null and (user_id is not null or reason is not null);
create index ledger_due on ledger (key) where etag is null;

-- migrate:down

drop view due;
drop index ledger_due;
