"""Sessions over TLS: the embedded Postgres has none, so a front speaks it, as a server does."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rig import Database

from serving.pool import Pool
from serving.postgres import Connection, DatabaseUnavailableError
from serving.settings import Environment, PostgresSettings

CERTIFICATE = Path(__file__).parent / "tls" / "localhost.pem"  # of no use but here


@pytest.fixture
def settings(database: Database) -> Iterator[PostgresSettings]:
    """Where Postgres is, with TLS in front of it."""
    plain = PostgresSettings.from_environment(Environment(database.env("get_data")))
    with socket.create_server(("127.0.0.1", 0)) as front:
        threading.Thread(target=serve, args=(front, (plain.host, plain.port)), daemon=True).start()
        yield replace(plain, port=front.getsockname()[1])


def serve(front: socket.socket, server: tuple[str, int]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with suppress(OSError):  # the front is closed
        while True:
            client, _ = front.accept()
            assert client.recv(8)[4:] == b"\x04\xd2\x16\x2f"  # SSLRequest
            client.sendall(b"S")
            secured = context.wrap_socket(client, server_side=True)
            behind = socket.create_connection(server)
            for source, target in ((secured, behind), (behind, secured)):
                threading.Thread(target=pump, args=(source, target), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-full"])
def test_a_session_over_tls_is_used_again(settings: PostgresSettings, mode: str):
    secured = replace(settings, sslmode=mode, sslrootcert=str(CERTIFICATE))
    pool = Pool(lambda: Connection(secured, application_name="tls"), size=2)
    pids = set()
    for _ in range(3):
        with pool.connection() as connection:
            pids.add(connection.run("select pg_backend_pid()")[0][0])
    pool.close()
    assert len(pids) == 1


def test_a_certificate_that_is_not_known_is_refused(settings: PostgresSettings):
    secured = replace(settings, sslmode="verify-full", sslrootcert="")
    with pytest.raises(DatabaseUnavailableError, match="certificate of Postgres is not trusted"):
        Connection(secured, application_name="tls")
