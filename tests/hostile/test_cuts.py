"""An export whose database goes away half-way never looks whole: not to curl, to Python, or to a browser.

A proxy before Postgres counts the exchanges of an export, and ends its session at a certain one.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path
from random import Random

import pytest
from faults.proxy import Exchange, Tap, proxied
from hostile.amounts import CUTS, SEED
from hostile.clients import (
    CutError,
    download,
    fetch_with_curl,
    fetch_with_script,
    fetch_with_urllib,
    fetch_with_urllib3,
)
from playwright.sync_api import Page, sync_playwright
from rig import Count, Database, Function, Gateway, prepare_database, run_function

from rollcall.servers import Postgres, serving

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
USERS = 10_000  # of 130 bytes: more than all buffers on the way hold
# Of an export: begin, prepare and read the version, prepare, two thousand users each and one that finds no
# more, commit. The first byte is sent after the second chunk.
BEGIN = b"repeatable read"
EXCHANGES = 4 + USERS // 2_000 + 1 + 1
# The connection is cut before a request or before its answer, or the server ends the session.
WAYS = ("request lost", "answer lost", "session ended")
FORMATS = ("json", "csv", "ndjson")

Fetch = Callable[[str, bool], bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """One way to ask for an export."""

    base: str
    form: str
    gzip: bool

    @property
    def url(self) -> str:
        return f"{self.base}/data?format={self.form}"

    def is_whole(self, body: bytes) -> bool:
        if self.form == "json":
            return len(json.loads(body)) == USERS
        return body.count(b"\n") == USERS + (self.form == "csv")


@dataclass(frozen=True, slots=True)
class Serving:
    """get-data over a database that can be cut off, and the gateway before it."""

    database: Database
    tap: Tap
    function: Function
    gateway: Gateway

    def requests(self) -> Iterator[Request]:
        """Every way to ask for an export, of the function and of the gateway."""
        for base, form, gzip in product((self.function.url, self.gateway.url), FORMATS, (False, True)):
            yield Request(base, form, gzip)

    def cut_at(self, place: int, way: str) -> "Cutter":
        """Cut the next export at this exchange of it."""
        cutter = Cutter(self, place, way)
        self.tap.on_request, self.tap.on_answer = cutter.see_request, cutter.see_answer
        return cutter

    def end_session(self) -> None:
        self.database.run(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'rollcall_get_data'"
        )


class Cutter:
    """Counts the exchanges of one export from its first on, and cuts it."""

    def __init__(self, serving: Serving, place: int, way: str) -> None:
        self._serving, self._place, self._way = serving, place, way
        self.seen = 0

    def see_request(self, exchange: Exchange, data: bytes) -> bytes | None:
        if not self.seen and BEGIN not in data:
            return data
        self.seen += 1
        if self.seen - 1 != self._place:
            return data
        if self._way == "session ended":
            self._serving.end_session()
        return None if self._way == "request lost" else data

    def see_answer(self, exchange: Exchange, data: bytes) -> bytes | None:
        is_it = self._way == "answer lost" and self.seen - 1 == self._place
        return None if is_it else data


@pytest.fixture(scope="module")
def served(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home, tap = tmp_path_factory.mktemp("cuts"), Tap()
    with ExitStack() as stack:
        database = prepare_database(postgres, f"cuts_{os.getpid()}")
        fill(database)
        proxy = stack.enter_context(proxied(postgres.port, tap))
        env = {**database.env("get_data"), "PGPORT": str(proxy.port)}
        function = stack.enter_context(run_function("get-data", env, home=home / "get-data"))
        gateway = stack.enter_context(
            serving(
                lambda port: Gateway(
                    port=port, process_users=function, get_data=function, home=home / "gateway"
                )
            )
        )
        yield Serving(database, tap, function, gateway)


def fill(database: Database) -> None:
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate)
        select 100000 + n, 'First' || md5(n::text), 'Last' || md5((-n)::text), to_timestamp(n)
        from generate_series(1, cast(:count as integer)) as n
        """,
        count=USERS,
    )


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    assert Path(CHROMIUM).exists(), f"this needs Chromium at {CHROMIUM}, or CHROMIUM naming one"
    with sync_playwright() as playwright:
        # Chromium does not run as root within its sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def cut_exports(served: Serving, fetch: Fetch) -> dict[str, int]:
    """Cut exports at moments all over them; returns what the client said, and how often."""
    said: dict[str, int] = {}
    random, requests = Random(SEED), list(served.requests())
    for place in islice(cycle(range(EXCHANGES)), CUTS):
        way, request = random.choice(WAYS), random.choice(requests)
        cutter = served.cut_at(place, way)
        with pytest.raises(CutError) as error:
            fetch(request.url, request.gzip)
        assert cutter.seen > place, (place, way, request, SEED)
        said[str(error.value)] = said.get(str(error.value), 0) + 1
    served.tap.reset()
    return said


@pytest.mark.parametrize("fetch", [fetch_with_curl, fetch_with_urllib, fetch_with_urllib3])
def test_no_program_takes_an_export_that_was_cut_for_whole(served: Serving, count: Count, fetch: Fetch):
    for request in served.requests():
        assert request.is_whole(fetch(request.url, request.gzip)), request
    said = cut_exports(served, fetch)
    count(moments=CUTS, **said)


@pytest.mark.browser
@pytest.mark.parametrize("fetch", [fetch_with_script, download])
def test_no_browser_takes_an_export_that_was_cut_for_whole(
    served: Serving, page: Page, count: Count, fetch: Callable[[Page, str], bytes]
):
    def fetch_in_page(url: str, gzip: bool) -> bytes:
        base = url.partition("/data")[0]
        if not page.url.startswith(base):
            page.goto(f"{base}/healthz")
        return fetch(page, url)

    for request in served.requests():
        assert request.is_whole(fetch_in_page(request.url, request.gzip)), request
    said = cut_exports(served, fetch_in_page)
    count(moments=CUTS, **said)
