-- migrate:up

-- For a page of the few of an age who have no picture: by users_birthdate, everybody of that age would be looked
-- at. Its price: a user whose picture changes gets new entries in the other indexes too.
create index users_without_picture on users (birthdate) where img_path is null;

-- migrate:down

drop index users_without_picture;
