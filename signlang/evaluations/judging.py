"""A configuration comes in; the answers of a network to labelled pictures go out."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from signlang.confidence.calibration import Calibration
from signlang.console import log, track
from signlang.data import folds, pixels
from signlang.data.index import Index, read
from signlang.errors import DataError, RunError
from signlang.evaluations import history, matching
from signlang.evaluations.answers import Evaluation
from signlang.evaluations.candidates import BATCH, Candidate, of_bundle, of_run
from signlang.evaluations.history import Seen
from signlang.evaluations.scores import Floats, Ints
from signlang.runs.claiming import made


def evaluation(cfg: DictConfig) -> Evaluation:
    """Read network and pictures, match their classes, and judge.

    Raises:
        SignlangError: If one of them cannot be used, or they share no class.
    """
    index = _index(cfg)
    candidate = _candidate(cfg)
    mapping = None
    if cfg.mapping is not None:
        file = Path(str(cfg.mapping)).expanduser()
        mapping = matching.read_mapping(file, candidate.classes)
        _warn_of_strangers(mapping, index)
    matches = matching.match(index.classes, candidate.classes, mapping)
    before = history.seen(candidate, index)
    rows = _rows(cfg, index, before)
    fitted = _calibration(cfg, candidate)
    probabilities, seconds = _judged(candidate, index, rows, cfg.cache_dir)
    found = Evaluation(
        candidate, fitted, _name(cfg), index, rows, matches, probabilities, before, seconds
    )
    if not found.known.any():
        raise DataError("None of the pictures that are left is of a class that the network knows.")
    return found


def _candidate(cfg: DictConfig) -> Candidate:
    if cfg.run is not None:
        return of_run(Path(str(cfg.run)).expanduser())
    if cfg.bundle is not None:
        return of_bundle(Path(str(cfg.bundle)).expanduser())
    from signlang.evaluations.strangers import of_weights

    return of_weights(cfg)


def _index(cfg: DictConfig) -> Index:
    root = Path(made(cfg.data.source)(cfg.data.root, cfg.cache_dir))
    options = {"signers": cfg.data.signers, "on_bad_image": cfg.data.on_bad_image}
    return read(root, cache_dir=cfg.cache_dir, **options)


def _name(cfg: DictConfig) -> str:
    """Name of the data; folders are told apart by their own names."""
    if cfg.data.name != "folder":
        return str(cfg.data.name)
    place = Path(str(cfg.data.root)).expanduser().resolve()
    return place.stem if place.is_file() else place.name


def _warn_of_strangers(mapping: Mapping[str, str | None], index: Index) -> None:
    strange = [name for name in mapping if name not in index.classes]
    if strange:
        log.warning("mapping names what is no class of the pictures: %s", ", ".join(strange))


def _rows(cfg: DictConfig, index: Index, before: Seen) -> Ints:
    """Which pictures are asked for."""
    wanted = np.ones(len(index), dtype=np.bool_)
    if cfg.fold is not None:
        groups = folds.groups_of(index, cfg.split.name, cfg.split.get("blocks", 1))
        dealt = folds.fold_numbers(index.labels, groups, cfg.folds, cfg.split.seed, index.classes)
        wanted &= dealt == cfg.fold
    if cfg.unseen:
        if before.unknown:
            raise DataError(f"unseen=true cannot be: {before.unknown}")
        wanted &= ~before.either
    if not wanted.any():
        raise DataError("No picture is left: all were used to make the run.")
    return np.flatnonzero(wanted).astype(np.int64)


def _calibration(cfg: DictConfig, candidate: Candidate) -> Calibration:
    """What came with the network; a run without any, or with another wish, is calibrated again."""
    given, wanted = candidate.calibration, cfg.wanted_precision
    if candidate.kind != "run":
        return given or Calibration()
    fits = given is not None and wanted in (None, given.wanted_precision)
    if given is not None and fits and not cfg.calibrate:
        return given
    default = given.wanted_precision if given else Calibration.wanted_precision
    try:
        return history.calibrated_again(candidate, wanted or default, write=cfg.calibrate)
    except (DataError, RunError) as error:
        if cfg.calibrate or wanted is not None:
            raise
        log.warning("not calibrated: %s", error)
        return Calibration()


def _judged(candidate: Candidate, index: Index, rows: Ints, cache_dir: str) -> tuple[Floats, float]:
    """(n, classes) probabilities of the pictures, and the seconds that they took."""
    array = pixels.decoded(index, candidate.sides[0], cache_dir)
    starts = range(0, len(rows), BATCH)
    begun = time.perf_counter()
    said = [
        candidate.judge(candidate.prepared(array[rows[start : start + BATCH]]))
        for start in track(starts, "judging", len(starts))
    ]
    probabilities = np.concatenate(said)
    if not np.isfinite(probabilities).all():
        raise RunError(f"{candidate.path} says nothing that is a number: its training diverged.")
    return probabilities, time.perf_counter() - begun
