"""Schedule, metrics, batches and costs, each against somebody else's code."""

import math
import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch.utils.data import DataLoader

from signlang import system
from signlang.callbacks.checkpointing import InterruptGuard
from signlang.callbacks.cost import latencies_ms, profile
from signlang.callbacks.one_cycle import OneCycle
from signlang.callbacks.predictions import write_predictions
from signlang.components import import_target
from signlang.data import augmentation
from signlang.data.augmentation import Affine, Augmentation, affine_matrices
from signlang.data.datamodule import AugmentedBatches, EpochBatchSampler, identity_collate
from signlang.data.image_io import map_in_order, resize_image
from signlang.data.index import read_index
from signlang.models.classifier import Classifier


def classifier(**options: Any) -> Classifier:
    return Classifier(
        **{
            "network": {"_target_": "signlang.models.networks.simple_cnn"},
            "image_size": 32,
            "classes": ["A", "B", "C"],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.5, 1.0],
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01},
            "resolve": import_target,
            **options,
        }
    )


def cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def learning_rate(step: int, total: int, peak: float) -> float:
    """The schedule as Smith and Topin describe it, with the default settings."""
    turn, first = 0.3 * total - 1, peak / 25
    if step <= turn:
        return cosine(first, peak, step / turn)
    return cosine(peak, first / 1e4, (step - turn) / (total - 1 - turn))


@pytest.mark.parametrize("total", [1, 10, 97, 1000])
def test_one_cycle_moves_learning_rate_and_momentum_against_each_other(total: int) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = OneCycle().scheduler(optimizer, total)
    for step in range(total):
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(learning_rate(step, total, peak=0.1))
        height = (learning_rate(step, total, 1.0) - 0.04) / 0.96  # of the rise; 0 at its ends
        if step <= 0.3 * total - 1:
            assert group["betas"][0] == pytest.approx(0.95 - 0.1 * height)
        assert 0.85 <= group["betas"][0] <= 0.95
        assert group["betas"][1] == 0.999
        optimizer.step()
        scheduler.step()


def test_one_cycle_leaves_momentum_alone_where_there_is_none() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1))]
    plain, none = torch.optim.SGD(weights, lr=0.1), torch.optim.Adagrad(weights, lr=0.1)
    for optimizer in (plain, none):
        OneCycle().scheduler(optimizer, 10)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 25)
    assert plain.param_groups[0]["momentum"] == 0
    kept = torch.optim.Adam(weights, lr=0.1, betas=(0.7, 0.9))
    OneCycle(momentum=None).scheduler(kept, 10)
    assert kept.param_groups[0]["betas"] == (0.7, 0.9)


def test_one_cycle_starts_at_the_peak_if_warm_up_is_one_step() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    OneCycle(warm_up=0.1).scheduler(optimizer, 10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_schedule_spans_the_run_with_accumulated_batches_too(accumulate: int) -> None:
    data = [(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]))] * 6
    rates = Rates()
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[OneCycle(), rates],
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    trainer.fit(classifier(), DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    steps = 4 * 6 // accumulate
    assert rates.seen == pytest.approx([learning_rate(s, steps, 0.01) for s in range(steps)])


class Dying:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # the handler runs in here, where no exception gets out


class Pressed(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            Dying()


def test_ctrl_c_is_heard_where_python_drops_it() -> None:
    data = [(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]))] * 6
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[InterruptGuard(), Pressed()],
    )  # fmt: skip
    with pytest.raises(system.StopRequested), system.stopping_between_batches():
        trainer.fit(classifier(), DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_bytes_are_normalized_as_usual() -> None:
    model = classifier()
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    model(images)
    planes = images.permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.5] * 3), torch.tensor([0.25, 0.5, 1.0])
    expected = (planes - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.allclose(seen[0], expected, atol=1e-6)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def calibration_error(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """Expected calibration error as Guo et al. 2017, equation 3, write it."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_metrics_are_those_of_scikit_learn() -> None:
    torch.manual_seed(1)
    model = classifier().eval()
    batches = [
        (torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8), torch.randint(0, 3, (n,)))
        for n in (16, 16, 5)
    ]
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    figures = trainer.test(model, DataLoader(batches, batch_size=None), verbose=False)[0]  # type: ignore[arg-type]
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches]).numpy()
    probabilities = logits.double().softmax(1).numpy()
    predicted = probabilities.argmax(1)
    assert figures["test/accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert figures["test/macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert figures["test/loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    expected = calibration_error(probabilities, labels)
    assert figures["test/calibration_error"] == pytest.approx(expected, abs=1e-5)


def test_a_checkpoint_loads_without_trust_and_without_the_first_weights(tmp_path: Path) -> None:
    model = classifier(start={"pretrained": False, "weights": None})
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=0)
    trainer.fit(model, DataLoader([0]))  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    again = Classifier.load_from_checkpoint(tmp_path / "c.ckpt", weights_only=True)
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(model.eval()(images), again.eval()(images))
    assert again.classes == ("A", "B", "C")


def loaded(workers: int, epoch: int, transforms: list[Any], seed: int = 0) -> torch.Tensor:
    array = np.random.default_rng(0).integers(0, 256, size=(40, 24, 24, 3), dtype=np.uint8)
    labels = np.arange(40)
    batches = EpochBatchSampler(np.arange(40), 8, seed, lambda: epoch)
    loader = DataLoader(
        AugmentedBatches(array, labels, Augmentation(transforms, 24)),
        batch_sampler=batches, collate_fn=identity_collate, num_workers=workers,  # type: ignore[arg-type]
    )  # fmt: skip
    return torch.cat([images for images, _ in loader])


def test_augmentation_is_the_same_with_any_number_of_workers() -> None:
    alone = loaded(0, 3, augmentation.asl_alphabet())
    assert torch.equal(alone, loaded(2, 3, augmentation.asl_alphabet()))
    assert torch.equal(alone, loaded(0, 3, augmentation.asl_alphabet()))


def test_no_epoch_batch_or_seed_repeats_another() -> None:
    one, other = loaded(2, 0, augmentation.digits()), loaded(2, 1, augmentation.digits())
    assert not torch.equal(one, other)
    assert not torch.equal(one, loaded(2, 0, augmentation.digits(), seed=1))
    image = np.full((1, 24, 24, 3), 0, np.uint8)
    image[:, 8:16, 8:16] = 255
    transform = Augmentation(augmentation.digits(), 24)
    seeds = [seed for seed, _ in EpochBatchSampler(np.arange(64), 1, 0, lambda: 0)]
    assert len({transform(image, seed).tobytes() for seed in seeds}) == 64


def test_affine_matrices_are_those_of_albumentations() -> None:
    from albumentations.augmentations.geometric.functional import (
        create_affine_transformation_matrix,
    )

    rng = np.random.default_rng(0)
    angles, shifts = rng.uniform(-20, 20, 50), rng.uniform(-9, 9, (50, 2))
    zooms = rng.uniform(0.9, 1.1, (50, 2))
    matrices = affine_matrices(np.deg2rad(angles), shifts, zooms, (80, 100))
    for row in range(50):
        theirs = create_affine_transformation_matrix(
            translate={"x": shifts[row, 0], "y": shifts[row, 1]}, shear={"x": 0.0, "y": 0.0},
            scale={"x": zooms[row, 0], "y": zooms[row, 1]}, rotate=angles[row], shift=(39.5, 49.5),
        )  # fmt: skip
        assert matrices[row] == pytest.approx(theirs[:2], abs=1e-9)


def test_affine_draws_from_the_whole_range() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (33, 20, 30, 3), dtype=np.uint8)
    still = Affine(0, 0, 0)(batch, np.random.default_rng(0))
    assert np.array_equal(still, batch)
    move = Affine(rotate=20, shift=0.1, zoom=0.1)
    alone = move(batch, np.random.default_rng(5))
    assert np.array_equal(alone, move(batch, np.random.default_rng(5)))
    assert not np.array_equal(alone, move(batch, np.random.default_rng(6)))
    dot = np.zeros((500, 41, 41, 3), np.uint8)
    dot[:, 20, 20] = 255
    moved = Affine(rotate=0, shift=0.1, zoom=0)(dot, np.random.default_rng(0))[..., 0]
    brightest = moved.reshape(500, -1).argmax(1)
    down, right = brightest // 41 - 20, brightest % 41 - 20
    assert (down.min(), down.max(), right.min(), right.max()) == (-4, 4, -4, 4)
    assert abs(down.mean()) < 0.4
    assert abs(right.mean()) < 0.4


@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_is_left_to_tidy_up_once_the_last_batch_is_there(count: int) -> None:
    before = threading.active_count()
    results = map_in_order(str, range(count), workers=2, ahead=2)
    assert [next(results) for _ in range(count)] == [str(n) for n in range(count)]
    assert threading.active_count() == before  # although nobody asked whether there are more


def test_what_a_thread_raises_comes_in_its_place() -> None:
    results = map_in_order(int, ["1", "x", "2"], workers=2, ahead=2)
    assert next(results) == 1
    with pytest.raises(ValueError, match="'x'"):
        next(results)


def test_every_row_comes_once_an_epoch_and_in_order_when_judging() -> None:
    rows = np.arange(10, 31)
    shuffled = np.concatenate([r for _, r in EpochBatchSampler(rows, 4, 0, lambda: 0)])
    assert sorted(shuffled) == rows.tolist()
    assert shuffled.tolist() != rows.tolist()
    assert np.concatenate([r for _, r in EpochBatchSampler(rows, 4)]).tolist() == rows.tolist()
    assert [len(r) for _, r in EpochBatchSampler(rows, 4)] == [4, 4, 4, 4, 4, 1]


def test_no_training_batch_holds_one_image_alone() -> None:
    sizes = [len(rows) for _, rows in EpochBatchSampler(np.arange(21), 4, 0, lambda: 0)]
    assert sizes == [4, 4, 4, 4, 5]  # batch normalization cannot learn from a single value


def test_backgrounds_are_blended_with_their_weight(tmp_path: Path, tiny: Path) -> None:
    black = np.zeros((3, 32, 32, 3), np.uint8)
    scenes = augmentation.read_backgrounds(None, 0.12, 32, seed=0)
    assert scenes is not None
    assert scenes.shape == (augmentation.SCENES, 32, 32, 3)
    blended = Augmentation([], 32, np.full((1, 32, 32, 3), 200, np.uint8), 0.12)(black, 0)
    assert np.unique(blended).tolist() == [24]
    assert augmentation.read_backgrounds(None, None, 32, 0) is None
    from_folder = augmentation.read_backgrounds(str(tiny), None, 16, 0)
    assert from_folder is not None
    assert from_folder.shape == (36, 16, 16, 3)


def test_judged_images_are_resized_as_a_service_would_resize_them() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 50, 50, 3), dtype=np.uint8)
    expected = [resize_image(Image.fromarray(image), 24) for image in batch]
    assert (Augmentation([], 24)(batch, 0) == np.stack(expected)).all()


def test_costs_are_measured() -> None:
    model = classifier()
    cost = profile(model, 32)
    assert cost.parameters == sum(p.numel() for p in model.network.parameters())
    first, third = cost.latency_quartiles_ms
    assert 0 < first <= cost.latency_ms <= third
    assert len(latencies_ms(model, 32, repeats=7)) == 7
    assert model.training


def test_the_loss_follows_from_the_written_predictions(tmp_path: Path, tiny: Path) -> None:
    index = read_index(tiny, cache_dir=str(tmp_path))
    logits = torch.tensor([[12.0, -13.0, 0.5], [0.1, 0.2, 0.3], [-40.0, 2.0, 2.0000002]]).double()
    probabilities = logits.softmax(1).numpy()
    rows = np.flatnonzero(index.labels == 1)[:3]  # whose probabilities are 1e-11, 0.3 and 0.5
    write_predictions(tmp_path / "predictions.csv", index, rows, probabilities)
    lines = (tmp_path / "predictions.csv").read_text("utf-8").splitlines()[1:]
    written = np.array([line.split(",")[4:] for line in lines], dtype=np.float64)
    labels = index.labels[rows]
    assert log_loss(labels, written, labels=[0, 1, 2]) == pytest.approx(
        log_loss(labels, probabilities, labels=[0, 1, 2]), abs=1e-6
    )
    assert [line.split(",")[2] for line in lines] == ["A", "ß", "ß"]
