"""Predictions of many runs and calibrations of their settings, read and fitted by processes.

Only what raises no error and logs nothing is taken from them: the rest is read again where it is
used, so that errors and warnings come in the same order, with processes and without.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from signlang.console import log
from signlang.data.image_io import batched
from signlang.data.workers import Submit, background_processes
from signlang.errors import RunError
from signlang.metrics.classification import Predictions, classification_metrics
from signlang.runs.folder import RunFolder
from signlang.runs.results import read_predictions
from signlang.studies.study import CrossFit, Setting, Study, cross_fits, wanted_precision
from signlang.system import cpu_count

FEWEST: Final = 200  # settings; for fewer, starting processes takes longer than they save
READ: Final = 5  # settings that are sent at a time
FITTED: Final = 25
IMAGES: Final = 20_000  # that are fitted at a time, for the sake of memory
Result = TypeVar("Result")
Measured = tuple[Predictions, dict[str, float]]


@contextmanager
def prefetched(study: Study) -> Iterator[None]:
    """Read predictions and compute their metrics; fit calibrations while the block runs.

    Args:
        study: Its runs and settings get the results, in place of what they do when asked.
    """
    if len(study.settings) < FEWEST or cpu_count() < 2:
        yield
        return
    shared: dict[object, Predictions] = {}
    with background_processes() as submit:
        runs = [[(run.path, run.fold) for run in setting.runs] for setting in study.settings]
        measured = _in_order(submit(partial(_measure_all, asked_by=os.getpid()), runs, READ))
        to_fit = {}
        for setting, results in zip(study.settings, measured, strict=True):
            for run, result in zip(setting.runs, results, strict=True):
                if result is not None:
                    run.set_predictions(_with_shared_lists(result[0], shared), result[1])
            predictions = [_without_images(result[0]) for result in results if result is not None]
            if len(predictions) == len(setting.runs) and not setting.not_calibrated:
                to_fit[setting] = predictions
        _submit_fits(submit, to_fit)
        yield


def _in_order(futures: Iterable[Future[list[Result]]]) -> Iterator[Result]:
    for future in futures:
        yield from future.result()


def _submit_fits(submit: Submit, predictions: Mapping[Setting, Sequence[Predictions]]) -> None:
    tasks = [(setting.runs[0].path, of_folds) for setting, of_folds in predictions.items()]
    images = max((sum(len(fold.labels) for fold in of_folds) for _, of_folds in tasks), default=1)
    at_once = max(1, min(FITTED, IMAGES // images))
    chunks = list(batched(tasks, at_once))
    futures = submit(partial(_fit_all, asked_by=os.getpid()), chunks, 1)
    for number, setting in enumerate(predictions):
        chunk, position = divmod(number, at_once)
        setting.expect_cross_fit(partial(_result, futures[chunk], position))


def _result(future: Future[list[list[CrossFit | None]]], position: int) -> CrossFit | None:
    return future.result()[0][position]


def _without_images(predictions: Predictions) -> Predictions:
    """What a calibration is fitted on."""
    return replace(predictions, paths=(), signers=None, sets=None, clusters=None)


def _with_shared_lists(predictions: Predictions, shared: dict[object, Predictions]) -> Predictions:
    """The same with the lists of another that are equal: the settings of a study share images."""
    images = predictions.clusters
    key = (
        predictions.classes, predictions.paths, predictions.signers, predictions.sets,
        images and (images.kind, images.names.tobytes()),
    )  # fmt: skip
    first = shared.setdefault(key, predictions)
    return replace(
        predictions, classes=first.classes, paths=first.paths, signers=first.signers,
        sets=first.sets, clusters=first.clusters,
    )  # fmt: skip


def _measure_all(runs: Sequence[tuple[Path, int]], asked_by: int) -> list[Measured | None]:
    """Predictions of runs and their metrics; None in the process that asks: nobody sees its log."""
    if os.getpid() == asked_by:
        return [None] * len(runs)
    return [_silently(partial(_measure, path, fold)) for path, fold in runs]


def _fit_all(
    settings: Sequence[tuple[Path, Sequence[Predictions]]], asked_by: int
) -> list[CrossFit | None]:
    """The calibrations of settings; None likewise."""
    fitted: list[CrossFit | None] = [None] * len(settings)
    if os.getpid() == asked_by:
        return fitted
    groups: dict[object, dict[int, tuple[Predictions, float]]] = {}
    for number, (run, of_folds) in enumerate(settings):
        precision = _silently(partial(wanted_precision, run))
        if precision is not None:
            pooled = Predictions.concatenate(of_folds)
            key = pooled.probabilities.shape, pooled.labels.tobytes(), pooled.folds.tobytes()
            groups.setdefault(key, {})[number] = pooled, precision
    for group in groups.values():
        predictions, precisions = zip(*group.values(), strict=True)
        for number, result in zip(group, cross_fits(predictions, precisions), strict=True):
            fitted[number] = result
    return fitted


def _measure(path: Path, fold: int) -> Measured:
    predictions = read_predictions(RunFolder(path), fold)
    return predictions, classification_metrics(predictions.probabilities, predictions.labels)


def _silently(function: Callable[[], Result]) -> Result | None:
    """The result of a function; None if it logs anything, or refuses a run."""
    counter = _Counter()
    log.handlers, log.propagate = [counter], False
    try:
        result = function()
    except RunError:
        return None
    return None if counter.count else result


class _Counter(logging.Handler):
    """Counts records."""

    def __init__(self) -> None:
        """Start at 0."""
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self.count += 1
