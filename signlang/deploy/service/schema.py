"""What the service answers, for its description in OpenAPI and for clients written in Python."""

from pydantic import BaseModel, Field


class Prediction(BaseModel):
    """The answer about one picture."""

    label: str = Field(description="The most probable sign")
    confidence: float = Field(description="Its probability, calibrated as the bundle says")
    sure: bool = Field(description="Whether that reaches the threshold of the network")
    probabilities: dict[str, float] = Field(description="By sign, the most probable first")


class Times(BaseModel):
    """Where the time went, in milliseconds."""

    reading: float = Field(description="Receiving and decoding")
    network: float = Field(description="Waiting for others and computing")
    total: float


class Answer(BaseModel):
    """The answer to a request."""

    model: str
    precision: str
    device: str
    predictions: list[Prediction] = Field(description="In the order of the pictures")
    milliseconds: Times


class InBrowser(BaseModel):
    """What a browser needs to run the network itself."""

    precision: str
    url: str
    bytes: int


class Model(BaseModel):
    """A network among which a request can choose."""

    name: str
    default: bool
    classes: list[str]
    image_size: int = Field(description="Side of the square that the network sees, in pixels")
    precision: str
    device: str
    threshold: float = Field(description="Below this probability an answer is not sure")
    card: str | None = Field(description="Address of its model card")
    browser: InBrowser


class Models(BaseModel):
    """All networks."""

    models: list[Model]
    max_pictures: int = Field(description="Of one request")
    max_body_bytes: int
    max_pixels: int = Field(description="Of one picture")
    browser_runtime: bool = Field(
        description="Whether what a browser needs to run networks was brought along"
    )


class Trouble(BaseModel):
    """Why a request was not served."""

    error: str = Field(description="One sentence")
