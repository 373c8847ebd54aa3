"""Makes the virtual environment of the Makefile, or says in one sentence what is missing.

Any Python may be asked to run this, so it is written for all of them.
"""

import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 14)


def problem():
    """What stands in the way, and what to do; None when nothing does."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        return (
            "Rollcall needs Python 3.11 to 3.14 and %s is %d.%d: "
            "choose one, as in `make run PYTHON=python3.13`." % (sys.executable, version[0], version[1])
        )
    try:
        # Debian and Ubuntu ship venv without ensurepip, which it needs
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return (
            "%s has no venv module: install it (Debian, Ubuntu: apt install python%d.%d-venv) or "
            "choose another Python, as in `make run PYTHON=python3.13`."
            % (sys.executable, version[0], version[1])
        )
    return None


def main(directory):
    """Leaves an empty environment in the directory."""
    sentence = problem()
    if sentence:
        sys.exit(sentence)
    print("Making the virtual environment %s (once, about a minute)" % directory)
    sys.stdout.flush()
    sys.exit(subprocess.call([sys.executable, "-m", "venv", "--clear", directory]))


if __name__ == "__main__":
    main(sys.argv[1])
