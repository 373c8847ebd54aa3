from pathlib import Path

import pytest

from rollcall.ready import read_variable


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("GATEWAY_PORT_2=5000", "5000"),
        ('GATEWAY_PORT_2="5000"', "5000"),
        ("GATEWAY_PORT_2='5000'", "5000"),
        ("GATEWAY_PORT_2=", ""),
        ("#GATEWAY_PORT_2=5000", ""),
    ],
)
def test_a_variable_is_read_as_docker_compose_reads_it(tmp_path: Path, line: str, want: str):
    """The check of the file allows quotes."""
    file = tmp_path / ".env"
    file.write_text(f"GATEWAY_PORT=8080\n{line}\n")
    assert read_variable(file, "GATEWAY_PORT_2") == want
