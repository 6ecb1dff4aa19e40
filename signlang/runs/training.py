"""Training of a run: datamodule, classifier, trainer, resuming, testing and metrics."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from signlang.callbacks.checkpointing import AtomicCheckpointIO, InterruptGuard
from signlang.callbacks.cost import Cost, CostProfile
from signlang.callbacks.predictions import PredictionCollector, write_predictions
from signlang.components import OWN_NETWORKS, TARGET, build, import_target
from signlang.console import log
from signlang.data.datamodule import HandSignDataModule
from signlang.data.splits import Fold
from signlang.errors import SettingError
from signlang.files import read_csv
from signlang.metrics import calibration
from signlang.metrics.classification import per_class_accuracy
from signlang.models.classifier import Classifier, load_classifier
from signlang.runs.folder import RunFolder
from signlang.runs.lifecycle import instantiate_component
from signlang.validation import NORMALIZATIONS


def choose_precision(wanted: str, accelerator: str) -> str:
    """Resolve `auto` to one of Lightning's precisions; pass anything else through.

    bfloat16 where the device multiplies it in hardware, else float32. Where it is only emulated,
    it costs accuracy and time.

    Args:
        wanted: `auto`, or a precision of Lightning, e.g. `32-true`.
        accelerator: Lightning's name of the device: `auto`, `cpu`, `gpu`, ...
    """
    if wanted != "auto":
        return wanted
    on_gpu = accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    if on_gpu:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = torch.cpu.get_capabilities()
        fast = any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    chosen = "bf16-mixed" if fast else "32-true"
    log.info("trainer.precision=auto: %s on this %s", chosen, "GPU" if on_gpu else "processor")
    return chosen


CallbackType = TypeVar("CallbackType", bound=pl.Callback)
# what dashboards compare runs by
HPARAMS: Final = (
    "model.", "optimizer.", "augment.name", "augment.background_weight", "data.name", "split.",
    "fold", "seed", "batch_size", "image_size", "label_smoothing", "trainer.max_epochs",
    "trainer.precision",
)  # fmt: skip
MODEL_KEYS: Final = ("name", "architecture", "image_size")  # of conf/model, for people
SUBSETS: Final = ("validation", "test")
METRICS: Final = ("accuracy", "macro_f1", "loss", "calibration_error")


def build_datamodule(cfg: DictConfig, fold: Fold) -> HandSignDataModule:
    """Make the loaders, and let everything random begin from the seed."""
    pl.seed_everything(cfg.seed, verbose=False)
    module: HandSignDataModule = instantiate_component(cfg.datamodule.loaders, fold=fold)
    return module


def build_classifier(cfg: DictConfig, module: HandSignDataModule) -> Classifier:
    """Make the network with its first weights."""
    options: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    start = {key: options.pop(key) for key in ("pretrained", "weights")}
    normalization, kind = options.pop("normalization"), options.pop("_target_")
    network = options.pop("network")
    more = {key: value for key, value in options.items() if key not in MODEL_KEYS}
    mean, std = (
        module.training_statistics()
        if normalization == "training"
        else NORMALIZATIONS[normalization]
    )
    factory = import_target(kind)
    if not (isinstance(factory, type) and issubclass(factory, Classifier)):
        raise SettingError(
            f"model._target_={kind}: it must be signlang.models.classifier.Classifier, or a class "
            "that derives from it."
        )
    model: Classifier = build(
        {TARGET: kind, **more},
        {
            "network": network,
            "classes": list(module.index.classes),
            "image_size": cfg.image_size,
            "mean": mean,
            "std": std,
            "optimizer": OmegaConf.to_container(cfg.optimizer, resolve=True),
            "loss": OmegaConf.to_container(cfg.loss, resolve=True),
            "label_smoothing": cfg.label_smoothing,
            "start": start,
            "resolve": import_target,
        },
        key="model",
    )
    return model


def model_name(cfg: DictConfig) -> str:
    """What a network is called in tables: its architecture, its group, or its own class.

    A network that was put in place of a group's own is called by its own name.
    """
    network = cfg.model.network
    target = str(network.get(TARGET))
    for key in ("architecture", "model_name"):
        if network.get(key):
            return str(network[key])
    return str(cfg.model.name) if target.startswith(OWN_NETWORKS) else target.rpartition(".")[2]


def build_callbacks(cfg: DictConfig) -> list[pl.Callback]:
    """Make the callbacks; those set to null are left out."""
    return [instantiate_component(part) for part in cfg.callbacks.values() if part is not None]


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """Make the loggers; those set to null are left out."""
    return [instantiate_component(part) for part in cfg.logger.values() if part is not None]


def build_trainer(cfg: DictConfig, parts: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    """Make the trainer that fits."""
    precision = choose_precision(str(cfg.trainer.precision), str(cfg.trainer.accelerator))
    return _trainer(cfg, [*parts, InterruptGuard()], loggers, precision)


def build_tester(cfg: DictConfig, parts: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    """Make the trainer that judges, always in float32, as a service would."""
    return _trainer(cfg, parts, loggers, "32-true")


def resume_checkpoint(folder: RunFolder) -> str | None:
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


def test_and_record(
    cfg: DictConfig, folder: RunFolder, judge: pl.Trainer, module: HandSignDataModule
) -> dict[str, Any]:
    """Judge the best checkpoint on the validation part and, once, on the test fold.

    Returns:
        The content of `metrics.json`, as the network is, uncalibrated; `predictions.csv` and
        `calibration.json` are written, and the loggers get the hyper-parameters with the final
        metrics.
    """
    best = load_classifier(folder.best, resolve=import_target, kind=cfg.model[TARGET])
    judge.validate(best, datamodule=module, verbose=False)
    validation = {name: float(judge.callback_metrics[f"validation/{name}"]) for name in METRICS}
    judge.test(best, datamodule=module, verbose=False)
    test = {name: float(judge.callback_metrics[f"test/{name}"]) for name in METRICS}
    found = _one(judge, PredictionCollector)
    probabilities, index = found.probabilities("test"), module.index
    write_predictions(folder.path / "predictions.csv", index, module.parts.test, probabilities)
    judged = {part: (found.probabilities(part), found.labels(part)) for part in SUBSETS}
    calibration.write_calibration(folder.path, judged, cfg.wanted_precision)
    history = read_csv(folder.path / "history.csv")
    record = folder.record() or {}
    metrics = {
        "status": "finished",
        "model": model_name(cfg),
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
    trainer: pl.Trainer = instantiate_component(
        cfg.trainer,
        callbacks=parts,
        logger=loggers or False,
        precision=precision,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=cfg.run_folder,
    )
    return trainer


def _one(judge: pl.Trainer, kind: type[CallbackType]) -> CallbackType:
    for callback in judge.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            return callback
    raise SettingError(f"{kind.__name__} is missing from callbacks: metrics.json needs it.")


def _log_hyperparameters(
    judge: pl.Trainer, settings: Mapping[str, Any], metrics: Mapping[str, Any]
) -> None:
    final = {f"final/{name}": metrics["test"][name] for name in METRICS}
    shown = {key: settings[key] for key in sorted(settings) if key.startswith(HPARAMS)}
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
