"""Small pictures and digests of files come in, exact and near duplicates go out; pure functions.

A near duplicate is nearly the same picture (encoded again, scaled, a little brighter, the next
frame of a film), not the same sign shown again, and not another hand in front of the same wall.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from signlang.cards.duplicates import Duplicates, Floats, Ints, Pairs, Partners
from signlang.console import track

BLOCK: Final = 256  # pictures compared with all others at once: 90 MB for 87,000 of them
PAIRS: Final = 512  # compared in detail at once: 2 MB, which caches hold
PATCH: Final = 4  # pixels; a finger is about as wide in a picture of 32
FLAT: Final = 1.0  # grey levels; what varies less shows nothing but noise and resembles nothing
GREY: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def vectors(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Turn pictures into grey vectors of mean 0 and length 1, so that a product is a correlation.

    Args:
        pixels: (N, h, w, 3) RGB; sides are multiples of `PATCH`.

    Returns:
        (N, h * w), patch after patch of `PATCH` x `PATCH` pixels; zeros for pictures without any
        contrast.
    """
    count, height, width, _ = pixels.shape
    found = np.empty((count, height * width), dtype=np.float32)
    for start in range(0, count, BLOCK):
        grey = pixels[start : start + BLOCK] @ GREY
        patches = grey.reshape(-1, height // PATCH, PATCH, width // PATCH, PATCH).swapaxes(2, 3)
        grey = patches.reshape(-1, height * width)
        grey -= grey.mean(1, keepdims=True)
        length = np.linalg.norm(grey, axis=1, keepdims=True)
        flat = length < FLAT * np.sqrt(height * width)
        found[start : start + BLOCK] = np.where(flat, 0, grey / np.maximum(length, 1e-9))
    return found


def find(
    vectors: Floats,
    digests: Sequence[str],
    labels: Ints,
    folds: Ints | None,
    near: float = 0.98,
    detail: float = 0.25,
) -> Duplicates:
    """Compare every picture with every other one, in blocks: memory grows with N, not its square.

    Args:
        vectors: (N, D) of length 1 or 0, see `vectors`.
        digests: (N,) of the files.
        labels: (N,) labels.
        folds: (N,) in which fold each picture is tested, or None.
        near: Correlation from which two pictures are near duplicates, if they also agree in detail.
        detail: The most that their difference may be in any 4 x 4 pixels, in standard deviations of
            the picture. In front of one background, correlation alone takes all hands for equal.
    """
    count = len(vectors)
    files = np.unique(np.array(digests), return_inverse=True)[1].astype(np.int64)
    search = _Search(files, labels, folds)
    search.exact_ones()
    for start in track(range(0, count, BLOCK), "comparing pictures", -(-count // BLOCK)):
        block = vectors[start : start + BLOCK] @ vectors[start:].T
        left, right = np.nonzero(block >= near - 1e-6)
        upper = left < right
        left, right = left[upper], right[upper]
        similarity = block[left, right]
        left, right = left + start, right + start
        kept = alike(vectors, left, right, detail)
        search.add(left[kept], right[kept], similarity[kept])
    return search.result()


def alike(vectors: Floats, left: Ints, right: Ints, detail: float) -> npt.NDArray[np.bool_]:
    """Whether pairs of pictures agree everywhere, not only on the whole.

    Args:
        vectors: (N, D) of length 1, see `vectors`.
        left: (P,) rows.
        right: (P,) rows.
        detail: See `find`.

    Returns:
        (P,) whether the root mean square difference is within `detail` in every patch.
    """
    length = vectors.shape[1]
    mean = np.full(PATCH**2, length / PATCH**2, dtype=np.float32)  # length**2 is one variance
    found = np.empty(len(left), dtype=np.bool_)
    for start in range(0, len(left), PAIRS):
        span = slice(start, start + PAIRS)
        difference = vectors[left[span]]
        difference -= vectors[right[span]]
        np.square(difference, out=difference)
        patches = difference.reshape(-1, PATCH**2) @ mean  # many times faster than a sum over axes
        found[span] = patches.reshape(-1, length // PATCH**2).max(1) <= detail**2
    return found


def joined(component: Ints, left: Ints, right: Ints) -> Ints:
    """Join connected components, each named by its smallest row, along edges.

    Args:
        component: (N,) the component of every row.
        left: (E,) rows at one end.
        right: (E,) rows at the other.

    >>> joined(np.arange(5), np.array([3, 1]), np.array([4, 3])).tolist()
    [0, 1, 2, 1, 1]
    """
    component = component.copy()
    while True:
        one, other = component[left], component[right]
        apart = one != other
        if not apart.any():
            return component
        one, other = one[apart], other[apart]
        np.minimum.at(component, np.maximum(one, other), np.minimum(one, other))
        while (component != component[component]).any():
            component = component[component]


class _Search:
    """Counts, partners and groups, updated block by block; pairs themselves are not kept."""

    def __init__(self, files: Ints, labels: Ints, folds: Ints | None) -> None:
        count = len(files)
        self.files, self.labels, self.folds = files, labels, folds
        self.component = np.arange(count)
        self.near = np.zeros(3, dtype=np.int64)  # pairs: all, across classes, across folds
        self.nearest, self.other_class, self.other_fold = (Partners(count) for _ in range(3))

    def exact_ones(self) -> None:
        """Join equal files: each with the first of its set, and with the first that differs."""
        order = np.argsort(self.files, kind="stable")
        ends = np.flatnonzero(np.diff(self.files[order])) + 1
        left, right = [], []
        for rows in np.split(order, ends):
            if len(rows) < 2:
                continue
            anchors = {int(rows[0])}
            for kind in (self.labels, self.folds):
                if kind is not None:
                    anchors.update(rows[kind[rows] != kind[rows[0]]][:1].tolist())
            for anchor in sorted(anchors):
                others = rows[rows != anchor]
                left.append(np.full(len(others), anchor))
                right.append(others)
        if left:
            one, other = np.concatenate(left), np.concatenate(right)
            self._join(one, other, np.ones(len(one), dtype=np.float32))

    def add(self, left: Ints, right: Ints, similarity: Floats) -> None:
        """Take the near duplicates that one block brought."""
        different = self.files[left] != self.files[right]
        left, right, similarity = left[different], right[different], similarity[different]
        if not len(left):
            return
        self.near[0] += len(left)
        self.near[1] += (self.labels[left] != self.labels[right]).sum()
        if self.folds is not None:
            self.near[2] += (self.folds[left] != self.folds[right]).sum()
        order = np.argsort(similarity, kind="stable")
        self._join(left[order], right[order], np.minimum(similarity[order], 0.999999))

    def result(self) -> Duplicates:
        """Number the groups and count the equal files."""
        numbers, sizes = np.unique(self.component, return_inverse=True, return_counts=True)[1:]
        number_of = np.where(sizes > 1, np.cumsum(sizes > 1) - 1, -1)
        near = [int(n) for n in self.near]
        return Duplicates(
            exact=_exact_pairs(self.files, self.labels, self.folds),
            near=Pairs(near[0], near[1], None if self.folds is None else near[2]),
            group=number_of[numbers],
            nearest=self.nearest,
            other_class=self.other_class,
            other_fold=self.other_fold,
        )

    def _join(self, left: Ints, right: Ints, similarity: Floats) -> None:
        self.nearest.update(left, right, similarity)
        for kind, partners in ((self.labels, self.other_class), (self.folds, self.other_fold)):
            if kind is not None:
                differs = kind[left] != kind[right]
                partners.update(left[differs], right[differs], similarity[differs])
        self.component = joined(self.component, left, right)


def _exact_pairs(files: Ints, labels: Ints, folds: Ints | None) -> Pairs:
    total = _pairs_within(files)
    same_class = _pairs_within(files, labels)
    across_folds = None if folds is None else total - _pairs_within(files, folds)
    return Pairs(total, total - same_class, across_folds)


def _pairs_within(*keys: Ints) -> int:
    """Count the pairs of rows that agree in all keys.

    >>> _pairs_within(np.array([1, 1, 1, 2]), np.array([0, 0, 1, 0]))
    1
    """
    counts = np.unique(np.stack(keys), axis=1, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())
