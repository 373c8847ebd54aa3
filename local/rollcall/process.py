"""`make process`: starts a run now, shows its progress, and says what came of it.

QUERY holds what the run is asked for, as in `make process QUERY=dry_run=true`. It asks whichever of
`make run` and `make local-up` is up (STACK=run or STACK=compose chooses), or the Rollcall at ROLLCALL_URL. A
run that is going on already is shown to its end first: it may have passed what was put a moment ago.

The exit status is 0 when the run ended well, 1 when it did not, 2 when it was asked for wrongly, 3 when
nobody answers. (make itself makes a 2 of all but 0.)
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

import urllib3
from rich.console import Console
from rich.text import Text

from rollcall.progress import Run, Show, count, open_progress
from rollcall.terminal import say_error, visible
from rollcall.whereabouts import NotUpError, find_stack
from serving.values import find_fault

Answer = tuple[int, dict[str, Any]]  # status, and the report or problem
OK, FAILED, MISUSED, AWAY = 0, 1, 2, 3
INTERRUPTED = 130
POLL_S = 0.25
READ_TIMEOUT = urllib3.Timeout(connect=5, read=15)
RUN_TIMEOUT = urllib3.Timeout(connect=5, read=None)  # a run takes as long as it takes
LOOKED_AT = 20  # runs, to know how many files there are about
SHOWN_REJECTS, LONGEST_KEY = 20, 40


class CallError(Exception):
    """What came in the way; `status` is how to exit."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Service:
    """Rollcall at an address."""

    url: str
    token: str = field(repr=False)

    def call(self, query: str) -> Answer:
        """Ask for a run; returns when it has ended, with the status and the report or problem."""
        return self._request("POST", f"/data?{query}" if query else "/data", RUN_TIMEOUT)

    def fetch_runs(self) -> list[Run]:
        """The last runs, the newest first."""
        return _or_raise(*self._request("GET", f"/runs?limit={LOOKED_AT}", READ_TIMEOUT))["runs"]

    def fetch_run(self, run_id: int) -> Run:
        """One run."""
        return _or_raise(*self._request("GET", f"/runs/{run_id}", READ_TIMEOUT))

    def _request(self, method: str, path: str, timeout: urllib3.Timeout) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with urllib3.PoolManager(timeout=timeout, retries=False) as pool:
                answer = pool.request(method, f"{self.url}{path}", headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise CallError(f"{self.url} does not answer: {_describe(error)}", AWAY) from error
        try:
            document = json.loads(answer.data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise CallError(f"what answers at {self.url} is not Rollcall (status {answer.status})", AWAY)
        return answer.status, _make_visible(document)


def main(environ: Mapping[str, str]) -> int:
    """Calls a run and follows it to its end."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        service = find_service(environ)
        report = do_run(service, environ.get("QUERY", ""), console)
    except (CallError, NotUpError) as error:
        say_error(str(error))
        return error.status if isinstance(error, CallError) else AWAY
    except KeyboardInterrupt:
        say_error("not waited for any longer: a run that has begun goes on by itself")
        return INTERRUPTED
    say_report(report, service, console)
    return OK


def find_service(environ: Mapping[str, str]) -> Service:
    """Rollcall as the environment names it, or the stack that is up on this machine."""
    token = environ.get("API_TOKEN", "")
    if url := environ.get("ROLLCALL_URL", ""):
        if "@" in url:
            raise CallError("ROLLCALL_URL has credentials in it: set API_TOKEN instead", MISUSED)
        if fault := find_fault("ROLLCALL_URL", url):
            raise CallError(fault, MISUSED)
        return Service(url.rstrip("/"), token)
    stack = find_stack(environ, "ROLLCALL_URL")
    return Service(stack["ROLLCALL_URL"], token or stack.get("API_TOKEN", ""))


def do_run(service: Service, query: str, console: Console) -> dict[str, Any]:
    """Has a run done after the one that may be going on, and returns its report."""
    while True:
        known = service.fetch_runs()
        expected = max((run["listed"] for run in known if run["state"] == "ok"), default=0)
        if known and known[0]["state"] == "running" and not _is_rehearsal(query):
            _follow_other(service, known[0]["run_id"], console, expected=expected)
        newest = known[0]["run_id"] if known else 0
        call = _call_aside(service, query)
        with open_progress(console, expected=expected) as show:
            while not wait([call], timeout=POLL_S).done:
                _show_running(service, show, after=newest)
        status, document = call.result()
        if document.get("code") != "run_in_progress":
            return _or_raise(status, document)


def say_report(report: Mapping[str, Any], service: Service, console: Console) -> None:
    """Says what came of a run, and what was rejected and why."""
    title = "dry run, nothing was changed:" if report["state"] == "dry_run" else f"run {report['run_id']}:"
    console.print(Text.assemble((title, "bold green"), " ", _describe_counts(report)))
    output = report["output"]
    if report["run_id"] is not None:
        console.print(f"{output['bucket']}/{output['key']} has {count(output['rows'], 'user')}")
    rejected, rejects = report["rejected"], report["rejects"][:SHOWN_REJECTS]
    if not rejected:
        return
    console.print(Text(f"{count(rejected, 'file')} rejected:", "bold yellow"))
    keys = [_shorten(reject["key"]) for reject in rejects]
    for key, reject in zip(keys, rejects, strict=True):
        padded = key.ljust(max(map(len, keys)))
        console.print(Text.assemble("  ", (padded, "bold"), f"  {reject['reason']}: {reject['detail']}"))
    if rejected > len(rejects):
        console.print(f"  and {rejected - len(rejects):,} more: {service.url}/#rejects")


def _call_aside(service: Service, query: str) -> "Future[Answer]":
    """Calls a run in a thread that an interrupt leaves behind; those of an executor are waited for."""
    future: Future[Answer] = Future()

    def call() -> None:
        try:
            future.set_result(service.call(query))
        except BaseException as error:  # noqa: BLE001  for who waits
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def _follow_other(service: Service, run_id: int, console: Console, *, expected: int) -> None:
    console.print(f"run {run_id} is going on already; the one that was asked for comes after it")
    with open_progress(console, expected=expected) as show:
        while (run := service.fetch_run(run_id))["state"] == "running":
            show(run)
            time.sleep(POLL_S)
    error = f" ({run['error']})" if run["error"] else ""
    console.print(f"run {run_id}: {run['state']}{error}")


def _show_running(service: Service, show: Show, *, after: int) -> None:
    """Shows the run that was begun; that it cannot be looked at just now is no reason to stop."""
    try:
        newest = service.fetch_runs()[0]
    except (CallError, IndexError):
        return
    if newest["run_id"] > after and newest["state"] == "running":
        show(newest)


def _or_raise(status: int, document: dict[str, Any]) -> dict[str, Any]:
    """Return a good answer; raises CallError with what a problem says, and what to do about it."""
    if status == 200:
        return document
    code, detail = document.get("code", ""), document.get("detail", f"status {status}")
    if code == "unauthorized":
        raise CallError("the token is missing or wrong: API_TOKEN=... make process", MISUSED)
    if code.startswith(("parameter_", "query_")):
        raise CallError(f"QUERY is not accepted: {detail}", MISUSED)
    if code == "function_unavailable":
        raise CallError(f"process-users is not running: {detail}", AWAY)
    raise CallError(f"the run failed ({code}): {detail}", FAILED)


def _describe_counts(report: Mapping[str, Any]) -> str:
    counts = [count(report["listed"], "file"), f"{report['unchanged']:,} of them unchanged"]
    counts += [f"{count(report['upserted'], 'user')} stored", f"{report['removed']:,} removed"]
    return f"{', '.join(counts)}; {report['seconds']:.1f} s"


def _shorten(key: str) -> str:
    return key if len(key) <= LONGEST_KEY else f"{key[: LONGEST_KEY - 5]}….csv"


def _make_visible(document: Any) -> Any:
    """Return what was answered with the control characters of all texts as escapes: keys may hold any."""
    if isinstance(document, dict):
        return {name: _make_visible(value) for name, value in document.items()}
    if isinstance(document, list):
        return [_make_visible(value) for value in document]
    return visible(document) if isinstance(document, str) else document


def _is_rehearsal(query: str) -> bool:
    return "dry_run=true" in query.lower()


def _describe(error: BaseException) -> str:
    """The last reason in what urllib3 says, without the object it names first."""
    return str(error).rpartition(": ")[2]


if __name__ == "__main__":
    sys.exit(main(os.environ))
