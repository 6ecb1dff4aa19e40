"""Progress bar, epoch log lines and `history.csv`."""

import time
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from rich.progress import Progress, TaskID

from signlang.console import log, progress
from signlang.files import write_csv

ROWS: Final = "history"  # in a checkpoint


class ProgressBar(pl.Callback):
    """One bar over all steps of the run, with the time left until the last planned epoch."""

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at the epoch where a resumed run continues."""
        self.bar = progress()
        self.bar.start()
        per_epoch = int(trainer.num_training_batches)
        total = per_epoch * (trainer.max_epochs or 1)
        done = per_epoch * trainer.current_epoch
        self.task = self.bar.add_task(self._title(trainer), total=total, completed=done, note="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Advance by one step."""
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the next epoch and the last accuracy."""
        if self.bar is None or self.task is None:
            return
        accuracy = trainer.callback_metrics.get("validation/accuracy")
        note = "" if accuracy is None else f"validation {float(accuracy):.4f}"
        self.bar.update(self.task, description=self._title(trainer, 1), note=note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar before a message is written."""
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _title(self, trainer: pl.Trainer, offset: int = 0) -> str:
        epochs = trainer.max_epochs or 1
        return f"epoch {min(trainer.current_epoch + 1 + offset, epochs)}/{epochs}"


class History(Checkpoint):
    """Writes one row per epoch to `history.csv`: metrics, learning rate, seconds and speed.

    It is a Lightning `Checkpoint` because those are called after the module has logged its epoch.
    The rows are stored in each checkpoint, so that a resumed run restores exactly the rows of its
    own epochs, whatever the file holds.

    Args:
        file: The CSV file.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.rows: list[dict[str, str]] = []
        self.started = self.training_seconds = 0.0
        self.images = 0

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the rows in the checkpoint, including that of the epoch which ends with it."""
        recorded = bool(self.rows) and self.rows[-1]["epoch"] == str(trainer.current_epoch)
        ends = trainer.is_last_batch and not recorded
        checkpoint[ROWS] = [*self.rows, self._row(trainer)] if ends else self.rows

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the rows of the finished epochs, if the checkpoint has any."""
        self.rows = list(checkpoint.get(ROWS, []))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of the epoch."""
        if batch_idx == 0:
            self.started, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Stop the clock of training; only its value at the last batch is used."""
        self.images += len(batch[1])
        if trainer.is_last_batch and torch.cuda.is_available():
            torch.cuda.synchronize()  # once an epoch: the batches were only queued so far
        self.training_seconds = time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rewrite all rows atomically."""
        row = self._row(trainer)
        self.rows.append(row)
        self._write()
        log.info(
            "epoch %d/%d  %s",
            trainer.current_epoch + 1,
            trainer.max_epochs,
            "  ".join(
                f"{stage} loss {float(row[f'{stage}/loss']):.4f} "
                f"accuracy {float(row[f'{stage}/accuracy']):.4f}"
                for stage in ("train", "validation")
                if f"{stage}/loss" in row
            ),
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file of a run that had trained its last epoch before it was interrupted."""
        self._write()

    def _row(self, trainer: pl.Trainer) -> dict[str, str]:
        metrics = {
            name: f"{float(value):.6g}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(("train/", "validation/", "learning_rate"))
        }
        return {
            "epoch": str(trainer.current_epoch),
            **metrics,
            "seconds": f"{time.perf_counter() - self.started:.3f}",
            "images_per_second": f"{self.images / self.training_seconds:.1f}",
        }

    def _write(self) -> None:
        header = tuple(self.rows[-1]) if self.rows else ("epoch",)
        rows = [tuple(row.get(name, "") for name in header) for row in self.rows]
        write_csv(self.file, header, rows)
