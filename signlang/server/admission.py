"""Admission control: how many images and bytes of requests one process holds at a time.

Images are counted once their request has arrived whole: a body that trickles holds bytes, and as
many as have come, but no place in the queue. Who finds the queue full waits in turn, which costs
nothing, before being refused. What is being decoded is held until the decoder has really ended,
also if its request is over.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from signlang.server.schemas import too_busy


class Admission:
    """Bounds the images and bytes that one process holds; used in one event loop.

    Args:
        images: That may be inside, whether decoded, waiting for the network or computed.
        size: Bytes of bodies that may be held.
        wait_s: How long a request waits for room, in seconds.

    Attributes:
        inside: Images at present.
        size: Bytes at present.
    """

    def __init__(self, images: int, size: int, wait_s: float) -> None:
        self.inside = self.size = 0
        self._most_images, self._most_bytes, self._wait_s = images, size, wait_s
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether another image would have to wait."""
        return self.inside >= self._most_images or bool(self._waiting)

    def check_size(self, size: int) -> None:
        """Refuse a body of which it is known that there is no room for it.

        Raises:
            RequestError: 429.
        """
        if self.size + size > self._most_bytes:
            raise too_busy()

    def add_bytes(self, size: int) -> None:
        """Count bytes that have come.

        Raises:
            RequestError: 429 if there is no room for them.
        """
        self.check_size(size)
        self.size += size

    async def enter(self, images: int) -> None:
        """Wait in turn until there is room for all images of a request, and count them.

        Raises:
            RequestError: 429 if there is none in time.
        """
        if not self._waiting and self.inside + images <= self._most_images:
            self.inside += images
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (images, turn)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.shield(turn)
        except BaseException as error:  # also of a client that has gone
            if turn.done():  # let in at the same moment
                self.leave(images, 0)
            else:
                self._waiting.remove(entry)
                self._admit()  # those behind may be fewer images
            if isinstance(error, TimeoutError):
                raise too_busy() from None
            raise

    def leave(self, images: int, size: int) -> None:
        """Give room back, and admit requests that wait."""
        self.inside -= images
        self.size -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.inside + self._waiting[0][0] <= self._most_images:
            images, turn = self._waiting.popleft()
            if not turn.done():
                self.inside += images
                turn.set_result(None)


class Slot:
    """What one request occupies; `close` it at the end.

    Args:
        admission: Where.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._images = self._size = 0
        self._decoding: Sequence[Future[Any]] = ()

    def add_bytes(self, size: int) -> None:
        """Count bytes of the body that have come.

        Raises:
            RequestError: 429 if there is no room for them.
        """
        self._admission.add_bytes(size)
        self._size += size

    async def enter(self, images: int) -> None:
        """Wait for room for the images of the request.

        Raises:
            RequestError: 429 if there is none in time.
        """
        await self._admission.enter(images)
        self._images = images

    def hold(self, decoding: Sequence[Future[Any]]) -> None:
        """Keep the room until these have ended, even if the slot is closed before."""
        self._decoding = decoding

    def close(self) -> None:
        """Give the room back, at once or when the last decoder has ended."""
        running = [task for task in self._decoding if not task.cancel() and not task.done()]
        if not running:
            self._admission.leave(self._images, self._size)
            return
        loop, remaining = asyncio.get_running_loop(), len(running)

        def ended() -> None:
            nonlocal remaining
            remaining -= 1
            if not remaining:
                self._admission.leave(self._images, self._size)

        for task in running:
            task.add_done_callback(lambda _: loop.call_soon_threadsafe(ended))
