"""Bucket notifications: the JSON that MinIO and S3 send becomes the object it is about (pure).

Format: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus


class NotificationError(Exception):
    """A body is no bucket notification; the message says what was wanted."""


@dataclass(frozen=True, slots=True)
class Notification:
    """An object that something happened to; what that was is not told, for events come late and twice."""

    bucket: str
    key: str


def parse_notification(body: bytes) -> list[Notification]:
    """Return the objects a notification is about, none for the event that tests the connection."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested beyond reason
        raise NotificationError("the body is not JSON, wanted a bucket notification") from error
    if not isinstance(document, dict):
        raise NotificationError("the body is not an object, wanted a bucket notification")
    if document.get("Event") == "s3:TestEvent":
        return []
    records = document.get("Records")
    if not isinstance(records, list):
        raise NotificationError("the body has no list of Records, wanted a bucket notification")
    return [_parse_record(record) for record in records]


def _parse_record(record: Any) -> Notification:
    try:
        bucket, key = record["s3"]["bucket"]["name"], record["s3"]["object"]["key"]
    except (KeyError, TypeError) as error:
        wanted = "s3.bucket.name and s3.object.key"
        raise NotificationError(f"a record of the notification lacks {wanted}") from error
    if not (isinstance(bucket, str) and isinstance(key, str)):
        raise NotificationError("a record of the notification has a bucket or key that is no text")
    return Notification(bucket, unquote_plus(key, errors="surrogateescape"))
