"""Statistics of a data set: class balance, image sizes, signers, file kinds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from signlang.arrays import Ints
from signlang.data.image_io import ImageFacts
from signlang.hands.finder import WRIST, Hand

Size = tuple[int, int]
FAR: Final = 2.0  # ratio to the median size, by the square root of the area
TURNED: Final = 60.0  # degrees; in 2,062 upright photographs of 207 people no hand differs by 50
ALIGNED: Final = 0.5  # length of the mean of unit vectors; hands of one direction have nearly 1
MIDDLE: Final = 9  # the point where the middle finger begins
RARE: Final = 0.1  # share of the images; sizes that are more frequent than this are not odd


@dataclass(frozen=True, eq=False)
class Coverage:
    """Images of each signer and class.

    Attributes:
        names: (S,) signers, sorted.
        counts: (S, classes) images.
        unknown: Images without a known signer.
    """

    names: tuple[str, ...]
    counts: Ints
    unknown: int

    @property
    def incomplete(self) -> Ints:
        """Rows of the signers without images of some class, those that lack most first."""
        lacking = (self.counts == 0).sum(1)
        rows = np.argsort(-lacking, kind="stable")
        kept: Ints = rows[lacking[rows] > 0]
        return kept


@dataclass(frozen=True)
class Sizes:
    """Sizes of the images in pixels.

    Attributes:
        common: Sizes (width, height) and how many images have them, the most common first.
        smallest: The image with the least area.
        largest: The image with the greatest area.
        aspects: Least, median and greatest ratio of width to height.
    """

    common: tuple[tuple[Size, int], ...]
    smallest: Size
    largest: Size
    aspects: tuple[float, float, float]


def imbalance(counts: Ints) -> float:
    """Ratio of the largest class to the smallest.

    >>> imbalance(np.array([200, 100, 150]))
    2.0
    """
    return float(counts.max() / counts.min())


def coverage(signers: Sequence[str], labels: Ints, classes: int) -> Coverage:
    """Count the images of every signer and class; a signer without a name is unknown.

    >>> result = coverage(["ann", "bob", "ann", ""], np.array([0, 1, 1, 0]), classes=2)
    >>> result.names, result.counts.tolist(), result.unknown, result.incomplete.tolist()
    (('ann', 'bob'), [[1, 1], [0, 1]], 1, [1])
    """
    known = np.array([bool(signer) for signer in signers])
    names, numbers = np.unique(np.array(signers, dtype=object)[known], return_inverse=True)
    counts = np.zeros((len(names), classes), dtype=np.int64)
    np.add.at(counts, (numbers, labels[known]), 1)
    return Coverage(tuple(map(str, names)), counts, int((~known).sum()))


def sizes(facts: Sequence[ImageFacts]) -> Sizes:
    """Summarise the sizes of images, after EXIF orientation.

    >>> wide, square = ImageFacts("", 4, 2, "", ""), ImageFacts("", 3, 3, "", "")
    >>> result = sizes([wide, wide, square])
    >>> result.common, result.smallest, result.aspects
    ((((4, 2), 2), ((3, 3), 1)), (4, 2), (1.0, 2.0, 2.0))
    """
    counts = Counter((fact.width, fact.height) for fact in facts)
    by_area = sorted(counts, key=lambda size: (size[0] * size[1], size))
    aspects = np.array([fact.width / fact.height for fact in facts])
    return Sizes(
        common=tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        smallest=by_area[0],
        largest=by_area[-1],
        aspects=(float(aspects.min()), float(np.median(aspects)), float(aspects.max())),
    )


def kinds(facts: Sequence[ImageFacts]) -> list[tuple[str, int]]:
    """Count formats with pixel modes, the most common first."""
    counts = Counter(fact.kind for fact in facts)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def oddities(facts: Sequence[ImageFacts]) -> dict[int, str]:
    """Unusual properties of usable images: how they are stored, or an unusual size.

    A size is unusual if the square root of its area differs from the median by more than a factor
    of `FAR`, and fewer than `RARE` of the images do.

    Returns:
        A phrase by row.

    >>> usual = ImageFacts("", 100, 100, "", "")
    >>> large = ImageFacts("", 900, 900, "", "turned by EXIF")
    >>> oddities([usual] * 20 + [large])
    {20: 'turned by EXIF, 900 x 900 pixels where 100 x 100 is usual'}
    """
    scales = np.sqrt([fact.width * fact.height for fact in facts])
    ratio = scales / np.median(scales)
    far = (ratio > FAR) | (ratio < 1 / FAR)
    if far.mean() >= RARE:
        far[:] = False
    (width, height), _ = sizes(facts).common[0]
    phrases = {}
    for row, fact in enumerate(facts):
        reasons = [fact.odd] if fact.odd else []
        if far[row]:
            usual = f"{width} x {height}"
            reasons.append(f"{fact.width} x {fact.height} pixels where {usual} is usual")
        if reasons:
            phrases[row] = ", ".join(reasons)
    return phrases


def turned_hands(hands: Sequence[Hand | None], labels: Ints) -> dict[int, float]:
    """Images whose hand points elsewhere than those of its class, e.g. that lie on their side.

    A hand points from the wrist to where the middle finger begins, its class in the mean direction
    of its hands, left ones mirrored. A class whose hands point everywhere is skipped.

    Args:
        hands: (N,) None where none was found.
        labels: (N,).

    Returns:
        Degrees by row, clockwise, of those that differ by `TURNED` or more, the farthest first.
    """
    rows = np.array([row for row, hand in enumerate(hands) if hand is not None], dtype=np.int64)
    points = np.array([hand.points[[WRIST, MIDDLE], :2] for hand in hands if hand is not None])
    handedness = np.array([1 if hand.right >= 0.5 else -1 for hand in hands if hand is not None])
    if not len(rows):
        return {}
    x, y = (points[:, 1] - points[:, 0]).T
    vectors = np.exp(1j * np.arctan2(y, x * handedness))
    degrees = np.zeros(len(rows))
    for label in np.unique(labels[rows]):
        members = labels[rows] == label
        mean = vectors[members].mean()
        if abs(mean) >= ALIGNED:
            degrees[members] = np.degrees(np.angle(vectors[members] / mean))
    degrees *= handedness  # as it is in the image
    order = np.argsort(-np.abs(degrees), kind="stable")
    return {int(rows[n]): float(degrees[n]) for n in order if abs(degrees[n]) >= TURNED}


def samples(labels: Ints, label: int, signers: Sequence[str] | None, most: int) -> list[int]:
    """Select images of a class, evenly spread over the sorted paths, of different signers first.

    >>> samples(np.array([0, 0, 0, 1, 0]), 0, ["ann", "ann", "bob", "ann", "cid"], 3)
    [0, 2, 4]
    """
    rows = np.flatnonzero(labels == label)
    first: dict[object, int] = {}  # the first image of every signer, or every image
    for row in rows.tolist():
        first.setdefault(signers[row] if signers else row, row)
    selected = _spread(list(first.values()), most)
    others = set(first.values())
    more = [row for row in rows.tolist() if row not in others]
    return sorted(selected + _spread(more, most - len(selected)))


def _spread(rows: list[int], most: int) -> list[int]:
    if len(rows) <= most:
        return rows
    return [rows[position * len(rows) // most] for position in range(most)]
