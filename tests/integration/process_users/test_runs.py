"""Runs as they are asked for and recorded: options, the report, /runs, one at a time."""

import re

import pytest
from pipeline import ONE_STORE, OUTPUT_HEADER, Pipeline, document, to_csv
from watch import watched

pytestmark = ONE_STORE
TIMESTAMP = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_the_report_says_what_the_run_did(pipeline: Pipeline):
    for key in ("1000.csv", "1000.png", "1001.csv", "notes.txt"):
        pipeline.put(key)
    pipeline.put("bad.csv", b"")
    with watched() as watch:
        report = pipeline.run()
    assert TIMESTAMP.fullmatch(report.pop("started_at"))
    assert 0 < report.pop("seconds") < watch.seconds
    assert report == {
        "run_id": 1,
        "state": "ok",
        "listed": 5,
        "ignored": 1,
        "unchanged": 0,
        "upserted": 2,
        "removed": 0,
        "rejected": 1,
        "rejects": [
            {
                "key": "bad.csv",
                "reason": "row_count",
                "detail": "wanted a header and exactly one row, found no header",
            }
        ],
        "output": {"bucket": pipeline.bucket.output, "key": "output.csv", "rows": 2},
    }


def test_both_addresses_do_a_run(pipeline: Pipeline):
    assert [document(pipeline.client().post(path))["run_id"] for path in ("/", "/data")] == [1, 2]


def test_the_report_shows_the_first_hundred_rejects(pipeline: Pipeline):
    keys = [f"{number:03}.csv" for number in range(101)]
    for key in keys:
        pipeline.put(key, b"")
    report = pipeline.run()
    assert report["rejected"] == 101
    assert [reject["key"] for reject in report["rejects"]] == keys[:100]
    assert len(pipeline.fetch("rejects.csv").text.splitlines()) == 102


def test_a_second_run_reads_nothing_and_changes_nothing(pipeline: Pipeline, asked: list[str]):
    for key in ("1000.csv", "1000.png", "1001.csv"):
        pipeline.put(key)
    pipeline.put("bad.csv", b"")
    pipeline.run()
    asked.clear()
    before, outputs = pipeline.tables(), pipeline.outputs()
    report = pipeline.run()
    assert (report["listed"], report["unchanged"], report["upserted"]) == (4, 4, 0)
    assert asked == []
    after = pipeline.tables()
    assert [after[name] for name in ("users", "ledger")] == [before[name] for name in ("users", "ledger")]
    assert pipeline.outputs() == outputs


def test_full_reads_every_object_again(pipeline: Pipeline, asked: list[str]):
    for key in ("1000.csv", "1000.png", "1001.csv", "notes.txt"):
        pipeline.put(key)
    pipeline.put("bad.csv", b"")
    pipeline.run()
    pipeline.database.run("update users set last_name = 'Changed' where user_id = '1000'")
    asked.clear()
    assert pipeline.run()["upserted"] == 0
    assert asked == []
    report = pipeline.run("full=true")
    assert sorted(asked) == ["1000.csv", "1001.csv", "bad.csv"]
    assert (report["unchanged"], report["upserted"], report["rejected"]) == (0, 1, 1)
    assert {user[2] for user in pipeline.users()} == {"King"}


def test_other_rules_read_every_object_again(
    pipeline: Pipeline, asked: list[str], monkeypatch: pytest.MonkeyPatch
):
    pipeline.put("1000.csv")
    pipeline.put("bad.csv", b"")
    pipeline.run()
    asked.clear()
    monkeypatch.setattr("process_users.settings.RULES_VERSION", "next")
    pipeline.run()
    assert sorted(asked) == ["1000.csv", "bad.csv"]
    asked.clear()
    pipeline.run()
    assert asked == []


MESSES = ["ON_SOURCE_DELETE=keep", "ON_SOURCE_DELETE=remove", "SOURCE_PREFIX=in/"]


@pytest.mark.parametrize("query", ["", "full=true"])
@pytest.mark.parametrize("setting", MESSES)
def test_a_dry_run_tells_what_the_run_then_does_and_changes_nothing(
    pipeline: Pipeline, setting: str, query: str
):
    settings = dict([setting.split("=")])
    keys = (
        "same.csv",
        "same.png",
        "gone.csv",
        "gone.png",
        "breaks.csv",
        "mends.csv",
        "nopic.csv",
        "nopic.jpg",
    )
    for key in (*keys, "in/same.csv", "in/same.png"):
        pipeline.put(key)
    pipeline.put("mends.csv", b"")
    pipeline.run()
    pipeline.remove("gone.csv", "gone.png", "bare.jpg")
    pipeline.put("breaks.csv", b"")
    pipeline.put("mends.csv")
    pipeline.put("new.csv")
    pipeline.put("new.CSV")
    pipeline.put("same.csv", to_csv("Other"))
    before, outputs = pipeline.tables(), pipeline.outputs()
    rehearsed = pipeline.run(f"dry_run=true&{query}", **settings)
    assert (pipeline.tables(), pipeline.outputs()) == (before, outputs)
    done = pipeline.run(query, **settings)
    assert (rehearsed["run_id"], rehearsed["state"]) == (None, "dry_run")
    assert done["upserted"] > 0
    for report in (rehearsed, done):
        for name in ("run_id", "state", "started_at", "seconds"):
            del report[name]
    assert rehearsed == done


def test_a_dry_run_before_the_first_run_leaves_nothing_behind(pipeline: Pipeline):
    pipeline.put("1000.csv")
    before = pipeline.tables()
    report = pipeline.run("dry_run=True&full=FALSE")
    assert (report["upserted"], report["output"]["rows"]) == (1, 1)
    assert pipeline.tables() == before
    listed = pipeline.store.list_objects(bucket_name=pipeline.bucket.output)
    assert list(listed) == []


def test_an_empty_bucket_is_fine_at_first(pipeline: Pipeline):
    report = pipeline.run()
    assert (report["listed"], report["output"]["rows"]) == (0, 0)
    assert pipeline.fetch("output.csv").text == OUTPUT_HEADER


@pytest.mark.parametrize("query", ["", "dry_run=true", "full=true"])
def test_a_bucket_that_lists_nothing_any_more_fails_the_run_alone(pipeline: Pipeline, query: str):
    pipeline.put("1000.csv")
    pipeline.put("1000.png")
    pipeline.run(ON_SOURCE_DELETE="remove")
    pipeline.remove("1000.csv", "1000.png")
    before, outputs = pipeline.tables(), pipeline.outputs()
    response = pipeline.client(ON_SOURCE_DELETE="remove").post(f"/data?{query}")
    assert (response.status_code, document(response)) == (
        422,
        {
            "type": "about:blank",
            "title": "Unprocessable Entity",
            "status": 422,
            "code": "source_empty",
            "detail": f"{pipeline.bucket.source}/ lists no object although it did before; nothing was "
            "changed. If that is meant, run again with allow_empty=true",
        },
    )
    after = pipeline.tables()
    del before["runs"], after["runs"]
    assert (after, pipeline.outputs()) == (before, outputs)
    if "dry_run" not in query:
        assert pipeline.database.run("select state, error from runs order by run_id desc limit 1") == [
            ["failed", "source_empty"]
        ]
    report = pipeline.run("allow_empty=true", ON_SOURCE_DELETE="remove")
    assert (report["removed"], report["output"]["rows"]) == (1, 0)
    assert pipeline.tables()["ledger"] == []
    pipeline.run(ON_SOURCE_DELETE="remove")  # now that it is known to be empty, it may be so


def test_allow_empty_keeps_users_where_they_are_kept(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.put("1000.png")
    pipeline.run()
    pipeline.remove("1000.csv", "1000.png")
    report = pipeline.run("allow_empty=true")
    assert (report["upserted"], report["removed"], report["output"]["rows"]) == (1, 0, 1)
    assert pipeline.pictures() == {"1000": None}


@pytest.mark.parametrize(
    ("query", "code", "parameter"),
    [
        ("ful=true", "parameter_unknown", "ful"),
        ("full=1", "parameter_malformed", "full"),
        ("full=", "parameter_empty", "full"),
        ("dry_run=true&dry_run=true", "parameter_repeated", "dry_run"),
        ("limit=3", "parameter_unknown", "limit"),
    ],
)
def test_a_run_that_is_asked_for_wrongly_does_not_begin(
    pipeline: Pipeline, query: str, code: str, parameter: str
):
    response = pipeline.client().post(f"/data?{query}")
    assert (response.status_code, document(response)["code"], document(response)["parameter"]) == (
        400,
        code,
        parameter,
    )
    assert pipeline.database.run("select from runs") == []


def test_the_runs_are_listed_newest_first(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.put("bad.csv", b"")
    pipeline.run()
    pipeline.run("full=true")
    runs = pipeline.get("/runs")["runs"]
    for run in runs:
        assert TIMESTAMP.fullmatch(run.pop("started_at"))
        assert TIMESTAMP.fullmatch(run.pop("ended_at"))
    first = {
        "run_id": 1,
        "state": "ok",
        "full": False,
        "listed": 2,
        "ignored": 0,
        "unchanged": 0,
        "upserted": 1,
        "removed": 0,
        "rejected": 1,
        "error": None,
    }
    assert runs == [{**first, "run_id": 2, "full": True, "upserted": 0}, first]
    assert pipeline.get("/runs?limit=1")["runs"][0]["run_id"] == 2
    one = pipeline.get("/runs/1")
    assert one == {**first, "started_at": one["started_at"], "ended_at": one["ended_at"]}


@pytest.mark.parametrize("number", ["2", "0", "-1", "x", "1.0", "01x", "9" * 30, "%C2%B9"])
def test_a_run_that_never_was_is_not_found(pipeline: Pipeline, number: str):
    pipeline.run()
    response = pipeline.client().get(f"/runs/{number}")
    assert (response.status_code, document(response)["code"]) == (404, "run_not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=", "after=1"])
def test_the_list_of_runs_takes_a_limit_alone(pipeline: Pipeline, query: str):
    assert pipeline.client().get(f"/runs?{query}").status_code == 400
    assert pipeline.client().get("/runs/1?limit=1").status_code == 400


def test_the_last_thousand_runs_are_kept(pipeline: Pipeline):
    pipeline.database.run("insert into runs (state, pid) select 'ok', 1 from generate_series(1, 1200)")
    pipeline.run()
    assert pipeline.database.run("select count(*), min(run_id), max(run_id) from runs") == [[1000, 202, 1201]]


@pytest.mark.usefixtures("small_steps")
def test_a_run_shows_how_far_it_is_with_each_batch(pipeline: Pipeline):
    for key in ("1.csv", "1.png", "2.csv", "notes.txt", "3.csv"):
        pipeline.put(key)
    with pipeline.stopping_at("3.csv") as gate:
        response = pipeline.begin()
        gate.wait_for()
        runs = pipeline.get("/runs")["runs"]
        one = pipeline.get("/runs/1")
        gate.open_now()
        assert response.result(10).status_code == 200
    assert runs == [one]
    assert (one["run_id"], one["state"], one["ended_at"]) == (1, "running", None)
    assert one["upserted"] == 3  # 1 changed twice: its picture is a batch of its own
    assert 3 <= one["listed"] <= 5  # the listing is ahead of what is committed
    after = pipeline.get("/runs/1")
    assert (after["state"], after["listed"], after["ignored"], after["upserted"]) == ("ok", 5, 1, 4)


def test_a_second_run_is_refused_while_one_is_going_on(pipeline: Pipeline):
    pipeline.put("1000.csv")
    with pipeline.holding_commits() as gate:
        first = pipeline.begin()
        gate.wait_for()
        refused = [pipeline.client(LOG_LEVEL=level).post("/data") for level in ("info", "error")]
        gate.open_now()
        assert document(first.result(10))["run_id"] == 1
    for response in refused:
        assert (response.status_code, response.headers["Retry-After"]) == (409, "5")
        assert document(response) == {
            "type": "about:blank",
            "title": "Conflict",
            "status": 409,
            "code": "run_in_progress",
            "detail": "run 1 is going on",
            "run_id": 1,
        }
    assert pipeline.run()["run_id"] == 2


@pytest.mark.usefixtures("small_steps")
def test_a_run_whose_session_is_cut_is_lost_and_the_next_goes_on_from_there(
    pipeline: Pipeline, asked: list[str]
):
    for key in ("1.csv", "2.csv", "3.csv"):
        pipeline.put(key)
    with pipeline.stopping_at("3.csv") as gate:
        response = pipeline.begin()
        gate.wait_for()
        pipeline.database.run(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'process-users' and datname = current_database()"
        )
        assert response.result(10).status_code == 503
    assert document(response.result())["code"] == "database_unavailable"
    assert pipeline.get("/runs/1")["state"] == "lost"
    assert pipeline.user_ids() == ["1", "2"]
    asked.clear()
    assert pipeline.run()["upserted"] == 1
    assert asked == ["3.csv"]
    states = [(run["run_id"], run["state"]) for run in pipeline.get("/runs")["runs"]]
    assert states == [(2, "ok"), (1, "lost")]
    assert pipeline.get("/runs/1")["ended_at"]


def test_statistics_are_fresh_after_a_large_load(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("process_users.run.LARGE_LOAD_USERS", 3)
    estimates = (
        "select relname, reltuples from pg_class where relname in ('users', 'ledger') order by relname"
    )
    for key in ("1.csv", "2.csv"):
        pipeline.put(key)
    pipeline.run()
    assert pipeline.database.run(estimates) == [["ledger", -1], ["users", -1]]
    for key in ("3.csv", "4.csv", "5.csv", "5.png"):
        pipeline.put(key)
    pipeline.run()
    assert pipeline.database.run(estimates) == [["ledger", 6], ["users", 5]]
