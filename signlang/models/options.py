"""What can be chosen of networks, as plain data: settings are checked by it before torch loads."""

from collections.abc import Mapping
from typing import Final

from signlang.errors import SettingError

# network -> side of the smallest picture that its layers can work on, in pixels
SMALLEST_SIDE: Final[Mapping[str, int]] = {
    "resnet18": 32,
    "mobilenetv2": 32,
    "squeezenet": 32,
    "simple_cnn": 27,
    "mobilenetv2_dense": 32,
    "timm": 8,
}
# mean and standard deviation of red, green and blue, of pixels in 0 to 1
NORMALISATIONS: Final[Mapping[str, tuple[list[float], list[float]]]] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "unit": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
}
OPTIMIZERS: Final = ("adam", "adamw", "sgd")


def check_size(name: str, image_size: int) -> None:
    """Refuse pictures that are too small for a network.

    Raises:
        SettingError: Names the smallest side.

    >>> check_size("simple_cnn", 100)
    """
    smallest = SMALLEST_SIDE[name]
    if image_size < smallest:
        raise SettingError(
            f"image_size={image_size} is too small for {name}: it needs at least {smallest}."
        )
