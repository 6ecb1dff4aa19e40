"""Locks that hold between machines, on a file system that does not share those of the kernel."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from filelock import FileLock

from signlang import files, locks, system
from signlang.errors import RunError
from signlang.runs.folder import RunFolder

EXPIRY = 0.8  # seconds
LEASE = ".lock.1"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases expire soon."""
    monkeypatch.setattr(locks, "EXPIRY", EXPIRY)
    monkeypatch.setattr(locks, "HEARTBEAT", EXPIRY / 6)
    monkeypatch.setattr(locks, "POLL", 0.02)
    monkeypatch.setattr(locks, "GRACE", 0.1)


@contextmanager
def another_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[locks.Lease]:
    """The lease of a run that a process of another machine holds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").touch()
    lease = locks.Lease(folder / ".lock")
    with monkeypatch.context() as other:
        other.setattr(socket, "gethostname", lambda: "far")
        other.setattr(locks, "kernel_id", lambda: "another")
        lease.acquire("", alone=True)
    try:
        yield lease
    finally:
        lease.release()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_of_another_machine_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with another_machine(tmp_path, monkeypatch):
        assert locks.is_held(tmp_path / ".lock")
        started = time.monotonic()
        with (
            pytest.raises(RunError, match=rf"is at work in .*, process {os.getpid()} on far: wait"),
            RunFolder(tmp_path).locked(),
        ):
            raise AssertionError
        assert time.monotonic() - started < EXPIRY, "as soon as it shows a sign of life"
    assert f"locked by process {os.getpid()} on far; waiting up to 1 s" in caplog.text
    assert not locks.is_held(tmp_path / ".lock")
    with RunFolder(tmp_path).locked():
        assert locks.is_held(tmp_path / ".lock")
    assert names(tmp_path) == [".lock", ".lock.2-free"]


def test_a_machine_that_is_lost_leaves_a_lock_that_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_machine(tmp_path, monkeypatch) as lease:
        lease.released.set()  # its power is cut
        started = time.monotonic()
        with RunFolder(tmp_path).locked():
            waited = time.monotonic() - started
        assert EXPIRY <= waited < EXPIRY + 2
        with pytest.raises(RunError, match="taken over"):  # it was only asleep
            lease.check()


def test_a_lease_that_names_nobody_expires_too(tmp_path: Path) -> None:
    (tmp_path / LEASE).touch()  # its process was killed before it wrote anything
    started = time.monotonic()
    with RunFolder(tmp_path).locked():
        assert EXPIRY <= time.monotonic() - started < EXPIRY + 2


def test_who_lost_the_lease_stops_and_writes_nothing_more(tmp_path: Path) -> None:
    def work() -> None:
        with RunFolder(tmp_path).locked():
            system.check_stop()
            (tmp_path / LEASE).rename(tmp_path / ".lock.2")  # of another machine
            time.sleep(1.0)  # it looks once a second
            with pytest.raises(RunError, match="taken over"):
                files.write_json(tmp_path / "metrics.json", {})
            system.check_stop()
            raise AssertionError

    with pytest.raises(RunError, match=r"was taken over by another machine, .* life for 1 seconds"):
        work()
    assert names(tmp_path) == [".lock", ".lock.2"]


def test_of_many_processes_one_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if others have found the lease expired, and come late."""
    (tmp_path / ".lock.4-free").touch()
    first, late = locks.Lease(tmp_path / ".lock"), locks.Lease(tmp_path / ".lock")
    assert first._create(5)
    assert not late._create(5)
    first.release()
    assert not late._create(5), "it is the number of a lease that was there meanwhile"
    assert names(tmp_path) == [".lock.5-free"]
    assert late._create(6)
    late.release()


def test_a_file_system_without_locks_of_the_kernel_has_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutLocks(FileLock):
        def _acquire(self) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "FileLock", WithoutLocks)
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(RunError, match=r"at work in .*, process \d+ on "),
        RunFolder(tmp_path).locked(),
    ):
        raise AssertionError


def in_child(action: Callable[[], None]) -> None:
    child = os.fork()
    if not child:
        action()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_process_that_is_killed_leaves_its_run_free_at_once(tmp_path: Path) -> None:
    def lock() -> None:
        with RunFolder(tmp_path).locked():
            os.kill(os.getpid(), signal.SIGKILL)

    in_child(lock)
    assert (tmp_path / LEASE).is_file()
    assert not locks.is_held(tmp_path / ".lock")
    started = time.monotonic()
    with RunFolder(tmp_path).locked():
        pass
    assert time.monotonic() - started < EXPIRY / 2


def test_temporary_files_of_other_machines_are_left_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = files.temporary_path(tmp_path / "a.json")
    with monkeypatch.context() as other:
        other.setattr(socket, "gethostname", lambda: "far")
        new, old = (files.temporary_path(tmp_path / "a.json") for _ in range(2))
    for file in (own, new, old):
        file.touch()
    os.utime(old, (time.time() - 4000,) * 2)
    files.remove_abandoned(tmp_path, "a.json")
    assert list(tmp_path.iterdir()) == [new]
    files.remove_abandoned(tmp_path, alone=True)
    assert not list(tmp_path.iterdir())


def campaign(place: Path, *words: str) -> dict[str, Any]:
    script = ROOT / "experiments" / "faults" / "machines.py"
    done = subprocess.run(
        [sys.executable, str(script), "--place", str(place), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_machines_that_are_lost_leave_no_run_twice_and_none_stuck(tmp_path: Path) -> None:
    result = campaign(tmp_path / "place", "--rounds", "3", "--expiry", "0.4", "--seed", "1")
    assert result["runs finished"] > 1


@pytest.mark.slow
def test_the_same_two_hundred_times(tmp_path: Path) -> None:
    assert campaign(tmp_path / "place", "--rounds", "200")["killed with a run"] > 50
