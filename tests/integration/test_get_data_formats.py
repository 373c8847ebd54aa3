"""Users as CSV, as lines of JSON, and compressed: each holds the same users as the JSON."""

import csv
import gzip
import io
import json
import re
import urllib.request
from collections.abc import Iterator
from itertools import chain

import pytest
from flask.testing import FlaskClient
from get_data_client import insert, insert_many, open_client
from rig import Bucket, Database, StartFunction

from process_users.outputs import store_outputs
from process_users.settings import Settings
from serving.postgres import Connection

HEADER = "user_id,first_name,last_name,birthts,img_path\n"
ODD = (
    ("1", "Ada", "King", "src-data/1.png"),
    ("2,3", 'Zoë "Z"', "a,b", 'src-data/2,3".jpg'),
    ("=1+1", "+1", "-1", "@x"),
    ("@a", '=HYPERLINK("x",1)', "'", None),
    (" 4", " a", "日本 🙂", None),
    ("\\.", "\\", "$1 \\1", None),
)


@pytest.fixture
def client(database: Database) -> Iterator[FlaskClient]:
    with open_client(database.env("get_data")) as client:
        yield client


@pytest.fixture
def odd_users(database: Database) -> None:
    for user_id, first, last, path in ODD:
        insert(database, user_id, first_name=first, last_name=last, img_path=path)
    database.run("update users set birthdate = timestamptz '1969-12-31 23:59:59.999Z' where user_id = '1'")


@pytest.mark.usefixtures("odd_users")
@pytest.mark.parametrize("count", [0, 2500])
def test_csv_is_output_csv(client: FlaskClient, database: Database, bucket: Bucket, count: int):
    """The very bytes that process-users stores."""
    insert_many(database, count)
    settings = Settings.from_env({**database.env("process_users"), **bucket.env})
    connection = Connection(settings.postgres, application_name="test")
    try:
        store_outputs(connection, settings)
    finally:
        connection.close()
    answer = bucket.store.client().get_object(bucket_name=bucket.output, object_name="output.csv")
    want = answer.read()
    answer.close()
    answer.release_conn()
    assert want.count(b"\n") == count + len(ODD) + 1
    assert client.get("/data?format=csv").data == want
    assert client.get("/data", headers={"Accept": "text/csv"}).data == want
    assert client.get("/data?format=csv&limit=10000").data == want


def test_headers_of_a_file(client: FlaskClient, database: Database):
    insert(database, "1")
    got = client.get("/data?format=csv")
    assert dict(got.headers) == {
        "Content-Type": "text/csv; charset=utf-8",
        "Content-Length": str(len(got.data)),
        "Content-Disposition": 'attachment; filename="users.csv"',
        "ETag": got.headers["ETag"],
        "Vary": "Accept, Accept-Encoding, Authorization",
        "Cache-Control": "private, no-cache",
    }
    got = client.get("/data?format=ndjson")
    assert got.headers["Content-Type"] == "application/x-ndjson"
    assert got.headers["Content-Disposition"] == 'attachment; filename="users.ndjson"'


def test_no_users_in_any_format(client: FlaskClient):
    for query in ("", "&limit=5"):
        assert client.get(f"/data?format=csv{query}").text == HEADER
        assert client.get(f"/data?format=ndjson{query}").text == ""
        assert client.get(f"/data?format=json{query}").text == "{}\n"


@pytest.mark.usefixtures("odd_users")
def test_every_format_holds_the_same_users(client: FlaskClient, database: Database):
    insert_many(database, 2500)
    want = client.get("/data").json
    assert want is not None
    rows = csv.DictReader(io.StringIO(client.get("/data?format=csv").text))
    got = {
        row["user_id"]: {
            "first_name": row["first_name"],
            "last_name": row["last_name"],
            "birthts": int(row["birthts"]),
            "img_path": row["img_path"] or None,
        }
        for row in rows
    }
    assert (got, list(got)) == (want, list(want))
    lines = [json.loads(line) for line in client.get("/data?format=ndjson").text.splitlines()]
    assert {next(iter(line)) for line in lines} == {"user_id"}
    assert {line.pop("user_id"): line for line in lines} == want


@pytest.mark.usefixtures("odd_users")
def test_spreadsheets_take_no_cell_for_a_formula(client: FlaskClient):
    exact = list(csv.reader(io.StringIO(client.get("/data?format=csv").text)))
    guarded = list(csv.reader(io.StringIO(client.get("/data?format=csv&spreadsheet=true").text)))
    want = [[f"'{cell}" if cell[:1] in tuple("=+-@\t\r") else cell for cell in row] for row in exact]
    assert guarded == want
    pairs = zip(chain(*guarded), chain(*exact), strict=True)
    assert sum(cell != kept for cell, kept in pairs) == 7
    assert client.get("/data?format=csv&spreadsheet=False").data == client.get("/data?format=csv").data


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("text/csv", "text/csv"),
        ("text/*", "text/csv"),
        ("application/x-ndjson, application/json;q=0.5", "application/x-ndjson"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/json;q=0.1, text/csv;q=0.2, */*;q=0", "text/csv"),
        ("APPLICATION/JSON", "application/json"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/data", "/data?limit=1"])
def test_accept_chooses_the_format(client: FlaskClient, path: str, accept: str, media_type: str):
    got = client.get(path, headers={"Accept": accept})
    assert (got.status_code, got.mimetype) == (200, media_type)
    wins = client.get("/data?format=csv", headers={"Accept": accept})
    assert wins.mimetype == "text/csv"


@pytest.mark.parametrize("accept", ["application/xml", "image/png, text/plain", "text/csv;q=0"])
def test_what_there_is_not_is_not_answered_by_something_else(client: FlaskClient, accept: str):
    got = client.get("/data", headers={"Accept": accept})
    types = ["application/json", "text/csv", "application/x-ndjson", "text/html"]
    assert got.status_code == 406
    assert got.json == {
        "type": "about:blank",
        "title": "Not Acceptable",
        "status": 406,
        "code": "not_acceptable",
        "detail": f"Accept asks for none of what there is: {', '.join(types)}",
        "accepted": types,
    }


@pytest.mark.parametrize(
    ("query", "code", "detail"),
    [
        ("format=xml", "parameter_malformed", "format is 'xml'; accepted is json, csv, ndjson or html"),
        ("format=CSV", "parameter_malformed", "format is 'CSV'; accepted is json, csv, ndjson or html"),
        ("format=", "parameter_empty", "format is empty; accepted is json, csv, ndjson or html"),
        ("format=csv&format=csv", "parameter_repeated", "format came more than once, accepted is once"),
        ("spreadsheet=1&format=csv", "parameter_malformed", "spreadsheet is '1'; accepted is True or False"),
        (
            "spreadsheet=true",
            "parameter_conflict",
            "spreadsheet is True and the format is json; accepted is spreadsheet with csv",
        ),
    ],
)
def test_bad_formats_are_refused(client: FlaskClient, query: str, code: str, detail: str):
    got = client.get(f"/data?{query}")
    assert got.json is not None
    assert (got.status_code, got.json["code"], got.json["detail"]) == (400, code, detail)


def test_pages_of_a_format_link_to_the_next_in_it(client: FlaskClient, database: Database):
    insert_many(database, 3)
    want = ["100001", "100002", "100003"]
    address: str | None = "/data?limit=2&format=csv&spreadsheet=TRUE"
    got: list[str] = []
    while address:
        page = client.get(address)
        got += [row[0] for row in csv.reader(io.StringIO(page.text))][1:]
        found = re.search("<(.*)>", page.headers.get("Link", ""))
        address = found[1] if found else None
    assert got == want


# ---------------------------------------------------------------------------------------------- compressed


@pytest.mark.parametrize("form", ["json", "csv", "ndjson"])
@pytest.mark.parametrize("count", [0, 1, 900, 2500])
def test_compressed_answers_are_the_same(client: FlaskClient, database: Database, form: str, count: int):
    insert_many(database, count)
    for paging in ("", "&limit=800"):
        plain = client.get(f"/data?format={form}{paging}")
        small = client.get(f"/data?format={form}{paging}", headers={"Accept-Encoding": "gzip, deflate, br"})
        compressed = small.headers.get("Content-Encoding") == "gzip"
        assert compressed == (len(plain.data) >= 1000)
        assert (gzip.decompress(small.data) if compressed else small.data) == plain.data
        assert not compressed or len(small.data) < len(plain.data) / 3
        assert ("Content-Length" in small.headers) == ("Content-Length" in plain.headers)


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip", True), ("*", True), ("gzip;q=0", False), ("identity", False), ("br", False), ("", False)],
)
def test_only_who_asks_gets_compressed(
    client: FlaskClient, database: Database, accepted: str, compressed: bool
):
    insert_many(database, 50)
    got = client.get("/data", headers={"Accept-Encoding": accepted})
    assert ("Content-Encoding" in got.headers) == compressed


def test_each_representation_has_a_tag_of_its_own(client: FlaskClient, database: Database):
    insert_many(database, 50)
    asked = [
        (f"/data?limit=40{query}", {"Accept": accept, "Accept-Encoding": encoding})
        for query, accept in [
            ("", "application/json"),
            ("", "text/csv"),
            ("", "application/x-ndjson"),
            ("&spreadsheet=true", "text/csv"),
        ]
        for encoding in ("identity", "gzip")
    ]
    tags = [client.get(path, headers=headers).headers["ETag"] for path, headers in asked]
    assert len(set(tags)) == len(asked)
    for (path, headers), tag in zip(asked, tags, strict=True):
        for other in tags:
            got = client.get(path, headers={**headers, "If-None-Match": other})
            assert got.status_code == (304 if other == tag else 200)


def test_a_long_answer_is_compressed_as_it_is_streamed(database: Database, start_function: StartFunction):
    insert_many(database, 20_000)
    function = start_function("get-data", database.env("get_data"))
    request = urllib.request.Request(  # noqa: S310  of our own server
        f"{function.url}/data?format=csv", headers={"Accept-Encoding": "gzip"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert response.headers["Content-Encoding"] == "gzip"
        text = gzip.decompress(response.read()).decode()
    assert text.count("\n") == 20_001
