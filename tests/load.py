"""What loads servers, in processes of its own: wrk for HTTP, pgbench for Postgres; and a hello world."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rig import AS_IN_IMAGES, Database, Function, run_function

from rollcall.servers import packaged_programs

CONNECTIONS = 16  # as many as threads answer
SECONDS = 2
HELLO = """
import functions_framework


@functions_framework.http
def hello(request):
    return "Hello, world!"
"""


@contextmanager
def run_hello(home: Path) -> Iterator[Function]:
    """Run the framework's own hello world, served as our functions are."""
    folder = home / "source" / "hello"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(HELLO)
    with run_function("hello", AS_IN_IMAGES, home=home, source=folder.parent) as function:
        yield function


def count_answers(function: Function, target: str = "/", *, tag: str | None = None) -> float:
    """Return how many good answers a second there are for a target; with a tag, by If-None-Match."""
    wrk = shutil.which("wrk")
    assert wrk, "this is measured with wrk: apt-get install wrk, or brew install wrk"
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s"]
    command += ["-H", f"If-None-Match: {tag}"] if tag else []
    said = run([*command, function.url + target], {})
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    return float(find(r"Requests/sec: +([\d.]+)", said))


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
