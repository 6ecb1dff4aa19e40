"""Collection of predictions during evaluation, `predictions.csv`, and images for TensorBoard."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger

from signlang.arrays import Floats, Ints
from signlang.data.index import Index
from signlang.files import write_csv
from signlang.metrics.classification import confusion_counts
from signlang.reporting.formatting import seven_digits
from signlang.reporting.plots import image_grid, literal_text, matrix_figure


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
            self._keep("validation", outputs, batch_idx)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch of the test fold."""
        self._keep("test", outputs, batch_idx)

    def probabilities(self, subset: str) -> Floats:
        """(n, classes) softmax of the logits, in the order of the subset's rows."""
        logits = torch.cat([batch["logits"] for batch in self._batches[subset]])
        return logits.double().softmax(1).numpy()

    def labels(self, subset: str) -> Ints:
        """(n,) true labels, in the order of the subset's rows."""
        return torch.cat([batch["labels"] for batch in self._batches[subset]]).numpy()

    def _keep(self, subset: str, outputs: dict[str, torch.Tensor], batch_idx: int) -> None:
        if batch_idx == 0:
            self._batches[subset] = []
        self._batches[subset].append({name: value.cpu() for name, value in outputs.items()})


def write_predictions(file: Path, index: Index, rows: Ints, probabilities: Floats) -> None:
    """Write path,label,predicted,confidence,p_<class>... with one line per image.

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
        )
        for row, best, p in zip(rows, predicted, probabilities, strict=True)
    )
    header = ("path", "label", "predicted", "confidence", *(f"p_{name}" for name in index.classes))
    write_csv(file, header, lines)


PREVIEWED: Final = 32
WORST: Final = 24


class ImageLogger(pl.Callback):
    """Shows augmented training images, the confusion matrix and the worst mistakes."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the images of the very first batch after augmentation."""
        if trainer.global_step == 0 and batch_idx == 0:
            images, labels = batch
            classes = trainer.datamodule.index.classes  # type: ignore[attr-defined]
            titles = [literal_text(classes[label], 14) for label in labels[:PREVIEWED].tolist()]
            _show(trainer, "training images", image_grid(images[:PREVIEWED].cpu().numpy(), titles))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the predictions for the test fold."""
        collector = next(c for c in trainer.callbacks if isinstance(c, PredictionCollector))  # type: ignore[attr-defined]
        data = trainer.datamodule  # type: ignore[attr-defined]
        labels, probabilities = collector.labels("test"), collector.probabilities("test")
        predicted = probabilities.argmax(1)
        classes = data.index.classes
        _show(
            trainer,
            "confusion matrix",
            matrix_figure(confusion_counts(labels, predicted, len(classes)), classes),
        )
        wrong = np.flatnonzero(predicted != labels)
        worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:WORST]
        if len(worst):
            titles = [
                f"is {literal_text(classes[labels[row]], 14)}\n"
                f"taken for {literal_text(classes[predicted[row]], 9)}\n"
                f"{probabilities[row, predicted[row]]:.2f} sure"
                for row in worst
            ]
            _show(
                trainer, "worst mistakes", image_grid(data.array[data.subsets.test[worst]], titles)
            )


def _show(trainer: pl.Trainer, name: str, figure: Figure) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, global_step=trainer.current_epoch)
