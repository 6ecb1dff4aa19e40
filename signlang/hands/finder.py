"""Find a hand in an image: MediaPipe's palm detector, then its landmark network on a turned crop.

The steps and their constants are those of MediaPipe's hand landmarker for single images
(`palm_detection_cpu.pbtxt`, `hand_landmark_cpu.pbtxt`, `palm_detection_detection_to_roi.pbtxt`),
in numpy and Pillow, with two additions that find more hands: a border of the nearest pixels around
the image, as the detector wants context around a hand, and other views of an image in which no hand
was found. `experiments/hands` measures the agreement with MediaPipe.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from PIL import Image

from signlang.arrays import Floats, Floats32, Pixels
from signlang.errors import DataError, first_line

POINTS: Final = 21  # wrist, then four of each finger from the palm to its tip, the thumb first
WRIST: Final = 0
KNUCKLES: Final = (5, 9, 13, 17)  # where the fingers begin, index finger first
SIDE: Final = 192  # of the palm detector's images, in pixels
CROP: Final = 224  # of the landmark network's images, in pixels
BORDER: Final = 0.25  # around the image, as a share of its longer side
DETECTION: Final = 0.2  # least score of a palm
PRESENCE: Final = 0.5  # least score of a hand in a crop
OVERLAP: Final = 0.3  # from which two boxes are one palm
SCALE: Final = 2.6  # of the crop, in sides of the palm's box
SHIFT: Final = 0.5  # of the crop, towards the fingers, in sides of the palm's box
LARGEST: Final = 2048  # pixels of a side, above which an image is averaged first
CANDIDATES: Final = 2  # palms of a view that are tried


@dataclass(frozen=True, eq=False)
class Hand:
    """A hand in an image.

    Attributes:
        points: (21, 3) x, y and depth in pixels of the image, from its upper left corner; depth is
            relative to the wrist, and negative nearer to the camera.
        right: Probability of a right hand, of an image that is not mirrored.
        score: Probability that there is a hand.
    """

    points: Floats32
    right: float
    score: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of its points, in pixels; they may lie outside the image."""
        low, high = self.points[:, :2].min(axis=0), self.points[:, :2].max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def size(self) -> float:
        """The longer side of its box, in pixels."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


@dataclass(frozen=True, eq=False)
class Palm:
    """A palm that the detector found.

    Attributes:
        box: (4,) left, top, right, bottom, in pixels of the image.
        points: (7, 2) wrist, knuckles and thumb, likewise.
        score: Of the detector, 0 to 1.
    """

    box: Floats
    points: Floats
    score: float


@dataclass(frozen=True)
class Region:
    """A turned square of an image.

    Attributes:
        x: Of its centre, in pixels of the image.
        y: Likewise.
        side: In pixels.
        angle: Of its upper side, clockwise in the displayed image, in radians.
    """

    x: float
    y: float
    side: float
    angle: float

    def to_image(self, points: Floats32) -> Floats32:
        """Map points (n, 3) of the square, 0 to 1, to pixels of the image; depth is scaled.

        >>> square = Region(x=10, y=20, side=4, angle=math.pi / 2)
        >>> square.to_image(np.array([[1.0, 0.5, 0.5]], np.float32)).round(3).tolist()
        [[10.0, 22.0, 2.0]]
        """
        out = points.astype(np.float64) * self.side
        offsets = (points[:, :2] - 0.5) * self.side
        out[:, :2] = offsets @ _rotation_matrix(self.angle).T + (self.x, self.y)
        return out.astype(np.float32)


def _rotation_matrix(angle: float) -> Floats:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def anchors() -> Floats:
    """(2016, 2) centres of the detector's anchors, 0 to 1: x, y.

    Two at each of 24 x 24 places, then six at each of 12 x 12; their boxes have the size of the
    image, so that only the centres matter.
    """
    grids = []
    for places, each in ((24, 2), (12, 6)):
        centres = (np.arange(places) + 0.5) / places
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.stack([x, y], axis=-1).reshape(-1, 2).repeat(each, axis=0))
    return np.concatenate(grids)


def overlaps(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of a box (4,) with each of (n, 4): left, top, right, bottom.

    >>> overlaps(np.array([0.0, 0, 2, 2]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3)
    array([0.333, 0.   ])
    """
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    own = np.prod(np.maximum(box[2:] - box[:2], 0))
    union = np.maximum(areas + own - shared, 1e-12)
    return np.asarray(shared / union, dtype=np.float64)


def merge_palms(values: Floats, scores: Floats) -> Iterator[tuple[Floats, float]]:
    """Weighted non-maximum suppression: boxes that overlap become their mean, weighted by score.

    Args:
        values: (n, 18) left, top, right, bottom, then seven points.
        scores: (n,).

    Yields:
        Values (18,) and the highest score of each group, the highest first.
    """
    order = np.argsort(-scores, kind="stable")
    while len(order):
        is_overlapping = overlaps(values[order[0], :4], values[order, :4]) > OVERLAP
        is_overlapping[0] = True
        group = order[is_overlapping]
        weights = scores[group] / scores[group].sum()
        yield weights @ values[group], float(scores[order[0]])
        order = order[~is_overlapping]


def hand_region(palm: Palm) -> Region:
    """The square around the whole hand of a palm, turned so that the fingers point upwards."""
    (x0, y0), (x1, y1) = palm.points[0], palm.points[2]  # wrist, beginning of the middle finger
    angle = math.pi / 2 - math.atan2(y0 - y1, x1 - x0)
    angle -= 2 * math.pi * math.floor((angle + math.pi) / (2 * math.pi))
    left, top, right, bottom = palm.box
    height = bottom - top
    x = (left + right) / 2 + height * SHIFT * math.sin(angle)
    y = (top + bottom) / 2 - height * SHIFT * math.cos(angle)
    return Region(x, y, SCALE * max(right - left, height), angle)


def cut(image: Pixels, region: Region, size: int) -> Pixels:
    """Cut a region out of an image (H, W, 3) as (size, size, 3); its edge repeats outside.

    A region far larger than `size` is averaged first.
    """
    half = region.side / 2 * (abs(math.cos(region.angle)) + abs(math.sin(region.angle))) + 2
    left, top = math.floor(region.x - half), math.floor(region.y - half)
    count = math.ceil(2 * half) + 1
    rows = np.clip(np.arange(top, top + count), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + count), 0, image.shape[1] - 1)
    patch = Image.fromarray(np.ascontiguousarray(image[rows][:, columns]))
    factor = max(int(region.side / size), 1)
    if factor > 1:
        patch = patch.reduce(factor)
    step = _rotation_matrix(region.angle) * region.side / size / factor
    centre = np.array([region.x - left, region.y - top]) / factor
    offset = centre - step @ np.array([size / 2, size / 2])
    matrix = (*step[0], offset[0], *step[1], offset[1])
    turned = patch.transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned, dtype=np.uint8)


@dataclass(frozen=True)
class View:
    """An image as the detector sees it: turned by quarters, with a border.

    Attributes:
        quarters: Counter-clockwise.
        border: As a share of the longer side.
    """

    quarters: int = 0
    border: float = BORDER


# the next one only where the one before shows no hand
VIEWS: Final = (View(), View(border=1.0), View(border=0.0))


class HandFinder:
    """Finds the hand in an image.

    Args:
        palm: Content of the detector's ONNX file.
        landmarks: Content of the landmark network's.
        threads: That share the work of one image.

    Raises:
        DataError: If they are no networks, or onnxruntime is not installed.
    """

    def __init__(self, palm: bytes, landmarks: bytes, threads: int = 1) -> None:
        self._palm, self._landmarks = (_load_session(data, threads) for data in (palm, landmarks))
        self._anchors = anchors()

    def __call__(self, image: Pixels) -> Hand | None:
        """Find the hand that is most likely one; None if there is none.

        Args:
            image: (H, W, 3) RGB.
        """
        factor = -(-max(image.shape[:2]) // LARGEST)
        if factor > 1:  # a hand that is found has more pixels than the networks look at
            image = np.asarray(Image.fromarray(image).reduce(factor))
        for view in VIEWS:
            for palm in self.palms(image, view)[:CANDIDATES]:
                hand = self.hand(image, hand_region(palm))
                if hand.score >= PRESENCE:
                    return replace(hand, points=hand.points * np.float32(factor))
        return None

    def palms(self, image: Pixels, view: View = VIEWS[0]) -> list[Palm]:
        """Palms of an image (H, W, 3), the most likely one first.

        Args:
            image: (H, W, 3) RGB.
            view: How the detector sees it.
        """
        turned = np.rot90(image, view.quarters)
        canvas, scale, offset = _letterbox(turned, view.border)
        boxes, scores = self._palm.run(["boxes", "scores"], {"images": canvas[None]})
        probabilities = 1 / (1 + np.exp(-np.clip(scores[0, :, 0].astype(np.float64), -100, 100)))
        kept = np.flatnonzero(probabilities >= DETECTION)
        values = self._decode_boxes(boxes[0, kept].astype(np.float64), self._anchors[kept])
        palms = []
        for merged, score in merge_palms(values, probabilities[kept]):
            points = (merged.reshape(9, 2) * SIDE - offset) / scale
            points = _map_back(points, view.quarters, image.shape)
            low, high = points[:2].min(axis=0), points[:2].max(axis=0)
            palms.append(Palm(np.concatenate([low, high]), points[2:], score))
        return palms

    def hand(self, image: Pixels, region: Region) -> Hand:
        """The hand in a region of an image (H, W, 3), whatever its score."""
        crop = cut(image, region, CROP)
        points, presence, right = self._landmarks.run(
            ["points", "presence", "handedness"], {"images": crop[None]}
        )
        crop_points = points.reshape(POINTS, 3) / CROP
        return Hand(region.to_image(crop_points), float(right[0, 0]), float(presence[0, 0]))

    @staticmethod
    def _decode_boxes(raw: Floats, centres: Floats) -> Floats:
        """(n, 18) corners of boxes and points, 0 to 1, of what the detector puts out."""
        pairs = raw.reshape(len(raw), 9, 2) / SIDE
        half = pairs[:, 1] / 2
        pairs = pairs + centres[:, None]
        centre = pairs[:, 0].copy()
        pairs[:, 0], pairs[:, 1] = centre - half, centre + half
        return pairs.reshape(len(raw), 18)


def _letterbox(image: Pixels, border: float) -> tuple[Pixels, Floats, Floats]:
    """The detector's square image; scale (2,) and offset (2,) map pixels of the image into it."""
    height, width = image.shape[:2]
    longer = max(height, width)
    ideal = SIDE / (longer * (1 + 2 * border))
    inner = [max(round(length * ideal), 1) for length in (width, height)]
    small = Image.fromarray(np.ascontiguousarray(image)).resize(
        (inner[0], inner[1]), Image.Resampling.BILINEAR
    )
    pad = min(round(longer * ideal * border), (SIDE - max(inner)) // 2)
    framed = np.pad(np.asarray(small), ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    canvas = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    top, left = ((SIDE - length) // 2 for length in framed.shape[:2])
    canvas[top : top + framed.shape[0], left : left + framed.shape[1]] = framed
    scale = np.array([inner[0] / width, inner[1] / height])
    return canvas, scale, np.array([left + pad, top + pad], dtype=np.float64)


def _map_back(points: Floats, quarters: int, shape: tuple[int, ...]) -> Floats:
    """Map points of an image that `np.rot90` turned to those of the image of that shape."""
    height, width = shape[:2]
    x, y = points[:, 0], points[:, 1]
    return np.stack(
        [(x, y), (width - y, x), (width - x, height - y), (y, height - x)][quarters % 4], axis=1
    )


def _load_session(data: bytes, threads: int) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise DataError(f"Hands are found by onnxruntime ({error}): install it.") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no base class for what it raises
        raise DataError(
            f"The networks that find hands cannot be used: {first_line(error)}"
        ) from None
