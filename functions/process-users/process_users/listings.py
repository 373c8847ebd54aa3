"""Listings: a page of ListObjectsV2 becomes objects and the token of the next page (pure).

Amazon S3 API reference, ListObjectsV2.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

# Nearly every object of a listing looks like this, whatever its key: printable ASCII without entities, but
# for the quotes of an etag. To find a page of 1,000 so takes 0.5 ms, as a tree 7 ms. A page with one that
# looks different is parsed as a tree.
_TEXT = r"[ -%'-;=-~]*+"
_QUOTE = r'(?:"|&quot;|&#34;)?'
_PLAIN = re.compile(
    f"<Contents><Key>({_TEXT})</Key><LastModified>({_TEXT})</LastModified>"
    rf"<ETag>{_QUOTE}([\w-]*+){_QUOTE}</ETag><Size>([0-9]++)</Size>"
    f"(?:<StorageClass>{_TEXT}</StorageClass>)?</Contents>",
    re.ASCII,
)


class Listed(NamedTuple):
    """An object as a listing shows it; `size` in bytes, `day` of the last change as YYYY-MM-DD in UTC."""

    key: str
    etag: str
    size: int
    day: str


def parse_page(body: bytes) -> tuple[list[Listed], str | None]:
    """Return a page and the token of the next, None after the last; raises ElementTree.ParseError."""
    before, *parts = _PLAIN.split(body.decode("latin-1"))
    keys, days, etags, sizes = parts[0::5], parts[1::5], parts[2::5], parts[3::5]
    root = _parse(before + "".join(parts[4::5]))
    space = _get_namespace(root)
    objects: Iterator[tuple[str, str, str, str]] = zip(keys, days, etags, sizes, strict=True)
    if root.find(f"{space}Contents") is not None:
        root = _parse(body.decode("latin-1"))
        objects = _find_objects(root, space)
    is_encoded = root.findtext(f"{space}EncodingType") == "url"
    page = [
        Listed(_decode(key) if is_encoded else key, etag, int(size), modified[:10])
        for key, modified, etag, size in objects
    ]
    is_truncated = root.findtext(f"{space}IsTruncated") == "true"
    return page, root.findtext(f"{space}NextContinuationToken") or None if is_truncated else None


def _parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.encode("latin-1"))  # noqa: S314  the store's own words; expat bounds entities


def _get_namespace(root: ElementTree.Element) -> str:
    return root.tag.rpartition("ListBucketResult")[0]


def _find_objects(root: ElementTree.Element, space: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, time of the last change, etag and size of each object, as they are written."""
    for content in root.iter(f"{space}Contents"):
        yield (
            content.findtext(f"{space}Key", ""),
            content.findtext(f"{space}LastModified", ""),
            content.findtext(f"{space}ETag", "").strip('"'),
            content.findtext(f"{space}Size", "0"),
        )


def _decode(key: str) -> str:
    return unquote_plus(key, errors="surrogateescape") if "%" in key or "+" in key else key
