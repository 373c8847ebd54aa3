"""The two files a run leaves, output.csv and rejects.csv: replaced whole, and only when not current."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import LiteralString

from process_users.bucket import Bucket, StoreUnavailableError
from process_users.settings import Settings, StoreSettings
from serving.csv_lines import USER_CELLS, USER_ROW, to_csv
from serving.postgres import FIRST_ROWS_SOON, Connection
from serving.store import build_client, build_pool, describe_error

PART_BYTES = 5 << 20  # the smallest that S3 takes
FETCHED_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Output:
    """A file made from a query of its lines; `finish` makes CSV of them and their number.

    Its version, etag and rows as they were stored are columns of `state`.
    """

    key: str
    header: tuple[str, ...]
    query: LiteralString
    finish: Callable[[bytes, int], bytes]
    fetch_state: LiteralString  # version now, version stored, etag stored
    store_state: LiteralString


def build_csv_line(cells: tuple[LiteralString, ...]) -> LiteralString:
    """Return SQL of a line of CSV, whatever its cells hold: keys may have any character, also those of rows.

    Each cell is SQL of a text, not null.
    """
    quoted: list[LiteralString] = [
        f"""case when {cell} ~ '[",\\r\\n]' then '"' || replace({cell}, '"', '""') || '"' else {cell} end"""
        for cell in cells
    ]
    between: LiteralString = " || ',' || "
    return f"{between.join(quoted)} || '\n'"


_REJECT = build_csv_line(("key", "reason", "coalesce(detail, '')"))

USERS = Output(
    key="output.csv",
    header=tuple(USER_CELLS),
    query=f"select {USER_ROW} from users order by user_id {FIRST_ROWS_SOON}",  # noqa: S608  constants
    finish=to_csv,
    fetch_state="select (select max(version) from versions), output_version, output_etag from state",
    store_state="""
        update state
        set output_version = cast(:version as bigint),
            output_etag = cast(:etag as text),
            output_rows = cast(:rows as bigint)
    """,
)
REJECTS = Output(
    key="rejects.csv",
    header=("key", "reason", "detail"),
    query=f"select {_REJECT} from rejects order by key {FIRST_ROWS_SOON}",  # noqa: S608  constants
    finish=lambda lines, count: lines,
    fetch_state="select rejects_version, rejects_output_version, rejects_output_etag from state",
    store_state="""
        update state
        set rejects_output_version = cast(:version as bigint),
            rejects_output_etag = cast(:etag as text)
        where cast(:rows as bigint) >= 0
    """,
)


def store_outputs(connection: Connection, settings: Settings) -> int:
    """Bring both files up to date; returns how many rows output.csv has.

    The connection is the one that holds the run's lock: when it is lost, nothing more is written.
    """
    bucket = Bucket(settings.store, settings.output_bucket)
    try:
        for output in (USERS, REJECTS):
            version, stored_version, stored_etag = connection.run(output.fetch_state)[0]
            if version != stored_version or not stored_etag or bucket.fetch_etag(output.key) != stored_etag:
                _store(connection, output, settings, bucket)
    finally:
        bucket.close()
    return connection.run("select output_rows from state")[0][0]


def _store(connection: Connection, output: Output, settings: Settings, bucket: Bucket) -> None:
    """Upload one snapshot of the query, then remember of which version it is."""
    with connection.transaction(snapshot=True):
        version = connection.run(output.fetch_state)[0][0]
        text = _CsvText(connection, output)
        etag = _upload(settings.store, settings.output_bucket, output.key, text)
    if "-" in etag:
        # Of an upload in parts: afterwards some stores tell the etag of the whole instead.
        etag = bucket.fetch_etag(output.key)
    connection.run(output.store_state, version=version, etag=etag, rows=text.rows)


def _upload(store: StoreSettings, bucket: str, key: str, text: "_CsvText") -> str:
    """Upload a stream of unknown length and return its etag; nobody sees it before it is whole."""
    # Imported where it is used: a run that changes nothing does without it.
    from minio.error import MinioException
    from urllib3 import Retry, Timeout
    from urllib3.exceptions import HTTPError

    # A store that falls silent costs two of these: that of the upload and that of giving it up.
    timeout, retries = Timeout(connect=2, read=4), Retry(2, read=0, backoff_factor=0.2)
    with build_pool(store, timeout=timeout, retries=retries) as pool:
        client = build_client(store, pool)
        try:
            result = client.put_object(
                bucket_name=bucket,
                object_name=key,
                data=text,  # pyright: ignore[reportArgumentType]  only read() is called
                length=-1,
                part_size=PART_BYTES,
                num_parallel_uploads=1,
                content_type="text/csv; charset=utf-8",
            )
        except (MinioException, HTTPError, OSError) as error:
            raise StoreUnavailableError(
                f"{bucket}/{key} cannot be written: {describe_error(error)}"
            ) from error
    return (result.etag or "").strip('"')


class _CsvText:
    """The rows of an output as a readable stream of CSV; holds what one fetch returns."""

    def __init__(self, connection: Connection, output: Output) -> None:
        self.rows = 0
        self._chunks = self._produce(connection, output)
        self._left = b""

    def read(self, size: int) -> bytes:
        """Return size bytes, fewer only at the end."""
        parts = [self._left]
        length = len(self._left)
        while length < size and (chunk := next(self._chunks, None)) is not None:
            parts.append(chunk)
            length += len(chunk)
        text = b"".join(parts)
        self._left = text[size:]
        return text[:size]

    def _produce(self, connection: Connection, output: Output) -> Iterator[bytes]:
        yield f"{','.join(output.header)}\n".encode()
        for column in connection.read_column(output.query, FETCHED_ROWS):
            lines = column.split()
            self.rows += len(lines)
            yield output.finish(b"".join(lines), len(lines))
        # When the session answers, it still holds the lock: the upload may be completed.
        connection.run("select 1 as alive")
