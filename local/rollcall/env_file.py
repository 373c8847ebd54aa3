"""The settings file of the compose stack: written from its example, with secrets made up on the spot.

Run by the machine's own Python before anything is installed, so it needs nothing but the standard library.
"""

import re
import secrets
import string
import sys
from pathlib import Path

MARKER = "generate"  # the value that stands for a secret in the example
SECRET_LENGTH = 32
ALPHABET = string.ascii_letters + string.digits
_TO_GENERATE = re.compile(rf"^(\w+)={MARKER}[ \t]*$", re.MULTILINE)


def make_secret() -> str:
    """A random text that is safe in URLs, shells and settings files."""
    return "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))


def fill_in(example: str) -> str:
    """The example with a secret of its own in place of each marker."""
    return _TO_GENERATE.sub(lambda found: f"{found[1]}={make_secret()}", example)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner reads, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


def main(example: Path, target: Path) -> None:
    """Writes the settings file unless there is one."""
    if target.exists():
        return
    write_private(target, fill_in(example.read_text()))
    print(f"{target} is written, with new passwords and keys")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
