"""Life cycle of a run without torch: read the data, lock the folder, start, report; its states."""

import errno
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from signlang import system, validation
from signlang.arrays import Flags, Ints
from signlang.components import TARGET
from signlang.console import REMARK, log, log_to, show_table
from signlang.constraints import typed
from signlang.data import collection
from signlang.data.index import Index, distinct_name, other_root, place_of
from signlang.data.sources import images_root
from signlang.data.splits import Fold, split_name
from signlang.errors import (
    DataError,
    DivergedError,
    RunError,
    SignlangError,
    WeightsError,
    listing,
)
from signlang.files import data_set_name, expanded, joined_name, read_csv
from signlang.hands.hand_input import HandInput, build_input
from signlang.runs import identity
from signlang.runs.folder import CHECKED, Divergence, RunFolder
from signlang.runs.results import OPTIMISTIC

DEBUG: Final = "debug"  # study of conf/debug
PARTIAL: Final = ("fast_dev_run", "overfit_batches", "limit_val_batches", "limit_test_batches")
UNEVEN: Final = 3  # images of the largest class for each of the smallest
OWN_SOURCES: Final = "signlang.data.sources."


def read_fold(cfg: DictConfig) -> Fold:
    """Read and check all images, and assign them to train, validation and test."""
    images = fold_of(cfg)
    hand_input_of(cfg)  # its networks must be there, before anything is read
    subsets, index = images.subsets, images.index
    log.info(
        "%s: %d images of %d classes%s; fold %d of %d (%s): %d train, %d validation, %d test",
        cfg.data.name, len(index), len(index.classes),
        f" by {len(set(index.signers) - {''})} signers" if index.signers else "",
        cfg.fold, cfg.folds, split_name(cfg.split),
        len(subsets.train), len(subsets.validation), len(subsets.test),
    )  # fmt: skip
    return images


def fold_of(cfg: DictConfig) -> Fold:
    """The fold that a configuration names; nothing is read yet."""
    return Fold(
        data=plain(cfg.data),
        split=plain(cfg.split),
        folds=cfg.folds,
        fold=cfg.fold,
        batch_size=cfg.batch_size,
        cache_dir=cfg.cache_dir,
    )


def plain(node: DictConfig) -> dict[str, Any]:
    """A node of the configuration as a dictionary, resolved."""
    content: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return content


def run_folder(cfg: DictConfig, overrides: Sequence[str]) -> RunFolder:
    """The run folder that belongs to a configuration and its command-line overrides.

    A run that an earlier version named in another way keeps its folder, and so do its other folds.
    """
    study, fold = str(cfg.study), f"fold={cfg.fold}"
    study_folder = expanded(cfg.runs_dir) / (DEBUG if is_dev_run(cfg) else study)
    model = str(cfg.model.name)
    chosen = identity.chosen_settings(overrides, study, str(cfg.data.name))
    name = identity.name_of(model, chosen)
    folders = [study_folder / name, study_folder / identity.former_name(model, study, overrides)]
    if not any((folder / fold / "record.json").is_file() for folder in folders):
        folders += [p for p in study_folder.glob("*,*") if identity.current_name(p) == name]
    started = [folder for folder in folders if (folder / fold / "record.json").is_file()]
    existing = [folder for folder in folders if folder.is_dir()]
    return RunFolder([*started, *existing, study_folder / name][0] / fold)


def is_dev_run(cfg: DictConfig) -> bool:
    """Whether this is Lightning's fast_dev_run: in a study of its own, and again at each call."""
    return bool(cfg.trainer.get("fast_dev_run"))


def partial_data(cfg: DictConfig) -> list[str]:
    """The settings that restrict the metrics to some of the validation or test images."""
    limits = {key: cfg.trainer.get(key) for key in PARTIAL}
    return [f"trainer.{key}={typed(v)}" for key, v in limits.items() if v and not _is_whole(v)]


def _is_whole(limit: Any) -> bool:
    return isinstance(limit, float) and limit == 1


def metrics_of_trained_run(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any] | None:
    """Metrics of a run that is finished already; None if it must be started."""
    try:
        folder = run_folder(cfg, overrides)
        metrics = None if cfg.overwrite or is_dev_run(cfg) else folder.metrics()
        if metrics is None:
            return None
        validation.check_train_config(cfg)
        if not all(target.startswith(OWN_SOURCES) for target in _sources(cfg)):
            return None  # the user's module may import torch, and workers are forked from here
        data = fold_of(cfg).index.fingerprint
        settings = identity.settings_of(cfg, _recorded_choices(folder))
        settings = identity.as_recorded(settings, folder.record())
    except SignlangError:  # the run reports it in its own log
        return None
    expected = identity.fingerprint(settings, data)
    return metrics if metrics.get("fingerprint") == expected else None


def _refuse_namesake(
    cfg: DictConfig, folder: RunFolder, index: Index, overrides: Sequence[str]
) -> None:
    """Refuse a new run in the study of another folder that has the same name.

    Raises:
        RunError: Names both folders, and how to tell them apart.
    """
    root, sets = cfg.data.root, cfg.data.get("sets")
    name = joined_name(sets) if sets else data_set_name(root)
    is_named = any(word.startswith(("study=", "data.name=")) for word in overrides)
    if is_named or not (root or sets) or str(cfg.study) != name or folder.record():
        return
    study = folder.path.parents[1]
    record_file = next(iter(sorted(study.glob("*/fold=*/record.json"))), None)
    record = RunFolder(record_file.parent).record() if record_file else None
    if record_file is None or record is None:
        return
    try:
        recorded_root = place_of(images_root(record_file.parent))
    except DataError:
        return  # they were moved
    facts = {"root": recorded_root, "fingerprint": record.get("data", {}).get("fingerprint")}
    other = other_root(facts, index)
    if other is not None:
        suggestion = distinct_name(study.name, index)
        raise RunError(
            f"{study} has the runs of another folder of that name, {other}; this one is "
            f"{index.place}. Name its study, e.g. study={suggestion}, or say study={study.name} to "
            "have both in one."
        )


def _sources(cfg: DictConfig) -> list[str]:
    """What `_target_` names of the data set, or of each set of a joined one."""
    data = plain(cfg.data)
    nodes = collection.resolved_sets(data).values() if data.get("sets") else [data]
    return [str(node["source"][TARGET]) for node in nodes]


@contextmanager
def started_run(cfg: DictConfig, images: Fold, overrides: Sequence[str]) -> Iterator[RunFolder]:
    """Lock `cfg.run_folder`, write the record of the run, and log into the folder.

    Args:
        cfg: The configuration; `run_folder` must be set, see `run_folder`.
        images: The images and their fold assignment.
        overrides: Of the command line, kept in the record.

    Raises:
        RunError: If it is in use, belongs to a run with other settings, or this one fails; the
            traceback is then in its `run.log`.
        Interrupted: If the run is interrupted, with a sentence on how to resume.
    """
    folder = RunFolder(Path(cfg.run_folder))
    index, subsets = images.index, images.subsets
    overwrite = cfg.overwrite or is_dev_run(cfg)
    if not overwrite:  # no torch to ask so far
        settings = identity.settings_of(cfg, _recorded_choices(folder))
        settings = identity.as_recorded(settings, folder.record())
        if folder.is_finished(identity.fingerprint(settings, index.fingerprint)):
            log.info("%s is finished already", folder.path)
            folder.report_changes("metrics.json", *CHECKED)
            yield folder
            return
        _refuse_namesake(cfg, folder, index, overrides)
    with folder.locked():
        with system.ending_at_once():  # torch is asked for the device
            earlier = None if overwrite else folder.record()
            precision = _machine_precision(cfg)
            if earlier is None:
                weights = FirstWeights.chosen(cfg)
                chosen = {
                    identity.PRECISION: precision,
                    identity.PRETRAINED: weights.pretrained,
                    identity.BALANCE: balance_of(index.labels, index.sets),
                }
            else:
                chosen = identity.recorded_choices(earlier)
                weights = FirstWeights(chosen.get(identity.PRETRAINED, False))
            settings = identity.as_recorded(identity.settings_of(cfg, chosen), earlier)
            data = _data_record(cfg, images)
            record = identity.record(settings, data, seed=cfg.seed, overrides=overrides)
        if earlier is not None and earlier.get("fingerprint") == record["fingerprint"]:
            _refuse_emulation(folder, earlier, record, precision)
        folder.start(record, overwrite=overwrite)
        divergence = folder.divergence()
        if divergence is not None:
            raise RunError(_divergence_text(cfg, folder, divergence))
        with log_to(folder.log), _reported_failures(cfg, folder):
            _settle_precision(cfg, settings, precision)
            weights.settle(cfg, folder, resumed=earlier is not None)
            _settle_balance(cfg, images, str(chosen[identity.BALANCE]))
            if earlier is not None and folder.last.is_file():
                _report_new_environment(earlier, record)
            _write_settings(cfg, folder, overrides)
            index.write(folder.path, subsets.names(len(index)), images_with_hand(cfg, index))
            _report_excluded(index)
            yield folder


def _data_record(cfg: DictConfig, images: Fold) -> dict[str, Any]:
    """What the record of a run says of its images."""
    index, subsets = images.index, images.subsets
    data = {
        "name": cfg.data.name,
        "fingerprint": index.fingerprint,
        "images": len(index),
        "classes": len(index.classes),
        "excluded": len(index.excluded),
        "train": len(subsets.train),
        "validation": len(subsets.validation),
        "test": len(subsets.test),
    }
    if index.cropped:
        data |= {"boxes": index.cropped, "box_margin": cfg.data.box_margin}
    return data


def _report_excluded(index: Index) -> None:
    """Name files that are in the folder and not in the data set."""
    if index.excluded:
        log.warning(
            "%d file%s left out, listed in excluded.csv:%s",
            len(index.excluded),
            "s" * (len(index.excluded) > 1),
            listing(map(str, index.excluded)),
        )


def hand_input_of(cfg: DictConfig) -> HandInput | None:
    """What the network sees of a hand; None with hands=none.

    Raises:
        SettingError: If the networks that find hands are missing.
    """
    return build_input(plain(cfg.hands) if "hands" in cfg else None, str(cfg.cache_dir))


def images_with_hand(cfg: DictConfig, index: Index) -> Flags | None:
    """(N,) whether a hand is found in each image, and a line that says in how many; or None."""
    hands = hand_input_of(cfg)
    if hands is None:
        return None
    digests = [fact.digest for fact in index.facts]
    has_hand = hands.found(index.root, index.paths, digests, str(cfg.cache_dir))
    log.info("%s", hands.summary(int(has_hand.sum()), len(has_hand)))
    return has_hand


def settle(cfg: DictConfig, images: Fold) -> None:
    """Put what `auto` means here and now in its place, for work that starts no run."""
    FirstWeights.chosen(cfg).settle(cfg, RunFolder(Path(cfg.run_folder)), resumed=False)
    _settle_balance(cfg, images, balance_of(images.index.labels))


def _recorded_choices(folder: RunFolder) -> dict[str, Any] | None:
    """What `auto` became in a run that was started.

    Raises:
        RunError: As `RunFolder.record`.
    """
    record = folder.record()
    return None if record is None else identity.recorded_choices(record)


@dataclass(frozen=True)
class FirstWeights:
    """What `model.pretrained=auto` means for a run.

    Attributes:
        pretrained: Name and digest of the weights of a hub; False from scratch.
        why: Why there are none, although the network has some; empty otherwise.
    """

    pretrained: str | bool
    why: str = ""

    @classmethod
    def chosen(cls, cfg: DictConfig) -> "FirstWeights":
        """Look for weights where they are asked for; may download them."""
        if cfg.model.pretrained != "auto" or cfg.model.weights:
            return cls(pretrained=False)
        from signlang.models import networks

        try:
            weights = networks.pretrained_weights(plain(cfg.model.network))
        except WeightsError as error:
            return cls(pretrained=False, why=str(error))
        return cls(pretrained=False if weights is None else weights.text)

    def settle(self, cfg: DictConfig, folder: RunFolder, *, resumed: bool) -> None:
        """Put the weights of the run in the place of `auto`, and say so.

        Raises:
            WeightsError: If a run that is started again was started from weights that are gone.
        """
        if cfg.model.pretrained != "auto":
            return
        if resumed and self.pretrained and not folder.last.is_file():  # it brings its own
            available = FirstWeights.chosen(cfg)
            if available.pretrained != self.pretrained:
                raise WeightsError(
                    f"{folder.path} was started from {self.pretrained}, which is not there any "
                    f"more{f', but {available.pretrained}' if available.pretrained else ''}: start "
                    "it again with overwrite=true."
                )
        if self.why:
            text = "model.pretrained=auto: training from scratch. %s"
            log.warning(text, self.why, extra=REMARK)
        elif not cfg.model.weights and (self.pretrained or resumed):
            start = self.pretrained or "from scratch"
            log.info("model.pretrained=auto: %s%s", start, ", as it was started" * resumed)
        cfg.model.pretrained = self.pretrained


def _machine_precision(cfg: DictConfig) -> str:
    return system.choose_precision(str(cfg.trainer.precision), str(cfg.trainer.accelerator))


def _refuse_emulation(
    folder: RunFolder, earlier: Mapping[str, Any], record: Mapping[str, Any], precision: str
) -> None:
    """Refuse to resume in bfloat16 where it is emulated: one run has one precision.

    Raises:
        RunError: With both ways out.
    """
    started = identity.recorded_choices(earlier).get(identity.PRECISION)
    if started == "bf16-mixed" and precision == "32-true":
        raise RunError(
            f"{folder.path} was started in {started} on {earlier.get('processor', 'unknown')}, "
            f"which {record['processor']} only emulates: resume it on a machine like the first, or "
            f"start it again here, in {precision}, with overwrite=true."
        )


def _settle_precision(cfg: DictConfig, settings: Mapping[str, Any], precision: str) -> None:
    """Put the precision of the run in the place of `auto`, and say so."""
    if cfg.trainer.precision != "auto":
        return
    started = settings[identity.PRECISION]
    cfg.trainer.precision = precision if started == "auto" else started
    kept = ", in which the run was started" if started not in {"auto", precision} else ""
    log.info("trainer.precision=auto: %s%s", cfg.trainer.precision, kept)


def balance_of(labels: Ints, sets: Sequence[str] | None = None) -> str:
    """What `balance=auto` means: whether the largest class is `UNEVEN` times the smallest.

    Of joined data sets, whether that holds for the classes or for the sets.

    Args:
        labels: (N,) labels.
        sets: (N,) the set of each image, or None.

    >>> balance_of(np.array([0, 1, 1, 1])), balance_of(np.array([0, 1, 1, 1, 1]))
    ('none', 'sampler')
    """
    counts = np.bincount(labels)
    if sets is None:
        return "sampler" if counts.max() > UNEVEN * counts.min() else "none"
    sizes = np.unique(np.array(sets), return_counts=True)[1]
    uneven = any(some.max() > UNEVEN * some.min() for some in (counts, sizes))
    return "set" if uneven else "none"


def _settle_balance(cfg: DictConfig, images: Fold, chosen: str) -> None:
    """Put what the run does about uneven classes in the place of `auto`, and say so."""
    if cfg.balance != "auto":
        return
    cfg.balance, index = chosen, images.index
    if chosen == "set":
        log.warning(
            "balance=auto: the classes or the sets are uneven; the run is trained with "
            "balance=set, which draws the classes equally often, of each its sets, and of each "
            "set its signers; balance=none takes the images as they are.",
            extra=REMARK,
        )
    elif balance_of(index.labels) != "none":
        counts = np.bincount(index.labels)
        largest, smallest = index.classes[counts.argmax()], index.classes[counts.argmin()]
        log.warning(
            "balance=auto: the classes are uneven, %d images of %s and %d of %s; the run is "
            "trained with balance=%s%s",
            counts.max(), largest, counts.min(), smallest, chosen,
            ", as it was started." if chosen == "none" else
            ", which draws them equally often; balance=none takes them as they are.",
            extra=REMARK,
        )  # fmt: skip


def _report_new_environment(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Say in one line what is other than when the run was started."""
    before, after = map(identity.recorded_environment, (earlier, record))
    recorded = {key: value for key, value in before.items() if value is not None}
    changed = identity.differences(recorded, {key: after[key] for key in recorded})
    if changed:
        log.warning("the run is resumed on another machine or version: %s", "; ".join(changed))


def show_metrics(folder: RunFolder, metrics: Mapping[str, Any]) -> None:
    """Print metrics and folder of a finished run, and the command of its dashboards."""
    cost, test = metrics["cost"], metrics["test"]
    latency_note = ", measured beside other jobs" if cost.get("latency_alone") is False else ""
    measured = {} if cost["flops"] is None else {
        "FLOPs (fvcore, multiply-add = 1)": f"{cost['flops'] / 1e6:,.2f} M",
        "time per image (1 thread)": f"{cost['latency_ms']:.2f} ms{latency_note}",
    }  # fmt: skip
    partial = ", ".join(metrics.get("partial", []))
    remarks = " ".join(metrics.get("remarks", ()))
    in_sample = " (in-sample: the test fold selected the checkpoint)"
    show_table(
        f"{metrics['model']} on {metrics['data']}, fold {metrics['fold']} of {metrics['folds']} "
        f"({metrics['split']} split, {metrics['protocol']})",
        {
            "test accuracy": f"{test['accuracy']:.4f}",
            **_per_set(test),
            "test macro F1": f"{test['macro_f1']:.4f}",
            "test calibration error": f"{test['calibration_error']:.4f}"
            + in_sample * (metrics["protocol"] == OPTIMISTIC),
            "parameters": f"{cost['parameters']:,}",
            "size": f"{cost['size_mb']:.1f} MB",
            **measured,
            "training": f"{metrics['epochs']} epochs, {metrics['seconds']:.0f} s, "
            f"{metrics['images_per_second']:.0f} images/s",
            **({"part of the images only": partial} if partial else {}),
            **({"warning": escape(remarks)} if remarks else {}),
        },
        {
            "run folder": str(folder.path),
            "dashboards": f"tensorboard --logdir {shlex.quote(str(folder.path.parents[1]))}",
        },
    )


def _per_set(test: Mapping[str, Any]) -> dict[str, str]:
    """Accuracy on each of several data sets."""
    sets = test.get("per_set") or {}
    if len(sets) < 2:
        return {}
    return {
        f"  on {name}": f"{one['accuracy']:.4f} ({one['images']:,} images)"
        for name, one in sets.items()
    }


@contextmanager
def _reported_failures(cfg: DictConfig, folder: RunFolder) -> Iterator[None]:
    """Log the traceback of a failure, and raise one sentence for the user."""
    try:
        yield
    except DivergedError as error:
        divergence = Divergence(error.epoch, str(error.loss))
        folder.mark_diverged(divergence)
        text = _divergence_text(cfg, folder, divergence)
        log.error("%s", text, exc_info=True)
        raise RunError(text) from error
    except SignlangError as error:
        log.error("%s", error, exc_info=True)
        raise
    except (system.StopRequested, KeyboardInterrupt, SystemExit) as error:
        log.info("interrupted", exc_info=True)
        history = folder.path / "history.csv"
        progress = f" after {len(read_csv(history))} finished epochs" if history.is_file() else ""
        effect = "resumes it" if folder.last.is_file() else "starts it again"
        raise system.interruption(f"Interrupted{progress}. The same command {effect}.") from error
    except Exception as error:
        log.error("the run failed", exc_info=True)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise RunError(
                f"The disk is full: {error.filename or folder.path} was not written. Free some "
                "space and repeat the command: it resumes after the last finished epoch."
            ) from error
        raise RunError(
            f"The run failed: {type(error).__name__}: {error}\n"
            f"The traceback is in {folder.log}. Fix the cause; the same command resumes the run."
        ) from error


def _divergence_text(cfg: DictConfig, folder: RunFolder, divergence: Divergence) -> str:
    """What is wrong, where, and which settings help."""
    rate = cfg.optimizer.get("lr")
    advice = [f"lower optimizer.lr (it is {rate:g})"] if rate else []
    if not cfg.trainer.gradient_clip_val:
        advice.append("set trainer.gradient_clip_val=1.0")
    if cfg.trainer.precision != "32-true":
        advice.append("set trainer.precision=32-true")
    return (
        f"The training of {folder.path} diverged: {divergence}. "
        f"{' or '.join(advice or ['Choose other settings']).capitalize()}; "
        "overwrite=true trains it again as it is."
    )


def _write_settings(cfg: DictConfig, folder: RunFolder, overrides: Sequence[str]) -> None:
    hydra_folder = folder.path / ".hydra"
    hydra_folder.mkdir(exist_ok=True)
    if cfg.data.get("sets"):  # as they were found, for those who look for the images
        cfg.data.sets = collection.resolved_sets(plain(cfg.data))
    OmegaConf.save(cfg, hydra_folder / "config.yaml", resolve=True)
    OmegaConf.save(OmegaConf.create(list(overrides)), hydra_folder / "overrides.yaml")


PATH: Final = re.compile(r"[\w.-]*(/[\w.-]*)+")  # means nothing else to Hydra or a shell
LOG_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")  # others continue the one before


class FoldState(Enum):
    """State of a fold that has no result to count."""

    NOT_STARTED = "was not started"
    UNFINISHED = "is not finished"
    FAILED = "failed"
    UNUSABLE = "cannot be used"  # damaged: the same command must replace what is there
    DIVERGED = "diverged"  # the same command would give the same result
    PARTIAL = "saw only a part of the images"  # likewise


@dataclass(frozen=True)
class MissingFold:
    """Why a fold is missing.

    Attributes:
        state: What became of it.
        detail: What else is known, in a few words.

    >>> print(MissingFold(FoldState.UNFINISHED, "3 epochs done"))
    is not finished (3 epochs done)
    """

    state: FoldState
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.state.value} ({self.detail})" if self.detail else self.state.value


def unfinished_fold(path: Path) -> MissingFold:
    """State of a run that was started and has no metrics.

    Args:
        path: Its folder.
    """
    divergence = RunFolder(path).divergence()
    if divergence is not None:
        return diverged_fold(divergence)
    try:
        lines = (path / "run.log").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    heads = [line for line in lines if LOG_LINE.match(line)]
    if heads and " ERROR " in heads[-1]:
        return MissingFold(FoldState.FAILED, f"see {path / 'run.log'}")
    done = len(read_csv(path / "history.csv"))
    return MissingFold(FoldState.UNFINISHED, f"{done} epoch{'s' * (done != 1)} done")


def diverged_fold(what: object) -> MissingFold:
    """State of a run whose loss is not finite.

    Args:
        what: Which loss, in a few words.
    """
    advice = "move the setting out of the study, or choose a lower learning rate"
    return MissingFold(FoldState.DIVERGED, f"{what}: {advice}")


@dataclass(frozen=True, eq=False)
class IncompleteSetting:
    """A setting that lacks folds.

    Attributes:
        folder: Of its runs.
        missing: Why each fold is missing, by fold.
        record: Content of `record.json` of one of its runs; None if there is none to read.
        words: Of the command that completes it, if that is not the one of its runs.
    """

    folder: Path
    missing: Mapping[int, MissingFold]
    record: Mapping[str, Any] | None
    words: Sequence[str] = ()

    @cached_property
    def text(self) -> str:
        """Which folds are missing and why, in one sentence."""
        why = "; ".join(f"fold {fold} {reason}" for fold, reason in sorted(self.missing.items()))
        if self.record is None:
            return f"{self.folder}: {why}."
        folds = range(self.record["settings"]["folds"])
        completed = len(folds) - sum(fold in folds for fold in self.missing)
        return f"{self.folder} has {completed} of {len(folds)} folds: {why}."

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """The command lines that train the missing folds; none if that would not help."""
        if self.words:
            return (shlex.join(["python", "-m", "signlang.train", *map(_unquoted, self.words)]),)
        if self.record is None:
            return ()
        folds = range(self.record["settings"]["folds"])
        states = {fold: reason.state for fold, reason in self.missing.items() if fold in folds}
        unusable = {fold for fold, state in states.items() if state is FoldState.UNUSABLE}
        hopeless = {FoldState.DIVERGED, FoldState.PARTIAL}
        resumable = {fold for fold, state in states.items() if state not in hopeless} - unusable
        return tuple(
            self._command_line(which, extra)
            for which, extra in ((resumable, []), (unusable, ["overwrite=true"]))
            if which
        )

    def __str__(self) -> str:
        if not self.commands:
            return self.text
        return "\n    ".join([f"{self.text} Complete it with", *self.commands])

    def _command_line(self, folds: Iterable[int], extra: list[str]) -> str:
        runs_dir = self.folder.parent.parent
        chosen = [
            _unquoted(word)
            for word in (self.record or {})["overrides"]
            if word.partition("=")[0] not in {"fold", "runs_dir", "overwrite"}
        ]
        location = [] if str(runs_dir) == "runs" else [f"runs_dir={runs_dir}"]
        settings = dict(word.partition("=")[::2] for word in chosen)
        study, root = self.folder.parent.name, settings.get("data.root", "").strip("'")
        if settings.get("data") == "folder" and settings.get("study", data_set_name(root)) != study:
            location.append(f"study={study}")  # of before data sets had names, or renamed
        numbers = f"fold={','.join(map(str, sorted(folds)))}"
        words = ["python", "-m", "signlang.train", "-m", *chosen, *location, *extra, numbers]
        return shlex.join(words)


def _unquoted(word: str) -> str:
    """Write a path, or a pattern of file names, without quotes where it needs none.

    >>> _unquoted("data.root='/images/mine'"), _unquoted("data.root='/a, b'")
    ('data.root=/images/mine', "data.root='/a, b'")
    """
    key, _, value = word.partition("=")
    inner = value.strip("'\"")
    return f"{key}={inner}" if PATH.fullmatch(inner) or key == "data.pattern" else word
