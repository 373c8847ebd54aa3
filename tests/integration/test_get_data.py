"""get-data through the framework, over a real Postgres: what it answers, byte by byte."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from flask.testing import FlaskClient
from get_data_client import ALWAYS_SENT, EPOCH, insert, insert_many, open_client
from rig import Database, prepare_database
from watch import watched
from werkzeug.test import TestResponse

from get_data import users as reading
from get_data.filters import Filter
from rollcall.processes import wait_until
from rollcall.servers import Postgres, embedded_postgres, serving
from serving.pool import Pool
from serving.postgres import Connection
from serving.reasons import list_reasons
from serving.settings import Environment, PostgresSettings

ODD_IDS = (
    *("0001", "1.5", "2 3", "2+3", "50%", "%41", "a&b=c", "a#b?c", 'quo"te', "back\\slash", "é", "ê"),
    *("日本", "🙂", "-", "~", "a;b", "a,b", "<b>", "'", "null", "a\u00a0b"),
)


@pytest.fixture
def client(database: Database) -> Iterator[FlaskClient]:
    with open_client(database.env("get_data")) as client:
        yield client


@pytest.fixture
def pool(database: Database) -> Iterator[Pool]:
    """Sessions of the role get_data."""
    settings = PostgresSettings.from_environment(Environment(database.env("get_data")))
    with closing(Pool(lambda: Connection(settings, application_name="test"), size=2)) as pool:
        yield pool


def document(response: TestResponse) -> Any:
    return json.loads(response.data)


# ------------------------------------------------------------------------------------------ what is served


def test_all_users_are_one_object_with_a_user_a_line(client: FlaskClient, database: Database):
    insert(database, "2000", img_path="src-data/2000.png", born=EPOCH + timedelta(milliseconds=612302400000))
    insert(database, "1000", first_name='Zoë "Z"', last_name="O\\K")
    got = client.get("/data")
    assert got.get_data(as_text=True) == (
        '{"1000": {"first_name": "Zoë \\"Z\\"", "last_name": "O\\\\K", "birthts": 0, "img_path": null},\n'
        ' "2000": {"first_name": "Ada", "last_name": "King", "birthts": 612302400000, '
        '"img_path": "src-data/2000.png"}}\n'
    )
    assert got.status_code == 200
    assert dict(got.headers) == {
        "Content-Type": "application/json",
        "Content-Length": str(len(got.data)),
        "ETag": got.headers["ETag"],
        "Vary": "Accept, Accept-Encoding, Authorization",
        "Cache-Control": "private, no-cache",
        **ALWAYS_SENT,
    }
    assert re.fullmatch(r'"[0-9a-f]{32}"', got.headers["ETag"])


def test_no_users_are_an_empty_object(client: FlaskClient):
    assert client.get("/data").data == b"{}\n"
    assert client.get("/data?limit=5").data == b"{}\n"


def test_the_root_answers_as_data(client: FlaskClient, database: Database):
    insert(database, "1000")
    root, data = client.get("/?limit=1"), client.get("/data?limit=1")
    assert (root.data, root.headers["ETag"]) == (data.data, data.headers["ETag"])


def test_users_are_ordered_by_the_bytes_of_their_ids(client: FlaskClient, database: Database):
    for user_id in ODD_IDS:
        insert(database, user_id)
    want = sorted(ODD_IDS, key=str.encode)
    assert list(document(client.get("/data"))) == want
    assert list(document(client.get("/data?limit=10000"))) == want


@pytest.mark.parametrize(
    "name", ["O'Neil", 'a"b', "back\\slash", "日本", "🙂", "null", "<script>", "\u2028", "{}", "a:b", "$1"]
)
def test_names_come_back_as_they_are(client: FlaskClient, database: Database, name: str):
    insert(database, "1", first_name=name, last_name=name, img_path=f"src-data/{name}.png")
    want = {"first_name": name, "last_name": name, "birthts": 0, "img_path": f"src-data/{name}.png"}
    assert document(client.get("/data")) == {"1": want}
    assert document(client.get("/data?limit=1")) == {"1": want}
    assert document(client.get("/data/1")) == want


def test_birth_times_are_exact_to_the_millisecond(client: FlaskClient, database: Database):
    """From 1900 to beyond 2100, every last digit."""
    want = [
        base + milliseconds
        for base in (-2_208_988_800_000, -1_000, 0, 1_795_392_000_000, 4_102_444_800_000)
        for milliseconds in range(1000)
    ]
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate)
        select n, 'a', 'b', timestamptz '1970-01-01Z' + cast(birthts as bigint) * interval '1 millisecond'
        from unnest(cast(:want as bigint[])) with ordinality as given (birthts, n)
        """,
        want=want,
    )
    got = document(client.get("/data"))
    assert [got[str(place)]["birthts"] for place in range(1, len(want) + 1)] == want


# ------------------------------------------------------------------------------------------------- filters


def test_pictures_are_a_filter(client: FlaskClient, database: Database):
    insert(database, "1", img_path="src-data/1.png")
    insert(database, "2")
    assert list(document(client.get("/data?is_image_exists=True"))) == ["1"]
    assert list(document(client.get("/data?is_image_exists=fALSE&limit=5"))) == ["2"]


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("born", "today", "age"),
    [
        (date(2000, 11, 24), date(2026, 11, 23), 25),
        (date(2000, 11, 23), date(2026, 11, 23), 26),
        (date(2000, 2, 29), date(2023, 2, 28), 22),
        (date(2000, 2, 29), date(2023, 3, 1), 23),
        (date(2000, 2, 29), date(2024, 2, 28), 23),
        (date(2000, 2, 29), date(2024, 2, 29), 24),
        (date(2000, 2, 28), date(2023, 2, 28), 23),
        (date(2000, 3, 1), date(2024, 2, 29), 23),
        (date(2026, 11, 23), date(2026, 11, 23), 0),
        (date(1900, 1, 1), date(2026, 11, 23), 126),
    ],
)
def test_ages_are_completed_calendar_years(database: Database, pool: Pool, born: date, today: date, age: int):
    """By the first and the last moment of the birth date alike, in filters and in figures."""
    first = datetime(born.year, born.month, born.day, tzinfo=UTC)
    insert(database, "first", born=first)
    insert(database, "last", born=first + DAY - timedelta(milliseconds=1))

    def ids(min_age: int | None = None, max_age: int | None = None) -> list[str]:
        asked = Filter(min_age=min_age, max_age=max_age, limit=9)
        return list(json.loads(b"{%b}" % reading.fetch_page(pool, asked, today).text))

    assert ids(min_age=age) == ids(max_age=age) == ids(min_age=age, max_age=age) == ["first", "last"]
    assert ids(min_age=age + 1) == []
    assert age == 0 or ids(max_age=age - 1) == []
    figures = reading.fetch_stats(pool, Filter(), today)
    assert (figures["count"], figures["average_age"]) == (2, age)


def test_age_filters_go_by_todays_utc_date(client: FlaskClient, database: Database):
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    insert(database, "new", born=today)
    insert(database, "old", born=today - 40 * 366 * DAY)
    assert list(document(client.get("/data?max_age=0"))) == ["new"]
    assert list(document(client.get("/data?min_age=40&max_age=41"))) == ["old"]
    assert list(document(client.get("/data?min_age=0&max_age=150"))) == ["new", "old"]


def test_filters_and_figures_agree_on_who_is_yet_to_be_born(client: FlaskClient, database: Database):
    """Such a record is valid when the store's clock was ahead on the day that it was stored."""
    insert(database, "soon", born=datetime.now(UTC) + 2 * DAY)
    insert(database, "old")
    assert list(document(client.get("/data?min_age=0"))) == ["old", "soon"]
    assert list(document(client.get("/data?max_age=0"))) == ["soon"]
    assert list(document(client.get("/data?min_age=1"))) == ["old"]
    got = document(client.get("/stats?min_age=0&max_age=0"))
    assert (got["count"], got["average_age"]) == (1, 0)
    assert got["ages"] == [{"min_age": 0, "max_age": 9, "count": 1}]
    page = client.get("/?max_age=0", headers={"Accept": "text/html"}).text
    assert "-1" not in re.findall(r"<td[^>]*>([^<]*)</td>", page)


# -------------------------------------------------------------------------------------------------- paging


@pytest.mark.parametrize("limit", [1, 2, 5, len(ODD_IDS) - 1, len(ODD_IDS), 10_000])
@pytest.mark.parametrize("query", ["", "is_image_exists=true&"])
def test_following_next_visits_every_user_once(
    client: FlaskClient, database: Database, limit: int, query: str
):
    for user_id in ODD_IDS:
        insert(database, user_id, img_path="src-data/x.png" if user_id != "0001" else None)
    want = sorted(set(ODD_IDS) - ({"0001"} if query else set()), key=str.encode)
    address, pages = f"/data?{query}limit={limit}", []
    while address:
        got = client.get(address)
        pages.append(list(document(got)))
        address = next_address(got)
    assert [user_id for page in pages for user_id in page] == want
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == -(-len(want) // limit)


@pytest.mark.parametrize("limit", [1, 2, 4, 5])
def test_pages_of_a_few_among_many_are_whole(client: FlaskClient, database: Database, limit: int):
    """Before, between and behind more users than are walked through for a page."""
    insert_many(database, 25_000)
    old = datetime(1900, 1, 1, tzinfo=UTC)
    want = ["0", "105000", "105000a", "2", "3"]
    database.run("update users set birthdate = cast(:old as timestamptz) where user_id = '105000'", old=old)
    for user_id in ("0", "105000a", "2", "3"):
        insert(database, user_id, born=old)
    address, got = f"/data?min_age=100&limit={limit}", []
    while address:
        page = client.get(address)
        got.append(list(document(page)))
        address = next_address(page)
    assert got == [want[start : start + limit] for start in range(0, len(want), limit)]


def next_address(response: TestResponse) -> str | None:
    link = response.headers.get("Link")
    if link is None:
        return None
    matched = re.fullmatch(
        r"<([!-;=?-~]+)>; rel=\"next\"", link
    )  # of characters that may stand in an address
    assert matched, link
    return matched[1]


def test_next_keeps_the_filters(client: FlaskClient, database: Database):
    for user_id in ("a b", "c"):
        insert(database, user_id)
    got = client.get("/data?limit=1&max_age=0150&min_age=0&is_image_exists=FALSE")
    want = "/data?is_image_exists=False&min_age=0&max_age=150&limit=1&after=a%20b"
    assert got.headers["Link"] == f'<{want}>; rel="next"'
    assert list(document(client.get(want))) == ["c"]


def test_after_without_a_limit_is_the_rest(client: FlaskClient, database: Database):
    insert_many(database, 2500)
    got = document(client.get("/data?after=100300"))
    assert list(got) == [str(n) for n in range(100301, 102501)]


@pytest.mark.parametrize("count", [1999, 2000, 2001, 4000, 4001])
def test_chunks_leave_no_seam(client: FlaskClient, database: Database, count: int):
    insert_many(database, count)
    got = client.get("/data")
    assert list(document(got)) == [str(100001 + n) for n in range(count)]
    assert got.data.count(b"\n") == count
    assert ("Content-Length" in got.headers) == (count <= reading.CHUNK_USERS)


# --------------------------------------------------------------------------------------------- one, figures


def test_one_user_by_any_id(client: FlaskClient, database: Database):
    for user_id in ODD_IDS:
        insert(database, user_id, first_name=f"of {user_id}")
    for user_id in ODD_IDS:
        got = client.get(f"/data/{quote(user_id, safe='')}")
        want = {"first_name": f"of {user_id}", "last_name": "King", "birthts": 0, "img_path": None}
        assert (got.status_code, document(got)) == (200, want)


def test_a_record_is_one_line(client: FlaskClient, database: Database):
    insert(database, "1")
    want = b'{"first_name": "Ada", "last_name": "King", "birthts": 0, "img_path": null}\n'
    assert client.get("/data/1").data == want


@pytest.mark.parametrize(
    "path", ["/data/2", "/data/01", "/data/1%20", "/data/%E2%98%83", "/data/" + "1" * 4000]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_user_who_is_not_there(client: FlaskClient, database: Database, path: str, method: str):
    insert(database, "1")
    got = client.open(path, method=method, headers={"If-None-Match": "*"})
    assert (got.status_code, "ETag" in got.headers) == (404, False)
    if method == "GET":
        assert document(got) == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "code": "user_not_found",
            "detail": "there is no user of this id",
        }


def test_figures(client: FlaskClient, database: Database):
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for user_id, age in (("a", 0), ("b", 5), ("c", 31)):
        insert(database, user_id, born=today - age * 365.2425 * DAY - DAY, img_path="x" if age else None)
    database.run(
        """
        insert into runs (state, pid, started_at, ended_at)
        values ('ok', 1, now(), timestamptz '2026-01-02 03:04:05.678Z'),
               ('failed', 1, now(), timestamptz '2026-01-03 03:04:05Z'),
               ('running', 1, now(), null)
        """
    )
    database.run("update versions set version = 7")
    database.run("insert into ledger (key, revision, user_id, reason) values ('d.csv', 1, 'd', 'unreadable')")
    assert document(client.get("/stats")) == {
        "count": 3,
        "average_age": 12,
        "with_picture": 2,
        "ages": [
            {"min_age": 0, "max_age": 9, "count": 2},
            {"min_age": 10, "max_age": 19, "count": 0},
            {"min_age": 20, "max_age": 29, "count": 0},
            {"min_age": 30, "max_age": 39, "count": 1},
        ],
        "data_version": 7,
        "last_run": {"run_id": 2, "state": "failed", "ended_at": "2026-01-03T03:04:05.000Z"},
        "last_ok_run": {"run_id": 1, "state": "ok", "ended_at": "2026-01-02T03:04:05.678Z"},
        "due": 1,
    }
    got = document(client.get("/stats?min_age=5&max_age=31&is_image_exists=true"))
    assert (got["count"], got["average_age"], got["with_picture"]) == (2, 18, 2)


def test_figures_of_nobody(client: FlaskClient):
    assert document(client.get("/stats")) == {
        "count": 0,
        "average_age": None,
        "with_picture": 0,
        "ages": [],
        "data_version": 0,
        "last_run": None,
        "last_ok_run": None,
        "due": 0,
    }


# ------------------------------------------------------------------------------------------ entity tags


def test_tags_tell_apart_what_differs(client: FlaskClient, database: Database):
    insert(database, "1")
    paths = ("/data", "/data?limit=5", "/data?limit=6", "/data?min_age=0", "/data?after=0", "/data/1")

    def tags() -> list[str]:
        return [client.get(path).headers["ETag"] for path in paths]

    before = tags()
    assert len(set(before)) == len(paths)
    assert tags() == before
    assert client.get("/data?limit=005").headers["ETag"] == before[1]
    database.run("insert into versions (version) values (1)")
    changed = tags()
    assert not set(before) & set(changed)
    database.run("update versions set lineage = gen_random_uuid() where version = 1")
    assert not (set(before) | set(changed)) & set(tags())


PATHS = ("/data", "/data?limit=5", "/data?min_age=3", "/data/1", "/")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_the_client_has_is_not_sent_again(
    client: FlaskClient, database: Database, path: str, method: str
):
    insert(database, "1")
    tag = client.get(path).headers["ETag"]
    for header in (tag, f"W/{tag}", f'"x", {tag}', f'W/"x",W/{tag} , "y"', "*"):
        got = client.open(path, method=method, headers={"If-None-Match": header})
        assert (got.status_code, got.data) == (304, b"")
        assert dict(got.headers) == {
            "ETag": tag,
            "Vary": "Accept, Accept-Encoding, Authorization",
            "Cache-Control": "private, no-cache",
            **ALWAYS_SENT,
        }
    for header in ('"x"', tag[:-2] + '"', 'W/"x"', ""):
        assert client.open(path, method=method, headers={"If-None-Match": header}).status_code == 200


def test_the_table_is_not_read_for_304_and_head(client: FlaskClient, database: Database):
    insert(database, "1")
    tags = {path: client.get(path).headers["ETag"] for path in PATHS}
    database.run("revoke select on users from rollcall_get_data")
    assert {client.get(path).status_code for path in PATHS} == {503}
    for path, tag in tags.items():
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    got = client.head("/data")
    assert (got.status_code, got.headers["ETag"], "Content-Length" in got.headers) == (
        200,
        tags["/data"],
        False,
    )


@pytest.mark.parametrize("path", ["/data?limit=1", "/data/1", "/data?limit=5"])
def test_head_says_what_get_would(client: FlaskClient, database: Database, path: str):
    insert(database, "1")
    insert(database, "2")
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.data, dict(head.headers)) == (200, b"", dict(get.headers))


# --------------------------------------------------------------------------------------------- the boundary


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/data?limit=0", "parameter_malformed"),
        ("/data?min_age=2&max_age=1", "parameter_conflict"),
        ("/data?min_age=%D9%A1", "parameter_malformed"),
        ("/data?after=%FF", "query_malformed"),
        ("/data?after=%00", "query_malformed"),
        ("/data?after=%", "query_malformed"),
        ("/data?formats=json", "parameter_unknown"),
        ("/data/1?limit=1", "parameter_unknown"),
        ("/stats?limit=1", "parameter_unknown"),
        ("/?min_age=x", "parameter_malformed"),
    ],
)
def test_bad_parameters_are_refused_before_the_database_is_asked(path: str, code: str, database: Database):
    with open_client({**database.env("get_data"), "PGPORT": "1"}) as client:
        got = client.get(path)
    assert (got.status_code, document(got)["code"], got.mimetype) == (400, code, "application/problem+json")


def test_an_unknown_parameter_is_named_with_what_is_accepted(client: FlaskClient):
    assert document(client.get("/data?limt=5")) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "code": "parameter_unknown",
        "detail": "'limt' is no parameter here; accepted: after, format, is_image_exists, limit, max_age, "
        "min_age, spreadsheet",
        "parameter": "limt",
    }


@pytest.mark.parametrize("path", ["/", "/data", "/data/1", "/stats"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_is_possible(client: FlaskClient, path: str, method: str):
    got = client.open(path, method=method)
    assert (got.status_code, got.headers["Allow"], document(got)["code"]) == (
        405,
        "GET, HEAD",
        "method_not_allowed",
    )


@pytest.mark.parametrize("path", ["/data/", "/data/1/2", "/data/1/", "/stats/1", "/Data", "/nothing"])
def test_other_paths_are_not_found(client: FlaskClient, path: str):
    got = client.get(path)
    assert (got.status_code, document(got)["code"]) == (404, "not_found")


def test_the_token_is_asked_for(database: Database):
    with open_client({**database.env("get_data"), "API_TOKEN": "s3cret"}) as client:
        for path in ("/", "/data", "/data/1", "/stats"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer s3cre"}).status_code == 401
        assert client.get("/data", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert client.get("/data", auth=("any", "s3cret")).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_the_role_can_read_and_nothing_else(database: Database):
    with closing(database.connect("get_data")) as connection:
        for sql in (
            "delete from users",
            "update versions set version = 1",
            "create temporary table t ()",
            "create table t ()",
            "select from ledger",
        ):
            with pytest.raises(Exception, match="42501"):
                connection.run(sql)


def test_postgres_away_is_503_and_back_is_200_again():
    with embedded_postgres() as server:
        database = prepare_database(server, "rollcall")
        insert(database, "1")
        with open_client(database.env("get_data")) as client:
            assert client.get("/data").status_code == 200
            stop_server(server)
            for path in ("/data", "/data?limit=1", "/data/1", "/stats"):
                check_unavailable(client, path, within_s=1)
            assert document(client.get("/readyz"))["unavailable"] == ["postgres"]
            assert client.get("/healthz").status_code == 200
            with serving(lambda _: server, port=server.port):
                assert client.get("/readyz").status_code == 200
                assert client.get("/data").status_code == 200
                with frozen(server):
                    check_unavailable(client, "/data?limit=1", within_s=10)
                wait_until(lambda: client.get("/data").status_code == 200, timeout_s=30, what="users again")


def check_unavailable(client: FlaskClient, path: str, *, within_s: float) -> None:
    with watched() as watch:
        got = client.get(path)
    assert watch.seconds < watch.allow(within_s)
    assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
    problem = document(got)
    assert problem.pop("detail").startswith(tuple(list_reasons()))
    assert problem == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "code": "database_unavailable",
    }


def stop_server(server: Postgres) -> None:
    pid_file = server.home.data / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
    wait_until(lambda: not pid_file.exists(), timeout_s=20, what="PostgreSQL to stop")


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """Stop a server from doing anything, as a machine does that swaps or hangs."""
    process = psutil.Process(int((server.home.data / "postmaster.pid").read_text().split()[0]))
    family = [process, *process.children()]
    for member in family:
        member.suspend()
    try:
        yield
    finally:
        for member in family:
            member.resume()
