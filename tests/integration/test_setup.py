"""Set-up on real servers: what it leaves, that it may be repeated, doubled and killed, and how it fails."""

import io
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials as TemporaryKeys
from minio.credentials.providers import AssumeRoleProvider
from minio.error import S3Error
from pg8000.native import Connection, DatabaseError, identifier
from privileges import (
    OPERATIONS,
    OTHERS,
    STATEMENTS,
    Objects,
    is_open_to_all,
    read_rights_on_postgres,
    read_rights_on_store,
)
from rig import REPOSITORY, Store

from rollcall import database, setup
from rollcall.object_store import Credentials, ObjectStore
from rollcall.ports import HOST, choose_port
from rollcall.processes import wait_until
from rollcall.roles import KINDS
from rollcall.samples import samples
from rollcall.servers import Postgres, embedded_postgres

PYTHONPATH = os.pathsep.join(str(REPOSITORY / folder) for folder in ("local", "functions"))
USERS = ("process-users", "get-data", "uploader")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of this module's own: set-up changes passwords, which all databases share."""
    with embedded_postgres() as postgres:
        yield postgres


@dataclass(frozen=True)
class Site:
    """A database, buckets and users that nobody has prepared yet."""

    env: Mapping[str, str]

    def run(self, **settings: str) -> list[dict[str, Any]]:
        """Run set-up to its good end; returns its log."""
        process = self.start(**settings)
        out, err = process.communicate(timeout=180)
        assert (process.returncode, err) == (0, ""), out
        return [json.loads(line) for line in out.splitlines()]

    def start(self, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rollcall.setup"],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": PYTHONPATH, **self.env, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def connect(self, user: str = "", password: str = "") -> Connection:
        env = self.env
        return Connection(
            user or env["PGUSER"],
            host=env["PGHOST"],
            port=int(env["PGPORT"]),
            database=env["PGDATABASE"],
            password=password or env["PGPASSWORD"],
            ssl_context=False,
        )

    def connect_as(self, role: str) -> Connection:
        return self.connect(self.prefix + role, self.env[f"{role.upper()}_PGPASSWORD"])

    @property
    def roles(self) -> dict[str, str]:
        """The names of its roles by kind, quoted."""
        return {kind: identifier(self.prefix + kind) for kind in KINDS}

    @property
    def prefix(self) -> str:
        return f"{self.env['PGDATABASE']}_"

    def query(self, sql: str) -> list[list[Any]]:
        connection = self.connect()
        try:
            return connection.run(sql) or []
        finally:
            connection.close()

    def store(self, access_key: str = "", secret_key: str = "") -> ObjectStore:
        env = self.env
        credentials = Credentials(
            access_key or env["MINIO_ROOT_USER"], secret_key or env["MINIO_ROOT_PASSWORD"]
        )
        return ObjectStore(env["MINIO_ENDPOINT"], "us-east-1", credentials)

    def client(self, access_key: str = "", secret_key: str = "") -> Minio:
        store = self.store(access_key, secret_key)
        return store.client(store.root)

    def keys(self) -> set[str]:
        found = self.client().list_objects(bucket_name=self.env["SOURCE_BUCKET"], recursive=True)
        return {each.object_name for each in found if each.object_name}

    def snapshot(self) -> dict[str, Any]:
        """Everything that set-up makes, as it is now."""
        found: dict[str, Any] = {
            "roles": self.query("select to_jsonb(pg_authid)::text from pg_authid order by rolname"),
            "database": self.query("select datacl::text from pg_database where datname = current_database()"),
            "tables": self.query(
                "select oid, relname, relacl::text from pg_class"
                " where relnamespace = 'public'::regnamespace order by oid"
            ),
            "migrations": self.query("select * from schema_migrations"),
            "objects": sorted(
                (each.object_name, each.etag)
                for each in self.client().list_objects(bucket_name=self.env["SOURCE_BUCKET"], recursive=True)
            ),
        }
        if self.env["MINIO_ADMIN"] == "on":
            admin = self.store().admin()
            found["users"] = json.loads(admin.user_list())
            found["policies"] = in_order(json.loads(admin.policy_list()))
        return found


def in_order(value: Any) -> Any:
    """Sort all lists: MinIO gives those of a policy in any order."""
    if isinstance(value, dict):
        return {name: in_order(member) for name, member in value.items()}
    return sorted(map(in_order, value), key=json.dumps) if isinstance(value, list) else value


@pytest.fixture
def site(server: Postgres, store: Store) -> Site:
    suffix = secrets.token_hex(4)
    users = {}
    for user in USERS:
        prefix = user.upper().replace("-", "_")
        users[f"{prefix}_ACCESS_KEY"] = f"{user}-{suffix}"
        users[f"{prefix}_SECRET_KEY"] = secrets.token_hex(8)
    roles = ("PROCESS_USERS", "GET_DATA", "READER")
    return Site(
        {
            "PGHOST": HOST,
            "PGPORT": str(server.port),
            "PGUSER": server.owner,
            "PGPASSWORD": server.password,
            "PGDATABASE": f'Rollcall-"{suffix}" é\'s',
            **{f"{role}_PGPASSWORD": f"{role}-{suffix}" for role in roles},
            "MINIO_ENDPOINT": store.endpoint,
            "MINIO_ROOT_USER": store.key.access,
            "MINIO_ROOT_PASSWORD": store.key.secret,
            "MINIO_ADMIN": "on" if store.kind == "minio" else "off",
            "SOURCE_BUCKET": f"src-{suffix}",
            "OUTPUT_BUCKET": f"out-{suffix}",
            **users,
        }
    )


def test_a_second_set_up_changes_nothing(site: Site) -> None:
    first = {line["event"]: line for line in site.run(SAMPLE_DATA="on")}
    assert first["setup.database"]["created"]
    assert first["setup.migrations"]["applied"]
    assert first["setup.samples"]["put"] == len(list(samples()))
    want = site.snapshot()

    second = site.run(SAMPLE_DATA="on")

    assert site.snapshot() == want
    changes = [
        value
        for line in second
        for name, value in line.items()
        if name.endswith(("created", "changed", "applied", "put", "removed"))
    ]
    assert not any(changes), second


def test_several_at_once_do_it_once(site: Site) -> None:
    processes = [site.start(SAMPLE_DATA="on") for _ in range(3)]
    logs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(logs)
    lines = [json.loads(line) for log in logs for line in log.splitlines()]
    assert sum(line.get("created", False) for line in lines if line["event"] == "setup.database") == 1
    assert sum(bool(line["applied"]) for line in lines if line["event"] == "setup.migrations") == 1
    assert sorted(line["put"] for line in lines if line["event"] == "setup.samples")[:2] == [0, 0]


def test_a_set_up_that_is_disturbed_begins_again(site: Site) -> None:
    end_waiting = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = 'rollcall-setup' and query like '%pg_try_advisory_lock%'"
    )
    maintenance = replace(site, env={**site.env, "PGDATABASE": "postgres"})
    with closing(maintenance.connect()) as holder:
        holder.run("select pg_advisory_lock(cast(:lock as bigint))", lock=database.LOCK)
        process = site.start()
        wait_until(
            lambda: bool(holder.run(end_waiting)), timeout_s=60, what="a session that waits for its turn"
        )
    out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, ""), out
    assert '"event": "setup.again"' in out


@pytest.mark.parametrize("after_s", [0.5, 0.8])
def test_a_killed_set_up_is_completed_by_the_next(site: Site, after_s: float) -> None:
    process = site.start(SAMPLE_DATA="on")
    time.sleep(after_s)
    process.kill()
    process.communicate()
    site.run(SAMPLE_DATA="on")
    assert site.keys() == {sample.key for sample in samples()}
    assert site.query("select count(*) from users") == [[0]]


def test_a_changed_password_is_applied(site: Site) -> None:
    site.run()
    site.run(READER_PGPASSWORD="another")
    site.connect(site.prefix + "reader", "another").close()
    with pytest.raises(DatabaseError, match="28P01"):
        site.connect_as("reader")


def test_a_changed_key_is_applied_and_the_former_one_ends(site: Site) -> None:
    site.run()
    if site.env["MINIO_ADMIN"] == "off":
        return  # a server with one pair of keys for all
    old = site.client(site.env["UPLOADER_ACCESS_KEY"], site.env["UPLOADER_SECRET_KEY"])
    old.list_buckets()

    site.run(UPLOADER_SECRET_KEY="another-secret")
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        old.list_buckets()
    site.client(site.env["UPLOADER_ACCESS_KEY"], "another-secret").list_buckets()

    site.run(UPLOADER_ACCESS_KEY="another-uploader", UPLOADER_SECRET_KEY="another-secret")
    with pytest.raises(S3Error, match="InvalidAccessKeyId"):
        site.client(site.env["UPLOADER_ACCESS_KEY"], "another-secret").list_buckets()
    site.client("another-uploader", "another-secret").list_buckets()


ROTATIONS = {
    "another secret": {"UPLOADER_SECRET_KEY": "another-secret"},
    "another key": {"UPLOADER_ACCESS_KEY": "another-uploader", "UPLOADER_SECRET_KEY": "another-secret"},
}


@pytest.mark.parametrize("settings", ROTATIONS.values(), ids=list(ROTATIONS))
def test_a_rotation_ends_all_that_was_derived_from_the_secret(
    site: Site, settings: Mapping[str, str]
) -> None:
    site.run()
    if site.env["MINIO_ADMIN"] == "off":
        return  # a server without temporary keys
    access, secret, bucket = site.env["UPLOADER_ACCESS_KEY"], site.env["UPLOADER_SECRET_KEY"], "SOURCE_BUCKET"
    site.client().put_object(
        bucket_name=site.env[bucket], object_name="1.csv", data=io.BytesIO(b"x"), length=1
    )
    keys = (site.client(access, secret), assume_role(site, access, secret), add_service_account(site, access))
    links = [
        client.presigned_get_object(bucket_name=site.env[bucket], object_name="1.csv") for client in keys
    ]
    with urllib3.PoolManager() as pool:
        assert [pool.request("GET", link).status for link in links] == [200, 200, 200]

        site.run(**settings)
        assert [pool.request("GET", link).status for link in links] == [403, 403, 403]

        site.run()  # with the former keys, as somebody would who regrets it
        assert [pool.request("GET", link).status for link in links] == [200, 403, 403]
    for client in keys[1:]:
        with pytest.raises(S3Error, match=r"InvalidAccessKeyId|InvalidTokenId"):
            client.list_buckets()


def test_a_rotation_that_was_killed_is_completed_by_the_next(site: Site) -> None:
    site.run()
    if site.env["MINIO_ADMIN"] == "off":
        return  # a server without temporary keys
    access, secret = site.env["UPLOADER_ACCESS_KEY"], site.env["UPLOADER_SECRET_KEY"]
    temporary = assume_role(site, access, secret)
    site.store().admin().user_add(access_key=access, secret_key="where-it-was-killed")
    temporary.list_buckets()

    site.run(UPLOADER_SECRET_KEY="another-secret")

    site.client(access, "another-secret").list_buckets()
    with pytest.raises(S3Error, match=r"InvalidAccessKeyId|InvalidTokenId"):
        temporary.list_buckets()


def assume_role(site: Site, access_key: str, secret_key: str) -> Minio:
    """Return a client with temporary keys, made for a week."""
    provider = AssumeRoleProvider(
        sts_endpoint=site.env["MINIO_ENDPOINT"],
        access_key=access_key,
        secret_key=secret_key,
        duration_seconds=7 * 24 * 3600,
    )
    return to_client(site, provider.retrieve())


def add_service_account(site: Site, access_key: str) -> Minio:
    """Return a client with a key that the user made for itself when its policy still allowed that."""
    root, user = site.store().admin(), site.store(access_key, site.env["UPLOADER_SECRET_KEY"]).admin()
    root.policy_set(policy_name="consoleAdmin", user=access_key)
    made = json.loads(user.add_service_account(name="mine"))["credentials"]
    root.policy_set(policy_name="rollcall-uploader", user=access_key)
    return site.client(made["accessKey"], made["secretKey"])


def to_client(site: Site, keys: TemporaryKeys) -> Minio:
    """Return a client with keys that need their token."""
    return Minio(
        endpoint=site.env["MINIO_ENDPOINT"].removeprefix("http://"),
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        session_token=keys.session_token,
        secure=False,
        region="us-east-1",
    )


def test_samples_are_only_put_where_nobody_has_been(site: Site) -> None:
    site.run()
    client, bucket = site.client(), site.env["SOURCE_BUCKET"]
    client.put_object(bucket_name=bucket, object_name="mine.csv", data=io.BytesIO(b"x"), length=1)
    assert site.run(SAMPLE_DATA="on")[-2]["put"] == 0
    assert site.keys() == {"mine.csv"}

    client.remove_object(bucket_name=bucket, object_name="mine.csv")
    site.query("insert into runs (state, pid) values ('ok', 1)")
    assert site.run(SAMPLE_DATA="on")[-2]["put"] == 0
    assert site.keys() == set()


def test_each_role_may_do_its_work_and_no_more(site: Site) -> None:
    site.run()
    assert read_rights_on_postgres(site.connect_as, site.prefix) == dict(STATEMENTS)


def test_rights_that_were_given_or_taken_by_hand_are_put_right(site: Site) -> None:
    site.run()
    for statement in (
        "grant all on all tables in schema public to public",
        "grant all on all sequences in schema public to {get_data}",
        "grant update (last_name) on users to {reader}",
        "grant all on state to {process_users} with grant option",
        "revoke select on users from {get_data}",
        "revoke select on rejects from {process_users}",
        "revoke usage on schema public from public",
    ):
        site.query(statement.format_map(site.roles))
    site.run()
    assert read_rights_on_postgres(site.connect_as, site.prefix) == dict(STATEMENTS)


def test_each_user_may_do_its_work_and_no_more(site: Site) -> None:
    site.run()
    if site.env["MINIO_ADMIN"] == "off":
        return  # a server with one pair of keys for all
    source, output = site.env["SOURCE_BUCKET"], site.env["OUTPUT_BUCKET"]
    users = {}
    for user in USERS:
        prefix = user.upper().replace("-", "_")
        store = site.store(site.env[f"{prefix}_ACCESS_KEY"], site.env[f"{prefix}_SECRET_KEY"])
        users[user] = Objects(store.client(store.root), store.admin(), source, output)
    root = Objects(site.client(), site.store().admin(), source, output)
    for key in ("1.csv", "1.png", "1.JPG", "1.Jpeg", "notes.txt"):
        root.put(source, key)
    for key in ("output.csv", "rejects.csv"):
        root.put(output, key)
    root.client.make_bucket(bucket_name=OTHERS)
    root.put(OTHERS, "1.csv")

    assert dict(read_rights_on_store(users)) == {name: allowed for name, (_, allowed) in OPERATIONS.items()}
    assert not is_open_to_all(site.env["MINIO_ENDPOINT"], buckets=(source, output))

    root.open_to_all(source)
    site.run()
    assert not is_open_to_all(site.env["MINIO_ENDPOINT"], buckets=(source, output))


def test_process_users_sees_that_an_output_is_missing(site: Site) -> None:
    """Not that it may not look: nothing has been written yet at the first run."""
    site.run()
    if site.env["MINIO_ADMIN"] == "off":
        return  # a server with one pair of keys for all
    client = site.client(site.env["PROCESS_USERS_ACCESS_KEY"], site.env["PROCESS_USERS_SECRET_KEY"])
    with pytest.raises(S3Error, match="NoSuchKey"):
        client.stat_object(bucket_name=site.env["OUTPUT_BUCKET"], object_name="output.csv")


def fail(site: Site, **settings: str) -> str:
    """Run set-up, which must fail soon; returns the reason it gives."""
    process = site.start(**settings)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, ""), out
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["level"]) == ("setup.failed", "error")
    return last["detail"]


def test_all_wrong_settings_are_named_at_once(site: Site) -> None:
    reason = fail(site, PGUSER="", MINIO_ENDPOINT="localhost:9000", READER_PGPASSWORD="", SAMPLE_DATA="yes")
    assert "PGUSER is not set" in reason
    assert "MINIO_ENDPOINT is 'localhost:9000', wanted an address such as http://127.0.0.1:9000" in reason
    assert "READER_PGPASSWORD is not set" in reason
    assert "SAMPLE_DATA is 'yes', wanted on or off" in reason


def test_a_wrong_password_of_the_owner_is_told_at_once(site: Site) -> None:
    reason = fail(site, PGPASSWORD="wrong")
    assert f"refuses {site.env['PGUSER']}: password authentication failed" in reason
    assert "wrong" not in reason


def test_a_wrong_key_of_the_administrator_is_told_at_once(site: Site) -> None:
    reason = fail(site, MINIO_ROOT_PASSWORD="wrong-password")
    assert reason.startswith(f"the object store at {site.env['MINIO_ENDPOINT']} refuses: ")


def test_a_key_used_twice_is_refused(site: Site) -> None:
    reason = fail(site, MINIO_ADMIN="on", GET_DATA_ACCESS_KEY=site.env["UPLOADER_ACCESS_KEY"])
    assert f"got {site.env['UPLOADER_ACCESS_KEY']} more than once" in reason


def test_a_broken_migration_is_told_and_leaves_nothing(site: Site, tmp_path: Any) -> None:
    (tmp_path / "postgres" / "migrations").mkdir(parents=True)
    (tmp_path / "postgres" / "grants.sql").touch()
    (tmp_path / "postgres" / "migrations" / "1_broken.sql").write_text(
        "-- migrate:up\ncreate table half (a int);\nselect nonsense;\n-- migrate:down\n"
    )
    reason = fail(site, INFRA_DIR=str(tmp_path))
    assert reason.startswith("dbmate failed: ")
    assert 'column "nonsense" does not exist' in reason
    assert site.query("select to_regclass('half')::text") == [[None]]


@pytest.mark.parametrize("which", ["PGPORT", "MINIO_ENDPOINT"])
def test_a_server_that_stays_away_is_named(
    site: Site, which: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = choose_port()
    away = str(port) if which == "PGPORT" else f"http://{HOST}:{port}"
    for name, value in {**site.env, which: away}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(setup, "WAIT_S", 2)
    assert setup.main() == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines][-2:] == ["setup.waiting", "setup.failed"]
    assert f"{HOST}:{port}" in lines[-1]["detail"]
    assert "cannot be reached" in lines[-1]["detail"]
