"""The settings file of the compose stack: written from its example, with secrets of its own, and checked.

Run by the machine's own Python before anything is installed, so it needs nothing but the standard library.
"""

import os
import re
import secrets
import string
import sys
from collections.abc import Mapping
from pathlib import Path

from rollcall.private_files import NotOursError, check_parents, check_readable, make_private, write_private
from rollcall.terminal import say, say_error
from serving.values import find_fault

MARKER = "generate"  # the value that stands for a secret in the example
SECRET_LENGTH = 32
ALPHABET = string.ascii_letters + string.digits
SECRET, PORT, NUMBER = "a password or key", "a port from 0 to 65535", "a whole number from 1 on"
LEAST = {
    "MINIO_ROOT_USER": 3,
    "MINIO_ROOT_PASSWORD": 8,
    "_ACCESS_KEY": 3,
    "_SECRET_KEY": 8,
}  # that MinIO takes
_LINE = re.compile(r"(\w+)=(.*)")
_WORD = re.compile(r"\w+|\S")
_QUOTED = re.compile(r"""^(["'])(.*)\1$""")
_SPECIAL = re.compile(r"""[$`"'\\#]""")
_TO_GENERATE = re.compile(rf"^(\w+)={MARKER}[ \t]*$", re.MULTILINE)


def make_secret() -> str:
    """A random text that is safe in URLs, shells and settings files."""
    return "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))


def fill_in(example: str) -> str:
    """The example with a secret of its own in place of each marker."""
    return _TO_GENERATE.sub(lambda found: f"{found[1]}={make_secret()}", example)


def add_missing(text: str, example: str) -> tuple[str, list[str]]:
    """The settings with those that only the example has, and their names: the file may be an older one."""
    present = {found[1] for line in text.splitlines() if (found := _LINE.match(line))}
    found = [found for line in example.splitlines() if (found := _LINE.fullmatch(line))]
    missing = [each for each in found if each[1] not in present]
    lines = [text.rstrip("\n"), *(fill_in(each[0]) for each in missing)]
    return ("\n".join(lines) + "\n" if missing else text), [each[1] for each in missing]


def find_problems(text: str, example: str) -> list[str]:
    """What is wrong with the settings, a sentence each."""
    values = dict(_LINE.findall(example))
    return [
        f"line {number}: {problem}"
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.lstrip().startswith("#") and (problem := _check(line, values))
    ]


def _check(line: str, example: Mapping[str, str]) -> str:
    """What is wrong with one line; empty when nothing is."""
    if line.startswith(" "):
        return "begins with a blank"
    found = _LINE.fullmatch(line)
    if not found:
        # Its first word alone: what follows may be a secret.
        return f"{_WORD.findall(line)[0][:40]!r} is not of the form NAME=value"
    name, value = found[1], _QUOTED.sub(r"\2", found[2])
    if name not in example:
        return f"{name} is no setting: local/.env.example has all there are"
    if fault := find_fault(name, value):
        return fault
    if special := _SPECIAL.search(value):
        return f"{name} contains {special[0]}, which Docker Compose and shells read in ways of their own"
    return _check_kind(name, value, _wanted(name, example[name]))


def _check_kind(name: str, value: str, wanted: str) -> str:
    least = next((least for end, least in LEAST.items() if name.endswith(end)), 1)
    right = {
        SECRET: value not in ("", MARKER),
        PORT: value.isascii() and value.isdecimal() and int(value) <= 65535,
        NUMBER: value.isascii() and value.isdecimal() and int(value) > 0,
    }
    if not right.get(wanted, True):
        return f"{name} is {value!r}, wanted {wanted}" if value else f"{name} has no value, wanted {wanted}"
    if wanted == SECRET and len(value) < least:
        return f"{name} has fewer than {least} characters, which the object store does not take"
    return ""


def _wanted(name: str, example: str) -> str:
    if example == MARKER:
        return SECRET
    if not example.isdecimal():
        return ""  # the functions say themselves what they do not accept
    return PORT if "PORT" in name.split("_") or name == "PGPORT" else NUMBER  # EXPORT_MAX_S is none


def main(example: Path, target: Path) -> int:
    """Writes the settings file, or checks the one there is; the exit status is 1 when it cannot be used."""
    wanted = example.read_text(encoding="utf-8")
    try:
        check_parents(target)
        if not os.path.lexists(target):
            write_private(target, fill_in(wanted))
            say(f"{target} is written, with new passwords and keys")
            return 0
        check_readable(target)
        if make_private(target):
            say(f"{target} was readable by other accounts: only you can read it now")
        with target.open(encoding="utf-8", newline="") as file:  # as it is, with its line ends
            text, added = add_missing(file.read(), wanted)
        problems = find_problems(text, wanted)
        if added and not problems:
            write_private(target, text)
            say(f"{target} has got what it lacked: {', '.join(added)}")
    except NotOursError as error:
        problems = [f"{error}. Remove it, or set ENV_FILE to a file of yours"]
    except (OSError, ValueError) as error:
        problems = [str(error)]
    for problem in problems:
        say_error(f"{target}: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
