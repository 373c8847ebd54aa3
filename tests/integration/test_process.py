"""`make process` as a process: on a function with a database and a store, in a terminal and in none."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import IO

import pytest
from pipeline import to_csv
from rig import REPOSITORY, Bucket, Database, Function, StartFunction, Store, run_going_on

from rollcall.ports import HOST, choose_port
from rollcall.processes import wait_until

PYTHONPATH = os.pathsep.join(str(REPOSITORY / folder) for folder in ("local", "functions"))
COMMAND = [sys.executable, "-m", "rollcall.process"]
TIMEOUT_S = 60


@dataclass
class Ended:
    """How `make process` ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass
class Started:
    """`make process` at work."""

    process: subprocess.Popen[str]
    out: IO[str]
    err: IO[str]


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": PYTHONPATH, "TERM": "xterm", "COLUMNS": "160", **settings}


def process(url: str, **settings: str) -> Ended:
    done = subprocess.run(
        COMMAND,
        env=environment(ROLLCALL_URL=url, **settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(url: str) -> Iterator[Started]:
    """A process that is not waited for; it ends with the block."""
    with subprocess.Popen(
        COMMAND,
        env=environment(ROLLCALL_URL=url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as popen:
        assert popen.stdout
        assert popen.stderr
        try:
            yield Started(popen, popen.stdout, popen.stderr)
        finally:
            popen.kill()


class Terminal:
    """A process that believes it is watched."""

    def __init__(self, url: str, **settings: str) -> None:
        self._reader, writer = pty.openpty()
        self.text = ""
        self._is_left = False
        try:
            self.process = subprocess.Popen(
                COMMAND, env=environment(ROLLCALL_URL=url, **settings), stdout=writer, stderr=writer
            )
        finally:
            os.close(writer)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._reader)

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self._read(), timeout_s=TIMEOUT_S, what=text)

    def wait(self) -> int:
        def has_ended() -> bool:
            self._read()  # or it waits for somebody to read
            return self._is_left

        wait_until(has_ended, timeout_s=TIMEOUT_S, what="the end")
        return self.process.wait(TIMEOUT_S)

    def _read(self) -> str:
        if not self._is_left and select.select([self._reader], [], [], 0.05)[0]:
            try:
                self.text += os.read(self._reader, 65536).decode(errors="replace")
            except OSError:  # what a terminal says that no process has open any more
                self._is_left = True
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)


@pytest.fixture
def function(bucket: Bucket, database: Database, start_function: StartFunction) -> Function:
    return start_function("process-users", {**database.env("process_users"), **bucket.env})


def put(bucket: Bucket, key: str, content: bytes) -> None:
    bucket.store.client().put_object(
        bucket_name=bucket.source, object_name=key, data=BytesIO(content), length=len(content)
    )


def test_it_says_what_came_of_the_run(function: Function, bucket: Bucket):
    put(bucket, "1.csv", to_csv("Ada"))
    put(bucket, "2.csv", b"nothing\n")
    put(bucket, f"{'x' * 129}.csv", to_csv())
    done = process(function.url)
    lines = done.out.splitlines()
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(
        r"run 1: 3 files, 0 of them unchanged, 1 user stored, 0 removed; \d+\.\d s", lines[-5]
    )
    assert lines[-4:] == [
        f"{bucket.output}/output.csv has 1 user",
        "2 files rejected:",
        f"  {'2.csv':<40}  row_count: wanted a header and exactly one row, found 0 rows",
        f"  {'x' * 35}….csv  key_invalid: the user id has 129 characters, at most 128 are accepted",
    ]
    assert "\x1b" not in done.out


def test_a_dry_run_changes_nothing(function: Function, bucket: Bucket, database: Database):
    put(bucket, "1.csv", to_csv())
    done = process(function.url, QUERY="dry_run=true")
    assert done.status == 0
    assert done.out.startswith("dry run, nothing was changed: 1 file, ")
    assert database.run("select count(*) from users") == [[0]]


def test_a_terminal_shows_a_bar_and_colours(function: Function, bucket: Bucket):
    put(bucket, "1.csv", to_csv())
    with closing(Terminal(function.url)) as terminal:
        assert terminal.wait() == 0
        assert "━" in terminal.text
        assert "\x1b[1;32mrun 1:" in terminal.text


def test_a_terminal_shows_the_run_going_on_before_the_one_asked_for(
    function: Function, bucket: Bucket, database: Database
):
    """With its counts, and how far it is of what the last run met."""
    put(bucket, "1.csv", to_csv())
    database.run("insert into runs (state, pid, ended_at, listed) values ('ok', 1, now(), 200)")
    with ExitStack() as stack:
        with run_going_on(database, listed=50, upserted=3):
            terminal = stack.enter_context(closing(Terminal(function.url)))
            terminal.wait_for("run 2 is going on already; the one that was asked for comes after it")
            terminal.wait_for("25%")
            terminal.wait_for("50 files, 3 users stored")
            assert terminal.process.poll() is None
        assert terminal.wait() == 0
        assert "run 3:" in terminal.text


def test_without_a_terminal_it_is_told_in_lines(function: Function, database: Database):
    with ExitStack() as stack:
        with run_going_on(database, listed=1_200, upserted=3):
            made = stack.enter_context(started(function.url))
            said = [made.out.readline() for _ in range(2)]
        said += made.out.readlines()
        assert made.process.wait(TIMEOUT_S) == 0
    assert said[:3] == [
        "run 1 is going on already; the one that was asked for comes after it\n",
        "run 1: 1,200 files, 3 users stored\n",
        "run 1: ok\n",
    ]
    assert said[-2].startswith("run 2: 0 files, ")


def test_ctrl_c_leaves_the_run_alone(function: Function, database: Database):
    with run_going_on(database, listed=5, upserted=3), started(function.url) as made:
        made.out.readline()
        made.process.send_signal(signal.SIGINT)
        assert made.process.wait(TIMEOUT_S) == 130
        assert made.err.read() == "not waited for any longer: a run that has begun goes on by itself\n"


@pytest.mark.parametrize(
    ("settings", "status", "want"),
    [
        (
            {"QUERY": "full=perhaps"},
            2,
            "QUERY is not accepted: full is 'perhaps'; accepted is True or False\n",
        ),
        ({"QUERY": "all=true"}, 2, "QUERY is not accepted: 'all' is no parameter here; accepted: "),
        ({"API_TOKEN": "wrong"}, 2, "the token is missing or wrong: API_TOKEN=... make process\n"),
    ],
)
def test_what_was_asked_for_wrongly_is_named(
    database: Database, start_function: StartFunction, settings: dict[str, str], status: int, want: str
):
    function = start_function("process-users", {**database.env("process_users"), "API_TOKEN": "right"})
    done = process(function.url, **{"API_TOKEN": "right", **settings})
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(want)


def test_a_failed_run_says_why(database: Database, start_function: StartFunction):
    """Here the store is away."""
    function = start_function("process-users", database.env("process_users"))
    done = process(function.url)
    assert done.status == 1
    assert done.err.startswith("the run failed (store_unavailable): ")
    assert done.err.count("\n") == 1


def test_nobody_answers(tmp_path: Path):
    url = f"http://{HOST}:{choose_port()}"
    done = process(url)
    assert (done.status, done.out, done.err) == (
        3,
        "",
        f"{url} does not answer: [Errno 111] Connection refused\n",
    )
    nowhere = {"RUN_DIR": str(tmp_path), "ENV_FILE": str(tmp_path / ".env")}
    for settings, want in (
        ({}, "nothing answers: make run or make local-up first\n"),
        ({"STACK": "compose"}, "nothing answers: make local-up first\n"),
        ({"STACK": "cloud"}, "STACK is 'cloud', wanted run or compose\n"),
    ):
        done = process("", **nowhere, **settings)
        assert (done.status, done.out, done.err) == (3, "", want)
    (tmp_path / "env").write_text(f"ROLLCALL_URL={url}\n")
    done = process("", **nowhere)
    assert done.err == f"nothing answers: make run or make local-up first (tried {url})\n"


def test_what_is_not_rollcall_is_told_apart(store: Store):
    done = process(store.endpoint)
    assert done.status == 3
    assert done.err.startswith(f"what answers at {store.endpoint} is not Rollcall (status ")


class Hostile(BaseHTTPRequestHandler):
    """Somebody who answers as Rollcall does, with what a terminal would obey in every text."""

    text = "\x1b]0;owned\x07[red]x[/red]\u202e"

    def answer(self) -> None:
        known = {"run_id": 1, "listed": 1, "upserted": 0, "removed": 0, "error": self.text}
        run = {**known, "state": "running" if self.path.startswith("/runs?") else f"failed {self.text}"}
        report = {
            "run_id": 2,
            "state": "ok",
            "listed": 1,
            "unchanged": 0,
            "upserted": 0,
            "removed": 0,
            "seconds": 0.1,
            "output": {"bucket": self.text, "key": "output.csv", "rows": 0},
            "rejected": 1,
            "rejects": [{"key": self.text, "reason": self.text, "detail": self.text}],
        }
        document = report if self.command == "POST" else run if "?" not in self.path else {"runs": [run]}
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815 (names that the base class calls)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Say nothing."""


@pytest.mark.parametrize("is_watched", [True, False], ids=["in a terminal", "without one"])
def test_nothing_that_is_answered_steers_a_terminal_or_is_taken_for_markup(is_watched: bool):
    with ThreadingHTTPServer((HOST, 0), Hostile) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://{HOST}:{server.server_port}"
        try:
            if is_watched:
                with closing(Terminal(url)) as terminal:
                    assert terminal.wait() == 0
                    text = terminal.text
            else:
                text = process(url).out
        finally:
            server.shutdown()
    shown = r"\x1b]0;owned\x07[red]x[/red]\u202e"
    assert f"run 1: failed {shown} ({shown})" in text
    assert f"{shown}/output.csv has 0 users" in text
    assert re.search(rf"{re.escape(shown)}(\x1b\[0m)? +{re.escape(shown)}: {re.escape(shown)}", text)
    assert "\x1b]" not in text
    assert not set("\x07\u202e") & set(text)


def test_an_address_with_credentials_is_refused_without_showing_them():
    done = process("http://user:s3cret@127.0.0.1:9")
    assert (done.status, done.out) == (2, "")
    assert done.err == "ROLLCALL_URL has credentials in it: set API_TOKEN instead\n"


@pytest.mark.parametrize("url", ["http://[", "127.0.0.1:8080", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_named(url: str):
    done = process(url)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"ROLLCALL_URL is {url!r}, wanted an address such as http://127.0.0.1:8080\n"
