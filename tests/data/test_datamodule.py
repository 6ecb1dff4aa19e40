"""Training batches: new order and transforms in each epoch, statistics of training images only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from signlang.data import augmentation, datamodule
from signlang.data.datamodule import EpochBatchSampler, HandSignDataModule, Prefetcher
from signlang.data.index import Subsets
from signlang.data.splits import Fold
from signlang.hands.hand_input import HandBoth
from signlang.hands.hand_networks import HandNetworks


class Recorder(pl.LightningModule):
    """A module without learning that keeps the batches of each epoch."""

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
    root: Path,
    cache_dir: Path,
    transforms: Callable[[], list[Any]] = augmentation.none,
    stored_size: int | None = None,
    **more: Any,
) -> HandSignDataModule:
    source = {"_target_": "signlang.data.sources.folder"}
    data = {"source": source, "root": str(root), "signers": None, "on_bad_image": "error",
            "stored_size": stored_size}  # fmt: skip
    split = {"_target_": "signlang.data.splits.Stratified", "name": "stratified", "seed": 0,
             "validation": 0.25}  # fmt: skip
    fold = Fold(data=data, split=split, folds=3, fold=0, batch_size=6, cache_dir=str(cache_dir))
    node = {"_target_": f"signlang.data.augmentation.{transforms.__name__}"}
    augment = {"transforms": node, "backgrounds": None, "background_weight": None}
    options = {"image_size": 32, "workers": 0, "seed": 0, **more}
    return HandSignDataModule(fold=fold, augment=augment, **options)


def epochs_of(
    module: HandSignDataModule, count: int = 2, **options: Any
) -> list[list[torch.Tensor]]:
    """Batches of each epoch in Lightning's own loop."""
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
    """Two classes of one and the same image: all differences come from the transforms."""
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


@pytest.mark.parametrize(
    ("count", "size", "training", "evaluation"),
    [
        (9, 4, [4, 5], [4, 4, 1]),
        (10, 4, [4, 4, 2], [4, 4, 2]),
        (8, 4, [4, 4], [4, 4]),
        (5, 4, [5], [4, 1]),
        (4, 4, [4], [4]),
        (1, 4, [1], [1]),  # nothing to join
        (3, 1, [1, 1, 1], [1, 1, 1]),  # every batch is one image: it was asked for
    ],
)
def test_a_last_image_alone_joins_the_batch_before_it_in_training(
    count: int, size: int, training: list[int], evaluation: list[int]
) -> None:
    for batches, sizes in (
        (EpochBatchSampler(np.arange(count), size, 0, lambda: 0), training),
        (EpochBatchSampler(np.arange(count), size), evaluation),
    ):
        assert [len(rows) for _, rows in batches] == sizes
        assert len(batches) == len(sizes)
        assert sorted(np.concatenate([rows for _, rows in batches])) == list(range(count))


def test_batches_of_evaluation_are_the_same_every_time() -> None:
    one, other = (list(EpochBatchSampler(np.arange(7), 3)) for _ in range(2))
    assert [seed for seed, _ in one] == [seed for seed, _ in other]


def test_statistics_are_of_all_training_images(tiny: Path, tmp_path: Path) -> None:
    module = module_of(tiny, tmp_path)
    pixels = np.random.default_rng(2).integers(0, 256, (1100, 4, 4, 3), dtype=np.uint8)
    pixels[700:, ..., 0] //= 2
    rows = np.arange(10, 1100)  # more than are read at once
    vars(module)["array"] = pixels
    module.subsets = Subsets(rows, rows[:0], rows[:0])
    mean, deviation = module.training_statistics()
    shares = pixels[rows].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, shares.mean(0), rtol=1e-12)
    np.testing.assert_allclose(deviation, shares.std(0), rtol=1e-9)


def test_backgrounds_have_the_weight_that_is_asked_for(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "white").mkdir()
    Image.new("RGB", (8, 8), "white").save(tmp_path / "white" / "white.png")

    def levels(weight: float | None, folder: str | None) -> list[int]:
        module = module_of(tiny, tmp_path)
        vars(module)["array"] = np.zeros((36, 32, 32, 3), dtype=np.uint8)  # all images are black
        module.augment = {**module.augment, "backgrounds": folder, "background_weight": weight}
        images = torch.cat([images for images, _ in module.train_dataloader()])
        return sorted(set(images.flatten().tolist()))

    assert levels(None, None) == [0]
    assert levels(0.5, str(tmp_path / "white")) == [128]
    assert levels(None, str(tmp_path / "white")) == [31]  # 0.12, as in the study
    drawn = levels(0.5, None)
    assert len(drawn) > 20
    assert max(drawn) <= 128
    assert module_of(tiny, tmp_path).test_dataloader() is not None


def test_images_are_stored_once_and_shown_at_the_size_of_the_network(
    tiny: Path, tmp_path: Path
) -> None:
    module = module_of(tiny, tmp_path, stored_size=48)
    assert module.array.shape == (36, 48, 48, 3)
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape[1:] == (32, 32, 3)
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
    assert module_of(tiny, tmp_path).array.shape == (36, 32, 32, 3)


@pytest.mark.parametrize(("cores", "prefetched"), [(4, True), (3, False), (2, False)])
def test_a_thread_prepares_batches_only_where_a_core_is_free(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, prefetched: bool
) -> None:
    monkeypatch.setattr(datamodule, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    module = module_of(tiny, tmp_path)
    loader = module.train_dataloader()
    assert isinstance(loader, Prefetcher) == prefetched
    assert sum(len(labels) for _, labels in loader) == len(module.subsets.train)
    module.workers = 2
    loader = module.train_dataloader()
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert loader.num_workers == 2
    assert loader.persistent_workers
    assert isinstance(module.val_dataloader(), Prefetcher) == prefetched


def test_augmentation_leaves_the_points_under_a_crop_alone(
    made_networks: HandNetworks, tiny: Path, tmp_path: Path
) -> None:
    both = HandBoth(networks=made_networks, image_size=64)
    module = module_of(tiny, tmp_path, augmentation.digits, 48, image_size=64, preparation=both)
    assert module.stored_size == 64, "whatever data.stored_size is"
    plain = module.array[module.subsets.train]
    images = [image for batch, _ in module.train_dataloader() for image in batch.numpy()]
    assert len({image[-1].tobytes() for image in images}) > 3
    assert {image[-1].tobytes() for image in images} == {image[-1].tobytes() for image in plain}
    assert not any(np.array_equal(image[:-1], one[:-1]) for image in images for one in plain)
