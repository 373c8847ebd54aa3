"""What only a store with users, policies and odd keys can show; collected when MINIO_BINARY names one."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from string import Template

import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from pipeline import Pipeline, document, to_csv
from rig import REPOSITORY, Bucket, Database, Store, make_buckets

from rollcall.servers import Key, minio_s3

pytestmark = pytest.mark.parametrize("store", ["minio"], indirect=True)

ODD_IDS = ["a\x01b", "a\nb", "a\r\nb", "a\tb", '"\n"', "\x7f", "a\x85b"]


def test_keys_with_control_characters_are_rejected_and_hide_nothing(pipeline: Pipeline):
    for user_id in ODD_IDS:
        pipeline.put(f"{user_id}.csv")
        pipeline.put(f"{user_id}.png")
    for key in ("1000.csv", "1000.png", "zzz.csv"):
        pipeline.put(key)
    report = pipeline.run()
    keys = sorted((f"{user_id}{end}" for user_id in ODD_IDS for end in (".csv", ".png")), key=str.encode)
    detail = "the user id has control characters"
    assert report["rejects"] == [{"key": key, "reason": "key_invalid", "detail": detail} for key in keys]
    assert pipeline.user_ids() == ["1000", "zzz"]
    again = pipeline.run()
    assert (again["unchanged"], again["rejected"]) == (2 * len(ODD_IDS) + 3, 2 * len(ODD_IDS))
    for key in keys:
        pipeline.remove(key)
    assert pipeline.run()["rejected"] == 0


@pytest.fixture
def allow(pipeline: Pipeline) -> Callable[..., None]:
    """Give process-users a user with the policy of infra/, and take from it the keys named."""
    key, store = pipeline.bucket.store.key, pipeline.bucket.store
    admin = MinioAdmin(
        endpoint=f"127.0.0.1:{store.port}",
        credentials=StaticProvider(key.access, key.secret),
        region="us-east-1",
        secure=False,
    )
    name, secret = f"user{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    admin.user_add(access_key=name, secret_key=secret)
    pipeline.settings.update(MINIO_ACCESS_KEY=name, MINIO_SECRET_KEY=secret)
    buckets = {"SOURCE_BUCKET": pipeline.bucket.source, "OUTPUT_BUCKET": pipeline.bucket.output}
    text = (REPOSITORY / "infra" / "minio" / "process-users.json").read_text()

    def set_policy(*, without: list[str]) -> None:
        policy = json.loads(Template(text).substitute(buckets))
        if without:
            resources = [f"arn:aws:s3:::{pipeline.bucket.source}/{key}" for key in without]
            policy["Statement"].append({"Effect": "Deny", "Action": ["s3:GetObject"], "Resource": resources})
        admin.policy_add(policy_name=name, policy=policy)
        admin.policy_set(policy_name=name, user=name)

    return set_policy


def test_the_rights_of_process_users_are_enough_for_a_run(pipeline: Pipeline, allow: Callable[..., None]):
    allow(without=[])
    for key in ("1000.csv", "1000.png"):
        pipeline.put(key)
    assert pipeline.get("/readyz") == {"status": "ready"}
    assert pipeline.run()["upserted"] == 1
    pipeline.remove("1000.png")
    pipeline.remove_output("output.csv")
    assert pipeline.run()["upserted"] == 1
    assert pipeline.fetch("output.csv").text.endswith("\n1000,Ada,King,612302400000,\n")


def test_an_object_that_cannot_be_read_stops_nobody_and_is_tried_by_every_run(
    pipeline: Pipeline, allow: Callable[..., None], asked: list[str]
):
    allow(without=[])
    pipeline.put("1000.csv", to_csv("Old"))
    pipeline.run()
    allow(without=["1000.csv", "1001.csv"])
    for key in ("1000.csv", "1001.csv", "1002.csv"):
        pipeline.put(key, to_csv("New"))
    report = pipeline.run()
    detail = "the object could not be read"
    want = [{"key": key, "reason": "unreadable", "detail": detail} for key in ("1000.csv", "1001.csv")]
    assert (report["upserted"], report["rejects"]) == (1, want)
    assert [user[:2] for user in pipeline.users()] == [("1000", "Old"), ("1002", "New")]
    before = pipeline.outputs()
    asked.clear()
    assert pipeline.run()["rejects"] == want
    assert asked == ["1000.csv", "1001.csv"]
    assert pipeline.outputs() == before
    allow(without=[])
    assert pipeline.run()["rejected"] == 0
    assert [user[:2] for user in pipeline.users()] == [("1000", "New"), ("1001", "New"), ("1002", "New")]


def test_an_object_that_cannot_be_asked_for_is_not_taken_for_gone(
    pipeline: Pipeline, allow: Callable[..., None]
):
    """Neither its user nor its picture goes while nobody knows whether they are there."""
    pipeline.settings["ON_SOURCE_DELETE"] = "remove"
    allow(without=[])
    for key in ("1000.csv", "1000.png", "1001.csv"):
        pipeline.put(key)
    pipeline.run()
    pipeline.remove("1000.csv", "1000.png")
    allow(without=["1000.*"])
    report = pipeline.run()
    assert (report["upserted"], report["removed"]) == (0, 0)
    assert pipeline.pictures() == {"1000": "1000.png", "1001": None}
    allow(without=[])
    pipeline.run()
    assert pipeline.pictures() == {"1001": None}


def test_many_objects_that_may_not_be_read_stop_no_other(pipeline: Pipeline, allow: Callable[..., None]):
    for number in range(100, 140):
        pipeline.put(f"{number}.csv")
    pipeline.put("200.csv")
    allow(without=["1*.csv"])
    report = pipeline.run()
    assert (report["upserted"], report["rejected"]) == (1, 40)
    assert set(pipeline.rejects().values()) == {"unreadable"}
    allow(without=[])
    assert pipeline.run()["upserted"] == 40


@pytest.mark.usefixtures("store")
def test_another_region_is_told_as_that(database: Database, tmp_path: Path):
    key = Key("access", "secret-of-tests")
    binary = Path(os.environ["MINIO_BINARY"])
    with minio_s3(tmp_path, binary=binary, root=key, env={"MINIO_REGION": "eu-central-1"}) as server:
        bucket = Bucket(Store("minio", server.port, key), source="src-data", output="processed-data")
        with Pipeline(bucket, database) as pipeline:
            detail = document(pipeline.client().post("/data"))["detail"]
    assert "AuthorizationHeaderMalformed (400): check MINIO_REGION" in detail


def test_a_key_without_rights_is_told_as_that(pipeline: Pipeline, allow: Callable[..., None]):
    allow(without=[])
    others = make_buckets(pipeline.bucket.store)
    detail = document(pipeline.client(SOURCE_BUCKET=others.source).post("/data"))["detail"]
    assert f"the bucket {others.source} cannot be listed: AccessDenied (403): check the policy" in detail
    detail = document(pipeline.client(OUTPUT_BUCKET=others.output).post("/data"))["detail"]
    assert f"{others.output}/output.csv cannot be written: AccessDenied (403): check the policy" in detail
