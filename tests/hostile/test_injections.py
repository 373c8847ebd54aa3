"""Text that would be a command elsewhere: in SQL, in a path, in a header, in a log. Here it is text."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from get_data_client import open_client
from pipeline import ONE_STORE, Pipeline, to_csv

from serving.logs import configure

pytestmark = ONE_STORE
SQL = (
    "'; drop table users; --",
    "' or '1'='1",
    '" union select rolpassword from pg_authid --',
    "$$; select pg_sleep(9); $$",
    ":limit",
    "%(limit)s",
    "\\'); delete from ledger; --",
)
PATHS = (
    "..",
    "../../etc/passwd",
    "..%2f..%2fmain.py",
    "%2e%2e/main.py",
    "....//main.py",
    "..\\main.py",
    "a/../../b",
)
HEADERS = ("x\r\nX-Injected: 1", "x\nSet-Cookie: a=b", "x\r\n\r\n<script>", "x\x85X-Injected: 1")
MARKS = ('a"b', "a>; rel=x", "a,b;c", "a\\b", "a\u2028b", "\u560d\u560aX-Injected: 1", '{"event": "forged"}')


@pytest.fixture
def client(pipeline: Pipeline) -> Iterator[FlaskClient]:
    with open_client({**pipeline.database.env("get_data"), **store_of(pipeline)}) as client:
        yield client


def store_of(pipeline: Pipeline) -> dict[str, str]:
    return {name: value for name, value in pipeline.bucket.env.items() if name.startswith("MINIO_")}


def test_sql_in_ids_and_names_is_text(pipeline: Pipeline, client: FlaskClient):
    ids = [text for text in SQL if "/" not in text]
    for text in ids:
        pipeline.put(
            f"{text}.csv", to_csv('"' + text.replace('"', '""') + '"', '"' + text.replace('"', '""') + '"')
        )
        pipeline.put(f"{text}.png")
    assert pipeline.run()["upserted"] == len(ids)
    pipeline.remove(f"{ids[0]}.png")
    pipeline.notify(f"{ids[0]}.png", "s3:ObjectRemoved:Delete")
    served = json.loads(client.get("/data").data)
    assert {key: (user["first_name"], user["last_name"]) for key, user in served.items()} == {
        text: (text, text) for text in ids
    }
    for text in ids:
        assert client.get(f"/data/{quote(text, safe='')}").json == served[text]
        after = [key for key in served if key.encode() > text.encode()]
        assert list(json.loads(client.get(f"/data?after={quote(text, safe='')}").data)) == after


@pytest.mark.parametrize("name", ["min_age", "limit", "is_image_exists", "format", "after"])
def test_sql_in_parameters_is_refused_or_text(client: FlaskClient, name: str):
    for text in SQL:
        response = client.get(f"/data?{name}={quote(text, safe='')}")
        if name == "after":
            assert (response.status_code, response.data) == (200, b"{}\n")
        else:
            assert response.json is not None
            assert (response.status_code, response.json["parameter"]) == (400, name)


def test_no_path_leads_out_of_what_is_served(client: FlaskClient):
    for path in PATHS:
        for start in ("/assets/", "/data/", "/"):
            response = client.get(
                "/x", environ_overrides={"PATH_INFO": start + path, "RAW_URI": start + path}
            )
            assert response.status_code == 404, start + path


def test_keys_that_look_like_paths_are_nobodys(pipeline: Pipeline):
    if pipeline.bucket.store.kind == "minio":
        pipeline.put("a/..csv")
    pipeline.put("x/1000.csv")
    pipeline.put("...csv")  # would be the user `..`
    report = pipeline.run()
    assert (report["upserted"], pipeline.user_ids()) == (0, [])
    assert [(reject["key"], reject["reason"]) for reject in report["rejects"]] == [("...csv", "key_invalid")]


def test_no_parameter_becomes_a_header(pipeline: Pipeline, client: FlaskClient):
    for text in HEADERS:
        for name in ("after", "limit", "format"):
            assert client.get(f"/data?limit=1&{name}={quote(text, safe='')}").status_code == 400
    for text in MARKS:
        pipeline.put(f"{text}.csv")
        pipeline.put(f"{text}.png")
    pipeline.put("zzz.csv")
    pipeline.run()
    query = ""
    ids = sorted([*MARKS, "zzz"], key=str.encode)
    for want in ids:
        response = client.get(f"/data?limit=1{query}")
        assert list(json.loads(response.data)) == [want]
        link = response.headers.get("Link", "")
        assert (link == "") == (want == ids[-1])
        assert link.isascii()
        query = "&after=" + link.partition("after=")[2].partition(">")[0]
    for text in MARKS:
        location = client.get(f"/data/{quote(text, safe='')}/image").headers["Location"]
        assert location.isascii()
        assert not set(location) & set(' "<>\r\n\\')


def test_nothing_that_is_asked_for_writes_into_the_log(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
):
    configure("get-data", "info")  # to what is captured now
    forged = '\n{"event": "run.finished"}'
    client.get(f"/data/{quote(forged, safe='')}").close()
    client.get(f"/data?after={quote(forged, safe='')}").close()
    client.get("/stats", headers={"User-Agent": forged.strip(), "Referer": forged.strip()}).close()
    client.open("/data", method="FORGED").close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["request"] * 3
    assert [line["method"] for line in lines] == ["GET", "GET", "other"]
