"""Which epoch is kept, and when training stops, by the accuracies of the epochs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from signlang.callbacks.checkpointing import ResumableEarlyStopping, StandardErrorCheckpoint

IMAGES = 100  # so that a standard error at 0.9 is 0.031


class Scripted(pl.LightningModule):
    """Logs the given accuracies, one an epoch."""

    def __init__(self, accuracies: list[float]) -> None:
        super().__init__()
        self.accuracies = accuracies
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        accuracy = self.accuracies[self.current_epoch]
        self.log_dict({"validation/accuracy": accuracy, "validation/loss": 1 - accuracy})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(pl.LightningDataModule):
    """Loaders of one batch; the subset has as many images as a real one."""

    subsets = SimpleNamespace(validation=range(IMAGES))

    def train_dataloader(self) -> Any:
        return DataLoader([0])  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader([0])  # type: ignore[arg-type]


def fit(
    folder: Path,
    accuracies: list[float],
    *callbacks: pl.Callback,
    epochs: int = 0,
    resume: str = "",
) -> int:
    """Train; number of finished epochs."""
    trainer = pl.Trainer(
        max_epochs=epochs or len(accuracies), callbacks=list(callbacks), logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Scripted(accuracies), datamodule=Data(), ckpt_path=resume or None)
    return trainer.current_epoch


def checkpoint(folder: Path, **options: Any) -> StandardErrorCheckpoint:
    chosen = {"monitor": "validation/accuracy", "mode": "max", **options}
    return StandardErrorCheckpoint(
        dirpath=folder, filename="best", save_on_train_epoch_end=True,
        enable_version_counter=False, **chosen,
    )  # fmt: skip


def kept(folder: Path) -> int:
    return int(torch.load(folder / "best.ckpt", weights_only=True)["epoch"])


@pytest.mark.parametrize(
    ("accuracies", "options", "epoch"),
    [
        ([0.50, 0.90, 0.90, 0.85, 0.80], {}, 3),  # 0.85 is within 2 * 0.03 of 0.90
        ([0.50, 0.90, 0.90, 0.88, 0.80], {"standard_errors": 0}, 2),  # the latest of equals
        ([0.50, 0.90, 0.90, 0.88, 0.80], {"standard_errors": 4}, 4),
        ([0.85, 0.90, 0.97, 0.93, 0.91], {}, 2),  # of the best of all, not of the one before
        ([0.90, 0.86, 0.83, 0.80, 0.77], {}, 1),  # it does not slide down
        ([0.50, 0.90, 0.90, 0.88, 0.80], {"monitor": "validation/loss", "mode": "min"}, 1),
    ],
)
def test_the_latest_epoch_within_two_standard_errors_of_the_best_is_kept(
    accuracies: list[float], options: dict[str, Any], epoch: int, tmp_path: Path
) -> None:
    fit(tmp_path, accuracies, checkpoint(tmp_path, **options))
    assert kept(tmp_path) == epoch


def test_the_best_accuracy_survives_a_resume(tmp_path: Path) -> None:
    accuracies = [0.85, 0.97, 0.50, 0.93]  # 0.93 would be kept if 0.97 were forgotten
    last = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last")
    fit(tmp_path, accuracies, checkpoint(tmp_path), last, epochs=3)
    fit(tmp_path, accuracies, checkpoint(tmp_path), resume=str(tmp_path / "last.ckpt"))
    assert kept(tmp_path) == 1


@pytest.mark.parametrize(
    ("accuracies", "errors", "epochs"),
    [
        ([0.5, 0.9, 0.89, 0.88, 0.89, 0.88, 0.89], 1.0, 7),  # no worse than the best by chance
        ([0.5, 0.9, 0.89, 0.88, 0.89, 0.88, 0.89], 0.0, 4),
        ([0.5, 0.9, 0.80, 0.70, 0.89, 0.88, 0.89], 1.0, 4),
        ([0.5, 0.9, 0.88, 0.86, 0.84, 0.82, 0.80], 1.0, 5),  # it does not slide down
    ],
)
def test_training_stops_when_no_epoch_is_within_the_standard_errors(
    accuracies: list[float], errors: float, epochs: int, tmp_path: Path
) -> None:
    stopping = ResumableEarlyStopping(
        monitor="validation/accuracy", mode="max", patience=2, check_on_train_epoch_end=True,
        standard_errors=errors,
    )  # fmt: skip
    assert fit(tmp_path, accuracies, stopping) == epochs
