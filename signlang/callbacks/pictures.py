"""Predictions and batches come in, pictures for TensorBoard go out; steps know nothing of them."""

from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger

from signlang.callbacks.predictions import Predictions
from signlang.pages.drawing import plain
from signlang.pages.sheets import counts, matrix, sheet

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
            titles = [plain(classes[label], 14) for label in labels[:PREVIEWED].tolist()]
            _show(trainer, "training pictures", sheet(images[:PREVIEWED].cpu().numpy(), titles))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show how the test fold was judged."""
        found = next(c for c in trainer.callbacks if isinstance(c, Predictions))  # type: ignore[attr-defined]
        data = trainer.datamodule  # type: ignore[attr-defined]
        labels, probabilities = found.labels("test"), found.probabilities("test")
        predicted = probabilities.argmax(1)
        classes = data.index.classes
        _show(trainer, "confusion matrix", matrix(counts(labels, predicted, len(classes)), classes))
        wrong = np.flatnonzero(predicted != labels)
        worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:WORST]
        if len(worst):
            titles = [
                f"is {plain(classes[labels[row]], 14)}\n"
                f"taken for {plain(classes[predicted[row]], 9)}\n"
                f"{probabilities[row, predicted[row]]:.2f} sure"
                for row in worst
            ]
            _show(trainer, "worst mistakes", sheet(data.array[data.parts.test[worst]], titles))


def _show(trainer: pl.Trainer, name: str, figure: Figure) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, global_step=trainer.current_epoch)
