"""Collection of predictions during evaluation, `predictions.csv`, and images for TensorBoard."""

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary

from signlang.arrays import Floats, Ints
from signlang.data.index import Index
from signlang.files import SET, write_csv
from signlang.metrics.classification import confusion_counts
from signlang.reporting.formatting import seven_digits
from signlang.reporting.plots import contact_sheet, matrix_figure, one_line


class PredictionCollector(pl.Callback):
    """Collects the predictions for the validation subset and the test fold.

    It works for `Trainer.validate` and `Trainer.test`; validation during training is ignored.
    """

    def __init__(self) -> None:
        self._batches: dict[str, list[dict[str, torch.Tensor]]] = {}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch of the validation subset."""
        if trainer.state.fn == "validate":
            self.keep("validation", outputs, batch_idx)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch of the test fold."""
        self.keep("test", outputs, batch_idx)

    def probabilities(self, subset: str) -> Floats:
        """(n, classes) softmax of the logits, in the order of the subset's rows."""
        logits = torch.cat([batch["logits"] for batch in self._batches[subset]])
        return logits.double().softmax(1).cpu().numpy()

    def labels(self, subset: str) -> Ints:
        """(n,) true labels, in the order of the subset's rows."""
        return torch.cat([batch["labels"] for batch in self._batches[subset]]).cpu().numpy()

    def keep(self, subset: str, outputs: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Keep logits and labels of a batch, where they are; the first one replaces the others."""
        if batch_idx == 0:
            self._batches[subset] = []
        self._batches[subset].append({name: outputs[name] for name in ("logits", "labels")})


def write_predictions(file: Path, index: Index, rows: Ints, probabilities: Floats) -> None:
    """Write path,label,predicted,confidence,p_<class>... with one line per image.

    Of joined data sets, the set of the image stands in a last column.

    Args:
        file: The CSV file.
        index: All images.
        rows: (n,) rows of the predicted images.
        probabilities: (n, classes) of these.
    """
    predicted = probabilities.argmax(1)
    lines = (
        (
            index.paths[row],
            index.classes[index.labels[row]],
            index.classes[best],
            seven_digits(p[best]),
            *map(seven_digits, p),
            *([index.sets[row]] if index.sets else ()),
        )
        for row, best, p in zip(rows, predicted, probabilities, strict=True)
    )
    header = ["path", "label", "predicted", "confidence", *(f"p_{name}" for name in index.classes)]
    write_csv(file, [*header, *([SET] if index.sets else ())], lines)


PREVIEWED: Final = 24  # training images
WORST: Final = 12  # mistakes of an epoch
WORST_OF_TEST: Final = 24
EACH_EPOCH: Final = 50  # epochs; of the next 50 every second has a sheet, then every third
QUALITY: Final = 85  # of JPEG: a fifth of the bytes and of the time of PNG


def has_sheet(epoch: int) -> bool:
    """Whether the mistakes of an epoch are shown: ever more rarely, so that long runs stay small.

    >>> sum(map(has_sheet, range(50))), sum(map(has_sheet, range(100)))
    (50, 75)
    >>> sum(map(has_sheet, range(1000)))
    172
    """
    return epoch % (1 + epoch // EACH_EPOCH) == 0


class ImageLogger(pl.Callback):
    """Shows images on TensorBoard: augmented ones, the mistakes of each epoch and of the test."""

    def __init__(self) -> None:
        self._epoch: PredictionCollector | None = None  # of the validation that is shown

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the images of the very first batch after augmentation."""
        if trainer.global_step == 0 and batch_idx == 0 and _writers(trainer):
            images, labels = (values[:PREVIEWED].cpu().numpy() for values in batch)
            classes = trainer.datamodule.index.classes  # type: ignore[attr-defined]
            titles = [[one_line(classes[label], 16)] for label in labels]
            heading = "first batch, as the network sees it"
            show(trainer, "training/images", contact_sheet(heading, images, titles))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch of an epoch that is shown."""
        is_training = trainer.state.fn == "fit" and not trainer.sanity_checking
        if is_training and has_sheet(trainer.current_epoch) and _writers(trainer):
            self._epoch = self._epoch or PredictionCollector()
            self._epoch.keep("validation", outputs, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the most confident mistakes of the epoch."""
        if self._epoch is not None:
            _show_mistakes(
                trainer, "training/validation mistakes", self._epoch, "validation", WORST
            )
            self._epoch = None

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the predictions for the test fold."""
        if not _writers(trainer):
            return
        collector = next(c for c in trainer.callbacks if isinstance(c, PredictionCollector))  # type: ignore[attr-defined]
        labels, probabilities = collector.labels("test"), collector.probabilities("test")
        classes = trainer.datamodule.index.classes  # type: ignore[attr-defined]
        counts = confusion_counts(labels, probabilities.argmax(1), len(classes))
        for writer in _writers(trainer):
            writer.add_figure("test/confusion matrix", matrix_figure(counts, classes))
        _show_mistakes(trainer, "test/worst mistakes", collector, "test", WORST_OF_TEST)


def _show_mistakes(
    trainer: pl.Trainer, name: str, collector: PredictionCollector, subset: str, most: int
) -> None:
    """Show the most confident mistakes in a subset."""
    labels, probabilities = collector.labels(subset), collector.probabilities(subset)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    data = trainer.datamodule  # type: ignore[attr-defined]
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    titles = [
        [
            f"is {one_line(data.index.classes[labels[row]], 14)}",
            f"taken for {one_line(data.index.classes[predicted[row]], 8)}",
            f"{confidence[row]:.2f} sure",
        ]
        for row in worst
    ]
    heading = f"{len(wrong)} of {len(labels)} images are taken for another sign"
    if len(worst) < len(wrong):
        heading += f"; the {len(worst)} with the highest confidence"
    images = data.array[getattr(data.subsets, subset)[worst]] if len(worst) else []
    show(trainer, name, contact_sheet(heading, images, titles))


def _writers(trainer: pl.Trainer) -> list[Any]:
    """The `SummaryWriter` of each logger that has one."""
    return [
        logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)
    ]


def show(trainer: pl.Trainer, name: str, sheet: Image.Image) -> None:
    """Show an image on TensorBoard, where it is the logger."""
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=QUALITY)
    image = Summary.Image(
        height=sheet.height, width=sheet.width, colorspace=3,
        encoded_image_string=stream.getvalue(),
    )  # fmt: skip
    summary = Summary(value=[Summary.Value(tag=name, image=image)])
    for writer in _writers(trainer):
        writer._get_file_writer().add_summary(summary, trainer.current_epoch)
