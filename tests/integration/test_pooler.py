"""Rollcall behind PgBouncer: by session everything works, by transaction nothing answers wrongly."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from get_data_client import insert, open_client
from pipeline import ONE_STORE, Pipeline
from pooler import Pooler, pooling
from rig import AS_IN_IMAGES, Bucket, Database, StartFunction
from serving_settings import read_settings
from urllib3 import PoolManager

from serving.postgres import Connection, DatabaseUnavailableError
from serving.reasons import POOLED

THREADS = 24


@pytest.fixture
def by_session(database: Database) -> Iterator[Pooler]:
    with pooling(database, "session") as pooler:
        yield pooler


@pytest.fixture
def by_transaction(database: Database) -> Iterator[Pooler]:
    with pooling(database, "transaction") as pooler:
        yield pooler


@ONE_STORE
def test_by_session_runs_events_and_exports_work(by_session: Pooler, bucket: Bucket):
    with Pipeline(bucket, by_session.pooled) as pipeline:
        for number in range(5):
            pipeline.put(f"{number}.csv")
        assert pipeline.run()["upserted"] == 5
        assert pipeline.run("dry_run=true")["unchanged"] == 5
        pipeline.put("5.csv")
        pipeline.notify("5.csv")
        assert pipeline.run("full=true")["output"]["rows"] == 6
        assert pipeline.get("/readyz") == {"status": "ready"}
    with open_client(by_session.pooled.env("get_data")) as client:
        assert len(client.get("/data").get_json()) == 6
        assert client.get("/stats").get_json()["count"] == 6


def test_by_session_the_time_limits_hold(by_session: Pooler):
    connection = Connection(read_settings(by_session.pooled, "get_data"), application_name="test")
    with pytest.raises(DatabaseUnavailableError, match="took longer than it may"):
        connection.run("select pg_sleep(20)")
    connection.close()


def test_a_pooler_by_transaction_is_refused(by_transaction: Pooler):
    settings = read_settings(by_transaction.pooled, "get_data")
    first = Connection(settings, application_name="first")  # nobody else is there, so this one may work
    assert first.run("select 1") == [[1]]
    with pytest.raises(DatabaseUnavailableError, match="use pooling by session"):
        Connection(settings, application_name="second")
    first.close()


def begin(connection: Connection) -> None:
    with connection.transaction():
        pass


@pytest.mark.parametrize(
    "use",
    [
        lambda connection: connection.run("select 1"),
        lambda connection: connection.run("select cast(:number as bigint)", number=2),
        lambda connection: connection.run_prepared("select cast(:number as bigint)", number=2),
        lambda connection: connection.run_prepared("select cast(:number as text)", number=2),
        begin,
    ],
    ids=["simple", "parameters", "prepared", "not yet prepared", "transaction"],
)
def test_a_session_that_became_another_is_noticed(
    by_transaction: Pooler, use: Callable[[Connection], object]
):
    connection = Connection(read_settings(by_transaction.pooled, "get_data"), application_name="test")
    assert connection.run_prepared("select cast(:number as bigint)", number=1) == [[1]]
    plain = by_transaction.pooled.connect("get_data")
    plain.run("begin")  # takes the server's session that was free
    with pytest.raises(DatabaseUnavailableError, match="use pooling by session"):
        use(connection)
    connection.close()
    plain.close()


def list_paths() -> list[str]:
    users = [100_000 + number for number in range(7)]
    ways = ("/data/{}", "/data?limit=1&after={}", "/data/{}/image")
    return ["/data", "/data?limit=2", "/stats", *(way.format(user) for way in ways for user in users)]


def test_by_transaction_no_answer_is_wrong(
    by_transaction: Pooler, database: Database, start_function: StartFunction
):
    for number in range(9):
        insert(
            database, str(100_000 + number), first_name=f"First{number}", img_path=f"src-data/{number}.png"
        )
    paths = list_paths()
    with open_client(database.env("get_data")) as client:
        want = {path: client.get(path).get_json(silent=True) for path in paths}
    function = start_function("get-data", {**by_transaction.pooled.env("get_data"), **AS_IN_IMAGES})
    http = PoolManager(maxsize=THREADS)

    def ask(path: str) -> tuple[str, int, bytes]:
        got = http.request("GET", function.url + path, timeout=60, retries=False, redirect=False)
        return path, got.status, got.data

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(ask, paths * 20))
    http.clear()
    assert {status for _, status, _ in answers} <= {200, 302, 503}
    assert [path for path, status, body in answers if status == 200 and json.loads(body) != want[path]] == []
    problems = [json.loads(body) for _, status, body in answers if status == 503]
    assert problems
    assert {problem["code"] for problem in problems} == {"database_unavailable"}
    assert POOLED in function.log.read_text()
