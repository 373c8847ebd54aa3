-- migrate:up

-- The page tells people which files were rejected, and why.
grant select on rejects to get_data;

-- migrate:down

revoke select on rejects from get_data;
