"""`make clean`: ends what a killed `make run` left running, and removes its data."""

import os
import shutil
import sys
from collections.abc import Mapping

from rollcall.processes import Register, StartError
from rollcall.run_directory import claim
from rollcall.servers import remove_home
from rollcall.stack import RunSettings
from serving.settings import SettingsError


def main(environ: Mapping[str, str]) -> int:
    """Removes the run directory; the exit status is 1 while it is in use."""
    try:
        path = RunSettings.from_env(environ).directory
        if not path.exists():
            return 0
        if not (path / "lock").exists():  # RUN_DIR may name any directory
            raise StartError(f"{path} was not made by make run, so it stays")
        with claim(path) as directory:
            Register(directory.processes).end_leftovers()
            remove_home(directory.postgres)
            shutil.rmtree(path)
    except (SettingsError, StartError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"removed {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
