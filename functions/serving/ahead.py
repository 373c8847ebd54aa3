"""Work of another thread beside this one: to read what is needed next, to use what was made before."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], thread: Executor, count: int) -> Generator[T, None, None]:
    """Yield the items, of which up to `count` are fetched by the thread before they are asked for.

    The thread must be a single one; closing the iterator abandons what it has not begun.
    """
    coming = deque(thread.submit(next, items, None) for _ in range(count))
    try:
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, items, None))
            yield item
    finally:
        for future in coming:
            future.cancel()


def use_behind(items: Iterable[T], thread: Executor, use: Callable[[T], None]) -> None:
    """Use each item, in order, by the thread while the next one is made here.

    Where both fail, the error of the use is raised: it came first, and may be why nothing more could be made.
    """
    used = thread.submit(lambda: None)
    try:
        for item in items:
            used.result()
            used = thread.submit(use, item)
    finally:
        used.result()
