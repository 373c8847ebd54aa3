"""A TCP proxy that ends each connection on which nothing is sent for a while, as load balancers do."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from rig import Database

from rollcall.ports import HOST


@contextmanager
def ending_idle(database: Database, *, idle_s: float) -> Iterator[Database]:
    """Run a proxy in front of a database's server until the end of the block."""
    upstream = (HOST, database.settings.port)
    with socket.create_server((HOST, 0), backlog=64) as front:
        threading.Thread(target=_accept, args=(front, upstream, idle_s), daemon=True).start()
        try:
            yield replace(database, settings=replace(database.settings, port=front.getsockname()[1]))
        finally:
            with suppress(OSError):
                front.shutdown(socket.SHUT_RDWR)


def _accept(front: socket.socket, upstream: tuple[str, int], idle_s: float) -> None:
    with suppress(OSError):  # the front is closed
        while True:
            client, _ = front.accept()
            threading.Thread(target=_relay, args=(client, upstream, idle_s), daemon=True).start()


def _relay(client: socket.socket, upstream: tuple[str, int], idle_s: float) -> None:
    with client, socket.create_connection(upstream) as server, suppress(OSError):
        other = {client: server, server: client}
        while ready := select.select([client, server], [], [], idle_s)[0]:
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                other[source].sendall(data)
