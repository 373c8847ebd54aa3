"""Statements over the wire by one write and few reads, where the driver's own way makes many small ones."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from io import BufferedRWPair
from struct import Struct

from pg8000.converters import make_params
from pg8000.core import Context
from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection, to_statement

from serving.reasons import is_fatal, read_sqlstate

READ_BYTES = 1 << 16
COLUMN_BYTES = 1 << 20  # of the rows of a column that are fetched at a time, several times what is usual
KNOWN_TEXTS = 512  # statements whose placeholders are remembered; the functions have fewer
_HEADER = Struct("!ci")  # of each message: its kind, and its length without the kind
_LENGTH = Struct("!i")
_SYNC = b"S\0\0\0\x04"
_DESCRIBE_PORTAL = b"D\0\0\0\x06P\0"
_UNNAMED = b"\0"
_COLUMN = b"column"  # the portal of read_column(): any other statement would end the unnamed one
_READY = b"Z"
_READY_HEAD = b"Z\0\0\0\x05"
_MORE_ROWS = b"s\0\0\0\x04" + _READY_HEAD + b"T"  # ends an answer: there are more, and a transaction goes on
_SUSPENDED, _COMPLETE = b"s", b"C"
_ROW = b"D"
_ROW_HEAD = _HEADER.size + 6  # of a row of one column: how many columns it has, and the length of its text
_ALREADY_EXISTS = "42P05"
_parse_placeholders = lru_cache(KNOWN_TEXTS)(to_statement)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that a session has prepared; `name_bin` ends in a zero byte, as it is sent."""

    statement: str
    make_vals: Callable[[Mapping[str, object]], tuple[object, ...]]
    name_bin: bytes
    cols: list[dict] | None
    input_funcs: list[Callable[[str], object]]


def build_guard(sql: str) -> bytes:
    """Return messages that run a statement without rows before another one, in the same transaction.

    When it fails, the server skips what follows: the other statement is not run.
    """
    return _build_parse(_UNNAMED, sql) + _build_bind(b"", _UNNAMED, ()) + _build_execute(b"", 0)


def prepare(driver: Connection, sql: str, *, guard: bytes = b"") -> Prepared:
    """Prepare a statement under a name made from its text, so that no session can take it for another.

    That the session has the statement already is no error: it has this one.
    """
    statement, make_vals = _parse_placeholders(sql)
    name = b"rollcall_" + blake2b(statement.encode(), digest_size=16).hexdigest().encode() + b"\0"
    describe = b"D" + _LENGTH.pack(len(name) + 5) + b"S" + name
    try:
        context = _exchange(driver, Context(statement), guard + _build_parse(name, statement) + describe)
    except DatabaseError as error:
        if read_sqlstate(error) != _ALREADY_EXISTS:
            raise
        context = _exchange(driver, Context(statement), guard + describe)
    return Prepared(statement, make_vals, name, context.columns, context.input_funcs)


def run_unnamed(
    driver: Connection, sql: str, parameters: Mapping[str, object], *, guard: bytes = b""
) -> list[list]:
    """Run a statement with parameters in one round trip and return the rows; the driver makes three."""
    statement, make_vals = _parse_placeholders(sql)
    values = make_params(driver.py_types, make_vals(parameters))
    messages = _build_parse(_UNNAMED, statement) + _build_bind(b"", _UNNAMED, values) + _DESCRIBE_PORTAL
    context = _exchange(driver, Context(statement), guard + messages + _build_execute(b"", 0))
    return context.rows or []


def run_prepared(
    driver: Connection, statement: Prepared, parameters: Mapping[str, object], *, guard: bytes = b""
) -> list[list]:
    """Return the rows; everything but sending and receiving is left to the driver.

    It takes this process 56 us where the driver takes 60 to 86, and the server answers by one packet
    instead of three: the driver asks for a flush after each message, and reads head and body of each by
    themselves.
    """
    context = Context(statement.statement, columns=statement.cols, input_funcs=statement.input_funcs)
    request = guard + _bind(driver, statement, parameters, b"") + _build_execute(b"", 0)
    return _exchange(driver, context, request).rows or []


def read_column(
    driver: Connection, statement: Prepared, parameters: Mapping[str, object], count: int
) -> Generator["Column", None, None]:
    """Yield all rows of a statement of one column, `count` at a time, fewer when they turn out to be long.

    To be used once in a transaction, which keeps the statement open. The next rows are asked for when they
    are wanted and then read at once, so between them the session waits for nobody, and may be left.
    """
    stream = _find_stream(driver)
    request, is_more = _bind(driver, statement, parameters, _COLUMN), True
    while is_more:
        _send(stream, request + _build_execute(_COLUMN, count) + _SYNC)
        answer = _read_rows(stream)
        request, is_more = b"", answer.endswith(_MORE_ROWS)
        if not is_more:
            # The end, or something came in between: a setting of the server that changed, a notice.
            context, others = Context(statement.statement), _split(answer)[1]
            for kind, body in others:
                driver.message_types[kind](body, context)
            if context.error is not None:
                raise context.error
            kinds = {kind for kind, _ in others}
            is_more = _SUSPENDED in kinds
            if not is_more and _COMPLETE not in kinds:
                raise InterfaceError("the answer does not say that it is the last one")
        count = min(count, max(1, count * COLUMN_BYTES // len(answer)))
        yield Column(answer)


class Column:
    """Rows of one column, as they came: whoever reads them spares the time to take them apart."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def split(self) -> list[bytes]:
        """Return the text of each row in UTF-8."""
        return _split(self._answer)[0]


def _find_stream(driver: Connection) -> BufferedRWPair:
    if driver._sock is None:
        raise InterfaceError("connection is closed")
    return driver._sock


def _send(stream: BufferedRWPair, messages: bytes) -> None:
    stream.write(messages)
    stream.flush()


def _exchange(driver: Connection, context: Context, messages: bytes) -> Context:
    """Send messages, have the driver read the answer into the context, and raise the error in it."""
    stream = _find_stream(driver)
    _send(stream, messages + _SYNC)
    try:
        for kind, body in _read_messages(stream):
            driver.message_types[kind](body, context)
    except (InterfaceError, OSError):
        if context.error is None or not is_fatal(context.error):
            raise  # else the server has said why it hung up
    if context.error is not None:
        raise context.error
    return context


def _bind(driver: Connection, statement: Prepared, parameters: Mapping[str, object], portal: bytes) -> bytes:
    values = make_params(driver.py_types, statement.make_vals(parameters))
    return _build_bind(portal, statement.name_bin, values)


def _build_execute(portal: bytes, count: int) -> bytes:
    """Return a message that asks a portal for so many rows, 0 for all."""
    body = portal + b"\0" + _LENGTH.pack(count)
    return b"E" + _LENGTH.pack(len(body) + 4) + body


def _build_parse(name: bytes, sql: str) -> bytes:
    """Return a message that prepares a statement; the name ends in a zero byte."""
    body = name + sql.encode() + b"\0\0\0"
    return b"P" + _LENGTH.pack(len(body) + 4) + body


def _build_bind(portal: bytes, name: bytes, values: tuple[str | None, ...]) -> bytes:
    """Return a message that binds values, all as text, to a statement: a portal, which gives its rows."""
    parts = [portal, b"\0", name, b"\0\0", len(values).to_bytes(2)]
    for value in values:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            text = value.encode()
            parts += (_LENGTH.pack(len(text)), text)
    parts.append(b"\0\0")
    body = b"".join(parts)
    return b"B" + _LENGTH.pack(len(body) + 4) + body


def _read_messages(stream: BufferedRWPair) -> Iterator[tuple[bytes, bytes]]:
    """Read messages to the one that says that the session is ready for the next statement.

    Nothing is left unread of what came along with that one.
    """
    received, start, kind = b"", 0, b""
    while kind != _READY or start < len(received):
        if len(received) - start < _HEADER.size:
            received, start = received[start:] + _read(stream, 1), 0
            continue
        kind, length = _HEADER.unpack_from(received, start)
        end = start + 1 + length
        if end > len(received):
            received, start, end = received[start:] + _read(stream, end - len(received)), 0, 1 + length
        yield kind, received[start + _HEADER.size : end]
        start = end


def _read_rows(stream: BufferedRWPair) -> bytes:
    """Read an answer with rows of one column to its end.

    Nothing before ends like it: the text of a row holds no zero bytes, which the end has in its length.
    """
    received = bytearray()
    while not received[-len(_READY_HEAD) - 1 :].startswith(_READY_HEAD):
        received += _read(stream, 1)
    return bytes(received)


def _split(answer: bytes) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Return the rows of one column, and the messages beside them.

    A million rows take 0.4 s, by _read_messages() 1 s.
    """
    rows: list[bytes] = []
    others: list[tuple[bytes, bytes]] = []
    start, unpack = 0, _HEADER.unpack_from
    while start < len(answer):
        kind, length = unpack(answer, start)
        end = start + 1 + length
        if kind == _ROW:
            rows.append(answer[start + _ROW_HEAD : end])
        else:
            others.append((kind, answer[start + _HEADER.size : end]))
        start = end
    return rows, others


def _read(stream: BufferedRWPair, least: int) -> bytes:
    """Read at least so many bytes, as many as there are by then."""
    parts = []
    while least > 0:
        part = stream.read1(max(least, READ_BYTES))
        if not part:
            raise InterfaceError("network error")
        parts.append(part)
        least -= len(part)
    return b"".join(parts)
