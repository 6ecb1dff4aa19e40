"""Evaluation of a network on labelled images, its training overlap and recalibration."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from omegaconf import DictConfig, OmegaConf

from signlang.arrays import Flags, Floats, Ints, Pixels
from signlang.console import log, track
from signlang.data import image_cache, image_io, splits
from signlang.data.boxes import MARGIN, Crop
from signlang.data.collection import data_set_classes, data_settings, read_data_set
from signlang.data.index import Index
from signlang.data.sources import Root, images_root
from signlang.errors import DataError, RunError
from signlang.evaluation import class_mapping
from signlang.evaluation.predictors import BATCH, BatchPredictor, find_network
from signlang.evaluation.results import Evaluation, TrainingOverlap
from signlang.files import expanded
from signlang.hands.hand_input import prepared
from signlang.metrics import calibration
from signlang.metrics.calibration import Calibration, LabeledProbabilities
from signlang.metrics.classification import classification_metrics

if TYPE_CHECKING:  # it imports torch
    from signlang.runs.trained_run import TrainedRun

LOSS_TOLERANCE: Final = 0.01  # losses of the same images on other machines differ by much less


def training_overlap(predictor: BatchPredictor, index: Index, cache_dir: str) -> TrainingOverlap:
    """Find images that a run was trained or selected on, by the digests of their files.

    Args:
        predictor: Of bundles and external weights nothing is known.
        index: The images.
        cache_dir: The caller's cache.
    """
    no_overlap = np.zeros(len(index), dtype=np.bool_)
    run = predictor.run
    if run is None:
        return TrainingOverlap(
            no_overlap,
            no_overlap,
            f"its {predictor.kind} do{'es' * (predictor.kind == 'bundle')} not list its training "
            "images",
        )
    used_rows = [(row["path"], row["subset"]) for row in run.folder.images
                 if row["subset"].startswith(("train", "validation"))]  # fmt: skip
    if run.record["data"]["fingerprint"] == index.fingerprint:
        digests = dict(zip(index.paths, (fact.digest for fact in index.facts), strict=True))
    else:
        try:
            root = images_root(run.path, cache_dir)
        except DataError as error:
            return TrainingOverlap(
                no_overlap, no_overlap, f"the images of the run are not there to compare: {error}"
            )
        digests = _digests(root, [path for path, _ in used_rows], _sizes(index))
    subsets: dict[str, set[str]] = {}
    for path, subset in used_rows:
        subsets.setdefault(digests.get(path, ""), set()).add(subset.partition("+")[0])
    uses_of_images = [subsets.get(fact.digest, set()) for fact in index.facts]
    trained_on = np.array(["train" in uses for uses in uses_of_images], dtype=np.bool_)
    selected_on = np.array(["validation" in uses for uses in uses_of_images], dtype=np.bool_)
    return TrainingOverlap(trained_on, selected_on & ~trained_on)


def _sizes(index: Index) -> set[int]:
    return {(index.root / path).stat().st_size for path in index.paths}


def _digests(root: Root, paths: Sequence[str], sizes: set[int]) -> dict[str, str]:
    """Compute digests of those files that are as large as some image of the evaluation."""
    digests = {}
    for path in track(paths, "comparing with the training images", len(paths)):
        file = root / path
        try:
            if file.stat().st_size in sizes:
                digests[path] = image_io.digest_of(file.read_bytes())
        except OSError:
            continue
    return digests


def recalibrate(
    predictor: BatchPredictor,
    run: "TrainedRun",
    wanted_precision: float,
    cache_dir: str,
    *,
    write: bool,
) -> Calibration:
    """Fit the calibration of a run on its own validation images.

    Args:
        predictor: The network of the run.
        run: The run.
        wanted_precision: Between 0 and 1.
        cache_dir: The caller's cache.
        write: Put `calibration.json` into the run folder; the test fold is then predicted as well.

    Raises:
        DataError: If the images are missing, or differ from those of the run.
        RunError: If the network's outputs are not finite.
    """
    root = images_root(run.path, cache_dir)
    outputs = {"validation": _subset_probabilities(predictor, run, root, "validation")}
    _check_same(run, root, outputs["validation"])
    if write:
        if not run.is_optimistic:
            outputs["test"] = _subset_probabilities(predictor, run, root, "test")
        with run.folder.locked():
            calibration.write_calibration(run.path, outputs, wanted_precision)
            run.folder.accept(calibration.FILE)
    return calibration.fit_calibration(*outputs["validation"], wanted_precision)


def _subset_probabilities(
    predictor: BatchPredictor, run: "TrainedRun", root: Root, subset: str
) -> LabeledProbabilities:
    """Predict the images of one subset."""
    rows = run.subset(subset)
    if not rows:
        raise DataError(f"{run.path / 'data.csv'} names no {subset} images.")
    starts = range(0, len(rows), BATCH)
    outputs: list[Floats] = []
    for start in track(starts, f"predicting the {subset} images of the run", len(starts)):
        batch = [
            _read(root / path, predictor, run.folder.crops.get(path))
            for path, _ in rows[start : start + BATCH]
        ]
        outputs.append(predictor.predict(predictor.resized(np.stack(batch))))
    probabilities = np.concatenate(outputs)
    if not np.isfinite(probabilities).all():
        raise RunError(f"The training of {run.path} diverged: it cannot be calibrated.")
    return probabilities, np.array([label for _, label in rows], dtype=np.int64)


def _read(file: Path, predictor: BatchPredictor, crop: Crop | None) -> Pixels:
    try:
        image = image_io.decode_crop(image_io.read_bytes(file), crop)
        return image_io.resize_image(prepared(image, predictor.hands), predictor.image_sizes[0])
    except image_io.BadImageError as error:
        raise DataError(f"{file}: {error}.") from None


def _check_same(run: "TrainedRun", root: Root, outputs: LabeledProbabilities) -> None:
    """Refuse images whose loss differs from that of the run."""
    recorded = float(run.metrics["validation"]["loss"])
    computed = classification_metrics(*outputs)["loss"]
    if abs(computed - recorded) > LOSS_TOLERANCE * max(recorded, 0.1):
        raise DataError(
            f"The validation images in {root} give a loss of {computed:.4f}, but {recorded:.4f} "
            f"when the run was trained: they have changed."
        )


def evaluate_network(cfg: DictConfig) -> Evaluation:
    """Read network and images, match their classes, and predict.

    Raises:
        SignlangError: If one of them cannot be used, or they share no class.
    """
    classes, load = find_network(cfg)
    data, mapping = data_settings(cfg.data), None
    if cfg.mapping is not None:
        mapping = class_mapping.read_mapping(expanded(str(cfg.mapping)), classes)
    # before all images are decoded and torch is imported
    class_mapping.map_classes(data_set_classes(data, cfg.cache_dir), classes, mapping)
    index, predictor = read_data_set(data, cfg.cache_dir), load()
    from signlang.evaluation import corruptions  # brings matplotlib

    plan = corruptions.planned(cfg.corruptions, predictor, str(cfg.cache_dir))
    _warn_of_unknown_classes(mapping or {}, index)
    matches = class_mapping.map_classes(index.classes, predictor.classes, mapping)
    overlap = training_overlap(predictor, index, str(cfg.cache_dir))
    rows = _rows(cfg, index, overlap)
    fitted_calibration = _calibration(cfg, predictor)
    probabilities, seconds = _predict(predictor, index, rows, cfg.cache_dir)
    evaluation = Evaluation(
        predictor,
        fitted_calibration,
        str(cfg.data.name),
        index,
        rows,
        matches,
        probabilities,
        overlap,
        seconds,
        float(cfg.data.get("box_margin", MARGIN)),
        _hands(predictor, index, rows, str(cfg.cache_dir)),
    )
    if not evaluation.known.any():
        raise DataError("None of the images that are left is of a class that the network knows.")
    if not plan.kinds:
        return evaluation
    robustness = corruptions.robustness(evaluation, plan, str(cfg.cache_dir))
    return replace(evaluation, robustness=robustness)


def _hands(predictor: BatchPredictor, index: Index, rows: Ints, cache_dir: str) -> Flags | None:
    """(n,) whether a hand is found in each image; None where the network sees whole images."""
    if predictor.hands is None:
        return None
    digests = [fact.digest for fact in index.facts]
    return predictor.hands.found(index.root, index.paths, digests, cache_dir)[rows]


def _warn_of_unknown_classes(mapping: Mapping[str, str | None], index: Index) -> None:
    unknown = [name for name in mapping if name not in index.classes]
    if unknown:
        log.warning("mapping names what is no class of the images: %s", ", ".join(unknown))


def _rows(cfg: DictConfig, index: Index, overlap: TrainingOverlap) -> Ints:
    """Which images are asked for."""
    selected = np.ones(len(index), dtype=np.bool_)
    if cfg.fold is not None:
        split: Any = OmegaConf.to_container(cfg.split, resolve=True)
        numbers = splits.fold_numbers(splits.build_split(split), index, cfg.folds, cfg.split.seed)
        selected &= numbers == cfg.fold
    if cfg.unseen:
        if overlap.unknown:
            raise DataError(f"unseen=true cannot be: {overlap.unknown}")
        selected &= ~overlap.either
    if not selected.any():
        raise DataError("No image is left: all were used to make the run.")
    return np.flatnonzero(selected).astype(np.int64)


def _calibration(cfg: DictConfig, predictor: BatchPredictor) -> Calibration:
    """Stored calibration; fitted again if there is none or another precision is wanted."""
    stored, wanted_precision, run = predictor.calibration, cfg.wanted_precision, predictor.run
    if run is None:
        return stored or Calibration()
    fits = stored is not None and wanted_precision in (None, stored.wanted_precision)
    if stored is not None and fits and not cfg.calibrate:
        return stored
    default = stored.wanted_precision if stored else Calibration.wanted_precision
    try:
        return recalibrate(
            predictor, run, wanted_precision or default, str(cfg.cache_dir), write=cfg.calibrate
        )
    except (DataError, RunError) as error:
        if cfg.calibrate or wanted_precision is not None:
            raise
        log.warning("not calibrated: %s", error)
        return Calibration()


def _predict(
    predictor: BatchPredictor, index: Index, rows: Ints, cache_dir: str
) -> tuple[Floats, float]:
    """(n, classes) probabilities of the images, and the seconds that they took."""
    array = image_cache.decode_images(index, predictor.image_sizes[0], cache_dir, predictor.hands)
    starts = range(0, len(rows), BATCH)
    started = time.perf_counter()
    batches = [
        predictor.predict(predictor.resized(array[rows[start : start + BATCH]]))
        for start in track(starts, "predicting", len(starts))
    ]
    probabilities = np.concatenate(batches)
    if not np.isfinite(probabilities).all():
        raise RunError(f"The outputs of {predictor.path} are not finite: its training diverged.")
    return probabilities, time.perf_counter() - started
