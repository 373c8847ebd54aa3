-- migrate:up

-- A page of the few of an age who have no picture: by users_birthdate, each of that age would be looked at.
create index users_without_picture on users (birthdate) where img_path is null;

-- migrate:down

drop index users_without_picture;
