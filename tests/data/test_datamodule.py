"""Batches of training: another order and other transforms in each epoch, statistics of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from signlang.data import augmentation
from signlang.data.datamodule import HandSignDataModule
from signlang.data.splits import Fold


class Recorder(pl.LightningModule):
    """Learns nothing, and keeps the batches of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: list[list[torch.Tensor]] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.epochs[-1].append(batch[0].clone())
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def module_of(
    root: Path, cache_dir: Path, transforms: Callable[[], list[Any]] = augmentation.none
) -> HandSignDataModule:
    source = {"_target_": "signlang.data.sources.folder"}
    data = {"source": source, "root": str(root), "signers": None, "on_bad_image": "error",
            "stored_size": None}  # fmt: skip
    split = {"_target_": "signlang.data.splits.Stratified", "name": "stratified", "seed": 0,
             "validation": 0.25}  # fmt: skip
    fold = Fold(data=data, split=split, folds=3, fold=0, batch_size=6, cache_dir=str(cache_dir))
    node = {"_target_": f"signlang.data.augmentation.{transforms.__name__}"}
    augment = {"transforms": node, "backgrounds": None, "background_weight": None}
    return HandSignDataModule(fold=fold, augment=augment, image_size=32, workers=0, seed=0)


def epochs_of(
    module: HandSignDataModule, count: int = 2, **options: Any
) -> list[list[torch.Tensor]]:
    """The batches that Lightning's own loop gets in each epoch."""
    recorder = Recorder()
    trainer = pl.Trainer(
        max_epochs=count, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, **options,
    )  # fmt: skip
    trainer.fit(recorder, datamodule=module)
    return recorder.epochs


def as_bytes(batches: list[torch.Tensor]) -> list[bytes]:
    return [image.numpy().tobytes() for image in torch.cat(batches)]


def test_each_epoch_has_the_same_images_in_another_order(tiny: Path, tmp_path: Path) -> None:
    first, second, third = map(as_bytes, epochs_of(module_of(tiny, tmp_path), 3))
    assert sorted(first) == sorted(second) == sorted(third)
    assert len(set(first)) == len(first)
    assert first != second != third != first
    again = epochs_of(module_of(tiny, tmp_path), 1)
    assert as_bytes(again[0]) == first  # but a run's order is its seed's


def test_overfitting_learns_from_the_same_batches_in_each_epoch(
    equal_images: Path, tmp_path: Path
) -> None:
    module = module_of(equal_images, tmp_path, augmentation.digits)
    first, second = epochs_of(module, 2, overfit_batches=2)
    assert len(first) == 2
    assert as_bytes(first) == as_bytes(second)
    assert len(set(as_bytes(first))) > 6, "not one image twice"


@pytest.fixture
def equal_images(tmp_path: Path) -> Path:
    """Two classes of one and the same image: what differs was done by the transforms."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in ("A", "B"):
        (tmp_path / "equal" / name).mkdir(parents=True)
        for number in range(24):
            Image.fromarray(pixels).save(tmp_path / "equal" / name / f"{number}.png")
    return tmp_path / "equal"


@pytest.mark.parametrize("transforms", [augmentation.digits, augmentation.asl_alphabet])
def test_images_batches_and_epochs_are_transformed_differently(
    equal_images: Path, tmp_path: Path, transforms: Callable[[], list[Any]]
) -> None:
    epochs = epochs_of(module_of(equal_images, tmp_path, transforms))
    batches = [batch.numpy().tobytes() for epoch in epochs for batch in epoch if len(batch) == 6]
    assert len(set(batches)) == len(batches) > 6
    images = [image for epoch in epochs for image in as_bytes(epoch)]
    assert len(set(images)) > 0.9 * len(images)  # nothing happens to one image in a hundred
    again = epochs_of(module_of(equal_images, tmp_path, transforms), 1)
    assert as_bytes(again[0]) == as_bytes(epochs[0])


def test_evaluation_keeps_the_order_of_the_index(tiny: Path, tmp_path: Path) -> None:
    module = module_of(tiny, tmp_path, augmentation.asl_alphabet)
    for loader in (module.val_dataloader, module.test_dataloader):
        (first,), (second,) = list(loader()), list(loader())
        assert torch.equal(first[0], second[0])
        assert (
            first[1].diff() >= 0
        ).all()  # the index is sorted by path, which begins with a label


def test_statistics_are_of_training_images_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("A", "B"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):  # each image has a level of its own: no subset is like another
            pixels = np.full((32, 32, 3), rng.integers(0, 256, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    module = module_of(tmp_path / "images", tmp_path)
    images = [image for batch, _ in module.train_dataloader() for image in batch.numpy()]
    shares = np.stack(images).reshape(-1, 3) / 255
    mean, deviation = module.training_statistics()
    np.testing.assert_allclose(mean, shares.mean(0), atol=1e-9)
    np.testing.assert_allclose(deviation, shares.std(0), atol=1e-9)
    assert len(images) < 24 * 2 / 3
