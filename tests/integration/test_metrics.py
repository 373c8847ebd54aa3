"""/metrics of both functions under several workers: every request is counted, once, whoever answers."""

import json
import os
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from get_data_client import insert_many, open_client
from prometheus_client.parser import text_string_to_metric_families
from rig import Bucket, Database, Function, StartFunction, run_function

from rollcall.processes import wait_until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read_metrics(function: Function) -> Samples:
    with urllib.request.urlopen(f"{function.url}/metrics", timeout=10) as response:  # noqa: S310  our own
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = text_string_to_metric_families(response.read().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def ask(function: Function, path: str, method: str = "GET") -> None:
    request = urllib.request.Request(f"{function.url}{path}", method=method)  # noqa: S310  our own
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        response.read()


def requests(route: str, code: str, method: str = "GET") -> tuple[str, tuple[tuple[str, str], ...]]:
    return "rollcall_requests_total", (("code", code), ("method", method), ("route", route))


def test_every_worker_counts(database: Database, start_function: StartFunction):
    insert_many(database, 7)
    database.run("insert into versions (version) values (5)")
    function = start_function("get-data", {**database.env("get_data"), "WORKERS": "3"})
    paths = ["/data/100001"] * 20 + ["/data/nobody"] * 10 + ["/data?limit=2"] * 5 + ["/nothing"] * 3
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: ask(function, path), paths))

    of_user = (("method", "GET"), ("route", "/data/<user_id>"))
    want = {
        requests("none", "404"): 3,
        requests("/data/<user_id>", "200"): 20,
        requests("/data/<user_id>", "404"): 10,
        requests("/data", "200"): 5,
        ("rollcall_request_seconds_count", of_user): 30,
    }
    # A request is counted when its answer has been sent.
    wait_until(lambda: want.items() <= read_metrics(function).items(), timeout_s=10, what="all to be counted")
    got = read_metrics(function)
    assert want.items() <= got.items()
    assert (got["rollcall_users", ()], got["rollcall_data_version", ()], got["rollcall_ready", ()]) == (
        7,
        5,
        1,
    )
    assert not any("100001" in str(name) for name in got)


def test_a_killed_worker_takes_no_count_along(database: Database, start_function: StartFunction):
    insert_many(database, 1)
    function = start_function("get-data", {**database.env("get_data"), "WORKERS": "2"})
    for _ in range(10):
        ask(function, "/data/100001")
    wait_until(
        lambda: read_metrics(function).get(requests("/data/<user_id>", "200")) == 10,
        timeout_s=10,
        what="all to be counted",
    )
    for worker in workers(function):
        worker.kill()
    wait_until(function.answers, timeout_s=15, what="new workers")
    assert read_metrics(function)[requests("/data/<user_id>", "200")] == 10


def test_a_worker_that_is_only_making_its_file_stops_no_counts(
    database: Database, start_function: StartFunction, tmp_path: Path
):
    function = start_function("get-data", {**database.env("get_data"), "TMPDIR": str(tmp_path)})
    ask(function, "/data")
    asked = requests("/data", "200")
    wait_until(lambda: read_metrics(function).get(asked) == 1, timeout_s=10, what="the request to be counted")
    (directory,) = tmp_path.glob("rollcall-metrics-*")
    (directory / "counter_1.db").touch()
    assert read_metrics(function)[asked] == 1


def test_counts_that_are_gone_are_not_told_as_none(
    database: Database, start_function: StartFunction, tmp_path: Path
):
    function = start_function("get-data", {**database.env("get_data"), "TMPDIR": str(tmp_path)})
    ask(function, "/data")
    (directory,) = tmp_path.glob("rollcall-metrics-*")
    directory.rename(tmp_path / "cleaned-away")
    with pytest.raises(urllib.error.HTTPError) as refused:
        read_metrics(function)
    with refused.value as answer:
        assert answer.code == 500


def workers(function: Function) -> list[psutil.Process]:
    family = [
        child
        for child in psutil.Process(os.getpid()).children(recursive=True)
        if str(function.port) in child.cmdline()
    ]
    master = min(family, key=lambda process: process.create_time())
    return [process for process in family if process != master]


def test_runs_are_counted_by_how_they_end(database: Database, bucket: Bucket, start_function: StartFunction):
    function = start_function("process-users", {**database.env("process_users"), **bucket.env})
    assert read_metrics(function)["rollcall_last_success_timestamp_seconds", ()] == 0
    for path in ("/data", "/data?dry_run=true", "/data", "/data?full=maybe"):
        ask(function, path, "POST")
    got = read_metrics(function)
    assert got["rollcall_runs_total", (("result", "ok"),)] == 2
    ended = database.run("select extract(epoch from max(ended_at)) from runs")[0][0]
    assert got["rollcall_last_success_timestamp_seconds", ()] == pytest.approx(float(ended))
    assert (got["rollcall_rejected_objects", ()], got["rollcall_due_objects", ()]) == (0, 0)


def test_objects_are_due_that_could_not_be_read(database: Database, start_function: StartFunction):
    database.run(
        """
        insert into ledger (key, etag, revision, user_id, reason) values
            ('1.csv', 'e', 1, '1', null),
            ('2.csv', null, 1, '2', 'unreadable'),
            ('3.csv', 'e', 1, '3', 'row_count'),
            ('4.csv', null, 1, null, null)
        """
    )
    function = start_function("process-users", database.env("process_users"))
    got = read_metrics(function)
    assert (got["rollcall_rejected_objects", ()], got["rollcall_due_objects", ()]) == (2, 1)


def test_without_postgres_the_counts_are_told_still(database: Database):
    with open_client({**database.env("get_data"), "PGPORT": "1"}) as client:
        got = client.get("/metrics")
    assert got.status_code == 200
    assert "rollcall_ready 0.0" in got.text
    assert "rollcall_users" not in got.text


def test_the_token_is_asked_for(database: Database):
    with open_client({**database.env("get_data"), "API_TOKEN": "s3cret"}) as client:
        got = client.get("/metrics")
        assert (got.status_code, json.loads(got.data)["code"]) == (401, "unauthorized")
        assert client.get("/metrics", headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_what_a_server_counts_in_is_gone_when_it_stops(database: Database, tmp_path: Path):
    with run_function(
        "get-data", {**database.env("get_data"), "TMPDIR": str(tmp_path)}, home=tmp_path / "home"
    ) as function:
        ask(function, "/data")
        counts = "rollcall-metrics-*/*.db"
        wait_until(lambda: any(tmp_path.glob(counts)), timeout_s=10, what="the request to be counted")
    assert not list(tmp_path.glob("rollcall-metrics-*"))
