"""Locks between the processes of one machine, and of several that share a file system.

Each is two locks in one. The kernel's (flock) ends with its process, but not every file system that
machines share shows it to the others, and one that crashed may leave it locked. Beside it lies a
lease, a file that names its process and machine and is touched every few seconds: if that has not
been done for `EXPIRY` seconds, the machine is taken for lost, and its lock is free.
"""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, SoftFileLease, Timeout

from signlang import system
from signlang.console import log
from signlang.errors import RunError

EXPIRY: Final = 90.0  # seconds
HEARTBEAT: Final = 15.0  # seconds between two touches: five may be late
POLL: Final = 0.5  # seconds between two looks at a lock that another process holds
LEASE: Final = ".lease"  # suffix of its file, or its name beside a lock that has a suffix only
NO_FLOCK: Final = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system without


class HeldError(Exception):
    """A lock is held by another process; the text names it where it is known."""


def lease_file(lock: Path) -> Path:
    """The lease beside a lock.

    >>> lease_file(Path("fold=0/.lock")).name, lease_file(Path("a.lock")).name
    ('.lease', 'a.lease')
    """
    return lock.with_name(lock.name.removesuffix(".lock") + LEASE)


@contextmanager
def exclusive(lock: Path, *, wait: str = "") -> Iterator[None]:
    """Keep all other processes, of this machine and of others, out of the block.

    While it runs, `system.check_stop` raises if the lease was lost: this process slept, or could
    not reach the file system, and another machine took it for dead.

    Args:
        lock: The file that the kernel locks; it stays.
        wait: What is said once if another process holds it, before waiting for it; empty: raise.

    Raises:
        HeldError: If another process holds it. To know that of another machine can take `EXPIRY`.
        RunError: At the end of the block, if the lease was lost.
        OSError: If the files cannot be written.
    """
    held = _Held(lock)
    held.acquire(wait)
    try:
        with system.watching(held.check):
            yield
        held.check()
    finally:
        held.release()


def is_held(lock: Path) -> bool:
    """Whether a process is likely to hold a lock; nothing is written, and nobody is disturbed."""
    if not lock.is_file():
        return False
    kernel = FileLock(lock, fallback_to_soft=False)
    try:
        kernel.acquire(timeout=0)
    except Timeout:
        return True
    except OSError as error:  # of somebody else, or on a disk that cannot be written to
        if error.errno not in NO_FLOCK:
            return False
    finally:
        kernel.release()
    lease = lease_file(lock)
    owner = SoftFileLease(lease, lease_duration=EXPIRY).owner
    if owner is None or (owner.hostname == socket.gethostname() and not _is_alive(owner.pid)):
        return False
    with suppress(OSError):
        return time.time() - lease.stat().st_mtime < EXPIRY
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of somebody else
        return True
    return True


class _Held:
    """Both locks of a file."""

    def __init__(self, lock: Path) -> None:
        self.file = lease_file(lock)
        self.kernel = FileLock(lock, fallback_to_soft=False)
        self.lease = SoftFileLease(
            self.file, lease_duration=EXPIRY, heartbeat_interval=HEARTBEAT, thread_local=False
        )
        self.identity = (0, 0, 0)  # of the file of the lease, see `_mark`
        self.looked = 0.0

    def acquire(self, wait: str) -> None:
        """See `exclusive`."""
        try:
            self._acquire_kernel(wait)
            self._acquire_lease(wait)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release both; a lease that was lost is left to its new owner."""
        self.lease.release()
        self.kernel.release()

    def check(self) -> None:
        """Look at most once a second whether the lease is still that of this process.

        Raises:
            RunError: If another machine has it.
        """
        now = time.monotonic()
        if now - self.looked < 1.0 and self.lease.compromise is None:
            return
        self.looked = now
        if self.lease.compromise is not None or self._mark()[:2] != self.identity[:2]:
            raise RunError(
                f"{self.file.parent} was taken over by another machine, because this process did "
                f"not touch {self.file.name} for {EXPIRY:.0f} seconds: it was suspended, or lost "
                "the file system. It stops here; the other one goes on."
            )

    def _acquire_kernel(self, wait: str) -> None:
        said = False
        while True:
            try:
                self.kernel.acquire(timeout=0)
            except Timeout:
                if not wait:
                    raise HeldError("") from None
            except OSError as error:
                if error.errno in NO_FLOCK:  # the lease alone
                    return
                raise
            else:
                return
            if not said:
                log.info("%s", wait)
            said = True
            system.check_stop()
            time.sleep(POLL)

    def _acquire_lease(self, wait: str) -> None:
        """Acquire it, once it is free, or has not been touched for `EXPIRY` seconds."""
        first = None
        while True:
            with suppress(Timeout):
                self.lease.acquire(timeout=0)
                self.identity = self._mark()
                return
            mark = self._mark()
            if first is None:
                first, owner = mark, self.lease.owner
                who = f"process {owner.pid} on {owner.hostname}" if owner else "another machine"
                log.info(
                    "%s: locked by %s; waiting up to %.0f s to see whether it is alive",
                    self.file.parent, who, EXPIRY,
                )  # fmt: skip
            elif not wait and mark[2] and mark != first:  # it was touched
                raise HeldError(f", {who}")
            system.check_stop()
            time.sleep(POLL)

    def _mark(self) -> tuple[int, int, int]:
        """Device, number and time of the file of the lease; zeros without one."""
        try:
            status = self.file.stat()
        except OSError:
            return 0, 0, 0
        return status.st_dev, status.st_ino, status.st_mtime_ns
