"""Everything that Rollcall keeps and writes, read past it and compared with the model."""

import csv
import hashlib
from dataclasses import dataclass, replace
from typing import Any

from faults.model import Model, Person, split
from pg8000.native import Connection as Driver
from pipeline import Pipeline

_EVERYTHING = """
select jsonb_build_object(
    'users', (select coalesce(jsonb_agg(jsonb_build_array(
        id, user_id, first_name, last_name, (extract(epoch from birthdate) * 1000)::bigint, img_path
    ) order by user_id), '[]') from users),
    'ledger', (select coalesce(jsonb_agg(to_jsonb(l) order by key), '[]') from ledger l),
    'rejects', (
        select coalesce(jsonb_agg(jsonb_build_array(key, reason, detail) order by key), '[]') from rejects
    ),
    'state', (select to_jsonb(s) from state s),
    'commits', (select case when is_called then last_value else 0 end from commits),
    'version', (select max(version) from versions),
    'runs', (select coalesce(jsonb_agg(to_jsonb(r) order by run_id desc), '[]') from runs r)
)
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """The database at one moment; `users` are rows of id, user_id, names, birthts and img_path."""

    users: list[list[Any]]
    ledger: list[dict[str, Any]]
    rejects: list[list[str]]
    state: dict[str, Any]
    commits: int
    version: int
    runs: list[dict[str, Any]]

    @property
    def people(self) -> dict[str, Person]:
        return {user[1]: (user[2], user[3], user[4]) for user in self.users}

    @property
    def ids(self) -> dict[str, int]:
        return {user[1]: user[0] for user in self.users}


def look(connection: Driver) -> Seen:
    """Read the whole database in one snapshot."""
    ((document,),) = connection.run(_EVERYTHING) or []
    return Seen(**document)


def compare(seen: Seen, pipeline: Pipeline, model: Model, *, after_event: bool = False) -> None:
    """Fail when the database or the files differ from the model in anything.

    An event that comes after a run may leave in the ledger that a key is gone, until the next run.
    """
    if after_event:
        left = [entry for entry in seen.ledger if entry["user_id"] or entry["reason"]]
        assert not {entry["key"] for entry in seen.ledger if entry not in left} & model.files.keys()
        seen = replace(seen, ledger=left)
    _compare_users(seen, pipeline.bucket.source, model)
    _compare_rejects(seen, model)
    _compare_ledger(seen, model)
    _compare_outputs(seen, pipeline, model)


def _compare_users(seen: Seen, bucket: str, model: Model) -> None:
    want = {
        user_id: (person, f"{bucket}/{picture}" if picture else None)
        for user_id, (person, picture) in model.users().items()
    }
    got = {user[1]: ((user[2], user[3], user[4]), user[5]) for user in seen.users}
    assert got == want, f"the table is {got} and not {want}"
    assert len(seen.users) == len(got), "a user is in the table twice"


def _compare_rejects(seen: Seen, model: Model) -> None:
    got, want = {key: reason for key, reason, _ in seen.rejects}, model.rejects()
    assert got == want, f"the rejects are {got} and not {want}"
    assert all(detail for _, _, detail in seen.rejects)


def _compare_ledger(seen: Seen, model: Model) -> None:
    """Check that the ledger is the bucket, and says of each record what the model says of it."""
    # What was rejected for its date is remembered with the day on which it was stored.
    etags = {entry["key"]: entry["etag"].partition(" ")[0] for entry in seen.ledger}
    assert etags == model.ledger(), f"the ledger is of {etags} and not of {model.ledger()}"
    for entry in seen.ledger:
        owner, becomes = split(entry["key"]), model.files[entry["key"]].becomes
        assert owner is not None
        if entry["user_id"] is None:
            assert entry["reason"] == "key_invalid"
            continue
        assert (entry["user_id"], entry["picture"] is None) == (owner[0], owner[1] == "csv")
        assert entry["revision"] <= seen.commits
        if owner[1] == "csv":
            person = (entry["first_name"], entry["last_name"], entry["birthts"])
            assert (person if entry["reason"] is None else entry["reason"]) == becomes


def _compare_outputs(seen: Seen, pipeline: Pipeline, model: Model) -> None:
    state = seen.state
    assert state["output_version"] == seen.version
    assert state["rejects_output_version"] == state["rejects_version"]
    assert state["output_rows"] == len(seen.users)
    users, etag = fetch_output(pipeline, "output.csv")
    assert users.decode() == model.output(pipeline.bucket.source), "output.csv differs"
    assert etag == state["output_etag"] == hashlib.md5(users, usedforsecurity=False).hexdigest()
    rejects, etag = fetch_output(pipeline, "rejects.csv")
    rows = list(csv.reader(rejects.decode().splitlines(keepends=True)))
    assert rows == [["key", "reason", "detail"], *seen.rejects], "rejects.csv differs"
    assert etag == state["rejects_output_etag"]


def fetch_output(pipeline: Pipeline, key: str) -> tuple[bytes, str]:
    """Return an output file and its etag."""
    response = pipeline.store.get_object(bucket_name=pipeline.bucket.output, object_name=key)
    try:
        return response.read(), response.headers["ETag"].strip('"')
    finally:
        response.close()
        response.release_conn()
