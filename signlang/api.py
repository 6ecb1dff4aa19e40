"""Python API: the verbs as functions, and what they wrote read back; for notebooks and scripts.

`train`, `compare`, `list_runs`, `evaluate`, `describe` and `export` take the words of their command
line and return what they wrote; `load_run`, `load_study` and `load_bundle` read it back later.
An error for people is a `SignlangError`, with the text that the command line prints.

Train a network on both folds of a small drawn data set, and look at the first run:

>>> import numpy as np, pandas as pd, signlang
>>> from signlang import api
>>> from tempfile import mkdtemp
>>> place = mkdtemp()
>>> own = [f"cache_dir={place}/cache", "verbose=false"]
>>> data = ["data=synthetic", "data.source.signers=4", "data.source.takes=2",
...         "data.source.size=32"]
>>> settings = [*data, "model=simple_cnn", "folds=2", "batch_size=8", "trainer.max_epochs=1"]
>>> runs = [api.train([*settings, f"fold={fold}", f"runs_dir={place}/runs", *own])
...         for fold in (0, 1)]
>>> run = signlang.load_run(runs[0].path)
>>> run.metrics["status"], run.metrics["epochs"], run.network.training
('finished', 1, False)
>>> pd.DataFrame(run.predictions)[["path", "label", "confidence"]].shape
(40, 3)
>>> run.network.predict_images(np.zeros((2, 32, 32, 3), np.uint8)).shape
torch.Size([2, 10])

Compare all runs of the study, which has one setting here:

>>> study = api.compare(run.path.parents[1])
>>> study.leaderboard["model"], study.incomplete
(['simple_cnn'], [])
>>> signlang.load_study(study.path).runs[0].metrics == run.metrics
True
>>> table = api.list_runs([f"runs_dir={place}/runs", "verbose=false"])
>>> table["study"], table["status"], table["finished"]
(['synthetic'], ['finished'], [2])

Export the run, and predict images of any size without torch:

>>> bundle = api.export([f"run={run.path}", "verify=generated", f"out={place}/bundle", *own])
>>> predictor = signlang.load_bundle(bundle)
>>> grey = np.full((48, 64, 3), 128, np.uint8)
>>> first, second = predictor.predict([grey, grey.transpose(2, 0, 1) / 255])
>>> first.guess in predictor.bundle.classes, first.label == second.label, len(first.top_k)
(True, True, 3)
>>> first.unknown == (first.confidence < predictor.threshold)
True

Evaluate the bundle on labelled images, and describe these:

>>> evaluation = api.evaluate([f"bundle={bundle}", *data, f"out={place}/evaluation", *own])
>>> sorted(file.name for file in evaluation.glob("*.csv"))
['per_class.csv', 'per_signer.csv', 'predictions.csv']
>>> (api.describe([*data, f"out={place}/card", *own]) / "card.html").is_file()
True
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from signlang.errors import RunError, SettingError, missing_extra
from signlang.files import expanded

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from signlang.inference.predictor import Predictor
    from signlang.models.classifier import Classifier

PathLike = str | os.PathLike[str]
Table = dict[str, list[Any]]  # columns of equal length, as `pandas.DataFrame` takes them


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A finished run, read back.

    Attributes:
        path: Its folder.
        metrics: Content of `metrics.json`.
        record: Content of `record.json`: versions, device, settings, fingerprints.
        trust: Whether `network` follows code of unknown origin that the run names.
        nodes: The components of the user's own configuration if the run was trained by `train`;
            `network` then follows these and no others.
    """

    path: Path
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    trust: bool = False
    nodes: Mapping[str, Any] | None = None

    @cached_property
    def predictions(self) -> Table:
        """Columns of `predictions.csv`, one row per image of the test fold.

        `path`, `label`, `predicted`, `confidence`, `correct`, `signer` (None where it is not
        known), and `p_<class>` for each class: `pandas.DataFrame(run.predictions)`.

        Raises:
            RunError: If the file is missing or damaged.
        """
        from signlang.runs.folder import RunFolder
        from signlang.runs.results import read_predictions

        table = read_predictions(RunFolder(self.path), int(self.metrics["fold"]))
        names = table.classes
        columns: Table = {
            "path": list(table.paths),
            "label": [names[label] for label in table.labels],
            "predicted": [names[label] for label in table.predicted],
            "confidence": table.confidence.tolist(),
            "correct": table.correct.tolist(),
            "signer": list(table.signers or [None] * len(table.paths)),
        }
        probabilities = table.probabilities.T.tolist()
        return columns | {f"p_{name}": p for name, p in zip(names, probabilities, strict=True)}

    @cached_property
    def history(self) -> Table:
        """Columns of `history.csv`, one row per epoch; empty without the file."""
        from signlang.runs.results import read_history

        return {name: values.tolist() for name, values in read_history(self.path).items()}

    @cached_property
    def network(self) -> Classifier:
        """The best checkpoint on the processor, in evaluation mode; imports torch.

        `run.network.predict_images(...)` gives the probabilities of images.

        Raises:
            RunError: If the checkpoint is missing or damaged, or names unknown code.
        """
        from signlang.runs.trained_run import load_trained_run

        return load_trained_run(self.path, trust=self.trust, nodes=self.nodes).classifier


@dataclass(frozen=True, eq=False)
class LoadedStudy:
    """All runs of a study, compared.

    Attributes:
        path: Its folder.
        leaderboard: Columns of `leaderboard.csv`, one row per setting, the most accurate first.
        verdicts: Results of the tests between the settings, in sentences.
        incomplete: For each setting that lacks folds, which, why, and the command that trains them.
        runs: The finished runs.
    """

    path: Path
    leaderboard: Table
    verdicts: list[str]
    incomplete: list[str]
    runs: list[LoadedRun]


def load_run(path: PathLike, *, trust: bool = False) -> LoadedRun:
    """Read a finished run.

    Args:
        path: Its folder, `runs/<study>/<what was chosen>/fold=<k>`.
        trust: Let `network` follow whatever code the run names, e.g. a network of your own.

    Raises:
        RunError: If there is no finished run, or one of its files is damaged.
    """
    try:
        from signlang.runs.results import read_run
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error

    folder = expanded(path)
    run = read_run(folder)
    if run is None:
        raise RunError(f"{folder} is not the folder of a finished run, .../fold=K.")
    return LoadedRun(run.path, run.metrics, run.record, trust)


def load_study(path: PathLike, *, trust: bool = False) -> LoadedStudy:
    """Read all runs of a study and compare them; nothing is written.

    Settings that lack folds are in the leaderboard with the folds they have, and `incomplete`
    names them.

    Args:
        path: Its folder, `runs/<study>`.
        trust: Of each run, see `load_run`.

    Raises:
        RunError: If there is no run, or runs cannot be compared.
    """
    try:
        from signlang.studies import leaderboard, leaderboard_columns, ranking, verdicts
        from signlang.studies.study import read_study
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error

    study = read_study(expanded(path))
    ranked = ranking.rank_settings(study)
    rows = [row for _, row in leaderboard.ranked(ranked)]
    return LoadedStudy(
        study.path,
        {key: [row[key] for row in rows] for key in leaderboard_columns.csv_columns(study)},
        verdicts.sentences(ranked),
        list(map(str, study.incomplete)),
        [
            LoadedRun(run.path, run.metrics, run.record, trust)
            for setting in study.settings
            for run in setting.runs
        ],
    )


def load_bundle(path: PathLike, precision: str = "fp32", device: str = "cpu") -> Predictor:
    """Load a bundle for predictions; needs onnxruntime, not torch.

    Args:
        path: A folder or ZIP file that `export` wrote.
        precision: `fp32`, or `int8` where the bundle holds such a model.
        device: `cpu` or `cuda`.

    Raises:
        BundleError: If it is missing, damaged, or has no such model.
    """
    from signlang.inference.predictor import Predictor

    return Predictor.from_bundle(expanded(path), precision=precision, device=device)


def train(overrides: Sequence[str] = ()) -> LoadedRun:
    """Train one network on one fold, as `python -m signlang.train` does; a finished run is read.

    Args:
        overrides: `["model=squeezenet", "fold=0"]`, as on the command line.

    Raises:
        SignlangError: As the command prints it.
    """
    from signlang.components import configured_nodes
    from signlang.runs import lifecycle
    from signlang.train import train as task

    with composed("train", overrides) as cfg:
        if cfg.lr_find:
            raise SettingError("lr_find=true trains nothing: use python -m signlang.train.")
        words = list(cfg.hydra.overrides.task)
        task(without_hydra(cfg))
        run = load_run(lifecycle.run_folder(cfg, words).path)
        return replace(run, nodes=configured_nodes(cfg))


def list_runs(overrides: Sequence[str] = ()) -> Table:
    """List studies and runs with their status, as `python -m signlang.list` does.

    Args:
        overrides: `["study=digits", "status=finished"]`, as on the command line.

    Returns:
        Columns `study`, `run`, `status`, `finished` (folds), `folds`, `accuracy` and `changed`
        (seconds since 1970), one row per setting, or per fold with `study=`.

    Raises:
        SignlangError: As the command prints it.
    """
    from signlang.list import list_runs as task

    with composed("list", overrides) as cfg:
        rows = [(study, line) for study, lines in task(without_hydra(cfg)) for line in lines]
    columns = ("status", "finished", "folds", "accuracy", "changed")
    table: Table = {"study": [study for study, _ in rows], "run": [line.name for _, line in rows]}
    return table | {key: [getattr(line, key) for _, line in rows] for key in columns}


def evaluate(overrides: Sequence[str]) -> Path:
    """Evaluate a network on labelled images, as `python -m signlang.evaluate` does.

    Args:
        overrides: `["run=RUN", "data.root=IMAGES"]`, as on the command line.

    Returns:
        The folder with `metrics.json`, `predictions.csv` and `report.html`.

    Raises:
        SignlangError: As the command prints it.
    """
    from signlang.evaluate import evaluate as task

    return run_verb("evaluate", task, overrides)


def describe(overrides: Sequence[str] = ()) -> Path:
    """Write the data card of a data set, as `python -m signlang.describe` does.

    Args:
        overrides: `["data=folder", "data.root=IMAGES"]`, as on the command line.

    Returns:
        The folder of the card.

    Raises:
        SignlangError: As the command prints it.
    """
    from signlang.describe import describe as task

    return run_verb("describe", task, overrides)


def export(overrides: Sequence[str]) -> Path:
    """Export a finished run as a bundle, as `python -m signlang.export` does.

    Args:
        overrides: `["run=RUN", "quantize=true"]`, as on the command line.

    Returns:
        The bundle, for `load_bundle`.

    Raises:
        SignlangError: As the command prints it.
    """
    from signlang.export import export as task

    return run_verb("export", task, overrides)


def compare(study: PathLike, *, allow_incomplete: bool = False, out: PathLike | None = None,
            sort: str = "rank") -> LoadedStudy:  # fmt: skip
    """Compare the runs of a study and write its tables and report, as `signlang.compare` does.

    Args:
        study: Its folder, `runs/<study>`.
        allow_incomplete: Compare what there is although folds are missing.
        out: Where to write; None: into the folder of the study.
        sort: A column of `leaderboard.csv`.

    Raises:
        SignlangError: As the command prints it.
    """
    from signlang.studies.comparison import compare_study

    folder = expanded(study)
    target = None if out is None else expanded(out)
    compare_study(folder, target, allow_incomplete=allow_incomplete, sort=sort)
    return load_study(folder)


def run_verb(name: str, task: Callable[[Any], Path], overrides: Sequence[str]) -> Path:
    """Compose the configuration of a verb and run it."""
    with composed(name, overrides) as cfg:
        return task(without_hydra(cfg))


@contextmanager
def composed(verb: str, overrides: Sequence[str]) -> Iterator[DictConfig]:
    """Compose a configuration as Hydra's command line does, and leave Hydra as it was.

    Raises:
        SettingError: If a word of the overrides cannot be used.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from signlang import console, hydra_app

    if isinstance(overrides, str):
        raise SettingError(f"{overrides}: overrides are a list of words, [{overrides!r}].")
    hydra_app.register_resolvers()
    outer_hydra, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    outer_config, HydraConfig.instance().cfg = HydraConfig.instance().cfg, None
    try:
        try:
            words = hydra_app.override_words(verb, overrides)
            with initialize_config_dir(str(hydra_app.CONF), version_base="1.3"):
                cfg = compose(verb, overrides=words, return_hydra_config=True)
        except (
            HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError, OSError,
        ) as error:  # fmt: skip
            raise hydra_app.readable(error, verb) from None
        HydraConfig.instance().set_config(cfg)
        console.start(cfg.verbose is not False)
        yield cfg
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = outer_hydra, outer_config


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The configuration as Hydra hands it to a task, without the `hydra` node."""
    from copy import deepcopy

    from omegaconf import open_dict, read_write

    task_cfg = deepcopy(cfg)
    with read_write(task_cfg), open_dict(task_cfg):
        del task_cfg["hydra"]
    return task_cfg
