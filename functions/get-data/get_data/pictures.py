"""Addresses of pictures: signed for a short while, so that browsers fetch them from the store itself."""

from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from serving.settings import StoreSettings
from serving.store import build_client

if TYPE_CHECKING:
    from minio import Minio

LINK_S = 300
# Not what the uploader said: a picture that is shown must not be a page.
MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg"}


class Pictures:
    """Signs addresses under the endpoint that browsers know; asks nobody."""

    def __init__(self, store: StoreSettings, public_endpoint: str) -> None:
        self._store = replace(store, endpoint=public_endpoint)

    def build_address(self, img_path: str) -> str:
        """Return the address of a picture by its bucket and key, good for LINK_S."""
        bucket, _, key = img_path.partition("/")
        return self._client.presigned_get_object(
            bucket_name=bucket,
            object_name=key,
            expires=timedelta(seconds=LINK_S),
            response_headers={
                "response-content-type": MEDIA_TYPES[key.rpartition(".")[2].lower()],
            },
        )

    @cached_property
    def _client(self) -> "Minio":
        return build_client(self._store)
