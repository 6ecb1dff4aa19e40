"""Networks to evaluate: a run, a bundle, or external weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from omegaconf import DictConfig, OmegaConf

from signlang.arrays import Floats, Pixels
from signlang.components import import_target
from signlang.data.boxes import MARGIN
from signlang.data.image_io import resize_batch
from signlang.errors import SettingError
from signlang.evaluation.class_mapping import read_classes
from signlang.files import expanded
from signlang.hands.hand_input import HandInput
from signlang.metrics.calibration import OF_RUN, Calibration, apply_temperature
from signlang.runs.results import Run, read_class_names, require_run
from signlang.validation import NORMALIZATIONS

if TYPE_CHECKING:  # onnxruntime may be missing, and torch takes seconds
    from signlang.inference.bundle import Bundle
    from signlang.runs.trained_run import TrainedRun

BATCH: Final = 64  # images


@dataclass(frozen=True)
class TrainingCrops:
    """What the training images of a network were cropped to.

    Attributes:
        share: Of the images, between 0 (all were whole) and 1.
        margin: Of the boxes.
    """

    share: float
    margin: float

    @classmethod
    def of(cls, images: int, total: int, margin: float | None) -> "TrainingCrops":
        """Count them; a margin that is not known is that by default."""
        return cls(images / max(total, 1), MARGIN if margin is None else float(margin))


@dataclass(frozen=True, eq=False)
class BatchPredictor:
    """A network with all that belongs to it.

    Attributes:
        kind: `run`, `bundle` or `weights`.
        name: For people and for the name of a folder.
        path: Where it came from.
        classes: Names, in the order of its outputs.
        image_sizes: Sizes that images are resized to, in order, in pixels.
        predict: Maps (n, size, size, 3) to (n, classes) probabilities, uncalibrated.
        calibration: What came with it, if anything.
        facts: What else is known of it, for the record.
        run: The run that it is, if it is one.
        crops: What its training images were cropped to; None where that is not known.
        hands: What it sees of an image; None: the whole image.
    """

    kind: str
    name: str
    path: Path
    classes: tuple[str, ...]
    image_sizes: tuple[int, ...]
    predict: Callable[[Pixels], Floats]
    calibration: Calibration | None
    facts: Mapping[str, Any]
    run: "TrainedRun | None" = None
    crops: TrainingCrops | None = None
    hands: HandInput | None = None

    def resized(self, images: Pixels) -> Pixels:
        """Resize (n, h, w, 3) images to the remaining sizes, in order."""
        return resize_batch(images, *self.image_sizes)


def find_network(cfg: DictConfig) -> tuple[tuple[str, ...], Callable[[], BatchPredictor]]:
    """The classes of the network that a configuration names, and what loads it.

    Torch is not imported before it is loaded.

    Raises:
        SignlangError: If there is none, or it cannot be used.
    """
    if cfg.run is not None:
        run = require_run(expanded(str(cfg.run)))
        return read_class_names(run.path), partial(
            run_predictor, run, trust=cfg.trust, cache_dir=str(cfg.cache_dir)
        )
    if cfg.bundle is not None:
        bundle = bundle_predictor(expanded(str(cfg.bundle)))
        return bundle.classes, lambda: bundle
    return read_classes(expanded(str(cfg.classes))), partial(weights_predictor, cfg)


def run_predictor(run: Run, *, trust: bool = False, cache_dir: str | None = None) -> BatchPredictor:
    """The best checkpoint of a finished run.

    Raises:
        RunError: If its checkpoint is damaged.
    """
    from signlang.runs import trained_run

    trained = trained_run.load_network(run, trust=trust)
    folder = trained.path.resolve()
    return BatchPredictor(
        kind="run",
        name=f"{folder.parent.name},{folder.name}",
        path=trained.path,
        classes=trained.classes,
        image_sizes=trained.image_sizes,
        predict=network_outputs(trained.classifier),
        calibration=trained.stored,
        facts={
            "model": trained.metrics["model"], "trained_on": trained.record["data"],
            "fingerprint": trained.record["fingerprint"],
            "protocol": trained.metrics.get("protocol", ""),
        },
        run=trained,
        crops=TrainingCrops.of(
            trained.record["data"].get("boxes", 0), trained.record["data"]["images"],
            trained.record["data"].get("box_margin"),
        ),
        hands=trained.hand_input(cache_dir),
    )  # fmt: skip


def bundle_predictor(path: Path) -> BatchPredictor:
    """A bundle; what its graph does about the temperature is undone.

    Raises:
        BundleError: If it is missing or damaged.
    """
    from signlang.inference.bundle import load_bundle, load_hands
    from signlang.inference.onnx_model import OnnxModel

    bundle = load_bundle(path)
    network = OnnxModel.from_bundle(bundle)

    def predict(images: Pixels) -> Floats:
        return apply_temperature(network(images), 1 / bundle.temperature)

    resolved = path.resolve()
    return BatchPredictor(
        kind="bundle",
        name=resolved.stem if resolved.is_file() else resolved.name,
        path=path,
        classes=bundle.classes,
        image_sizes=bundle.image_sizes[:1],  # its graph does the rest
        predict=predict,
        calibration=_calibration_of(bundle),
        facts={
            "model": bundle.info.get("model"), "bundle": bundle.name,
            "protocol": bundle.info.get("protocol", ""),
        },
        crops=_crops_of(bundle),
        hands=load_hands(bundle),
    )  # fmt: skip


def _crops_of(bundle: "Bundle") -> TrainingCrops:
    facts = bundle.info.get("boxes") or {}
    try:
        return TrainingCrops.of(
            int(facts.get("images", 0)), int(facts.get("of", 1)), facts.get("margin")
        )
    except (TypeError, ValueError, AttributeError):  # it may come from elsewhere
        return TrainingCrops(0, MARGIN)


def _calibration_of(bundle: "Bundle") -> Calibration:
    facts = bundle.info.get("calibration") or {}
    return Calibration(
        bundle.temperature,
        float(bundle.info.get("wanted_precision") or Calibration.wanted_precision),
        bundle.reject_threshold,
        images=int(facts.get("images", 0)),
        kept=bool(facts.get("kept", True)),
        reason=str(facts.get("reason", "")),
        source=str(facts.get("source", OF_RUN)),
    )


def network_outputs(model: Any, swap_axes: bool = False) -> Callable[[Pixels], Floats]:
    """Predict with a classifier in float32, on a GPU if there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = model.eval().to(device)

    def predict(images: Pixels) -> Floats:
        batch = torch.from_numpy(images)
        if swap_axes:  # height and width exchanged
            batch = batch.transpose(1, 2)
        with torch.inference_mode():
            probabilities = network(batch.to(device)).double().softmax(1)
        return np.asarray(probabilities.cpu().numpy(), dtype=np.float64)

    return predict


def weights_predictor(cfg: DictConfig) -> BatchPredictor:
    """External weights: every layer of the file must be one of the network, and vice versa.

    Raises:
        SettingError: If its preprocessing is unknown or impossible.
        WeightsError: If the file cannot be read or does not fit.
    """
    from signlang.models.classifier import Classifier

    classes = read_classes(expanded(str(cfg.classes)))
    options: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    size = int(cfg.size or options["image_size"])
    mean, std = _normalization(cfg)
    model = Classifier(
        options["network"], classes, size, mean, std, optimizer={}, resolve=import_target
    )
    from signlang.models.weights import load_full_state

    load_full_state(model.network, str(cfg.model.weights), len(classes))
    file = expanded(str(cfg.model.weights))
    return BatchPredictor(
        kind="weights",
        name=f"{options.get('architecture', options['name'])}-{file.stem}",
        path=file,
        classes=classes,
        image_sizes=(size,),
        predict=network_outputs(model, swap_axes=cfg.swap_axes),
        calibration=None,
        facts={
            "model": options.get("architecture", options["name"]), "mean": mean, "std": std,
            "swap_axes": cfg.swap_axes,
        },
    )  # fmt: skip


def _normalization(cfg: DictConfig) -> tuple[list[float], list[float]]:
    """Mean and deviation: those of the settings, else those that belong to the network."""
    normalization = NORMALIZATIONS.get(cfg.model.normalization)
    if normalization is None and (cfg.mean is None or cfg.std is None):
        raise SettingError(
            f"model.normalization={cfg.model.normalization} is not known without the training "
            "images: give mean=[R,G,B] and std=[R,G,B], of pixels from 0 to 1."
        )
    mean, std = normalization or ([], [])
    return (
        list(map(float, mean if cfg.mean is None else cfg.mean)),
        list(map(float, std if cfg.std is None else cfg.std)),
    )
