"""Response models of the HTTP API, and the error that carries a status code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, Field


@dataclass(eq=False)
class RequestError(Exception):
    """A request that is not served.

    Attributes:
        status: Of HTTP.
        sentence: What is wrong and how to fix it; holds nothing that a request brought along,
            but names of networks.
        headers: To send with it.
    """

    status: int
    sentence: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.sentence


def too_busy(seconds: int = 1) -> RequestError:
    """The refusal of a service that has enough to do.

    >>> too_busy().status, too_busy().headers
    (429, {'Retry-After': '1'})
    """
    return RequestError(
        429, "Too many images are waiting: send this one again.", {"Retry-After": str(seconds)}
    )


class Prediction(BaseModel):
    """The answer about one image."""

    label: str = Field(description="The most probable sign")
    confidence: float = Field(description="Its probability, calibrated by the bundle")
    sure: bool = Field(description="Whether that reaches the threshold of the network")
    probabilities: dict[str, float] = Field(description="By sign, the most probable first")
    hand: bool | None = Field(
        default=None, description="Whether a hand was found, if the network looks for one"
    )


class Timings(BaseModel):
    """Where the time went, in milliseconds."""

    reading: float = Field(description="Receiving and decoding")
    network: float = Field(description="Waiting for others and computing")
    total: float


class PredictResponse(BaseModel):
    """The answer to a request."""

    model: str
    precision: str
    device: str
    predictions: list[Prediction] = Field(description="In the order of the images")
    milliseconds: Timings


class BrowserModel(BaseModel):
    """What a browser needs to run the network itself."""

    precision: str
    url: str
    bytes: int


class ModelInfo(BaseModel):
    """A network among which a request can choose."""

    name: str
    default: bool
    classes: list[str]
    image_size: int = Field(description="Width and height of the network's images, in pixels")
    precision: str
    device: str
    threshold: float = Field(description="Below this probability an answer is not sure")
    threshold_source: Literal["bundle", "setting", "fallback"] = Field(
        description="Fitted for this network, reject_threshold= of the service, or 0.5 where the "
        "bundle has none"
    )
    card: str | None = Field(description="Address of its model card")
    hands: bool = Field(description="Whether the hand is found first, which the service does")
    browser: BrowserModel


class ModelList(BaseModel):
    """All networks."""

    models: list[ModelInfo]
    max_images: int = Field(description="Of one request")
    max_body_bytes: int
    max_pixels: int = Field(description="Of one image")
    browser_runtime: bool = Field(
        description="Whether what a browser needs to run networks was brought along"
    )


class ErrorResponse(BaseModel):
    """Why a request was not served."""

    error: str = Field(description="One sentence")
