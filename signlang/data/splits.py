"""Cross-validation splits: train, validation and test subsets of every fold.

A fold is a test set. Folds depend on the sorted paths, the labels, the groups and the seed, and on
nothing else, so that any two networks can be compared image by image.

Nothing here needs torch, so that a command can refuse or skip a run before torch is imported.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.arrays import Flags, Ints
from signlang.components import TARGET, build
from signlang.console import log
from signlang.data.collection import read_data_set
from signlang.data.index import Index, Subsets, film_blocks
from signlang.data.patterns import several
from signlang.data.sources import JoinedRoot
from signlang.errors import DataError, SettingError, SignlangError, suggestion


class Split:
    """Base of all splits: which images must not be separated, and which fold tests which image.

    The contract: the class that `split._target_` names derives from this one and is called with
    its own arguments of the node (all but `name`, `validation` and `seed`). It overrides `groups`,
    which gets the index (paths, labels, classes, signers) and returns one group per image: (N,)
    integers or strings, e.g. the day of each image; images of one group stay in one fold, and the
    folds get nearly equal shares of every class. Or it overrides `folds`, which gets the index, the
    number k of folds and the seed, and returns one fold per image: (N,) integers from 0 to k - 1,
    such that each fold holds an image of every class. Or it overrides `given`, which gets the index
    and returns the subset of each image, (N,) words `train`, `validation`, `test` or empty: the one
    fold that there is (`split.folds: 1`). It may also override `left_out`, which gets
    the index and which images are tested, (N,) booleans, and returns which of the others are too
    near to these to be learned from, (N,) booleans. All depend on what they get and on nothing
    else: the same call must return the same on every machine. The validation subset is cut out of
    the training folds by the groups. Checked before training, with an error that says what is
    wrong.

    Attributes:
        needs_all_classes: Whether each fold must hold images of every class.
    """

    needs_all_classes = True

    def groups(self, index: Index) -> Any:
        """(N,) the group of each image; None where every image stands alone."""
        return None

    def folds(self, index: Index, count: int, seed: int) -> Any:
        """(N,) the fold in which each image is tested."""
        return assign_folds(index.labels, group_ids(self, index), count, seed, index.classes)

    def given(self, index: Index) -> Any:
        """(N,) the subset of each image, where there is one fold; None where there are more."""
        return None

    def left_out(self, index: Index, test: Flags) -> Any:
        """(N,) whether an image is neither trained nor validated on; None leaves out none."""
        return None


class Stratified(Split):
    """Folds at random with equal shares of every class; nothing is kept together."""


class BySigner(Split):
    """Nobody is in two folds."""

    def groups(self, index: Index) -> Ints:
        """(N,) the signer of each image.

        Raises:
            DataError: If the signers are not all known.
        """
        if index.signers is None:
            raise DataError(
                f"split=signer: it is not known who is in the images of {index.root}. Give a CSV "
                "file path,signer as data.signers=FILE (or signers.csv beside the class folders), "
                "name {signer} in data.pattern, or use split=stratified."
            )
        unknown = [row for row, signer in enumerate(index.signers) if not signer]
        if unknown:
            sets = several(sorted({index.sets[row] for row in unknown})) if index.sets else ""
            hint = " (of a set with one person: data.sets={SET: {signer: NAME}})" * bool(sets)
            raise DataError(
                f"split=signer: the signer of {len(unknown)} of {len(index)} images of "
                f"{sets or index.root} is unknown. Name them all{hint}, or use split=stratified."
            )
        return np.unique(np.array(index.signers), return_inverse=True)[1].astype(np.int64)


class ByGroup(Split):
    """Images of one group, augmented copies of one image and equal files stay in one fold."""

    def groups(self, index: Index) -> Ints:
        """(N,) the group of each image; what is in none stands alone.

        Raises:
            DataError: If every image stands alone.
        """
        if len(np.unique(index.related)) == len(index):
            raise DataError(
                f"split=group: no groups are known of {index.root}, and no image is a copy of "
                "another. Give a column group in a CSV file, {group} in data.pattern, or a CSV "
                "file path,group as data.groups=FILE (signlang.describe writes one of near "
                "duplicates); or use split=stratified."
            )
        return index.related


class Given(Split):
    """The subsets that the data set brings: one fold, for a comparison with published figures."""

    def given(self, index: Index) -> npt.NDArray[np.str_]:
        """(N,) the subset of each image.

        Raises:
            DataError: If the data set brings none, or calls one by another name.
        """
        if index.given is None:
            raise DataError(
                f"split=given: {index.root} brings no subsets. They are folders train, valid and "
                "test above the class folders, a column subset in a CSV file, or {subset} in "
                "data.pattern."
            )
        unknown = sorted(set(index.given) - SUBSETS - UNUSED)
        if unknown:
            raise DataError(
                f"split=given: the subsets of {index.root} are {', '.join(unknown)}; they must be "
                "train, validation and test."
            )
        return np.array(["" if name in UNUSED else name for name in index.given])


class ByDataSet(Split):
    """Leave one data set out: fold i tests set i of a joined data set, trained on the others.

    A class that only the tested set has cannot be learned: its images are left out of the test.

    Args:
        trained: Names of the sets that may be trained and validated on; None: all.
    """

    needs_all_classes = False

    def __init__(self, trained: Sequence[str] | None = None) -> None:
        self.trained = trained

    def groups(self, index: Index) -> Any:
        """(N,) the signer of each image if all are known, else what belongs together.

        They matter for the validation subset, which is cut out of the other sets.
        """
        if index.signers is not None and all(index.signers):
            return np.unique(np.array(index.signers), return_inverse=True)[1].astype(np.int64)
        return index.related

    def folds(self, index: Index, count: int, seed: int) -> Any:
        """(N,) the number of its set, in their order.

        Raises:
            DataError: If there are no sets, or another number of folds.
        """
        if not isinstance(index.root, JoinedRoot) or index.sets is None:
            raise DataError("split=dataset needs data=joined data.sets=[SET,SET...].")
        names = [name for name, _ in index.root.roots]
        if count != len(names):
            raise DataError(f"split=dataset: there are {len(names)} sets, so folds={len(names)}.")
        return np.array([names.index(name) for name in index.sets], dtype=np.int64)

    def left_out(self, index: Index, test: Flags) -> Flags | None:
        """(N,) whether an image is of a set that is not trained on.

        Raises:
            SettingError: If there is no such set, or none but the tested one.
        """
        if self.trained is None or index.sets is None:
            return None
        sets = sorted(set(index.sets))
        unknown = next((name for name in self.trained if name not in sets), None)
        if unknown is not None:
            raise SettingError(
                f"split.trained: {unknown} is none of data.sets. {suggestion(unknown, sets)}"
            )
        kept = np.isin(index.sets, self.trained)
        if not (kept & ~test).any():
            raise SettingError(
                f"split.trained: {several(sorted(set(self.trained)))} is the set that is tested: "
                "choose another fold."
            )
        return ~kept


class ByBlocks(Split):
    """Neighbouring frames stay together: the film of each class is cut into runs of frames.

    The frames of a class are ordered by the last number in the file name.

    Args:
        blocks: Into how many runs, at least 2.
        gap: How many frames on either side of a tested one are left out of training and validation;
            with 0, the frames at the ends of a tested run have neighbours that were trained on.
    """

    def __init__(self, blocks: int = 10, gap: int = 0) -> None:
        self.blocks, self.gap = blocks, gap

    def groups(self, index: Index) -> Ints:
        """(N,) the block of each image.

        Raises:
            DataError: If a file name has no number.
        """
        return film_blocks(index.films, self.blocks)

    def left_out(self, index: Index, test: Flags) -> Flags | None:
        """(N,) whether a frame is at most `gap` frames of its class from a tested one."""
        if not self.gap:
            return None
        near = np.zeros(len(index), dtype=np.bool_)
        for film in index.films:
            before = np.concatenate([[0], np.cumsum(test[film])])  # tested frames before each
            first, end = np.arange(len(film)) - self.gap, np.arange(len(film)) + self.gap + 1
            near[film] = before[end.clip(max=len(film))] > before[first.clip(min=0)]
        return near


SPLIT_SETTINGS: Final = {"name", "validation", "seed", "folds"}  # of the node, not of the class
SUBSETS: Final = {"train", "validation", "test"}
UNUSED: Final = {"", "unused"}


def build_split(node: Mapping[str, Any]) -> Split:
    """Build the split that a node of the configuration names.

    Args:
        node: The group `split` of the configuration, resolved.

    Raises:
        SettingError: If it is no `Split`, or refuses its arguments.
    """
    arguments = {key: value for key, value in node.items() if key not in SPLIT_SETTINGS}
    split = build(arguments, {}, key="split")
    if not isinstance(split, Split):
        raise SettingError(
            f"split: {node[TARGET]} returns {type(split).__name__}; it must be a class that "
            "derives from signlang.data.splits.Split."
        )
    return split


def split_name(node: Mapping[str, Any]) -> str:
    """Name a split in tables: by its group, or by its own class.

    >>> split_name({"name": "stratified", "_target_": "my_splits.ByDay"})
    'ByDay'
    """
    module, _, name = str(node[TARGET]).rpartition(".")
    return str(node["name"]) if module == __name__ else name


def group_ids(split: Split, index: Index) -> Ints | None:
    """Number the groups of images that must not be separated.

    Returns:
        (N,) group numbers, or None where every image stands alone.

    Raises:
        DataError: If the signers or the frame numbers are unknown.
        SettingError: If a split of the user's own breaks the contract.
    """
    groups = _call_split(split.groups, index)
    if groups is None:
        return None
    return np.unique(_per_image(groups, split, "groups", index), return_inverse=True)[1].astype(
        np.int64
    )


def fold_numbers(split: Split, index: Index, folds: int, seed: int) -> Ints:
    """Assign every image to the fold in which it is tested.

    Returns:
        (N,) fold numbers from 0 to folds - 1; of given subsets 0 for test images, 1 for the others.

    Raises:
        DataError: If some fold would lack a class.
        SettingError: If a split of the user's own breaks the contract.
    """
    names = given_subsets(split, index)
    if names is not None and folds != 1:
        raise SettingError(
            f"split: {type(split).__name__}.given returns the subsets of one fold, but "
            f"folds={folds}: add +split.folds=1."
        )
    if names is not None:
        return np.where(names == "test", 0, 1).astype(np.int64)
    numbers = _per_image(_call_split(split.folds, index, folds, seed), split, "folds", index)
    name = type(split).__name__
    if numbers.dtype.kind not in "iu":
        raise SettingError(
            f"split: {name}.folds must return integers, the fold of each image; it returns "
            f"{numbers.dtype}."
        )
    unknown = np.setdiff1d(numbers, np.arange(folds))
    if len(unknown):
        raise SettingError(
            f"split: {name}.folds returns fold {unknown[0]}; with folds={folds} they are 0 to "
            f"{folds - 1}."
        )
    for number in range(folds):
        absent = np.setdiff1d(np.arange(len(index.classes)), index.labels[numbers == number])
        if len(absent) == len(index.classes):
            raise SettingError(
                f"split: {name}.folds leaves fold {number} empty: use fewer than folds={folds}."
            )
        if len(absent) and split.needs_all_classes:
            raise DataError(
                f"split: {name}.folds leaves fold {number} without an image of "
                f"{', '.join(index.classes[c] for c in absent)}: every fold needs all classes."
            )
    return numbers.astype(np.int64)


def given_subsets(split: Split, index: Index) -> npt.NDArray[np.str_] | None:
    """The subset of each image, where a split has one fold only.

    Returns:
        (N,) train, validation, test or empty; None where there are folds.

    Raises:
        DataError: If training or test images of a class are missing.
        SettingError: If a split of the user's own breaks the contract.
    """
    values = _call_split(split.given, index)
    if values is None:
        return None
    names = _per_image(values, split, "given", index).astype(str)
    for subset in ("train", "validation", "test"):
        if subset == "validation" and subset not in names:
            continue  # cut out of the training subset
        absent = np.setdiff1d(np.arange(len(index.classes)), index.labels[names == subset])
        if len(absent):
            raise DataError(
                f"The {subset} subset of {index.root} has no image of "
                f"{several(index.classes[c] for c in absent)}: it needs all classes. Add images, "
                "or use split=stratified, which divides all images anew."
            )
    return names


def left_out(split: Split, index: Index, numbers: Ints, fold: int) -> Flags:
    """Find the images that are too near to those of a fold to be learned from.

    Args:
        split: Says which.
        index: The images.
        numbers: (N,) the fold of each image.
        fold: The test fold.

    Returns:
        (N,) True for these; what it is for images of the test fold does not matter.

    Raises:
        DataError: If no image of a class would be left.
        SettingError: If a split of the user's own breaks the contract.
    """
    test = numbers == fold
    values = _call_split(split.left_out, index, test)
    if values is None:
        return np.zeros(len(index), dtype=np.bool_)
    name = type(split).__name__
    is_left_out = _per_image(values, split, "left_out", index)
    if is_left_out.dtype != np.bool_:
        raise SettingError(
            f"split: {name}.left_out must return booleans; it returns {is_left_out.dtype}."
        )
    absent = np.setdiff1d(np.arange(len(index.classes)), index.labels[~test & ~is_left_out])
    if len(absent) and split.needs_all_classes:
        setting = (
            f"split.gap={split.gap}" if isinstance(split, ByBlocks) else f"split: {name}.left_out"
        )
        raise DataError(
            f"{setting} leaves no training image of {', '.join(index.classes[c] for c in absent)} "
            f"when fold {fold} is tested: leave fewer images out, e.g. by a smaller split.gap."
        )
    return is_left_out


def _call_split(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method of a split, which may be the user's own."""
    try:
        return method(*arguments)
    except SignlangError:
        raise
    except Exception as error:
        raise SettingError(
            f"split: {method.__qualname__} fails: {type(error).__name__}: {error}"
        ) from error


def _per_image(values: Any, split: Split, method: str, index: Index) -> npt.NDArray[Any]:
    """One value per image, as an array."""
    array = np.asarray(values)
    if array.shape != (len(index),):
        raise SettingError(
            f"split: {type(split).__name__}.{method} must return one value per image, an array of "
            f"shape ({len(index)},); it returns {array.shape}."
        )
    return array


def assign_folds(
    labels: Ints, groups: Ints | None, folds: int, seed: int, classes: tuple[str, ...]
) -> Ints:
    """Assign images to folds of nearly equal size and nearly equal shares of every class.

    Args:
        labels: (N,) labels.
        groups: (N,) group numbers, or None.
        folds: How many, at least 2.
        seed: Equal seeds give equal folds on every machine.
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
        fewer = f"Use folds={counts.min()}, or add" if counts.min() > 1 else "Add"
        raise DataError(
            f"{folds} folds need {folds} images of every class, but there are fewer of "
            f"{', '.join(scarce)}. {fewer} images of "
            f"{'them, or leave their folders out' if len(scarce) > 1 else 'it, or leave it out'}."
        )
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    if groups is not None and len(np.unique(groups)) < folds:
        raise DataError(
            f"{folds} folds need as many groups, but there are {len(np.unique(groups))} "
            "(signers, or blocks of a film). Use fewer folds or another split."
        )
    numbers = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rare classes, checked below
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
    split: Split,
    *,
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    validation: float | str = 0.1,
) -> Subsets:
    """Divide the images for one fold.

    Args:
        index: The images.
        split: Which images must not be separated.
        folds: Number of folds.
        fold: Which of them is the test set, from 0.
        seed: Of the assignment.
        validation: Share of the training folds that is set aside, grouped like the folds, rounded
            to one part in a whole number; or `fold`: the test fold itself, the optimistic protocol
            of some published tables.

    Raises:
        DataError: If a subset would lack a class.
        SettingError: If a split of the user's own breaks the contract.
    """
    names = given_subsets(split, index)
    groups = group_ids(split, index)
    numbers = fold_numbers(split, index, folds, seed)
    test = np.flatnonzero(numbers == fold)
    rest = np.flatnonzero((numbers != fold) & ~left_out(split, index, numbers, fold))
    if names is not None:
        test, rest = np.flatnonzero(names == "test"), np.flatnonzero(names == "train")
        if "validation" in names and validation != "fold":
            return Subsets(train=rest, validation=np.flatnonzero(names == "validation"), test=test)
    if not split.needs_all_classes:
        test = _of_trained_classes(index, test, rest)
    if validation == "fold":
        return Subsets(train=rest, validation=test, test=test)
    present, rest_labels = np.unique(index.labels[rest], return_inverse=True)
    rest_groups = None if groups is None else groups[rest]
    fold_count = _validation_fold_count(index.labels[rest], rest_groups, float(validation))
    rest_classes = tuple(index.classes[label] for label in present)
    try:
        is_validation = (
            assign_folds(rest_labels.astype(np.int64), rest_groups, fold_count, seed, rest_classes)
            == 0
        )
    except DataError as error:
        raise DataError(
            f"No validation subset can be cut out of the training folds. {error} "
            "Or select the checkpoint by the test fold: split.validation=fold."
        ) from None
    return Subsets(train=rest[~is_validation], validation=rest[is_validation], test=test)


def _of_trained_classes(index: Index, test: Ints, rest: Ints) -> Ints:
    """The test images of classes that the others have as well.

    Raises:
        DataError: If there are none.
    """
    known = np.isin(index.labels[test], index.labels[rest])
    if not known.any():
        raise DataError("No class of this test set is in the other sets: there is nothing to test.")
    if not known.all():
        names = [index.classes[label] for label in np.unique(index.labels[test[~known]])]
        log.warning(
            "%d of %d test images are left out: only their own set has %s, which the network "
            "cannot have learned",
            int((~known).sum()), len(test), several(names),
        )  # fmt: skip
    return test[known]


def _validation_fold_count(labels: Ints, groups: Ints | None, share: float) -> int:
    """Hold out one image in how many? As near to the share as the groups of every class allow."""
    wanted = max(2, round(1 / share))
    units = labels if groups is None else np.unique(np.stack([labels, groups]), axis=1)[0]
    return int(max(2, min(wanted, np.bincount(units)[np.unique(labels)].min())))


class Fold:
    """One fold of a data set, before any pixel is decoded.

    Args:
        data: The group `data` of the configuration, resolved.
        split: Its group `split`, resolved.
        folds: Number of folds.
        fold: Which of them is the test set.
        batch_size: Images of a training step, which the training subset must reach.
        cache_dir: Folder for generated files.
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
        return read_data_set(self.data, self.cache_dir)

    @cached_property
    def subsets(self) -> Subsets:
        """Which images are for what."""
        split = build_split(self.split)  # a mistake in it shows before images are read
        subsets = split_subsets(
            self.index,
            split,
            folds=self.folds,
            fold=self.fold,
            seed=self.split["seed"],
            validation=self.split["validation"],
        )
        if self.batch_size > len(subsets.train):
            raise DataError(
                f"batch_size={self.batch_size} is more than the {len(subsets.train)} training "
                f"images of a fold: use at most batch_size={len(subsets.train)}."
            )
        _warn_of_copies(self.index, subsets)
        return subsets


def _warn_of_copies(index: Index, subsets: Subsets) -> None:
    """Tell of test images that have a copy among the training images."""
    trained = {int(index.copied[row]): row for row in subsets.train[::-1].tolist()}
    leaks = [row for row in subsets.test.tolist() if int(index.copied[row]) in trained]
    if leaks:
        example = index.paths[trained[int(index.copied[leaks[0]])]]
        log.warning(
            "%d of %d test images have a copy among the training images (an equal file, or an "
            "augmented copy by its name), e.g. %s of %s: the test accuracy is too high. "
            "split=group keeps copies in one fold.",
            len(leaks), len(subsets.test), index.paths[leaks[0]], example,
        )  # fmt: skip
