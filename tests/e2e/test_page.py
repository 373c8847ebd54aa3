"""The page in a real browser, Debian's Chromium: over both functions, the gateway, a database and a store."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from e2e.site import CHROMIUM, Site, open_site
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from rig import run_going_on

from rollcall.ports import HOST
from rollcall.servers import Postgres

pytestmark = pytest.mark.browser
HOSTILE = "<script>document.title='taken over'</script>"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def site(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The sample files, and one user with a hostile name."""
    hostile = f"first_name, last_name, birthts\n{HOSTILE}, King, 612302400000\n".encode()
    home = tmp_path_factory.mktemp("page")
    with open_site(postgres, home, more_files={"hostile.csv": hostile}) as site:
        yield site


@pytest.fixture(scope="module")
def address(site: Site) -> str:
    """The gateway's address."""
    return site.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert Path(CHROMIUM).exists(), f"these tests need Chromium at {CHROMIUM}, or CHROMIUM naming one"
    with sync_playwright() as playwright:
        # Chromium does not run as root within its sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    """Open an address in a window of the test's own; whatever it logs or cannot load is a failure."""
    with ExitStack() as stack:
        complaints: list[str] = []

        def note(message: ConsoleMessage) -> None:
            # Chromium asks the store for an icon when it shows a picture by itself, if there is time for it.
            url = message.location["url"]
            if url.startswith(address) or not url.endswith("/favicon.ico"):
                complaints.append(f"{message.text} {message.location}")

        def open_page(path: str = "/", *, width: int = 1280, **options: object) -> Page:
            context = browser.new_context(
                viewport={"width": width, "height": 800},
                base_url=address,
                **options,  # pyright: ignore[reportArgumentType]
            )
            stack.callback(context.close)
            page = context.new_page()
            page.on("console", note)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(path)
            return page

        yield open_page
        assert complaints == []


def user_ids(page: Page) -> list[str]:
    return page.locator(".users tbody th").all_inner_texts()


def ages(page: Page) -> list[int]:
    return [int(age) for age in page.locator(".users tbody td:last-child").all_inner_texts()]


@pytest.mark.parametrize("scripts", [True, False])
def test_filter_by_the_form(open_page: Open, scripts: bool):
    """With and without JavaScript: the address is what was asked for, and nothing else."""
    page = open_page(java_script_enabled=scripts)
    page.get_by_label("Picture", exact=True).select_option("with")
    page.get_by_label("from").fill("30")
    page.get_by_label("to", exact=True).fill("49")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"/\?is_image_exists=True&min_age=30&max_age=49$"))
    assert ages(page)
    assert all(30 <= age <= 49 for age in ages(page))
    assert page.locator(".users tbody img").count() == len(ages(page))
    assert page.get_by_label("from").input_value() == "30"
    page.get_by_role("link", name="Clear").click()
    expect(page).to_have_url(re.compile(r"/$"))


def test_page_on_and_go_back(open_page: Open):
    page = open_page("/?limit=25")
    first = user_ids(page)
    page.get_by_role("link", name="Next page").click()
    expect(page).to_have_url(re.compile("after="))
    second = user_ids(page)
    assert (len(first), len(second), set(first) & set(second)) == (25, 25, set())
    page.go_back()
    assert user_ids(page) == first
    page.go_forward()
    page.get_by_role("link", name="First page").click()
    assert user_ids(page) == first


def test_follow_a_bar_of_the_chart(open_page: Open):
    page = open_page()
    page.get_by_role("link", name=re.compile("^40 to 49 years")).click()
    expect(page).to_have_url(re.compile(r"/\?min_age=40&max_age=49$"))
    assert {age // 10 for age in ages(page)} == {4}
    count = page.locator("#users").inner_text().split()[0]
    assert page.get_by_role("link", name=f"40 to 49 years: {count} users, shown").count() == 1
    # once more gives it up
    page.get_by_role("link", name=re.compile("^40 to 49 years")).click()
    expect(page).to_have_url(re.compile(r"/$"))


def test_find_why_a_file_was_rejected(open_page: Open):
    page = open_page()
    row = page.get_by_role("region", name="rejected files").get_by_role("row").filter(has_text="not_utf8")
    assert "the file is not UTF-8" in row.inner_text()
    expect(page.get_by_role("region", name="Last runs")).to_contain_text("ok")
    expect(page.locator(".step")).to_contain_text("Up to date as of")


def test_see_a_picture(open_page: Open):
    """The small one in the table, and the picture itself behind it; both come from the store."""
    page = open_page("/?is_image_exists=True&limit=25")
    first = page.locator(".users tbody img").first
    expect(first).to_have_js_property("complete", True)
    assert first.evaluate("image => image.naturalWidth") > 0
    assert (first.locator("..").get_attribute("aria-label") or "").startswith("Picture of ")
    # Those far below are not fetched before they are scrolled to.
    with page.expect_navigation() as navigation:
        first.click()
    assert navigation.value.headers["content-type"].startswith("image/")
    assert "X-Amz-Signature" in page.url


@pytest.mark.parametrize("scripts", [True, False])
def test_initials_stand_for_a_picture_that_cannot_be_loaded(browser: Browser, site: Site, scripts: bool):
    path = "/?is_image_exists=True&limit=25"
    user_id = site.database.run("select min(user_id) from users where img_path is not null")[0][0]
    move = "update users set img_path = :path where user_id = :user_id returning img_path"
    kept = site.database.run("select img_path from users where user_id = :user_id", user_id=user_id)[0][0]
    site.database.run(move, path="src-data/nothing-here.png", user_id=user_id)
    context = browser.new_context(base_url=site.url, java_script_enabled=scripts)
    try:
        page = context.new_page()
        with page.expect_event("requestfailed", lambda request: "nothing-here.png" in request.url):
            page.goto(path)
        face = page.locator(".users tbody .face").first
        expect(face.locator("img")).to_have_js_property("complete", True)
        expect(face).to_have_accessible_name(re.compile("^Picture of "))
        shown = face.screenshot()
        face.locator("img").evaluate("image => image.remove()")
        assert face.screenshot() == shown
        assert page.locator(".users tbody .face").nth(1).screenshot() != shown
    finally:
        context.close()
        site.database.run(move, path=kept, user_id=user_id)


def test_a_run_going_on_keeps_to_its_line(open_page: Open, site: Site):
    """In the table of runs its state is a word like the others, as high as they are."""
    with run_going_on(site.database, listed=40):
        page = open_page("/")
        states = page.locator(".state")
        heights = [state.evaluate("state => state.getBoundingClientRect().height") for state in states.all()]
    assert states.first.inner_text() == "running"
    assert heights[0] == heights[1]


def test_names_stay_text(open_page: Open):
    page = open_page("/?min_age=30")
    expect(page.get_by_role("row").filter(has_text="hostile")).to_contain_text(HOSTILE)
    assert page.title().endswith("Rollcall")


def test_copy_the_command(open_page: Open, address: str):
    page = open_page("/?max_age=39", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"curl '{address}/data?max_age=39'"


def test_save_the_users_as_a_file(open_page: Open):
    page = open_page("/?max_age=39")
    for name, file_name in (("CSV", "users.csv"), ("JSON lines", "users.ndjson")):
        with page.expect_download() as download:
            page.get_by_role("link", name=name, exact=True).click()
        assert download.value.suggested_filename == file_name
        path = download.value.path()
        count = int(page.locator("#users").inner_text().split()[0])
        assert path.read_text().count("\n") == count + (name == "CSV")


def test_by_keyboard_alone(open_page: Open):
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.get_by_label("from").focus()
    page.keyboard.type("80")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/\?min_age=80$"))
    page.get_by_role("link", name=re.compile("^20 to 29 years")).focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/\?min_age=20&max_age=29$"))


@pytest.mark.parametrize(
    "path", ["/", "/?min_age=30&max_age=39&limit=25", "/?min_age=149", "/docs", "/runs/docs"]
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_is_in_anybodys_way(open_page: Open, path: str, scheme: str, width: int):
    """By axe, in light and dark, and narrow; nothing but tables is wider than the window."""
    page = open_page(path, width=width, color_scheme=scheme)
    # its script is added from outside of the page, which the page itself forbids
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(light) > 382) == (scheme == "light")


def test_watch_a_run(open_page: Open, site: Site):
    """Its counts follow it, and at its end there is a link to what it made of the users."""
    with run_going_on(site.database, listed=40) as set_counts:
        page = open_page("/?min_age=30")
        running = page.get_by_role("region", name="The run going on")
        expect(running).to_contain_text("40 of about 202 files listed, 0 users stored")
        expect(running.get_by_role("progressbar")).to_have_js_property("value", 40)
        assert Axe().run(page).violations_count == 0
        set_counts(listed=150, upserted=1_234)
        expect(running).to_contain_text("150 of about 202 files listed, 1,234 users stored", timeout=15_000)
        expect(running.get_by_role("progressbar")).to_have_js_property("value", 150)
    expect(running.get_by_role("status")).to_contain_text("It has ended: ok.", timeout=15_000)
    running.get_by_role("link", name="Show the new state").click()
    expect(page).to_have_url(re.compile(r"/\?min_age=30$"))
    expect(page.locator("#users")).to_be_visible()
    assert running.count() == 0


def test_watch_a_run_without_scripts(open_page: Open, site: Site):
    with run_going_on(site.database, listed=40) as set_counts:
        page = open_page("/?min_age=30", java_script_enabled=False)
        running = page.get_by_role("region", name="The run going on")
        expect(running).to_contain_text("40 of about 202 files listed")
        set_counts(listed=150)
        running.get_by_role("link", name="Look again").click()
        expect(running).to_contain_text("150 of about 202 files listed")
        expect(page).to_have_url(re.compile(r"/\?min_age=30$"))


def test_filter_and_rejects_are_a_step_away(open_page: Open):
    """From the top of a long page, and the filter stays beside it."""
    page = open_page()
    page.get_by_role("navigation", name="On this page").get_by_role("link", name="Rejected").click()
    expect(page.get_by_role("heading", name="rejected files")).to_be_in_viewport()
    page.go_back()
    page.locator(".users tbody tr").nth(60).scroll_into_view_if_needed()
    expect(page.get_by_role("button", name="Show")).to_be_in_viewport()
    expect(page.get_by_role("columnheader", name="Born")).to_be_in_viewport()


def test_errors_are_pages_too(browser: Browser, address: str):
    context = browser.new_context(base_url=address)
    page = context.new_page()
    answer = page.goto("/?min_age=x")
    assert answer is not None
    assert answer.status == 400
    expect(page.get_by_role("heading", name="Bad Request")).to_be_visible()
    expect(page.locator(".detail")).to_contain_text("min_age is 'x'")
    assert Axe().run(page).violations_count == 0
    page.get_by_role("link", name="All users").click()
    expect(page.get_by_role("heading", name="Ages")).to_be_visible()
    context.close()


def test_nothing_is_asked_of_others(browser: Browser, address: str):
    context = browser.new_context(base_url=address)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/", wait_until="networkidle")
    hosts = {re.sub(r"^(https?://[^/]+).*", r"\1", url) for url in asked}
    assert {re.sub(":[0-9]+$", "", host) for host in hosts} == {f"http://{HOST}"}
    assert len(hosts) == 2  # the gateway and the store
    context.close()
