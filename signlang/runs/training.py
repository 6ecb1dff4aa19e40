"""The steps of a run that need torch: a configuration comes in, trained and judged parts go out."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from signlang.callbacks.cost import Cost, CostProfile
from signlang.callbacks.predictions import Predictions, per_class_accuracy, write_predictions
from signlang.callbacks.resuming import AtomicCheckpoints, NoLostInterrupt
from signlang.confidence import calibration
from signlang.console import log
from signlang.data.datamodule import HandSigns
from signlang.data.files import read_csv
from signlang.data.fold import Fold
from signlang.errors import SettingError
from signlang.models.classifier import Classifier
from signlang.models.options import NORMALISATIONS
from signlang.models.precision import choose
from signlang.runs.claiming import made
from signlang.runs.folder import RunFolder

Part = TypeVar("Part", bound=pl.Callback)
# what dashboards compare runs by
SHOWN: Final = (
    "model.", "optimizer.", "augment.name", "augment.background_weight", "data.name", "split.",
    "fold", "seed", "batch_size", "image_size", "label_smoothing", "trainer.max_epochs",
    "trainer.precision",
)  # fmt: skip
PARTS: Final = ("validation", "test")
FIGURES: Final = ("accuracy", "macro_f1", "loss", "calibration_error")


def data(cfg: DictConfig, fold: Fold) -> HandSigns:
    """Make the loaders, and let everything random begin from the seed."""
    pl.seed_everything(cfg.seed, verbose=False)
    module: HandSigns = made(cfg.datamodule.loaders, fold=fold)
    return module


def model(cfg: DictConfig, module: HandSigns) -> Classifier:
    """Make the network with its first weights."""
    options: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    start = {key: options.pop(key) for key in ("pretrained", "weights")}
    normalisation = options.pop("normalisation")
    mean, std = (
        module.training_statistics()
        if normalisation == "training"
        else NORMALISATIONS[normalisation]
    )
    return Classifier(
        network={**options, "image_size": cfg.image_size},
        classes=list(module.index.classes),
        mean=mean,
        std=std,
        optimizer=OmegaConf.to_container(cfg.optimizer, resolve=True),  # type: ignore[arg-type]
        label_smoothing=cfg.label_smoothing,
        start=start,
    )


def callbacks(cfg: DictConfig) -> list[pl.Callback]:
    """Make the callbacks; those set to null are left out."""
    return [made(part) for part in cfg.callbacks.values() if part is not None]


def logger(cfg: DictConfig) -> list[Logger]:
    """Make the loggers; those set to null are left out."""
    return [made(part) for part in cfg.logger.values() if part is not None]


def trainer(cfg: DictConfig, parts: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    """Make the trainer that fits."""
    precision = choose(str(cfg.trainer.precision), str(cfg.trainer.accelerator))
    return _trainer(cfg, [*parts, NoLostInterrupt()], loggers, precision)


def tester(cfg: DictConfig, parts: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    """Make the trainer that judges, always in float32, as a service would."""
    return _trainer(cfg, parts, loggers, "32-true")


def resumable(folder: RunFolder) -> str | None:
    """The checkpoint to go on from, or None to begin at the beginning."""
    if not folder.last.is_file():
        return None
    try:
        epoch = torch.load(folder.last, map_location="cpu", weights_only=True)["epoch"]
    except Exception as error:  # torch raises many kinds on a damaged file
        log.warning("%s is damaged (%s): beginning anew", folder.last, error)
        return None
    log.info("going on after epoch %d, from %s", epoch + 1, folder.last)
    return str(folder.last)


def evaluated(
    cfg: DictConfig, folder: RunFolder, judge: pl.Trainer, module: HandSigns
) -> dict[str, Any]:
    """Judge the best checkpoint on the validation part and, once, on the test fold.

    Returns:
        The content of `metrics.json`, as the network is, uncalibrated; `predictions.csv` and
        `calibration.json` are written, and the loggers get the hyper-parameters with the final
        metrics.
    """
    best = Classifier.load_from_checkpoint(folder.best, map_location="cpu", weights_only=True)
    judge.validate(best, datamodule=module, verbose=False)
    validation = {name: float(judge.callback_metrics[f"validation/{name}"]) for name in FIGURES}
    judge.test(best, datamodule=module, verbose=False)
    test = {name: float(judge.callback_metrics[f"test/{name}"]) for name in FIGURES}
    found = _one(judge, Predictions)
    probabilities, index = found.probabilities("test"), module.index
    write_predictions(folder.path / "predictions.csv", index, module.parts.test, probabilities)
    judged = {part: (found.probabilities(part), found.labels(part)) for part in PARTS}
    calibration.write(folder.path, judged, cfg.wanted_precision)
    history = read_csv(folder.path / "history.csv")
    record = folder.record() or {}
    metrics = {
        "status": "finished",
        "model": cfg.model.get("architecture", cfg.model.name),
        "data": cfg.data.name,
        "study": cfg.study,
        "split": cfg.split.name,
        "protocol": "validation=fold" if cfg.split.validation == "fold" else "test fold untouched",
        "fold": cfg.fold,
        "folds": cfg.folds,
        "seed": cfg.seed,
        "test": {
            **test,
            "per_class_accuracy": per_class_accuracy(
                found.labels("test"), probabilities.argmax(1), index.classes
            ),
        },
        "validation": validation,
        "cost": _cost(_one(judge, CostProfile)),
        "epochs": len(history),
        "seconds": round(sum(float(row["seconds"]) for row in history), 3),
        "images_per_second": _median([float(row["images_per_second"]) for row in history]),
        "fingerprint": record["fingerprint"],
    }
    _log_hyperparameters(judge, record["settings"], metrics)
    return metrics


def _trainer(
    cfg: DictConfig, parts: list[pl.Callback], loggers: list[Logger], precision: str
) -> pl.Trainer:
    trainer: pl.Trainer = made(
        cfg.trainer,
        callbacks=parts,
        logger=loggers or False,
        precision=precision,
        plugins=[AtomicCheckpoints()],
        default_root_dir=cfg.run_folder,
    )
    return trainer


def _one(judge: pl.Trainer, kind: type[Part]) -> Part:
    for callback in judge.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            return callback
    raise SettingError(f"{kind.__name__} is missing from callbacks: metrics.json needs it.")


def _log_hyperparameters(
    judge: pl.Trainer, settings: Mapping[str, Any], metrics: Mapping[str, Any]
) -> None:
    final = {f"final/{name}": metrics["test"][name] for name in FIGURES}
    shown = {key: settings[key] for key in sorted(settings) if key.startswith(SHOWN)}
    for target in judge.loggers:
        if isinstance(target, TensorBoardLogger):
            target.log_hyperparams(shown, final)
            target.save()
        else:
            target.log_hyperparams(shown)
            target.log_metrics(final)
        target.finalize("success")
        finish = getattr(getattr(target, "experiment", None), "finish", None)
        if callable(finish):  # or W&B would write the next job of a sweep into this run
            finish()


def _cost(profile: CostProfile) -> dict[str, Any]:
    assert isinstance(profile.cost, Cost)
    return dict(vars(profile.cost))


def _median(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 1)
