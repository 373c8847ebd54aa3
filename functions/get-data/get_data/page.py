"""The pages for people: templates filled with what was read, and what a browser may load for them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlsplit

from jinja2 import Environment, Template

from get_data import chart
from get_data.assets import PATHS
from get_data.filters import Filter
from get_data.overview import Overview, Run, select_ages
from serving.pages import open_templates
from serving.problems import ProblemError

USERS_A_PAGE = 100
LATE_AFTER = timedelta(hours=1)  # as in the alert that OPERATIONS.md proposes
PAGE_SIZES = (25, USERS_A_PAGE, 500, 1_000)


def render_users(overview: Overview, asked: Filter, *, host: str, needs_token: bool) -> bytes:
    """Return the page of the users that match; `host` is this service's address as its client knows it."""
    ages = select_ages(overview.ages, asked)
    count = sum(age.users for age in ages)
    now = datetime.now(UTC)
    running = [run for run in overview.runs if run.state == "running"]
    ended = [run for run in overview.runs if run.state != "running"]
    parts = _open_template("users.html").generate(
        asked=asked,
        overview=overview,
        count=count,
        everybody=sum(age.users for age in overview.ages),
        pictures=sum(age.pictures for age in ages),
        average_age=round(sum(age.years * age.users for age in ages) / count, 1) if count else None,
        bars=chart.build_bars(overview.ages, asked),
        chart=chart,
        running=running[0] if running else None,
        expected=max((run.listed for run in ended if run.state == "ok"), default=0),
        is_known=overview.in_step is not None,
        last_run=ended[0] if ended else None,
        next=to_address(replace(asked, after=overview.last)) if overview.last is not None else None,
        first_page=replace(asked, after=None),
        curl=_to_curl(f"{host}{to_data_address(asked)}", needs_token=needs_token),
        page_sizes=PAGE_SIZES,
        users_a_page=USERS_A_PAGE,
        with_picture={None: "", True: " with a picture", False: " without a picture"}[asked.is_image_exists],
        is_late=_is_late(overview, ended, now),
        now=now,
    )
    # Encoded one by one: as text, a single odd character makes all of a page take four bytes for each.
    return b"".join(part.encode() for part in parts)


def render_problem(problem: ProblemError, title: str) -> str:
    """Return the page that says what is wrong."""
    return _open_template("problem.html").render(problem=problem, title=title)


def build_policy(public_endpoint: str) -> str:
    """Return the content security policy: nothing but our own files, and pictures from the store."""
    address = urlsplit(public_endpoint)
    return "; ".join(
        (
            "default-src 'none'",
            "style-src 'self'",
            "script-src 'self'",
            "connect-src 'self'",
            f"img-src 'self' {address.scheme}://{address.netloc}",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


def to_address(asked: Filter) -> str:
    """Return the page's own address with this filter, which is its permalink."""
    query = replace(asked, format=None, spreadsheet=None).to_query()
    return f"/?{query}" if query else "/"


def to_data_address(asked: Filter, form: str | None = None, *, spreadsheet: bool = False) -> str:
    """Return the address of everything that matches, without pages, in a format."""
    whole = replace(asked, limit=None, after=None, format=form, spreadsheet=spreadsheet or None)
    query = whole.to_query()
    return f"/data?{query}" if query else "/data"


def to_ago(moment: datetime, now: datetime) -> str:
    """Return how long ago that was, in words."""
    seconds = max(0, (now - moment).total_seconds())
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def _is_late(overview: Overview, ended: list[Run], now: datetime) -> bool:
    failed = bool(ended) and ended[0].state != "ok"
    return failed or overview.succeeded is None or now - overview.succeeded > LATE_AFTER


def _to_curl(address: str, *, needs_token: bool) -> str:
    token = ' -H "Authorization: Bearer $API_TOKEN"' if needs_token else ""
    # Every odd character of an address is percent-encoded, so quotes are enough; always: people add to it.
    return f"curl{token} '{address}'"


@cache
def _open_environment() -> Environment:
    environment = open_templates(Path(__file__).parent / "templates")
    environment.filters |= {
        "number": lambda number: f"{number:,}",
        "moment": lambda moment: f"{moment:%-d %b %Y, %H:%M} UTC",
        "day": lambda day: f"{day.day} {day:%b} {day.year}",
        "iso": lambda moment: moment.isoformat(timespec="seconds"),
        "segment": lambda text: quote(text, safe=""),
        "ago": to_ago,
    }
    environment.globals |= {"paths": PATHS, "address": to_address, "data_address": to_data_address}
    return environment


def _open_template(name: str) -> Template:
    return _open_environment().get_template(name)
