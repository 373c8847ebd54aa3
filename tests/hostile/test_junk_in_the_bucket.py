"""Files of every kind of dirt among good ones: each is rejected for its reason, the good ones are taken."""

from collections import Counter
from random import Random

from hostile.amounts import RECORDS_A_KIND, SEED
from hostile.dirt import KINDS, build_files, build_good
from pipeline import Pipeline
from rig import Count

GOOD = 100


def put_all(pipeline: Pipeline, files: dict[str, bytes]) -> None:
    for key, body in files.items():
        pipeline.put(key, body)


def test_every_kind_of_dirt_is_rejected_for_its_reason_and_good_files_are_taken(
    pipeline: Pipeline, count: Count
):
    random = Random(SEED)
    dirt = list(build_files(random, RECORDS_A_KIND))
    good = {build_id(random, number): build_good(random) for number in range(GOOD)}
    put_all(pipeline, {f"{name}.csv": body for name, body, _ in dirt})
    put_all(pipeline, {f"{name}.csv": body for name, (body, _) in good.items()})

    report = pipeline.run()

    assert (report["listed"], report["rejected"]) == (len(dirt) + GOOD, len(dirt)), SEED
    assert pipeline.rejects() == {f"{name}.csv": reason for name, _, reason in dirt}, SEED
    assert {user[0]: user[1:4] for user in pipeline.users()} == {
        name: values for name, (_, values) in good.items()
    }, SEED
    check_outputs(pipeline, rows=GOOD, rejects=len(dirt))
    assert pipeline.run()["unchanged"] == len(dirt) + GOOD
    count(files=len(dirt), kinds=len(KINDS), **Counter(reason for _, _, reason in dirt), seed=SEED)


def test_dirt_in_place_of_a_good_file_leaves_its_user_as_it_was(pipeline: Pipeline, count: Count):
    random = Random(SEED)
    dirt = list(build_files(random, 1))
    good = {name: build_good(random) for name, _, _ in dirt}
    put_all(pipeline, {f"{name}.csv": body for name, (body, _) in good.items()})
    assert pipeline.run()["upserted"] == len(dirt)
    before = pipeline.database.run("select * from users order by user_id")
    put_all(pipeline, {f"{name}.csv": body for name, body, _ in dirt})

    report = pipeline.run()

    assert (report["upserted"], report["rejected"]) == (0, len(dirt)), SEED
    assert pipeline.rejects() == {f"{name}.csv": reason for name, _, reason in dirt}, SEED
    assert pipeline.database.run("select * from users order by user_id") == before
    # Mended, each takes its place again.
    put_all(pipeline, {f"{name}.csv": body for name, (body, _) in good.items()})
    assert pipeline.run()["rejected"] == 0
    count(files=len(dirt), seed=SEED)


def check_outputs(pipeline: Pipeline, *, rows: int, rejects: int) -> None:
    output, rejected = pipeline.outputs()
    assert output.text.count("\n") == rows + 1
    assert rejected.text.count("\n") == rejects + 1


def build_id(random: Random, number: int) -> str:
    """A user id beside those of dirt, in the order of a listing too."""
    return f"{random.choice('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz')}{number}"
