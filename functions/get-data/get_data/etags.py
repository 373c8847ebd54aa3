"""What an answer depends on, as an entity tag: equal tags mean equal bytes. Pure."""

import hashlib
import json
from datetime import date

from get_data.users import Version


def build_etag(version: Version, *, today: date, resource: str, representation: str, release: str) -> str:
    """Return the tag, without quotes, of a path with its normalised query, as this release answers it."""
    # The day, because ages change with it.
    parts = [version.lineage, version.data_version, today.isoformat(), resource, representation, release]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
