"""What the tests run against: a database, buckets, and functions under the framework's own server."""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from minio import Minio
from pg8000.native import Connection as Driver
from pg8000.native import identifier

from process_users.runs import Counts, begin_run, end_run, record_progress
from rollcall import database as preparation
from rollcall.ports import HOST
from rollcall.processes import Program
from rollcall.rights import apply_grants
from rollcall.roles import KINDS, make_roles
from rollcall.servers import (
    Key,
    Postgres,
    Rclone,
    find_home,
    http_status,
    minio_s3,
    rclone_s3,
    script,
    serving,
)
from rollcall.servers import Minio as MinioServer
from rollcall.session import open_session
from serving.postgres import Connection
from serving.settings import Environment, PostgresSettings

REPOSITORY = Path(__file__).resolve().parents[1]
FUNCTIONS = REPOSITORY / "functions"
REGION = "us-east-1"
TEMPLATE = "template_rollcall"  # a migrated database to clone
# A store that no test reaches, for functions that only have to know of one.
NO_STORE = {
    "MINIO_ENDPOINT": f"http://{HOST}:9",
    "MINIO_ACCESS_KEY": "nobody",
    "MINIO_SECRET_KEY": "nothing-at-all",
}
AS_IN_IMAGES = {"WORKERS": "2", "THREADS": "8"}
ROLE_PREFIX = "rollcall_"


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database of a test's own."""

    settings: PostgresSettings  # of the owner
    passwords: Mapping[str, str] = field(repr=False)

    def env(self, role: str) -> dict[str, str]:
        """Return the PG* variables of process_users, get_data or reader; `owner` may do everything."""
        owner = self.settings
        return {
            "PGHOST": owner.host,
            "PGPORT": str(owner.port),
            "PGUSER": owner.user if role == "owner" else ROLE_PREFIX + role,
            "PGPASSWORD": owner.password if role == "owner" else self.passwords[role],
            "PGDATABASE": owner.database,
            "PGSSLMODE": owner.sslmode,
        }

    def connect(self, role: str = "owner") -> Driver:
        """Open a plain session of a role; the caller closes it."""
        env = self.env(role)
        return Driver(
            env["PGUSER"],
            host=env["PGHOST"],
            port=int(env["PGPORT"]),
            password=env["PGPASSWORD"],
            database=env["PGDATABASE"],
            ssl_context=False,
        )

    def open_session(self, role: str) -> Connection:
        """Open a session of a role, as the functions do; the caller closes it."""
        settings = PostgresSettings.from_environment(Environment(self.env(role)))
        return Connection(settings, application_name="test")

    def run(self, sql: str, **params: object) -> list[list]:
        """Run one statement as the owner."""
        connection = self.connect()
        try:
            return connection.run(sql, **params) or []
        finally:
            connection.close()


def database_of(server: Postgres, name: str) -> Database:
    """Return a database of a server, whether it is there or not."""
    settings = PostgresSettings(
        host=HOST,
        port=server.port,
        user=server.owner,
        password=server.password,
        database=name,
        sslmode="disable",
        sslrootcert="",
    )
    return Database(settings, {role: f"{server.password}-{role}" for role in KINDS})


def wanted_of(database: Database) -> preparation.Wanted:
    """Return what set-up makes of a database: the same roles for all databases of the tests on a server."""
    folder = REPOSITORY / "infra" / "postgres"
    return preparation.Wanted(database.settings, make_roles(ROLE_PREFIX, database.passwords), folder)


def prepare_database(server: Postgres, name: str) -> Database:
    """Create a database with roles and tables, as set-up does it."""
    database = database_of(server, name)
    wanted = wanted_of(database)
    with preparation.lock_setup(wanted) as maintenance:
        preparation.create_database(maintenance, name)
        preparation.prepare(wanted)
    return database


@contextmanager
def clone_database(server: Postgres, template: str) -> Iterator[Database]:
    """Make a database as set-up leaves it, to be removed at the end of the block."""
    database = database_of(server, f"test_{secrets.token_hex(4)}")
    name = identifier(database.settings.database)
    maintenance = database_of(server, "postgres")
    maintenance.run(f"create database {name} template {template}")
    wanted = wanted_of(database)
    with open_session(database.settings) as session:
        # A clone has no rights of its template's; these are given to the database itself.
        apply_grants(session, wanted.folder / "grants.sql", wanted.roles)
        # Two clones are not to be taken for one: see the column.
        session.run("update versions set lineage = gen_random_uuid()")
    yield database
    maintenance.run(f"drop database {name} with (force)")


@contextmanager
def run_going_on(database: Database, **numbers: int) -> Iterator[Callable[..., None]]:
    """Be a run that has the lock; call what is given to change its counts. It ends well with the block."""
    counts = Counts()

    def set_counts(**numbers: int) -> None:
        for name, number in numbers.items():
            setattr(counts, name, number)
        record_progress(connection, run, counts)

    with closing(database.open_session("process_users")) as connection:
        run = begin_run(connection, full=False)
        set_counts(**numbers)
        yield set_counts
        end_run(connection, run, counts, rejected=0, error=None)


@dataclass(frozen=True, slots=True)
class Store:
    """An S3 store and its root credentials; `kind` is rclone or minio."""

    kind: str
    port: int
    key: Key

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def client(self) -> Minio:
        """Return an S3 client with the root credentials."""
        return Minio(
            endpoint=f"{HOST}:{self.port}",
            access_key=self.key.access,
            secret_key=self.key.secret,
            secure=False,
            region=REGION,
        )


@contextmanager
def run_store(kind: str, directory: Path, key: Key) -> Iterator[MinioServer | Rclone]:
    """Run an S3 store over a directory until the end of the block."""
    if kind == "minio":
        with minio_s3(directory, binary=Path(os.environ["MINIO_BINARY"]), root=key) as minio:
            yield minio
    else:
        with rclone_s3(directory, keys=[key]) as rclone:
            yield rclone


@dataclass(frozen=True, slots=True)
class Bucket:
    """Fresh source and output buckets of a test's own."""

    store: Store
    source: str
    output: str

    @property
    def env(self) -> dict[str, str]:
        """The variables that process-users takes."""
        return {
            "MINIO_ENDPOINT": self.store.endpoint,
            "MINIO_ACCESS_KEY": self.store.key.access,
            "MINIO_SECRET_KEY": self.store.key.secret,
            "MINIO_REGION": REGION,
            "SOURCE_BUCKET": self.source,
            "OUTPUT_BUCKET": self.output,
        }


def make_buckets(store: Store) -> Bucket:
    """Make empty buckets with names of their own."""
    suffix = secrets.token_hex(4)
    bucket = Bucket(store, source=f"src-{suffix}", output=f"out-{suffix}")
    client = store.client()
    for name in (bucket.source, bucket.output):
        client.make_bucket(bucket_name=name)
    return bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function under the Functions Framework; `source` has a folder of its name."""

    name: str
    port: int
    env: Mapping[str, str]
    home: Path
    source: Path = FUNCTIONS

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What it wrote to stdout and stderr."""
        return self.home / "log"

    def prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)

    def program(self) -> Program:
        options = ("--target", self.name.replace("-", "_"), "--source", "main.py")
        return Program(
            name=self.name,
            argv=(script("functions-framework"), *options, "--host", HOST, "--port", str(self.port)),
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.home),
                "TMPDIR": str(self.home),  # killed processes leave files behind
                "PYTHONPATH": str(FUNCTIONS),
                "WORKERS": "1",
                "THREADS": "8",
                **NO_STORE,
                **self.env,
            },
            log=self.log,
            cwd=self.source / self.name,
        )

    def answers(self) -> bool:
        return http_status(self.port, "/healthz") == 200


StartFunction = Callable[[str, Mapping[str, str]], Function]
Count = Callable[..., None]  # notes numbers by name, which are printed at the end


@contextmanager
def run_function(
    name: str, env: Mapping[str, str], *, home: Path, source: Path = FUNCTIONS
) -> Iterator[Function]:
    """Run a function until the end of the block."""
    with serving(lambda port: Function(name=name, port=port, env=env, home=home, source=source)) as function:
        yield function


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Caddy with the gateway's own Caddyfile, before both functions."""

    port: int
    process_users: Function
    get_data: Function
    home: Path
    allowed_hosts: str = ""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)

    def program(self) -> Program:
        config = str(REPOSITORY / "local" / "Caddyfile")
        return Program(
            name="gateway",
            argv=(script("caddy"), "run", "--config", config, "--adapter", "caddyfile"),
            env={
                "HOME": str(self.home),
                "GATEWAY_BIND": HOST,
                "GATEWAY_ADDRESS": f"http://:{self.port}",
                "PROCESS_USERS_ADDRESS": f"{HOST}:{self.process_users.port}",
                "GET_DATA_ADDRESS": f"{HOST}:{self.get_data.port}",
                "ALLOWED_HOSTS": self.allowed_hosts,
            },
            log=self.home / "log",
        )

    def answers(self) -> bool:
        return http_status(self.port, "/healthz") == 200


@contextmanager
def run_standby(primary: Postgres, directory: Path) -> Iterator[Postgres]:
    """Run a hot standby of a server until the end of the block."""
    found = find_home(directory)
    home = replace(found, programs=primary.home.programs)
    address = f"postgres://{primary.owner}:{primary.password}@{HOST}:{primary.port}/postgres"
    home.data.mkdir(mode=0o700)
    if home.account:
        os.chown(home.data, home.account.uid, home.account.gid)
    command = (home.programs / "bin" / "pg_basebackup", "-d", address, "-D", home.data)
    done = home.run(*command, "--write-recovery-conf", "--checkpoint=fast")
    assert done.returncode == 0, done.stderr
    log = directory.with_name("standby.log")
    with serving(lambda port: replace(primary, home=home, port=port, log=log)) as standby:
        yield standby
