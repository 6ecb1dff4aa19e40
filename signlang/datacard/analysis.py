"""Analysis of a data set for its card: index, folds, duplicates, label errors, warnings."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, ListConfig, OmegaConf

from signlang.console import log, show_table
from signlang.data import image_cache, splits
from signlang.data.index import Index, read_index
from signlang.data.sources import open_source
from signlang.datacard import duplicates, label_errors, statistics
from signlang.datacard.duplicates import Duplicates, Pairs
from signlang.datacard.label_errors import OutOfFoldPredictions, Suspect
from signlang.errors import DataError, SettingError
from signlang.files import write_csv

THUMBNAIL: Final = 32  # pixels; at 16 different people showing one sign become near duplicates


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that a card speaks of.

    Attributes:
        name: Of the data set.
        index: Its images, those that cannot be used left out.
        split: Name of the split, with the number of folds.
        folds: (N,) in which fold each image is tested, or None.
        unsplit: Why there are no folds.
        pixels: (N, 32, 32, 3) all images, small.
        duplicates: See there.
        near: Correlation from which two images are near duplicates.
        detail: The most that they may differ in any place.
        judgement: What networks said of the images, or None.
        suspects: Images whose label is probably wrong.
        samples: Images of a sample sheet.
    """

    name: str
    index: Index
    split: str
    folds: npt.NDArray[np.int64] | None
    unsplit: str
    pixels: npt.NDArray[np.uint8]
    duplicates: Duplicates
    near: float
    detail: float
    judgement: OutOfFoldPredictions | None
    suspects: list[Suspect]
    samples: int

    @cached_property
    def odd(self) -> dict[int, str]:
        """What is unusual about usable images, by row."""
        return statistics.oddities(self.index.facts)

    @property
    def leak(self) -> float:
        """Share of the images with a duplicate, exact or near, in another fold."""
        return float(self.duplicates.other_fold.found.mean())

    @property
    def agreement(self) -> float:
        """Share of the judged images that networks gave their label."""
        assert self.judgement is not None
        given = self.index.labels[self.judgement.rows]
        return float((self.judgement.probabilities.argmax(1) == given).mean())

    def label(self, row: int) -> str:
        """The class of an image, by name."""
        return self.index.classes[int(self.index.labels[row])]

    def signer(self, row: int) -> str:
        """Who is in an image, nothing where that is not known."""
        return self.index.signers[row] if self.index.signers else ""


def analyse(cfg: DictConfig) -> Analysis:
    """Read the data set and look for what is wrong with it.

    Raises:
        DataError: If there are no images, or the predictions do not belong to them.
    """
    predictions = _predictions(cfg.predictions)  # before minutes of reading
    index = _index(cfg)
    judgement = label_errors.read_predictions_for(predictions, index) if predictions else None
    numbers, unsplit = _folds(cfg, index)
    small = image_cache.decode_images(index, THUMBNAIL, cfg.cache_dir)[:]
    digests = [fact.digest for fact in index.facts]
    found = duplicates.find_duplicates(
        duplicates.vectors(small),
        digests,
        index.labels,
        numbers,
        float(cfg.near),
        float(cfg.detail),
    )
    return Analysis(
        name=cfg.data.name,
        index=index,
        split=f"split={splits.split_name(cfg.split)}, {cfg.folds} folds, seed {cfg.split.seed}",
        folds=numbers,
        unsplit=unsplit,
        pixels=small,
        duplicates=found,
        near=float(cfg.near),
        detail=float(cfg.detail),
        judgement=judgement,
        suspects=label_errors.suspicious_labels(index.labels, judgement) if judgement else [],
        samples=cfg.samples,
    )


def write_tables(found: Analysis, out: Path) -> None:
    """Write `duplicates.csv`, `files.csv` and, if there were predictions, `suspicious.csv`.

    Raises:
        SettingError: If the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"out={out} cannot be made ({error.strerror}): set out=DIR.") from None
    header = "group,path,label,signer,fold,nearest,similarity,other_class,other_fold"
    write_csv(out / "duplicates.csv", header.split(","), _duplicate_rows(found))
    odd = (("odd", found.index.paths[row], reason) for row, reason in found.odd.items())
    bad = [("unusable", file.path, file.reason) for file in found.index.excluded]
    write_csv(out / "files.csv", ("state", "path", "reason"), [*bad, *odd])
    (out / "suspicious.csv").unlink(missing_ok=True)  # of an earlier card
    if found.judgement is None:
        return
    header = "path,label,suggested,p_label,p_suggested"
    rows = (
        (
            found.index.paths[s.row], found.label(s.row), found.index.classes[s.suggested],
            f"{s.given_probability:.6f}", f"{s.suggested_probability:.6f}",
        )
        for s in found.suspects
    )  # fmt: skip
    write_csv(out / "suspicious.csv", header.split(","), rows)


def show_summary(found: Analysis, out: Path) -> None:
    """Tell the user what was found and where the card is."""
    index, pairs = found.index, found.duplicates
    rows = {
        "images": f"{len(index):,} of {len(index.classes)} classes",
        "signers": f"{len(set(index.signers) - {''}):,}" if index.signers else "unknown",
        "unusable files": f"{len(index.excluded):,}",
        "odd files": f"{len(found.odd):,}",
        "exact duplicates": _of(pairs.exact),
        "near duplicates": _of(pairs.near),
    }
    if found.folds is not None:
        rows["in another fold too"] = f"{found.leak:.1%} of the images ({found.split})"
    if found.judgement is not None:
        rows["probably wrong labels"] = (
            f"{len(found.suspects):,} of {len(found.judgement.rows):,} judged images"
        )
    show_table(f"data card of {found.name}", {**rows, "card": str(out / "card.html")})


def _of(pairs: Pairs) -> str:
    text = f"{pairs.total:,} pairs, {pairs.across_classes:,} across classes"
    return text if pairs.across_folds is None else f"{text}, {pairs.across_folds:,} across folds"


def _index(cfg: DictConfig) -> Index:
    source: Any = OmegaConf.to_container(cfg.data.source, resolve=True)
    root = open_source(source, cfg.data.root, cfg.cache_dir)
    # a card lists what cannot be used instead of stopping at it
    return read_index(
        root, cache_dir=cfg.cache_dir, signers=cfg.data.signers, on_bad_image="exclude"
    )


def _folds(cfg: DictConfig, index: Index) -> tuple[npt.NDArray[np.int64] | None, str]:
    node: Any = OmegaConf.to_container(cfg.split, resolve=True)
    split = splits.build_split(node)
    try:
        numbers = splits.fold_numbers(split, index, cfg.folds, cfg.split.seed)
    except DataError as error:
        log.warning("no folds: %s", error)
        return None, str(error)
    return numbers, ""


def _predictions(given: Any) -> list[Path]:
    if given is None:
        return []
    if isinstance(given, ListConfig | list):
        return label_errors.prediction_files([str(word) for word in given])
    return label_errors.prediction_files(str(given))


def _duplicate_rows(found: Analysis) -> Iterator[tuple[object, ...]]:
    pairs, paths = found.duplicates, (*found.index.paths, "")  # -1, no partner, is the last
    for number, rows in enumerate(pairs.shown_first(), start=1):
        for row in rows.tolist():
            yield (
                number, paths[row], found.label(row), found.signer(row),
                "" if found.folds is None else found.folds[row],
                paths[pairs.nearest.row[row]], f"{pairs.nearest.similarity[row]:.4f}",
                paths[pairs.other_class.row[row]], paths[pairs.other_fold.row[row]],
            )  # fmt: skip


UNEVEN: Final = 1.5  # times as many images in the largest class as in the smallest


def many(count: int, noun: str) -> str:
    """Count things in words.

    >>> many(1, "image"), many(2062, "image")
    ('1 image', '2,062 images')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def findings(found: Analysis) -> list[str]:
    """Say what is wrong or has to be kept in mind, the most serious first."""
    return [*_wrong_labels(found), *_leaks(found), *_people(found), *_rest(found)]


def _wrong_labels(found: Analysis) -> Iterator[str]:
    pairs = found.duplicates
    for name, kind in (("equal", pairs.exact), ("nearly equal", pairs.near)):
        if kind.across_classes:
            yield (
                f"{many(kind.across_classes, 'pair')} of {name} images "
                f"{'has' if kind.across_classes == 1 else 'have'} different labels: "
                "at least one of the two is wrong, or the signs cannot be told apart."
            )
    if found.suspects:
        yield (
            f"{many(len(found.suspects), 'label')} {'is' if len(found.suspects) == 1 else 'are'} "
            "probably wrong, as networks judge that were not trained on these images and agree "
            f"with {found.agreement:.1%} of all labels: look at them."
        )


def _leaks(found: Analysis) -> Iterator[str]:
    if found.folds is None:
        yield f"The folds of {found.split} cannot be made. {found.unsplit}"
    elif found.leak:
        yield (
            f"{found.leak:.1%} of the test images of a fold have a duplicate or near duplicate "
            f"in its training part ({found.split}): the network has seen them before it is tested, "
            "and looks better than it is."
        )


def _people(found: Analysis) -> Iterator[str]:
    index = found.index
    names = set(index.signers or ()) - {""}
    if index.signers is None:
        yield "Who is in the images is not known: results say nothing about other people's hands."
    elif len(names) == 1:
        yield "One signer made all images: results say nothing about other people's hands."
    elif found.folds is not None and (shared := _shared(found)):
        yield (
            f"{shared:,} of {many(len(names), 'signer')} are in more than one fold "
            f"({found.split}): results are better than they would be for strangers. "
            "split=signer keeps them apart."
        )


def _shared(found: Analysis) -> int:
    """Signers with images in more than one fold."""
    assert found.folds is not None
    folds_of: dict[str, set[int]] = {}
    for signer, fold in zip(found.index.signers or (), found.folds.tolist(), strict=True):
        folds_of.setdefault(signer, set()).add(fold)
    return sum(len(folds) > 1 for signer, folds in folds_of.items() if signer)


def _rest(found: Analysis) -> Iterator[str]:
    index = found.index
    if index.excluded:
        yield f"{many(len(index.excluded), 'file')} cannot be used as images and were left out."
    ratio = statistics.imbalance(index.counts)
    if ratio >= UNEVEN:
        few, most = index.counts.argmin(), index.counts.argmax()
        yield (
            f"Classes are uneven: {many(int(index.counts[most]), 'image')} of "
            f"{index.classes[most]}, {index.counts[few]:,} of {index.classes[few]}."
        )
    judged = found.judgement
    if judged is not None and len(judged.rows) < len(index):
        yield (
            f"The predictions judge {len(judged.rows):,} of {len(index):,} images only: the "
            "labels of the others were not looked at."
        )
