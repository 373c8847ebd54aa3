"""What loads servers, in processes of its own: wrk for HTTP, pgbench for Postgres; and hello worlds."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rig import AS_IN_IMAGES, FUNCTIONS, Database, Function, run_function

from rollcall.servers import packaged_programs

CONNECTIONS = 16  # as many as threads answer
WRKS = 2  # processes that they come from
APART_S = 0.1
SECONDS = 2
HELLO_SAYS = b"Hello, world!"
HELLO = """
import functions_framework


@functions_framework.http
def hello(request):
    return "Hello, world!"
"""
# What is left of get-data when it only runs its statements, and neither checks a request nor makes an answer.
ASKING = """
import os
from datetime import UTC, datetime

import functions_framework

from get_data import users
from get_data.filters import parse_filter
from get_data.settings import Settings
from serving.pool import Pool
from serving.postgres import Connection

SETTINGS = Settings.from_env(os.environ)
POOL = Pool(lambda: Connection(SETTINGS.postgres, application_name="asking"), size=8)


@functions_framework.http
def hello(request):
    match request.path.split("/")[1:]:
        case ["version"]:
            found = users.fetch_version(POOL)
        case ["page"]:
            asked = parse_filter(request.query_string)
            found = users.fetch_page(POOL, asked, datetime.now(UTC).date()).text
        case ["user", user_id]:
            found = users.fetch_user(POOL, user_id)[1]
        case ["healthz"]:
            found = True
        case _:
            found = False
    return "Hello, world!" if found else ("nothing found", 404)
"""


def make_hello(home: Path, text: str = HELLO) -> Path:
    """Write down a function named hello; returns the folder that its own folder is in."""
    folder = home / "source" / "hello"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(text)
    return folder.parent


@contextmanager
def run_hello(home: Path) -> Iterator[Function]:
    """Run the framework's own hello world, served as our functions are."""
    with run_function("hello", AS_IN_IMAGES, home=home, source=make_hello(home)) as function:
        yield function


@contextmanager
def run_asking(home: Path, env: Mapping[str, str]) -> Iterator[Function]:
    """Run a hello world that asks Postgres first: /version, /user/<user_id> or /page with a filter."""
    paths = os.pathsep.join((str(FUNCTIONS), str(FUNCTIONS / "get-data")))
    env = {**env, **AS_IN_IMAGES, "PYTHONPATH": paths}
    with run_function("hello", env, home=home, source=make_hello(home, ASKING)) as function:
        yield function


def count_answers(function: Function, target: str = "/", *, tag: str | None = None) -> float:
    """Return how many good answers a second there are for a target; with a tag, by If-None-Match.

    Half of the connections open a moment after the others: when all of them open at once, chance often has
    one worker take every one, while the other has nothing to do.
    """
    wrk = shutil.which("wrk")
    assert wrk, "this is measured with wrk: apt-get install wrk, or brew install wrk"
    command = [wrk, "-t1", f"-c{CONNECTIONS // WRKS}", f"-d{SECONDS}s"]
    command += ["-H", f"If-None-Match: {tag}"] if tag else []
    with ThreadPoolExecutor(WRKS) as threads:
        started, begun = time.perf_counter(), []
        for _ in range(WRKS):
            begun.append(threads.submit(run, [*command, function.url + target], {}))
            time.sleep(APART_S)
        said = [client.result() for client in begun]
        taken = time.perf_counter() - started
    return sum(map(find_answers, said)) / taken


def find_answers(said: str) -> int:
    """Return how many answers wrk got, all of them good."""
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    return int(find(r"(\d+) requests in ", said))


def count_transactions(database: Database, sql: str, home: Path, *, clients: int) -> float:
    """Return how often a second this many sessions get a statement's rows, prepared once by each."""
    script = home / "statement.sql"
    script.write_text(sql)
    command = [str(packaged_programs() / "bin" / "pgbench"), "--no-vacuum", "--protocol=prepared"]
    options = [f"--client={clients}", "--jobs=2", f"--time={SECONDS}", f"--file={script}"]
    return float(find(r"tps = ([\d.]+)", run([*command, *options], database.env("get_data"))))


def run(command: list[str], env: dict[str, str]) -> str:
    """Return what a program said."""
    env = {"PATH": os.defpath, "LC_ALL": "C", **env}
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True).stdout


def find(pattern: str, said: str) -> str:
    """Return a pattern's group."""
    found = re.search(pattern, said)
    assert found, said
    return found[1]
