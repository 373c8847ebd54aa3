"""Servers of a test's own behind proxies, and what can happen to them."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from faults.proxy import Exchange, Proxy, Tap, proxied
from minio.error import S3Error
from pg8000.native import Connection as Driver
from pg8000.native import literal
from pipeline import BEST_STORE, Pipeline
from rig import Bucket, Store, prepare_database, run_store

from rollcall.ports import HOST
from rollcall.processes import kill_all, start, stop, wait_until
from rollcall.servers import Key, Minio, Postgres, Rclone, embedded_postgres, remove_home

# What was committed outlives kill -9 of the server, if not that of its machine. Whole pages in its log of
# changes would soon fill what a full disk has left.
POSTGRES_OPTIONS = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
DELAY_S = 0.1
FULL_BYTES = 16 << 10  # how large a file may become on a disk that is full
START_S = 30
FUNCTIONS_SESSIONS = (
    "datname = current_database() and usename in ('rollcall_process_users', 'rollcall_get_data')"
)


class Machine:
    """A server that can be killed, frozen, and started again over its data."""

    def __init__(self, server: Postgres | Minio | Rclone) -> None:
        self.server = server
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, server: Postgres | Minio | Rclone | None = None) -> None:
        """Start it, if need be with other settings, and return when it answers."""
        running = server or self.server
        running.prepare()
        self._process = start(running.program())
        wait_until(running.answers, timeout_s=START_S, what=running.program().name)

    def stop(self) -> None:
        """Ask it to end, as an administrator does."""
        if self._process is not None:
            self.thaw()
            stop(self._process, self.server.program().stop_signal)
            self._process = None

    def kill(self) -> None:
        """Kill -9 every process of it."""
        kill_all(self.family())
        self.stop()

    def freeze(self) -> None:
        """Stop every process of it where it is; its kernel goes on to take connections."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def family(self) -> list[psutil.Process]:
        """Return its processes: the first one first, so that it starts no others meanwhile."""
        if self._process is None:
            return []
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _send(self, what: signal.Signals) -> None:
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(what)


@dataclass(frozen=True, slots=True)
class Side:
    """A server with the proxy before it."""

    machine: Machine
    proxy: Proxy
    tap: Tap


@dataclass(slots=True)
class World:
    """Both servers, and a bucket and a database on them."""

    pipeline: Pipeline
    postgres: Side
    store: Side
    unreadable: str = ""  # a key

    def env(self, role: str) -> dict[str, str]:
        """Return the settings of a function: it sees its servers through the proxies."""
        return {
            **self.pipeline.env(),
            **self.pipeline.database.env(role),
            "PGPORT": str(self.postgres.proxy.port),
            "MINIO_ENDPOINT": f"http://{HOST}:{self.store.proxy.port}",
        }

    @contextmanager
    def owner(self) -> Iterator[Driver]:
        """Open a session that may do everything, past the proxy."""
        connection = self.pipeline.database.connect()
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def make_world() -> Iterator[World]:
    """Set up servers, proxies, buckets and a database, until the end of the block."""
    home = Path(tempfile.mkdtemp(prefix="rollcall-outages-"))
    home.chmod(0o711)  # for the account that runs a root's Postgres
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        stack.callback(remove_home, home / "postgres")
        with embedded_postgres(home, options=POSTGRES_OPTIONS) as postgres:
            database = prepare_database(postgres, "outages")
        key = Key("root-of-tests", "secret-of-tests")
        with run_store(BEST_STORE, home, key) as store:
            pass
        sides = []
        for server in (postgres, store):
            machine, tap = Machine(server), Tap()
            stack.callback(machine.stop)
            machine.start()
            sides.append(Side(machine, stack.enter_context(proxied(server.port, tap)), tap))
        bucket = Bucket(Store(BEST_STORE, store.port, key), source="src-data", output="processed-data")
        pipeline = stack.enter_context(Pipeline(bucket, database, {"EVENTS_TOKEN": "events"}))
        for name in (bucket.source, bucket.output):
            pipeline.store.make_bucket(bucket_name=name)
        yield World(pipeline, *sides)


@dataclass(frozen=True, slots=True)
class Outage:
    """Something that happens to servers, and how it ends; `away`: what may be answered meanwhile."""

    name: str
    begin: Callable[[World], None]
    end: Callable[[World], None]
    away: tuple[str, ...] = field(kw_only=True, default=())


def _list_outages_of(name: str, code: str) -> list[Outage]:
    """Return what can happen to any server."""

    def side(world: World) -> Side:
        return getattr(world, name)

    def machine(world: World) -> Machine:
        return side(world).machine

    return [
        Outage(f"{name} killed", lambda w: machine(w).kill(), lambda w: machine(w).start(), away=(code,)),
        Outage(f"{name} stopped", lambda w: machine(w).stop(), lambda w: machine(w).start(), away=(code,)),
        Outage(f"{name} frozen", lambda w: machine(w).freeze(), lambda w: machine(w).thaw(), away=(code,)),
        Outage(f"{name} cut", lambda w: side(w).proxy.cut(), _nothing, away=(code,)),
        Outage(
            f"{name} unplugged",
            lambda w: side(w).proxy.unplug(),
            lambda w: side(w).proxy.plug_in(),
            away=(code,),
        ),
        Outage(f"{name} slow", lambda w: _slow_down(side(w).tap), lambda w: side(w).tap.reset()),
    ]


def _nothing(world: World) -> None:
    pass


def _slow_down(tap: Tap) -> None:
    def wait(exchange: Exchange, data: bytes) -> bytes:
        time.sleep(DELAY_S)
        return data

    tap.on_request = wait


def _fill_disk(world: World) -> None:
    with world.owner() as owner:
        owner.run("select pg_switch_wal()")  # to a file with room left: the others are full
    _limit_files(world.postgres.machine, str(FULL_BYTES))


def _limit_files(machine: Machine, max_bytes: str) -> None:
    """Let no file grow beyond this, which any account may set for its own: writes fail as on a full disk."""
    assert isinstance(machine.server, Postgres)
    for process in machine.family():
        # One that has just ended is no matter.
        machine.server.home.run("prlimit", "--pid", str(process.pid), f"--fsize={max_bytes}:")


def _free_disk(world: World) -> None:
    machine = world.postgres.machine
    for _ in range(2):  # the second time for those that the first process has started since
        _limit_files(machine, "unlimited")
    if not machine.is_running():  # it ends when it cannot even write its log of changes
        machine.start()


def _change_passwords(world: World) -> None:
    _set_passwords(world, dict.fromkeys(world.pipeline.database.passwords, "another"))


def _restore_passwords(world: World) -> None:
    _set_passwords(world, dict(world.pipeline.database.passwords))


def _set_passwords(world: World, passwords: dict[str, str]) -> None:
    with world.owner() as owner:
        for role in ("process_users", "get_data"):
            owner.run(f"alter role rollcall_{role} password {literal(passwords[role])}")
        owner.run(f"select pg_terminate_backend(pid) from pg_stat_activity where {FUNCTIONS_SESSIONS}")  # noqa: S608


def _change_keys(world: World) -> None:
    machine = world.store.machine
    server, key = machine.server, Key(world.pipeline.bucket.store.key.access, "another-secret")
    machine.kill()
    if isinstance(server, Minio):
        machine.start(replace(server, root=key))
    elif isinstance(server, Rclone):
        machine.start(replace(server, keys=[key]))


def _rerun_store(world: World) -> None:
    world.store.machine.kill()
    world.store.machine.start()


def _remove_output_bucket(world: World) -> None:
    store, name = world.pipeline.store, world.pipeline.bucket.output

    def is_removed() -> bool:
        try:
            for key in ("output.csv", "rejects.csv"):
                store.remove_object(bucket_name=name, object_name=key)
            store.remove_bucket(bucket_name=name)
        except S3Error as error:
            # A run may be storing them.
            return error.code == "NoSuchBucket"
        return True

    wait_until(is_removed, timeout_s=START_S, what="the output bucket to go")


def _make_output_bucket(world: World) -> None:
    world.pipeline.store.make_bucket(bucket_name=world.pipeline.bucket.output)


def _refuse_one(world: World) -> None:
    target = f"/{world.pipeline.bucket.source}/{world.unreadable} ".encode()
    world.store.tap.on_request = lambda exchange, data: None if target in exchange.request else data


def _kill_both(world: World) -> None:
    world.store.machine.kill()
    world.postgres.machine.kill()


def _start_both(world: World) -> None:
    world.postgres.machine.start()
    world.store.machine.start()


DATABASE_AWAY, STORE_AWAY = "database_unavailable", "store_unavailable"
OF_POSTGRES = [
    *_list_outages_of("postgres", DATABASE_AWAY),
    Outage("postgres' disk full", _fill_disk, _free_disk, away=(DATABASE_AWAY,)),
    Outage("postgres' passwords changed", _change_passwords, _restore_passwords, away=(DATABASE_AWAY,)),
    Outage("both killed", _kill_both, _start_both, away=(DATABASE_AWAY, STORE_AWAY)),
]
OF_STORE = [
    *_list_outages_of("store", STORE_AWAY),
    Outage("store's keys changed", _change_keys, _rerun_store, away=(STORE_AWAY,)),
    Outage("output bucket gone", _remove_output_bucket, _make_output_bucket, away=(STORE_AWAY,)),
    Outage("one object unreadable", _refuse_one, lambda w: w.store.tap.reset()),
]
