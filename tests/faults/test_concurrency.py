"""Fifty runs asked for at once, of two processes: one is done."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import urllib3
from faults.comparison import compare, look
from faults.model import BROKEN, PICTURE, VALID, Model
from pg8000.native import Connection as Driver
from pipeline import ONE_STORE, Pipeline
from rig import Function, StartFunction

from rollcall.processes import wait_until

pytestmark = ONE_STORE
RUNS = 50


def ask(function: Function) -> tuple[int, dict[str, Any], float]:
    """Ask for a run over a connection of its own; returns status, answer and seconds."""
    started = time.monotonic()
    with urllib3.PoolManager(retries=False) as pool:
        response = pool.request("POST", f"{function.url}/data", timeout=60)
        return response.status, response.json(), time.monotonic() - started


def test_of_fifty_runs_asked_for_at_once_of_two_processes_one_is_done(
    pipeline: Pipeline, owner: Driver, start_function: StartFunction, count: Any
):
    model = Model(
        {"1.csv": VALID["ada"], "1.png": PICTURE, "2.csv": BROKEN["cells"], "3.csv": VALID["grace"]}
    )
    for key, file in model.files.items():
        pipeline.put(key, file.body)
    function = start_function("process-users", pipeline.env(WORKERS="2", THREADS="32"))
    wait_until(lambda: len(workers(function)) == 2, timeout_s=20, what="two processes")
    with ThreadPoolExecutor(RUNS) as threads, pipeline.holding_commits() as gate:
        answers = [threads.submit(ask, function) for _ in range(RUNS)]
        wait_until(lambda: sum(map(is_done, answers)) == RUNS - 1, timeout_s=60, what="49 refusals")
        gate.open_now()
        results = [answer.result(60) for answer in answers]
    done = [report for status, report, _ in results if status == 200]
    refused = [
        (status, problem["code"], problem["run_id"]) for status, problem, _ in results if status != 200
    ]
    assert [report["state"] for report in done] == ["ok"]
    assert refused == [(409, "run_in_progress", done[0]["run_id"])] * (RUNS - 1)
    assert [[run["run_id"], run["state"]] for run in look(owner).runs] == [[done[0]["run_id"], "ok"]]
    model.run(remove=False)
    compare(look(owner), pipeline, model)
    slowest_s = max(seconds for status, _, seconds in results if status == 409)
    count(done=len(done), refused=len(refused), slowest_refusal_s=round(slowest_s, 2))


def is_done(answer: Any) -> bool:
    return answer.done()


def workers(function: Function) -> list[psutil.Process]:
    """Return the processes of the function that the framework's server has forked."""
    home = str(function.home)
    found = [
        process
        for process in psutil.process_iter(["environ", "ppid"])
        if (process.info["environ"] or {}).get("HOME") == home
    ]
    masters = {process.pid for process in found}
    return [process for process in found if process.info["ppid"] in masters]
