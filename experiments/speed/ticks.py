"""Callbacks: Lightning's steps come in, a clock or a file hears of them."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from clock import Clock


class Enough(Exception):  # nothing went wrong
    """Ends a training; an epoch that is cut short otherwise has no speed to record."""


class Ticks(pl.Callback):
    """Tells a clock of each step, but not of validation: not every side judges anything.

    Args:
        clock: It.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.clock.pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resume the clock."""
        self.clock.resume()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Count the images of the batch.

        Raises:
            Enough: If the clock has seen enough.
        """
        if self.clock.tick(len(batch[1])):
            raise Enough


class Begun(pl.Callback):
    """Leaves a file behind when the first batch of a training comes.

    Args:
        file: Its place.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Touch it once."""
        if not self.file.exists():
            self.file.touch()
