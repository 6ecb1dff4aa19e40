"""What a service says when it does not do what was asked: a status and one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(eq=False)
class Refusal(Exception):
    """A request that is not served.

    Attributes:
        status: Of HTTP.
        sentence: What is wrong and how to mend it; holds nothing that a request brought along,
            but names of networks.
        headers: To send with it.
    """

    status: int
    sentence: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.sentence


def too_busy(seconds: int = 1) -> Refusal:
    """The refusal of a service that has enough to do.

    >>> too_busy().status, too_busy().headers
    (429, {'Retry-After': '1'})
    """
    return Refusal(
        429, "Too many pictures are waiting: send this one again.", {"Retry-After": str(seconds)}
    )
