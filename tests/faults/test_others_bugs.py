"""What has gone wrong in other systems that do this job, and does not here."""

import csv
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3
from faults.comparison import compare, look
from faults.events import CREATED, REMOVED, notification, send
from faults.killing import killable, run_request
from faults.model import BROKEN, PICTURE, File, Model, record
from pg8000.native import Connection as Driver
from pipeline import ONE_STORE, Pipeline, document, stopping_after_reading
from rig import Function, StartFunction

from rollcall.processes import wait_until

pytestmark = ONE_STORE
OLD, NEW = record("Old"), record("New")


class Bucketful:
    """A bucket with its model; `run` compares everything."""

    def __init__(self, pipeline: Pipeline, owner: Driver) -> None:
        self.pipeline, self.owner, self.model = pipeline, owner, Model()

    def put(self, key: str, file: File) -> None:
        self.pipeline.put(key, file.body)
        self.model.files[key] = file

    def remove(self, key: str) -> None:
        self.pipeline.remove(key)
        del self.model.files[key]

    def run(self, query: str = "") -> dict[str, Any]:
        report = self.pipeline.run(query)
        self.compare()
        return report

    def compare(self) -> None:
        self.model.run(remove=False)
        compare(look(self.owner), self.pipeline, self.model)

    def event(self, key: str, event: str = CREATED) -> None:
        assert send(self.pipeline.client(), self.pipeline.bucket.source, key, event) == 204

    def names(self) -> dict[str, str]:
        return {user_id: person[0] for user_id, person in look(self.owner).people.items()}


@pytest.fixture
def bucketful(pipeline: Pipeline, owner: Driver) -> Bucketful:
    return Bucketful(pipeline, owner)


def get_json(function: Function, path: str) -> Any:
    with urllib3.PoolManager(retries=False) as pool:
        response = pool.request("GET", function.url + path, timeout=20)
        assert response.status == 200, response.data
        return response.json()


def test_a_restart_does_not_make_it_read_all_files_again(bucketful: Bucketful):
    """ClickHouse#116294: the registry was wiped by a restart."""
    for number in range(5):
        bucketful.put(f"{number}.csv", OLD)
    bucketful.run()
    restarted = bucketful.pipeline.client(LOG_LEVEL="error")
    report = restarted.post("/data").json
    assert isinstance(report, dict)
    assert (report["unchanged"], report["upserted"]) == (5, 0)


def test_a_late_key_that_sorts_before_the_last_one_is_not_ignored(bucketful: Bucketful):
    """ClickHouse, S3Queue in ordered mode."""
    bucketful.put("2.csv", OLD)
    bucketful.run()
    bucketful.put("1.csv", NEW)
    assert bucketful.run()["upserted"] == 1


def test_a_file_is_not_lost_while_another_process_holds_it(
    bucketful: Bucketful, tmp_path: Path, owner: Driver
):
    """ClickHouse PR #112313: who holds it is killed with it in hand."""
    bucketful.put("1.csv", OLD)
    with killable(bucketful.pipeline, tmp_path, remove=False, batch_objects=4) as victim:
        number = find_exchange(victim, "GET /", "/1.csv")
        owner.run("truncate users, ledger, runs, state; insert into state default values")
        assert victim.ask(run_request(), number=number, moment="after") is None
    wait_until(
        lambda: bucketful.pipeline.client().post("/data").status_code == 200, timeout_s=30, what="the lock"
    )
    bucketful.compare()


def find_exchange(victim: Any, *texts: str) -> int:
    """Return the number of the exchange with these texts in a run that nothing stops."""
    assert victim.ask(run_request(), number=-1, moment="after")["status"] == 200
    return next(one.number for one in victim.exchanges if all(text.encode() in one.request for text in texts))


def test_an_overwritten_file_has_a_defined_version(bucketful: Bucketful):
    """Auto Loader's FAQ: which version is loaded is undefined. Here: the one that is there now."""
    bucketful.put("1.csv", OLD)
    with stopping_after_reading() as pause:
        run = bucketful.pipeline.begin()
        pause.wait()
        bucketful.put("1.csv", NEW)
        pause.end()
        assert run.result(10).status_code == 200
    bucketful.run()
    assert bucketful.names() == {"1": "New"}


def test_changed_content_under_the_same_name_is_loaded(bucketful: Bucketful):
    """Snowpipe: a changed etag under a name that was loaded is not."""
    bucketful.put("1.csv", OLD)
    bucketful.run()
    bucketful.put("1.csv", NEW)
    assert bucketful.run()["upserted"] == 1


def test_a_renamed_file_is_loaded(bucketful: Bucketful):
    """Confluent's S3 source."""
    bucketful.put("1.csv", OLD)
    bucketful.run()
    bucketful.remove("1.csv")
    bucketful.put("2.csv", OLD)
    bucketful.run()
    assert bucketful.names() == {"1": "Old", "2": "Old"}


def test_files_of_the_same_second_are_all_loaded(bucketful: Bucketful):
    """pipelinewise-tap-s3-csv; olake PR #1220: progress was a time."""
    bucketful.put("1.csv", OLD)
    bucketful.run()
    bucketful.put("2.csv", OLD)
    bucketful.put("1.csv", NEW)  # with the same length as before, too
    bucketful.run()
    assert bucketful.names() == {"1": "New", "2": "Old"}


def test_rows_are_not_doubled_when_storing_the_state_fails(bucketful: Bucketful, owner: Driver):
    """dlt#4052: rows were there, the state that tells of them was not."""
    bucketful.put("1.csv", OLD)
    bucketful.put("1.png", PICTURE)
    owner.run("alter table ledger add constraint refuse check (picture is null)")
    assert bucketful.pipeline.client().post("/data").status_code == 500
    assert look(owner).users == []
    owner.run("alter table ledger drop constraint refuse")
    bucketful.run()
    bucketful.run("full=true")


def test_an_older_version_does_not_win(bucketful: Bucketful):
    """dlt#2145: here the older one was read first and is committed last."""
    bucketful.put("1.csv", OLD)
    with stopping_after_reading() as pause:
        run = bucketful.pipeline.begin()
        pause.wait()
        bucketful.put("1.csv", NEW)
        bucketful.event("1.csv")
        pause.end()
        assert run.result(10).status_code == 200
    bucketful.compare()


def test_a_commit_that_comes_late_is_not_missed_in_the_output(bucketful: Bucketful):
    """dlt#2269: a high-water mark passed what was not committed yet."""
    bucketful.put("1.csv", OLD)
    bucketful.put("2.csv", OLD)
    bucketful.run()
    bucketful.put("1.csv", NEW)
    with ThreadPoolExecutor(1) as threads, bucketful.pipeline.stopping_at("1.csv") as gate:
        event = threads.submit(bucketful.event, "1.csv")
        gate.wait_for()  # it has its number already
        run = bucketful.pipeline.begin()
        gate.wait_for(2)
        gate.open_now()
        event.result(10)
        assert run.result(10).status_code == 200
    bucketful.compare()


def test_a_file_that_becomes_visible_late_is_loaded(bucketful: Bucketful):
    """airbyte#5365: with a time that is before that of the last one."""
    bucketful.put("1.csv", OLD)
    with stopping_after_reading() as pause:
        run = bucketful.pipeline.begin()
        pause.wait()
        bucketful.put("0.csv", OLD)  # older than the end of the run that does not see it
        pause.end()
        assert run.result(10).status_code == 200
    assert bucketful.run()["upserted"] == 1


def test_events_that_are_lost_lose_nothing(bucketful: Bucketful):
    """minio#9344, minio#18404: a full queue, a restart."""
    bucketful.put("1.csv", OLD)
    bucketful.event("1.csv")
    bucketful.put("1.csv", NEW)
    bucketful.put("2.csv", OLD)
    bucketful.put("1.png", PICTURE)
    bucketful.run()


@pytest.mark.parametrize("last", [CREATED, REMOVED])
def test_events_in_any_order_say_what_is_there_now(bucketful: Bucketful, last: str):
    """`sequencer` is no order: the event that comes last may be about the first change."""
    for event in (CREATED, REMOVED, CREATED):
        bucketful.put("1.csv", NEW)
        bucketful.event("1.csv", event)
    bucketful.event("1.csv", last)
    assert bucketful.names() == {"1": "New"}
    bucketful.run()


def test_nothing_is_written_after_the_lock_is_lost(bucketful: Bucketful, owner: Driver):
    """openfaas#677: the write of a function that had been given up landed all the same."""
    bucketful.put("1.csv", OLD)
    bucketful.run()
    bucketful.put("1.csv", NEW)
    before = bucketful.pipeline.outputs()
    with bucketful.pipeline.stopping_at("1.csv") as gate:
        run = bucketful.pipeline.begin()
        gate.wait_for()
        owner.run("select pg_terminate_backend(pid) from locks where name = 'run'")
        response = run.result(15)
    assert (response.status_code, document(response)["code"]) == (503, "database_unavailable")
    assert bucketful.pipeline.outputs() == before
    assert bucketful.names() == {"1": "Old"}
    bucketful.run()


def test_a_run_that_stops_is_seen_to_have_stopped(bucketful: Bucketful, start_function: StartFunction):
    """litestream#1083: silence with healthy metrics. A process that was killed leaves a run `lost`."""
    bucketful.put("1.csv", OLD)
    function = start_function("process-users", bucketful.pipeline.env(WORKERS="1"))
    with ThreadPoolExecutor(1) as threads, bucketful.pipeline.stopping_at("1.csv") as gate:
        run = threads.submit(post_run, function)
        gate.wait_for()
        assert bucketful.pipeline.get("/runs")["runs"][0]["state"] == "running"
        kill_children(function)
        wait_until(
            lambda: bucketful.pipeline.get("/runs")["runs"][0]["state"] == "lost", timeout_s=30, what="lost"
        )
        assert run.exception(10) is not None
    assert bucketful.run()["state"] == "ok"


def post_run(function: Function) -> int:
    with urllib3.PoolManager(retries=False) as pool:
        return pool.request("POST", f"{function.url}/data", timeout=30).status


def kill_children(function: Function) -> None:
    """kill -9 every process of a function."""
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("HOME") == str(function.home):
            os.kill(process.pid, signal.SIGKILL)


def test_a_large_export_is_not_held_in_memory(bucketful: Bucketful, start_function: StartFunction):
    """PostgREST#4943: the whole result was buffered. The first bytes come while the last are not made."""
    bucketful.owner.run(
        "insert into users (user_id, first_name, last_name, birthdate) "
        "select lpad(n::text, 9, '0'), repeat('a', 200), repeat('b', 200), now() "
        "from generate_series(1, 200000) n"
    )
    function = start_function("get-data", bucketful.pipeline.database.env("get_data"))
    with urllib3.PoolManager(retries=False) as pool:
        response = pool.request("GET", f"{function.url}/data", preload_content=False, timeout=20)
        assert response.read(100).startswith(b'{"000000001"')
        exporting = (
            "select count(*) from pg_stat_activity where usename = 'rollcall_get_data' and state <> 'idle'"
        )
        assert bucketful.owner.run(exporting) == [[1]]  # in the middle of it
        response.close()


def test_no_text_of_an_error_is_written_into_the_csv(bucketful: Bucketful):
    """datasette#1379: an export that fails leaves the file that was there."""
    bucketful.put("1.csv", OLD)
    bucketful.run()
    before = bucketful.pipeline.outputs()
    bucketful.put("2.csv", OLD)
    bucketful.owner.run("alter table users rename column last_name to gone")
    assert bucketful.pipeline.client().post("/data").status_code in (500, 503)
    assert bucketful.pipeline.outputs() == before
    bucketful.owner.run("alter table users rename column gone to last_name")
    bucketful.run()
    rows = list(csv.reader(StringIO(bucketful.pipeline.fetch("output.csv").text)))
    assert {len(row) for row in rows} == {5}


def test_pages_hold_every_user_once_while_others_come_and_go(
    bucketful: Bucketful, start_function: StartFunction
):
    """supabase PR #37249: rows twice or missing in a paged export."""
    for number in range(30):
        bucketful.put(f"{number:02}.csv", OLD)
    bucketful.run()
    function = start_function("get-data", bucketful.pipeline.database.env("get_data"))
    got: list[str] = []
    after = ""
    while page := get_json(function, f"/data?limit=4{after and f'&after={after}'}"):
        got += page
        after = got[-1]
        bucketful.put(f"{after}0.csv", OLD)  # just behind the page, and one before it
        bucketful.put(f"00{len(got)}.csv", OLD)
        bucketful.event(f"{after}0.csv")
        bucketful.event(f"00{len(got)}.csv")
        bucketful.put(f"{after}.csv", NEW)
        bucketful.event(f"{after}.csv")
        if len(got) > 200:
            break
    steady = [user_id for user_id in got if len(user_id) == 2]
    assert steady == [f"{number:02}" for number in range(30)]
    assert len(set(got)) == len(got)


@pytest.mark.parametrize("limit", ["10001", "0", "-1", "1e3"])
def test_a_limit_is_refused_rather_than_clipped(
    bucketful: Bucketful, start_function: StartFunction, limit: str
):
    """nocodb#7761."""
    function = start_function("get-data", bucketful.pipeline.database.env("get_data"))
    with urllib3.PoolManager(retries=False) as pool:
        response = pool.request("GET", f"{function.url}/data?limit={limit}", timeout=20)
    assert response.status == 400
    assert "limit" in response.json()["detail"]


def test_two_schedulers_at_once_do_one_run(bucketful: Bucketful):
    """Run twice by two schedulers."""
    bucketful.put("1.csv", OLD)
    with bucketful.pipeline.holding_commits() as gate:
        run = bucketful.pipeline.begin()
        gate.wait_for()
        second = bucketful.pipeline.client(LOG_LEVEL="error").post("/data")
        gate.open_now()
        assert run.result(10).status_code == 200
    assert (second.status_code, second.headers["Retry-After"]) == (409, "5")
    assert [run["state"] for run in look(bucketful.owner).runs] == ["ok"]


def test_one_event_that_cannot_be_settled_does_not_block_the_later_ones(bucketful: Bucketful, owner: Driver):
    """MinIO's queue sends one event again and again until it is answered 2xx."""
    bucketful.put("1.csv", OLD)
    bucketful.put("2.csv", BROKEN["cells"])
    owner.run("alter table ledger add constraint refuse check (key <> '1.csv')")
    bucketful.event("1.csv")
    bucketful.event("2.csv")
    assert [entry["key"] for entry in look(owner).ledger] == ["2.csv"]
    owner.run("alter table ledger drop constraint refuse")
    bucketful.run()


def test_keys_are_read_as_the_store_escapes_them(bucketful: Bucketful):
    """A key with a blank or a plus sign is another key when it is unescaped twice, or not at all."""
    for key in ("a b.csv", "a+b.csv", "a%20b.csv", "é.csv"):
        bucketful.put(key, OLD)
        bucketful.event(key)
    assert set(bucketful.names()) == {"a b", "a+b", "a%20b", "é"}
    body = notification(bucketful.pipeline.bucket.source, "a+b.csv", CREATED)
    assert "a%2Bb.csv" in json.dumps(body)
    bucketful.run()
