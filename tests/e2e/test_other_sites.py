"""Pages of other sites in a real browser: they change nothing, read nothing, and learn of nobody."""

import base64
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from e2e.site import CHROMIUM, Site, open_site
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from rollcall.ports import HOST
from rollcall.processes import wait_until
from rollcall.servers import Postgres

pytestmark = pytest.mark.browser
TOKEN = "let-me-in"
# Another site: by another host, and by another port of the same.
EVIL_HOSTS = ("evil.example", HOST)
RUN = "/data?full=true&allow_empty=true"


@dataclass(frozen=True, slots=True)
class Evil:
    """A server of somebody else's: any page that a test asks for, and redirects."""

    port: int

    def address(self, host: str, path: str = "/") -> str:
        return f"http://{host}:{self.port}{path}"


class EvilHandler(BaseHTTPRequestHandler):
    """/?<address> redirects there with 307, anything else is an empty page."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _, _, target = self.path.partition("?")
        self.send_response(307 if target else 200)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer  # noqa: N815 (names that the base class calls)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Say nothing."""


@contextmanager
def serve_evil() -> Iterator[Evil]:
    with ThreadingHTTPServer((HOST, 0), EvilHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Evil(server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def evil() -> Iterator[Evil]:
    with serve_evil() as evil:
        yield evil


@pytest.fixture(scope="module", params=["", TOKEN], ids=["open", "token"])
def site(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The sample files; with a token, the browser logs in first."""
    home = tmp_path_factory.mktemp("sites")
    with open_site(postgres, home, more_files={}, token=request.param) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert Path(CHROMIUM).exists(), f"these tests need Chromium at {CHROMIUM}, or CHROMIUM naming one"
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP rebind.evil.example 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A browser whose person uses Rollcall: logged in where that is needed."""
    with closing(browser.new_context()) as context:
        page = context.new_page()
        # Kept by the browser for this origin, as what somebody types when it asks.
        page.goto(site.url.replace("://", f"://somebody:{site.token}@") if site.token else site.url)
        page.goto(site.url)
        assert page.locator(".users tbody tr").count() == 100
        page.close()
        yield context


def fetch(site: Site, path: str, method: str = "GET") -> dict[str, Any]:
    """Ask as a program does."""
    given = base64.b64encode(f"x:{site.token}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310  our own
        f"{site.url}{path}", method=method, headers={"Authorization": f"Basic {given}"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return json.loads(response.read())


def last_run(site: Site) -> int:
    return fetch(site, "/runs?limit=1")["runs"][0]["run_id"]


def open_evil(context: BrowserContext, evil: Evil, host: str) -> Page:
    page = context.new_page()
    page.goto(evil.address(host))
    return page


POST_BY_FETCH = """([address, mode]) => fetch(
    address, {method: "POST", mode, credentials: "include", keepalive: true, body: "x"}
).then(answer => answer.type === "opaque" ? "opaque" : answer.text(), () => "failed")"""
SEND_FORM = """([address, enctype]) => {
    const form = Object.assign(document.createElement("form"), {method: "POST", action: address, enctype});
    if (enctype) form.innerHTML = '<input name="dry_run" value="false">';
    document.body.append(form);
    form.submit();
}"""


@pytest.mark.parametrize("host", EVIL_HOSTS)
def test_no_script_has_a_run_done(context: BrowserContext, site: Site, evil: Evil, host: str):
    page = open_evil(context, evil, host)
    before = last_run(site)
    for mode in ("cors", "no-cors"):
        # An opaque answer holds nothing that a script can read.
        assert page.evaluate(POST_BY_FETCH, [f"{site.url}{RUN}", mode]) in ("opaque", "failed")
        redirect = evil.address(host, f"/?{site.url}{RUN}")
        assert page.evaluate(POST_BY_FETCH, [redirect, mode]) in ("opaque", "failed")
    assert last_run(site) == before


@pytest.mark.parametrize("host", EVIL_HOSTS)
@pytest.mark.parametrize("through", ["", "redirect"])
@pytest.mark.parametrize("enctype", ["", "text/plain", "multipart/form-data"])
def test_no_form_has_a_run_done(
    context: BrowserContext, site: Site, evil: Evil, *, host: str, through: str, enctype: str
):
    page = open_evil(context, evil, host)
    before = last_run(site)
    address = f"{site.url}{RUN}"
    with page.expect_navigation(url=address) as navigation:
        page.evaluate(SEND_FORM, [evil.address(host, f"/?{address}") if through else address, enctype])
    assert (navigation.value.status, json.loads(navigation.value.text())["code"]) == (403, "cross_site")
    assert last_run(site) == before


@pytest.mark.parametrize("host", EVIL_HOSTS)
def test_nothing_is_read(context: BrowserContext, site: Site, evil: Evil, host: str):
    page = open_evil(context, evil, host)
    for path in ("/data?limit=1", "/data/007", "/", "/stats", "/runs", "/openapi.json"):
        for mode in ("cors", "no-cors"):
            got = page.evaluate(
                """([address, mode]) => fetch(address, {mode, credentials: "include"})
                .then(answer => answer.text(), () => "failed")""",
                [f"{site.url}{path}", mode],
            )
            assert got == "failed", (path, mode)


@pytest.mark.parametrize("host", EVIL_HOSTS)
def test_nobody_is_found_by_a_picture(context: BrowserContext, site: Site, evil: Evil, host: str):
    """Neither by whether something loads, nor by whether a redirect is followed, which a policy tells."""
    page = open_evil(context, evil, host)
    known, unknown = f"{site.url}/data/007/image", f"{site.url}/data/nobody/image"
    shows = lambda: look(context, site, "/data/007/image") == "load"  # noqa: E731
    wait_until(shows, timeout_s=60, what="the picture on our own page")
    for tag in ("img", "script", "iframe", "embed", "object", "video", "audio", "link"):
        assert embed(page, tag, known) == embed(page, tag, unknown), tag
    policy = f"img-src {site.url}; frame-src {site.url}; connect-src {site.url}; media-src {site.url}"
    page.evaluate(
        """policy => document.head.append(Object.assign(
            document.createElement("meta"), {httpEquiv: "Content-Security-Policy", content: policy}
        ))""",
        policy,
    )
    for tag in ("img", "iframe", "video"):
        assert embed(page, tag, known) == embed(page, tag, unknown), tag


def embed(page: Page, tag: str, address: str) -> list[str]:
    """Embed an address into a page; returns what the page is told of it."""
    return page.evaluate(
        """([tag, address]) => new Promise(resolve => {
            const told = [];
            const end = () => { element.remove(); resolve(told); };
            const violated = () => { told.push("violation"); };
            document.addEventListener("securitypolicyviolation", violated, {once: true});
            const element = document.createElement(tag);
            const note = event => { told.push(event.type); setTimeout(end, 100); };
            for (const name of ["load", "error", "loadeddata"])
                element.addEventListener(name, note, {once: true});
            if (tag === "link") element.rel = "stylesheet";
            const name = {link: "href", object: "data"}[tag] || "src";
            element[name] = address;
            document.body.append(element);
        })""",
        [tag, address],
    )


def look(context: BrowserContext, site: Site, path: str) -> str:
    """Show a picture in a page of our own; returns what that page is told."""
    page = context.new_page()
    page.goto(site.url)
    return page.evaluate(
        """path => new Promise(resolve => {
            const image = new Image();
            image.onload = () => resolve("load");
            image.onerror = () => resolve("error");
            image.src = path;
        })""",
        path,
    )


def test_a_name_that_is_bound_anew_reads_and_changes_nothing(context: BrowserContext, site: Site, evil: Evil):
    """To the browser, the page and Rollcall are one origin then."""
    before = last_run(site)
    port = urlsplit(site.url).port
    page = context.new_page()
    for path in ("/", "/data?limit=1", "/runs", "/stats", "/docs", "/events"):
        answer = page.goto(f"http://rebind.evil.example:{port}{path}")
        assert answer is not None
        assert answer.status == 421
        assert json.loads(answer.text())["code"] == "host_unknown"
    # Of the same origin now.
    for method, path in (("GET", "/data?limit=1"), ("POST", RUN), ("DELETE", "/data/007")):
        status = page.evaluate(
            "([method, path]) => fetch(path, {method}).then(answer => answer.status)", [method, path]
        )
        assert status == 421
    assert last_run(site) == before


def test_our_own_page_may_have_a_run_done(context: BrowserContext, site: Site):
    before = last_run(site)
    page = context.new_page()
    page.goto(site.url)
    got = page.evaluate("path => fetch(path, {method: 'POST'}).then(answer => answer.status)", "/data")
    assert got == 200
    assert last_run(site) == before + 1


def test_another_site_may_link_to_the_page(context: BrowserContext, site: Site, evil: Evil):
    page = open_evil(context, evil, "evil.example")
    with page.expect_navigation(url=f"{site.url}/?min_age=30"):
        page.evaluate("address => { location = address; }", f"{site.url}/?min_age=30")
    assert page.locator(".users tbody tr").count() > 0
