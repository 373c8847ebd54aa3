"""Where Rollcall is on this machine, for commands that use it: `make run` or `make local-up`."""

import os
from collections.abc import Mapping
from pathlib import Path

import urllib3

from rollcall.private_files import NotOursError, check_readable
from rollcall.run_directory import read_variables
from rollcall.stack import REPOSITORY, USUAL_DIRECTORY

TIMEOUT = urllib3.Timeout(connect=3, read=30)


class NotUpError(Exception):
    """There is no stack to use, or more than one; the message says what to do."""


def find_stack(environ: Mapping[str, str], address: str) -> Mapping[str, str]:
    """The variables of the stack whose `address` answers, or of the one that STACK names."""
    files = {
        "run": Path(environ.get("RUN_DIR") or USUAL_DIRECTORY).expanduser() / "env",
        "compose": Path(environ.get("ENV_FILE") or REPOSITORY / "local" / ".env"),
    }
    chosen = environ.get("STACK", "")
    if chosen and chosen not in files:
        raise NotUpError(f"STACK is {chosen!r}, wanted run or compose")
    wanted = {name: file for name, file in files.items() if chosen in ("", name)}
    known = {name: _read(file) for name, file in wanted.items() if os.path.lexists(file)}
    up = [name for name, variables in known.items() if _answers(variables.get(address, ""))]
    if not up:
        raise NotUpError(f"nothing answers: {_start_command(chosen)} first{_tell_tried(known, address)}")
    if len(up) > 1:
        raise NotUpError("make run and make local-up are both up: choose one with STACK=run or STACK=compose")
    return known[up[0]]


def _read(file: Path) -> Mapping[str, str]:
    try:
        check_readable(file)  # or another account could choose where files and tokens go
        return read_variables(file)
    except NotOursError as error:
        raise NotUpError(f"{error}: remove it, or set RUN_DIR or ENV_FILE to another place") from error
    except OSError as error:
        raise NotUpError(f"{file} cannot be read: {error.strerror}") from error


def _answers(url: str) -> bool:
    if not url:
        return False
    try:
        with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as pool:
            pool.request("GET", url, redirect=False)
    except urllib3.exceptions.HTTPError:
        return False
    return True


def _start_command(chosen: str) -> str:
    return {"run": "make run", "compose": "make local-up"}.get(chosen, "make run or make local-up")


def _tell_tried(known: Mapping[str, Mapping[str, str]], address: str) -> str:
    tried = [variables[address] for variables in known.values() if variables.get(address)]
    return f" (tried {', '.join(tried)})" if tried else ""
