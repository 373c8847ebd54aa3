"""The table that `make bench` ends with: a row for each comparison, both sides measured in one run."""

from collections.abc import Callable
from typing import Any

import pytest

Compare = Callable[..., None]
HEADER = ("#", "work", "ours", "beside", "theirs", "ratio", "bound")


@pytest.fixture
def compare(record_property: Callable[[str, object], None]) -> Compare:
    """Note a row of the table, and hold its ratio, ours to theirs, against a bound.

    Called as `compare(1, "cold run of 10,000 users", 3.7, 8.1, beside="rclone copy", at_most=0.55)`. Figures
    are in seconds unless `unit` says otherwise. `at_least` is for figures of which more is better.
    """

    def note(
        number: int,
        work: str,
        ours: float,
        theirs: float,
        *,
        beside: str,
        unit: str = "s",
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        ratio = ours / theirs
        bound = f"<= {at_most:g}" if at_most is not None else f">= {at_least:g}"
        figures = (f"{ours:,.4g} {unit}", beside, f"{theirs:,.4g} {unit}", f"{ratio:.2f}", bound)
        record_property("row", (number, work, *figures))
        if at_most is not None:
            assert ratio <= at_most, f"{work}: {ratio:.2f} times {beside}, wanted at most {at_most:g}"
        if at_least is not None:
            assert ratio >= at_least, f"{work}: {ratio:.2f} times {beside}, wanted at least {at_least:g}"

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    rows: list[tuple[Any, ...]] = [
        value
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "row"
    ]
    if not rows:
        return
    texts = [HEADER, *(tuple(map(str, row)) for row in sorted(rows, key=lambda row: row[0]))]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for text in texts:
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(text, widths, strict=True))
        )
