"""get-data under the framework's own server: long answers, clients that stop or leave, failures half-way."""

import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from http.client import HTTPConnection, HTTPResponse, IncompleteRead

import pytest
from rig import FUNCTIONS, Database, Function, StartFunction

from get_data.filters import parse_filter
from get_data.formats import JSON
from get_data.queries import Statement, build_export, build_look, build_rare_page
from get_data.users import fetch_page_within
from rollcall.ports import HOST
from rollcall.processes import wait_until
from rollcall.servers import http_status, script
from serving.postgres import Connection
from serving.prepared import COLUMN_BYTES

USERS = 20_000  # of 1 kB each: more than all buffers on the way hold
LONG = "x" * 900


@pytest.fixture
def database(database: Database) -> Database:
    """A database with more users than fit into the buffers between server and client."""
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate)
        select 100000 + n, :long, 'Last' || n, to_timestamp(n)
        from generate_series(1, cast(:count as integer)) as n
        """,
        long=LONG,
        count=USERS,
    )
    return database


@pytest.fixture
def function(database: Database, start_function: StartFunction) -> Function:
    return start_function("get-data", {**database.env("get_data"), "THREADS": "4"})


def ask(function: Function, target: str = "/data", *, version: str = "1.1") -> socket.socket:
    """Send a request and return the socket unread; it takes in as little as possible."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect((HOST, function.port))
    client.sendall(f"GET {target} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
    return client


@pytest.mark.parametrize(
    "query", ["", "is_image_exists=True", "is_image_exists=False", "min_age=18", "max_age=99"]
)
def test_nobody_waits_for_a_sort_of_the_many_who_match(database: Database, query: str):
    assert not any("Sort" in line for line in explain_export(database, query, are_many=True))


@pytest.mark.parametrize("query", ["is_image_exists=True", "max_age=30", "min_age=60&is_image_exists=True"])
def test_a_few_who_match_are_not_walked_to_through_everybody(
    database: Database, monkeypatch: pytest.MonkeyPatch, query: str
):
    """All were born in the first hours of 1970, but for ten."""
    asked, today = parse_filter(query.encode()), datetime.now(UTC).date()
    database.run("update users set birthdate = '2000-01-01', img_path = 'b/x.png' where id % 2000 = 1")
    database.run("update users set birthdate = '1950-01-01' where id = 1")
    for bound, are_many in (("5000", False), ("0", True)):
        monkeypatch.setattr("get_data.queries.RARE", bound)
        with closing(database.connect("get_data")) as connection:
            look = build_look(asked, today)
            assert connection.run(look.sql, **look.parameters) == [[are_many]]
    assert any("Sort" in line for line in explain_export(database, query, are_many=False))


def explain_export(database: Database, query: str, *, are_many: bool) -> list[str]:
    if are_many:
        database.run("update users set img_path = 'b/' || user_id || '.png' where id % 2 = 0")
    asked, today = parse_filter(query.encode()), datetime.now(UTC).date()
    return explain(database, build_export(asked, today, JSON, are_many=are_many))


@pytest.mark.parametrize(
    ("first", "count"), [(0, USERS), (5_000, 3_000), (15_000, 3_000), (5_000, 3), (19_999, 1)]
)
@pytest.mark.parametrize("limit", [1, 2, 3_000])
def test_a_page_is_the_same_wherever_those_are_who_match(
    database: Database, first: int, count: int, limit: int
):
    """Near enough to be walked to, or not; and many or few."""
    database.run(
        "update users set birthdate = '2000-01-01' where id > :first and id <= :last",
        first=first,
        last=first + count,
    )
    asked = replace(parse_filter(b"max_age=30&min_age=20"), limit=limit)
    with closing(Connection(database.settings, application_name="test")) as connection:
        page = fetch_page_within(connection, asked, date(2026, 1, 1), JSON)
    ids = [str(100_001 + place) for place in range(first, first + min(count, limit))]
    assert list(json.loads(b"{%b}" % page.text)) == ids
    assert page.last == (ids[-1] if count > limit else None)


def test_a_few_without_a_picture_are_not_looked_for_among_all_of_their_age(database: Database):
    database.run("update users set img_path = 'b/' || user_id || '.png' where id % 200 <> 0")
    asked, today = parse_filter(b"min_age=50&is_image_exists=False&limit=10"), datetime.now(UTC).date()
    plan = "\n".join(explain(database, build_rare_page(asked, today, JSON)))
    assert re.search(r"Scan .*users_without_picture.*\n *Index Cond: \(birthdate < ", plan), plan


def explain(database: Database, statement: Statement) -> list[str]:
    database.run("vacuum analyze users")
    with closing(database.connect("get_data")) as connection:
        plan = connection.run(f"explain {statement.sql}", **statement.parameters) or []
    return [line for (line,) in plan]


@contextmanager
def asking(function: Function, target: str = "/data") -> Iterator[tuple[socket.socket, HTTPResponse]]:
    """Ask and read the head of the answer: the export has begun, and waits for its client."""
    with closing(ask(function, target)) as client, closing(HTTPResponse(client)) as response:
        response.begin()
        yield client, response


def get(function: Function, target: str) -> tuple[int, dict[str, str], bytes]:
    with closing(HTTPConnection(HOST, function.port, timeout=60)) as connection:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()


def sessions(database: Database, state: str) -> int:
    rows = database.run(
        """
        select count(*)
        from pg_stat_activity
        where usename = 'rollcall_get_data' and datname = current_database() and state = :state
        """,
        state=state,
    )
    return rows[0][0]


def wait_for_sessions(database: Database, count: int, *, timeout_s: float = 10) -> None:
    """Wait until this many exports hold a session, and all other sessions are idle."""
    wait_until(
        lambda: sessions(database, "idle in transaction") == count and sessions(database, "active") == 0,
        timeout_s=timeout_s,
        what=f"{count} exports",
    )


def events(function: Function, name: str) -> list[dict]:
    # What is no JSON is the server's own, on stderr.
    lines = [line for line in function.log.read_text().splitlines() if line.startswith("{")]
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_an_export_is_streamed_whole(function: Function):
    status, headers, body = get(function, "/data")
    assert (status, headers["Transfer-Encoding"], "Content-Length" in headers) == (200, "chunked", False)
    assert list(json.loads(body)) == [str(100_000 + n) for n in range(1, USERS + 1)]
    assert body.count(b"\n") == USERS


def test_an_export_is_of_one_moment(function: Function, database: Database):
    """What is changed, removed and added meanwhile is not in it."""
    with asking(function) as (_, response):
        database.run("delete from users where user_id > '115000'")
        database.run("update users set first_name = 'changed'")
        database.run(
            "insert into users (user_id, first_name, last_name, birthdate) values ('9', 'a', 'b', now())"
        )
        got = json.loads(response.read())
    assert list(got) == [str(100_000 + n) for n in range(1, USERS + 1)]
    assert {user["first_name"] for user in got.values()} == {LONG}
    assert len(json.loads(get(function, "/data")[2])) == 15_001


def test_a_failure_half_way_breaks_the_answer_off(function: Function, database: Database):
    with asking(function) as (_, response):
        wait_for_sessions(database, 1)
        database.run(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rollcall_get_data'"
        )
        with pytest.raises((IncompleteRead, ConnectionResetError)):
            response.read()
    wait_until(lambda: bool(events(function, "export.cut")), timeout_s=10, what="the log")
    assert events(function, "export.cut")[0]["error"] == "DatabaseUnavailableError"
    assert get(function, "/data")[0] == 200
    wait_for_sessions(database, 0)


def test_who_leaves_half_way_leaves_nothing_behind(function: Function, database: Database):
    for _ in range(4):
        with asking(function):
            wait_for_sessions(database, 1)
        wait_for_sessions(database, 0)
    assert get(function, "/data")[0] == 200
    assert len(events(function, "export.abandoned")) == 4


def test_who_leaves_before_the_first_byte_leaves_nothing_behind(function: Function, database: Database):
    """More often than there are places for exports and threads."""
    for _ in range(20):
        client = ask(function)
        # A reset, at once: the answer meets a connection that is no more.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    # The last of them may only be begun when all others are done.
    for _ in range(4):
        wait_until(lambda: get(function, "/data")[0] == 200, timeout_s=20, what="an export")
    wait_for_sessions(database, 0)


def test_exports_leave_half_of_the_threads_to_others(function: Function, database: Database):
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(asking(function))
        wait_for_sessions(database, 2)
        status, headers, body = get(function, "/data")
        assert (status, headers["Retry-After"]) == (503, "5")
        assert json.loads(body)["code"] == "exports_busy"
        assert http_status(function.port, "/healthz") == 200
        assert get(function, "/data?limit=5")[0] == 200
        assert get(function, "/data?after=119950")[0] == 200  # 50 users: no export
        assert get(function, "/data?limit=5000")[0] == 503  # refused before it is made
        assert get(function, "/data?after=119500")[0] == 503  # 500 users have 500 kB
        assert get(function, "/data/100001")[0] == 200
    wait_for_sessions(database, 0)
    assert get(function, "/data")[0] == 200


def test_an_export_ends_when_its_time_is_up(database: Database, start_function: StartFunction):
    """However busily the client drips."""
    function = start_function("get-data", {**database.env("get_data"), "EXPORT_MAX_S": "1"})
    with asking(function) as (client, _):
        received = drip(client, until=lambda: bool(events(function, "export.cut")))
    assert events(function, "export.cut")[0]["error"] == "ExportTimeoutError"
    assert b"\r\n0\r\n\r\n" not in received
    wait_for_sessions(database, 0)


def drip(client: socket.socket, *, until: Callable[[], bool]) -> bytes:
    """Read slowly until something has happened, then all that is left."""
    received = []

    def read() -> bool:
        received.append(client.recv(2048))
        return until()

    wait_until(read, timeout_s=30, what="the export to be cut")
    while part := client.recv(1 << 20):
        received.append(part)
    return b"".join(received)


def test_who_stops_reading_is_let_go_after_30_seconds(function: Function, database: Database):
    with asking(function), asking(function, "/data?limit=10000"):
        wait_for_sessions(database, 1)
        wait_for_sessions(database, 0, timeout_s=45)
        # The page held no session, but a thread.
        wait_until(lambda: len(long_requests(function)) == 2, timeout_s=45, what="both to be let go")
    assert all(event["ms"] < 40_000 for event in long_requests(function))
    assert get(function, "/data")[0] == 200


def long_requests(function: Function) -> list[dict]:
    return [event for event in events(function, "request") if event["ms"] > 29_000]


def test_a_connection_is_kept_after_an_export(function: Function):
    with closing(HTTPConnection(HOST, function.port, timeout=60)) as connection:
        for target in ("/data", "/data?limit=2", "/data", "/healthz"):
            connection.request("GET", target)
            response = connection.getresponse()
            response.read()
            assert (response.status, response.will_close) == (200, False)


@pytest.mark.parametrize(
    ("target", "status"), [("/data", 505), ("/data?after=119500", 200), ("/data?limit=9", 200)]
)
def test_only_what_is_whole_is_sent_to_http_1_0(
    function: Function, database: Database, target: str, status: int
):
    with closing(ask(function, target, version="1.0")) as client, closing(HTTPResponse(client)) as response:
        response.begin()
        assert response.status == status
        assert ("http_version" in json.loads(response.read()).values()) == (status == 505)
    wait_for_sessions(database, 0)


@pytest.mark.parametrize(("via", "status"), [("1.0 Caddy", 505), ("1.1 a, 1.0 b", 505), ("1.1 Caddy", 200)])
def test_http_1_0_is_seen_through_a_gateway(function: Function, via: str, status: int):
    with closing(HTTPConnection(HOST, function.port, timeout=60)) as connection:
        connection.request("GET", "/data", headers={"Via": via})
        response = connection.getresponse()
        response.read()
        assert response.status == status


def test_head_of_an_export_has_no_body_and_no_length(function: Function, database: Database):
    with closing(HTTPConnection(HOST, function.port, timeout=60)) as connection:
        connection.request("HEAD", "/data")
        head = connection.getresponse()
        assert (head.status, head.read(), head.headers["Content-Length"]) == (200, b"", None)
        connection.request("GET", "/data")
        get = connection.getresponse()
        assert (get.status, get.headers["ETag"]) == (200, head.headers["ETag"])
        get.read()


def test_wrong_settings_are_all_told_at_once():
    # Fails at import, so nothing is ever listened on.
    env = {
        "PATH": os.defpath,
        "PYTHONPATH": str(FUNCTIONS),
        "PGPORT": "http",
        "PGSSLMODE": "maybe",
        "EXPORT_MAX_S": "0",
        "LOG_LEVEL": "loud",
    }
    command = [script("functions-framework"), "--target", "get_data", "--source", "main.py", "--port", "0"]
    ended = subprocess.run(
        command, cwd=FUNCTIONS / "get-data", env=env, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode != 0
    assert ended.stderr == (
        "get-data: settings are wrong:\n"
        "  MINIO_ENDPOINT is not set\n"
        "  MINIO_ACCESS_KEY is not set\n"
        "  MINIO_SECRET_KEY is not set\n"
        "  LOG_LEVEL is 'loud', wanted debug or info or warning or error\n"
        "  PGHOST is not set\n"
        "  PGPORT is 'http', wanted a whole number from 1 to 65535\n"
        "  PGUSER is not set\n"
        "  PGDATABASE is not set\n"
        "  PGSSLMODE is 'maybe', wanted disable or prefer or require or verify-full\n"
        "  EXPORT_MAX_S is '0', wanted a whole number from 1 to 86400\n"
    )


def test_logs_name_no_user(function: Function):
    get(function, "/data/100001")
    get(function, "/data?after=100001&limit=1")
    get(function, "/data?after=100001&limit=x")
    wait_until(lambda: len(events(function, "request")) >= 4, timeout_s=10, what="the log")
    log = function.log.read_text()
    assert "100001" not in log
    assert "/data/<user_id>" in log


def test_an_export_goes_on_when_a_setting_of_the_server_changes_meanwhile(database: Database):
    """The server then says so in between, where otherwise nothing but the end of the rows comes."""
    reading = Connection(database.settings, application_name="export")
    owner, numbers = database.connect(), 0
    try:
        with reading.transaction(snapshot=True):
            for column in reading.read_column("select n::text from generate_series(1, 10000) n", 2_000):
                if not numbers:
                    owner.run("set default_transaction_read_only = off")
                    owner.run("alter system set default_transaction_read_only = on")
                    owner.run("select pg_reload_conf()")
                    wait_until(
                        lambda: database.run("show default_transaction_read_only") == [["on"]],
                        timeout_s=10,
                        what="the setting",
                    )
                numbers += len(column.split())
    finally:
        owner.run("alter system reset default_transaction_read_only")
        owner.run("select pg_reload_conf()")
        owner.close()
        reading.close()
    assert numbers == 10_000


def test_an_export_goes_on_when_its_session_does_something_else_meanwhile(database: Database):
    numbers, reading = 0, Connection(database.settings, application_name="export")
    with closing(reading), reading.transaction(snapshot=True):
        for column in reading.read_column("select n::text from generate_series(1, 10000) n", 2_000):
            assert reading.run("select 1") == reading.run_prepared("select 1") == [[1]]
            numbers += len(column.split())
    assert numbers == 10_000


def test_text_is_utf_8_whatever_the_database_is_set_to(database: Database):
    name = database.settings.database
    database.run(f"alter database {name} set client_encoding = 'LATIN1'")  # pyright: ignore[reportArgumentType]
    reading = Connection(database.settings, application_name="export")
    with closing(reading), reading.transaction(snapshot=True):
        (column,) = reading.read_column("select 'Zoë'", 2)
        assert (column.split(), reading.run("select 'Zoë'")) == ([b"Zo\xc3\xab"], [["Zoë"]])


def test_fewer_long_rows_are_fetched_at_a_time(database: Database):
    """What an export holds in memory is bounded by their length too, not by their number alone."""
    reading = Connection(database.settings, application_name="export")
    sql = "select repeat('x', 4000) || n from generate_series(1, 5000) n"
    with closing(reading), reading.transaction(snapshot=True):
        chunks = [column.split() for column in reading.read_column(sql, 2_000)]
    assert [int(row[4000:]) for chunk in chunks for row in chunk] == list(range(1, 5001))
    assert max(sum(map(len, chunk)) for chunk in chunks[1:]) <= COLUMN_BYTES


def test_commits_wait_for_each_other_whatever_the_database_is_set_to(database: Database):
    """By a snapshot of its own, a commit that waited would be refused instead of looking again."""
    name = database.settings.database
    database.run(f"alter database {name} set default_transaction_isolation = 'serializable'")
    with closing(Connection(database.settings, application_name="commit")) as session:
        assert session.run("show transaction_isolation") == [["read committed"]]
