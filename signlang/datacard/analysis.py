"""Analysis of a data set for its card: index, folds, duplicates, label errors, warnings."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, ListConfig, OmegaConf

from signlang.arrays import Flags, connected
from signlang.console import log, show_lines, show_table
from signlang.data import image_cache, splits
from signlang.data.collection import data_settings, read_data_set
from signlang.data.image_io import Thumbnails
from signlang.data.index import Index, distinct_name, other_root
from signlang.datacard import duplicates, label_errors, statistics
from signlang.datacard.duplicates import Duplicates, Pairs
from signlang.datacard.label_errors import OutOfFoldPredictions, Suspect
from signlang.errors import DataError, SettingError
from signlang.files import expanded, parse_json, write_csv, write_json
from signlang.hands.hand_input import build_input
from signlang.hands.hand_store import find_hands
from signlang.reporting.formatting import counted
from signlang.runs.folder import find_folder

DATA: Final = "data.json"  # which data set a card is of
COMPARED_SIZE: Final = 32  # pixels; at 16 different people showing one sign become near duplicates


@dataclass(frozen=True, eq=False)
class Analysis:
    """Content of a data card.

    Attributes:
        name: Name of the data set.
        index: Its usable images.
        split: Name of the split, with the number of folds.
        folds: (N,) fold in which each image is tested, or None.
        no_folds_reason: Why there are no folds.
        unused: Images that the split leaves out of training when a fold is tested, for each fold.
        pixels: (N, 32, 32, 3) all images, small.
        duplicates: Exact and near duplicates.
        near: Correlation from which two images are near duplicates.
        detail: Largest difference of near duplicates in any patch, in standard deviations.
        predictions: Out-of-fold predictions, or None.
        suspects: Images whose label is probably wrong.
        samples: Number of images on a sample sheet.
        hands: (N,) whether a hand is found; None: not searched.
        turned: Degrees by which hands are turned against those of their class, by row, the
            farthest first.
    """

    name: str
    index: Index
    split: str
    folds: npt.NDArray[np.int64] | None
    no_folds_reason: str
    unused: tuple[int, ...]
    pixels: npt.NDArray[np.uint8]
    duplicates: Duplicates
    near: float
    detail: float
    predictions: OutOfFoldPredictions | None
    suspects: list[Suspect]
    samples: int
    hands: Flags | None = None
    turned: Mapping[int, float] = field(default_factory=dict)

    @cached_property
    def odd(self) -> dict[int, str]:
        """Unusual properties of usable images, by row."""
        return statistics.oddities(self.index.facts)

    @cached_property
    def families(self) -> npt.NDArray[np.int64]:
        """(N,) what belongs together: groups, copies of one image, exact and near duplicates."""
        near = [None if number < 0 else str(number) for number in self.duplicates.group.tolist()]
        return connected([list(map(str, self.index.related)), near])

    @property
    def copies(self) -> int:
        """Images that are augmented copies of one image by their names, twins included."""
        sizes = Counter(source for source in self.index.sources if source)
        return sum(size for size in sizes.values() if size > 1)

    @property
    def leakage(self) -> float:
        """Share of the images with a duplicate, exact or near, or a copy in another fold."""
        leaks = self.duplicates.other_fold.exists
        if self.folds is not None:
            number = self.index.copied
            pairs = np.unique(np.stack([number, self.folds]), axis=1)[0]
            leaks = leaks | (np.bincount(pairs)[number] > 1)
        return float(leaks.mean())

    @property
    def agreement(self) -> float:
        """Share of the predicted images whose prediction equals their label."""
        assert self.predictions is not None
        labels = self.index.labels[self.predictions.rows]
        return float((self.predictions.probabilities.argmax(1) == labels).mean())

    @property
    def without_hand(self) -> list[int]:
        """Rows of the images in which no hand is found; none where none was looked for."""
        return [] if self.hands is None else np.flatnonzero(~self.hands).tolist()

    def label(self, row: int) -> str:
        """Name of the class of an image."""
        return self.index.classes[int(self.index.labels[row])]

    def signer(self, row: int) -> str:
        """Signer of an image, empty if unknown."""
        return self.index.signers[row] if self.index.signers else ""


def analyse(cfg: DictConfig) -> Analysis:
    """Read the data set and search it for duplicates, label errors and other faults.

    Raises:
        DataError: If there are no images, or the predictions do not belong to them.
    """
    files = _prediction_files(cfg)  # before minutes of reading
    thumbnails = Thumbnails(COMPARED_SIZE)
    index = _read_index(cfg, thumbnails)
    _refuse_namesake(cfg, index)
    predictions = label_errors.read_predictions_for(files, index) if files else None
    numbers, unused, no_folds_reason = _assign_folds(cfg, index)
    gap = f", gap {cfg.split.gap}" if cfg.split.get("gap") else ""
    split = f"split={splits.split_name(cfg.split)}{gap}"
    small = image_cache.decode_images(index, COMPARED_SIZE, cfg.cache_dir, thumbnails=thumbnails)[:]
    thumbnails.of.clear()
    digests = [fact.digest for fact in index.facts]
    pairs = duplicates.find_duplicates(
        duplicates.vectors(small),
        digests,
        index.labels,
        numbers,
        float(cfg.near),
        float(cfg.detail),
    )
    node: Any = OmegaConf.to_container(cfg.hands, resolve=True)
    hand_input = build_input(node, str(cfg.cache_dir))
    has_hand, turned = None, {}
    if hand_input is not None:
        hands = find_hands(
            index.root, index.paths, digests, hand_input.networks, str(cfg.cache_dir)
        )
        has_hand = np.array([hand is not None for hand in hands], dtype=np.bool_)
        turned = statistics.turned_hands(hands, index.labels)
    return Analysis(
        name=cfg.data.name,
        index=index,
        split=f"{split}, seed {cfg.split.seed}"
        if cfg.folds == 1
        else f"{split}, {cfg.folds} folds, seed {cfg.split.seed}",
        folds=numbers,
        no_folds_reason=no_folds_reason,
        unused=unused,
        pixels=small,
        duplicates=pairs,
        near=float(cfg.near),
        detail=float(cfg.detail),
        predictions=predictions,
        suspects=label_errors.suspicious_labels(index.labels, predictions) if predictions else [],
        samples=cfg.samples,
        hands=has_hand,
        turned=turned,
    )


def write_tables(analysis: Analysis, out: Path) -> None:
    """Write `duplicates.csv`, `files.csv` and, if there are predictions, `suspicious.csv`.

    Raises:
        SettingError: If the folder cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"out={out} cannot be created ({error.strerror}): set out=DIR."
        ) from None
    facts = {"name": analysis.name, "root": analysis.index.place}
    write_json(out / DATA, {**facts, "fingerprint": analysis.index.fingerprint})
    header = "group,path,label,signer,fold,nearest,similarity,other_class,other_fold"
    write_csv(out / "duplicates.csv", header.split(","), _duplicate_rows(analysis))
    odd = (("odd", analysis.index.paths[row], reason) for row, reason in analysis.odd.items())
    bad = [("unusable", file.path, file.reason) for file in analysis.index.excluded]
    write_csv(out / "files.csv", ("state", "path", "reason"), [*bad, *odd])
    for name in ("groups.csv", "suspicious.csv", "hands.csv", "turned.csv"):
        (out / name).unlink(missing_ok=True)  # of an earlier card
    group_rows = list(_group_rows(analysis))
    if group_rows:
        write_csv(out / "groups.csv", ("path", "group"), group_rows)
    if analysis.hands is not None:
        missing = [(analysis.index.paths[n], analysis.label(n)) for n in analysis.without_hand]
        write_csv(out / "hands.csv", ("path", "label"), missing)
    if analysis.turned:
        lines = (
            (analysis.index.paths[row], analysis.label(row), f"{degrees:.0f}")
            for row, degrees in analysis.turned.items()
        )
        write_csv(out / "turned.csv", ("path", "label", "degrees"), lines)
    if analysis.predictions is None:
        return
    header = "path,label,suggested,p_label,p_suggested"
    rows = (
        (
            analysis.index.paths[s.row], analysis.label(s.row), analysis.index.classes[s.suggested],
            f"{s.given_probability:.6f}", f"{s.suggested_probability:.6f}",
        )
        for s in analysis.suspects
    )  # fmt: skip
    write_csv(out / "suspicious.csv", header.split(","), rows)


def _group_rows(analysis: Analysis) -> Iterator[tuple[str, str]]:
    """Path and group of the images that do not stand alone."""
    numbers = analysis.families
    sizes = np.bincount(numbers)
    for path, number in zip(analysis.index.paths, numbers.tolist(), strict=True):
        if sizes[number] > 1:
            yield path, f"g{number}"


def show_summary(analysis: Analysis, out: Path) -> None:
    """Show the main results and the path of the card."""
    index, pairs = analysis.index, analysis.duplicates
    rows = {
        "images": f"{len(index):,} of {len(index.classes)} classes",
        "signers": f"{len(set(index.signers) - {''}):,}" if index.signers else "unknown",
        **({"data sets": _sets_text(index)} if index.sets else {}),
        "unusable files": f"{len(index.excluded):,}",
        "odd files": f"{len(analysis.odd):,}",
        "exact duplicates": _pairs_text(pairs.exact),
        "near duplicates": _pairs_text(pairs.near),
    }
    if index.cropped:
        rows["boxes"] = f"{index.cropped:,} images are cropped to one"
    if analysis.copies:
        rows["augmented copies"] = f"{analysis.copies:,} images, by their names"
    if analysis.folds is not None:
        rows["in another fold too"] = f"{analysis.leakage:.1%} of the images ({analysis.split})"
    if analysis.hands is not None:
        count = len(analysis.without_hand)
        rows["hands found in"] = (
            f"{len(index) - count:,} images, and not in {count:,}, which hands.csv lists"
        )
    if analysis.turned:
        rows["turned hands"] = f"{counted(len(analysis.turned), 'image')}, which turned.csv lists"
    if any(analysis.unused):
        fewest, most = min(analysis.unused), max(analysis.unused)
        rows["left out of training"] = f"{fewest:,} to {most:,} images a fold, too near to its own"
    if analysis.predictions is not None:
        rows["probably wrong labels"] = (
            f"{len(analysis.suspects):,} of {len(analysis.predictions.rows):,} predicted images"
        )
    show_table(f"data card of {analysis.name}", rows, {"card": str(out / "card.html")})
    if analysis.leakage and (out / "groups.csv").is_file():
        options = f"  split=group data.groups={out}/groups.csv"
        show_lines(["To keep what is alike in one fold, add to the command:", options])


def _sets_text(index: Index) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in Counter(index.sets).items())


def _pairs_text(pairs: Pairs) -> str:
    text = f"{pairs.total:,} pairs, {pairs.across_classes:,} across classes"
    return text if pairs.across_folds is None else f"{text}, {pairs.across_folds:,} across folds"


def _read_index(cfg: DictConfig, thumbnails: Thumbnails) -> Index:
    # a card lists what cannot be used instead of stopping at it
    data = data_settings(cfg.data) | {"on_bad_image": "exclude"}
    return read_data_set(data, cfg.cache_dir, thumbnails)


def _refuse_namesake(cfg: DictConfig, index: Index) -> None:
    """Refuse to replace the card of another folder that has the same name.

    Raises:
        SettingError: Names both folders, and how to tell them apart.
    """
    out = expanded(cfg.out)
    if str(cfg.out) != f"{cfg.cards_dir}/{cfg.data.name}":
        return
    try:
        recorded = parse_json((out / DATA).read_text("utf-8"))
    except (OSError, ValueError):
        return
    other = other_root(recorded, index) if isinstance(recorded, dict) else None
    if other is not None:
        own = distinct_name(str(cfg.data.name), index)
        raise SettingError(
            f"{out} is the card of another folder of that name, {other}; this one is "
            f"{index.place}. Name this data set, e.g. data.name={own}, or give out=DIR."
        )


def _assign_folds(
    cfg: DictConfig, index: Index
) -> tuple[npt.NDArray[np.int64] | None, tuple[int, ...], str]:
    """The fold of each image, the images that each fold leaves out, and why there are no folds."""
    node: Any = OmegaConf.to_container(cfg.split, resolve=True)
    split = splits.build_split(node)
    try:
        numbers = splits.fold_numbers(split, index, cfg.folds, cfg.split.seed)
        unused = tuple(
            int((splits.left_out(split, index, numbers, fold) & (numbers != fold)).sum())
            for fold in range(cfg.folds)
        )
    except DataError as error:
        log.warning("no folds: %s", error)
        return None, (), str(error)
    return numbers, unused, ""


def _prediction_files(cfg: DictConfig) -> list[Path]:
    names = cfg.predictions if isinstance(cfg.predictions, ListConfig | list) else [cfg.predictions]
    runs_dir = expanded(cfg.runs_dir)
    folders = [
        find_folder(str(name), runs_dir, "predictions") for name in names if name is not None
    ]
    return label_errors.prediction_files(folders) if folders else []


def _duplicate_rows(analysis: Analysis) -> Iterator[tuple[object, ...]]:
    pairs, paths = analysis.duplicates, (*analysis.index.paths, "")  # -1, no partner, is the last
    for number, rows in enumerate(pairs.ordered_groups(), start=1):
        for row in rows.tolist():
            yield (
                number, paths[row], analysis.label(row), analysis.signer(row),
                "" if analysis.folds is None else analysis.folds[row],
                paths[pairs.nearest.row[row]], f"{pairs.nearest.similarity[row]:.4f}",
                paths[pairs.other_class.row[row]], paths[pairs.other_fold.row[row]],
            )  # fmt: skip


UNEVEN: Final = 1.5  # times as many images in the largest class as in the smallest


def warnings(analysis: Analysis) -> list[str]:
    """Sentences on faults and limits of the data set, the most serious first."""
    return [
        *_label_warnings(analysis),
        *_turned_hand_warnings(analysis),
        *_leakage_warnings(analysis),
        *_signer_warnings(analysis),
        *_other_warnings(analysis),
    ]


def _label_warnings(analysis: Analysis) -> Iterator[str]:
    pairs = analysis.duplicates
    for name, kind in (("equal", pairs.exact), ("nearly equal", pairs.near)):
        if kind.across_classes:
            yield (
                f"{counted(kind.across_classes, 'pair')} of {name} images "
                f"{'has' if kind.across_classes == 1 else 'have'} different labels: "
                "at least one of the two is wrong, or the signs are too similar."
            )
    count = len(analysis.suspects)
    if count:
        yield (
            f"{counted(count, 'label')} {'is' if count == 1 else 'are'} probably wrong according "
            "to networks that were not trained on these images and predict "
            f"{analysis.agreement:.1%} of all labels: check them."
        )


def _turned_hand_warnings(analysis: Analysis) -> Iterator[str]:
    if analysis.turned:
        yield (
            f"{counted(len(analysis.turned), 'hand')} "
            f"{'points' if len(analysis.turned) == 1 else 'point'} elsewhere than the others of "
            f"the class, by {statistics.TURNED:g} degrees or more: does the image lie on its side?"
        )


def _leakage_warnings(analysis: Analysis) -> Iterator[str]:
    if analysis.folds is None:
        yield f"There are no folds of {analysis.split}. {analysis.no_folds_reason}"
    elif analysis.leakage:
        yield (
            f"{analysis.leakage:.1%} of the test images of a fold have a copy, duplicate or near "
            f"duplicate in its training subset ({analysis.split}): test results are too "
            "optimistic. split=group with data.groups=groups.csv of this card keeps them apart."
            if not any(analysis.unused)
            else f"{analysis.leakage:.1%} of the test images of a fold have a duplicate or near "
            f"duplicate in another fold ({analysis.split}), or in what is left out of training: "
            "test results may be too optimistic."
        )


def _signer_warnings(analysis: Analysis) -> Iterator[str]:
    index = analysis.index
    names = set(index.signers or ()) - {""}
    if index.signers is None:
        yield "The signers are unknown: results say nothing about the hands of unseen signers."
    elif len(names) == 1:
        yield "There is one signer only: results say nothing about the hands of unseen signers."
    elif analysis.folds is not None and (shared := _signers_in_several_folds(analysis)):
        yield (
            f"{shared:,} of {counted(len(names), 'signer')} are in more than one fold "
            f"({analysis.split}): results are better than they would be for unseen signers. "
            "split=signer keeps them apart."
        )


def _signers_in_several_folds(analysis: Analysis) -> int:
    """Signers with images in more than one fold."""
    assert analysis.folds is not None
    folds_of: dict[str, set[int]] = {}
    for signer, fold in zip(analysis.index.signers or (), analysis.folds.tolist(), strict=True):
        folds_of.setdefault(signer, set()).add(fold)
    return sum(len(folds) > 1 for signer, folds in folds_of.items() if signer)


def _other_warnings(analysis: Analysis) -> Iterator[str]:
    index = analysis.index
    if index.excluded:
        yield f"{counted(len(index.excluded), 'file')} cannot be used as images and were left out."
    ratio = statistics.imbalance(index.counts)
    if ratio >= UNEVEN:
        few, most = index.counts.argmin(), index.counts.argmax()
        yield (
            f"Classes are uneven: {counted(int(index.counts[most]), 'image')} of "
            f"{index.classes[most]}, {index.counts[few]:,} of {index.classes[few]}."
        )
    if any(analysis.unused):
        yield (
            f"{np.mean(analysis.unused) / len(index):.1%} of the images are left out of training "
            f"when a fold is tested, as they are too near to its own ({analysis.split})."
        )
    predictions = analysis.predictions
    if predictions is not None and len(predictions.rows) < len(index):
        yield (
            f"The predictions cover {len(predictions.rows):,} of {len(index):,} images only: the "
            "labels of the others were not checked."
        )
