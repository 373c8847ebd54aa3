import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pg8000.native
import psutil
import pytest
from minio import Minio
from minio.error import MinioException

from rollcall.ports import HOST, choose_port, is_free
from rollcall.processes import Program, Register, StartError, kill_group, start, stop, wait_until
from rollcall.samples import samples
from rollcall.servers import Key, Postgres, embedded_postgres, find_home, rclone_s3, remove_home


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that any account can pass through, unlike pytest's own."""
    place = Path(tempfile.mkdtemp(prefix="rollcall-test-"))
    place.chmod(0o711)
    yield place
    remove_home(place / "postgres")
    shutil.rmtree(place)


def query(server: Postgres, sql: str, password: str | None = None) -> list[object]:
    """The first column of the answer."""
    # a socket of our own: the library leaves one open whose password is wrong
    with socket.create_connection((HOST, server.port)) as sock:
        connection = pg8000.native.Connection(
            server.owner,
            database="postgres",
            password=password or server.password,
            ssl_context=False,
            sock=sock,
        )
        answer = [row[0] for row in connection.run(sql) or ()]
        connection.close()
    return answer


def store(port: int, key: Key) -> Minio:
    return Minio(
        endpoint=f"{HOST}:{port}",
        access_key=key.access,
        secret_key=key.secret,
        secure=False,
        region="us-east-1",
    )


def test_postgres_is_version_18_and_asks_for_the_password():
    with embedded_postgres() as server:
        assert str(query(server, "show server_version")[0]).startswith("18.")
        with pytest.raises(pg8000.native.DatabaseError, match="password authentication failed"):
            query(server, "select 1", "wrong")
    assert is_free(server.port)


def test_postgres_keeps_its_data_from_start_to_start(place: Path):
    for want in ([], ["kept"]):
        with embedded_postgres(place) as server:
            assert query(server, "select tablename from pg_tables where schemaname = 'public'") == want
            query(server, "create table if not exists kept (id int)")


def test_postgres_starts_over_a_pid_file_whose_id_is_another_program_by_now(place: Path):
    with embedded_postgres(place) as server:
        pid_file = (server.home.data / "postmaster.pid").read_text()
    stale = "\n".join([str(os.getpid()), *pid_file.splitlines()[1:]])
    (server.home.data / "postmaster.pid").write_text(stale)
    with embedded_postgres(place) as server:
        assert query(server, "select 1") == [1]


def test_postgres_starts_while_a_killed_one_still_has_a_busy_backend(place: Path):
    with embedded_postgres(place) as server:
        postmaster = psutil.Process(int((server.home.data / "postmaster.pid").read_text().split()[0]))
        backend = next(child for child in postmaster.children() if "checkpointer" in child.cmdline()[0])
        # stopped, it does not notice that its server dies, as one deep in a query would not for a while
        backend.suspend()
        postmaster.kill()
    assert backend.is_running()
    with embedded_postgres(place) as server:
        assert query(server, "select 1") == [1]
    assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(os.geteuid() != 0, reason="for root, whose PostgreSQL runs as another account")
def test_roots_postgres_moves_where_its_account_can_reach_it(place: Path):
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    try:
        with embedded_postgres(closed) as server:
            assert query(server, "select 1") == [1]
            assert (closed / "postgres").is_symlink()
            refuge = (closed / "postgres").resolve()
            assert server.home.account is not None
            assert server.home.data.stat().st_uid == server.home.account.uid != 0
        assert find_home(closed / "postgres").data == refuge / "data"
        assert oct(closed.stat().st_mode)[-3:] == "700"
    finally:
        remove_home(closed / "postgres")
    assert not refuge.exists()


def test_a_port_that_is_taken_is_said_with_the_servers_own_words(place: Path):
    with (
        embedded_postgres() as other,
        pytest.raises(StartError, match=r"Address already in use"),
        embedded_postgres(place, port=other.port),
    ):
        pass


def test_the_store_takes_every_sample_and_tells_its_keys_apart(tmp_path: Path):
    keys = [Key(secrets.token_hex(8), secrets.token_hex(16)) for _ in range(3)]
    with rclone_s3(tmp_path, keys=keys) as server:
        store(server.port, keys[0]).make_bucket(bucket_name="src-data")
        want = {sample.key: len(sample.body) for sample in samples()}
        for sample in samples():
            store(server.port, keys[0]).put_object(
                bucket_name="src-data",
                object_name=sample.key,
                data=BytesIO(sample.body),
                length=len(sample.body),
            )
        for key in keys[1:]:
            listed = store(server.port, key).list_objects(bucket_name="src-data", recursive=True)
            assert {entry.object_name: entry.size for entry in listed} == want
        with pytest.raises(MinioException, match="InvalidAccessKeyId"):
            list(store(server.port, Key("unknown-key", "x" * 16)).list_objects(bucket_name="src-data"))


def test_a_file_dropped_into_a_bucket_is_an_object_at_once_and_the_last_one_leaves_the_bucket(tmp_path: Path):
    key = Key(secrets.token_hex(8), secrets.token_hex(16))
    with rclone_s3(tmp_path, keys=[key]) as server:
        client = store(server.port, key)
        client.make_bucket(bucket_name="src-data")
        assert list(client.list_objects(bucket_name="src-data")) == []
        (server.directory / "src-data" / "2000.csv").write_text("x")

        def is_listed() -> bool:
            return [entry.object_name for entry in client.list_objects(bucket_name="src-data")] == [
                "2000.csv"
            ]

        # Where rclone kept its listings as long as it usually does, this would take five minutes.
        wait_until(is_listed, timeout_s=60, what="the file to be an object")
        client.remove_object(bucket_name="src-data", object_name="2000.csv")
        assert [bucket.name for bucket in client.list_buckets()] == ["src-data"]


def sleeper(log: Path) -> Program:
    code = "import subprocess as s, time; s.Popen(['sleep', '300']); print('up', flush=True); time.sleep(300)"
    return Program(name="sleeper", argv=(sys.executable, "-c", code), env={"PATH": os.defpath}, log=log)


def test_leftovers_are_ended_with_their_children_and_nothing_else_is(tmp_path: Path):
    log = tmp_path / "log"
    register = Register(tmp_path / "processes.json")
    left = start(sleeper(log), register)
    bystander = start(sleeper(tmp_path / "other"))
    try:
        wait_until(lambda: "up" in log.read_text(), timeout_s=60, what="the sleeper")
        child = psutil.Process(left.pid).children()[0]
        entries = json.loads((tmp_path / "processes.json").read_text())
        recycled = {**entries[0], "name": "recycled", "pid": bystander.pid}
        # the same program with another start time, as a recycled process id would have it
        recycled["created"] -= 60
        (tmp_path / "processes.json").write_text(json.dumps([*entries, recycled]))
        assert Register(tmp_path / "processes.json").end_leftovers() == ["sleeper"]
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert bystander.poll() is None
        assert json.loads((tmp_path / "processes.json").read_text()) == []
    finally:
        stop(left, grace_s=0)
        stop(bystander, grace_s=0)


def test_a_program_whose_starter_dies_before_it_is_recorded_never_runs(tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path; from rollcall import processes;"
        "processes.Register.add = lambda *_: os.kill(os.getpid(), 9);"
        "program = processes.Program("
        "    name='x', argv=('touch', sys.argv[1]), env={'PATH': os.defpath}, log=Path(os.devnull));"
        "processes.start(program, processes.Register(Path(sys.argv[2])))"
    )
    env = {**os.environ, "PYTHONPATH": "local"}
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "ran", tmp_path / "processes.json"], env=env, check=False
    )
    assert ran.returncode == -9
    assert not (tmp_path / "ran").exists()


def test_killing_a_group_that_is_gone_is_no_error():
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait()
    kill_group(process.pid)


def test_chosen_ports_are_free():
    assert is_free(choose_port())
