"""What Postgres said, said again cut at every byte, and with something in between: all rows, or an error."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from faults.proxy import LONGEST_S
from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection as Driver
from rig import Count, Database

from serving.prepared import READ_BYTES, Prepared, prepare, read_column, run_prepared

PART_ROWS = 3
# Some are like what ends an answer, Z 0 0 0 5; one makes the length of its message a Z. They fill two parts,
# so the third has none.
TEXTS = ["", "Z", "ZZ\5Z", "sZ", "Z" * (ord("Z") - 10), "D\5"]
ROWS = "select text from unnest(cast(:texts as text[])) as text"
FAILS = "select text || 8 / (6 - n) from unnest(cast(:texts as text[])) with ordinality as t(text, n)"
IN_BETWEEN = {
    "a notice": "do $$ begin raise notice 'Z'; end $$",
    "a setting that changes": "select set_config('application_name', 'Z', false)",
    "a notification": "select pg_notify('bell', 'Z')",
}
KINDS = {"a notice": b"N", "a setting that changes": b"S", "a notification": b"A"}
Read = Callable[[Driver, Prepared], list[Any]]
Answers = list[list[bytes]]  # to each request, by messages or by packets


class Recorder:
    """A session's stream that notes what the server answers to each request."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.answers: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()
        self.answers.append(b"")

    def read1(self, size: int) -> bytes:
        data = self._stream.read1(size)
        self.answers[-1] += data
        return data


@dataclass(slots=True)
class Session:
    """A session whose answers are recorded, and then said again by a socket."""

    driver: Driver
    read: Read
    statements: dict[str, Prepared] = field(default_factory=dict)

    def record(self, sql: str) -> Answers:
        """Return what Postgres answers to a statement in a transaction."""
        self.driver.run("begin")
        try:
            return self._record(self.read, sql)
        finally:
            self.driver.run("rollback")

    def record_in_between(self, name: str) -> bytes:
        """Return a message that nobody asked for."""
        (messages,) = self._record(run, IN_BETWEEN[name])
        (message,) = [message for message in messages if message[:1] == KINDS[name]]
        return message

    def hear(self, sql: str, answers: Answers) -> list[bytes]:
        """Return what is read when each request is answered by these packets, and then the line is dead."""
        statement, stream = self._prepare(sql), self.driver._sock
        # Of such a pair, each packet is received by itself, however late.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(LONGEST_S)
        speaker = threading.Thread(target=speak, args=(theirs, answers))
        speaker.start()
        try:
            with ours, ours.makefile("rwb") as self.driver._sock:
                return self.read(self.driver, statement)
        finally:
            self.driver._sock = stream
            speaker.join()

    def _record(self, read: Read, sql: str) -> Answers:
        statement, stream = self._prepare(sql), self.driver._sock
        self.driver._sock = recorder = Recorder(stream)
        try:
            with suppress(DatabaseError):
                read(self.driver, statement)
        finally:
            self.driver._sock = stream
        return [split(answer) for answer in recorder.answers]

    def _prepare(self, sql: str) -> Prepared:
        if sql not in self.statements:
            self.statements[sql] = prepare(self.driver, sql)
        return self.statements[sql]


def speak(line: socket.socket, answers: Answers) -> None:
    with line, suppress(OSError):  # whoever asked has gone
        for packets in answers:
            line.recv(READ_BYTES)
            for packet in packets:
                line.send(packet)
        line.shutdown(socket.SHUT_WR)
        line.recv(READ_BYTES)


def split(answer: bytes) -> list[bytes]:
    """Return an answer's messages."""
    messages, start = [], 0
    while start < len(answer):
        end = start + 1 + int.from_bytes(answer[start + 1 : start + 5])
        messages.append(answer[start:end])
        start = end
    return messages


def read_parts(driver: Driver, statement: Prepared) -> list[bytes]:
    columns = read_column(driver, statement, {"texts": TEXTS}, PART_ROWS)
    return [text for column in columns for text in column.split()]


def read_at_once(driver: Driver, statement: Prepared) -> list[bytes]:
    return [text.encode() for (text,) in run(driver, statement)]


def run(driver: Driver, statement: Prepared) -> list[list]:
    return run_prepared(driver, statement, {"texts": TEXTS})


@pytest.fixture(params=[read_parts, read_at_once])
def session(request: pytest.FixtureRequest, database: Database) -> Iterator[Session]:
    driver = database.connect()
    driver.run("listen bell")
    yield Session(driver, request.param)
    driver.close()


def in_pieces(answers: Answers) -> Iterator[Answers]:
    """Return the answers in packets: one each, one cut in two at each of its bytes, and byte by byte."""
    whole = [[b"".join(messages)] for messages in answers]
    yield whole
    yield [[bytes([byte]) for byte in answer] for (answer,) in whole]
    for number, (answer,) in enumerate(whole):
        for end in range(1, len(answer)):
            yield [*whole[:number], [answer[:end], answer[end:]], *whole[number + 1 :]]


def cut_off(answers: Answers) -> Iterator[Answers]:
    """Return the answers up to each byte but the last."""
    whole = [[b"".join(messages)] for messages in answers]
    for number, (answer,) in enumerate(whole):
        yield whole[:number]
        for end in range(1, len(answer)):
            yield [*whole[:number], [answer[:end]]]


def list_places(answers: Answers) -> Iterator[tuple[Answers, list[bytes], list[bytes], Answers]]:
    """Return all that is before and behind each place between two messages."""
    for number, messages in enumerate(answers):
        for place in range(len(messages)):
            yield answers[:number], messages[:place], messages[place:], answers[number + 1 :]


def test_an_answer_in_pieces_is_read_whole(session: Session, count: Count):
    ways = list(in_pieces(session.record(ROWS)))
    want = [text.encode() for text in TEXTS]
    for answers in ways:
        assert session.hear(ROWS, answers) == want
    count(ways=len(ways))


def test_an_answer_that_is_cut_off_is_an_error(session: Session, count: Count):
    ways = list(cut_off(session.record(ROWS)))
    for answers in ways:
        with pytest.raises(InterfaceError, match="network error"):
            session.hear(ROWS, answers)
    count(ways=len(ways))


@pytest.mark.parametrize("name", IN_BETWEEN)
def test_what_is_said_in_between_changes_nothing(session: Session, name: str, count: Count):
    said, want, ways = session.record_in_between(name), [text.encode() for text in TEXTS], 0
    for earlier, before, behind, later in list_places(session.record(ROWS)):
        for answers in in_pieces([*earlier, [*before, said, *behind], *later]):
            assert session.hear(ROWS, answers) == want
            ways += 1
    count(ways=ways)


def test_an_error_in_between_is_raised(session: Session, count: Count):
    """After it the server skips everything up to the end of the answer, or ends the session."""
    failed, ways = session.record(FAILS), 0
    error, ready = failed[-1][-2:]
    assert (error[:1], ready[:1]) == (b"E", b"Z")
    for earlier, before, _, _ in list_places(session.record(ROWS)):
        for answers in in_pieces([*earlier, [*before, error, ready]]):
            with pytest.raises(DatabaseError):
                session.hear(ROWS, answers)
            ways += 1
        for answers in cut_off([*earlier, [*before, error, ready]]):
            with pytest.raises(InterfaceError, match="network error"):
                session.hear(ROWS, answers)
            ways += 1
    count(ways=ways)
