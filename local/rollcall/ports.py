"""Free TCP ports of this machine."""

import random
import socket

HOST = "127.0.0.1"
# Below the ports that Linux and macOS hand to outgoing connections, so that none of those takes one between
# its choice here and its use.
CHOICES = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as listener:
        # as servers do it: a closed connection in TIME_WAIT is no obstacle
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_port() -> int:
    """A port that is free now; random, so that several choosers at once rarely meet."""
    for port in random.SystemRandom().sample(CHOICES, 100):
        if is_free(port):
            return port
    raise OSError(f"no free port found between {CHOICES.start} and {CHOICES.stop}")
