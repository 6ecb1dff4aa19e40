"""Processes that decode images beside the one that asks them."""

import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from signlang.data import workers
from signlang.data.workers import map_files

ITEMS = [*range(3 * workers.CHUNK + 7)]


def double(number: int, *, die_in: int = 0) -> tuple[int, int]:
    """Twice a number, and the process that found out."""
    if die_in and number == 60 and os.getpid() != die_in:
        os.kill(os.getpid(), signal.SIGKILL)
    if number < 0:
        raise ValueError(f"{number} is negative")
    return 2 * number, os.getpid()


def test_many_items_are_mapped_in_order_by_other_processes() -> None:
    """Few are mapped here."""
    numbers, processes = zip(*map_files(double, ITEMS, fewest=1), strict=True)
    assert list(numbers) == [2 * number for number in ITEMS]
    assert os.getpid() not in processes
    assert {process for _, process in map_files(double, ITEMS)} == {os.getpid()}


def test_a_killed_process_loses_nothing() -> None:
    """Its chunk, and those that it would have had, are done here."""
    results = list(map_files(partial(double, die_in=os.getpid()), ITEMS, fewest=1))
    assert [number for number, _ in results] == [2 * number for number in ITEMS]
    assert os.getpid() in {process for _, process in results}


def test_an_error_is_the_functions_own() -> None:
    """Without a trace of the other process."""
    with pytest.raises(ValueError, match="-1 is negative"):
        list(map_files(double, [*ITEMS, -1], fewest=1))


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Even if it is killed: then nobody holds its end of the pipe."""
    code = (
        "import time\n"
        "from signlang.data import workers\n"
        "with workers._processes(1) as idle:\n"
        "    idle.get()\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
    )
    reading, writing = os.pipe()  # whoever inherits it and lives keeps it open
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writing, cwd=tmp_path
    ) as parent:
        os.close(writing)
        assert parent.stdout
        parent.stdout.readline()
        parent.kill()
    with os.fdopen(reading, "rb") as stream:
        ended, _, _ = select.select([stream], [], [], 20)
        assert ended
        assert stream.read() == b""
