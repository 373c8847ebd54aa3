"""The page: what it holds, how it is asked for, and that nothing in it can become anything but text."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient
from get_data_client import ALWAYS_SENT, insert, insert_many, open_client
from page_text import find_markup, read_text
from rig import Database, run_going_on
from werkzeug.test import TestResponse

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
HOSTILE = "<script>alert('1')</script>\"&"


@pytest.fixture
def client(database: Database) -> Iterator[FlaskClient]:
    with open_client(database.env("get_data")) as client:
        yield client


def browse(client: FlaskClient, address: str) -> TestResponse:
    return client.get(address, headers=BROWSER)


def insert_aged(database: Database, user_id: str, age: int, **columns: str | None) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    insert(database, user_id, born=today - timedelta(days=age * 365.25 + 3), **columns)


def test_headers_of_the_page(client: FlaskClient):
    got = browse(client, "/")
    assert got.status_code == 200
    assert dict(got.headers) == {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Length": str(len(got.data)),
        "Vary": "Accept, Accept-Encoding, Authorization",
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; img-src 'self' http://127.0.0.1:9; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        **ALWAYS_SENT,
    }


def test_everything_is_escaped(client: FlaskClient, database: Database):
    insert(database, HOSTILE, first_name=HOSTILE, last_name=HOSTILE, img_path="src-data/x.png")
    insert(database, HOSTILE + "2", first_name="b", last_name="c")
    database.run(
        "insert into ledger (key, revision, reason, detail) values (:key, 1, 'not_utf8', 'no')",
        key=f"{HOSTILE}.csv",
    )
    text = browse(client, "/?limit=1").text
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&#34;&amp;") == 6
    after = browse(client, re.findall('rel="next" href="(.*?)"', text)[0].replace("&amp;", "&")).text
    assert "<script>alert" not in after
    assert "&lt;script&gt;" in after
    problem = browse(client, "/?min_age=%3Cscript%3Ealert(1)").text
    assert "<script>alert" not in problem


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("/?is_image_exists=&min_age=&max_age=&limit=", "/"),
        ("/?is_image_exists=True&min_age=&max_age=39&limit=", "/?is_image_exists=True&max_age=39"),
    ],
)
def test_fields_left_empty_are_left_out_of_the_address(client: FlaskClient, asked: str, given: str):
    got = browse(client, asked)
    assert (got.status_code, got.headers["Location"], got.headers["Cache-Control"]) == (
        302,
        given,
        "no-store",
    )
    assert browse(client, given).status_code == 200
    for address, headers in ((asked, {}), (asked.replace("/", "/data"), BROWSER)):
        refused = client.get(address, headers=headers)
        assert (refused.status_code, "parameter_empty" in refused.text) == (400, True)


def test_the_next_page_goes_on_where_this_one_ends(client: FlaskClient, database: Database):
    insert_many(database, 250)
    address, pages = "/?min_age=0", []
    while address:
        text = browse(client, address).text
        pages.append(re.findall('<th scope="row"><a href="/data/([0-9]+)">', text))
        found = re.search('rel="next" href="(.*?)"', text)
        address = found[1].replace("&amp;", "&") if found else ""
    assert [len(page) for page in pages] == [100, 100, 50]
    assert [user_id for page in pages for user_id in page] == [str(100001 + n) for n in range(250)]


def end_run_well(database: Database) -> None:
    database.run("insert into runs (state, pid, ended_at) values ('ok', 1, now())")


def test_totals_are_of_the_filter_and_the_chart_is_of_all(client: FlaskClient, database: Database):
    end_run_well(database)
    for user_id, age in (("a", 5), ("b", 31), ("c", 35), ("d", 36), ("e", 71)):
        insert_aged(database, user_id, age, img_path="src-data/x.png" if user_id == "c" else None)
    text = browse(client, "/?min_age=30&max_age=39").text
    assert "3 users" in text
    assert "34.0 years old on average, 1 with a picture." in text
    bars = re.findall('aria-label="([0-9]+ to [0-9]+ years: [0-9]+ users?(?:, shown)?)"', text)
    assert bars[0] == "0 to 9 years: 1 user"
    assert bars[3] == "30 to 39 years: 3 users, shown"
    assert bars[7] == "70 to 79 years: 1 user"
    assert 'href="/?min_age=70&amp;max_age=79"' in text
    assert '3 users <span class="soft">of 5</span>' in text
    assert "<title>3 users " in text
    with_picture = browse(client, "/?is_image_exists=true").text
    assert '1 user <span class="soft"> with a picture</span>' in with_picture
    assert 'href="/?is_image_exists=True&amp;min_age=30&amp;max_age=39"' in with_picture


def test_links_take_along_everything_that_matches(client: FlaskClient, database: Database):
    insert_many(database, 120)
    text = browse(client, "/?limit=25&after=100003&max_age=99").text
    for want in (
        "/data?max_age=99&amp;format=json",
        "/data?max_age=99&amp;format=csv",
        "/data?max_age=99&amp;format=csv&amp;spreadsheet=True",
        "/data?max_age=99&amp;format=ndjson",
    ):
        assert f'href="{want}"' in text
        assert client.get(want.replace("&amp;", "&")).status_code == 200
    assert "curl &#39;http://localhost/data?max_age=99&#39;" in text


def test_runs_and_what_was_rejected(client: FlaskClient, database: Database):
    database.run(
        """
        insert into runs (state, pid, started_at, ended_at, listed, upserted, rejected, error)
        values ('ok', 1, timestamptz '2026-01-02 03:04Z', timestamptz '2026-01-02 03:04:05.5Z', 1234, 7, 1,
                null),
               ('failed', 1, timestamptz '2026-01-02 04:04Z', timestamptz '2026-01-02 04:05Z', 1, 0, 1,
                'store_unavailable'),
               ('running', 1, timestamptz '2026-01-02 05:04Z', null, 2, 0, 0, null)
        """
    )
    database.run(
        "insert into ledger (key, revision, reason, detail) values ('7.csv', 1, 'row_count', 'wanted one')"
    )
    text = browse(client, "/").text
    assert '<time datetime="2026-01-02T03:04:00+00:00">2 Jan 2026, 03:04 UTC</time>' in text
    assert "Late: up to date as of" in text
    assert "The last run was lost" in text
    for want in (
        "1,234",
        "5.5 s",
        "store_unavailable",
        "1 rejected file<",
        "7.csv",
        "row_count",
        "wanted one",
    ):
        assert want in text
    assert "is going on" not in text


@pytest.mark.parametrize(
    ("minutes", "state", "is_late"), [(5, "ok", False), (61, "ok", True), (5, "failed", True)]
)
def test_how_far_the_users_can_be_relied_on(
    client: FlaskClient, database: Database, minutes: int, state: str, is_late: bool
):
    """When the last good run ended, whether that is long ago, and what the next one has to look at again."""
    assert "Nothing has been processed yet." in browse(client, "/").text
    ended = "insert into runs (state, pid, ended_at) values (:state, 1, now() - cast(:ago as interval))"
    database.run(ended, state="ok", ago=f"{minutes} minutes")
    if state != "ok":
        database.run(ended, state=state, ago="1 minute")
    database.run(
        "insert into ledger (key, revision, user_id, reason, detail) "
        "values ('7.csv', 1, '7', 'unreadable', '')"
    )
    text = browse(client, "/").text
    assert ('<span class="dot late"></span>Late: up to date as of' in text) == is_late
    assert "1 file is due to be read again." in text
    assert client.get("/stats").get_json()["due"] == 1


def test_the_run_going_on_is_shown_with_its_progress(client: FlaskClient, database: Database):
    database.run("insert into runs (state, pid, ended_at, listed) values ('ok', 1, now(), 200)")
    with run_going_on(database, listed=50):
        text = browse(client, "/").text
    assert "Run 2 is going on" in text
    assert 'max="200" value="50"' in text


UNKNOWN = ("on average", "No rejected file", "to date as of", 'id="ages"', "of 1 ", "No file that was read")


def test_before_any_run_nothing_is_said_of_the_bucket(client: FlaskClient):
    page = browse(client, "/").text
    assert not [words for words in UNKNOWN if words in page]
    text = read_text(page)
    for words in ("0 users so far", "Nothing has been processed yet.", "None so far.", "Nobody is here yet."):
        assert words in text


@pytest.mark.parametrize("stored", [0, 1])
def test_of_a_first_run_nothing_is_said_but_what_it_stored(
    client: FlaskClient, database: Database, stored: int
):
    if stored:
        insert(database, "1000", img_path="src-data/1000.png")
    with run_going_on(database, listed=50):
        page = browse(client, "/").text
    assert not [words for words in UNKNOWN if words in page]
    text = read_text(page)
    for words in (
        f"{stored} user{'s' if stored != 1 else ''} so far",
        "Updating for the first time.",
        "The first run is still going on.",
        "None so far.",
    ):
        assert words in text
    assert "<progress" in page
    assert " value=" not in page[page.index("<progress") : page.index("</progress>")]
    assert ("Nobody has been stored yet." in text) == (not stored)


@pytest.mark.parametrize(
    ("state", "words"), [("failed", "The last run failed"), ("running", "The last run was lost")]
)
def test_of_a_first_run_that_was_broken_off_no_figures_are_shown(
    client: FlaskClient, database: Database, state: str, words: str
):
    insert(database, "1000")
    database.run(
        "insert into runs (state, pid, listed, ended_at) "
        "values (:state, 1, 40, case when :state = 'failed' then now() end)",
        state=state,
    )
    database.run("insert into ledger (key, revision, reason, detail) values ('7.csv', 1, 'unreadable', 'no')")
    page = browse(client, "/").text
    assert not [unknown for unknown in UNKNOWN if unknown in page]
    text = read_text(page)
    assert "No run has ended well yet." in text
    assert words in text
    assert "1 user so far" in text
    assert "1 rejected file so far" in text
    assert "1 file is due to be read again." in text
    nobody = read_text(browse(client, "/?min_age=149").text)
    assert "Nobody matches this filter so far. Show 1 user so far." in nobody


def test_how_much_there_is_to_list_is_known_from_runs_that_ended_well(
    client: FlaskClient, database: Database
):
    database.run("insert into runs (state, pid, ended_at, listed) values ('ok', 1, now(), 200)")
    database.run("insert into runs (state, pid, ended_at, listed) values ('failed', 1, now(), 900)")
    with run_going_on(database, listed=50):
        assert "50 of about 200 files listed" in read_text(browse(client, "/").text)


def test_of_many_rejects_the_reasons_are_counted(client: FlaskClient, database: Database):
    end_run_well(database)
    database.run(
        """
        insert into ledger (key, revision, detail, reason)
        select n || '.csv', 1, '',
               case when n % 4 = 0 then 'cell_count' when n % 10 = 1 then 'row_count' else 'not_utf8' end
        from generate_series(1, 2000) as n
        """
    )
    text = browse(client, "/").text
    assert "2,000 rejected files<" in text
    assert "The first 50 are shown" in text
    assert "1,300 <code>not_utf8</code>, 500 <code>cell_count</code>, 200 <code>row_count</code>." in text


def test_a_page_for_every_problem(client: FlaskClient):
    for address, status, code in (
        ("/nothing", 404, "not_found"),
        ("/data/nobody", 404, "user_not_found"),
        ("/data/nobody/image", 404, "user_not_found"),
        ("/?min_age=x", 400, "parameter_malformed"),
    ):
        got = browse(client, address)
        assert (got.status_code, got.mimetype, got.headers["Cache-Control"]) == (
            status,
            "text/html",
            "no-store",
        )
        assert f"<code>{code}</code>" in got.text
        assert json.loads(client.get(address).data)["code"] == code


def test_texts_are_shown_as_they_are(client: FlaskClient, database: Database):
    """Names, ids, keys and details are escaped once, not twice."""
    odd = "A&amp;B <code>x</code>"
    insert(database, odd, first_name=odd, last_name=f"{odd}!", img_path="src-data/x.png")
    database.run("insert into ledger (key, revision, reason, detail) values (:key, 1, 'x', :key)", key=odd)
    text = read_text(browse(client, "/").text)
    assert f"{odd} {odd} {odd}!" in text
    assert f"{odd}{odd} x" in text


def test_a_token_is_asked_for_and_named_in_the_command(database: Database):
    with open_client({**database.env("get_data"), "API_TOKEN": "s3cret"}) as client:
        got = browse(client, "/")
        assert (got.status_code, got.mimetype) == (401, "text/html")
        assert find_markup(got.text) == []
        assert "as Authorization: Bearer <token> or" in read_text(got.text)
        assert "Basic" in got.headers["WWW-Authenticate"]
        insert(database, "1")
        got = client.get("/", headers=BROWSER, auth=("any", "s3cret"))
        assert (
            "curl -H &#34;Authorization: Bearer $API_TOKEN&#34; &#39;http://localhost/data&#39;" in got.text
        )
        assert "s3cret" not in got.text
        assert client.get(re.findall('href="(/assets/page[^"]*)"', got.text)[0]).status_code == 200


def test_assets_are_kept_for_ever_by_their_names(client: FlaskClient):
    paths = set(re.findall('"(/assets/[^"]*)"', browse(client, "/").text))
    assert len(paths) == 3
    for path in paths:
        got = client.get(path)
        assert got.status_code == 200
        assert got.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert client.get("/assets/page.css").status_code == 404


def test_pages_are_compressed_and_have_no_tag(client: FlaskClient, database: Database):
    insert_many(database, 100)
    got = client.get("/", headers={**BROWSER, "Accept-Encoding": "gzip"})
    assert (got.headers["Content-Encoding"], "ETag" in got.headers) == ("gzip", False)
