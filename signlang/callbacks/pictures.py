"""Predictions and batches come in, pictures for TensorBoard go out; steps know nothing of them."""

from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger

from signlang.callbacks.predictions import Predictions

PREVIEWED: Final = 32
WORST: Final = 24


class Pictures(pl.Callback):
    """Shows augmented training pictures, the confusion matrix and the worst mistakes."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the pictures of the very first batch as the network gets them."""
        if trainer.global_step == 0 and batch_idx == 0:
            images, labels = batch
            classes = trainer.datamodule.index.classes  # type: ignore[attr-defined]
            titles = [classes[label] for label in labels[:PREVIEWED].tolist()]
            _show(trainer, "training pictures", contact_sheet(images[:PREVIEWED].cpu(), titles))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show how the test fold was judged."""
        found = next(c for c in trainer.callbacks if isinstance(c, Predictions))  # type: ignore[attr-defined]
        data = trainer.datamodule  # type: ignore[attr-defined]
        labels, probabilities = found.labels("test"), found.probabilities("test")
        predicted = probabilities.argmax(1)
        classes = data.index.classes
        _show(trainer, "confusion matrix", confusion_matrix(labels, predicted, classes))
        wrong = np.flatnonzero(predicted != labels)
        worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:WORST]
        if len(worst):
            titles = [
                f"{classes[predicted[row]]} ({probabilities[row, predicted[row]]:.2f}), "
                f"is {classes[labels[row]]}"
                for row in worst
            ]
            images = torch.from_numpy(data.array[data.parts.test[worst]])
            _show(trainer, "worst mistakes", contact_sheet(images, titles))


def contact_sheet(images: torch.Tensor, titles: list[str], columns: int = 8) -> Figure:
    """Draw pictures (M, h, h, 3) uint8 in rows, each below its title."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.4 * columns, 1.6 * rows), layout="constrained")
    for position, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(image.numpy())
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    return figure


def confusion_matrix(
    labels: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any], classes: tuple[str, ...]
) -> Figure:
    """Draw how many pictures of each class (rows) were taken for each class (columns)."""
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    side = max(4.0, 0.3 * len(classes) + 1.5)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        shade = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center", color=shade, fontsize=7
        )
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("is")
    return figure


def _show(trainer: pl.Trainer, name: str, figure: Figure) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, global_step=trainer.current_epoch)
