"""Users as CSV, as lines of JSON, and compressed: each holds the same users as the JSON."""

import csv
import gzip
import io
import json
import random
import re
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from flask.testing import FlaskClient
from get_data_client import ALWAYS_SENT, insert, insert_many, open_client
from rig import Bucket, Database, StartFunction

from process_users.outputs import store_outputs
from process_users.settings import Settings
from rollcall import samples
from serving.postgres import Connection

HEADER = "user_id,first_name,last_name,birthts,img_path\n"
ODD = (
    ("1", "Ada", "King", "src-data/1.png"),
    ("2,3", 'Zoë "Z"', "a,b", 'src-data/2,3".jpg'),
    ("=1+1", "+1", "-1", "@x"),
    ("@a", '=HYPERLINK("x",1)', "'", None),
    (" 4", " a", "日本 🙂", None),
    ("\\.", "\\", "$1 \\1", None),
    ("0001", "NA", "null", None),
    ("1e3", "None", "NaN", "src-data/1e3.png"),
    ("NULL", "true", "2026-11-23", None),
    ("'", "''", '"', None),
    ("-", "\u00ad\u200d", "a\u2028b", None),
    ("#x", ";", "a|b", None),
)
# What CSV, JSON, spreadsheets and guesses at types make much of.
SIGNS = "\"',;|=+-@\\#$%&?*()[]{}<>/.:!~^` \u00a0\u2028é日🙂0NAnult"
Users = dict[str, dict[str, object]]


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


@pytest.mark.parametrize("query", ["", "&limit=5", "&spreadsheet=True"])
def test_no_csv_rather_than_one_with_a_user_who_is_not_there(
    client: FlaskClient, database: Database, query: str
):
    """Somebody else has written into a cell what separates cells and rows."""
    insert(database, "1", first_name="Eve\x1fX\x1f0\x1f\x1e666\x1fMallory")
    got = client.get(f"/data?format=csv{query}")
    assert (got.status_code, got.json and got.json["code"]) == (500, "internal")
    assert client.get("/data").status_code == 200


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
        **ALWAYS_SENT,
    }
    got = client.get("/data?format=ndjson")
    assert got.headers["Content-Type"] == "application/x-ndjson"
    assert got.headers["Content-Disposition"] == 'attachment; filename="users.ndjson"'


def test_no_users_in_any_format(client: FlaskClient):
    for query in ("", "&limit=5"):
        assert client.get(f"/data?format=csv{query}").text == HEADER
        assert client.get(f"/data?format=ndjson{query}").text == ""
        assert client.get(f"/data?format=json{query}").text == "{}\n"


@pytest.fixture
def many_users(database: Database, odd_users: None) -> None:
    """Those, the users of the sample files, made-up names of signs, and more than a chunk of plain ones."""
    choice = random.Random(1)
    made_up = [["".join(choice.choices(SIGNS, k=choice.randint(1, 9))) for _ in range(3)] for _ in range(500)]
    of_samples = [[user.user_id, user.first_name, user.last_name] for user in samples.users()]
    rows = {row[0]: row for row in (*made_up, *of_samples)}
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate, img_path)
        select row ->> 0, row ->> 1, row ->> 2, to_timestamp(place * -1e6), 'src-data/' || (row ->> 0)
        from json_array_elements(cast(:rows as json)) with ordinality as listed (row, place)
        on conflict (user_id) do nothing
        """,
        rows=json.dumps(list(rows.values())),
    )
    insert_many(database, 1500)


def read_by_csv(file: Path) -> Users:
    with file.open(encoding="utf-8", newline="") as text:
        return to_users(list(csv.DictReader(text)))


def read_by_pandas(file: Path) -> Users:
    return to_users(pd.read_csv(file, dtype=str, keep_default_na=False).to_dict("records"))


def read_by_duckdb(file: Path) -> Users:
    options = """header = true, delim = ',', quote = '"', escape = '"', all_varchar = true"""
    with duckdb.connect() as connection:
        got = connection.sql(f"select * from read_csv('{file}', {options})")  # noqa: S608  our own
        return to_users([dict(zip(got.columns, row, strict=True)) for row in got.fetchall()])


def to_users(rows: list[dict]) -> Users:
    """Return what was read as the JSON has it."""
    return {
        row.pop("user_id"): {**row, "birthts": int(row["birthts"]), "img_path": row["img_path"] or None}
        for row in rows
    }


@pytest.mark.usefixtures("many_users")
@pytest.mark.parametrize("read", [read_by_csv, read_by_pandas, read_by_duckdb])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_csv_read_back_is_the_json(
    client: FlaskClient, tmp_path: Path, read: Callable[[Path], Users], encoding: str
):
    """Not only with the csv module: these guess less, and what is guessed is told on the page of analysis."""
    want = json.loads(client.get("/data").data)
    got = client.get("/data?format=csv", headers={"Accept-Encoding": encoding})
    assert got.headers.get("Content-Encoding", "identity") == encoding
    (tmp_path / "users.csv").write_bytes(gzip.decompress(got.data) if encoding == "gzip" else got.data)
    users = read(tmp_path / "users.csv")
    assert users == want
    assert list(users) == list(want)
    assert len(users) > 2000


@pytest.mark.usefixtures("many_users")
def test_lines_of_json_are_the_json(client: FlaskClient):
    want = client.get("/data").json
    lines = [json.loads(line) for line in client.get("/data?format=ndjson").data.split(b"\n")[:-1]]
    assert {next(iter(line)) for line in lines} == {"user_id"}
    assert {line.pop("user_id"): line for line in lines} == want
    assert json.loads(client.get("/data?limit=10000").data) == want


@pytest.mark.usefixtures("many_users")
@pytest.mark.parametrize("form", ["json", "csv", "ndjson"])
def test_head_tells_of_each_format_what_get_does(client: FlaskClient, form: str):
    for paging in ("", "&limit=3"):
        got = client.get(f"/data?format={form}{paging}")
        assert got.data
        head = client.head(f"/data?format={form}{paging}")
        assert (head.status_code, head.data) == (200, b"")
        # The length of an export is known by its end only.
        assert dict(head.headers) == {
            name: value for name, value in got.headers.items() if paging or name != "Content-Length"
        }


def fetch_rows(client: FlaskClient, query: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(client.get(f"/data?format=csv{query}").text, newline="")))


@pytest.mark.usefixtures("many_users")
def test_spreadsheets_take_no_cell_for_a_formula(client: FlaskClient):
    exact, guarded = fetch_rows(client, ""), fetch_rows(client, "&spreadsheet=true")
    pairs = list(zip(chain(*guarded), chain(*exact), strict=True))
    assert all(cell.replace("'", "") == kept.replace("'", "") for cell, kept in pairs)
    assert [row[3] for row in guarded] == [row[3] for row in exact]  # births before 1970 are numbers
    assert not any(is_run(piece) for cell, _ in pairs for piece in re.split("[;\t\r\n]", cell))
    assert client.get("/data?format=csv&spreadsheet=False").data == client.get("/data?format=csv").data


def is_run(piece: str) -> bool:
    """Whether a spreadsheet runs a cell: by what it begins with, once trimmed and of ordinary width."""
    text = unicodedata.normalize("NFKC", piece).lstrip(' "\u00ad\u200b\ufeff')
    return text.startswith(tuple("=+-@")) and not re.fullmatch(r"[-+]?[0-9]+", piece)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        *((f"{sign}1+1", f"'{sign}1+1") for sign in "=+-@\uff1d\uff0b\uff0d\uff20"),
        *((f"{blank}x", f"{blank}x") for blank in " \u00a0\u200b\ufeff\u3000"),
        *((f"{blank}=1", f"'{blank}=1") for blank in " \u00a0\u200b\ufeff\u3000"),
        ("\t=1", "\t'=1"),
        ("\tx", "'\tx"),
        ("\r\n=1", "\r'\n'=1"),
        ("a;=1", "a;'=1"),
        ("a; +1; -b", "a;' +1;' -b"),
        ('a;"=1"', 'a;\'"=1"'),
        ("a\t@x", "a\t'@x"),
        ("a\n=1", "a\n'=1"),
        *((text, text) for text in ("-12", "+49", "Ada", "a-b", "a=b", "a; b", "Smith-Jones", "'=", "1-2")),
    ],
)
def test_only_what_a_spreadsheet_would_run_is_changed(
    client: FlaskClient, database: Database, text: str, want: str
):
    insert(database, "1", first_name=text, last_name=f"x{text}", img_path=text)
    insert(database, text)
    rows = fetch_rows(client, "&spreadsheet=true")
    assert {row[0] for row in rows} == {"user_id", "1", want}
    assert [(row[1], row[4]) for row in rows if row[0] == "1"] == [(want, want)]


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
