"""What makes an interrupted run end exactly as an uninterrupted one would have."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import EarlyStopping

from signlang.data.files import replaced


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there in one step.

    Lightning's own writing may copy from another file system: killed at that moment, it would leave
    half a file where the last good checkpoint was.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Replace the file at `path`, or leave it as it was if the disk is full."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)  # into a file it would hide a full disk behind other words
        with replaced(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())


class SeedEachEpoch(pl.Callback):
    """Makes dropout depend on the run's seed and the epoch, not on what the process did before.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch at the first batch of each epoch."""
        if batch_idx == 0:
            words = np.random.SeedSequence((self.seed, trainer.current_epoch)).generate_state(2)
            torch.manual_seed(int(words[0]) << 32 | int(words[1]))


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that stays stopped when a run is resumed after its last epoch."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the restored state says that patience had run out."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
