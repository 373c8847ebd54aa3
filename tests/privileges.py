"""Who may do what: each role on Postgres and each user of the object store, operation by operation."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import urllib3
from minio import Minio, MinioAdmin
from minio.error import MinioAdminException, S3Error
from pg8000.native import Connection, DatabaseError, identifier

DENIED = "42501"  # SQLSTATE insufficient_privilege
PART_SIZE = 5 * 1024 * 1024

READ_USERS = "select * from users"
# statement: the roles that may run it
STATEMENTS: Mapping[str, tuple[str, ...]] = {
    READ_USERS: ("process_users", "get_data", "reader"),
    "select * from state": ("process_users", "reader"),
    "select * from runs": ("process_users", "get_data", "reader"),
    "select * from ledger": ("process_users", "reader"),
    "select * from rejects": ("process_users", "get_data", "reader"),
    "select etag from ledger": ("process_users", "reader"),  # what was in a file is kept nowhere but in users
    "select * from due": ("process_users", "get_data", "reader"),
    "select * from held_locks": ("process_users", "get_data", "reader"),
    "select shown_state(runs) from runs": ("process_users", "get_data", "reader"),
    "select * from locks": ("process_users",),
    "update locks set pid = pid": ("process_users",),
    "select from locks for update": ("process_users",),
    "select from locks for key share": ("process_users",),
    "lock table locks in access share mode": ("process_users",),
    "insert into locks (name) values ('another')": (),
    "delete from locks": (),
    "insert into users (user_id, first_name, last_name, birthdate) values ('x', 'x', 'x', now())": (
        "process_users",
    ),
    "update users set last_name = last_name": ("process_users",),
    "delete from users": ("process_users",),
    "update state set rules = rules": ("process_users",),
    "select * from versions": ("process_users", "get_data", "reader"),
    "insert into versions values (-1)": ("process_users",),
    "update versions set lineage = lineage": (),
    "select nextval('commits'), setval('last_committer', 1)": ("process_users",),
    "create temporary table stage (a int)": ("process_users",),
    "insert into runs (state, pid) values ('ok', 1)": ("process_users",),
    "delete from ledger": ("process_users",),
    "delete from state": (),
    "insert into state default values": (),
    "truncate ledger": (),
    "lock table users in access exclusive mode": ("process_users",),
    "alter table users disable trigger all": (),
    "create index on users (last_name)": (),
    "create function f() returns int language sql as 'select 1'": (),
    "create view mine as select 1": (),
    "drop schema public": (),
    "reassign owned by {process_users} to {get_data}": (),
    "grant pg_write_all_data to {get_data}": (),
    "select * from pg_shadow": (),
    "copy users to '/tmp/users'": (),
    "select lo_import('/etc/passwd')": (),
    "set log_statement = 'all'": (),
    "select lo_from_bytea(0, 'x')": (),
    "select lo_create(0)": (),
    "select pg_try_advisory_lock_shared(1, 2)": (),
    "truncate users": (),
    "select day, with_picture, users from birth_counts": ("get_data", "reader"),
    "update birth_counts set users = 0": (),
    "delete from birth_counts": (),
    "drop table users": (),
    "alter table users add column extra text": (),
    "create table mine (a int)": (),
    "create schema mine": (),
    "create role somebody": (),
    "alter role {reader} createdb": (),
    "select rolpassword from pg_authid": (),
    "select * from schema_migrations": (),
    "copy users to program 'cat'": (),
    "select pg_read_file('/etc/passwd')": (),
    "set role pg_read_all_data": (),
}


def may_run(connection: Connection, statement: str) -> bool:
    """Run a statement and take it back; false when Postgres says that the role may not."""
    connection.run("begin")
    try:
        connection.run(statement)
    except DatabaseError as error:
        if error.args[0]["C"] != DENIED:
            raise
        return False
    finally:
        connection.run("rollback")
    return True


def read_rights_on_postgres(
    connect: Callable[[str], Connection], prefix: str = "rollcall_"
) -> dict[str, tuple[str, ...]]:
    """Try every statement as every role, named with the prefix; returns what STATEMENTS says, as it is."""
    names = {role: identifier(prefix + role) for role in ("process_users", "get_data", "reader")}
    allowed: dict[str, tuple[str, ...]] = dict.fromkeys(STATEMENTS, ())
    for role in names:
        connection = connect(role)
        try:
            for statement in STATEMENTS:
                if may_run(connection, statement.format_map(names)):
                    allowed[statement] += (role,)
        finally:
            connection.close()
    return allowed


@dataclass(frozen=True, slots=True)
class Objects:
    """The store as one user sees it."""

    client: Minio
    admin: MinioAdmin
    source: str
    output: str

    def get(self, bucket: str, key: str) -> None:
        response = self.client.get_object(bucket_name=bucket, object_name=key)
        response.close()
        response.release_conn()

    def put(self, bucket: str, key: str, size: int = 1) -> None:
        # Of unknown length: in parts, as the functions do it.
        self.client.put_object(
            bucket_name=bucket,
            object_name=key,
            data=io.BytesIO(b"x" * size),
            length=-1,
            part_size=PART_SIZE,
        )

    def remove(self, bucket: str, key: str) -> None:
        self.client.remove_object(bucket_name=bucket, object_name=key)

    def list_keys(self, bucket: str) -> None:
        list(self.client.list_objects(bucket_name=bucket))

    def open_to_all(self, bucket: str) -> None:
        statement = {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject"]}
        policy = {
            "Version": "2012-10-17",
            "Statement": [{**statement, "Resource": [f"arn:aws:s3:::{bucket}/*"]}],
        }
        self.client.set_bucket_policy(bucket_name=bucket, policy=json.dumps(policy))


OTHERS = "somebody-elses"
ALL = ("process-users", "get-data", "uploader")
# operation: what it is, and the users that may
OPERATIONS: Mapping[str, tuple[Callable[[Objects], object], tuple[str, ...]]] = {
    "list the source": (lambda o: o.list_keys(o.source), ("process-users", "uploader")),
    "read a record": (lambda o: o.get(o.source, "1.csv"), ("process-users", "uploader")),
    "read a picture .png": (lambda o: o.get(o.source, "1.png"), ALL),
    "read a picture .JPG": (lambda o: o.get(o.source, "1.JPG"), ALL),
    "read a picture .Jpeg": (lambda o: o.get(o.source, "1.Jpeg"), ALL),
    "read what is neither": (lambda o: o.get(o.source, "notes.txt"), ("process-users", "uploader")),
    "write a record": (lambda o: o.put(o.source, "2.csv"), ("uploader",)),
    "write a picture in parts": (lambda o: o.put(o.source, "2.png", PART_SIZE + 1), ("uploader",)),
    "remove a record": (lambda o: o.remove(o.source, "2.csv"), ("uploader",)),
    "list the outputs": (lambda o: o.list_keys(o.output), ("uploader",)),
    "read output.csv": (lambda o: o.get(o.output, "output.csv"), ("process-users", "uploader")),
    "read rejects.csv": (lambda o: o.get(o.output, "rejects.csv"), ("process-users", "uploader")),
    "look at output.csv": (
        lambda o: o.client.stat_object(bucket_name=o.output, object_name="output.csv"),
        ("process-users", "uploader"),
    ),
    "write output.csv": (lambda o: o.put(o.output, "output.csv"), ("process-users",)),
    "write output.csv in parts": (lambda o: o.put(o.output, "output.csv", PART_SIZE + 1), ("process-users",)),
    "write rejects.csv": (lambda o: o.put(o.output, "rejects.csv"), ("process-users",)),
    "write another output": (lambda o: o.put(o.output, "other.csv"), ()),
    "remove output.csv": (lambda o: o.remove(o.output, "output.csv"), ()),
    "list a bucket of others": (lambda o: o.list_keys(OTHERS), ()),
    "read from a bucket of others": (lambda o: o.get(OTHERS, "1.csv"), ()),
    "write to a bucket of others": (lambda o: o.put(OTHERS, "2.csv"), ()),
    "read the policy of the source": (lambda o: o.client.get_bucket_policy(bucket_name=o.source), ()),
    "stop the events": (lambda o: o.client.delete_bucket_notification(bucket_name=o.source), ()),
    "remove old versions": (lambda o: o.client.delete_bucket_lifecycle(bucket_name=o.source), ()),
    "look at the server": (lambda o: o.admin.info(), ()),
    "make a policy": (lambda o: o.admin.policy_add(policy_name="mine", policy={"Statement": []}), ()),
    "make a bucket": (lambda o: o.client.make_bucket(bucket_name="a-bucket-of-mine"), ()),
    "remove a bucket": (lambda o: o.client.remove_bucket(bucket_name=o.output), ()),
    "open the source to all": (lambda o: o.open_to_all(o.source), ()),
    "list users": (lambda o: o.admin.user_list(), ()),
    "make a user": (lambda o: o.admin.user_add(access_key="somebody", secret_key="something"), ()),
    "make another key": (lambda o: o.admin.add_service_account(name="mine"), ()),
}


def may_do(operation: Callable[[Objects], object], objects: Objects) -> bool:
    """Try an operation; false when the store says that the user may not."""
    try:
        operation(objects)
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
        return False
    except MinioAdminException as error:
        if "AccessDenied" not in str(error):
            raise
        return False
    return True


def read_rights_on_store(users: Mapping[str, Objects]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Try every operation as every user; yields each operation with the users that may.

    The source must hold 1.csv, 1.png, 1.JPG, 1.Jpeg and notes.txt, the outputs output.csv and rejects.csv,
    and the bucket OTHERS 1.csv.
    """
    for name, (operation, _) in OPERATIONS.items():
        yield name, tuple(user for user in ALL if may_do(operation, users[user]))


def is_open_to_all(endpoint: str, *, buckets: tuple[str, ...]) -> bool:
    """True when somebody without keys may list a bucket or read an object."""
    paths = [
        path for bucket in buckets for path in (f"/{bucket}/", f"/{bucket}/1.png", f"/{bucket}/output.csv")
    ]
    with urllib3.PoolManager() as pool:
        return any(pool.request("GET", endpoint + path).status != 403 for path in ("/", *paths))
