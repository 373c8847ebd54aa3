"""Makes and removes the virtual environment of the Makefile, or says in one sentence what is in the way.

    python local/make_venv.py .venv
    python local/make_venv.py --remove .venv

Any Python may be asked to run this, so it is written for all of them.
"""

import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 14)
# Written first, into a directory that was missing or empty: so all of it is ours to clear and to remove.
MARKER = ".rollcall"


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


def refusal(directory, is_removal):
    """Why this directory is not ours to clear or remove; None when it is, or when there is none."""
    if os.path.islink(directory):
        return "%s is a link: set VENV to the directory itself, or remove the link." % directory
    if not os.path.lexists(directory):
        return None
    if not os.path.isdir(directory):
        return "%s is not a directory: set VENV to another place." % directory
    if os.stat(directory).st_uid != os.geteuid():
        return "%s belongs to another account: run make as that one, or set VENV." % directory
    place = os.path.join(os.path.realpath(directory), "")
    for needed in (os.curdir, os.path.expanduser("~")):
        if os.path.join(os.path.realpath(needed), "").startswith(place):
            return "%s holds more than a virtual environment: set VENV to another place." % directory
    if not is_ours(directory) and (is_removal or os.listdir(directory)):
        return "%s was not made by make, so it stays as it is: set VENV to another place." % directory
    return None


def is_ours(directory):
    """Whether make made this directory; an earlier release left another sign."""
    signs = ((MARKER,), (".python", "pyvenv.cfg"))
    return any(all(os.path.isfile(os.path.join(directory, name)) for name in sign) for sign in signs)


def make(directory):
    """Leaves an empty environment in the directory; returns the exit status."""
    print("Making the virtual environment %s (once, about a minute)" % directory)
    sys.stdout.flush()
    if os.path.isdir(directory):
        shutil.rmtree(directory)
    os.makedirs(directory)
    with open(os.path.join(directory, MARKER), "w") as marker:
        marker.write("make of Rollcall made this directory, and make clean removes it.\n")
    return subprocess.call([sys.executable, "-m", "venv", directory])


def main(arguments):
    """Does what the command line says; ends with a sentence where it cannot."""
    directory = arguments[-1]
    is_removal = arguments[0] == "--remove"
    sentence = (None if is_removal else problem()) or refusal(directory, is_removal)
    if sentence:
        sys.exit(sentence)
    if not is_removal:
        sys.exit(make(directory))
    if os.path.isdir(directory):
        shutil.rmtree(directory)
        print("removed %s" % directory)


if __name__ == "__main__":
    main(sys.argv[1:])
