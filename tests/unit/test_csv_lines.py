"""CSV of rows as Postgres separates them."""

import pytest
from faults.model import quote

from serving.csv_lines import to_csv


def make_rows(*names: str) -> bytes:
    """Return rows of users with these first names."""
    return "".join(f"{n}\x1f{name}\x1fKing\x1f0\x1f\x1e" for n, name in enumerate(names)).encode()


@pytest.mark.parametrize("sign", ['"', ",", "\r", "\n"])
@pytest.mark.parametrize("form", ["?", "??", "?a", "a?", "a?b", "é?日本"])
def test_one_cell_among_plain_ones_is_quoted_where_it_needs_it(sign: str, form: str):
    cell = form.replace("?", sign)
    assert to_csv(make_rows("Ada", cell, "Eve"), 3).decode() == (
        f"0,Ada,King,0,\n1,{quote(cell)},King,0,\n2,Eve,King,0,\n"
    )


def test_no_rows_are_no_lines():
    assert to_csv(b"", 0) == b""


FORGED = "Eve\x1fX\x1f0\x1f\x1e666\x1fMallory"  # would be one user more


@pytest.mark.parametrize(
    "names",
    [
        ("a\x1e",),
        ("\x1fa",),
        ("a\x1f\x1fb",),
        ("\x1e\x1f",),
        (FORGED,),
        ("\x1f\x1f\x1f\x1f\x1e",),
        ("\x1f\x1f\x1f\x1f", "\x1e"),
        ('"\x1f"',),
    ],
)
def test_cells_that_hold_a_separator_are_refused(names: tuple[str, ...]):
    with pytest.raises(ValueError, match="separates"):
        to_csv(make_rows("Ada", *names, "Zoë"), len(names) + 2)
