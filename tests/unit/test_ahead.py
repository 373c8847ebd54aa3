"""Work of another thread beside this one: what is ahead, what is behind, and how it ends."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.ahead import read_ahead, use_behind


def test_all_are_read_in_their_order():
    with ThreadPoolExecutor(1) as thread:
        assert list(read_ahead(iter(range(10)), thread, 3)) == list(range(10))
        assert list(read_ahead(iter(()), thread, 3)) == []


def test_no_more_are_read_than_are_asked_for_ahead():
    taken = []
    with ThreadPoolExecutor(1) as thread:
        items = read_ahead((taken.append(n) or n for n in range(10)), thread, 2)
        assert next(items) == 0
        thread.submit(lambda: None).result()  # after what was begun before
        assert taken == [0, 1, 2]
        items.close()


def test_what_fails_ahead_fails_where_it_is_asked_for():
    def fail_at_two() -> Iterator[int]:
        yield 1
        raise LookupError

    with ThreadPoolExecutor(1) as thread:
        items = read_ahead(fail_at_two(), thread, 3)
        assert next(items) == 1
        with pytest.raises(LookupError):
            next(items)


def test_each_is_used_by_the_thread_while_the_next_is_made():
    used, made, goes_on = [], [], threading.Event()

    def use(item: int) -> None:
        assert goes_on.wait(10)
        used.append(item)

    def make() -> Iterator[int]:
        for item in range(3):
            if item == 1:
                made.append(list(used))
                goes_on.set()
            yield item

    with ThreadPoolExecutor(1) as thread:
        use_behind(make(), thread, use)
    assert made == [[]]
    assert used == [0, 1, 2]


@pytest.mark.parametrize("failing", [0, 2])
def test_what_fails_behind_ends_the_work(failing: int):
    def use(item: int) -> None:
        if item == failing:
            raise LookupError

    with ThreadPoolExecutor(1) as thread, pytest.raises(LookupError):
        use_behind(range(3), thread, use)
