"""A callback that evaluates every epoch on the validation subset and on the test fold.

    +callbacks.epochs._target_=epochs.EpochRecorder

It writes `epochs.csv` into the run folder: per epoch the loss and accuracy of both, of the weights
and of their exponential moving average. Nothing is selected by the test fold: `rules.py` compares
afterwards what each rule would have selected by the validation subset.
"""

import csv
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

HEADER: Final = (
    "epoch", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy",
    "average_validation_loss", "average_validation_accuracy", "average_test_loss",
    "average_test_accuracy",
)  # fmt: skip


class EpochRecorder(pl.Callback):
    """Writes `epochs.csv` into the run folder.

    Args:
        epochs_averaged: Length of the exponential average, in epochs.
    """

    def __init__(self, epochs_averaged: float = 1.0) -> None:
        self.epochs_averaged = epochs_averaged
        self.average: AveragedModel | None = None
        self.rows: list[list[float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the average."""
        decay = 1 - 1 / (self.epochs_averaged * int(trainer.num_training_batches))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(pl_module.network, multi_avg_fn=average, use_buffers=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *rest: Any) -> None:
        """Average the weights and the statistics of the normalization."""
        assert self.average is not None
        self.average.update_parameters(pl_module.network)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Judge both networks on both subsets."""
        assert self.average is not None
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loaders = data.val_dataloader(), data.test_dataloader()
        row = [value for loader in loaders for value in _judge(pl_module, loader)]
        own, pl_module.network = pl_module.network, self.average.module
        row += [value for loader in loaders for value in _judge(pl_module, loader)]
        pl_module.network = own
        self.rows.append([trainer.current_epoch, *row])
        with (Path(trainer.default_root_dir) / "epochs.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([HEADER, *self.rows])


@torch.no_grad()
def _judge(module: Any, loader: Any) -> tuple[float, float]:
    """Mean loss and accuracy in float32."""
    was_training = module.network.training
    module.network.eval()
    outputs, labels = [], []
    for images, truth in loader:
        outputs.append(module(images).float())
        labels.append(truth)
    module.network.train(was_training)
    logits, truth = torch.cat(outputs), torch.cat(labels)
    accuracy = float((logits.argmax(1) == truth).float().mean())
    return float(F.cross_entropy(logits, truth)), accuracy
