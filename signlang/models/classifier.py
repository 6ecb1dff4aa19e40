"""The LightningModule: normalization, network, loss, metrics and optimizer.

Mean, deviation and names of the classes travel inside its checkpoints, so that whoever loads one
preprocesses exactly as the training did.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

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

from signlang.data.image_io import as_images, resize_image
from signlang.models import networks

Batch = tuple[torch.Tensor, torch.Tensor]
OPTIMIZERS: Final[Mapping[str, type[torch.optim.Optimizer]]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
CALIBRATION_BINS: Final = 15  # Guo et al. 2017, On Calibration of Modern Neural Networks, section 4


class Classifier(pl.LightningModule):
    """A network with its normalization, loss, metrics and optimizer.

    Args:
        network: Options of `networks.build` that shape it: name, image_size, architecture.
        classes: Names of the classes, in the order of the logits.
        mean: Of red, green and blue, of pixels in 0 to 1; subtracted.
        std: Likewise; divided by.
        optimizer: `name` (adam, adamw, sgd) and the options of torch's class.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1.
        start: Options of `networks.build` for the first weights: pretrained, weights. They are not
            kept in checkpoints, which bring weights of their own.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        network: Mapping[str, Any],
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        optimizer: Mapping[str, Any],
        label_smoothing: float = 0.0,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["start"], logger=False)
        built = networks.build_network(classes=len(classes), **network, **(start or {}))
        self.network = built.to(memory_format=torch.channels_last)
        self.classes = tuple(classes)
        self.optimizer, self.label_smoothing = dict(optimizer), label_smoothing
        # (x / 255 - mean) / std as one subtraction and one multiplication of the bytes
        shift, spread = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (mean, std))
        self.register_buffer("mean", 255 * shift, persistent=False)
        self.register_buffer("scale", 1 / (255 * spread), persistent=False)
        self._trained: list[tuple[torch.Tensor, int, torch.Tensor, torch.Tensor]] = []
        self.metrics = nn.ModuleDict(
            {
                "train_metrics": _metrics(len(classes), thorough=False),
                "validation_metrics": _metrics(len(classes)),
                "test_metrics": _metrics(len(classes)),
            }
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images (B, size, size, 3) to logits (B, classes)."""
        count, height, width, colours = images.shape
        # whole rows: to broadcast three numbers along each pixel takes four times as long
        mean, scale = (v.flatten().repeat(height * width) for v in (self.mean, self.scale))
        normal = images.reshape(count, -1).to(self.mean.dtype).sub_(mean).mul_(scale)
        # a view: the bytes are in channels-last order already
        planes = normal.view(count, height, width, colours).permute(0, 3, 1, 2)
        logits: torch.Tensor = self.network(planes)
        return logits

    @torch.no_grad()
    def predict_images(self, images: Any, sizes: Sequence[int] = ()) -> torch.Tensor:
        """Probabilities of the classes for images in the form that a user has.

        Args:
            images: One image or many: paths, PIL images, uint8 arrays or tensors (N, H, W, 3), or
                float ones (N, 3, H, W) between 0 and 1; of any size, not normalized.
            sizes: Sizes that images are resized to one after another, in pixels; the last one is
                the network's. Only runs with `data.stored_size` have more than one.

        Returns:
            (N, classes), on the processor, uncalibrated.

        Raises:
            ValueError: If an array has another shape, type or range; says which is expected.
            BadImageError: If a file cannot be read or decoded.
        """
        size = int(self.hparams["network"]["image_size"])
        batch = []
        for pixels in as_images(images):
            for side in (*sizes, size):
                pixels = resize_image(Image.fromarray(pixels), side)
            batch.append(torch.tensor(pixels))
        if not batch:
            return torch.empty(0, len(self.classes))
        was_training = self.training
        self.eval()
        logits: torch.Tensor = self(torch.stack(batch).to(self.device)).float()
        self.train(was_training)
        return logits.softmax(1).cpu()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return self._step(batch, "train")[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return logits (B, classes) and labels (B,) for whoever collects them."""
        return {"logits": self._step(batch, "validation")[1], "labels": batch[1]}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return logits (B, classes) and labels (B,) for whoever collects them."""
        return {"logits": self._step(batch, "test")[1], "labels": batch[1]}

    def on_train_epoch_start(self) -> None:
        """Forget the batches of the epoch before, or of one that was interrupted."""
        self._trained.clear()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training metrics and the learning rate it ended with."""
        metrics = cast(MetricCollection, self.metrics["train_metrics"])
        if self._trained:  # once an epoch: at each step it would take half a millisecond
            losses, counts, logits, labels = zip(*self._trained, strict=True)
            weight = torch.tensor(counts, dtype=torch.float32, device=self.device)
            metrics.update(value=torch.stack(losses), weight=weight,
                           preds=torch.cat(logits), target=torch.cat(labels))  # fmt: skip
        optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
        self.log("learning_rate", float(optimizer.param_groups[0]["lr"]))
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_epoch("validation")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer; fused, so that a step is one pass over the weights."""
        options = {key: value for key, value in self.optimizer.items() if key != "name"}
        return OPTIMIZERS[self.optimizer["name"]](self.parameters(), fused=True, **options)  # type: ignore[call-arg]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; Lightning itself refuses to, beside a fused optimizer in mixed precision.

        Its reason, gradients scaled for float16, does not arise: that precision is not offered.
        """
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def _step(self, batch: Batch, stage: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = batch
        logits = self(images).float()
        smoothing = self.label_smoothing if stage == "train" else 0.0
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        seen = loss.detach(), len(labels), logits.detach(), labels
        if stage == "train":
            self._trained.append(seen)
        else:
            metrics = cast(MetricCollection, self.metrics[f"{stage}_metrics"])
            metrics.update(**dict(zip(("value", "weight", "preds", "target"), seen, strict=True)))
        return loss, logits.detach()

    def _log_epoch(self, stage: str) -> None:
        metrics = cast(MetricCollection, self.metrics[f"{stage}_metrics"])
        figures = {f"{stage}/{name}": value for name, value in metrics.compute().items()}
        figures["step"] = torch.tensor(float(self.current_epoch))  # dashboards count epochs
        # judging the validation part once more, after training, is no point of its curve
        self.log_dict(figures, logger=self.trainer.state.fn != "validate")
        metrics.reset()


def _metrics(classes: int, thorough: bool = True) -> MetricCollection:
    options: dict[str, Any] = {"num_classes": classes, "validate_args": False}
    metrics: dict[str, Any] = {
        "loss": MeanMetric(),
        "accuracy": MulticlassAccuracy(average="micro", **options),
    }
    if thorough:
        metrics |= {
            "macro_f1": MulticlassF1Score(average="macro", **options),
            "calibration_error": MulticlassCalibrationError(n_bins=CALIBRATION_BINS, **options),
        }
    return MetricCollection(metrics, compute_groups=False)
