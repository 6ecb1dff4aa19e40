"""Uneven classes: what `balance` does about them, and that it is part of a run."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from signlang import api
from signlang.data.datamodule import EpochBatchSampler
from signlang.errors import SettingError
from signlang.models.weights import read_state
from signlang.runs.folder import RunFolder

COUNTS = {"common": 96, "usual": 96, "rare": 16}
COLOURS = {"common": (120, 120, 120), "usual": (80, 120, 180), "rare": (152, 120, 110)}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of three colours, of which two are hard to tell apart and one of them is rare."""
    folder, rng = tmp_path_factory.mktemp("uneven"), np.random.default_rng(0)
    for name, count in COUNTS.items():
        (folder / name).mkdir()
        for number in range(count):
            colour = np.array(COLOURS[name]) + rng.normal(0, 14, 3)
            pixels = np.clip(colour + rng.normal(0, 30, (32, 32, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def train(uneven: Path, place: Path, *more: str) -> Any:
    return api.train(
        [*QUICK, f"data.root={uneven}", "study=s", "callbacks.early_stopping=null", "logger=none",
         "callbacks.checkpoint=null", "callbacks.cost=null", "trainer.precision=32-true",
         "batch_size=8", "folds=2", "optimizer.lr=6e-4", "verbose=false", f"runs_dir={place}",
         "trainer.max_epochs=6",
         "split.validation=0.2", *more]
    )  # fmt: skip


def recall_of_rare(run: Any) -> float:
    return float(run.metrics["test"]["per_class_accuracy"]["rare"])


def setting(run: Any) -> object:
    settings = json.loads((run.path / "record.json").read_text())["settings"]
    return settings.get("balance", "not there")


def test_the_rare_class_is_found_where_classes_are_balanced(
    uneven: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recalls = {}
    for balance in ("none", "auto", "loss"):
        caplog.clear()
        run = train(uneven, tmp_path / balance, f"balance={balance}", "trainer.max_epochs=8")
        told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        uneven_told = [text for text in told if "96 images of common and 16 of rare" in text]
        assert len(uneven_told) == (balance == "auto")
        recalls[setting(run)] = recall_of_rare(run)
        if balance == "loss":  # its checkpoint serves as a file of weights
            state = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
            assert state["state_dict"]["loss.weight"].argmax() == 1
            names = read_state(str(run.path / "checkpoints" / "last.ckpt"))
            assert not [name for name in names if "loss" in name]
    assert recalls.keys() == {"not there", "sampler", "loss"}
    plain = recalls.pop("not there")
    assert plain < 0.2 < min(recalls.values()), recalls
    assert recalls["sampler"] >= 0.5


def test_each_epoch_has_equal_shares_and_depends_on_seed_and_epoch_only() -> None:
    labels = np.repeat([0, 1, 2], [80, 16, 4])
    rows = np.random.default_rng(1).permutation(1000)[:100]

    def epoch(number: int, seed: int = 0) -> list[int]:
        batches = EpochBatchSampler(rows, 10, seed, lambda: number, labels)
        assert len(batches) == 10
        return [int(row) for _, batch in batches for row in batch]

    of_row = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    for number in range(3):
        drawn = epoch(number)
        assert sorted(np.bincount([of_row[row] for row in drawn])) == [33, 33, 34]
        assert len({row for row in drawn if of_row[row] == 0}) >= 33  # none twice
        often = np.unique([row for row in drawn if of_row[row] == 2], return_counts=True)[1]
        assert len(often) == 4
        assert often.max() - often.min() <= 1
        assert drawn == epoch(number)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)
    first, second = ({row for row in epoch(n) if of_row[row] == 0} for n in (0, 1))
    assert first != second  # the images that had to wait come later
    halves = np.concatenate([epoch(0)[:50], epoch(1)[:50]])
    assert np.bincount([of_row[row] for row in halves]).min() > 20  # mixed within an epoch


@pytest.mark.parametrize("balance", ["sampler", "loss"])
def test_a_balanced_run_that_is_resumed_ends_as_if_it_was_not(
    uneven: Path, tmp_path: Path, balance: str
) -> None:
    words = [f"balance={balance}", "augment=digits", "callbacks.one_cycle=null"]
    whole = train(uneven, tmp_path / "whole", *words)
    half = train(uneven, tmp_path / "half", *words, "trainer.max_epochs=3")
    resumed = train(
        uneven, tmp_path / "resumed", *words, f"ckpt_path={half.path / 'checkpoints' / 'last.ckpt'}"
    )
    assert resumed.metrics["test"] == whole.metrics["test"]
    assert resumed.metrics["epochs"] == whole.metrics["epochs"] == 6


def test_weights_of_the_loss_are_those_of_scikit_learn(uneven: Path, tmp_path: Path) -> None:
    run = train(uneven, tmp_path, "balance=loss", "trainer.max_epochs=1")
    state = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    labels = [row["label"] for row in RunFolder(run.path).images_of("train")]
    theirs = compute_class_weight("balanced", classes=np.unique(labels), y=np.array(labels))
    assert state["loss.weight"].tolist() == pytest.approx(theirs)


def test_even_classes_are_left_alone_and_runs_of_before_stay_as_they_are(
    tiny: Path, uneven: Path, tmp_path: Path
) -> None:
    assert setting(train(tiny, tmp_path / "even", "trainer.max_epochs=1")) == "not there"
    old = train(uneven, tmp_path / "old", "trainer.max_epochs=1", "balance=none")
    now = train(uneven, tmp_path / "now", "trainer.max_epochs=1")
    assert setting(now) == "sampler"
    shutil.rmtree(now.path)  # as before there was such a setting, it is not in the name
    shutil.copytree(old.path, now.path)
    again = train(uneven, tmp_path / "now", "trainer.max_epochs=1")
    assert setting(again) == "not there"
    assert again.metrics == old.metrics


class Unweighted(nn.Module):
    """A loss that knows no weights."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, labels)


def test_a_loss_without_weights_is_one_sentence(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    own = "loss._target_=test_balance.Unweighted"
    with pytest.raises(SettingError, match=r"balance=loss: .*Unweighted has no argument weight"):
        train(uneven, tmp_path, "balance=loss", own)
    with pytest.raises(SettingError, match=r"balance=some: .*sampler"):
        train(uneven, tmp_path, "balance=some")
