"""What happens when the store or Postgres is away: in time, recorded, and over when they are back."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pipeline import ONE_STORE, Pipeline, document
from rig import Bucket, Database, Store, make_buckets, prepare_database, run_function
from watch import watched

from rollcall.ports import HOST, choose_port
from rollcall.servers import Key, Rclone, embedded_postgres, rclone_s3, serving

NEVER_ANSWERED_S = 10


class Switched:
    """A server that can be stopped and started again at the same port."""

    def __init__(self, stack: ExitStack, start: Callable[[], AbstractContextManager[Any]]) -> None:
        self._stack, self._start = stack, start
        self.on()

    def on(self) -> None:
        self.server = self._stack.enter_context(self._start())

    def off(self) -> None:
        self._stack.close()


@pytest.fixture
def store_switch(tmp_path: Path) -> Iterator[Switched]:
    port, key = choose_port(), Key("access", "secret-of-tests")
    with ExitStack() as stack:
        yield Switched(stack, lambda: rclone_s3(tmp_path, keys=[key], port=port))


@pytest.fixture
def on_switched_store(store_switch: Switched, database: Database) -> Iterator[Pipeline]:
    """A pipeline over a store of its own, which the test may stop."""
    server = store_switch.server
    bucket = Bucket(Store("rclone", server.port, server.keys[0]), source="src-data", output="processed-data")
    with Pipeline(bucket, database) as pipeline:
        for name in (bucket.source, bucket.output):
            pipeline.store.make_bucket(bucket_name=name)
        yield pipeline


def last_run(pipeline: Pipeline) -> tuple[str, str]:
    (row,) = pipeline.database.run("select state, error from runs order by run_id desc limit 1")
    return row[0], row[1]


@contextmanager
def answered_in_time() -> Iterator[None]:
    with watched() as watch:
        yield
    assert watch.seconds < watch.allow(NEVER_ANSWERED_S)


def test_a_store_that_is_away_fails_the_run_until_it_is_back(
    on_switched_store: Pipeline, store_switch: Switched
):
    pipeline = on_switched_store
    pipeline.put("1000.csv")
    store_switch.off()
    with answered_in_time():
        response = pipeline.client().post("/data")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert document(response)["code"] == "store_unavailable"
    assert last_run(pipeline) == ("failed", "store_unavailable")
    ready = pipeline.client().get("/readyz")
    assert (ready.status_code, document(ready)["unavailable"]) == (503, ["store"])
    assert pipeline.get("/healthz") == {"status": "alive"}
    store_switch.on()
    assert pipeline.get("/readyz") == {"status": "ready"}
    assert pipeline.run()["upserted"] == 1


@pytest.mark.usefixtures("small_steps")
def test_a_store_that_goes_during_a_run_fails_it_and_the_next_goes_on_from_there(
    on_switched_store: Pipeline, store_switch: Switched, asked: list[str]
):
    pipeline = on_switched_store
    for key in ("1.csv", "2.csv", "3.csv", "4.csv"):
        pipeline.put(key)
    with pipeline.stopping_at("2.csv") as gate:
        run = pipeline.begin()
        gate.wait_for()
        store_switch.off()
        with answered_in_time():
            gate.open_now()
            response = run.result(20)
    assert (response.status_code, document(response)["code"]) == (503, "store_unavailable")
    assert last_run(pipeline) == ("failed", "store_unavailable")
    # The third may have been read while the second was committed, the fourth was not.
    settled = pipeline.user_ids()
    assert settled in (["1", "2"], ["1", "2", "3"])
    store_switch.on()
    asked.clear()
    assert pipeline.run()["upserted"] == 4 - len(settled)
    assert asked == ["3.csv", "4.csv"][len(settled) - 2 :]


def test_a_store_that_goes_before_the_outputs_are_written_leaves_the_table_and_the_next_run_writes_them(
    on_switched_store: Pipeline, store_switch: Switched
):
    pipeline = on_switched_store
    pipeline.put("1000.csv")
    with pipeline.stopping_at("1000.csv") as gate:
        run = pipeline.begin()
        gate.wait_for()
        store_switch.off()
        gate.open_now()
        assert run.result(20).status_code == 503
    assert pipeline.user_ids() == ["1000"]
    store_switch.on()
    report = pipeline.run()
    assert (report["unchanged"], report["output"]["rows"]) == (1, 1)
    assert "1000" in pipeline.fetch("output.csv").text


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers, as a frozen server does."""
    with socket.create_server((HOST, 0), backlog=64) as listener:
        yield listener.getsockname()[1]


@ONE_STORE
def test_a_store_that_never_answers_fails_the_run_in_time(pipeline: Pipeline, silent_port: int):
    client = pipeline.client(MINIO_ENDPOINT=f"http://{HOST}:{silent_port}")
    with answered_in_time():
        response = client.post("/data")
    assert (response.status_code, document(response)["code"]) == (503, "store_unavailable")
    with answered_in_time():
        assert document(client.get("/readyz"))["unavailable"] == ["store"]


@ONE_STORE
def test_a_database_that_never_answers_fails_the_run_in_time(pipeline: Pipeline, silent_port: int):
    client = pipeline.client(PGPORT=str(silent_port))
    with answered_in_time():
        response = client.post("/data")
    assert (response.status_code, document(response)["code"]) == (503, "database_unavailable")


@ONE_STORE
@pytest.mark.parametrize("which", ["source", "output"])
def test_a_bucket_that_is_gone_fails_the_run_and_changes_nothing(pipeline: Pipeline, which: str):
    pipeline.put("1000.csv")
    pipeline.put("1000.png")
    pipeline.run()
    users = pipeline.users()
    setting = {"source": "SOURCE_BUCKET", "output": "OUTPUT_BUCKET"}[which]
    response = pipeline.client(**{setting: "no-such-bucket"}).post("/data?full=true")
    assert (response.status_code, document(response)["code"]) == (503, "store_unavailable")
    assert last_run(pipeline) == ("failed", "store_unavailable")
    assert pipeline.users() == users
    assert pipeline.run()["unchanged"] == 2


@ONE_STORE
@pytest.mark.parametrize(
    "settings",
    [
        {"MINIO_SECRET_KEY": "wrong-secret"},
        {"MINIO_ACCESS_KEY": "nobody-at-all"},
        {"MINIO_ENDPOINT": "http://127.0.0.1:1"},
        {"PGPASSWORD": "wrong"},
        {"PGUSER": "nobody"},
        {"PGDATABASE": "nothing"},
        {"PGPORT": "1"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_wrong_credentials_and_addresses_are_a_dependency_that_is_away(
    pipeline: Pipeline, settings: dict[str, str]
):
    client = pipeline.client(**settings)
    with answered_in_time():
        response = client.post("/data")
    away = "postgres" if next(iter(settings)).startswith("PG") else "store"
    problem = document(response)
    code = {"postgres": "database_unavailable", "store": "store_unavailable"}[away]
    assert (response.status_code, problem["code"], response.headers["Retry-After"]) == (503, code, "5")
    assert document(client.get("/readyz"))["unavailable"] == [away]
    assert not any(value in response.text for value in settings.values())


@ONE_STORE
@pytest.mark.parametrize(
    ("settings", "reason", "hint"),
    [
        ({"MINIO_SECRET_KEY": "wrong-secret"}, "SignatureDoesNotMatch (403)", "check MINIO_SECRET_KEY"),
        ({"MINIO_ACCESS_KEY": "nobody-at-all"}, "InvalidAccessKeyId (403)", "check MINIO_ACCESS_KEY"),
        ({"SOURCE_BUCKET": "no-such"}, "NoSuchBucket (404)", "check the name of the bucket, or run set-up"),
        ({"OUTPUT_BUCKET": "no-such"}, "NoSuchBucket (404)", "check the name of the bucket, or run set-up"),
        (
            {"MINIO_ENDPOINT": "http://127.0.0.1:1"},
            "refused",
            "check MINIO_ENDPOINT, and that the store runs",
        ),
        (
            {"MINIO_ENDPOINT": "http://s.invalid"},
            "resolve host: s.invalid",
            "check the host in MINIO_ENDPOINT",
        ),
    ],
)
def test_what_the_store_says_is_told(
    pipeline: Pipeline,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str],
    reason: str,
    hint: str,
):
    pipeline.put("1000.csv")
    client = pipeline.client(**settings)
    capsys.readouterr()
    detail = document(client.post("/data"))["detail"]
    assert f"{reason}: {hint}" in detail
    logged = read_log(capsys)
    assert [line["cause"] for line in logged if "cause" in line] == [detail] * 2
    if "OUTPUT_BUCKET" not in settings:  # which readiness does not look at
        response = client.get("/readyz")
        assert f"{reason}: {hint}" in document(response)["detail"]
        causes = [line["cause"] for line in read_log(capsys) if line["event"] == "request.failed"]
        assert causes == [document(response)["detail"]]


def read_log(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@ONE_STORE
def test_what_is_no_store_is_told_as_that(pipeline: Pipeline, tmp_path: Path):
    """Such as a console, at a port beside the store's."""
    with run_function("get-data", pipeline.database.env("get_data"), home=tmp_path / "get-data") as other:
        client = pipeline.client(MINIO_ENDPOINT=other.url)
        assert "check MINIO_ENDPOINT" in document(client.post("/data"))["detail"]


def test_a_store_without_etags_is_told_as_that(database: Database, tmp_path: Path):
    """Each run would read every object again."""
    key = Key("access", "secret-of-tests")
    options = ("--etag-hash=",)
    with serving(
        lambda port: Rclone(
            directory=tmp_path / "buckets", port=port, keys=[key], log=tmp_path / "log", limits=options
        )
    ) as server:
        bucket = make_buckets(Store("rclone", server.port, key))
        with Pipeline(bucket, database) as pipeline:
            assert pipeline.run()["listed"] == 0
            pipeline.put("1000.csv")
            problem = document(pipeline.client().post("/data"))
    assert problem["code"] == "store_unavailable"
    assert problem["detail"] == f"the store lists the bucket {bucket.source} without ETags"


@ONE_STORE
def test_a_database_that_was_not_set_up_is_away(pipeline: Pipeline):
    pipeline.database.run("drop table users, ledger, state, runs cascade")
    response = pipeline.client().post("/data")
    assert (response.status_code, document(response)["code"]) == (503, "database_unavailable")
    assert pipeline.client().get("/runs").status_code == 503


@ONE_STORE
@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("53100", "failed"),  # disk_full
        ("XX000", "lost"),  # after which the session is not trusted to say how the run ended
    ],
)
def test_a_database_that_cannot_write_is_away_until_it_can(pipeline: Pipeline, code: str, state: str):
    pipeline.put("1.csv")
    pipeline.database.run(
        "create function refuse() returns trigger language plpgsql as "
        f"$$ begin raise exception using errcode = '{code}'; end $$"
    )
    pipeline.database.run("create trigger refuse before insert on ledger execute function refuse()")
    response = pipeline.client().post("/data")
    assert (response.status_code, document(response)["code"]) == (503, "database_unavailable")
    assert pipeline.get("/runs/1")["state"] == state
    pipeline.database.run("drop trigger refuse on ledger")
    assert pipeline.run()["upserted"] == 1


@pytest.fixture
def postgres_switch(tmp_path: Path) -> Iterator[Switched]:
    port = choose_port()
    with ExitStack() as stack:
        yield Switched(stack, lambda: embedded_postgres(tmp_path / "pg", port=port))


@pytest.fixture
def own_database(postgres_switch: Switched) -> Database:
    """A database on a server that the test may stop."""
    return prepare_database(postgres_switch.server, "own")


@ONE_STORE
@pytest.mark.usefixtures("small_steps")
def test_a_database_that_restarts_needs_no_restart_of_the_function(
    bucket: Bucket, own_database: Database, postgres_switch: Switched
):
    with Pipeline(bucket, own_database) as pipeline:
        pipeline.put("1.csv")
        pipeline.run()
        pipeline.put("2.csv")
        with pipeline.stopping_at("2.csv") as gate:
            run = pipeline.begin()
            gate.wait_for()
            assert pipeline.get("/runs/2")["state"] == "running"  # and a session stays in the pool
            with answered_in_time():
                postgres_switch.off()
                response = run.result(10)
            assert document(response)["code"] == "database_unavailable"
            for path in ("/runs", "/readyz"):
                assert pipeline.client().get(path).status_code == 503
            postgres_switch.on()
        assert pipeline.get("/readyz") == {"status": "ready"}
        assert pipeline.get("/runs/2")["state"] == "lost"
        assert pipeline.run()["upserted"] == 1
        assert pipeline.user_ids() == ["1", "2"]
