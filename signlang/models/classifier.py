"""The LightningModule: normalization, network, loss, metrics and optimizer.

Mean, deviation and names of the classes are stored in its checkpoints, so that inference
preprocesses images as training did.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

from signlang.components import (
    OWN_MODULE,
    TARGET,
    Resolver,
    build,
    import_listed,
    import_target,
    takes,
    untrusted,
)
from signlang.data.image_io import as_images, resize_image
from signlang.errors import RunError, SettingError
from signlang.files import check_archive
from signlang.models import networks

CROSS_ENTROPY: Final = {TARGET: "torch.nn.CrossEntropyLoss"}
Batch = tuple[torch.Tensor, torch.Tensor]
CALIBRATION_BINS: Final = 15  # Guo et al. 2017, On Calibration of Modern Neural Networks, section 4


class Classifier(pl.LightningModule):
    """A network with its normalization, loss, metrics and optimizer.

    Network, loss and optimizer are nodes: `_target_` and arguments, see `signlang.components` for
    their contracts. A class of a user's own derives from this one (`model._target_=...`): it may
    change any step, as long as `validation_step` and `test_step` return logits and labels.

    Args:
        network: The node of the network.
        classes: Names of the classes, in the order of the logits.
        image_size: Width and height of the images, in pixels.
        mean: Mean of red, green and blue, for pixels in 0 to 1.
        std: Standard deviation, likewise.
        optimizer: The node of the optimizer.
        loss: The node of the loss that trains.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1.
        start: `pretrained` and `weights` of `networks.build_network`. They are not stored in
            checkpoints, which have weights of their own.
        resolve: Resolver of targets; training resolves all of them. Not stored either, so that a
            checkpoint cannot choose it.

    Attributes:
        is_pretrained: Whether the network started from weights of a file or a hub.
        stored_sizes: Sizes to which images are resized before that of the network, in pixels: that
            of a run with `data.stored_size`, whose training images had that size first.
        prepare: What happens to images before that, e.g. a crop around the hand; None: nothing.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    stored_sizes: tuple[int, ...] = ()
    prepare: Callable[[Image.Image], Image.Image] | None = None

    def __init__(
        self,
        network: Mapping[str, Any],
        classes: Sequence[str],
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        optimizer: Mapping[str, Any],
        loss: Mapping[str, Any] = CROSS_ENTROPY,
        label_smoothing: float = 0.0,
        start: Mapping[str, Any] | None = None,
        resolve: Resolver = import_listed,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["start", "resolve"], logger=False)
        built_network = networks.build_network(
            network, len(classes), image_size, resolve=resolve, **(start or {})
        )
        self.network = built_network.to(memory_format=torch.channels_last)
        start_values = [*(start or {}).values(), network.get("pretrained"), network.get("weights")]
        self.is_pretrained = any(value not in (None, False) for value in start_values)
        self.classes, self.image_size = tuple(classes), image_size
        self.optimizer, self.resolve = dict(optimizer), resolve
        self._training_loss = dict(loss), label_smoothing
        self.loss = self._build_loss() if resolve is import_target else None
        self.mixing: Callable[..., Batch] | None = None
        # (x / 255 - mean) / std as one subtraction and one multiplication of the bytes
        means, deviations = (
            torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (mean, std)
        )
        self.register_buffer("mean", 255 * means, persistent=False)
        self.register_buffer("scale", 1 / (255 * deviations), persistent=False)
        self.learning_rate = math.nan
        self._train_outputs: list[tuple[torch.Tensor, int, torch.Tensor, torch.Tensor]] = []
        self.metrics = nn.ModuleDict(
            {
                "train_metrics": _metrics(len(classes), full=False),
                "validation_metrics": _metrics(len(classes)),
                "test_metrics": _metrics(len(classes)),
            }
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images (B, size, size, 3) to logits (B, classes)."""
        logits: torch.Tensor = self.network(self.normalized(images))
        return logits

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images (B, size, size, 3) to what the network gets, (B, 3, size, size)."""
        count, height, width, channels = images.shape
        # whole rows: broadcasting three numbers along each pixel takes four times as long
        mean, scale = (v.flatten().repeat(height * width) for v in (self.mean, self.scale))
        normalized = images.reshape(count, -1).to(self.mean.dtype).sub_(mean).mul_(scale)
        # a view: the bytes are in channels-last order already
        return normalized.view(count, height, width, channels).permute(0, 3, 1, 2)

    @torch.no_grad()
    def predict_images(self, images: Any) -> torch.Tensor:
        """Predict the probabilities of the classes for images of several types.

        Args:
            images: One image or many: paths, PIL images, uint8 arrays or tensors (N, H, W, 3), or
                float ones (N, 3, H, W) between 0 and 1; of any size, not normalized.

        Returns:
            (N, classes), on the CPU, uncalibrated.

        Raises:
            ValueError: If an array has another shape, type or range; names the expected one.
            BadImageError: If a file cannot be read or decoded.
        """
        batch = []
        for pixels in as_images(images):
            if self.prepare is not None:
                pixels = np.asarray(self.prepare(Image.fromarray(pixels)), dtype=np.uint8)
            for size in (*self.stored_sizes, self.image_size):
                pixels = resize_image(Image.fromarray(pixels), size)
            batch.append(torch.tensor(pixels))
        if not batch:
            return torch.empty(0, len(self.classes))
        was_training = self.training
        self.eval()
        logits: torch.Tensor = self(torch.stack(batch).to(self.device)).float()
        self.train(was_training)
        return logits.softmax(1).cpu()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch, whose images are mixed if `mix_images` says so."""
        if self.mixing is not None:
            images, labels = batch
            planes, shares = self.mixing(images.permute(0, 3, 1, 2).float(), labels)
            batch = planes.permute(0, 2, 3, 1), shares
        return self._step(batch, "train")[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return logits (B, classes) and labels (B,) for the callbacks that collect them."""
        return {"logits": self._step(batch, "validation")[1], "labels": batch[1]}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return logits (B, classes) and labels (B,) for the callbacks that collect them."""
        return {"logits": self._step(batch, "test")[1], "labels": batch[1]}

    def recent_metrics(self, most: int = 50) -> tuple[float, float]:
        """Loss and accuracy of the last training batches of this epoch; nan without any.

        It waits for the GPU.
        """
        recent = self._train_outputs[-most:]
        if not recent:
            return math.nan, math.nan
        losses, counts, logits, labels = zip(*recent, strict=True)
        weights = torch.tensor(counts, dtype=torch.float32, device=losses[0].device)
        loss = (torch.stack(losses) * weights).sum() / weights.sum()
        is_correct = torch.cat(logits).argmax(1) == torch.cat(labels)
        return float(loss), float(is_correct.float().mean())

    def on_train_epoch_start(self) -> None:
        """Discard the batches of the previous epoch, or of an interrupted one."""
        self._train_outputs.clear()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the learning rate of this step; a scheduler sets the next one right after it."""
        self.learning_rate = float(optimizer.param_groups[0]["lr"])

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training metrics and its last learning rate."""
        metrics = cast(MetricCollection, self.metrics["train_metrics"])
        if self._train_outputs:  # once an epoch: at each step it would take half a millisecond
            losses, counts, logits, labels = zip(*self._train_outputs, strict=True)
            weight = torch.tensor(counts, dtype=torch.float32, device=self.device)
            metrics.update(value=torch.stack(losses), weight=weight,
                           preds=torch.cat(logits), target=torch.cat(labels))  # fmt: skip
        self.log("learning_rate", self.learning_rate, sync_dist=True)
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_epoch("validation")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer; fused where it can be, so that a step is one pass over the weights.

        Raises:
            SettingError: If the target is no optimizer, or refuses its settings.
        """
        groups, rate = getattr(self.network, "parameter_groups", None), self.optimizer.get("lr")
        optimizer = build(
            self.optimizer, {"fused": True}, key="optimizer", resolve=self.resolve,
            positional=(groups(rate) if groups and rate else self.parameters(),),
        )  # fmt: skip
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise SettingError(
                f"optimizer: {self.optimizer[TARGET]} returns {type(optimizer).__name__}, not a "
                "torch.optim.Optimizer."
            )
        return optimizer

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm or value, also with a fused optimizer in mixed precision: Lightning refuses.

        Its reason, gradients scaled for float16, does not apply: that precision is not offered.
        """
        if not gradient_clip_val:
            return
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def _step(self, batch: Batch, stage: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = batch
        logits = self(images).float()
        criterion = self.loss if stage == "train" and self.loss is not None else F.cross_entropy
        # in training a network may return (B, heads, classes): each head is trained by itself
        heads = logits.unbind(1) if logits.ndim == 3 else (logits,)
        loss: torch.Tensor = torch.stack(
            [criterion(head_logits, labels) for head_logits in heads]
        ).mean()
        logits = logits.mean(1) if logits.ndim == 3 else logits
        if labels.ndim > 1:  # of mixed images: the class that has the largest share
            labels = labels.argmax(1)
        values = loss.detach(), len(labels), logits.detach(), labels
        if stage == "train":
            self._train_outputs.append(values)
        else:
            metrics = cast(MetricCollection, self.metrics[f"{stage}_metrics"])
            # probabilities: logits that all lie between 0 and 1 would be taken for such
            metrics.update(
                value=values[0], weight=values[1], preds=logits.detach().softmax(1), target=labels
            )
        return loss, logits.detach()

    def weight_classes(self, weights: Sequence[float]) -> None:
        """Let the loss that trains weight each class.

        Raises:
            SettingError: If it takes no weights.
        """
        self.loss = self._build_loss(torch.tensor(weights, dtype=torch.float32))

    def mix_images(self, mixup: float, cutmix: float) -> None:
        """Train on images that are blended (mixup) or pasted into one another (cutmix).

        Each batch is mixed with itself, by torchvision; with both, one of the two is drawn for it.

        Args:
            mixup: Of the beta distribution of the shares (Zhang et al. 2018, arXiv 1710.09412); 0:
                not blended.
            cutmix: Likewise (Yun et al. 2019, arXiv 1905.04899).

        Raises:
            SettingError: If the loss takes no targets that are shares of the classes.
        """
        from torchvision.transforms import v2

        count, kinds = len(self.classes), ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        mixes = [kind(alpha=alpha, num_classes=count) for kind, alpha in kinds if alpha]
        self.mixing = v2.RandomChoice(mixes)
        try:
            value = self.loss(torch.zeros(2, count), torch.full((2, count), 1 / count))  # type: ignore[misc]
            fault = "" if math.isfinite(float(value)) else f"it returns {value}"
        except Exception as error:  # a user's loss may raise anything
            fault = f"it fails: {type(error).__name__}: {error}"
        if fault:
            raise SettingError(
                f"mixup, cutmix: {self._training_loss[0][TARGET]} must take labels (N, {count}), "
                f"the shares of the classes; {fault}. Use loss=cross_entropy, or neither of both."
            )

    def _build_loss(self, weights: torch.Tensor | None = None) -> Any:
        """Build the loss and try it once, on logits of the right shape.

        Raises:
            SettingError: If it breaks the contract, or takes no label smoothing, or no weights of
                the classes, although they are set.
        """
        node, label_smoothing = self._training_loss
        target = node[TARGET]
        if weights is not None and not takes(import_target(target), "weight"):
            raise SettingError(
                f"balance=loss: {target} has no argument weight; use balance=sampler, or none."
            )
        inputs = {"label_smoothing": label_smoothing}
        loss = build(node, inputs | ({} if weights is None else {"weight": weights}), key="loss")
        if label_smoothing and not takes(import_target(target), "label_smoothing"):
            raise SettingError(
                f"label_smoothing={label_smoothing}: {target} takes none; use "
                "loss=cross_entropy, or label_smoothing=0."
            )
        logits = torch.zeros(2, len(self.classes), requires_grad=True)
        try:
            with torch.random.fork_rng(devices=[]):
                value = loss(logits, torch.zeros(2, dtype=torch.int64))
        except Exception as error:  # a user's loss may raise anything
            raise SettingError(
                f"loss: {target} must take logits (N, {len(self.classes)}) and labels (N,); it "
                f"fails: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(value, torch.Tensor) or value.ndim or not value.requires_grad:
            is_tensor = isinstance(value, torch.Tensor)
            returned = f"a tensor of {tuple(value.shape)}" if is_tensor else repr(value)
            raise SettingError(
                f"loss: {target} must return one number that follows from the logits; it returns "
                f"{returned}."
            )
        return loss

    def _log_epoch(self, stage: str) -> None:
        metrics = cast(MetricCollection, self.metrics[f"{stage}_metrics"])
        values = {f"{stage}/{name}": value for name, value in metrics.compute().items()}
        values["step"] = torch.tensor(float(self.current_epoch))  # dashboards count epochs
        # the validation of the best checkpoint, after training, does not belong to the curve
        # metrics are of all processes already; Lightning warns of what it has not averaged itself
        self.log_dict(values, logger=self.trainer.state.fn != "validate", sync_dist=True)
        metrics.reset()


def _metrics(classes: int, full: bool = True) -> MetricCollection:
    options: dict[str, Any] = {"num_classes": classes, "validate_args": False}
    metrics: dict[str, Any] = {
        "loss": MeanMetric(nan_strategy=math.nan),  # by default it leaves out what is nan
        "accuracy": MulticlassAccuracy(average="micro", **options),
    }
    if full:
        metrics |= {
            "macro_f1": MulticlassF1Score(average="macro", **options),
            "calibration_error": MulticlassCalibrationError(n_bins=CALIBRATION_BINS, **options),
        }
    return MetricCollection(metrics, compute_groups=False)


def load_classifier(
    file: Path,
    *,
    resolve: Resolver = import_listed,
    kind: str = "",
    nodes: Mapping[str, Any] | None = None,
) -> Classifier:
    """Load a checkpoint on the CPU, in evaluation mode.

    Nothing of the file is executed: its hyper-parameters and weights are plain data, and its
    network is built only if `resolve` accepts its target.

    Args:
        file: A checkpoint of a run.
        resolve: `components.import_target` if the file is trusted, or names no component.
        kind: `_target_` of the LightningModule; empty for `Classifier`.
        nodes: The components of the user's own configuration, see `components.configured_nodes`;
            those that the file names are then not looked at.

    Raises:
        RunError: If the file is damaged, of another version, or names unknown code.
    """
    if kind not in {"", OWN_MODULE} and resolve is import_listed:
        raise untrusted(kind)
    module = Classifier if kind in {"", OWN_MODULE} else resolve(kind)
    try:
        check_archive(file)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        settings, state = dict(checkpoint["hyper_parameters"]), dict(checkpoint["state_dict"])
        for key in ("start", "resolve"):  # would download weights, or choose what is trusted
            settings.pop(key, None)
        settings |= nodes or {}
        # a loss with weights of its own is for training
        state = {key: value for key, value in state.items() if not key.startswith("loss.")}
    except Exception as error:  # torch raises many kinds on a damaged file
        raise RunError(
            f"{file} cannot be loaded ({type(error).__name__}): train the run again with "
            "overwrite=true."
        ) from error
    try:
        model: Classifier = module(**settings, resolve=resolve)
        incompatible = model.load_state_dict(state, strict=False)
    except RunError:
        raise
    except Exception as error:  # whatever a network raises at arguments that it does not take
        raise RunError(
            f"{file} does not fit this version of signlang or its network has changed ({error}): "
            "train the run again with overwrite=true."
        ) from error
    wrong = [
        *incompatible.unexpected_keys,
        *(k for k in incompatible.missing_keys if not k.startswith("loss.")),
    ]
    if wrong:
        raise RunError(
            f"{file} does not hold the weights of its network ({', '.join(wrong[:5])}): train the "
            "run again with overwrite=true."
        )
    return model.eval()
