# pyright: reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""Fuzz the parser of records with atheris, guided by coverage, against a second reading of the same rules.

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris
    export PYTHONPATH=functions:functions/process-users:tests
    /tmp/fuzz/bin/python tests/fuzz/records.py -max_total_time=600

Linux alone; atheris is in none of the requirements, as its versions differ from Python to Python. Further
options are libFuzzer's; a folder as argument keeps what was found, to go on from there. It ends with a file
`crash-...` when the parser raises anything, or disagrees with tests/fuzz/plain.py.
"""

import sys
from datetime import UTC, datetime

import atheris

# The second reading guides as well: it sees each character, where the parser has one regular expression.
with atheris.instrument_imports(include=["process_users.records", "process_users.keys", "fuzz.plain"]):
    from fuzz.plain import read

    from process_users.records import COLUMNS, Record, parse_record

MODIFIED = datetime(2026, 11, 23, 12, tzinfo=UTC)
HEADER = ",".join(COLUMNS).encode() + b"\n"


# What stands around an input, by its first byte: hardly any gets past the first rules by itself.
AROUND = (
    (b"", b""),
    (HEADER, b""),
    (HEADER + b"Ada,King,", b""),
    (HEADER, b",King,0"),
    (b"", b"\nAda,King,0"),
)


def test_one_input(data: bytes) -> None:
    before, after = AROUND[data[0] % len(AROUND)] if data else (b"", b"")
    body = before + data[1:] + after
    got, want = parse_record(body, MODIFIED), read(body, MODIFIED)
    if isinstance(got, Record):
        assert (got.first_name, got.last_name, got.birthts) == want, (body, got, want)
    else:
        assert got.reason == want, (body, got, want)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
