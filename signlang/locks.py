"""Locks between the processes of one machine, and of several that share a file system.

Each is two locks in one. The kernel's (flock) ends with its process, but not every file system that
machines share shows it to the others, and one that crashed may leave it locked. Beside it lies a
lease, a file that names its process and is touched every few seconds: if that has not been seen for
`EXPIRY` seconds, its machine is taken for lost, and the lock is free.

Leases of a lock are numbered. Whoever wants it creates the next number, which the file system lets
one process do; nobody removes a lease but the owner of a later one. It expires whatever it holds,
so that a process may be killed at any moment. filelock's `SoftFileLease` is not used: an empty
file, left by a process that is killed as it creates one, blocks it for ever, and on NFS it takes no
lease over.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from filelock import FileLock, Timeout

from signlang import system
from signlang.console import log
from signlang.errors import RunError

EXPIRY: Final = 90.0  # seconds
HEARTBEAT: Final = 15.0  # seconds between two touches: five may be late
POLL: Final = 0.5  # seconds between two looks at a lock that another process holds
GRACE: Final = 2.0  # seconds in which a process that saw a lease expire takes it over
FREE: Final = "-free"  # ends the name of a lease that was released
NO_FLOCK: Final = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system without


class HeldError(Exception):
    """A lock is held by another process; the text names it where it is known."""


@contextmanager
def exclusive(lock: Path, *, wait: str = "") -> Iterator[None]:
    """Keep all other processes, of this machine and of others, out of the block.

    While it runs, `system.check_stop` and `files.atomic_write` raise if the lease was lost: this
    process slept, or could not reach the file system, and another machine took it for dead.

    Args:
        lock: The file that the kernel locks; it stays, and the last lease beside it.
        wait: What is logged once if another process holds it, before waiting; empty: raise.

    Raises:
        HeldError: If another process holds it. To know that of another machine can take `EXPIRY`.
        RunError: At the end of the block, if the lease was lost.
        OSError: If the files cannot be written.
    """
    kernel, lease = FileLock(lock, fallback_to_soft=False), Lease(lock)
    try:
        shares_kernel = _acquire_kernel(kernel, wait)
        lease.acquire(wait, alone=shares_kernel)
        with system.watching(lease.check):
            yield
        lease.check()
    finally:
        lease.release()
        kernel.release()


def is_held(lock: Path) -> bool:
    """Whether a process is likely to hold a lock; nothing is written."""
    if not lock.is_file():
        return False
    kernel = FileLock(lock, fallback_to_soft=False)
    try:
        alone = _acquire_kernel(kernel, "")
    except HeldError:
        return True
    except OSError:  # of somebody else, or on a disk that cannot be written to
        return False
    finally:
        kernel.release()
    last = Lease(lock).last()
    if last is None or last.is_free or (alone and last.owner.get("kernel") == kernel_id()):
        return False
    with suppress(OSError):
        return time.time() - last.file.stat().st_mtime < EXPIRY
    return False


def kernel_id() -> str:
    """What tells a running kernel from others: processes that share it see their flocks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _acquire_kernel(kernel: FileLock, wait: str) -> bool:
    """Acquire the lock of the kernel; False if the file system has none."""
    is_logged = False
    while True:
        try:
            kernel.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise HeldError("") from None
        except OSError as error:
            if error.errno in NO_FLOCK:
                return False
            raise
        else:
            return True
        if not is_logged:
            log.info("%s", wait)
        is_logged = True
        system.check_stop()
        time.sleep(POLL)


@dataclass(frozen=True)
class _Entry:
    """The file of a lease.

    Attributes:
        number: Of the lease.
        is_free: Whether it was released.
        file: Its path.
    """

    number: int
    is_free: bool
    file: Path

    @classmethod
    def parsed(cls, file: Path, prefix: str) -> Self | None:
        """The lease that a file is, if it is one of a lock."""
        number = file.name.removeprefix(prefix).removesuffix(FREE)
        if not file.name.startswith(prefix) or not number.isdigit():
            return None
        return cls(int(number), file.name.endswith(FREE), file)

    @property
    def owner(self) -> dict[str, Any]:
        """Who wrote it; empty if it was killed before."""
        with suppress(OSError, ValueError):
            content = json.loads(self.file.read_text("utf-8"))
            return content if isinstance(content, dict) else {}
        return {}

    def seen(self) -> tuple[int, ...]:
        """What changes when it is touched; opened, because a network file system then asks."""
        try:
            with self.file.open("rb") as stream:
                status = os.fstat(stream.fileno())
        except OSError:
            return ()
        return self.number, status.st_ino, status.st_mtime_ns


class Lease:
    """The lease beside a lock.

    Args:
        lock: The file of the lock.
    """

    def __init__(self, lock: Path) -> None:
        self.folder, self.prefix = lock.parent, f"{lock.name}."
        self.entry: _Entry | None = None  # that of this process
        self.lost = False
        self.touched = self.looked = 0.0
        self.refreshing, self.released = threading.Lock(), threading.Event()

    def last(self) -> _Entry | None:
        """The lease with the highest number."""
        with os.scandir(self.folder) as entries:
            parsed = [_Entry.parsed(Path(entry.path), self.prefix) for entry in entries]
        leases = [lease for lease in parsed if lease is not None]
        return max(leases, key=lambda lease: (lease.number, lease.is_free), default=None)

    def acquire(self, wait: str, *, alone: bool) -> None:
        """Acquire it as soon as it is free, or was not touched for `EXPIRY` seconds.

        Args:
            wait: See `exclusive`.
            alone: This process holds the lock of the kernel.

        Raises:
            HeldError: If it is touched.
        """
        seen, since, owner_text = None, 0.0, ""
        while True:
            last = self.last()
            is_over = last is None or last.is_free
            if last is not None and not is_over:
                now, mark = _clock(), last.seen()
                if mark != seen:
                    if seen is not None and mark and not wait:
                        raise HeldError(f", {owner_text}")
                    owner, seen, since = last.owner, mark, now
                    if not owner_text:
                        owner_text = _owner_text(owner)
                        is_over = alone and owner.get("kernel") == kernel_id()
                        if not is_over:
                            log.info(
                                "%s: locked by %s; waiting up to %.0f s for a sign of life",
                                self.folder, owner_text, EXPIRY,
                            )  # fmt: skip
                is_over |= now - since >= EXPIRY
            if is_over:
                if self._create(1 if last is None else last.number + 1):
                    return
                continue
            system.check_stop()
            time.sleep(POLL)

    def release(self) -> None:
        """Release it; one that was lost is its new owner's."""
        self.released.set()
        if self.entry is not None:
            with suppress(OSError):  # it was lost, and removed
                self.entry.file.rename(self.entry.file.with_name(f"{self.entry.file.name}{FREE}"))
            self.entry = None

    def check(self) -> None:
        """Look at most once a second whether the lease is still that of this process.

        Raises:
            RunError: If another machine has it.
        """
        now = _clock()
        if now - self.touched > EXPIRY - HEARTBEAT:
            self._refresh()
        elif now - self.looked >= 1.0:
            self.looked = now
            self.lost |= self._is_superseded()
        if self.lost:
            raise RunError(
                f"{self.folder} was taken over by another machine, because this process gave no "
                f"sign of life for {EXPIRY:.0f} seconds: it was suspended, or lost the file "
                "system. It stops here; the other one goes on."
            )

    def _create(self, number: int) -> bool:
        """Create a lease; False if somebody else was faster."""
        file = self.folder / f"{self.prefix}{number}"
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "kernel": kernel_id()}
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(json.dumps(owner))
        except FileExistsError:
            return False
        except BaseException:  # a full disk
            file.unlink(missing_ok=True)
            raise
        self.entry = _Entry(number, is_free=False, file=file)
        if self._is_superseded():  # this number was taken and released since it was seen to be next
            file.unlink(missing_ok=True)
            self.entry = None
            return False
        for old in self.folder.glob(f"{self.prefix}*"):
            entry = _Entry.parsed(old, self.prefix)
            if entry is not None and entry.number < number:
                old.unlink(missing_ok=True)
        self.touched = self.looked = _clock()
        threading.Thread(target=self._refresh_regularly, daemon=True).start()
        return True

    def _refresh_regularly(self) -> None:
        while not self.released.wait(HEARTBEAT) and not self.lost:
            self._refresh()

    def _refresh(self) -> None:
        """Touch the lease; after a long sleep see first whether somebody takes it over."""
        with self.refreshing:
            entry = self.entry
            if entry is None or self.lost:
                return
            slept = _clock() - self.touched > EXPIRY - HEARTBEAT
            try:
                os.utime(entry.file)
                if slept:
                    time.sleep(GRACE)
                self.lost = self._is_superseded()
            except FileNotFoundError:
                self.lost = True
            except OSError:  # the file system is away: it is tried again
                return
            self.touched = _clock()

    def _is_superseded(self) -> bool:
        last = self.last()
        return last is None or self.entry is None or last.file != self.entry.file


def _clock() -> float:
    """Seconds that also count while the machine sleeps, where the system has such a clock."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def _owner_text(owner: dict[str, Any]) -> str:
    return (
        f"process {owner['pid']} on {owner['host']}"
        if {"pid", "host"} <= owner.keys()
        else ("a process that gave no name")
    )
