"""What the processes of the framework's server have in common."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_server() -> None:
    """Have every process that is forked from this one killed when this one is: call it before the first fork.

    A worker without its server would go on to hold the lock of its run, and the port of the next server. On
    Linux; elsewhere such a worker ends when its requests are answered.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        os.register_at_fork(after_in_child=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
