"""Random histories against a model of the rules that fits on a page and shares no code with Rollcall."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline import ONE_STORE, OUTPUT_HEADER, REJECTS_HEADER, Pipeline, to_csv
from rig import Bucket, Database

pytestmark = ONE_STORE

# A file's content by what becomes of it: the names of a valid record, or the reason of the reject.
CONTENTS = {
    "Ada": to_csv("Ada"),
    "Grace": to_csv("Grace"),
    "Joan": to_csv("Joan"),
    "row_count": b"",
    "not_utf8": b"\xff",
    "name_empty": to_csv(""),
    "too_large": b" " * 70_000,
}
VALID = {"Ada", "Grace", "Joan"}
USERS = ["1", "1.d", "é"]
RECORDS = [f"{user}{extension}" for user in USERS for extension in (".csv", ".CSV")]
PICTURES = [f"{user}{extension}" for user in USERS for extension in (".png", ".PNG", ".jpg", ".jpeg")]
NOBODYS = [".csv", ".png", "notes.txt", "nested/1.csv"]


@dataclass
class Model:
    """The bucket, and the users that the runs so far have left: id -> first name and picture."""

    files: dict[str, str] = field(default_factory=dict)
    users: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def run(self, *, remove: bool) -> None:
        self.users = {user: kept for user in USERS if (kept := self._decide(user, remove=remove))}

    def _decide(self, user: str, *, remove: bool) -> tuple[str, str | None] | None:
        records = sorted(key for key in self.files if key in RECORDS and key[:-4] == user)
        known = self.users.get(user)
        if records and self.files[records[0]] in VALID:
            first_name = self.files[records[0]]
        elif known and (records or not remove):
            first_name = known[0]
        else:
            return None
        for extensions in ((".PNG", ".png"), (".jpg",), (".jpeg",)):
            for extension in extensions:
                if user + extension in self.files:
                    return first_name, user + extension
        return first_name, None

    def rejects(self) -> dict[str, str]:
        rejects = {}
        for key, content in sorted(self.files.items(), key=lambda item: item[0].encode()):
            if key in (".csv", ".png"):
                rejects[key] = "key_invalid"
            elif key.endswith(".csv") and key in RECORDS and f"{key[:-4]}.CSV" in self.files:
                rejects[key] = "duplicate"
            elif key in RECORDS and content not in VALID:
                rejects[key] = content
        return rejects


PUT = st.tuples(st.just("put"), st.sampled_from(RECORDS), st.sampled_from([*CONTENTS]))
PUT_OTHER = st.tuples(st.just("put"), st.sampled_from(PICTURES + NOBODYS), st.just("picture"))
REMOVE = st.tuples(st.just("remove"), st.sampled_from(RECORDS + PICTURES + NOBODYS), st.none())
RENAME = st.tuples(st.just("rename"), st.sampled_from(RECORDS), st.sampled_from(RECORDS)) | st.tuples(
    st.just("rename"), st.sampled_from(PICTURES), st.sampled_from(PICTURES)
)
RUN = st.tuples(st.just("run"), st.sampled_from(["", "full=true", "dry_run=true"]), st.none())
STEPS = st.lists(PUT | PUT_OTHER | REMOVE | RENAME | RUN, min_size=1, max_size=25)


@pytest.fixture
def world(bucket: Bucket, database: Database) -> Iterator[Pipeline]:
    with Pipeline(bucket, database) as pipeline:
        yield pipeline


@pytest.mark.parametrize("size", ["small_steps", "one_batch"])
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, remove=st.booleans())
def test_after_any_history_the_table_is_what_the_rules_say(
    world: Pipeline, size: str, steps: list[tuple[str, str, str]], remove: bool
):
    with pytest.MonkeyPatch.context() as patch:
        if size == "small_steps":
            patch.setattr("process_users.run.BATCH_OBJECTS", 2)
            patch.setattr("process_users.ledger.ENTRIES_PAGE", 3)
        model = Model()
        with begin_anew(world, remove=remove) as pipeline:
            for step in [*steps, ("run", "", "")]:
                play(pipeline, model, step, remove=remove)


def begin_anew(world: Pipeline, *, remove: bool) -> Pipeline:
    """Empty the tables as set-up leaves them, and take the place of an empty folder."""
    world.database.run("truncate users, ledger, runs restart identity")
    world.database.run("update state set rejects_version = 0, rules = ''")
    world.database.run("update state set output_version = null, rejects_output_version = null")
    prefix = f"{secrets.token_hex(4)}/"
    mode = "remove" if remove else "keep"
    return replace(
        world, settings={"SOURCE_PREFIX": prefix, "ON_SOURCE_DELETE": mode}, _clients={}, _pools=[]
    )


def play(pipeline: Pipeline, model: Model, step: tuple[str, str, str], *, remove: bool) -> None:
    action, key, other = step
    prefix = pipeline.settings["SOURCE_PREFIX"]
    if action == "run":
        run_and_compare(pipeline, model, query=key, remove=remove)
    elif action == "put":
        pipeline.put(prefix + key, CONTENTS.get(other))
        model.files[key] = other
    elif key in model.files:
        content = model.files.pop(key)
        pipeline.remove(prefix + key)
        if action == "rename":
            pipeline.put(prefix + other, CONTENTS.get(content))
            model.files[other] = content


def run_and_compare(pipeline: Pipeline, model: Model, *, query: str, remove: bool) -> None:
    before, state, version = pipeline.users(), pipeline.state(), pipeline.version()
    if query == "dry_run=true":
        pipeline.run(f"{query}&allow_empty=true")
        assert (pipeline.users(), pipeline.state(), pipeline.version()) == (before, state, version)
        return
    report = pipeline.run(f"{query}&allow_empty=true")
    model.run(remove=remove)
    prefix = pipeline.settings["SOURCE_PREFIX"]
    start = f"{pipeline.bucket.source}/{prefix}"
    want = [
        (user, first_name, "King", 612_302_400_000, picture and start + picture)
        for user, (first_name, picture) in sorted(model.users.items())
    ]
    assert pipeline.users() == want
    rejects = {
        key.removeprefix(start.partition("/")[2]): reason for key, reason in pipeline.rejects().items()
    }
    assert rejects == model.rejects()
    assert (pipeline.version() != version) == (before != want)
    assert report["output"]["rows"] == len(want)
    lines = [",".join("" if cell is None else str(cell) for cell in user) for user in want]
    output, rejected = pipeline.outputs()
    assert output.text == OUTPUT_HEADER + "".join(f"{line}\n" for line in lines)
    assert rejected.text.startswith(REJECTS_HEADER)
    assert len(rejected.text.splitlines()) == 1 + len(model.rejects())
