"""Training of a run: datamodule, classifier, trainer, resuming, testing and metrics."""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import BaseFinetuning, ModelCheckpoint
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from signlang.arrays import Floats, Ints
from signlang.callbacks.checkpointing import AtomicCheckpointIO, DivergenceGuard, InterruptGuard
from signlang.callbacks.cost import CostProfile, parameters, size_mb
from signlang.callbacks.one_cycle import range_test
from signlang.callbacks.predictions import PredictionCollector, write_predictions
from signlang.callbacks.progress import History
from signlang.components import (
    MODEL_KEYS,
    OWN_NETWORKS,
    TARGET,
    build,
    configured_nodes,
    import_target,
    instantiate_component,
)
from signlang.console import log, show_lines
from signlang.data.datamodule import HandSignDataModule
from signlang.data.index import Index
from signlang.data.splits import Fold, split_name
from signlang.errors import DivergedError, SettingError
from signlang.files import check_archive, expanded
from signlang.hands.hand_input import HandInput
from signlang.metrics import calibration
from signlang.metrics.classification import (
    chance_warning,
    classification_metrics,
    per_class_accuracy,
)
from signlang.models.classifier import Classifier, load_classifier
from signlang.reporting import tensorboard
from signlang.runs import identity, process_group
from signlang.runs.folder import RunFolder
from signlang.runs.lifecycle import hand_input_of, partial_data, plain, settle
from signlang.runs.ranks import Peers, Rank, process_count
from signlang.runs.results import OPTIMISTIC
from signlang.system import check_shared_memory, choose_precision, trains_on_gpu
from signlang.validation import NORMALIZATIONS, UNUSED_PARAMETERS

CallbackType = TypeVar("CallbackType", bound=pl.Callback)
# what dashboards other than TensorBoard compare runs by
HPARAMS: Final = (
    "model.", "optimizer.", "augment.name", "augment.background_weight", "data.name", "split.",
    "fold", "seed", "batch_size", "image_size", "label_smoothing", "mixup", "cutmix",
    "trainer.max_epochs", "trainer.precision",
)  # fmt: skip
SUBSETS: Final = ("validation", "test")
NEVER: Final = 10**9  # epochs
ALONE: Final[Mapping[str, Any]] = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "sync_batchnorm": False,
}
METRICS: Final = ("accuracy", "macro_f1", "loss", "calibration_error")


def build_datamodule(cfg: DictConfig, fold: Fold) -> HandSignDataModule:
    """Build the data module, and seed everything random.

    Raises:
        SettingError: If its processes could not share memory.
    """
    check_shared_memory(cfg.workers)
    module = HandSignDataModule(
        fold=fold,
        augment=plain(cfg.augment),
        image_size=cfg.image_size,
        workers=cfg.workers,
        seed=cfg.seed,
        balance=cfg.balance,
        preparation=hand_input_of(cfg),
    )
    pl.seed_everything(cfg.seed, verbose=False)  # after the user's transforms were tried
    return module


def build_classifier(cfg: DictConfig, module: HandSignDataModule) -> Classifier:
    """Build the LightningModule with its initial weights."""
    options = plain(cfg.model)
    initial = {key: options.pop(key) for key in ("pretrained", "weights")}
    if initial["pretrained"] and not RunFolder(Path(cfg.run_folder)).last.is_file():
        initial["pretrained"] = True  # a text names what `auto` found
    normalization, kind = options.pop("normalization"), options.pop("_target_")
    network = options.pop("network")
    extra = {key: value for key, value in options.items() if key not in MODEL_KEYS}
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
        {TARGET: kind, **extra},
        {
            "network": network,
            "classes": list(module.index.classes),
            "image_size": cfg.image_size,
            "mean": mean,
            "std": std,
            "optimizer": plain(cfg.optimizer),
            "loss": plain(cfg.loss),
            "label_smoothing": cfg.label_smoothing,
            "start": initial,
            "resolve": import_target,
        },
        key="model",
    )
    if cfg.balance == "loss":
        model.weight_classes(module.class_weights())
    if cfg.mixup or cfg.cutmix:
        model.mix_images(cfg.mixup, cfg.cutmix)
    return model


def model_name(cfg: DictConfig) -> str:
    """Name a network in tables by its architecture, its group, or its own class.

    A network that replaces that of a group has its own name.
    """
    network = cfg.model.network
    target = str(network.get(TARGET))
    for key in ("architecture", "model_name"):
        if network.get(key):
            return str(network[key])
    return str(cfg.model.name) if target.startswith(OWN_NETWORKS) else target.rpartition(".")[2]


def build_callbacks(cfg: DictConfig) -> list[pl.Callback]:
    """Build the callbacks; those set to null are left out.

    Raises:
        SettingError: If one breaks the contract.
    """
    callbacks = [
        instantiate_component(node, pl.Callback, f"callbacks.{name}")
        for name, node in (cfg.get("callbacks") or {}).items()
        if node is not None
    ]
    # it makes groups of parameters, of which the schedule must know
    callbacks.sort(key=lambda one: not isinstance(one, BaseFinetuning))
    if not cfg.trainer.enable_checkpointing:
        callbacks = [one for one in callbacks if not isinstance(one, ModelCheckpoint)]
    # metrics.json and predictions.csv need them
    if not any(isinstance(one, History) for one in callbacks):
        callbacks.append(History(None))
    if not any(isinstance(one, PredictionCollector) for one in callbacks):
        callbacks.append(PredictionCollector())
    return callbacks


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """Build the loggers; those set to null are left out."""
    return [
        instantiate_component(node, Logger, f"logger.{name}")  # type: ignore[type-abstract]
        for name, node in (cfg.get("logger") or {}).items()
        if node is not None
    ]


def build_trainer(
    cfg: DictConfig, callbacks: list[pl.Callback], loggers: list[Logger], rank: Rank | None = None
) -> pl.Trainer:
    """Build the trainer that fits.

    Args:
        cfg: The configuration.
        callbacks: See `build_callbacks`.
        loggers: See `build_loggers`; only rank 0 has some.
        rank: Of this process, if several train together.
    """
    precision = choose_precision(str(cfg.trainer.precision), str(cfg.trainer.accelerator))
    callbacks = [DivergenceGuard(), *callbacks]
    if rank is None:
        return _trainer(cfg, callbacks, loggers, precision)
    unused = cfg.trainer.get("strategy") == UNUSED_PARAMETERS
    trainer = _trainer(
        cfg, callbacks, loggers, precision, process_group.RankEnvironment(rank),
        strategy=process_group.RankStrategy(find_unused_parameters=unused),
    )  # fmt: skip
    trainer._signal_connector = process_group.LeftSignals(trainer)
    return trainer


def build_tester(
    cfg: DictConfig, callbacks: list[pl.Callback], loggers: list[Logger]
) -> pl.Trainer:
    """Build the trainer that tests, always in float32, as the server computes, and in one process.

    Of several processes one tests, so that no image counts twice to make their shares equal.
    """
    if process_count(cfg.trainer) == 1:
        return _trainer(cfg, callbacks, loggers, "32-true")
    # named, or Lightning would look for those that srun started, and refuse to be alone
    return _trainer(cfg, callbacks, loggers, "32-true", LightningEnvironment(), **ALONE)


@dataclass(frozen=True)
class SharedWork:
    """What rank 0 sends to the other ranks of its run.

    Attributes:
        settings: The configuration of the run, resolved.
        fold: Images and subsets, so that all ranks have the same.
        checkpoint: To resume from, or None.
    """

    settings: dict[str, Any]
    fold: Fold
    checkpoint: str | None


def fit(
    trainer: pl.Trainer, model: Classifier, data: HandSignDataModule, work: SharedWork, peers: Peers
) -> None:
    """Train, together with the other ranks if there are some.

    Args:
        trainer: See `build_trainer`.
        model: With its initial weights.
        data: The images.
        work: The same for the other ranks.
        peers: The other ranks; none with one device.
    """
    on_gpu = trains_on_gpu(str(work.settings["trainer"]["accelerator"]))
    with process_group.shared_training(peers, work, on_gpu=on_gpu):
        trainer.fit(model, data, ckpt_path=work.checkpoint, weights_only=True)  # from elsewhere


def follow(rank: Rank) -> None:
    """Train along as another rank than 0, and write nothing.

    Raises:
        RunError: If rank 0, or another one, has ended.
    """
    with process_group.joined_training(rank) as work:
        if work is None:
            return
        cfg = OmegaConf.create(work.settings)
        cfg.trainer.profiler = None
        callbacks = build_callbacks(cfg)
        data = build_datamodule(cfg, work.fold)
        model = build_classifier(cfg, data)
        trainer = build_trainer(cfg, callbacks, [], rank)
        trainer.fit(model, data, ckpt_path=work.checkpoint, weights_only=True)


def find_learning_rate(cfg: DictConfig, fold: Fold) -> float:
    """Run the range test of a run, and write it beside the folders of its folds.

    Returns:
        The suggested learning rate; nan if there is none.
    """
    folder = Path(cfg.run_folder).parent
    with TemporaryDirectory(prefix="signlang-") as temporary:  # of the weights that it restores
        cfg.run_folder = temporary
        endless: dict[str, Any] = {
            "max_epochs": -1,
            "max_steps": -1,
            "check_val_every_n_epoch": NEVER,
        }
        endless |= ALONE if process_count(cfg.trainer) > 1 else {}
        cfg = OmegaConf.create(plain(cfg) | {"trainer": plain(cfg.trainer) | endless})
        settle(cfg, fold)
        data = build_datamodule(cfg, fold)
        model = build_classifier(cfg, data)
        finetuning = [one for one in build_callbacks(cfg) if isinstance(one, BaseFinetuning)]
        result = range_test(build_trainer(cfg, [*finetuning], []), model, data)
    files = result.write(folder)
    current = cfg.optimizer.get("lr")
    comparison = f" (it is {current:g})" if current else ""
    text = "no suggestion: the loss hardly falls at any learning rate"
    if result.suggestion is not None:
        text = f"suggested: optimizer.lr={result.suggestion:.2g}{comparison}"
    show_lines([text])
    for file in files:
        log.info("written: %s", file)
    return math.nan if result.suggestion is None else result.suggestion


def resume_checkpoint(folder: RunFolder) -> str | None:
    """The run's own checkpoint to resume from; None if there is none that can be used."""
    if not folder.last.is_file():
        return None
    try:
        check_archive(folder.last)
        state = torch.load(folder.last, map_location="cpu", weights_only=True)
        epoch = operator.index(state["epoch"])  # raises a TypeError unless it is a whole number
    except Exception as error:  # torch raises many kinds on a damaged file
        what = type(error).__name__  # its text may advise to execute what the file holds
        log.warning("%s is damaged (%s): starting again", folder.last, what)
        return None
    log.info("resuming after epoch %d, from %s", epoch + 1, folder.last)
    return str(folder.last)


def configured_checkpoint(
    cfg: DictConfig, module: HandSignDataModule, model: Classifier
) -> str | None:
    """`ckpt_path`, the checkpoint of another run, to resume from; None if it is not set.

    Raises:
        SettingError: If this run cannot resume it.
    """
    if cfg.ckpt_path is None:
        return None
    file = expanded(cfg.ckpt_path)
    done = _check_checkpoint(cfg, file, model)
    _check_unseen(file, module)
    log.info("resuming after epoch %d, from %s", done, file)
    return str(file)


def _check_checkpoint(cfg: DictConfig, file: Path, model: Classifier) -> int:
    """Refuse a checkpoint that this run cannot resume; return its number of finished epochs."""
    what = f"ckpt_path={file}"
    try:
        check_archive(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
        state, epoch = content["state_dict"], int(content["epoch"])
    except Exception as error:  # torch raises many kinds on a file that is none
        raise SettingError(
            f"{what} is no checkpoint of Lightning ({type(error).__name__}): give the last.ckpt of "
            "another run."
        ) from error
    if not content.get("optimizer_states"):
        raise SettingError(
            f"{what} holds weights only, as every best.ckpt: resume from the last.ckpt beside it, "
            "or start from its weights with model.weights=FILE instead."
        )
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    if shapes != {key: value.shape for key, value in state.items()}:
        raise SettingError(f"{what} is of another network or of other classes than this run.")
    if content.get("lr_schedulers") and (cfg.get("callbacks") or {}).get("one_cycle") is None:
        raise SettingError(
            f"{what} was trained with a schedule of its learning rate, and this run has "
            "callbacks.one_cycle=null: leave it on, or start from its weights with "
            "model.weights=FILE instead."
        )
    finetuned = any("Finetuning" in str(key) for key in content.get("callbacks", {}))
    nodes = (cfg.get("callbacks") or {}).values()
    if finetuned != any("Finetuning" in str((node or {}).get(TARGET)) for node in nodes):
        raise SettingError(
            f"{what} was trained {'with' if finetuned else 'without'} callbacks=finetune, and this "
            "run is not: choose the same, or start from its weights with model.weights=FILE."
        )
    planned = cfg.trainer.max_epochs
    if planned != -1 and epoch + 1 >= planned:
        raise SettingError(
            f"{what} has {epoch + 1} finished epochs, so trainer.max_epochs={planned} leaves none "
            "to train: give more."
        )
    return epoch + 1


def _check_unseen(file: Path, module: HandSignDataModule) -> None:
    """Refuse the checkpoint of a run that was trained on images of this test fold."""
    other = RunFolder(file.resolve().parent.parent)
    record = other.record()
    if record is None or record["data"]["fingerprint"] != module.index.fingerprint:
        return
    tested = {module.index.paths[row] for row in module.subsets.test}
    used = {row["path"] for name in ("train", "validation") for row in other.images_of(name)}
    if tested & used:
        raise SettingError(
            f"ckpt_path={file} is of a run that was trained on {len(tested & used)} of the "
            f"{len(tested)} images of this test fold: resume from one with the same split and fold."
        )


def keep_weights(cfg: DictConfig, folder: RunFolder, trainer: pl.Trainer) -> str | None:
    """Name of the checkpoint to test: that of validation, else of the last epoch.

    Where no callback wrote one, the last epoch is written here, as Lightning does by default. None
    with `trainer.enable_checkpointing=false` and `trainer.fast_dev_run`.
    """
    if not cfg.trainer.enable_checkpointing or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if folder.tested_checkpoint() is None:
        trainer.save_checkpoint(folder.last)
    return folder.tested_checkpoint()


def test_and_record(
    cfg: DictConfig,
    folder: RunFolder,
    tester: pl.Trainer,
    module: HandSignDataModule,
    model: Classifier,
    checkpoint: str | None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on the validation subset and, once, on the test fold.

    Args:
        cfg: The configuration.
        folder: Of the run.
        tester: See `build_tester`.
        module: The images.
        model: As training left it.
        checkpoint: See `keep_weights`; None tests the model itself.

    Returns:
        The content of `metrics.json`, uncalibrated; `predictions.csv` and
        `calibration.json` are written, and the loggers get the hyper-parameters with the final
        metrics.
    """
    if checkpoint is not None:
        nodes = configured_nodes(cfg)
        file, kind = folder.checkpoints / checkpoint, nodes.pop(TARGET)
        model = load_classifier(file, resolve=import_target, kind=kind, nodes=nodes)
    tester.validate(model, datamodule=module, verbose=False)
    validation = {name: float(tester.callback_metrics[f"validation/{name}"]) for name in METRICS}
    tester.test(model, datamodule=module, verbose=False)
    test = {name: float(tester.callback_metrics[f"test/{name}"]) for name in METRICS}
    history = _callback_of(tester, History).rows
    for loss in (validation["loss"], test["loss"]):
        if not math.isfinite(loss):
            raise DivergedError(len(history), loss)
    predictions = _callback_of(tester, PredictionCollector)
    probabilities, index = predictions.probabilities("test"), module.index
    tested = module.subsets.test[: len(probabilities)]  # fewer with trainer.limit_test_batches
    write_predictions(folder.path / "predictions.csv", index, tested, probabilities)
    optimistic = cfg.split.validation == "fold"
    outputs = {
        subset: (predictions.probabilities(subset), predictions.labels(subset))
        for subset in SUBSETS
    }
    for subset, values in (("validation", validation), ("test", test)):
        if np.isfinite(outputs[subset][0]).all():  # of float64, as `compare` computes them again
            values |= classification_metrics(*outputs[subset])
    if optimistic:  # the two subsets are one: it measures nothing new
        del outputs["test"]
    calibration.write_calibration(folder.path, outputs, cfg.wanted_precision)
    warning = chance_warning(predictions.labels("test"), probabilities.argmax(1), index.classes)
    record = folder.record() or {}
    metrics = {
        "status": "finished",
        "model": model_name(cfg),
        "data": cfg.data.name,
        "study": cfg.study,
        "split": split_name(cfg.split),
        "protocol": OPTIMISTIC if optimistic else "test fold untouched",
        "fold": cfg.fold,
        "folds": cfg.folds,
        "seed": cfg.seed,
        "test": {
            **test,
            "per_class_accuracy": per_class_accuracy(
                predictions.labels("test"), probabilities.argmax(1), index.classes
            ),
            **per_set(index, tested, probabilities),
        },
        "validation": validation,
        "cost": _cost(tester, model),
        "epochs": len(history),
        "seconds": round(sum(float(row["seconds"]) for row in history), 3),
        "images_per_second": _median([float(row["images_per_second"]) for row in history]),
        "environment": identity.environment(
            str(cfg.trainer.precision), str(cfg.trainer.accelerator)
        ),
        **_hands(module),
        "remarks": [warning] if warning else [],
        "fingerprint": record["fingerprint"],
        "checkpoint": checkpoint,
        "partial": partial_data(cfg),
    }
    _log_hyperparameters(tester, record, metrics)
    return metrics


def per_set(index: Index, rows: Ints, probabilities: Floats) -> dict[str, Any]:
    """Metrics of each joined data set among some images; nothing where there is one only."""
    if index.sets is None:
        return {}
    labels, sets = index.labels[rows], np.array(index.sets)[rows]
    by_set = {}
    for name in sorted(set(sets.tolist())):
        of_set = sets == name
        metrics = classification_metrics(probabilities[of_set], labels[of_set])
        by_set[name] = {"images": int(of_set.sum())} | {k: round(v, 6) for k, v in metrics.items()}
    return {"per_set": by_set}


def _hands(module: HandSignDataModule) -> dict[str, Any]:
    """In how many images of each subset no hand was found; nothing with hands=none."""
    hands, index = module.preparation, module.index
    if not isinstance(hands, HandInput):
        return {}
    digests = [fact.digest for fact in index.facts]
    has_hand = hands.found(index.root, index.paths, digests, module.fold.cache_dir)
    rows = {name: getattr(module.subsets, name) for name in ("train", *SUBSETS)}
    counts = {name: int((~has_hand[of_subset]).sum()) for name, of_subset in rows.items()}
    return {"hands": {**hands.options, "not_found_in": counts}}


def _trainer(
    cfg: DictConfig, callbacks: list[pl.Callback], loggers: list[Logger], precision: str,
    *environment: ClusterEnvironment, **options: Any,
) -> pl.Trainer:  # fmt: skip
    return instantiate_component(
        cfg.trainer,
        pl.Trainer,
        "trainer",
        callbacks=[InterruptGuard(), *callbacks],
        logger=loggers or False,
        precision=precision,
        enable_checkpointing=True,  # History is a checkpoint callback; see `build_callbacks`
        plugins=[AtomicCheckpointIO(), *environment],
        default_root_dir=cfg.run_folder,
        **options,
    )


def _callback_of(trainer: pl.Trainer, kind: type[CallbackType]) -> CallbackType:
    callback: CallbackType = next(c for c in trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]
    return callback


def _log_hyperparameters(
    tester: pl.Trainer, record: Mapping[str, Any], metrics: Mapping[str, Any]
) -> None:
    settings = record["settings"]
    final = {f"final/{name}": metrics["test"][name] for name in METRICS}
    hparams = {key: settings[key] for key in sorted(settings) if key.startswith(HPARAMS)}
    for logger in tester.loggers:
        if isinstance(logger, TensorBoardLogger):
            writer = logger.experiment._get_file_writer()
            for summary in tensorboard.hparams_row(identity.hyperparameters(record, metrics)):
                writer.add_summary(summary)
            logger.save()
        else:
            logger.log_hyperparams(hparams)
            logger.log_metrics(final)
        logger.finalize("success")
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(finish):  # or W&B would write the next job of a sweep into this run
            finish()


def _cost(tester: pl.Trainer, model: Classifier) -> dict[str, Any]:
    """What the callback measured; without it, what takes no time to measure."""
    for callback in tester.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, CostProfile) and callback.cost is not None:
            return {**vars(callback.cost), "latency_alone": _is_alone()}
    network = model.network
    return {
        "parameters": parameters(network),
        "flops": None,
        "size_mb": round(size_mb(network), 3),
        "latency_ms": None,
    }


def _is_alone() -> bool:
    """Whether no other job of a sweep may run at the same time."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return True
    target = str(HydraConfig.get().launcher[TARGET])
    return target.rpartition(".")[2] in {"SerialLauncher", "BasicLauncher"}


def _median(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 1)
