"""What Rollcall promises, as a naive model of a page: it shares no code with Rollcall and reads no CSV.

It knows the files of the bucket, each with what a reader of FILES.md would say becomes of it, and is told
whom the database held: that is the last valid version for those whose record is rejected or gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import md5

Person = tuple[str, str, int]  # first name, last name, milliseconds since 1970
HEADER = "first_name, last_name, birthts\n"
PICTURES = ("png", "jpg", "jpeg")
LONG_ID = "l" * 129


@dataclass(frozen=True, slots=True)
class File:
    """An object: its content, and the person or the reason of the reject that a record of it becomes."""

    body: bytes
    becomes: Person | str = ""

    @property
    def etag(self) -> str:
        return md5(self.body, usedforsecurity=False).hexdigest()


def record(first_name: str, last_name: str = "King", birthts: int = 612_302_400_000) -> File:
    """Return a valid record, in the form most are in."""
    return File(f"{HEADER}{first_name}, {last_name}, {birthts}\n".encode(), (first_name, last_name, birthts))


VALID = {
    "ada": record("Ada"),
    "grace": record("Grace", "Hopper", -1_991_520_000_000),
    "null": record("null", "NA", 0),
    "quoted": File(
        b'\xef\xbb\xbfBirthTs,note,last_name,FIRST_NAME\r\n5,x,"O""Neil, Jr", =1+1 \r\n',
        ("=1+1", 'O"Neil, Jr', 5),
    ),
    "script": record("Zoë", "李", 1_000_000_000_001),
}
BROKEN = {
    "empty": File(b"", "row_count"),
    "two rows": File(f"{HEADER}a, b, 1\nc, d, 2\n".encode(), "row_count"),
    "latin": File(b"first_name, last_name, birthts\nZo\xeb, King, 1\n", "not_utf8"),
    "quote": File(f'{HEADER}"a, b, 1\n'.encode(), "csv_malformed"),
    "cells": File(f"{HEADER}a, b\n".encode(), "cell_count"),
    "no column": File(b"first_name, birthts\na, 1\n", "column_missing"),
    "column twice": File(b"first_name,last_name,birthts,Birthts\na,b,1,2\n", "column_repeated"),
    "no name": File(f"{HEADER} , b, 1\n".encode(), "name_empty"),
    "long name": File(f"{HEADER}{'a' * 201}, b, 1\n".encode(), "name_too_long"),
    "control": File(f"{HEADER}a\x01, b, 1\n".encode(), "name_control"),
    "date": File(f"{HEADER}a, b, 1989-05-27\n".encode(), "birthts_malformed"),
    "unborn": File(f"{HEADER}a, b, 99999999999999\n".encode(), "birthts_out_of_range"),
    "large": File(b" " * 65_537, "too_large"),
}
KINDS = {**VALID, **BROKEN}
PICTURE, OTHER_PICTURE = File(b"\x89PNG\r\n\x1a\n"), File(b"\xff\xd8\xff")


def split(key: str) -> tuple[str, str] | None:
    """Return the user id and the kind of file that a key names, None for what is nobody's."""
    user_id, dot, extension = key.rpartition(".")
    kind = extension.lower()
    return (user_id, kind) if dot and "/" not in key and kind in ("csv", *PICTURES) else None


def is_user_id(text: str) -> bool:
    return text not in (".", "..") and 0 < len(text) <= 128 and not any(character < " " for character in text)


@dataclass(slots=True)
class Model:
    """The bucket now, and the last valid version of each user that the database held."""

    files: dict[str, File] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)

    def run(self, *, remove: bool) -> None:
        """Take over what the bucket says, as a run that ends well does."""
        owners = self.user_ids()
        for user_id in owners:
            self.settle(user_id, remove=remove)
        if remove:
            self.people = {user_id: self.people[user_id] for user_id in self.people if user_id in owners}

    def settle(self, user_id: str, *, remove: bool) -> None:
        """Take over what the bucket says of one user."""
        keys = self.records(user_id)
        becomes = self.files[keys[0]].becomes if keys else ""
        if isinstance(becomes, tuple):
            self.people[user_id] = becomes
        elif remove and not keys:
            self.people.pop(user_id, None)

    def learn(self, people: Mapping[str, Person]) -> None:
        """Be told whom the database holds now."""
        self.people = dict(people)

    def user_ids(self) -> set[str]:
        found = map(split, self.files)
        return {found_one[0] for found_one in found if found_one and is_user_id(found_one[0])}

    def records(self, user_id: str) -> list[str]:
        """Return the keys of a user's records, the one that counts first."""
        return sorted((key for key in self.files if split(key) == (user_id, "csv")), key=str.encode)

    def picture(self, user_id: str) -> str | None:
        for kind in PICTURES:
            for key in sorted(self.files, key=str.encode):
                if split(key) == (user_id, kind):
                    return key
        return None

    def users(self) -> dict[str, tuple[Person, str | None]]:
        """Return the table by user id: the person, and the key of the picture."""
        owners = self.user_ids()
        return {
            user_id: (person, self.picture(user_id) if user_id in owners else None)
            for user_id, person in self.people.items()
        }

    def rejects(self) -> dict[str, str]:
        """Return the reason of each rejected key."""
        return {key: reason for key in self.files if (reason := self._find_reason(key))}

    def _find_reason(self, key: str) -> str:
        owner = split(key)
        if owner is None:
            return ""
        if not is_user_id(owner[0]):
            return "key_invalid"
        if owner[1] != "csv":
            return ""
        if self.records(owner[0])[0] != key:
            return "duplicate"
        becomes = self.files[key].becomes
        return becomes if isinstance(becomes, str) else ""

    def ledger(self) -> dict[str, str]:
        """Return the etag of every object that is not ignored."""
        return {key: file.etag for key, file in self.files.items() if split(key)}

    def output(self, bucket: str) -> str:
        """Return output.csv, byte by byte; a cell is quoted when it must be."""
        lines = ["user_id,first_name,last_name,birthts,img_path"]
        for user_id, (person, picture) in sorted(self.users().items(), key=lambda item: item[0].encode()):
            cells = (user_id, *map(str, person), f"{bucket}/{picture}" if picture else "")
            lines.append(",".join(map(quote, cells)))
        return "".join(f"{line}\n" for line in lines)


def quote(cell: str) -> str:
    """Return a cell as RFC 4180 has it."""
    return f'"{cell.replace(chr(34), chr(34) * 2)}"' if set(cell) & set('",\r\n') else cell
