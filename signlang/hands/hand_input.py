"""What a network sees of an image: a crop around the hand, the points of the hand, or both.

All take a decoded image and return the image that is resized and classified, so that training,
evaluation, export, prediction and service share one step between decoding and resizing. An image in
which no hand is found follows a rule, `not_found`; it is counted wherever it happens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from signlang.arrays import Flags, Floats, Pixels
from signlang.data.image_io import resize_image
from signlang.errors import SettingError
from signlang.hands.finder import KNUCKLES, WRIST, Hand, HandFinder
from signlang.hands.hand_networks import HandNetworks, find_networks, networks_of_key
from signlang.hands.hand_store import find_hands

if TYPE_CHECKING:  # it can draw images
    from signlang.data.sources import Root

VERSION: Final = 1  # raise it when the same hand gives another image
GREY: Final = (128, 128, 128)
BLANK_SIDE: Final = 8  # pixels of an image without a hand
NOT_FOUND: Final = ("full", "blank")
GRID: Final = 8  # size of the image that holds the points: 63 numbers, and whether there is a hand
LIMIT: Final = 4.0  # of a coordinate, in palms
STEPS: Final = 65535  # of 16 bits


@dataclass(frozen=True)
class HandInput(ABC):
    """Turns an image into what the network sees of its hand.

    Attributes:
        networks: That find the hand.
    """

    networks: HandNetworks

    @abstractmethod
    def of_hand(self, image: Image.Image, hand: Hand | None) -> Image.Image:
        """The image that is resized for the network."""

    def __call__(self, image: Image.Image) -> tuple[Image.Image, Hand | None]:
        """The image for the network, and the hand that was found."""
        hand = self._finder(np.asarray(image, dtype=np.uint8))
        return self.of_hand(image, hand), hand

    @cached_property
    def _finder(self) -> HandFinder:
        return self.networks.finder()

    @property
    def fixed_size(self) -> int | None:
        """Width and height of its images where they must not be resized, in pixels; else None."""
        return None

    @property
    def coded_rows(self) -> int:
        """Rows of pixels at the lower edge that hold numbers: no transform may change them."""
        return 0

    @property
    def options(self) -> dict[str, Any]:
        """Its settings, from which `from_options` rebuilds it."""
        settings = {
            one.name: getattr(self, one.name) for one in fields(self) if one.name != "networks"
        }
        return {"input": type(self).__name__, **settings}

    @property
    def key(self) -> str:
        """Name of what it does, for files of the cache."""
        values = [str(value) for value in self.options.values()]
        return "-".join([*values, self.networks.key, f"v{VERSION}"])

    def summary(self, with_hand: int, images: int) -> str:
        """Say in how many images there is a hand, and what happens to the others."""
        without_hand = images - with_hand
        rule = {"full": "shown whole", "blank": "shown as a grey image"}
        others = rule.get(str(self.options.get("not_found", "")), "shown as no points")
        rest = f"; {without_hand:,} without one are {others}" if without_hand else ""
        return f"hands: found in {with_hand:,} of {images:,} images{rest}"

    def recall(
        self, root: "Root", paths: Sequence[str], digests: Sequence[str], cache_dir: str
    ) -> Callable[[int, Image.Image], Image.Image]:
        """Search all images of a data set, and return what makes the image of each row."""
        hands = find_hands(root, paths, digests, self.networks, cache_dir)
        return lambda row, image: self.of_hand(image, hands[row])

    def found(
        self, root: "Root", paths: Sequence[str], digests: Sequence[str], cache_dir: str
    ) -> Flags:
        """(N,) whether a hand is found in each image."""
        hands = find_hands(root, paths, digests, self.networks, cache_dir)
        return np.array([hand is not None for hand in hands], dtype=np.bool_)


@dataclass(frozen=True)
class HandCrop(HandInput):
    """A square around the hand; beyond the image it is mirrored at its edge.

    Attributes:
        margin: On each side, as a share of the longer side of the points' box.
        mirror: Whether left hands are mirrored to right ones.
        not_found: `full` takes the whole image, `blank` a grey one.
    """

    margin: float = 0.25
    mirror: bool = False
    not_found: str = "full"

    def of_hand(self, image: Image.Image, hand: Hand | None) -> Image.Image:
        """The crop, at the image's own resolution."""
        if hand is None:
            return image if self.not_found == "full" else _blank()
        left, top, right, bottom = hand.box
        size = max(round(hand.size * (1 + 2 * self.margin)), 2)
        pixels = np.asarray(image, dtype=np.uint8)
        columns = _span((left + right) / 2, size, pixels.shape[1])
        rows = _span((top + bottom) / 2, size, pixels.shape[0])
        crop = pixels[rows][:, columns]
        if self.mirror and hand.right < 0.5:
            crop = crop[:, ::-1]
        return Image.fromarray(np.ascontiguousarray(crop))


def _blank() -> Image.Image:
    return Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), GREY)


def _span(centre: float, size: int, length: int) -> Any:
    """(size,) indices around a place of an axis, mirrored at its ends as often as needed.

    >>> _span(1.0, 6, 3).tolist()
    [2, 1, 0, 1, 2, 1]
    """
    start = math.floor(centre - size / 2 + 0.5)
    turn = max(length - 1, 1)
    indices = np.arange(start, start + size) % (2 * turn)
    return np.minimum(np.minimum(indices, 2 * turn - indices), length - 1)


@dataclass(frozen=True)
class HandPoints(HandInput):
    """The 21 points of the hand as an image of 8 x 8: two bytes a number, red before green.

    Cache, batches, export and service then carry points as they carry images. The wrist is the
    origin and the palm the unit, so that neither place nor size of the hand matters; no hand is 64
    zeros.

    Attributes:
        mirror: Whether left hands are mirrored to right ones.
    """

    mirror: bool = True

    @property
    def fixed_size(self) -> int | None:
        """That of the image that holds the points."""
        return GRID

    def of_hand(self, image: Image.Image, hand: Hand | None) -> Image.Image:
        """The points, of which no pixel may be changed or resized."""
        return Image.fromarray(point_pixels(hand, mirror=self.mirror).reshape(GRID, GRID, 3))


@dataclass(frozen=True)
class HandBoth(HandCrop):
    """The crop, whose last row of pixels holds the points instead: those of `HandPoints` in a row.

    One image of the network's size carries both, so that cache, batches, export and service carry
    it like any other. What else the last row could show is lost.

    Attributes:
        mirror: Whether left hands are mirrored to right ones, in crop and points.
        image_size: Width and height of the network's images, in pixels; at least 64.
    """

    mirror: bool = True
    image_size: int = 96

    @property
    def fixed_size(self) -> int | None:
        """That of the network's images."""
        return self.image_size

    @property
    def coded_rows(self) -> int:
        """The row of the points."""
        return 1

    def of_hand(self, image: Image.Image, hand: Hand | None) -> Image.Image:
        """Crop and points, of the network's size."""
        pixels = resize_image(super().of_hand(image, hand), self.image_size).copy()
        pixels[-1] = 0
        pixels[-1, : GRID * GRID] = point_pixels(hand, mirror=self.mirror)
        return Image.fromarray(pixels)


def point_pixels(hand: Hand | None, *, mirror: bool) -> Pixels:
    """(64, 3) pixels that hold the points of a hand, see `HandPoints`."""
    numbers = np.zeros(GRID * GRID, dtype=np.int64)
    if hand is not None:
        points = normalized_points(hand, mirror=mirror)
        scaled = (np.clip(points, -LIMIT, LIMIT) + LIMIT) / (2 * LIMIT)
        numbers[:-1] = (scaled * STEPS).round().astype(np.int64).ravel()
        numbers[-1] = STEPS
    pixels = np.stack([numbers >> 8, numbers & 255, np.zeros_like(numbers)], axis=1)
    return pixels.astype(np.uint8)


def normalized_points(hand: Hand, *, mirror: bool) -> Floats:
    """(21, 3) points with the wrist as origin and the palm as unit; left hands mirrored if asked.

    The palm is the root mean square distance of the knuckles from the wrist, in space: seen from
    the side, a palm is as large as from the front.
    """
    points = hand.points.astype(np.float64)
    points = points - points[WRIST]
    if mirror and hand.right < 0.5:
        points[:, 0] *= -1
    palm = math.sqrt(float((points[list(KNUCKLES)] ** 2).sum(axis=1).mean()))
    return np.asarray(points / max(palm, 1e-6), dtype=np.float64)


def encoded_points(pixels: Pixels) -> Floats:
    """(21, 3) points that an image (8, 8, 3) of `HandPoints` holds.

    >>> encoded_points(np.zeros((8, 8, 3), np.uint8))[0].tolist()
    [-4.0, -4.0, -4.0]
    """
    numbers = pixels[..., 0].astype(np.float64).ravel() * 256 + pixels[..., 1].ravel()
    return (numbers[:-1] / STEPS * 2 * LIMIT - LIMIT).reshape(21, 3)


def prepared(image: Image.Image, hands: HandInput | None) -> Image.Image:
    """What the network sees of an image; all of it where `hands` is None."""
    return image if hands is None else hands(image)[0]


KINDS: Final[Mapping[str, type[HandInput]]] = {
    kind.__name__: kind for kind in (HandCrop, HandPoints, HandBoth)
}
OWN: Final = "signlang.hands.hand_input."


def build_input(node: Mapping[str, Any] | None, cache_dir: str) -> HandInput | None:
    """Build what the group `hands` of a configuration names; None with hands=none.

    Args:
        node: The group, resolved.
        cache_dir: The cache folder, which holds the networks.

    Raises:
        SettingError: If the networks are missing, or a setting cannot work.
    """
    from signlang.components import TARGET, build  # omegaconf, which prediction does without

    if not node or not node.get(TARGET):
        return None
    networks = find_networks(node.get("model"), cache_dir, node.get("views", 1))
    arguments = {key: value for key, value in node.items() if key not in {"name", "model", "views"}}
    hand_input = build(arguments, {"networks": networks}, key="hands")
    if not isinstance(hand_input, HandInput):
        raise SettingError(
            f"hands._target_={node[TARGET]}: it must return a signlang.hands.hand_input.HandInput, "
            f"not {type(hand_input).__name__}."
        )
    return hand_input


def from_options(options: Mapping[str, Any], networks: HandNetworks) -> HandInput:
    """Rebuild an input from its `options`, e.g. of a bundle.

    Raises:
        SettingError: If it is of a kind that this version does not know.
    """
    kind = KINDS.get(str(options.get("input")))
    arguments = {key: value for key, value in options.items() if key != "input"}
    if kind is None or not arguments.keys() <= {one.name for one in fields(kind)}:
        raise SettingError(f"hands: {dict(options)} is of another version of signlang: update it.")
    return kind(networks=networks, **arguments)


def recorded_input(settings: Mapping[str, Any], cache_dir: str | None) -> HandInput | None:
    """The input of a trained run; None where it sees whole images.

    Args:
        settings: Of its `record.json`.
        cache_dir: The cache folder; None: the default one.

    Raises:
        SettingError: If the networks are not in the cache, or it is of the user's own code.
    """
    kind = settings.get("hands")
    if kind is None:
        return None
    options = {
        key.removeprefix("hands."): value
        for key, value in settings.items()
        if key.startswith("hands.") and key not in {"hands.name", "hands.networks"}
    }
    networks = networks_of_key(str(settings["hands.networks"]), cache_dir)
    return from_options({"input": str(kind).removeprefix("signlang "), **options}, networks)
