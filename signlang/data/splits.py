"""Cross-validation splits: train, validation and test subsets of every fold.

A fold is a test set. Folds depend on the sorted paths, the labels, the groups and the seed, and on
nothing else, so that any two networks can be compared image by image.

Nothing here needs torch, so that a command can refuse or skip a run before torch is imported.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.arrays import Ints
from signlang.data.index import Index, read_index
from signlang.errors import DataError, SettingError, suggestion


@dataclass(frozen=True, eq=False)
class Subsets:
    """Rows of the index, sorted, for one fold.

    Attributes:
        train: What the network learns from.
        validation: What early stopping and the choice of the checkpoint look at.
        test: What is looked at once, at the end.
    """

    train: Ints
    validation: Ints
    test: Ints

    def names(self, count: int) -> npt.NDArray[np.str_]:
        """(count,) `train`, `validation`, `test`, or `validation+test` where those are the same."""
        names = np.full(count, "", dtype="<U15")
        names[self.train] = "train"
        names[self.validation] = "validation"
        names[self.test] = np.where(names[self.test] == "", "test", "validation+test")
        return names


def group_ids(index: Index, split: str, blocks: int = 10) -> Ints | None:
    """Number the groups of images that must not be torn apart.

    Args:
        index: The images.
        split: `stratified` (no groups), `signer`, or `blocks`: the film of each class, ordered by
            the last number in the file name, is cut into runs of neighbouring frames.
        blocks: Into how many runs.

    Returns:
        (N,) group numbers, or None where every image stands alone.

    Raises:
        DataError: If the signers or the frame numbers are unknown.
        SettingError: If there is no such split.
    """
    try:
        grouping = _GROUPINGS[split]
    except KeyError:
        raise SettingError(f"split={split}: {suggestion(split, _GROUPINGS)}") from None
    return grouping(index, blocks)


def assign_folds(
    labels: Ints, groups: Ints | None, folds: int, seed: int, classes: tuple[str, ...]
) -> Ints:
    """Deal images into folds of nearly equal size and nearly equal shares of every class.

    Args:
        labels: (N,) labels.
        groups: (N,) group numbers, or None.
        folds: How many, at least 2.
        seed: Equal seeds deal equally on every machine.
        classes: Names for error messages.

    Returns:
        (N,) the fold in which each image is tested.

    Raises:
        DataError: If some fold would lack a class, or some class has fewer images than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts = np.bincount(labels, minlength=len(classes))
    scarce = [f"{classes[c]} ({counts[c]})" for c in np.flatnonzero(counts < folds)]
    if scarce:
        raise DataError(
            f"{folds} folds need {folds} images of every class, but there are fewer of "
            f"{', '.join(scarce)}. Use folds={max(2, int(counts.min()))} or add images."
        )
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    if groups is not None and len(np.unique(groups)) < folds:
        raise DataError(
            f"{folds} folds need as many groups, but there are {len(np.unique(groups))} "
            "(signers, or blocks of a film). Use fewer folds or another split."
        )
    numbers = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rare classes, judged below
        splitter = kind(n_splits=folds, shuffle=True, random_state=seed)
        for number, (_, test) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            numbers[test] = number
    for number in range(folds):
        absent = np.setdiff1d(np.arange(len(classes)), labels[numbers == number])
        if len(absent):
            raise DataError(
                f"With {folds} folds by groups, fold {number} has no image of "
                f"{', '.join(classes[c] for c in absent)}: its groups cannot be spread so widely. "
                f"Use fewer folds (folds={folds - 1}), another seed, or another split."
                if folds > 2 else
                f"Fold {number} has no image of {', '.join(classes[c] for c in absent)}, even "
                "with 2 folds: use split=stratified, or add images of these by other people."
            )  # fmt: skip
    return numbers


def split_subsets(
    index: Index,
    *,
    split: str = "stratified",
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    validation: float | str = 0.1,
    blocks: int = 10,
) -> Subsets:
    """Divide the images for one fold.

    Args:
        index: The images.
        split: See `group_ids`.
        folds: Number of folds.
        fold: Which of them is the test set, from 0.
        seed: Of the dealing.
        validation: Share of the training folds that is set aside, grouped like the folds, rounded
            to one part in a whole number; or `fold`: the test fold itself, the optimistic protocol
            of some published tables.
        blocks: See `group_ids`.

    Raises:
        DataError: If a part would lack a class.
    """
    groups = group_ids(index, split, blocks)
    numbers = assign_folds(index.labels, groups, folds, seed, index.classes)
    test, rest = np.flatnonzero(numbers == fold), np.flatnonzero(numbers != fold)
    if validation == "fold":
        return Subsets(train=rest, validation=test, test=test)
    inner = None if groups is None else groups[rest]
    count = _validation_subsets(index.labels[rest], inner, float(validation))
    try:
        held = assign_folds(index.labels[rest], inner, count, seed, index.classes) == 0
    except DataError as error:
        raise DataError(
            f"No validation part can be cut out of the training folds. {error} "
            "Or let the test fold choose the checkpoint, and say so: split.validation=fold."
        ) from None
    return Subsets(train=rest[~held], validation=rest[held], test=test)


def _validation_subsets(labels: Ints, groups: Ints | None, share: float) -> int:
    """Set one part in how many aside? As near to the share as the groups of every class allow."""
    wanted = max(2, round(1 / share))
    units = labels if groups is None else np.unique(np.stack([labels, groups]), axis=1)[0]
    return int(max(2, min(wanted, np.bincount(units)[np.unique(labels)].min())))


def frame_number(path: str) -> int | None:
    """The last number in the name of a file, which orders the frames of a film; None without one.

    >>> frame_number("A2/take3_A1005.jpg"), frame_number("A2/hand.jpg")
    (1005, None)
    """
    numbers = re.findall(r"\d+", PurePosixPath(path).stem)
    return int(numbers[-1]) if numbers else None


def _no_groups(index: Index, blocks: int) -> None:
    return None


def _signers(index: Index, blocks: int) -> Ints:
    if index.signers is None:
        raise DataError(
            f"split=signer: it is not known who is in the images of {index.root}. Give a CSV "
            "file path,signer as data.signers=FILE (or signers.csv beside the class folders), or "
            "use split=stratified."
        )
    unknown = sum(not signer for signer in index.signers)
    if unknown:
        raise DataError(
            f"split=signer: the signer of {unknown} of {len(index)} images of {index.root} is "
            "unknown. Name them all, or use split=stratified."
        )
    return np.unique(np.array(index.signers), return_inverse=True)[1].astype(np.int64)


def _blocks(index: Index, blocks: int) -> Ints:
    frames = [frame_number(path) for path in index.paths]
    unnumbered = [path for path, found in zip(index.paths, frames, strict=True) if found is None]
    if unnumbered:
        raise DataError(
            f"split=blocks needs a frame number in every file name; {unnumbered[0]} and "
            f"{len(unnumbered) - 1} others of {index.root} have none. Use split=stratified."
        )
    numbers = np.array(frames, dtype=object)
    groups = np.empty(len(index), dtype=np.int64)
    for label in range(len(index.classes)):
        rows = np.flatnonzero(index.labels == label)
        ordered = rows[np.argsort(numbers[rows], kind="stable")]
        groups[ordered] = label * blocks + np.arange(len(rows)) * blocks // len(rows)
    return groups


_GROUPINGS: Final[dict[str, Callable[[Index, int], Ints | None]]] = {
    "stratified": _no_groups,
    "signer": _signers,
    "blocks": _blocks,
}


class Fold:
    """One fold of a data set, before any pixel is decoded.

    Args:
        data: The group `data` of the configuration; `source` is a function, see `data.sources`.
        split: The group `split`.
        folds: Number of folds.
        fold: Which of them is the test set.
        batch_size: Images of a training step, which the training part must reach.
        cache_dir: Folder for what can be made again.
    """

    def __init__(
        self,
        *,
        data: Mapping[str, Any],
        split: Mapping[str, Any],
        folds: int,
        fold: int,
        batch_size: int,
        cache_dir: str,
    ) -> None:
        self.data, self.split, self.cache_dir = data, split, cache_dir
        self.folds, self.fold, self.batch_size = folds, fold, batch_size

    @cached_property
    def index(self) -> Index:
        """All images; reads and checks them."""
        root = self.data["source"](self.data["root"], self.cache_dir)
        return read_index(
            Path(root),
            cache_dir=self.cache_dir,
            signers=self.data["signers"],
            on_bad_image=self.data["on_bad_image"],
        )

    @cached_property
    def parts(self) -> Subsets:
        """Which images are for what."""
        parts = split_subsets(
            self.index,
            split=self.split["name"],
            folds=self.folds,
            fold=self.fold,
            seed=self.split["seed"],
            validation=self.split["validation"],
            blocks=self.split.get("blocks", 1),
        )
        if self.batch_size > len(parts.train):
            raise DataError(
                f"batch_size={self.batch_size} is more than the {len(parts.train)} training "
                f"images of a fold: use at most batch_size={len(parts.train)}."
            )
        return parts
