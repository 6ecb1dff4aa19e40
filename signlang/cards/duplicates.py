"""What a search for duplicates found: how many pairs, whose partner is who, and the groups."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """How many pairs of pictures are duplicates; across folds None where there are no folds."""

    total: int
    across_classes: int
    across_folds: int | None


class Partners:
    """The most similar duplicate of every picture among those that a condition admits.

    Attributes:
        row: (N,) the partner, -1 where there is none.
        similarity: (N,) from `near` to 1; exact duplicates have 1.
    """

    def __init__(self, count: int) -> None:
        self.row = np.full(count, -1, dtype=np.int64)
        self.similarity = np.zeros(count, dtype=np.float32)

    def update(self, left: Ints, right: Ints, similarity: Floats) -> None:
        """Take pairs, sorted by similarity, in both directions."""
        for one, other in ((left, right), (right, left)):
            better = similarity > self.similarity[one]
            self.row[one[better]] = other[better]  # of repeated rows the last and best one stays
            self.similarity[one[better]] = similarity[better]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """(N,) whether there is one."""
        return self.row >= 0


@dataclass(frozen=True, eq=False)
class Duplicates:
    """What was found.

    Attributes:
        exact: Pairs of equal files.
        near: Pairs of different files with nearly the same picture.
        group: (N,) number of the connected group, from 0 in order of the rows; -1 for single ones.
        nearest: The most similar other picture.
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

    def shown_first(self) -> list[Ints]:
        """Rows of each group; groups and rows across classes first, then across folds, then long.

        A film is one long group: the first rows of it are those that need a look.
        """
        order = np.argsort(self.group, kind="stable")[(self.group < 0).sum() :]
        starts = np.flatnonzero(np.diff(self.group[order])) + 1
        groups = np.split(order, starts) if len(order) else []
        urgency = np.where(self.other_class.found, 2, np.where(self.other_fold.found, 1, 0))
        groups.sort(key=lambda rows: (-int(urgency[rows].max()), -len(rows), int(rows[0])))
        return [self._ordered(rows, urgency) for rows in groups]

    def _ordered(self, rows: Ints, urgency: Ints) -> Ints:
        """Put the most urgent row first and its partner beside it."""
        rows = rows[np.argsort(-urgency[rows], kind="stable")]
        first = int(rows[0])
        partners = (self.nearest, self.other_fold, self.other_class)[int(urgency[first])]
        pair = [first, int(partners.row[first])]
        return np.array([*pair, *(row for row in rows.tolist() if row not in pair)])
