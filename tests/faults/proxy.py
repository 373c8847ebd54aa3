"""A TCP proxy in front of Postgres or the store that sees each exchange, and can hold, lose or break it.

An exchange is what a client sends until it is answered: an SQL statement or a part of one, or an S3
request. Both protocols take turns on a connection, so nothing of them needs to be parsed.
"""

import ctypes
import re
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rollcall.ports import HOST

WORDS = re.compile(rb"[ -~\n]{4,}")
LONGEST_S = 20  # that anything waits for a test
CHUNK = 1 << 16
# A filter that lets no packet in, for SO_ATTACH_FILTER: what is sent is not even acknowledged, as when a
# cable was pulled out. Anybody may do that to a socket of their own (Linux).
_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET of 0 bytes
_LET_NOTHING_IN = struct.pack("HL", 1, ctypes.addressof(_NOTHING))
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
GOODBYE = b"X\x00\x00\x00\x04"  # of Postgres' protocol: nobody waits for an answer to it


@dataclass(slots=True)
class Exchange:
    """One turn of a client and its answer; `request` is the first that was sent of it."""

    number: int
    request: bytes

    @property
    def label(self) -> str:
        """Return the request line or the SQL, as far as it can be seen."""
        words = b" ".join(WORDS.findall(self.request[:400])).split(b" HTTP/")[0]
        return " ".join(words.decode("ascii").split())[:120]


# What is passed on in place of the bytes; None cuts the connection.
Hook = Callable[[Exchange, bytes], bytes | None]


def pass_on(exchange: Exchange, data: bytes) -> bytes:
    return data


@dataclass(slots=True)
class Tap:
    """What the proxies of a test report to, and are told by; exchanges are counted over all of them."""

    on_request: Hook = pass_on
    on_answer: Hook = pass_on
    exchanges: list[Exchange] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, data: bytes) -> Exchange:
        with self._lock:
            exchange = Exchange(len(self.exchanges), data)
            self.exchanges.append(exchange)
            return exchange

    def reset(self) -> None:
        """Count from nought and let everything pass."""
        with self._lock:
            self.exchanges = []
        self.on_request = self.on_answer = pass_on

    @contextmanager
    def holding(self, *texts: str, answer: bool = True, skip: int = 0) -> Iterator["Hold"]:
        """Hold the next exchange with these texts: its answer, or else the request itself."""
        hold = Hold([text.encode() for text in texts], skip)
        name = "on_answer" if answer else "on_request"
        before = getattr(self, name)

        def hook(exchange: Exchange, data: bytes) -> bytes | None:
            hold.stop(exchange)
            return before(exchange, data)

        setattr(self, name, hook)
        try:
            yield hold
        finally:
            hold.release()
            setattr(self, name, before)


class Hold:
    """A barrier: the first exchange that fits waits until it is released; others pass."""

    def __init__(self, texts: list[bytes], skip: int) -> None:
        self._texts = texts
        self._skip = skip
        self._lock = threading.Lock()
        self._held = threading.Event()
        self._released = threading.Event()

    def stop(self, exchange: Exchange) -> None:
        """Wait here if this is the exchange that is to be held."""
        if not all(text in exchange.request for text in self._texts) or self._held.is_set():
            return
        with self._lock:
            self._skip -= 1
            is_it = self._skip < 0 and not self._held.is_set()
            if is_it:
                self._held.set()
        if is_it:
            self._released.wait(LONGEST_S)

    def wait(self) -> None:
        """Return when the exchange is held."""
        assert self._held.wait(LONGEST_S), f"no exchange came with {self._texts}"

    def release(self) -> None:
        """Let it go on."""
        self._released.set()


class Proxy:
    """Listens on a port of its own and passes everything on to `upstream`."""

    def __init__(self, upstream: int, tap: Tap) -> None:
        self._upstream, self._tap = upstream, tap
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_unplugged = False
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def cut(self) -> None:
        """Cut all connections that are open now."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def unplug(self) -> None:
        """Pull out the cables to both sides: no packet comes through, and nobody is told."""
        with self._lock:
            self._is_unplugged = True
            _let_nothing_in({self._listener, *self._open})

    def plug_in(self) -> None:
        """Put them back."""
        with self._lock:
            self._is_unplugged = False
            for connection in {self._listener, *self._open}:
                with suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """End everything; nothing of it is left running."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(LONGEST_S)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._relay, client)

    def _relay(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection((HOST, self._upstream)) as server:
            pair = {client, server}
            for connection in pair:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= pair
                if self._is_unplugged:
                    _let_nothing_in(pair)
            try:
                _take_turns(client, server, self._tap)
            finally:
                with self._lock:
                    self._open -= pair


def _let_nothing_in(connections: Iterable[socket.socket]) -> None:
    for connection in connections:
        with suppress(OSError):  # it has just ended
            connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _LET_NOTHING_IN)


def _take_turns(client: socket.socket, server: socket.socket, tap: Tap) -> None:
    """Pass on until one side ends; what it had sent before reaches the other."""
    exchange, answered = None, True
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ)
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                data: bytes | None = key.fileobj.recv(CHUNK)  # pyright: ignore[reportAttributeAccessIssue]
                if key.fileobj is client:
                    if data and answered and data != GOODBYE:
                        exchange, answered = tap.begin(data), False
                        data = tap.on_request(exchange, data)
                    target = server
                else:
                    if data and exchange and not answered:
                        answered = True
                        data = tap.on_answer(exchange, data)
                    target = client
                if not data:
                    return
                target.sendall(data)


@contextmanager
def proxied(upstream: int, tap: Tap) -> Iterator[Proxy]:
    """Run a proxy until the end of the block."""
    proxy = Proxy(upstream, tap)
    try:
        yield proxy
    finally:
        proxy.close()
