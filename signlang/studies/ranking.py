"""Ranking of the settings of a study: paired comparisons and their tests."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from omegaconf import DictConfig, OmegaConf

from signlang.arrays import Flags, Floats
from signlang.console import log
from signlang.data.index import Clusters
from signlang.errors import RunError, listing
from signlang.files import BUNDLE_MANIFEST, expanded
from signlang.metrics.classification import Predictions, Proportion
from signlang.metrics.significance import (
    Comparison,
    Difference,
    corrected_t_p,
    corrected_t_test,
    holm,
    mcnemar,
    paired_difference,
)
from signlang.runs.folder import RECORD, find_folder, fold_folders
from signlang.runs.lifecycle import FoldState, unfinished_fold
from signlang.runs.results import Run
from signlang.studies.study import Setting, Study, accuracy_by_fold, read_study


@dataclass(frozen=True, eq=False)
class Row:
    """One setting of a leaderboard.

    Attributes:
        setting: With its runs.
        label: Its short name.
        rank: Its place among the settings whose folds hold the same images, from 1.
        best: The best setting whose folds hold the same images; may be this one.
        accuracy: On all images of the finished folds, with its interval.
        p: Of the corrected resampled t-test against `best`, Holm-corrected for all pairs of
            settings whose folds hold the same images, as the best is chosen by the same accuracies;
            None for the best itself, and where the folds of the two are not the same.
        p_mcnemar: Of McNemar's test on the pooled predictions, corrected likewise; None likewise,
            and where images are not independent.
        comparison: Accuracy of `best` less this one's, fold by fold; None where `p` is None.
        difference: The same, image by image, with an interval that holds for all those pairs at
            once (Bonferroni); None for the best itself, and without images that both saw.
        best_label: The short name of `best`.
    """

    setting: Setting
    label: str
    rank: int
    best: Setting
    accuracy: Proportion
    p: float | None
    p_mcnemar: float | None
    comparison: Comparison | None
    difference: Difference | None
    best_label: str


@dataclass(frozen=True, eq=False)
class Pair:
    """Two settings that differ in the split alone: the bias of random folds.

    Attributes:
        random: Its folds are assigned at random.
        apart: Its folds keep signers, or neighbouring frames, apart.
        label: What both share.
        difference: Accuracy of `random` less that of `apart`, with its 95 % interval by cluster.
    """

    random: Setting
    apart: Setting
    label: str
    difference: Difference


@dataclass(frozen=True, eq=False)
class Ranking:
    """The settings of a study in order, with the tests between them.

    Attributes:
        study: What was compared.
        rows: The most accurate first.
        pairs: Paired comparisons of splits; may be empty.
    """

    study: Study
    rows: Sequence[Row]
    pairs: Sequence[Pair]


# settings in which the two of a pair may differ
SPLIT_KEYS: Final = ("split.name", "split.blocks", "split.gap")


def rank_settings(study: Study) -> Ranking:
    """Rank the settings of a study and test each against the best whose folds are the same.

    Settings that share their folds stand together, the complete ones first, the most accurate
    first; they are tested and corrected for their number among themselves. The best is chosen by
    the accuracies that are tested, so it is not the correction for comparisons with one setting
    that holds, but that for all pairs.

    Raises:
        RunError: If predictions cannot be read, or settings that should share images do not.
    """
    groups = defaultdict(list)
    first: dict[str, Run] = {}  # of each data set
    for setting in study.settings:
        _check_folds(setting, first)
        groups[setting.fold_assignment].append(setting)
    rows = [row for group in groups.values() for row in _rows(study, group)]
    return Ranking(study, rows, _split_pairs(study))


def warn_of_unusable(study: Study) -> None:
    """Say which finished runs of a study are passed over, because they are damaged."""
    for setting in study.incomplete:
        for fold, reason in sorted(setting.missing.items()):
            if reason.state is FoldState.UNUSABLE:
                log.warning("fold %d of %s is left out: it %s", fold, setting.folder, reason)


def choose_run(word: str, runs_dir: Path) -> Path:
    """The run folder that `run=word` names; of several runs the best by the ranking.

    Of a study it is the setting with the highest cross-validated accuracy, complete ones first, and
    of a setting the first finished fold: the folds of a setting differ by chance.

    Args:
        word: See `runs.folder.find_folder`.
        runs_dir: The folder of the studies.

    Returns:
        The folder; it is the caller's to check that the run in it is finished.

    Raises:
        SignlangError: If no run, or several of no common study, have that name.
    """
    folds, why = _find_runs(word, runs_dir)
    if len(folds) > 1 and not why:
        why = f"the first of {len(folds)} finished folds"
    _log_choice(word, folds[0], why)
    return folds[0]


def choose_members(word: str, runs_dir: Path, *, seeds: bool = False) -> list[Path]:
    """The run folders of all finished folds of the setting that `run=word` names.

    Of a study it is the setting that `choose_run` takes; a word that names one fold means that one.

    Args:
        word: See `runs.folder.find_folder`.
        runs_dir: The folder of the studies.
        seeds: Also those of the settings of its study that differ in the seed alone.

    Raises:
        SignlangError: As `choose_run`.
    """
    folds, why = _find_runs(word, runs_dir)
    _log_choice(word, folds[0].parent if len(folds) > 1 else folds[0], why)
    if not seeds:
        return folds
    setting = folds[0].resolve().parent
    study, fold_names = read_study(setting.parent), {path.name for path in folds}
    chosen = next((one for one in study.settings if one.name == setting.name), None)
    if chosen is None:
        raise RunError(f"run={word}: {setting} is no setting of a study with a finished run.")
    same_but_seed = [one for one in study.settings if _without_seed(one) == _without_seed(chosen)]
    return [run.path for one in same_but_seed for run in one.runs if run.path.name in fold_names]


def _without_seed(setting: Setting) -> tuple[str, str]:
    run = setting.runs[0]
    settings = {k: value for k, value in run.settings.items() if k.rpartition(".")[2] != "seed"}
    return json.dumps(settings, sort_keys=True), str(run.record["data"]["fingerprint"])


def _find_runs(word: str, runs_dir: Path) -> tuple[list[Path], str]:
    """The finished runs that a word names, and why this setting of several."""
    folder = find_folder(word, runs_dir)
    if folder.is_file() or any((folder / name).is_file() for name in (RECORD, BUNDLE_MANIFEST)):
        return [folder], ""
    folds = fold_folders(folder)
    if folds:
        runs = [path for path in folds.values() if (path / "metrics.json").is_file()]
        states = "; ".join(
            f"{p.name} {unfinished_fold(p)}" for p in folds.values() if p not in runs
        )
        if not runs:
            raise RunError(f"run={word}: no fold of {folder} is finished: {states}.")
        return runs, ""
    if not folder.is_dir() or not any(fold_folders(inner) for inner in folder.iterdir()):
        return [folder], ""
    study = read_study(folder)
    warn_of_unusable(study)
    best = min(study.settings, key=lambda s: (not s.is_complete, -s.recorded_accuracy, s.name))
    comparable = [s for s in study.settings if s.fold_assignment == best.fold_assignment]
    other_count = len(study.settings) - len(comparable)
    why = (
        f"the best of {len(comparable)} settings by the accuracy over folds "
        f"({best.recorded_accuracy:.4f}, {len(best.runs)} of {best.folds} folds)"
        if len(comparable) > 1
        else f"the only setting (accuracy {best.recorded_accuracy:.4f})"
    )
    if other_count:
        why += f"; {other_count} more have other data or folds, and cannot be ranked with it"
    return [run.path for run in best.runs], why


def locate_run(cfg: DictConfig) -> None:
    """Put the path of the run folder in the place of the name that `cfg.run` is.

    Raises:
        SignlangError: As `choose_run`.
    """
    if not OmegaConf.is_missing(cfg, "run") and cfg.run is not None:
        cfg.run = str(choose_run(str(cfg.run), expanded(str(cfg.runs_dir))))


def locate_members(cfg: DictConfig) -> None:
    """Put a list of run folders in the place of `cfg.run`: several are an ensemble.

    With `cfg.ensemble` each name stands for what `choose_members` finds.

    Raises:
        SignlangError: As `choose_run`, and if an ensemble has one member only.
    """
    if OmegaConf.is_missing(cfg, "run") or cfg.run is None:
        return
    words = [str(word) for word in (cfg.run if OmegaConf.is_list(cfg.run) else [cfg.run])]
    runs_dir = expanded(str(cfg.runs_dir))
    if cfg.ensemble not in {"folds", "seeds"}:
        cfg.run = [str(choose_run(word, runs_dir)) for word in words]
        return
    seeds = cfg.ensemble == "seeds"
    members = [path for word in words for path in choose_members(word, runs_dir, seeds=seeds)]
    if len(members) == 1:
        raise RunError(
            f"ensemble={cfg.ensemble}: {members[0]} is one run. Name a study, the folder of "
            "several folds, or several runs."
        )
    cfg.run = [str(path) for path in members]


def _log_choice(word: str, chosen: Path, why: str) -> None:
    """Say which run was taken, where the word is not its path."""
    if expanded(word) != chosen:
        log.info("run=%s is %s%s", word, chosen, f": {why}" if why else "")


LEVEL: Final = 0.05


def _rows(study: Study, group: Sequence[Setting]) -> list[Row]:
    ranked = sorted(group, key=lambda s: (not s.is_complete, -s.mean("accuracy"), s.name))
    best = ranked[0]
    for setting in ranked[1:]:
        _check_images(best, setting)
    tests = [_over_folds(best, setting) for setting in ranked[1:]]
    p_values = _adjusted(_p_over_folds(ranked), len(tests))
    p_images = _adjusted(_p_over_images(ranked), len(tests))
    names = [study.label(setting) for setting in ranked]
    confidence = 1 - LEVEL / max(1, len(ranked) * (len(ranked) - 1) // 2)
    nothing: list[None] = [None]
    return [
        Row(
            setting=setting,
            label=name,
            rank=rank,
            best=best,
            accuracy=setting.predictions.accuracy,
            p=p,
            p_mcnemar=p_image,
            comparison=test,
            difference=None if setting is best else _difference(best, setting, confidence),
            best_label=names[0],
        )
        for rank, (setting, name, test, p, p_image) in enumerate(
            zip(ranked, names, nothing + tests, nothing + p_values, nothing + p_images,
                strict=False),
            start=1,
        )
    ]  # fmt: skip


def _over_folds(best: Setting, other: Setting) -> Comparison | None:
    """Test the differences on the folds that both finished; None with fewer than two."""
    accuracy_of = {run.fold: run.metric("accuracy") for run in other.runs}
    differences = [
        run.metric("accuracy") - accuracy_of[run.fold]
        for run in best.runs
        if run.fold in accuracy_of
    ]
    return corrected_t_test(differences, best.test_share) if len(differences) > 1 else None


def _p_over_folds(settings: Sequence[Setting]) -> Floats:
    """(pairs,) p values of `_over_folds` for all pairs, those with the first setting first."""
    accuracy = accuracy_by_fold(settings)
    return np.concatenate([
        corrected_t_p(accuracy[position] - accuracy[position + 1 :], setting.test_share)
        for position, setting in enumerate(settings)
    ])  # fmt: skip


def _p_over_images(settings: Sequence[Setting]) -> Floats:
    """(pairs,) p values of McNemar's test on the images that both were tested on, likewise.

    Nan where there are none, and everywhere if images are not independent: the test takes each for
    a toss of its own, and finds differences that are not there.
    """
    predictions = [setting.predictions for setting in settings]
    first, second = np.triu_indices(len(settings), 1)
    if not all(one.clusters is None or one.clusters.are_images for one in predictions):
        return np.full(len(first), np.nan)
    column_of = {
        path: row for row, path in enumerate({p: None for one in predictions for p in one.paths})
    }
    # whole numbers of up to 2^24 are exact
    correct, wrong = np.zeros((2, len(settings), len(column_of)), dtype=np.float32)
    for row, one in enumerate(predictions):
        columns = [column_of[path] for path in one.paths]
        correct[row, columns], wrong[row, columns] = one.correct, ~one.correct
    only_first = correct @ wrong.T  # images that the first recognises and the second does not
    shared = (correct + wrong) @ (correct + wrong).T
    return np.where(
        shared[first, second] > 0,
        mcnemar(only_first[first, second], only_first[second, first]),
        np.nan,
    )


def _adjusted(p_values: Floats, count: int) -> list[float | None]:
    """Holm's correction of those that are there; the first ones of it.

    >>> _adjusted(np.array([np.nan, 0.01, 0.04]), 2)
    [None, 0.02]
    """
    is_there = np.isfinite(p_values)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[is_there] = holm(p_values[is_there])
    return [None if np.isnan(p) else float(p) for p in adjusted[:count]]


def _difference(one: Setting, other: Setting, confidence: float) -> Difference | None:
    """How much more accurate one is on the images that both saw; None without any."""
    a, b, clusters = _in_both(one.predictions, other.predictions)
    if not len(a):
        return None
    return paired_difference(a, b, None if clusters is None else clusters.names, confidence)


def _in_both(one: Predictions, other: Predictions) -> tuple[Flags, Flags, Clusters | None]:
    """(n,) whether each recognised the images that both saw, and which of those are alike."""
    row_of = {path: position for position, path in enumerate(other.paths)}
    own_rows = [position for position, path in enumerate(one.paths) if path in row_of]
    other_rows = [row_of[one.paths[position]] for position in own_rows]
    clusters = None if one.clusters is None else one.clusters[own_rows]
    return one.correct[own_rows], other.correct[other_rows], clusters


def settings_without_split(run: Run) -> tuple[str, str]:
    """What a run shares with those that differ from it in nothing but the fold assignment."""
    shared = {key: value for key, value in run.settings.items() if key not in SPLIT_KEYS}
    return json.dumps(shared, sort_keys=True), str(run.record["data"]["fingerprint"])


def _split_pairs(study: Study) -> list[Pair]:
    """Settings that differ in nothing but the fold assignment, random against apart."""
    groups: dict[Any, list[Setting]] = defaultdict(list)
    for setting in study.settings:
        if setting.search is not None:
            continue  # its folds have different settings
        groups[settings_without_split(setting.runs[0])].append(setting)
    results = [
        _compare_splits(study, random, apart)
        for group in groups.values()
        for random in group
        for apart in group
        if random.split == "stratified" and apart.split in {"signer", "blocks"}
    ]
    return [pair for pair in results if pair is not None]


def _compare_splits(study: Study, random: Setting, apart: Setting) -> Pair | None:
    difference = _difference(random, apart, 1 - LEVEL)
    if difference is None:
        return None
    return Pair(random, apart, study.label(random, without="split"), difference)


def _check_folds(setting: Setting, first: dict[str, Run]) -> None:
    """Refuse folds that know other classes than the first run of their data, or share images.

    Raises:
        RunError: With the two files.
    """
    run_of: dict[str, Run] = {}
    for run in setting.runs:
        reference = first.setdefault(run.record["data"]["fingerprint"], run)
        if run.predictions.classes != reference.predictions.classes:
            raise RunError(_mismatch_text(reference, run, "classes.json", "classes"))
        duplicates = [path for path in run.predictions.paths if path in run_of]
        if duplicates:
            raise RunError(
                f"{run.path / 'predictions.csv'} and "
                f"{run_of[duplicates[0]].path / 'predictions.csv'} hold the same image, "
                f"{duplicates[0]}: an image is tested in one fold. Train both again with "
                "overwrite=true."
            )
        run_of |= dict.fromkeys(run.predictions.paths, run)


def _check_images(one: Setting, other: Setting) -> None:
    """Refuse settings that should have been tested on the same images but were not.

    Raises:
        RunError: With the two files.
    """
    run_of_fold = {run.fold: run for run in other.runs}
    for run in one.runs:
        match = run_of_fold.get(run.fold)
        if match is None or _same_images(run.predictions, match.predictions):
            continue
        if _labels(run) != _labels(match):
            differing = sorted({path for path, _ in _labels(run) ^ _labels(match)})
            raise RunError(
                _mismatch_text(run, match, "predictions.csv", "images") + listing(differing, 3)
            )


def _same_images(one: Predictions, other: Predictions) -> bool:
    """Whether both are of the same images in the same order."""
    return one.paths == other.paths and np.array_equal(one.labels, other.labels)


def _labels(run: Run) -> set[tuple[str, int]]:
    return set(zip(run.predictions.paths, run.predictions.labels.tolist(), strict=True))


def _mismatch_text(one: Run, other: Run, file: str, what: str) -> str:
    return (
        f"{one.path / file} and {other.path / file} hold different {what}, although both "
        "runs have the same data fingerprint: one of them was changed. Train it again with "
        "overwrite=true, or move it out of the study."
    )


SPLITS: Final = ("stratified", "signer", "blocks", "dataset")  # in the order of a table


@dataclass(frozen=True)
class CrossValidation:
    """A setting on all of its folds.

    Attributes:
        split: How images were assigned to folds.
        split_text: Likewise in words.
        mean: Of the accuracy over the finished folds.
        spread: Two standard deviations over them.
        finished: Folds.
        folds: That there are.
        accuracy: On all images of the finished folds, with its interval.
        clusters: Which of these images are alike.
    """

    split: str
    split_text: str
    mean: float
    spread: float
    finished: int
    folds: int
    accuracy: Proportion
    clusters: Clusters | None


def cross_validation(run: Run) -> list[CrossValidation]:
    """The setting of a run, and those that differ from it in the split alone.

    Args:
        run: In `runs/<study>/<what was chosen>/fold=<k>`; elsewhere there are none.

    Raises:
        RunError: If other runs of the study cannot be compared.
    """
    folder = run.path.resolve()
    if not folder.name.startswith("fold="):
        return []
    study = read_study(folder.parent.parent, known=run)
    own = [setting for setting in study.settings if setting.path.name == folder.parent.name]
    keys = {settings_without_split(setting.runs[0]) for setting in own}
    results = [
        _cross_validation_of(setting)
        for setting in study.settings
        if settings_without_split(setting.runs[0]) in keys
        and len(setting.runs) > 1
        and setting.search is None
    ]
    return sorted(
        results, key=lambda one: SPLITS.index(one.split) if one.split in SPLITS else len(SPLITS)
    )


def _cross_validation_of(setting: Setting) -> CrossValidation:
    return CrossValidation(
        setting.split,
        setting.split_text,
        setting.mean("accuracy"),
        setting.two_deviations("accuracy"),
        len(setting.runs),
        setting.folds,
        setting.predictions.accuracy,
        setting.predictions.clusters,
    )
