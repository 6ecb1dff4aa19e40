"""Atomic checkpoints, per-epoch seeding and resumable early stopping."""

import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import EarlyStopping

from signlang.files import atomic_write


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
            state = np.random.SeedSequence((self.seed, trainer.current_epoch)).generate_state(2)
            torch.manual_seed(int(state[0]) << 32 | int(state[1]))


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that stays stopped when a run is resumed after its last epoch."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if patience was exhausted in the restored state."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class InterruptGuard(pl.Callback):
    """Ends training at the next batch if Ctrl-C arrived while Python could not raise.

    An exception that a signal raises inside a destructor, or in Python code called from C, is
    printed and dropped; the run would continue.
    """

    def __init__(self) -> None:
        self.interrupted = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle Ctrl-C, unless other code handles or ignores it."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Raise the dropped interrupt."""
        if self.interrupted:
            raise KeyboardInterrupt

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore Python's handler."""
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: object) -> None:
        self.interrupted = True
        raise KeyboardInterrupt
