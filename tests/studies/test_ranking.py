"""P values are corrected for their number, signers are clusters, and other data is not compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_report import write_run

from signlang.errors import RunError
from signlang.metrics.significance import corrected_t_test, mcnemar, paired_difference
from signlang.studies.ranking import rank_settings
from signlang.studies.study import read_study

ACCURACIES = {"best": (1.0, 0.875, 1.0), "middle": (0.75, 0.75, 0.875), "last": (0.5, 0.625, 0.25)}
IMAGES = 16  # of a fold: two classes of eight


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three networks on three folds."""
    for model, accuracies in ACCURACIES.items():
        for fold, accuracy in enumerate(accuracies):
            write_run(tmp_path / "three", {"model": model}, fold, folds=3, accuracy=accuracy)
    return tmp_path / "three"


def test_both_p_values_are_corrected_for_their_number(three: Path) -> None:
    best, *others = rank_settings(read_study(three)).rows
    assert [row.setting.runs[0].metrics["model"] for row in (best, *others)] == [*ACCURACIES]
    assert best.p is None
    assert best.p_mcnemar is None
    over_folds, over_images = [], []
    for model in ("middle", "last"):
        differences = np.subtract(ACCURACIES["best"], ACCURACIES[model])
        over_folds.append(corrected_t_test(differences, best.setting.test_share).p)
        over_images.append(mcnemar(round(IMAGES * differences.sum()), 0))
    for found, plain in (
        ([row.p for row in others], over_folds),
        ([row.p_mcnemar for row in others], over_images),
    ):
        low, high = sorted(plain)  # Holm: the smaller of two counts twice, the larger once
        expected = [min(1, 2 * p) if p == low else max(high, 2 * low) for p in plain]
        assert found == pytest.approx(expected, rel=1e-9, abs=0)
        assert expected != pytest.approx(plain, rel=1e-3, abs=0)


def test_images_of_one_signer_are_one_observation(tmp_path: Path) -> None:
    accuracies = {"stratified": (1.0, 0.75), "signer": (0.5, 0.625)}
    for split, of_folds in accuracies.items():
        for fold, accuracy in enumerate(of_folds):
            write_run(tmp_path / "s", {"model": "cnn", "split": split}, fold, accuracy=accuracy)
    (pair,) = rank_settings(read_study(tmp_path / "s")).pairs
    number = np.tile(np.arange(8), 4)  # the signer; of two classes in two folds
    recognised = {
        split: np.concatenate([np.tile(np.arange(8) < 8 * a, 2) for a in of_folds])
        for split, of_folds in accuracies.items()
    }
    clustered = paired_difference(recognised["stratified"], recognised["signer"], groups=number)
    alone = paired_difference(recognised["stratified"], recognised["signer"])
    assert (pair.difference, pair.low, pair.high) == pytest.approx(
        (clustered.difference, clustered.low, clustered.high)
    )
    assert abs(clustered.low - alone.low) > 0.01


def test_unknown_signers_are_no_cluster(tmp_path: Path) -> None:
    for split, accuracy in (("stratified", 1.0), ("signer", 0.5)):
        for fold in range(2):
            run = write_run(tmp_path / "s", {"model": "cnn", "split": split}, fold, 2, accuracy)
            table = (run / "data.csv").read_text("utf-8")
            (run / "data.csv").write_text(table.replace(",s6,", ",,").replace(",s7,", ",,"))
    ranking = rank_settings(read_study(tmp_path / "s"))
    assert all(row.setting.predictions.signers is None for row in ranking.rows)
    alone = paired_difference(np.ones(32), np.tile(np.arange(8) < 4, 4))
    (pair,) = ranking.pairs
    assert (pair.low, pair.high) == pytest.approx((alone.low, alone.high))


def with_other_data(run: Path) -> None:
    record = json.loads((run / "record.json").read_text())
    record["data"]["fingerprint"] = "e"
    (run / "record.json").write_text(json.dumps(record))


def test_settings_on_other_data_are_not_compared(tmp_path: Path) -> None:
    for model, accuracies in ACCURACIES.items():
        for fold, accuracy in enumerate(accuracies[:2]):
            run = write_run(tmp_path / "s", {"model": model}, fold, accuracy=accuracy)
            if model == "last":
                with_other_data(run)
    rows = {
        row.setting.runs[0].metrics["model"]: row
        for row in rank_settings(read_study(tmp_path / "s")).rows
    }
    assert rows["last"].best is rows["last"].setting
    assert rows["last"].p is None
    assert rows["middle"].best is rows["best"].setting
    assert rows["middle"].p is not None


def test_splits_on_other_data_are_not_paired(tmp_path: Path) -> None:
    for split in ("stratified", "signer"):
        for fold in range(2):
            run = write_run(tmp_path / "s", {"model": "cnn", "split": split}, fold)
            if split == "signer":
                with_other_data(run)
    assert rank_settings(read_study(tmp_path / "s")).pairs == []


def test_folds_of_other_data_are_not_averaged(three: Path) -> None:
    with_other_data(three / "last" / "fold=1")
    with pytest.raises(RunError, match="cannot be averaged: data: 40 images"):
        read_study(three)
