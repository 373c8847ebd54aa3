"""Prepare the servers for Rollcall, once and again: database, roles, tables, buckets, users, samples.

Runs to its end or fails with one line that says what is wrong. Running it twice changes nothing, two at once
wait for each other, and a changed password or key in the environment is applied.
"""

import io
import logging
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from minio import Minio
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_fixed,
)

from rollcall import database, object_store
from rollcall.object_store import Credentials, ObjectStore, StoreNotReadyError, StoreSetupError
from rollcall.roles import read_roles
from rollcall.samples import Sample, samples
from rollcall.session import DatabaseNotReadyError, DatabaseSetupError, open_session
from serving.logs import configure, log
from serving.settings import BucketSettings, Environment, PostgresSettings, SettingsError

INFRA = Path(__file__).resolve().parents[2] / "infra"
WAIT_S = 60  # for each server to answer
ATTEMPTS = 6  # over half a minute, at what a server that answers may be disturbed in
SAMPLE_THREADS = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class User:
    """Who may use the object store: infra/minio/<name>.json says for what."""

    name: str
    credentials: Credentials

    @property
    def policy(self) -> str:
        """The policy's name on the server; with a prefix, as others may use the same server."""
        return f"rollcall-{self.name}"


@dataclass(frozen=True, slots=True)
class SetupSettings:
    """Where the servers are, who administers them, and who is to use them."""

    database: database.Wanted
    store: ObjectStore
    users: tuple[User, ...]  # empty: the server has no admin API
    source_bucket: str
    source_prefix: str
    output_bucket: str
    events_arn: str  # the server's target of notifications; empty: none are sent
    sample_data: bool
    infra: Path

    @classmethod
    def from_env(cls, mapping: Mapping[str, str]) -> "SetupSettings":
        """Read the environment; raises SettingsError with everything that is wrong with it."""
        env = Environment(mapping)
        has_admin = env.text("MINIO_ADMIN", "on") == "on"
        buckets = BucketSettings.from_environment(env)
        postgres = PostgresSettings.from_environment(env)
        infra = Path(env.file("INFRA_DIR", _check_infra, wanted="the directory infra") or INFRA)
        settings = cls(
            database=database.Wanted(
                settings=postgres,
                roles=read_roles(env, postgres.database),
                folder=infra / "postgres",
                is_dedicated=env.text("POSTGRES_DEDICATED", "off") == "on",
            ),
            store=ObjectStore.from_environment(env),
            users=tuple(
                _read_user(env, name) for name in ("process-users", "get-data", "uploader") if has_admin
            ),
            source_bucket=buckets.source,
            source_prefix=buckets.prefix,
            output_bucket=buckets.output,
            events_arn=env.text("EVENTS_ARN", ""),
            sample_data=env.text("SAMPLE_DATA", "off") == "on",
            infra=infra,
        )
        _check_keys(settings, env)
        env.check()
        return settings


def main() -> int:
    """Run set-up with the settings of the environment; returns the exit status."""
    configure("setup", "info")
    try:
        settings = SetupSettings.from_env(os.environ)
        _wait_until_ready(lambda: _probe_postgres(settings))
        client = _wait_until_ready(lambda: _probe_store(settings.store))
        # What disturbed it on the way may be over; each step may be done again.
        for attempt in Retrying(
            retry=retry_if_exception_type((DatabaseNotReadyError, StoreNotReadyError)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(),
            before_sleep=lambda state: log(
                "setup.again", detail=str(state.outcome and state.outcome.exception())
            ),
            reraise=True,
        ):
            with attempt:
                _set_up(settings, client)
    except (
        SettingsError,
        DatabaseSetupError,
        DatabaseNotReadyError,
        StoreSetupError,
        StoreNotReadyError,
    ) as error:
        log("setup.failed", level=logging.ERROR, detail=str(error))
        return 1
    log("setup.done")
    return 0


def _set_up(settings: SetupSettings, client: Minio) -> None:
    """Hold the lock to the end: buckets and users are not to be changed by two at once either."""
    with database.lock_setup(settings.database) as maintenance:
        name = settings.database.settings.database
        log("setup.database", name=name, created=database.create_database(maintenance, name))
        _prepare_database(settings)
        with settings.store.errors():
            _prepare_buckets(settings, client)
            _prepare_users(settings)
            _put_samples(settings, client)


def _prepare_database(settings: SetupSettings) -> None:
    changes = database.prepare(settings.database)
    log("setup.migrations", applied=changes.migrations)
    log("setup.roles", changed=changes.roles, passwords_changed=changes.passwords)
    if any(changes.former.values()):
        log(
            "setup.former_roles",
            removed=changes.former["removed"],
            left_without_rights=changes.former["left"],
        )


def _prepare_buckets(settings: SetupSettings, client: Minio) -> None:
    """Make both buckets, private, and have the source bucket tell of its objects where that is wanted."""
    for bucket in (settings.source_bucket, settings.output_bucket):
        log("setup.bucket", name=bucket, created=object_store.make_bucket(client, bucket))
        if settings.users and object_store.make_private(client, bucket):
            log("setup.bucket_made_private", name=bucket)
    if settings.events_arn:
        changed = object_store.notify(client, settings.source_bucket, settings.events_arn)
        log("setup.notifications", name=settings.source_bucket, changed=changed)


def _prepare_users(settings: SetupSettings) -> None:
    """Give each user its keys and its one policy."""
    buckets = {"SOURCE_BUCKET": settings.source_bucket, "OUTPUT_BUCKET": settings.output_bucket}
    admin = settings.store.admin()
    for user in settings.users:
        file = settings.infra / "minio" / f"{user.name}.json"
        log(
            "setup.user",
            name=user.name,
            policy_changed=object_store.put_policy(admin, user.policy, file, buckets=buckets),
            user_changed=object_store.put_user(settings.store, user.credentials, user.policy),
            former_removed=object_store.remove_former_users(
                admin, user.policy, keep=user.credentials.access_key
            ),
        )


def _put_samples(settings: SetupSettings, client: Minio) -> None:
    """Put the invented users into a bucket that nobody has used, and what a killed set-up left out."""
    if not settings.sample_data:
        return
    wanted = {settings.source_prefix + sample.key: sample for sample in samples()}
    present = {found.object_name for found in client.list_objects(settings.source_bucket, recursive=True)}
    with open_session(settings.database.settings) as session:
        if not database.is_never_used(session) or not present <= wanted.keys():
            log("setup.samples", put=0)
            return
    missing = [key for key in wanted if key not in present]
    with ThreadPoolExecutor(SAMPLE_THREADS) as pool:
        list(pool.map(lambda key: _put_sample(client, settings.source_bucket, key, wanted[key]), missing))
    log("setup.samples", put=len(missing))


def _put_sample(client: Minio, bucket: str, key: str, sample: Sample) -> None:
    client.put_object(
        bucket_name=bucket,
        object_name=key,
        data=io.BytesIO(sample.body),
        length=len(sample.body),
        content_type=sample.content_type,
    )


def _probe_postgres(settings: SetupSettings) -> None:
    database.find_maintenance(settings.database.settings)


def _probe_store(store: ObjectStore) -> Minio:
    """Ask with the root keys, so that wrong ones are told at once."""
    client = store.client(store.root)
    with store.errors():
        client.list_buckets()
    return client


def _wait_until_ready(probe: Callable[[], T]) -> T:
    """Call the probe until its server answers, for at most WAIT_S."""
    for attempt in Retrying(
        retry=retry_if_exception_type((DatabaseNotReadyError, StoreNotReadyError)),
        stop=stop_after_delay(WAIT_S),
        wait=wait_fixed(1),
        before_sleep=lambda state: (
            log("setup.waiting", detail=str(state.outcome and state.outcome.exception()))
            if state.attempt_number in (1, 15, 30, 45)
            else None
        ),
        reraise=True,
    ):
        with attempt:
            return probe()
    raise AssertionError("unreachable: the last attempt returns or raises")


def _read_user(env: Environment, name: str) -> User:
    prefix = name.upper().replace("-", "_")
    return User(name, Credentials(env.text(f"{prefix}_ACCESS_KEY"), env.text(f"{prefix}_SECRET_KEY")))


def _check_keys(settings: SetupSettings, env: Environment) -> None:
    """Refuse keys that are used twice: one user would have the rights of both."""
    keys = [settings.store.root.access_key, *(user.credentials.access_key for user in settings.users)]
    repeated = {key for key in keys if key and keys.count(key) > 1}
    if repeated:
        env.refuse(
            "MINIO_ROOT_USER and the *_ACCESS_KEY variables must all differ, "
            f"got {', '.join(sorted(repeated))} more than once"
        )


def _check_infra(directory: str) -> None:
    """Raise OSError when what set-up reads is not there."""
    (Path(directory) / "postgres" / "grants.sql").read_bytes()


if __name__ == "__main__":
    sys.exit(main())
