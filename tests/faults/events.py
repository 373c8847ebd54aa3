"""Bucket notifications, as MinIO sends them."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

from flask.testing import FlaskClient

CREATED, REMOVED = "s3:ObjectCreated:Put", "s3:ObjectRemoved:Delete"


def notification(bucket: str, key: str, event: str) -> dict[str, Any]:
    """Return the body: the key is escaped in the record, and not at the top."""
    record = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "awsRegion": "",
        "eventTime": datetime.now(UTC).isoformat(),
        "eventName": event,
        "userIdentity": {"principalId": "uploader"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "Config",
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": quote_plus(key), "sequencer": "18A5B0E3B7C2A1F0"},
        },
        "source": {"host": "127.0.0.1", "port": "", "userAgent": "MinIO (linux; amd64)"},
    }
    return {"EventName": event, "Key": f"{bucket}/{key}", "Records": [record]}


def send(client: FlaskClient, bucket: str, key: str, event: str = CREATED) -> int:
    """Deliver the event of a key; returns the status of the answer."""
    body = json.dumps(notification(bucket, key, event))
    return client.post("/events", data=body, headers={"Authorization": "Bearer events"}).status_code
