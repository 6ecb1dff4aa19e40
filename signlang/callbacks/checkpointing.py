"""Atomic checkpoints, per-epoch seeding, resumable early stopping, and what else ends training."""

import io
import math
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from signlang.arrays import seed_sequence
from signlang.errors import DivergedError
from signlang.files import atomic_write
from signlang.system import check_stop


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it.

    Lightning's own writer may copy from another file system: killed at that moment, it would leave
    a truncated file in place of the last good checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Replace the file at `path`, or leave it unchanged if the disk is full."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)  # into a file, torch reports a full disk as another error
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint that a better one replaces; anything else stays.

        Its name comes from the checkpoint that a run was resumed from.
        """
        file = Path(path)
        if file.suffix == ".ckpt" and ".." not in file.parts and not file.is_dir():
            file.unlink(missing_ok=True)


class SeedEachEpoch(pl.Callback):
    """Seeds torch for each epoch, so that dropout depends on the run's seed and the epoch only.

    Of several processes that train together each has a seed of its own, the first one that of a
    process that trains alone.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch at the first batch of each epoch."""
        if batch_idx == 0:
            sequence = seed_sequence(self.seed, trainer.current_epoch, rank=trainer.global_rank)
            state = sequence.generate_state(2)
            torch.manual_seed(int(state[0]) << 32 | int(state[1]))


def standard_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy measured on so many images.

    Of the binomial distribution with one right and one wrong image more, so that three of three
    right are not taken for certain (Laplace's rule of succession).

    >>> round(standard_error(0.9, 100), 3), round(standard_error(1.0, 3), 2)
    (0.031, 0.23)
    """
    share = (accuracy * images + 1) / (images + 2)
    return math.sqrt(share * (1 - share) / max(images, 1))


def is_accuracy(monitor: str | None) -> bool:
    """Whether a metric is an accuracy.

    >>> is_accuracy("validation/accuracy"), is_accuracy("validation/loss"), is_accuracy(None)
    (True, False, False)
    """
    return monitor is not None and monitor.rpartition("/")[2] == "accuracy"


class StandardErrorCheckpoint(ModelCheckpoint):
    """Keeps the latest epoch whose accuracy is within two standard errors of the best before it.

    The one-standard-error rule (Breiman et al. 1984, section 3.4.3) for epochs: a few images more
    or fewer in a small validation subset are chance, and the later of two equal epochs has learnt
    longer, at a smaller rate of the one-cycle schedule. Two are what `experiments/checkpoint_rule`
    found to be as good as the last epoch; a network that gets worse is not kept.

    Args:
        standard_errors: How many; 0 keeps the latest of the best epochs.
        options: Of Lightning's `ModelCheckpoint`, which is what this is where `monitor` is no
            accuracy.
    """

    def __init__(self, standard_errors: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.standard_errors = standard_errors
        self.best_accuracy = -math.inf

    def check_monitor_top_k(self, trainer: pl.Trainer, current: torch.Tensor | None = None) -> bool:
        """Whether to keep this epoch instead of the one before."""
        if current is None or not is_accuracy(self.monitor):
            return super().check_monitor_top_k(trainer, current)
        accuracy = float(current)
        self.best_accuracy = max(self.best_accuracy, accuracy)
        margin = standard_error(self.best_accuracy, _validation_images(trainer))
        return accuracy >= self.best_accuracy - self.standard_errors * margin

    def state_dict(self) -> dict[str, Any]:
        """Add the best accuracy to the state of the checkpoint."""
        return {**super().state_dict(), "best_accuracy": self.best_accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state_dict)
        self.best_accuracy = float(state_dict["best_accuracy"])


def _validation_images(trainer: pl.Trainer) -> int:
    return len(trainer.datamodule.subsets.validation)  # type: ignore[attr-defined]


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that stays stopped when a run is resumed after its last epoch.

    It looks at epochs with a validation only, see `trainer.check_val_every_n_epoch`: metrics of the
    validation before would count as no improvement.

    Args:
        standard_errors: An epoch whose accuracy is so many standard errors below the best, or less,
            counts as one that is no worse, see `StandardErrorCheckpoint`; without effect where
            `monitor` is no accuracy.
        options: Of Lightning's `EarlyStopping`.
    """

    validated = -1  # epoch of the last validation

    def __init__(self, standard_errors: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.standard_errors, self.images = standard_errors, 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take note of the size of the validation subset."""
        super().setup(trainer, pl_module, stage)
        self.images = _validation_images(trainer)

    def _evaluate_stopping_criteria(self, current: torch.Tensor) -> tuple[bool, str | None]:
        best = float(self.best_score)
        if self.standard_errors and is_accuracy(self.monitor) and math.isfinite(best):
            margin = self.standard_errors * standard_error(best, self.images)
            if best - margin <= float(current) <= best:
                self.wait_count = 0
                return False, None
        return super()._evaluate_stopping_criteria(current)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take note of the epoch."""
        if not trainer.sanity_checking:
            self.validated = trainer.current_epoch
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check after an epoch with a validation, or whatever else is monitored."""
        if self.validated == trainer.current_epoch or not self.monitor.startswith("validation/"):
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if patience was exhausted in the restored state."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class DivergenceGuard(Checkpoint):
    """Ends a training whose loss is nan or infinite, at the end of the epoch.

    It is a Lightning `Checkpoint` because those are called after the module has logged its epoch.
    The first of them: no checkpoint of that epoch is written.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the mean loss of the epoch; each batch would cost a synchronization.

        Raises:
            DivergedError: If it is not finite.
        """
        loss = float(trainer.callback_metrics.get("train/loss", 0.0))
        if not math.isfinite(loss):
            raise DivergedError(trainer.current_epoch + 1, loss)


class InterruptGuard(pl.Callback):
    """Stops between two batches of any subset if Ctrl-C or SIGTERM has arrived."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop before a training batch."""
        check_stop()

    def on_validation_batch_start(self, *_: Any) -> None:
        """Stop before a validation batch; the epoch is then trained again."""
        check_stop()

    def on_test_batch_start(self, *_: Any) -> None:
        """Stop before a test batch."""
        check_stop()
