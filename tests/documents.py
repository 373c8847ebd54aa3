"""The documentation as programs: their blocks of code, in order, and what is shown below a block."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rig import REPOSITORY

PAGES = (
    "README.md",
    "functions/README.md",
    "functions/get-data/ANALYSIS.md",
    "functions/process-users/FILES.md",
    "infra/OPERATIONS.md",
    "infra/PRODUCTION.md",
    "local/README.md",
    "tests/README.md",
    "tests/bench/README.md",
)
ANYTHING = "…"  # in what is shown: left out, or another each time
_FENCE = re.compile(r"(?m)^```(\w*)\n(.*?)^```$", re.DOTALL)
_PROGRAMS = {
    "sh": ("bash", "-e", "-u", "-o", "pipefail", "-c"),
    "python": (sys.executable, "-W", "error", "-c"),
}
_SHOWN = ("json", "text", "csv")
LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Block:
    """Code of a page; `shown` is what the page says that it prints, None where it says nothing."""

    language: str
    code: str
    shown: str | None


def is_for_containers(block: Block) -> bool:
    """True of what needs the containers, the others are for `make run`."""
    return any(name in block.code for name in ("local/.env", "make backup", "make restore", "docker "))


def read_text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def read_blocks(page: str) -> list[Block]:
    """Return the blocks of a page that are run: in a shell, or as Python."""
    found = _FENCE.findall(read_text(page))
    following = [*found[1:], ("", "")]
    return [
        Block(language, code, shown if kind in _SHOWN else None)
        for (language, code), (kind, shown) in zip(found, following, strict=True)
        if language in _PROGRAMS
    ]


def to_command(block: Block, places: Mapping[str, str]) -> list[str]:
    """Return what runs a block, with other places than those that the page names."""
    code = block.code
    for named, place in places.items():
        code = code.replace(named, place)
    return [*_PROGRAMS[block.language], code]


def run_block(
    block: Block,
    *,
    folder: Path,
    env: Mapping[str, str],
    places: Mapping[str, str],
    limit_s: float = LIMIT_S,
) -> str:
    """Run a block in a folder; returns what it prints."""
    done = subprocess.run(
        to_command(block, places),
        cwd=folder,
        env={**env, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, f"{block.code}\nended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def agrees(got: str, shown: str) -> bool:
    """True when all that is shown was printed and nothing else, in whatever lines."""
    want = ".*".join(re.escape(part) for part in _join(shown).split(ANYTHING))
    return re.fullmatch(want, _join(got)) is not None


def _join(text: str) -> str:
    return " ".join(text.split())
