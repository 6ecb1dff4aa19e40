"""Items come in one after another; what threads make of them goes out in the same order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    make: Callable[[Item], Made], items: Iterable[Item], workers: int, ahead: int
) -> Iterator[Made]:
    """Call a function for each item in threads; decoders of pictures let threads run side by side.

    Args:
        make: What to call; what it raises comes out where its result would.
        items: Its arguments, taken one by one.
        workers: Threads.
        ahead: Results that may wait to be taken, which bounds the memory.

    >>> list(in_order(str.upper, "abc", workers=2, ahead=2))
    ['A', 'B', 'C']
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while len(waiting) > 1:
            yield waiting.popleft().result()
        pool.shutdown()
    finally:
        pool.shutdown(cancel_futures=True)
    # Who knows the length asks no further and drops the generator here: what would then be left to
    # do would be done by a destructor, in which Ctrl-C is printed and lost.
    for last in waiting:
        yield last.result()


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Take items in lists of `size`; the last one may be shorter.

    >>> list(batches("abc", 2))
    [['a', 'b'], ['c']]
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
