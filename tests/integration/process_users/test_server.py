"""process-users under the framework's own server, over HTTP: replicas, kills, odd requests, logs."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from pipeline import ONE_STORE, Pipeline, to_csv
from rig import Function, run_function

from rollcall.ports import HOST
from rollcall.processes import StartError, kill_all, wait_until

pytestmark = ONE_STORE
StartFunction = Callable[[str, Mapping[str, str]], Function]
AS_IN_IMAGES = {"WORKERS": "2", "THREADS": "8"}


def ask(
    function: Function, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Send one request, its path as it is, over a connection of its own."""
    connection = HTTPConnection(HOST, function.port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def kill(function: Function) -> None:
    """End every process of a function at once, as a power cut does."""
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("HOME") == str(function.home):
            kill_all([process])


def test_a_run_that_is_killed_is_lost_and_another_replica_completes_it(
    pipeline: Pipeline, start_function: StartFunction
):
    for key in ("1000.csv", "1000.png", "1001.csv"):
        pipeline.put(key)
    pipeline.run()
    pipeline.put("1000.csv", to_csv("Grace"))
    pipeline.put("1002.csv")
    killed = start_function("process-users", {**pipeline.env(), **AS_IN_IMAGES})
    with ThreadPoolExecutor(1) as thread, pipeline.holding_commits() as gate:
        run = thread.submit(ask, killed, "POST", "/data")
        gate.wait_for()
        assert pipeline.get("/runs")["runs"][0]["state"] == "running"
        kill(killed)
        with pytest.raises((HTTPException, OSError)):
            run.result(10)
        # The server sees within half a second that its client is gone.
        wait_until(
            lambda: pipeline.get("/runs")["runs"][0]["state"] == "lost", timeout_s=30, what="a lost run"
        )
    report = pipeline.run()
    assert (report["run_id"], report["upserted"], report["unchanged"]) == (3, 2, 2)
    states = [(run["run_id"], run["state"]) for run in pipeline.get("/runs")["runs"]]
    assert states == [(3, "ok"), (2, "lost"), (1, "ok")]
    assert pipeline.pictures() == {"1000": "1000.png", "1001": None, "1002": None}
    assert pipeline.users()[0][1] == "Grace"


def test_of_twenty_runs_asked_for_at_once_one_is_done(pipeline: Pipeline, start_function: StartFunction):
    pipeline.put("1000.csv")
    function = start_function("process-users", {**pipeline.env(), **AS_IN_IMAGES})
    with ThreadPoolExecutor(20) as threads, pipeline.holding_commits() as gate:
        answers = [threads.submit(ask, function, "POST", "/data") for _ in range(20)]
        wait_until(lambda: sum(answer.done() for answer in answers) == 19, timeout_s=30, what="19 refusals")
        gate.open_now()
        results = [answer.result(30) for answer in answers]
    refused = [(status, body["run_id"]) for status, body in results if status != 200]
    assert refused == [(409, 1)] * 19
    assert pipeline.database.run("select run_id, state from runs") == [[1, "ok"]]


def test_odd_requests_do_nothing(pipeline: Pipeline, start_function: StartFunction):
    function = start_function("process-users", pipeline.env())
    table = [
        ("GET", "/data", 405, "method_not_allowed"),
        ("DELETE", "/data", 405, "method_not_allowed"),
        ("OPTIONS", "/", 405, "method_not_allowed"),
        ("POST", "/runs", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("POST", "/data/", 404, "not_found"),
        ("POST", "//data", 404, "not_found"),
        ("POST", "/events", 404, "not_found"),  # without its token there is no such place
        ("GET", "/runs/1/2", 404, "not_found"),
        ("POST", "/%FF", 400, "path_malformed"),
        ("POST", "/data%00", 400, "path_malformed"),
        ("GET", "/runs/%09", 400, "path_malformed"),
        ("POST", "/data?full=%FF", 400, "query_malformed"),
        ("POST", "/data?full=%zz", 400, "query_malformed"),
        ("POST", "/data?full=tru%00e", 400, "query_malformed"),
    ]
    got = [(method, path, *ask(function, method, path)) for method, path, _, _ in table]
    assert [(method, path, status, body["code"]) for method, path, status, body in got] == table
    assert pipeline.database.run("select from runs") == []


def test_a_body_that_is_too_large_is_refused_unread(pipeline: Pipeline, start_function: StartFunction):
    function = start_function("process-users", pipeline.env(EVENTS_TOKEN="events"))
    headers = {"Authorization": "Bearer events", "Content-Length": "1048577"}
    status, problem = ask(function, "POST", "/events", body=b"x", headers=headers)
    assert (status, problem["code"]) == (413, "body_too_large")
    headers["Content-Length"] = "1048576"
    status, problem = ask(function, "POST", "/events", body=b"x" * 1_048_576, headers=headers)
    assert (status, problem["code"]) == (400, "notification_malformed")


def test_logs_are_json_lines_without_data_of_users(pipeline: Pipeline, start_function: StartFunction):
    function = start_function("process-users", pipeline.env(API_TOKEN="token-of-tests"))
    pipeline.put("1000secret.csv")
    pipeline.put("bad1000.csv", b"King")
    authorization = {"Authorization": "Bearer token-of-tests"}
    assert ask(function, "POST", "/data", headers=authorization)[0] == 200
    assert ask(function, "POST", "/data?full=Ada", headers=authorization)[0] == 400
    assert ask(function, "GET", "/runs/1", headers=authorization)[0] == 200
    assert ask(function, "GET", "/runs/1")[0] == 401
    assert ask(function, "GET", "/1000secret")[0] == 404
    # A line follows the answer, so the last ones may come in any order.
    wait_until(
        lambda: function.log.read_text().count('"status": 40') == 3, timeout_s=60, what="the last lines"
    )
    text = function.log.read_text()
    # The framework's server writes a few lines of its own.
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    lines = [line for line in lines if line.get("route") != "/healthz"]
    assert {line["function"] for line in lines} == {"process-users"}
    events = [(line["event"], line.get("method"), line.get("route"), line.get("status")) for line in lines]
    assert sorted(events, key=str) == sorted(
        [
            ("run.started", None, None, None),
            ("run.finished", None, None, None),
            ("request", "POST", "/data", 200),
            ("request", "POST", "/data", 400),
            ("request", "GET", "/runs/<run_id>", 200),
            ("request", "GET", "/runs/<run_id>", 401),
            ("request", "GET", "", 404),
        ],
        key=str,
    )
    for data in ("1000", "Ada", "King", "612302400000", "token-of-tests", pipeline.env()["PGPASSWORD"]):
        assert data not in text


def test_wrong_settings_end_the_start_and_name_every_one(pipeline: Pipeline, tmp_path: Path):
    env = {**pipeline.env(), "PGPORT": "x", "MINIO_ENDPOINT": "localhost", "MINIO_SECRET_KEY": ""}
    with (
        pytest.raises(StartError, match="ended at its start"),
        run_function("process-users", env, home=tmp_path),
    ):
        pass
    text = (tmp_path / "log").read_text()
    assert "PGPORT is 'x'" in text
    assert "MINIO_ENDPOINT is 'localhost'" in text
    assert "MINIO_SECRET_KEY is not set" in text
