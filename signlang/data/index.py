"""The image index: checked files with labels, signers and a fingerprint.

All later modules refer to images by their row in the index.
"""

import hashlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from signlang import files
from signlang.arrays import Ints, connected
from signlang.console import log
from signlang.data.boxes import MARGIN, BadBoxError, Crop
from signlang.data.file_check import inspect_files
from signlang.data.image_folder import ImageEntry, list_entries, read_groups, read_signers
from signlang.data.image_io import ImageFacts, Thumbnails
from signlang.data.patterns import several, sources_of_copies
from signlang.errors import DataError, SettingError, listing
from signlang.files import (
    CROP,
    GROUP,
    IMAGE_COLUMNS,
    SET,
    write_csv,
    write_json,
)

if TYPE_CHECKING:  # it can draw images
    from signlang.data.sources import Root


def frame_number(path: str) -> int | None:
    """The last number in the name of a file, which orders the frames of a film; None without one.

    >>> frame_number("A2/take3_A1005.jpg"), frame_number("A2/hand.jpg")
    (1005, None)
    """
    numbers = re.findall(r"\d+", PurePosixPath(path).stem)
    return int(numbers[-1]) if numbers else None


def films(frames: Sequence[int], labels: Ints) -> list[Ints]:
    """Rows of each class in the order of their frames.

    Args:
        frames: (N,) frame numbers.
        labels: (N,) labels from 0.

    >>> [rows.tolist() for rows in films([5, 1, 9, 2], np.array([0, 0, 0, 1]))]
    [[1, 0, 2], [3]]
    """
    numbers = np.array(frames, dtype=object)  # which may exceed 64 bits
    classes = (np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1))
    return [rows[np.argsort(numbers[rows], kind="stable")] for rows in classes]


def film_blocks(ordered: Sequence[Ints], blocks: int) -> Ints:
    """Cut the film of each class into runs of neighbouring frames, nearly equal in length.

    Args:
        ordered: Rows of each class in the order of their frames, N in all.
        blocks: How many runs of each class; a class with fewer images has one image in each.

    Returns:
        (N,) number of the block of each image: label * blocks + its place in the film.

    >>> film_blocks([np.array([1, 0, 3, 2]), np.array([4, 5])], blocks=2).tolist()
    [0, 0, 1, 1, 2, 3]
    """
    groups = np.empty(sum(map(len, ordered)), dtype=np.int64)
    for label, rows in enumerate(ordered):
        groups[rows] = label * blocks + np.arange(len(rows)) * blocks // len(rows)
    return groups


FEWEST_CLUSTERS: Final = 3
BLOCKS: Final = 10  # of a class as clusters, as many as `split=blocks` has by default


@dataclass(frozen=True, eq=False)
class Clusters:
    """Images that are alike: a statistic must not take them for independent.

    Attributes:
        kind: What a cluster is: `signer`, `group` (that the data set names), `source` (of augmented
            copies), `block` (of film), `image` where each stands alone, or `mixed`: joined data
            sets have several kinds.
        names: (n,) cluster of each image.
    """

    kind: str
    names: npt.NDArray[np.str_]

    def __getitem__(self, rows: Any) -> "Clusters":
        """The clusters of some of the images."""
        return Clusters(self.kind, self.names[rows])

    @classmethod
    def concatenate(cls, clusters: Sequence["Clusters"]) -> "Clusters":
        """The clusters of several subsets of one data set."""
        return cls(clusters[0].kind, np.concatenate([one.names for one in clusters]))

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return len(np.unique(self.names))

    @property
    def is_enough(self) -> bool:
        """Whether there are enough of them for an interval: one or two do not show a spread."""
        return self.are_images or self.count >= FEWEST_CLUSTERS

    @property
    def are_images(self) -> bool:
        """Whether each image stands alone."""
        return self.count == len(self.names)

    def __str__(self) -> str:
        """Their number in words.

        >>> print(Clusters("block", np.array(["A/0", "A/0", "A/1"])))
        2 blocks of film
        """
        words = {"source": "source image", "image": "independent image", "mixed": "cluster"}
        kind = words.get(self.kind, self.kind)
        film = " of film" if self.kind == "block" else ""
        return f"{self.count:,} {kind}{'s' * (self.count != 1)}{film}"


def image_clusters(
    paths: Sequence[str],
    labels: Sequence[str],
    signers: Sequence[str] | None,
    groups: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
) -> Clusters:
    """Find out which images of a data set are alike.

    Those of one signer, if all are known and there are two or more. Otherwise those of one group,
    if any are given, and augmented copies of one image, if names of files tell of any. Otherwise
    neighbouring frames: the images of each class in the order of their frame numbers are cut into
    `BLOCKS` runs, if every file name holds a number. Otherwise nothing is known, and each image
    stands alone. Of joined data sets each is looked at by itself.

    Args:
        paths: (N,) all images of the data set.
        labels: (N,) names of their classes.
        signers: (N,) empty where unknown; or None.
        groups: (N,) empty for an image that stands alone; or None.
        sets: (N,) the data set of each image, if there are several; or None.

    >>> image_clusters(["1.jpg", "2.jpg"], ["A", "A"], ["mary", "paul"]).names.tolist()
    ['mary', 'paul']
    >>> image_clusters(["a.jpg", "b.jpg"], ["A", "A"], ["mary", "mary"]).kind
    'image'
    >>> image_clusters(["a.jpg", "b.jpg", "c.jpg"], ["A"] * 3, None, ["g", "g", ""]).names.tolist()
    ['g', 'g', 'c.jpg']
    """
    if sets is not None and len(set(sets)) > 1:
        return _clusters_of_sets(paths, labels, signers, groups, sets)
    if signers is not None and all(signers) and len(set(signers)) > 1:
        return Clusters("signer", np.array(signers))
    sources = sources_of_copies(paths, labels)
    if groups is not None and any(groups):
        numbers = connected([[name or None for name in groups], sources])
        name_of: dict[int, str] = {}
        rows = zip(numbers.tolist(), groups, paths, strict=True)
        names_by_row = [name_of.setdefault(number, group or path) for number, group, path in rows]
        return Clusters("group", np.array(names_by_row))
    if any(sources):
        return Clusters("source", np.array([s or p for s, p in zip(sources, paths, strict=True)]))
    frames = [frame_number(path) for path in paths]
    if None in frames:
        return Clusters("image", np.array(paths))
    classes, numbers = np.unique(np.array(labels), return_inverse=True)
    ordered = films([frame or 0 for frame in frames], numbers.astype(np.int64))
    blocks = film_blocks(ordered, BLOCKS)
    names = [f"{classes[block // BLOCKS]}/{block % BLOCKS}" for block in blocks.tolist()]
    if len(set(names)) == len(names):
        return Clusters("image", np.array(paths))
    return Clusters("block", np.array(names))


def _clusters_of_sets(
    paths: Sequence[str], labels: Sequence[str], signers: Sequence[str] | None,
    groups: Sequence[str] | None, sets: Sequence[str],
) -> Clusters:  # fmt: skip
    """The clusters of each of several data sets, by names that no two of them share."""
    names = np.array(paths, dtype=object)
    kinds = set()
    for set_name in sorted(set(sets)):
        rows = [row for row, name in enumerate(sets) if name == set_name]
        columns = (
            None if values is None else [values[row] for row in rows]
            for values in (paths, labels, signers, groups)
        )
        clusters = image_clusters(*columns)  # type: ignore[arg-type]
        kinds.add(clusters.kind)
        for row, name in zip(rows, clusters.names.tolist(), strict=True):
            names[row] = f"{set_name}: {name}"
    return Clusters(kinds.pop() if len(kinds) == 1 else "mixed", names.astype(str))


ON_BAD_IMAGE: Final = ("error", "exclude")


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Path and reason in one line."""
        return f"{self.path}: {self.reason}"


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
        """(count,) `train`, `validation`, `test`, `validation+test` where it is both, `unused`."""
        names = np.full(count, "unused", dtype="<U15")
        names[self.train] = "train"
        names[self.validation] = "validation"
        both = names[self.test] == "validation"
        names[self.test] = np.where(both, "validation+test", "test")
        return names


@dataclass(frozen=True, eq=False)
class Index:
    """All usable images of a data set, sorted by path.

    Attributes:
        root: Folder that the paths are relative to.
        classes: Names of the classes, sorted by code point; a label is a position in them.
        paths: One per image, POSIX.
        labels: (N,) positions in `classes`.
        signers: Signer of each image, or None if unknown.
        facts: Digest, size and kind of each file.
        excluded: Unusable files, left out by `on_bad_image=exclude`.
        groups: Group of each image, empty for one that stands alone; None if none is known.
        given: Subset of each image that the data set brings (train, validation, test, or another
            word), or None if it brings none.
        crops: The part of each image that is used, None for a whole one; None if all are whole.
        sets: The data set that each image comes from, with whose name its path starts; None if
            the data set is not joined of several.
    """

    root: "Root"
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Ints
    signers: tuple[str, ...] | None
    facts: tuple[ImageFacts, ...]
    excluded: tuple[BadFile, ...] = ()
    groups: tuple[str, ...] | None = None
    given: tuple[str, ...] | None = None
    crops: tuple[Crop | None, ...] | None = None
    sets: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """(classes,) images per class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def films(self) -> list[Ints]:
        """Rows of each class in the order of their frames: the last number of the file name.

        Raises:
            DataError: If a file name has no number.
        """
        frames = [frame_number(path) for path in self.paths]
        unnumbered = [p for p, number in zip(self.paths, frames, strict=True) if number is None]
        if unnumbered:
            raise DataError(
                f"split=blocks needs a frame number in every file name; {unnumbered[0]} and "
                f"{len(unnumbered) - 1} others of {self.root} have none. Use split=stratified."
            )
        return films([number or 0 for number in frames], self._set_labels)

    @cached_property
    def _set_labels(self) -> Ints:
        """(N,) numbers of class and set together: a film is of one of each."""
        if self.sets is None:
            return self.labels
        return np.unique(self._full_labels, return_inverse=True)[1].astype(np.int64)

    @property
    def _full_labels(self) -> list[str]:
        """(N,) the class of each image, with its set in front where there are several."""
        names = [self.classes[label] for label in self.labels]
        if self.sets is None:
            return names
        return [f"{set_name}/{name}" for set_name, name in zip(self.sets, names, strict=True)]

    @cached_property
    def content(self) -> str:
        """Digest of all images in order, 32 hexadecimal digits: equal only for equal pixels."""
        digests = [fact.digest for fact in self.facts]
        if self.crops is not None:
            crops = zip(digests, self.crops, strict=True)
            digests = [digest if crop is None else f"{digest} {crop}" for digest, crop in crops]
        return _digest(digests)

    @property
    def place(self) -> str:
        """Where the images lie, for records."""
        return place_of(self.root)

    def crop(self, row: int) -> Crop | None:
        """The part of an image that is used; None for the whole."""
        return None if self.crops is None else self.crops[row]

    @property
    def cropped(self) -> int:
        """How many images are cropped to a box."""
        return sum(crop is not None for crop in self.crops or ())

    @cached_property
    def fingerprint(self) -> str:
        """Digest of images, paths, labels and signers, which identifies the data of a run."""
        names = [self.classes[label] for label in self.labels]
        more = [f"group {name}" for name in self.groups or ()]
        more += [f"subset {name}" for name in self.given or ()]
        return _digest((self.content, *self.paths, *names, *(self.signers or ()), *more))

    @cached_property
    def copied(self) -> Ints:
        """(N,) images with equal numbers are equal files, or augmented copies of one image."""
        return connected([self.sources, [fact.digest for fact in self.facts]])

    @cached_property
    def related(self) -> Ints:
        """(N,) images with equal numbers are copies, or of one group."""
        groups = [name or None for name in self.groups or ("",) * len(self)]
        return connected([groups, list(map(str, self.copied))])

    @cached_property
    def sources(self) -> list[str | None]:
        """The image that each one is an augmented copy of, by its name."""
        return sources_of_copies(self.paths, self._full_labels)

    @cached_property
    def clusters(self) -> Clusters:
        """(N,) which images are alike."""
        labels = [self.classes[n] for n in self.labels]
        return image_clusters(self.paths, labels, self.signers, self.groups, self.sets)

    def write(
        self,
        folder: Path,
        subsets: npt.NDArray[np.str_],
        hands: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Write `data.csv` (path,label,signer,subset), `classes.json`, and `excluded.csv` if any.

        Where they are known, `data.csv` has the columns group, set, and crop (left, top, right,
        bottom in pixels) as well.

        Args:
            folder: Folder of the files.
            subsets: (N,) names of the subset of each image.
            hands: (N,) whether a hand was found in it, for a column `hand`; None: not searched.

        Raises:
            DataError: If the name of a class is no text.
        """
        invalid = [name for name in self.classes if not files.is_utf8(name)]
        if invalid:
            encoding = sys.getfilesystemencoding()
            fix = "rename its folder"
            if encoding != "utf-8":
                fix = f"names are read as {encoding} here, set the variable PYTHONUTF8=1"
            raise DataError(
                f"{self.place}: the name of the class {invalid[0]!a} is not UTF-8: {fix}."
            )
        signers = self.signers or ("",) * len(self)
        labels = [self.classes[label] for label in self.labels]
        columns: list[Sequence[object]] = [self.paths, labels, signers, subsets.tolist()]
        header = [*IMAGE_COLUMNS]
        optional = ((GROUP, self.groups), (SET, self.sets), (CROP, self.crops))
        for name, values in optional:
            if values is not None:
                header.append(name)
                columns.append(["" if value is None else str(value) for value in values])
        if hands is not None:
            header.append("hand")
            columns.append(["found" if has_hand else "not found" for has_hand in hands])
        write_csv(folder / "data.csv", header, zip(*columns, strict=True))
        write_json(folder / "classes.json", self.classes)
        if self.excluded:
            bad = ((file.path, file.reason) for file in self.excluded)
            write_csv(folder / "excluded.csv", ("path", "reason"), bad)


@lru_cache(maxsize=4)  # the jobs of one sweep share one index
def read_index(
    root: Path,
    *,
    cache_dir: str,
    signers: str | None = "auto",
    on_bad_image: str = "error",
    pattern: str | None = None,
    groups: str | None = None,
    boxes: str | None = None,
    box_margin: float = MARGIN,
    thumbnails: Thumbnails | None = None,
) -> Index:
    """Read a data set and open every image of it once.

    Args:
        root: A folder with one folder per class, or a CSV file `path,label[,signer]`.
        cache_dir: Cache folder of the inspection results.
        signers: A CSV file `path,signer`; `auto` looks for `signers.csv` in `root` and above it,
            unless the pattern names the signer.
        on_bad_image: `error` stops at files that cannot be used and lists them all; `exclude`
            leaves them out.
        pattern: What the paths of a folder mean, see `signlang.data.patterns`; None: class folders.
        groups: A CSV file `path,group`.
        boxes: Where boxes come from, see `data.boxes` in `conf/data/folder.yaml`; None: no boxes.
        box_margin: What a crop adds to its box on each side, as a share of its width or height.
        thumbnails: Gets the images that are decoded, whole.

    Raises:
        DataError: If there is nothing to train on, or there are bad files and they are an error.
        SettingError: If `on_bad_image` is neither.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise SettingError(f"data.on_bad_image={on_bad_image}: choose error or exclude.")
    entries, left_out = _usable(list_entries(root, pattern, boxes))
    base = root.parent if root.is_file() else root
    entries = _with_signers_and_groups(base, entries, signers, pattern, groups)
    cache_file = (
        files.cache_folder(cache_dir, "inspected") / f"{_digest([str(root.resolve())])}.json"
    )
    results = inspect_files(base, [entry.path for entry in entries], cache_file, thumbnails)
    inspected = [_cropped(e, r, box_margin) for e, r in zip(entries, results, strict=True)]
    good = [item for item in inspected if not isinstance(item, BadFile)]
    bad = tuple(item for item in inspected if isinstance(item, BadFile))
    if bad and on_bad_image == "error":
        raise DataError(
            f"{len(bad)} file{'s' * (len(bad) > 1)} of {root} cannot be used as images:"
            f"{listing(_bad_file_lines(bad), most=1000)}\n{_missing_file_hint(root, bad)}"
            "Fix or remove them, or leave them out with data.on_bad_image=exclude."
        )
    return _build_index(root, base, good, (*bad, *left_out))


def _usable(entries: Sequence[ImageEntry]) -> tuple[list[ImageEntry], list["BadFile"]]:
    """The entries that are used, and the others with the reason."""
    used = [entry for entry in entries if not entry.left_out]
    return used, [BadFile(entry.path, entry.left_out) for entry in entries if entry.left_out]


def _with_signers_and_groups(
    base: Path, entries: list[ImageEntry], signers: str | None, pattern: str | None,
    groups: str | None,
) -> list[ImageEntry]:  # fmt: skip
    """Entries with the signers and groups that files of their own name."""
    paths = [entry.path for entry in entries]
    if signers == "auto" and pattern and any(entry.signer for entry in entries):
        signers = None
    known_signers = read_signers(base, signers, paths)
    if known_signers is not None:
        entries = [replace(entry, signer=known_signers.get(entry.path, "")) for entry in entries]
    known_groups = read_groups(base, groups, paths)
    if known_groups:
        entries = [replace(entry, group=known_groups.get(entry.path, "")) for entry in entries]
    return entries


Inspected = tuple[ImageEntry, ImageFacts, Crop | None]


def _cropped(entry: ImageEntry, result: ImageFacts | str, margin: float) -> Inspected | BadFile:
    """An image with its crop, or why it cannot be used."""
    if isinstance(result, str):
        return BadFile(entry.path, result)
    if entry.box is None:
        return entry, result, None
    try:
        return entry, result, entry.box.crop(result.width, result.height, margin)
    except BadBoxError as error:
        return BadFile(entry.path, str(error))


MANY: Final = 5  # files of one cause, which are then listed in one line


def _bad_file_lines(bad: Sequence[BadFile]) -> list[str]:
    """One line for each file, or for a cause that many files share."""
    by_reason: dict[str, list[str]] = {}
    for file in bad:
        by_reason.setdefault(file.reason, []).append(file.path)
    lines = []
    for reason, paths in by_reason.items():
        if len(paths) > MANY:
            lines.append(f"{len(paths)} files: {reason}: {several(paths, most=3)}")
        else:
            lines += [f"{path}: {reason}" for path in paths]
    return lines


def _missing_file_hint(root: Path, bad: Sequence[BadFile]) -> str:
    """Where the missing files of a CSV file probably are."""
    missing = [file.path for file in bad if file.reason == "no such file"]
    if not root.is_file() or not missing:
        return ""
    segments = PurePosixPath(missing[0]).parts
    here = root.parent
    with suppress(OSError):  # of folders that must not be looked into
        folders = [here, here.parent, *sorted(path for path in here.iterdir() if path.is_dir())]
        for start in range(len(segments)):
            tail = PurePosixPath(*segments[start:])
            for folder in folders:
                if (folder / tail).is_file():
                    return f"Paths are relative to {here}; {missing[0]} is at {folder / tail}.\n"
    return f"Paths are relative to {here}.\n"


def _build_index(
    root: Path, base: Path, good: Sequence[Inspected], bad: tuple[BadFile, ...]
) -> Index:
    good = sorted(good, key=lambda item: item[0].path)
    classes = tuple(sorted({entry.label for entry, _, _ in good}))
    if not good:
        if bad:
            raise DataError(
                f"None of the {len(bad):,} images of {root} can be used: {bad[0].path}: "
                f"{bad[0].reason}. {_missing_file_hint(root, bad)}".rstrip()
            )
        raise DataError(f"{root} holds no usable image: expected one folder of images per sign.")
    if len(classes) < 2:
        raise DataError(
            f"{root} holds one class only, {classes[0]}: a classifier needs at least two. "
            "Give the folder that holds one folder per sign."
        )
    _warn_of_case(classes)
    position = {name: label for label, name in enumerate(classes)}
    signers = tuple(entry.signer for entry, _, _ in good)
    groups = tuple(entry.group for entry, _, _ in good)
    subsets = tuple(entry.subset for entry, _, _ in good)
    crops = tuple(crop for _, _, crop in good)
    return Index(
        root=base,
        classes=classes,
        paths=tuple(entry.path for entry, _, _ in good),
        labels=np.array([position[entry.label] for entry, _, _ in good], dtype=np.int64),
        signers=signers if any(signers) else None,
        facts=tuple(fact for _, fact, _ in good),
        excluded=bad,
        groups=groups if any(groups) else None,
        given=subsets if any(subsets) else None,
        crops=crops if any(crops) else None,
    )


def _warn_of_case(classes: Sequence[str]) -> None:
    """Tell of classes whose names differ in nothing but case."""
    by_folded_name: dict[str, list[str]] = {}
    for name in classes:
        by_folded_name.setdefault(name.casefold(), []).append(name)
    pairs = [" and ".join(names) for names in by_folded_name.values() if len(names) > 1]
    if pairs:
        log.warning(
            "%s differ in case only and are classes of their own: give them one name if they are "
            "one sign",
            several(pairs),
        )


def place_of(root: "Root") -> str:
    """Where images lie: their folder, or the name and folder of each set."""
    if isinstance(root, Path):
        return str(root.resolve())
    return ", ".join(f"{name}: {folder.resolve()}" for name, folder in root.roots)


def distinct_name(name: str, index: Index) -> str:
    """Another name for a data set, as its own is taken: with the folder above it in front."""
    above = Path(index.place).parent.name if isinstance(index.root, Path) else "other"
    return f"{above}_{name}"


def other_root(recorded: Mapping[str, Any], index: Index) -> str | None:
    """The folder that a record is of, if that is another one that is still there.

    Images that were moved or copied are known by their content, and are the same data set.

    Args:
        recorded: `root` and `fingerprint` of a data set that has the same name.
        index: The data set.
    """
    root, current = recorded.get("root"), index.place
    if not isinstance(root, str) or recorded.get("fingerprint") == index.fingerprint:
        return None
    folders = [root], [entry.rpartition(": ")[2] for entry in root.split(", ")]  # one, or of sets
    is_there = any(all(Path(folder).exists() for folder in paths) for paths in folders)
    return root if root != current and is_there else None


def index_options(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `read_index` that the group `data` of a configuration holds."""
    keys = ("signers", "on_bad_image", "pattern", "groups", "boxes", "box_margin")
    options = {key: data.get(key) for key in keys}
    return {key: value for key, value in options.items() if value is not None or key == "signers"}


def _digest(texts: Iterable[str]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for text in texts:
        name = unicodedata.normalize("NFC", text)
        state.update(os.fsencode(name) + b"\0")
    return state.hexdigest()
