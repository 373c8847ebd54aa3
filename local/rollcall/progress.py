"""How far a run is, for who watches: a bar in a terminal, else a line whenever there is something to say."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from rollcall.terminal import say

Run = Mapping[str, Any]  # as GET /runs answers it
Show = Callable[[Run], None]


@contextmanager
def open_progress(console: Console, *, expected: int) -> Iterator[Show]:
    """What to call with the run as it is now; `expected` files make the whole, 0 when that is not known."""
    if console.is_interactive and not console.is_dumb_terminal:
        with _build_bar(console) as bar:
            yield _show_in(bar, expected)
    else:
        yield _print_changes()


def count(number: int, noun: str) -> str:
    """So many of them, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def describe(run: Run) -> str:
    """The counts so far."""
    counts = [count(run["listed"], "file"), f"{count(run['upserted'], 'user')} stored"]
    return ", ".join([*counts, *([f"{run['removed']:,} removed"] if run["removed"] else [])])


def _build_bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[counts]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        expand=True,
    )


def _show_in(bar: Progress, expected: int) -> Show:
    task = bar.add_task("waiting", total=None, counts="")

    def show(run: Run) -> None:
        whole = max(expected, run["listed"]) if expected else None
        bar.update(
            task,
            description=f"run {run['run_id']}",
            total=whole,
            completed=run["listed"],
            counts=describe(run),
        )

    return show


def _print_changes() -> Show:
    said = ""

    def show(run: Run) -> None:
        nonlocal said
        line = f"run {run['run_id']}: {describe(run)}"
        if line != said:
            say(line)
        said = line

    return show
