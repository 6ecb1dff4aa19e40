"""HTTP connections with bounds: size and time of a request's head, and their number by address.

Uvicorn's parser takes a head of any length for as long as it comes, and an idle connection stays
open for ever. Here a connection that does not send a whole head in time is closed, and one too many
gets its refusal, in JSON, without a request being made of it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from signlang.server.config import ServeConfig
from signlang.server.security import HEADERS

MAX_HEAD: Final = 64 * 1024  # bytes
REFUSAL_S: Final = 1.0  # until a refused connection gets its answer and is closed
STALLED_S: Final = 60.0  # how long an answer may wait for a client that does not read it

Refusal = tuple[int, str]
HEAD_TOO_LARGE: Final[Refusal] = (431, "The head of the request has more than 64 KiB.")
NO_HEAD: Final[Refusal] = (408, "The head of the request did not arrive in time.")
MALFORMED: Final[Refusal] = (400, "This is not an HTTP request.")
TOO_MANY: Final[Refusal] = (503, "Too many connections are open: try again.")
TOO_MANY_OF_ADDRESS: Final[Refusal] = (
    429, "Too many connections are open from this address: close some, or try again.",
)  # fmt: skip


@cache
def refusal(status: int, sentence: str) -> bytes:
    """The bytes of an answer that closes the connection, in the form of `schemas.ErrorResponse`.

    >>> refusal(*MALFORMED).splitlines()[0]
    b'HTTP/1.1 400 Bad Request'
    """
    body = json.dumps({"error": sentence}).encode()
    fields = {
        "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close",
        **({"Retry-After": "1"} if status in {429, 503} else {}), **HEADERS,
    }  # fmt: skip
    lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in fields.items())
    return STATUS_LINE[status] + lines.encode() + b"\r\n" + body


class BoundedProtocol(HttpToolsProtocol):
    """A connection.

    Args:
        limits: The settings of the service.
        addresses: Open connections by address, of all instances.
        options: As uvicorn gives them.
    """

    def __init__(self, limits: ServeConfig, addresses: Counter[str], **options: Any) -> None:
        super().__init__(**options)
        self._limits, self._addresses = limits, addresses
        self._refused: Refusal | None = None
        self._reads_head, self._head_bytes = True, 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; one too many is refused after a while."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        self._addresses[address] += 1
        if len(self.connections) > 2 * self._limits.connections:
            transport.abort()
        elif len(self.connections) > self._limits.connections:
            self._refused = TOO_MANY
        elif self._addresses[address] > self._limits.address_connections:
            self._refused = TOO_MANY_OF_ADDRESS
        self._start_timer(REFUSAL_S if self._refused else self._limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        address = self.client[0] if self.client else ""
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse at most as many bytes of a head as it may have."""
        if self._refused:  # its data is not read; one that tries again at once would cost the most
            return
        while data and self._reads_head and not self.transport.is_closing():
            room = MAX_HEAD - self._head_bytes
            if not room:
                self._close(HEAD_TOO_LARGE)
                return
            if self._timer is None:
                self._start_timer(self._limits.head_s)
            piece, data = data[:room], data[room:]
            self._head_bytes += len(piece)
            super().data_received(piece)
        if data and not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Start the time for a head that comes in one piece with the request before it."""
        if self._timer is None:
            self._start_timer(self._limits.head_s)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop the time for the head."""
        self._reads_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect another head."""
        self._reads_head = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Give a client that does not read its answer some time."""
        self._start_timer(STALLED_S)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Stop that time."""
        self._stop_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP in the form of all errors."""
        self._close(MALFORMED)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._on_time)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        self._timer = None
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:  # in the middle of an answer nothing else can be said
            self.transport.abort()
        else:
            self._close(self._refused or NO_HEAD)

    def _close(self, reason: Refusal) -> None:
        if not self.transport.is_closing():
            self._stop_timer()
            self.transport.write(refusal(*reason))
            self.transport.close()


def protocol_factory(limits: ServeConfig) -> Callable[..., BoundedProtocol]:
    """What uvicorn calls for each connection of a process."""
    addresses: Counter[str] = Counter()

    def make(**options: Any) -> BoundedProtocol:
        return BoundedProtocol(limits, addresses, **options)

    return make
