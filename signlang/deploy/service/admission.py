"""Requests come in; those that there is room for go on, the others are refused at once.

What is inside is bounded twice, in pictures and in bytes, before anything is read: a burst costs
waiting time, never memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from signlang.deploy.service.refusals import too_busy


class Admission:
    """The room of one process.

    Args:
        pictures: That may be inside, whether read, waiting or computed.
        size: Bytes of bodies that may be inside.

    Attributes:
        inside: Pictures at present.
    """

    def __init__(self, pictures: int, size: int) -> None:
        self.inside = 0
        self._pictures, self._size = pictures, size
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the next request is refused."""
        return self.inside >= self._pictures

    @contextmanager
    def seat(self, size: int) -> Iterator["Seat"]:
        """Take room for one picture and a body of at most `size` bytes while the block runs.

        Raises:
            Refusal: 429 if there is none.
        """
        if self.inside + 1 > self._pictures or self._bytes + size > self._size:
            raise too_busy()
        seat = Seat(self)
        self.inside += 1
        self._bytes += size
        try:
            yield seat
        finally:
            self.inside -= seat.pictures
            self._bytes -= size

    def widen(self, seat: "Seat", pictures: int) -> None:
        """Take room for all pictures of a request, once it is known how many they are.

        Raises:
            Refusal: 429 if there is none.
        """
        more = max(pictures, 1) - seat.pictures
        if self.inside + more > self._pictures:
            raise too_busy()
        self.inside += more
        seat.pictures += more


class Seat:
    """The room of one request.

    Attributes:
        pictures: That it has room for.
    """

    def __init__(self, admission: Admission) -> None:
        self.pictures = 1
        self._admission = admission

    def widen(self, pictures: int) -> None:
        """See `Admission.widen`."""
        self._admission.widen(self, pictures)
