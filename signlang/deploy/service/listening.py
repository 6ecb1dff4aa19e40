"""What the processes of a service share: a listening socket, and a folder for their figures."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from signlang.errors import ServiceError

BACKLOG: Final = 2048  # connections that wait to be accepted
FIGURES: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client looks at it when it is imported


@contextmanager
def opened(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at an address while the block runs.

    Raises:
        ServiceError: If it is taken, not allowed, or not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ServiceError(f"host={host}: there is no such address.") from None
    family, kind, _, _, where = found[0]
    # the protocol is named: asyncio sends small answers at once only where it stands in the socket
    with socket.socket(family, kind, socket.IPPROTO_TCP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(where)
            sock.listen(BACKLOG)
        except OSError as error:
            raise ServiceError(
                f"Cannot listen at {host}, port {port} ({error.strerror}): set port=N to another "
                "one, or port=0 for any that is free."
            ) from None
        yield sock


def address(sock: socket.socket) -> str:
    """Where a browser finds the service.

    >>> with opened("127.0.0.1", 0) as sock:
    ...     address(sock).startswith("http://127.0.0.1:")
    True
    """
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def figures() -> Iterator[Path]:
    """Make a folder in which processes that are started now add up their figures."""
    with tempfile.TemporaryDirectory(prefix="signlang-") as place:
        before = os.environ.get(FIGURES)
        os.environ[FIGURES] = place
        try:
            yield Path(place)
        finally:
            if before is None:
                del os.environ[FIGURES]
            else:
                os.environ[FIGURES] = before
