"""`make clean`: ends what a killed `make run` left running, and removes its data."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rollcall.processes import Register, StartError
from rollcall.run_directory import claim, is_run_directory
from rollcall.stack import REPOSITORY, RunSettings
from rollcall.terminal import say, say_error
from serving.settings import SettingsError


def main(environ: Mapping[str, str]) -> int:
    """Removes the run directory; the exit status is 1 while it is in use, or when it is not ours."""
    try:
        path = RunSettings.from_env(environ).directory
        if not os.path.lexists(path):
            return 0
        _check_removable(path)
        with claim(path) as directory:
            Register(directory.processes).end_leftovers()
            left = directory.remove()
    except (SettingsError, StartError) as error:
        say_error(str(error))
        return 1
    say(f"removed {path}" + (f", except what make run did not make: {', '.join(left)}" if left else ""))
    return 0


def _check_removable(path: Path) -> None:
    """RUN_DIR may name any directory."""
    if path.is_symlink():
        raise StartError(f"{path} is a link, so it stays: set RUN_DIR to the directory itself")
    if path.resolve() in (Path.home(), REPOSITORY, *REPOSITORY.parents) or not is_run_directory(path):
        raise StartError(f"{path} was not made by make run, so it stays")


if __name__ == "__main__":
    sys.exit(main(os.environ))
