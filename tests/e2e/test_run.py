"""`make run` from outside: what it starts, what it survives, and what it leaves behind."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteError, DeleteObject
from minio.error import MinioException
from privileges import PART_SIZE

from rollcall.processes import kill_all, wait_until
from rollcall.run_directory import read_variables
from rollcall.stack import REPOSITORY

NAMES = {"postgres", "s3", "pictures", "process-users", "get-data", "gateway", "scheduler"}
START_S = 120  # at most, on a machine that is busy with other tests
ANY_PORTS = dict.fromkeys(
    ("GATEWAY_PORT", "GATEWAY_PORT_2", "POSTGRES_PORT", "MINIO_PORT", "PICTURES_PORT"), "0"
)
SETTINGS = {"WORKERS": "1", "SAMPLE_DATA": "off", "PROCESS_INTERVAL_S": "3600"}


@dataclass
class Run:
    """One `make run` and its output."""

    process: subprocess.Popen[bytes]
    directory: Path
    output: Path

    def said(self) -> str:
        return self.output.read_text()

    def started(self) -> dict[str, psutil.Process]:
        found = {}
        for entry in json.loads((self.directory / "processes.json").read_text()):
            with suppress(psutil.NoSuchProcess):  # ended since it was written
                found[entry["name"]] = psutil.Process(entry["pid"])
        return found

    def status(self, path: str, method: str = "GET") -> int:
        url = read_variables(self.directory / "env")["ROLLCALL_URL"]
        try:
            return urllib3.request(method, f"{url}{path}", retries=False, timeout=30).status
        except urllib3.exceptions.HTTPError:
            return 0

    def wait_begun(self) -> None:
        """Its files are written then."""
        self.wait_said("PostgreSQL 18")

    def wait_said(self, text: str) -> None:
        def said_or_ended() -> bool:
            return text in self.said() or self.process.poll() is not None

        wait_until(said_or_ended, timeout_s=START_S, what=text)

    def wait_ready(self) -> None:
        assert self.process.poll() is None, self.said()
        self.wait_said(f"ready: {read_variables(self.directory / 'env')['ROLLCALL_URL']}\n")
        assert self.process.poll() is None, self.said()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


class Runs:
    """Starts runs over one directory."""

    def __init__(self, directory: Path, outputs: Path) -> None:
        self.directory = directory
        self._outputs = outputs
        self._started: list[Run] = []

    def start(self, **settings: str) -> Run:
        output = self._outputs / f"output-{len(self._started)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "rollcall.run"],
                cwd=REPOSITORY,
                env=self.environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._started.append(Run(process, self.directory, output))
        return self._started[-1]

    def ready(self, **settings: str) -> Run:
        run = self.start(**settings)
        wait_until(
            lambda: "starts in" in run.said() or run.process.poll() is not None,
            timeout_s=START_S,
            what="start",
        )
        run.wait_ready()
        return run

    def environment(self, **settings: str) -> dict[str, str]:
        path = os.pathsep.join(str(REPOSITORY / folder) for folder in ("functions", "local"))
        given = {**ANY_PORTS, **SETTINGS, "RUN_DIR": str(self.directory), "PYTHONPATH": path}
        return {**os.environ, **given, **settings}

    def end(self) -> None:
        for run in self._started:
            if run.process.poll() is None:
                run.process.terminate()
                run.process.wait(30)
        clean = [sys.executable, "-m", "rollcall.clean"]
        subprocess.run(clean, cwd=REPOSITORY, env=self.environment(), check=True, capture_output=True)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    # What a shell starts in the background ignores Ctrl-C, and so would what is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place = Path(tempfile.mkdtemp(prefix="rollcall-test-"))
    runs = Runs(place / "run", tmp_path)
    try:
        yield runs
    finally:
        runs.end()
        shutil.rmtree(place)


def gone(processes: dict[str, psutil.Process]) -> bool:
    return all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes.values())


def test_it_answers_takes_files_and_leaves_nothing_running_after_ctrl_c(runs: Runs):
    run = runs.ready()
    assert run.status("/healthz") == 200
    assert run.status("/readyz") == 404
    bucket = runs.directory / "buckets" / "src-data"
    (bucket / "2000.csv").write_text("first_name, last_name, birthts\nAda, King, 612302400000\n")
    assert run.status("/data", "POST") in (200, 409)
    wait_until(lambda: run.status("/data/2000") == 200, timeout_s=30, what="the user")
    started = run.started()
    assert started.keys() == NAMES
    assert run.stop() == 0
    assert gone(started)
    assert "stopped; all data is kept" in run.said()


def test_a_client_finds_what_it_needs_and_nobody_else_can_read_it(runs: Runs, tmp_path: Path):
    run = runs.ready(SOURCE_PREFIX="people/")
    env = runs.directory / "env"
    sourced = subprocess.run(
        ["sh", "-c", 'set -a; . "$0"; env', env], capture_output=True, text=True, check=True
    )
    for name, value in read_variables(env).items():
        assert f"{name}={value}" in sourced.stdout.splitlines()
    assert read_variables(env).keys() >= {
        *("ROLLCALL_URL", "MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_REGION"),
        *("SOURCE_BUCKET", "SOURCE_PREFIX", "OUTPUT_BUCKET"),
        *("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"),
    }
    for private in ("env", "secrets"):
        assert (runs.directory / private).stat().st_mode & 0o077 == 0
    assert run.directory.stat().st_mode & 0o066 == 0

    files = tmp_path / "files"
    files.mkdir()
    for name in ("日本 1.csv", "b.PNG", "notes.txt"):
        (files / name).write_text("x")
    upload = [sys.executable, "-m", "rollcall.upload", str(files)]
    told = subprocess.run(
        upload, cwd=REPOSITORY, env=runs.environment(STACK="run"), capture_output=True, text=True, check=True
    )
    assert told.stdout == (
        "2 files uploaded to src-data; next: make process, or the next run by itself\n"
        "left out:\n  not .csv, .png, .jpg or .jpeg: 1 (notes.txt)\n"
    )
    people = runs.directory / "buckets" / "src-data" / "people"
    assert {file.name for file in people.iterdir()} == {"日本 1.csv", "b.PNG"}
    assert str(people) in run.said()


# What a key may try on a bucket `src-data` that holds 1.csv, 1.png and deep/2.JPG; None: it fails.
ATTEMPTS: dict[str, tuple[Callable[[Minio], object], object]] = {
    "read a picture": (lambda c: read(c, "src-data", "1.png"), b"picture"),
    "read a picture deeper": (lambda c: read(c, "src-data", "deep/2.JPG"), b"picture"),
    "list what it reads": (
        lambda c: [o.object_name for o in c.list_objects(bucket_name="src-data", recursive=True)],
        ["1.png", "deep/2.JPG"],
    ),
    "read a record": (lambda c: read(c, "src-data", "1.csv"), None),
    "read an output": (lambda c: read(c, "processed-data", "output.csv"), None),
    "read from another bucket": (lambda c: read(c, "others", "1.png"), None),
    "list another bucket": (lambda c: list(c.list_objects(bucket_name="others")), None),
    "list the outputs": (lambda c: list(c.list_objects(bucket_name="processed-data")), None),
    "write a picture": (lambda c: write(c, "new.png"), None),
    "replace a picture": (lambda c: write(c, "1.png"), None),
    "write in parts": (lambda c: write(c, "new.png", size=PART_SIZE + 1), None),
    "copy": (
        lambda c: c.copy_object(
            bucket_name="src-data", object_name="new.png", source=CopySource("src-data", "1.png")
        ),
        None,
    ),
    "remove a picture": (lambda c: c.remove_object(bucket_name="src-data", object_name="1.png"), None),
    "remove many": (
        lambda c: check_removed(
            list(c.remove_objects(bucket_name="src-data", delete_object_list=[DeleteObject("1.png")]))
        ),
        None,
    ),
    "make a bucket": (lambda c: c.make_bucket(bucket_name="mine"), None),
    "remove a bucket": (lambda c: c.remove_bucket(bucket_name="empty"), None),
    "remove the source": (lambda c: c.remove_bucket(bucket_name="src-data"), None),
}


def test_get_data_holds_a_key_that_reads_pictures_and_can_do_nothing_else(runs: Runs):
    run = runs.ready()
    buckets = runs.directory / "buckets"
    for key in ("src-data/1.csv", "src-data/1.png", "src-data/deep/2.JPG", "others/1.png"):
        (buckets / key).parent.mkdir(exist_ok=True)
        (buckets / key).write_text("picture")
    (buckets / "src-data" / "1.csv").write_text("first_name, last_name, birthts\nAda, King, 612302400000\n")
    (buckets / "empty").mkdir()
    assert run.status("/data", "POST") in (200, 409)
    wait_until(lambda: run.status("/data/1") == 200, timeout_s=30, what="the user")
    link = find_link(read_variables(runs.directory / "env")["ROLLCALL_URL"])
    assert urllib3.request("GET", link).data == b"picture"
    held = read_held_key(run.started()["get-data"].environ())
    assert held.endpoint == f"http://{urlsplit(link).netloc}"
    want = sorted((path, path.is_file() and path.read_bytes()) for path in buckets.rglob("*"))

    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        assert {name: attempt(act, held.client(pool)) for name, (act, _) in ATTEMPTS.items()} == {
            name: result for name, (_, result) in ATTEMPTS.items()
        }
        assert sorted((path, path.is_file() and path.read_bytes()) for path in buckets.rglob("*")) == want
        everything = read_variables(runs.directory / "env")["MINIO_ENDPOINT"]
        elsewhere = replace(held, endpoint=everything).client(pool)
        assert {attempt(act, elsewhere) for act, _ in ATTEMPTS.values()} == {None}


@dataclass(frozen=True)
class Held:
    """The key of a process, and the store it is told to use."""

    endpoint: str
    access: str
    secret: str

    def client(self, pool: urllib3.PoolManager) -> Minio:
        return Minio(
            endpoint=urlsplit(self.endpoint).netloc,
            access_key=self.access,
            secret_key=self.secret,
            secure=False,
            region="us-east-1",
            http_client=pool,
        )


def read_held_key(env: Mapping[str, str]) -> Held:
    return Held(env["MINIO_ENDPOINT"], env["MINIO_ACCESS_KEY"], env["MINIO_SECRET_KEY"])


def find_link(url: str) -> str:
    answer = urllib3.request("GET", f"{url}/data/1/image", redirect=False)
    assert answer.status == 302, answer.data
    return answer.headers["Location"]


def attempt(act: Callable[[Minio], object], client: Minio) -> object:
    """Return what it gives; None when the store refuses, in whatever way."""
    try:
        return act(client)
    except (MinioException, urllib3.exceptions.HTTPError, ValueError):
        return None


def read(client: Minio, bucket: str, key: str) -> bytes:
    return client.get_object(bucket_name=bucket, object_name=key).data


def write(client: Minio, key: str, size: int = 1) -> object:
    data = io.BytesIO(b"x" * size)
    return client.put_object(
        bucket_name="src-data", object_name=key, data=data, length=-1, part_size=PART_SIZE
    )


def check_removed(errors: list[DeleteError]) -> str:
    if errors:
        raise ValueError(errors)
    return "removed"


def test_no_secret_is_in_a_command_line_and_stack_chooses_who_is_asked(runs: Runs, tmp_path: Path):
    """Every account of the machine can read those; looked at from the start on, set-up included."""
    token = "a-token-of-tests"
    run = runs.start(API_TOKEN=token)
    seen: set[str] = set()

    def is_ready() -> bool:
        for process in psutil.Process(run.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                seen.add(" ".join(process.cmdline()))
        return "Ctrl-C stops it" in run.said() or run.process.poll() is not None

    wait_until(is_ready, timeout_s=START_S, what="ready")
    (tmp_path / "1.csv").write_text("first_name, last_name, birthts\nAda, King, 612302400000\n")
    for command in (["upload", f"DIR={tmp_path}"], ["process"]):
        made = subprocess.run(
            ["make", *command, f"VENV={sys.prefix}", f"ENV_FILE={tmp_path / 'none'}"],
            cwd=REPOSITORY,
            env=runs.environment(STACK="run"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
    assert "1 user stored" in made.stdout
    assert any("rollcall.setup" in line for line in seen)
    secrets = {*read_variables(runs.directory / "secrets").values(), token}
    assert [line for line in seen if any(secret in line for secret in secrets)] == []
    assert run.stop() == 0


def test_what_dies_is_started_again(runs: Runs):
    run = runs.ready()
    before = run.started()
    kill_all(before.values())

    def all_again() -> bool:
        now = run.started()
        return now.keys() == NAMES and all(now[name].pid != before[name].pid for name in NAMES)

    wait_until(all_again, timeout_s=60, what="new processes")
    wait_until(lambda: run.status("/data") == 200, timeout_s=60, what="an answer")
    wait_until(lambda: run.status("/data", "POST") in (200, 409), timeout_s=60, what="a run")
    for name in NAMES:
        assert f"{name:<14}ended (SIGKILL), starts again in 0.5 s" in run.said()
    assert run.stop(signal.SIGTERM) == 0


def test_what_a_killed_run_left_is_ended_by_the_next_which_goes_on_with_the_data(runs: Runs):
    run = runs.ready()
    bucket = runs.directory / "buckets" / "src-data"
    (bucket / "2000.csv").write_text("first_name, last_name, birthts\nAda, King, 612302400000\n")
    assert run.status("/data", "POST") in (200, 409)
    wait_until(lambda: run.status("/data/2000") == 200, timeout_s=30, what="the user")
    left = run.started()
    run.process.kill()
    run.process.wait()
    again = runs.ready()
    assert again.said().startswith("ended what the last run left behind: ")
    assert gone(left)
    assert again.status("/data/2000") == 200


def test_everything_killed_at_once_is_no_obstacle(runs: Runs):
    run = runs.ready()
    kill_all([psutil.Process(run.process.pid), *run.started().values()])
    run.process.wait()
    again = runs.ready()
    assert again.status("/data") == 200


def test_a_second_run_in_the_same_directory_says_that_there_is_one(runs: Runs):
    run = runs.ready()
    second = runs.start()
    assert second.process.wait(30) == 1
    assert second.said() == (
        f"make run is already at work in {runs.directory} (process {run.process.pid}): "
        "stop that one, or set RUN_DIR to have two\n"
    )
    assert run.status("/healthz") == 200


@pytest.mark.parametrize(
    ("place", "want"),
    [
        ("file", "{}: Not a directory. Set RUN_DIR to a directory of yours, new or empty\n"),
        ("file/run", "{}: Not a directory. Set RUN_DIR to a directory of yours, new or empty\n"),
        (
            "full",
            "{} holds files that make run did not make. Set RUN_DIR to a directory of yours, new or empty\n",
        ),
    ],
)
def test_a_directory_that_cannot_be_used_is_named(runs: Runs, tmp_path: Path, place: str, want: str):
    """Nor is one used that holds anything of somebody else: make clean would remove it."""
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    run = runs.start(RUN_DIR=str(tmp_path / place))
    assert run.process.wait(30) == 1
    assert run.said() == want.format(tmp_path / place)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["letter"]


def test_each_taken_port_is_named_with_its_variable(runs: Runs):
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [listener.getsockname()[1] for listener in (first, second)]
        run = runs.start(GATEWAY_PORT=str(ports[0]), MINIO_PORT=str(ports[1]))
        assert run.process.wait(30) == 1
    assert run.said() == (
        f"Taken by another program: port {ports[0]} (GATEWAY_PORT), {ports[1]} (MINIO_PORT). "
        "For any free one: make run GATEWAY_PORT=0 MINIO_PORT=0\n"
    )


def test_a_taken_second_port_is_only_a_remark(runs: Runs):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        run = runs.ready(GATEWAY_PORT_2=str(port))
    assert f"gateway       port {port} is taken, so only " in run.said()


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"GATEWAY_PORT": "web", "SAMPLE_DATA": "yes"}, ["GATEWAY_PORT is 'web'", "SAMPLE_DATA is 'yes'"]),
        (
            {"PROCESS_INTERVAL_S": "often", "ON_SOURCE_DELETE": "maybe"},
            ["PROCESS_INTERVAL_S is 'often'", "ON_SOURCE_DELETE is 'maybe'"],
        ),
    ],
)
def test_a_wrong_setting_is_named(runs: Runs, settings: dict[str, str], want: list[str]):
    run = runs.start(**settings)
    assert run.process.wait(START_S) == 1
    for text in want:
        assert text in run.said()
    if (runs.directory / "processes.json").exists():
        assert run.started() == {}


def test_it_stops_while_it_starts(runs: Runs):
    run = runs.start()
    run.wait_said("starts in")
    assert run.stop() == 0
    assert run.started() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="for root, whose PostgreSQL runs as another account")
def test_root_can_run_it_where_nobody_else_may_look(runs: Runs):
    runs.directory.parent.chmod(0o700)
    run = runs.ready()
    refuge = (runs.directory / "postgres").resolve()
    assert str(refuge) in run.said()
    assert run.status("/data") == 200
    assert run.stop() == 0
    assert runs.directory.parent.stat().st_mode & 0o077 == 0
    runs.end()
    assert not refuge.exists()
