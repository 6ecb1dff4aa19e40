"""P values are corrected for their number, signers are clusters, and other data is not compared."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from test_report import write_run

from signlang.errors import RunError, SettingError
from signlang.metrics.significance import (
    clustered_interval,
    corrected_t_test,
    holm,
    mcnemar,
    paired_difference,
    wilson_interval,
)
from signlang.studies.ranking import choose_run, rank_settings
from signlang.studies.study import read_study
from signlang.studies.verdicts import sentences

ACCURACIES = {"best": (1.0, 0.875, 1.0), "middle": (0.75, 0.75, 0.875), "last": (0.5, 0.625, 0.25)}
IMAGES = 16  # of a fold: two classes of eight


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three networks on three folds."""
    for model, accuracies in ACCURACIES.items():
        for fold, accuracy in enumerate(accuracies):
            write_run(tmp_path / "three", {"model": model}, fold, folds=3, accuracy=accuracy)
    return tmp_path / "three"


def make_independent(run: Path) -> None:
    """Let nobody be known in the images, and no name hold a number."""
    for file in (run / "data.csv", run / "predictions.csv"):
        lines = [re.sub(r",s\d,", ",,", line) for line in file.read_text("utf-8").splitlines()]
        letters = [re.sub(r"(?<=^\d/).*?(?=\.png)", lambda m: m[0].translate(LETTERS), line)
                   for line in lines]  # fmt: skip
        file.write_text("\n".join(letters) + "\n", "utf-8")


LETTERS = str.maketrans("0123456789", "abcdefghij")


def test_p_values_are_corrected_for_all_pairs(three: Path) -> None:
    for run in three.glob("*/fold=*"):
        make_independent(run)
    best, *others = rank_settings(read_study(three)).rows
    assert [row.setting.runs[0].metrics["model"] for row in (best, *others)] == [*ACCURACIES]
    assert best.p is None
    assert best.p_mcnemar is None
    over_folds, over_images = [], []
    for one, other in (("best", "middle"), ("best", "last"), ("middle", "last")):
        differences = np.subtract(ACCURACIES[one], ACCURACIES[other])
        over_folds.append(corrected_t_test(differences, 20 / 18).p)
        over_images.append(mcnemar(round(IMAGES * differences.sum()), 0))
    for found, plain in (
        ([row.p for row in others], over_folds),
        ([row.p_mcnemar for row in others], over_images),
    ):
        # the last two are compared as well, since any of the three might have been the best
        assert found == pytest.approx(holm(plain)[:2], rel=1e-9, abs=0)
        assert found != pytest.approx(holm(plain[:2]), rel=1e-3, abs=0)


def test_the_t_test_knows_how_many_images_were_trained_on(three: Path) -> None:
    (setting, *_) = read_study(three).settings
    assert setting.test_share == pytest.approx(20 / 18)  # not 20 / 20: two were held back


def test_images_of_one_signer_have_no_mcnemar_but_an_interval_by_signer(three: Path) -> None:
    best, middle, _ = rank_settings(read_study(three)).rows
    assert middle.p_mcnemar is None
    a, b = best.setting.predictions, middle.setting.predictions
    assert a.clusters is not None
    assert str(a.clusters) == "8 signers"
    assert middle.difference == paired_difference(
        a.correct, b.correct, a.signers, confidence=1 - 0.05 / 3
    )
    assert best.accuracy.interval == clustered_interval(a.correct, a.signers)
    assert best.accuracy.interval != wilson_interval(best.accuracy.count, 48)


def with_one_signer(run: Path) -> None:
    table = (run / "data.csv").read_text("utf-8")
    (run / "data.csv").write_text(re.sub(r",s\d+,", ",mary,", table), "utf-8")


def test_frames_of_one_signer_count_by_block_of_film(tmp_path: Path) -> None:
    for fold, accuracy in enumerate((0.9, 0.5)):
        with_one_signer(write_run(tmp_path / "s", {"model": "cnn"}, fold, 2, accuracy, each=40))
    (row,) = rank_settings(read_study(tmp_path / "s")).rows
    predictions = row.setting.predictions
    assert str(predictions.clusters) == "20 blocks of film"
    blocks = [f"{path[0]} {int(path[4:-4]) // 4}" for path in predictions.paths]
    assert row.accuracy.interval == clustered_interval(predictions.correct, blocks)
    assert "by block of film (20 blocks of film, each a tenth of the frames" in " ".join(
        sentences(rank_settings(read_study(tmp_path / "s")))
    )


def test_two_signers_are_too_few_for_an_interval(tmp_path: Path) -> None:
    for split, accuracy in (("stratified", 1.0), ("signer", 0.5)):
        for fold in range(2):
            run = write_run(tmp_path / "s", {"model": "cnn", "split": split}, fold, 2, accuracy)
            table = re.sub(r",s\d,", ",mary,", (run / "data.csv").read_text("utf-8"), count=8)
            (run / "data.csv").write_text(re.sub(r",s\d,", ",paul,", table), "utf-8")
    ranking = rank_settings(read_study(tmp_path / "s"))
    assert {row.accuracy.interval for row in ranking.rows} == {None}
    text = " ".join(sentences(ranking))
    assert "There are no intervals: 2 signers are too few to tell how much they differ." in text
    assert "(difference +50.0 points, no interval: too few clusters)" in text
    assert "95 % interval" not in text


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
    clustered = paired_difference(recognised["stratified"], recognised["signer"], number)
    alone = paired_difference(recognised["stratified"], recognised["signer"])
    assert pair.difference == clustered
    assert clustered.interval is not None
    assert alone.interval is not None
    assert abs(clustered.interval[0] - alone.interval[0]) > 0.01


def test_unknown_signers_are_no_cluster(tmp_path: Path) -> None:
    for split, accuracy in (("stratified", 1.0), ("signer", 0.5)):
        for fold in range(2):
            run = write_run(tmp_path / "s", {"model": "cnn", "split": split}, fold, 2, accuracy)
            make_independent(run)
            table = (run / "data.csv").read_text("utf-8")
            (run / "data.csv").write_text(table.replace(",,", ",mary,", 5))
    ranking = rank_settings(read_study(tmp_path / "s"))
    assert all(row.setting.predictions.signers is None for row in ranking.rows)
    alone = paired_difference(np.ones(32), np.tile(np.arange(8) < 4, 4))
    (pair,) = ranking.pairs
    assert pair.difference == alone


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


def test_a_run_is_found_by_its_study_its_name_and_the_time(
    three: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = three.parent
    caplog.set_level("INFO", "signlang")
    best = three / "best"
    assert choose_run("three", runs) == choose_run(str(three), runs) == best / "fold=0"
    assert "run=three is" in caplog.messages[0]
    assert (
        "the best of 3 settings by the accuracy over folds (0.9583, 3 of 3 folds)"
        in (caplog.messages[0])
    )
    os.utime(three / "last" / "fold=1" / "metrics.json", (2e9, 2e9))
    assert choose_run("latest", runs) == three / "last" / "fold=1"
    caplog.clear()
    assert choose_run(str(best / "fold=2"), runs) == best / "fold=2"
    assert caplog.messages == []  # it is what was typed
    assert choose_run("best/fold=2", runs) == best / "fold=2"
    (best / "fold=0" / "metrics.json").unlink()
    assert choose_run("bes", runs) == best / "fold=1"
    assert "the first of 2 finished folds" in caplog.messages[-1]
    # the study takes a complete setting before a better one with a fold less
    assert choose_run("three", runs) == three / "middle" / "fold=0"


def test_names_of_several_runs_or_none_are_refused_with_near_ones(three: Path) -> None:
    runs = three.parent
    write_run(runs / "other", {"model": "best"}, folds=1)
    for word, sentence in (
        ("best", r"run=best fits several\. Give one of them:\n  other/best\n  three/best$"),
        ("fold=1", r"fits several.*three/best/fold=1\n  three/last/fold=1\n  three/middle/fold=1$"),
        ("thre e", r"nothing in .* has that name\. Did you mean three\?"),
        ("midle", r"Did you mean middle\?"),
        ("", r"run=: there is no such folder"),
    ):
        with pytest.raises(SettingError, match=f"(?s){sentence}"):
            choose_run(word, runs)
    for path in (three / "last").glob("fold=*"):
        (path / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"no fold of .*last is finished: fold=0 is not finished"):
        choose_run("last", runs)
    with pytest.raises(SettingError, match=r"no run in .*none: train something first"):
        choose_run("x", runs / "none")
