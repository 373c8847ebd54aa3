"""Object keys: which user a key belongs to, and as what (pure)."""

import unicodedata
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

MAX_USER_ID_CHARACTERS = 128
RECORD_EXTENSION = ".csv"
_DOT_SEGMENTS = (".", "..")  # browsers take them out of an address, percent-encoded or not
PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg")  # the first that a user has is the user's picture


class SourceKey(NamedTuple):
    """A key that names a record or a picture.

    `picture` is None for a record, else the place of its extension in PICTURE_EXTENSIONS. `user_id` is None
    when the key is rejected; `detail` says why.
    """

    key: str
    user_id: str | None
    picture: int | None
    detail: str | None = None


def parse_key(key: str, prefix: str) -> SourceKey | None:
    """Return whose file a key is, or None for a key that is ignored: nested, elsewhere, another extension."""
    name = key[len(prefix) :]
    if not key.startswith(prefix) or "/" in name or not _is_storable(key):
        return None
    stem, dot, extension = name.rpartition(".")
    suffix = (dot + extension).lower()
    if suffix == RECORD_EXTENSION:
        picture = None
    elif suffix in PICTURE_EXTENSIONS:
        picture = PICTURE_EXTENSIONS.index(suffix)
    else:
        return None
    detail = _find_fault(stem)
    return SourceKey(key, None if detail else stem, picture, detail)


def list_record_keys(user_id: str, prefix: str) -> list[str]:
    """Return every key that a record of this user can have, in the order of their bytes."""
    return _list_spellings(user_id, prefix, (RECORD_EXTENSION,))


def list_user_keys(user_id: str, prefix: str) -> list[str]:
    """Return every key that a record or a picture of this user can have."""
    return _list_spellings(user_id, prefix, (RECORD_EXTENSION, *PICTURE_EXTENSIONS))


def has_control_character(text: str) -> bool:
    """True when a character of Unicode's category Cc is in the text."""
    # Nearly every name is printable, which is checked at the speed of C.
    return not text.isprintable() and any(unicodedata.category(character) == "Cc" for character in text)


def _list_spellings(user_id: str, prefix: str, extensions: Sequence[str]) -> list[str]:
    cases = (zip(extension.lower(), extension.upper(), strict=True) for extension in extensions)
    spellings = {"".join(letters) for letter_cases in cases for letters in product(*letter_cases)}
    return sorted(f"{prefix}{user_id}{spelling}" for spelling in spellings)


def _find_fault(user_id: str) -> str | None:
    if not user_id:
        return "the key has no user id before its extension"
    if len(user_id) > MAX_USER_ID_CHARACTERS:
        return f"the user id has {len(user_id)} characters, at most {MAX_USER_ID_CHARACTERS} are accepted"
    if has_control_character(user_id):
        return "the user id has control characters"
    if user_id in _DOT_SEGMENTS:
        return f"the user id is {user_id}, which no web address can hold"
    return None


def _is_storable(key: str) -> bool:
    """False for the two kinds of key that Postgres cannot hold as text: no UTF-8, and with a zero byte."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in key
