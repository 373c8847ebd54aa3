"""The source bucket: lists its keys in order and reads its objects; knows a gone object from a gone store."""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from enum import Enum
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree

from process_users.keys import SourceKey
from process_users.listings import Listed, parse_page
from process_users.records import MAX_BYTES
from process_users.settings import StoreSettings
from process_users.transfers import CONCURRENCY, Request, Response, Transfers, quote_path, quote_text

PAGE_KEYS = 1_000  # the most that S3 gives
LISTING_TIMEOUT_S = 7
PROBE_TIMEOUT_S = 2
SILENCE_S = 3  # without any good answer, before the store itself is asked whether it is there
TRY_AGAIN = (408, 429)  # of the answers that blame the request: those that blame its moment
PAUSES_S = (0.2, 0.5)  # before an object is asked for a second and a third time


class StoreUnavailableError(Exception):
    """The object store, or its bucket, cannot be reached or does not let us in."""

    code = "store_unavailable"


class Presence(Enum):
    """What asking the store for one object came to."""

    THERE = "there"
    GONE = "gone"
    UNREADABLE = "unreadable"


class Reading(NamedTuple):
    """The answer for one key, as it was when it was read.

    `etag` is None when it cannot be relied on. `body` is empty for pictures and when `is_too_large`.
    `modified` in seconds since 1970.
    """

    source: SourceKey
    presence: Presence
    etag: str | None = None
    modified: int = 0
    body: bytes = b""
    is_too_large: bool = False


class Bucket:
    """One bucket of the store; for one thread."""

    def __init__(self, settings: StoreSettings, name: str) -> None:
        self._name = name
        self._transfers = Transfers(settings)
        self._failure = ""  # why the last object without a clear answer had none

    def close(self) -> None:
        """Close the connections to the store."""
        self._transfers.close()

    def is_empty(self, prefix: str) -> bool:
        """True when the bucket lists nothing under prefix."""
        return not any(self.list_pages(prefix, page_keys=1))

    def list_pages(
        self, prefix: str, start_after: str = "", end: str | None = None, *, page_keys: int = PAGE_KEYS
    ) -> Iterator[list[Listed]]:
        """Yield the objects under prefix by key as bytes, after start_after up to and with end."""
        token: str | None = ""
        last = b""
        while token is not None:
            page, token = self._list_page(prefix, start_after=start_after, token=token, max_keys=page_keys)
            places = [last, *(to_place(listed.key) for listed in page)]
            if any(place >= following for place, following in pairwise(places)):
                # Compared with the ledger key by key, such a listing would hide objects.
                raise StoreUnavailableError("the store does not list keys in the order of their bytes")
            if page and not any(listed.etag for listed in page):
                # By it the next run knows what has changed: without, it would read every object again.
                raise StoreUnavailableError(f"the store lists the bucket {self._name} without ETags")
            last = places[-1]
            if end is not None and last > to_place(end):
                token, page = None, [listed for listed in page if to_place(listed.key) <= to_place(end)]
            yield page

    def read(
        self, sources: Iterable[SourceKey], *, pauses_s: Sequence[float] = PAUSES_S
    ) -> Iterator[Reading]:
        """Ask for each object: the content of records, the mere presence of pictures.

        Yields one reading for each source, in any order. What concerns one object alone is UNREADABLE after
        one try more than there are pauses. Raises StoreUnavailableError when the store is away or leaves
        nearly all unanswered.
        """
        left, refused = list(sources), []
        for pause_s in (*pauses_s, None):
            left = yield from self._read_once({self._to_request(source): source for source in left}, refused)
            if not left and not refused:
                return
            self.check()
            if not left:
                break
            if pause_s is not None:
                time.sleep(pause_s)
        if len(left) > CONCURRENCY:
            raise StoreUnavailableError(f"{len(left)} objects in a row could not be read: {self._failure}")
        yield from (Reading(source, Presence.UNREADABLE) for source in (*left, *refused))

    def fetch_etag(self, key: str) -> str | None:
        """Return the etag of an object, or None when there is none that we may see."""
        response = self._ask(Request(quote_path(self._name, key), byte_range="0-0"), LISTING_TIMEOUT_S)
        if response.status in (200, 206, 416):  # 416: it is empty, which no output is
            return response.etag
        if response.status in (403, 404):
            return None
        raise StoreUnavailableError(f"{self._name}/{key} cannot be looked at: {response.reason}")

    def check(self) -> None:
        """Raise StoreUnavailableError when the bucket cannot be listed now."""
        self._list_page("", max_keys=1, timeout_s=PROBE_TIMEOUT_S)

    def _list_page(
        self,
        prefix: str,
        *,
        start_after: str = "",
        token: str = "",
        max_keys: int = PAGE_KEYS,
        timeout_s: float = LISTING_TIMEOUT_S,
    ) -> tuple[list[Listed], str | None]:
        """Return one page and the token of the next, None after the last."""
        query = {
            "continuation-token": token,
            "encoding-type": "url",  # without it, a control character in a key makes the XML unreadable
            "list-type": "2",
            "max-keys": str(max_keys),
            "prefix": prefix,
            "start-after": "" if token else start_after,
        }
        text = "&".join(f"{name}={quote_text(value)}" for name, value in query.items() if value)
        response = self._ask(Request(quote_path(self._name), text), timeout_s)
        if response.status != 200:
            raise StoreUnavailableError(f"the bucket {self._name} cannot be listed: {response.reason}")
        try:
            return parse_page(response.body)
        except ElementTree.ParseError as error:
            raise StoreUnavailableError(
                f"the bucket {self._name} cannot be listed: the answer is not one of S3, check MINIO_ENDPOINT"
            ) from error

    def _ask(self, request: Request, timeout_s: float) -> Response:
        """Send one request; again, while there is time, when there is no answer or a server's error."""
        deadline = time.monotonic() + timeout_s
        for pause_s in (*PAUSES_S, None):
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            timed = Request(request.path, request.query, request.byte_range, timeout_ms=left_ms)
            ((_, response),) = self._transfers.send([timed])
            if 0 < response.status < 500 or pause_s is None or time.monotonic() + pause_s >= deadline:
                return response
            time.sleep(pause_s)
        raise AssertionError("the last pause is None")

    def _read_once(
        self, left: dict[Request, SourceKey], refused: list[SourceKey]
    ) -> Generator[Reading, None, list[SourceKey]]:
        """Ask once for each, until the store falls silent; returns those without a clear answer.

        Those that the store refuses to give, whose next answer would be the same, are added to `refused`.
        """
        empty: list[SourceKey] = []
        last_answer = time.monotonic()
        with closing(self._transfers.send(list(left))) as answers:
            for request, response in answers:
                if response.status == 416 and not response.etag and request.byte_range:
                    empty.append(left.pop(request))
                elif reading := _to_reading(left[request], response):
                    del left[request]
                    yield reading
                elif 400 <= response.status < 500 and response.status not in TRY_AGAIN:
                    refused.append(left.pop(request))
                else:
                    self._failure = response.reason
                    if time.monotonic() - last_answer >= SILENCE_S:
                        break
                    continue
                last_answer = time.monotonic()
        unclear = list(left.values())
        if empty:
            # A part of an empty object is refused without its etag, the whole is not.
            whole = {Request(quote_path(self._name, source.key), max_bytes=1): source for source in empty}
            unclear += yield from self._read_once(whole, refused)
        return unclear

    def _to_request(self, source: SourceKey) -> Request:
        path = quote_path(self._name, source.key)
        if source.picture is not None:
            return Request(path, byte_range="0-0")
        return Request(path, max_bytes=MAX_BYTES)


def to_place(key: str) -> bytes:
    """Return what a key is ordered by: its bytes, also those that are no UTF-8."""
    return key.encode(errors="surrogateescape")


def _to_reading(source: SourceKey, response: Response) -> Reading | None:
    """Return what the answer says of the object, None when it says nothing clear."""
    if response.status in (200, 206, 416):
        return Reading(
            source,
            Presence.THERE,
            etag=response.etag or None,
            modified=response.modified,
            body=response.body if source.picture is None else b"",
            is_too_large=response.is_too_large,
        )
    if response.status == 404:
        if b"NoSuchBucket" in response.body:
            raise StoreUnavailableError(f"the bucket is gone: {response.reason}")
        return Reading(source, Presence.GONE)
    return None
