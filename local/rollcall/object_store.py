"""Prepare the object store: private buckets, users and what each may do; repeatable.

Buckets are made over S3, on any server. Users and policies need MinIO's admin API.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import InvalidResponseError, MinioAdminException, S3Error, ServerError
from minio.notificationconfig import NotificationConfig, QueueConfig

from serving.settings import Environment, StoreSettings
from serving.store import build_client, build_pool, describe_error
from serving.store_reasons import CERTIFICATES, TLS

EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
TIMEOUT = urllib3.Timeout(connect=3, read=20)
# Answers to a key that the server does not know or a wrong secret; with any other, both are right.
_WRONG_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied.Disabled")


class _Command(Enum):
    """Calls of MinIO's admin API that minio-py has no method for."""

    REVOKE_TOKENS = "revoke-tokens/builtin"


class StoreSetupError(Exception):
    """The object store cannot be prepared, and waiting would not help; the message says why."""


class StoreNotReadyError(Exception):
    """The object store does not answer yet; the message says what was tried."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A pair of keys."""

    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Where the object store is, and the keys of who may administer it."""

    endpoint: str
    region: str
    root: Credentials
    ca_file: str = ""
    ca_dir: str = ""

    @classmethod
    def from_environment(cls, env: Environment) -> "ObjectStore":
        """Read MINIO_ENDPOINT, MINIO_REGION, MINIO_ROOT_USER, MINIO_ROOT_PASSWORD and whom to trust."""
        store = StoreSettings.from_environment(env, keys=("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"))
        root = Credentials(store.access_key, store.secret_key)
        return cls(store.endpoint, store.region, root, store.ca_file, store.ca_dir)

    def client(self, credentials: Credentials) -> Minio:
        """Return an S3 client for these keys."""
        settings = self._settings(credentials)
        return build_client(settings, self._pool(settings))

    def admin(self) -> MinioAdmin:
        """Return a client of MinIO's admin API."""
        parts = urlsplit(self.endpoint)
        return MinioAdmin(
            endpoint=parts.netloc,
            credentials=StaticProvider(self.root.access_key, self.root.secret_key),
            region=self.region,
            secure=parts.scheme == "https",
            http_client=self._pool(self._settings(self.root)),
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translate what the clients raise: the only place that knows their errors."""
        try:
            yield
        except (S3Error, InvalidResponseError, MinioAdminException) as error:
            raise StoreSetupError(
                f"the object store at {self.endpoint} refuses: {_describe(error)}"
            ) from error
        except (ServerError, urllib3.exceptions.HTTPError, OSError) as error:
            told = f"the object store at {self.endpoint} cannot be reached: {_describe(error)}"
            # What will not pass is not waited for.
            kind = StoreSetupError if CERTIFICATES in told or TLS in told else StoreNotReadyError
            raise kind(told) from error

    def _settings(self, credentials: Credentials) -> StoreSettings:
        keys = (credentials.access_key, credentials.secret_key)
        return StoreSettings(self.endpoint, self.region, *keys, self.ca_file, self.ca_dir)

    def _pool(self, settings: StoreSettings) -> urllib3.PoolManager:
        retries = urllib3.Retry(
            total=2, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504), raise_on_status=False
        )
        return build_pool(settings, timeout=TIMEOUT, retries=retries)


def make_bucket(client: Minio, bucket: str) -> bool:
    """Make the bucket if it is missing; true when it was."""
    if client.bucket_exists(bucket_name=bucket):
        return False
    client.make_bucket(bucket_name=bucket)
    return True


def make_private(client: Minio, bucket: str) -> bool:
    """Remove the bucket's own policy, which alone opens it to people without keys; true when it had one."""
    try:
        client.get_bucket_policy(bucket_name=bucket)
    except S3Error as error:
        if error.code == "NoSuchBucketPolicy":
            return False
        raise
    client.delete_bucket_policy(bucket_name=bucket)
    return True


def notify(client: Minio, bucket: str, arn: str) -> bool:
    """Have the bucket tell this target of every object that comes, changes or goes; true when it did not."""
    queue = QueueConfig(queue=arn, events=EVENTS, config_id="rollcall")
    queues = client.get_bucket_notification(bucket_name=bucket).queue_config_list
    known = [(_without_region(each.queue or ""), sorted(each.events)) for each in queues]
    if known == [(_without_region(arn), sorted(EVENTS))]:
        return False
    client.set_bucket_notification(bucket_name=bucket, config=NotificationConfig(queue_config_list=[queue]))
    return True


def _without_region(arn: str) -> str:
    """Return the ARN without its region, which MinIO fills in: arn:minio:sqs:REGION:ID:webhook."""
    parts = arn.split(":")
    return ":".join([*parts[:3], "", *parts[4:]])


def put_policy(admin: MinioAdmin, name: str, file: Path, *, buckets: Mapping[str, str]) -> bool:
    """Store a policy, with the names of the buckets filled in; true when it was new or another."""
    wanted = json.loads(Template(file.read_text(encoding="utf-8")).substitute(buckets))
    if name in json.loads(admin.policy_list()) and _normal(json.loads(admin.policy_info(name))) == _normal(
        wanted
    ):
        return False
    admin.policy_add(policy_name=name, policy=wanted)
    return True


def put_user(store: ObjectStore, user: Credentials, policy: str) -> bool:
    """Make the user have this secret and this policy alone; true when something was different."""
    admin = store.admin()
    known: dict[str, Any] = json.loads(admin.user_list()).get(user.access_key, {})
    is_right = known.get("status") == "enabled" and _is_accepted(store, user)
    if known and not is_right:
        _end_access(admin, user.access_key)
    if not is_right:
        admin.user_add(access_key=user.access_key, secret_key=user.secret_key)
    if known.get("policyName") != policy:
        admin.policy_set(policy_name=policy, user=user.access_key)
        return True
    return not is_right


def remove_former_users(admin: MinioAdmin, policy: str, *, keep: str) -> int:
    """Remove who else has the policy: users whose access key was replaced. Returns how many."""
    users: dict[str, Any] = json.loads(admin.user_list())
    former = [name for name, user in users.items() if user.get("policyName") == policy and name != keep]
    for name in former:
        _end_access(admin, name)
        admin.user_remove(access_key=name)
    return len(former)


def _end_access(admin: MinioAdmin, access_key: str) -> None:
    """Lock the user out: end its secret, its temporary keys, its console sessions and its service accounts.

    MinIO keeps temporary keys when a secret changes, and even when the user is removed: they work again as
    soon as a user of that name is back. The secret goes first, so that no new ones can be made meanwhile. A
    set-up that is killed halfway leaves a secret that nobody knows, so the next set-up starts over.

    MinIO misses temporary keys that nobody has used since it started: only another access key ends those.
    """
    admin.user_add(access_key=access_key, secret_key=secrets.token_urlsafe(24))
    admin._url_open(
        method="POST",
        command=_Command.REVOKE_TOKENS,  # pyright: ignore[reportArgumentType]  it reads the value alone
        query_params={"user": access_key, "fullRevoke": "true"},
    )
    accounts = json.loads(admin.list_service_account(user=access_key)).get("accounts") or []
    for account in accounts:
        admin.delete_service_account(access_key=account["accessKey"])


def _is_accepted(store: ObjectStore, user: Credentials) -> bool:
    """True when the server takes the keys, whatever they may do."""
    try:
        store.client(user).list_buckets()
    except S3Error as error:
        return error.code not in _WRONG_CREDENTIALS
    return True


def _normal(policy: Any) -> Any:
    """Bring a policy into one order: the server gives lists back in another one."""
    if isinstance(policy, dict):
        return {key: _normal(value) for key, value in policy.items()}
    if isinstance(policy, list):
        return sorted((_normal(item) for item in policy), key=lambda item: json.dumps(item, sort_keys=True))
    return policy


def _describe(error: Exception) -> str:
    """Say what an error of the clients says, by the names of set-up's variables."""
    said = describe_error(error).replace("MINIO_ACCESS_KEY", "MINIO_ROOT_USER")
    return said.replace("MINIO_SECRET_KEY", "MINIO_ROOT_PASSWORD")
