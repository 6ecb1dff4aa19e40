"""Response models of the HTTP API, and the error that carries a status code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, Field

from signlang.inference.bundle import DrawnHand


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


class Landmarks(BaseModel):
    """Where a hand was found, in pixels of the image from its upper left corner."""

    box: list[float] = Field(
        min_length=4,
        max_length=4,
        description="Left, top, right and bottom of the points; they may lie outside the image",
    )
    points: DrawnHand = Field(
        description="x and y of 21 points: the wrist, then four of each finger, the thumb first"
    )
    right: float = Field(description="Probability of a right hand, if the image is not mirrored")


class Prediction(BaseModel):
    """The answer about one image."""

    label: str = Field(description="The most probable sign")
    confidence: float = Field(description="Its probability, calibrated by the bundle")
    sure: bool = Field(description="Whether that reaches the threshold of the network")
    probabilities: dict[str, float] = Field(description="By sign, the most probable first")
    hand: bool | None = Field(
        default=None, description="Whether a hand was found, if the network looks for one"
    )
    landmarks: Landmarks | None = Field(default=None, description="The hand, if one was found")


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


class BrowserHands(BaseModel):
    """What a browser needs to find the hand itself."""

    palm: str = Field(description="Address of the network that finds palms")
    landmarks: str = Field(description="Address of the network that finds the points of a hand")
    bytes: int = Field(description="Of both")
    options: dict[str, str | float | bool] = Field(
        description="What the network sees of the hand: hands of bundle.json"
    )


class BrowserModel(BaseModel):
    """What a browser needs to run the network itself."""

    precision: str
    url: str
    bytes: int
    hands: BrowserHands | None = Field(description="Null where the network sees whole images")


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
    signs: str | None = Field(description="Address of drawings of its signs")
    hands: bool = Field(description="Whether the hand is found first")
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
