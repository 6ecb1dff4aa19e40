"""Search for exact and near-duplicate images.

A near duplicate is nearly the same image (encoded again, scaled, a little brighter, the next
frame of a video), not the same sign repeated, and not another hand before the same background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from signlang.arrays import Floats32, Ints
from signlang.console import track


@dataclass(frozen=True)
class Pairs:
    """Numbers of duplicate pairs; across folds None if there are no folds."""

    total: int
    across_classes: int
    across_folds: int | None


class Partners:
    """The most similar duplicate of every image under a condition.

    Attributes:
        row: (N,) the partner, -1 where there is none.
        similarity: (N,) from `near` to 1; exact duplicates have 1.
    """

    def __init__(self, count: int) -> None:
        self.row = np.full(count, -1, dtype=np.int64)
        self.similarity = np.zeros(count, dtype=np.float32)

    def update(self, left: Ints, right: Ints, similarity: Floats32) -> None:
        """Update with pairs, sorted by similarity, in both directions."""
        for one, other in ((left, right), (right, left)):
            better = similarity > self.similarity[one]
            self.row[one[better]] = other[better]  # the last and best of repeated rows is kept
            self.similarity[one[better]] = similarity[better]

    @property
    def exists(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the image has a partner."""
        return self.row >= 0


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Duplicates of a data set: numbers, groups and partners.

    Attributes:
        exact: Pairs of equal files.
        near: Pairs of different files with nearly the same image.
        group: (N,) number of the connected group, from 0 in order of the rows; -1 without one.
        nearest: The most similar other image.
        other_class: The most similar one with another label.
        other_fold: The most similar one in another fold; none where there are no folds.
    """

    exact: Pairs
    near: Pairs
    group: Ints
    nearest: Partners
    other_class: Partners
    other_fold: Partners

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.group.max(initial=-1)) + 1

    def ordered_groups(self) -> list[Ints]:
        """Rows of each group, ordered: across classes, then across folds, then by size.

        A video is one large group; its first rows are the ones to check.
        """
        order = np.argsort(self.group, kind="stable")[(self.group < 0).sum() :]
        starts = np.flatnonzero(np.diff(self.group[order])) + 1
        groups = np.split(order, starts) if len(order) else []
        urgency = np.where(self.other_class.exists, 2, np.where(self.other_fold.exists, 1, 0))
        groups.sort(key=lambda rows: (-int(urgency[rows].max()), -len(rows), int(rows[0])))
        return [self._ordered(rows, urgency) for rows in groups]

    def _ordered(self, rows: Ints, urgency: Ints) -> Ints:
        """Put the most urgent row first and its partner second."""
        rows = rows[np.argsort(-urgency[rows], kind="stable")]
        first = int(rows[0])
        partners = (self.nearest, self.other_fold, self.other_class)[int(urgency[first])]
        pair = [first, int(partners.row[first])]
        return np.array([*pair, *(row for row in rows.tolist() if row not in pair)])


BLOCK: Final = 1024  # images compared with all others at once
TILE: Final = 4096  # of those others: products of 4 MB
MANY: Final = 10_000  # images from which short vectors are worth computing
SHORT: Final = 64  # numbers of a short vector
SAMPLE: Final = 4_000  # images that decide on its components
SLACK: Final = 1e-4  # rounding of a sum of 1,024 products
DENSE: Final = 100  # from one pair in so many, one product of a block costs less than single ones
PAIRS: Final = 512  # compared in detail at once: 2 MB, which caches hold
PATCH: Final = 4  # pixels; a finger is about as wide in an image of 32
FLAT: Final = 1.0  # grey levels; what varies less shows nothing but noise and resembles nothing
GREY: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def vectors(pixels: npt.NDArray[np.uint8]) -> Floats32:
    """Turn images into grey vectors of mean 0 and length 1, so that a product is a correlation.

    Args:
        pixels: (N, h, w, 3) RGB; h and w are multiples of `PATCH`.

    Returns:
        (N, h * w), patch after patch of `PATCH` x `PATCH` pixels; zeros for images without any
        contrast.
    """
    count, height, width, _ = pixels.shape
    result = np.empty((count, height * width), dtype=np.float32)
    for start in range(0, count, BLOCK):
        grey = pixels[start : start + BLOCK] @ GREY
        patches = grey.reshape(-1, height // PATCH, PATCH, width // PATCH, PATCH).swapaxes(2, 3)
        grey = patches.reshape(-1, height * width)
        grey -= grey.mean(1, keepdims=True)
        length = np.linalg.norm(grey, axis=1, keepdims=True)
        flat = length < FLAT * np.sqrt(height * width)
        result[start : start + BLOCK] = np.where(flat, 0, grey / np.maximum(length, 1e-9))
    return result


def find_duplicates(
    vectors: Floats32,
    digests: Sequence[str],
    labels: Ints,
    folds: Ints | None,
    near: float = 0.98,
    detail: float = 0.25,
) -> Duplicates:
    """Compare all pairs of images, in blocks: memory grows with N, not with its square.

    Args:
        vectors: (N, D) of length 1 or 0, see `vectors`.
        digests: (N,) of the files.
        labels: (N,) labels.
        folds: (N,) fold in which each image is tested, or None.
        near: Correlation from which two images are near duplicates, if they also agree in detail.
        detail: Largest difference in any 4 x 4 pixels, in standard deviations of the image. Before
            one background, correlation alone does not distinguish hands.
    """
    count = len(vectors)
    files = np.unique(np.array(digests), return_inverse=True)[1].astype(np.int64)
    search = _Search(files, labels, folds)
    search.add_exact()
    short = shortened(vectors, SHORT) if count >= MANY else vectors
    for start in track(range(0, count, BLOCK), "comparing images", -(-count // BLOCK)):
        rows = slice(start, start + BLOCK)
        pairs = [
            _correlated(vectors, short, rows, slice(other, other + TILE), near)
            for other in range(start, count, TILE)
        ]
        left, right, similarity = (np.concatenate(each) for each in zip(*pairs, strict=True))
        kept = similar_pairs(vectors, left, right, detail)
        search.add(left[kept], right[kept], similarity[kept])
    return search.result()


def shortened(vectors: Floats32, length: int) -> Floats32:
    """(N, length) vectors whose products are at least those of the long ones.

    They hold the principal components, and the norm of what these leave out: with v = p + r, the
    product of two images is that of their p plus that of their r, which is at most the product of
    the norms of r. A pair below a threshold by the short vectors is below it by the long ones.

    Args:
        vectors: (N, D), see `vectors`.
        length: Of the result, less than D.
    """
    sample = vectors[:: -(-len(vectors) // SAMPLE)]
    components = np.linalg.eigh(sample.T @ sample)[1][:, 1 - length :]  # of the largest variance
    result = np.empty((len(vectors), length), dtype=np.float32)
    result[:, :-1] = vectors @ components
    rest = (vectors**2).sum(1) - (result[:, :-1] ** 2).sum(1)
    result[:, -1] = np.sqrt(np.maximum(rest, 0))
    return result


def _correlated(
    vectors: Floats32, short: Floats32, rows: slice, columns: slice, near: float
) -> tuple[Ints, Ints, Floats32]:
    """Pairs of one block that correlate by at least `near`, the first row being the lower one."""
    bound = short[rows] @ short[columns].T
    flat = np.flatnonzero(bound >= near - SLACK)
    left, right = np.divmod(flat, bound.shape[1])
    left, right = left + rows.start, right + columns.start
    left, right = left[left < right], right[left < right]
    if len(left) > bound.size // DENSE:
        similarity = (vectors[rows] @ vectors[columns].T)[left - rows.start, right - columns.start]
    else:
        similarity = np.empty(len(left), dtype=np.float32)
        for start in range(0, len(left), PAIRS):
            chunk = slice(start, start + PAIRS)
            similarity[chunk] = np.vecdot(vectors[left[chunk]], vectors[right[chunk]])
    kept = similarity >= near - 1e-6
    return left[kept], right[kept], similarity[kept]


def similar_pairs(
    vectors: Floats32, left: Ints, right: Ints, detail: float
) -> npt.NDArray[np.bool_]:
    """Whether pairs of images agree in every patch, not only on average.

    Args:
        vectors: (N, D) of length 1, see `vectors`.
        left: (P,) rows.
        right: (P,) rows.
        detail: See `find_duplicates`.

    Returns:
        (P,) whether the root mean square difference is within `detail` in every patch.
    """
    length = vectors.shape[1]
    mean = np.full(PATCH**2, length / PATCH**2, dtype=np.float32)  # length**2 is one variance
    similar = np.empty(len(left), dtype=np.bool_)
    for start in range(0, len(left), PAIRS):
        chunk = slice(start, start + PAIRS)
        difference = vectors[left[chunk]]
        difference -= vectors[right[chunk]]
        np.square(difference, out=difference)
        patches = difference.reshape(-1, PATCH**2) @ mean  # many times faster than a sum over axes
        similar[chunk] = patches.reshape(-1, length // PATCH**2).max(1) <= detail**2
    return similar


def connected_groups(component: Ints, left: Ints, right: Ints) -> Ints:
    """Join connected components along edges; they are numbered by their first rows.

    Args:
        component: (N,) the component of every row.
        left: (E,) rows at one end.
        right: (E,) rows at the other.

    >>> connected_groups(np.arange(5), np.array([3, 1]), np.array([4, 3])).tolist()
    [0, 1, 2, 1, 1]
    """
    from scipy import sparse  # type: ignore[import-untyped,unused-ignore]
    from scipy.sparse.csgraph import (  # type: ignore[import-untyped,unused-ignore]
        connected_components,
    )

    ends, count = (component[left], component[right]), len(component)
    edges = sparse.coo_array((np.ones(len(left)), ends), shape=(count, count))
    joined: Ints = connected_components(edges, directed=False)[1][component].astype(np.int64)
    return joined


class _Search:
    """Counts, partners and groups, updated block by block; pairs are not stored."""

    def __init__(self, files: Ints, labels: Ints, folds: Ints | None) -> None:
        count = len(files)
        self.files, self.labels, self.folds = files, labels, folds
        self.component = np.arange(count)
        self.near = np.zeros(3, dtype=np.int64)  # pairs: all, across classes, across folds
        self.nearest, self.other_class, self.other_fold = (Partners(count) for _ in range(3))

    def add_exact(self) -> None:
        """Join equal files: each with the first of its group, and the first of another class."""
        order = np.argsort(self.files, kind="stable")
        ends = np.flatnonzero(np.diff(self.files[order])) + 1
        left, right = [], []
        for rows in np.split(order, ends):
            if len(rows) < 2:
                continue
            anchors = {int(rows[0])}
            for keys in (self.labels, self.folds):
                if keys is not None:
                    anchors.update(rows[keys[rows] != keys[rows[0]]][:1].tolist())
            for anchor in sorted(anchors):
                others = rows[rows != anchor]
                left.append(np.full(len(others), anchor))
                right.append(others)
        if left:
            one, other = np.concatenate(left), np.concatenate(right)
            self._join(one, other, np.ones(len(one), dtype=np.float32))

    def add(self, left: Ints, right: Ints, similarity: Floats32) -> None:
        """Add the near duplicates of one block."""
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
        group_of = np.where(sizes > 1, np.cumsum(sizes > 1) - 1, -1)
        near = [int(n) for n in self.near]
        return Duplicates(
            exact=_exact_pairs(self.files, self.labels, self.folds),
            near=Pairs(near[0], near[1], None if self.folds is None else near[2]),
            group=group_of[numbers],
            nearest=self.nearest,
            other_class=self.other_class,
            other_fold=self.other_fold,
        )

    def _join(self, left: Ints, right: Ints, similarity: Floats32) -> None:
        self.nearest.update(left, right, similarity)
        for keys, partners in ((self.labels, self.other_class), (self.folds, self.other_fold)):
            if keys is not None:
                differs = keys[left] != keys[right]
                partners.update(left[differs], right[differs], similarity[differs])
        self.component = connected_groups(self.component, left, right)


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
