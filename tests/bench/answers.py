"""Short answers of get-data with a million users: beside a hello world, and beside Postgres by itself."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from urllib.request import Request, urlopen

import pytest
from crowd import Compare
from load import count_answers, count_transactions, run_asking, run_hello
from rig import AS_IN_IMAGES, Database, Function, run_function

from get_data.ages import born_before
from get_data.filters import parse_filter
from get_data.formats import JSON
from get_data.queries import build_page, build_rare_page

ROUNDS = 5
PAGE = "min_age=40&limit=100"
CLIENTS = 8
# Both ends of each filter, filters together, pages in the middle and at the end, and few who match.
PAGES = (
    "limit=100",
    "min_age=0&limit=100",
    "min_age=99&limit=100",
    "min_age=150&limit=100",
    "max_age=0&limit=100",
    "max_age=150&limit=100",
    "min_age=40&max_age=40&limit=100",
    "is_image_exists=True&limit=100",
    "is_image_exists=False&limit=100",
    "is_image_exists=False&min_age=99&limit=100",
    "min_age=40&after=5&limit=100",
    "min_age=99&after=5&limit=100",
    "min_age=40&after=99995&limit=100",
    "min_age=101&limit=100",
    "min_age=101&is_image_exists=True&limit=100",
)


@pytest.fixture(scope="module")
def function(million: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    env = {**million.env("get_data"), **AS_IN_IMAGES}
    with run_function("get-data", env, home=tmp_path_factory.mktemp("get-data")) as function:
        yield function


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with run_hello(tmp_path_factory.mktemp("hello")) as function:
        yield function


@pytest.fixture(scope="module")
def asking(million: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with run_asking(tmp_path_factory.mktemp("asking"), million.env("get_data")) as function:
        yield function


def test_a_page(
    million: Database,
    function: Function,
    hello: Function,
    asking: Function,
    tmp_path: Path,
    compare: Compare,
) -> None:
    def count_pages() -> float:
        return count_transactions(million, statement_of_page(), tmp_path, clients=CLIENTS)

    text = million.run(statement_of_page())[0][0]
    assert fetch(function, f"/data?{PAGE}")[1] == f"{JSON.opening}{text}{JSON.closing}"
    ours, theirs, reading, greeting = measure(
        lambda: count_answers(function, f"/data?{PAGE}"),
        count_pages,
        lambda: count_answers(asking, f"/page?{PAGE}"),
        lambda: count_answers(hello),
    )
    compare(7, PAGE, ours, theirs, beside="pgbench", unit="/s", at_least=0.3)
    compare(7, "hello world that reads it", reading, theirs, beside="pgbench", unit="/s", for_scale=True)
    compare(7, "hello world", greeting, theirs, beside="pgbench", unit="/s", for_scale=True)


def test_nothing_new(function: Function, hello: Function, asking: Function, compare: Compare) -> None:
    tag, _ = fetch(function, f"/data?{PAGE}")
    ours, theirs, reading = measure(
        lambda: count_answers(function, f"/data?{PAGE}", tag=tag),
        lambda: count_answers(hello),
        lambda: count_answers(asking, "/version"),
    )
    compare(8, "304 Not Modified", ours, theirs, beside="hello world", unit="/s", at_least=0.6)
    work = "hello world that reads the version"
    compare(8, work, reading, theirs, beside="hello world", unit="/s", for_scale=True)


def test_a_user(function: Function, hello: Function, asking: Function, compare: Compare) -> None:
    assert json.loads(fetch(function, "/data/500000")[1])["img_path"] == "src-data/500000.png"
    ours, theirs, reading = measure(
        lambda: count_answers(function, "/data/500000"),
        lambda: count_answers(hello),
        lambda: count_answers(asking, "/user/500000"),
    )
    compare(9, "one user", ours, theirs, beside="hello world", unit="/s", at_least=0.55)
    work = "hello world that reads the user"
    compare(9, work, reading, theirs, beside="hello world", unit="/s", for_scale=True)


@pytest.mark.parametrize("query", PAGES)
def test_any_page(million: Database, function: Function, query: str, compare: Compare) -> None:
    print(f"\n{query}: {', '.join(find_indexes(million, query))}")
    ours, page = measure(
        lambda: 1 / count_answers(function, f"/data?{query}"),
        lambda: 1 / count_answers(function, f"/data?{PAGE}"),
    )
    compare(12, query, ours * 1000, page * 1000, beside=PAGE, unit="ms", at_most=2)


def measure(*counts: Callable[[], float]) -> list[float]:
    """Return the median of each, taken in turn; each has been taken once before."""
    for count in counts:
        count()
    rounds = [[count() for count in counts] for _ in range(ROUNDS)]
    return [median(figures) for figures in zip(*rounds, strict=True)]


def fetch(function: Function, target: str) -> tuple[str, str]:
    """Return the tag and the text of an answer."""
    with urlopen(Request(function.url + target)) as response:  # noqa: S310  an address of ours
        return response.headers["ETag"], response.read().decode()


def statement_of_page() -> str:
    """Return the quickest statement found that makes the same page."""
    day = born_before(40, datetime.now(UTC).date()).isoformat()
    return f"""
select string_agg({JSON.line}, '{JSON.separator}' order by user_id)
from (
    select * from users where birthdate < timestamptz '{day} 00:00:00Z' order by user_id limit 100
) as page
"""  # noqa: S608  constants


def find_indexes(database: Database, query: str) -> list[str]:
    """Return the indexes that a page is read by; it must not read the whole table."""
    asked, today = parse_filter(query.encode()), datetime.now(UTC).date()
    with closing(database.connect("get_data")) as connection:
        statement = build_page(asked, today, JSON)
        rows = connection.run(statement.sql, **statement.parameters) or []
        if asked.has_ages and not rows[0][-1]:
            statement = build_rare_page(asked, today, JSON)
        plan = connection.run(f"explain {statement.sql}", **statement.parameters) or []
    text = "\n".join(line for (line,) in plan)
    assert "Seq Scan on users" not in text, text
    return re.findall(r"Scan.* (?:using|on) (users_\w+)", text)
