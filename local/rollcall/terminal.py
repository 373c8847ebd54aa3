r"""What is printed for people: control characters are shown, never obeyed.

File names, keys, logs and what servers say may hold escape sequences that retitle a terminal, hide text or
fake lines. Run as a program, it passes on what another one prints:

    python -m rollcall.terminal docker compose logs

Run by the machine's own Python as well, so it needs nothing but the standard library.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# C0, DEL and C1; marks that reorder text or break lines; surrogates, which stand for bytes not UTF-8.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)


def visible(text: str) -> str:
    r"""The text with each control character as an escape such as \x1b; line ends too."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """Prints lines for the person who watches."""
    try:
        print(_visible_lines(text), flush=True)
    except OSError:
        # Nobody watches any more (a closed terminal, `| head`): what runs must not suffer from that.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for the rest of the program)


def say_error(text: str) -> None:
    """Prints what went wrong."""
    print(_visible_lines(text), file=sys.stderr, flush=True)


def _visible_lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


def main(command: Sequence[str]) -> int:
    """Runs a command and passes its lines on until nobody reads them; returns its exit status."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
        reader = sys.stdout
        for line in process.stdout or ():
            say(line.rstrip(b"\r\n").decode(errors="backslashreplace"))
            if sys.stdout is not reader:
                process.terminate()  # as in `make local-logs | head`: it may follow a log for ever
                break
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
