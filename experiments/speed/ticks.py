"""Lightning callbacks that report steps to a clock or a file."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from clock import Clock


class Enough(Exception):  # no error
    """Ends a training; an epoch that is cut short otherwise has no speed to record."""


class Ticks(pl.Callback):
    """Reports each training step to a clock; validation, which some variants lack, is not timed.

    Args:
        clock: The clock.
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
            Enough: If the measurement is complete.
        """
        if self.clock.tick(len(batch[1])):
            raise Enough


class FirstBatchMarker(pl.Callback):
    """Creates a file at the first batch of a training.

    Args:
        file: Path of the file.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Create the file."""
        if not self.file.exists():
            self.file.touch()
