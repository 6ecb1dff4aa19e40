"""Studies are written as run folders; each sentence on them is there exactly when it holds."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import write_run

from signlang.metrics.significance import clustered_interval, friedman
from signlang.reporting.formatting import p_text
from signlang.studies.ranking import rank_settings
from signlang.studies.study import read_study
from signlang.studies.verdicts import sentences


def written(study: Path, accuracies: Mapping[str, Sequence[float]], **more: Any) -> list[str]:
    """Sentences on networks with the accuracy of each fold; fewer folds are missing ones."""
    folds = max(map(len, accuracies.values()))
    for model, of_folds in accuracies.items():
        for fold, accuracy in enumerate(of_folds):
            write_run(study, {"model": model, **more}, fold, folds, accuracy)
    return told(study)


def told(study: Path) -> list[str]:
    return sentences(rank_settings(read_study(study)))


def change(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((run / "record.json").read_text())
    edit(record)
    (run / "record.json").write_text(json.dumps(record))


def test_a_single_run_has_no_spread_and_nothing_to_compare(tmp_path: Path) -> None:
    low, high = clustered_interval(np.tile(np.arange(8) < 6, 2), np.tile(np.arange(8), 2)) or (0, 0)
    (best, intervals, *cautions) = written(tmp_path / "s", {"cnn": [0.75]})
    assert best == (
        f"cnn with accuracy 0.7500 (1 fold; 95 % interval of all 16 images: {low:.4f} to "
        f"{high:.4f})."
    )
    assert intervals.startswith("The intervals are by signer (8 signers): images of one signer are")
    assert [caution[:30] for caution in cautions] == ["Folds were assigned at random "]


def test_the_best_of_two_is_named_with_its_spread(tmp_path: Path) -> None:
    best, comparison, *_ = written(tmp_path / "s", {"b": [0.5, 0.625], "a": [1.0, 0.875]})
    assert best.startswith("Best of 2 settings: a with accuracy 0.9375 ± 0.1768 (2 folds, mean ± 2")
    assert comparison.startswith("no significant difference between a and b (+0.3750, 95 % ")
    assert not any("fewer than two" in s or "Friedman" in s for s in told(tmp_path / "s"))


@pytest.mark.parametrize(
    ("last", "verdict"), [([0.5, 0.5, 0.5, 0.5], "yes"), ([1, 0.5, 1, 0.5], "not significant")]
)
def test_whether_three_settings_differ_at_all_is_asked_of_friedman(
    tmp_path: Path, last: list[float], verdict: str
) -> None:
    of = {"a": [1.0, 0.875, 1.0, 0.875], "b": [0.75, 0.625, 0.75, 0.75], "c": last}
    p = friedman([list(row) for row in zip(*of.values(), strict=True)])
    assert (p <= 0.05) == (verdict == "yes")
    asked = f"Do the settings differ at all? Friedman over the folds: {p_text(p)}, {verdict}."
    assert written(tmp_path / "s", of)[1] == asked


def test_settings_without_a_test_are_counted(tmp_path: Path) -> None:
    text = written(tmp_path / "s", {"a": [1.0, 0.875], "b": [0.5, 0.75], "c": [0.5], "d": [0.5]})
    (untested,) = (s for s in text if "fewer than two finished folds" in s)
    assert untested.startswith("2 settings shared fewer than two finished folds with the best: ")
    (lacking,) = (s for s in text if "not complete" in s)
    assert lacking.startswith("2 settings of 4 are not complete: the figures are preliminary")


def test_of_many_settings_the_close_ones_are_named_up_to_ten(tmp_path: Path) -> None:
    of = {f"n{n:02}": [1.0 - n / 16, 1.0 - (n % 3) / 8] for n in range(13)}
    (line,) = (s for s in written(tmp_path / "s", of) if s.startswith("Of 12 other settings, 12 "))
    assert "12 do not differ significantly from the best, n00 (corrected resampled t-test" in line
    names = line.partition("5 %): ")[2].split("; ")
    assert len(names) == 11
    assert names[-1] == "and 2 more."
    fewer = {name: of[name] for name in list(of)[:8]}
    (line,) = (s for s in written(tmp_path / "t", fewer) if s.startswith("Of 7 other settings, 7 "))
    assert line.count("; ") == 6
    assert " more" not in line


def test_of_many_settings_one_that_is_close_is_named(tmp_path: Path) -> None:
    worse = {f"n{n}": [0.375] * 3 for n in range(6)}
    text = written(tmp_path / "s", {"best": [1.0] * 3, "near": [1.0, 0.875, 1.0], **worse})
    near = "Of 7 other settings, 1 does not differ significantly from the best, best (corrected "
    assert [s.endswith("5 %): near.") for s in text if s.startswith(near)] == [True]
    text = written(tmp_path / "t", {"best": [1.0] * 3, **worse, "n6": [0.25] * 3})
    worst = (
        "All 7 others are worse than best (corrected resampled t-test, Holm over all pairs, 5 %)."
    )
    assert worst in text


@pytest.mark.parametrize(
    ("split", "kept"), [("signer", "signers"), ("blocks", "neighbouring frames")]
)
def test_what_random_folds_hide_is_told_with_its_interval(
    tmp_path: Path, split: str, kept: str
) -> None:
    study = tmp_path / "s"
    for name, accuracies in (("stratified", (1.0, 1.0)), (split, (0.25, 0.375))):
        for fold, accuracy in enumerate(accuracies):
            write_run(study, {"model": "cnn", "split": name}, fold, accuracy=accuracy)
    (pair,) = rank_settings(read_study(study)).pairs
    low, high = pair.difference.interval or (0, 0)
    text = told(study)
    (hidden,) = (s for s in text if "Random folds hide" in s)
    assert hidden == (
        f"Random folds hide 68.8 points: cnn has accuracy 1.0000 with split=stratified, and "
        f"0.3125 with split={split}, which keeps {kept} apart (difference +68.8 points, "
        f"95 % interval {100 * low:+.1f} to {100 * high:+.1f})."
    )
    assert sum(s.startswith("split ") for s in text) == 2  # each best with its fold assignment
    assert "Settings with different fold assignments or protocols are not ranked against" in (
        " ".join(text)
    )
    assert not any("assigned at random although" in s for s in text)


def test_a_difference_that_may_be_none_is_told_as_such(tmp_path: Path) -> None:
    for name, accuracies in (("stratified", (1.0, 0.75)), ("signer", (0.875, 0.875))):
        for fold, accuracy in enumerate(accuracies):
            write_run(tmp_path / "s", {"model": "cnn", "split": name}, fold, accuracy=accuracy)
    (line,) = (s for s in told(tmp_path / "s") if "No bias of random folds was measured: cnn" in s)
    assert "(difference +0.0 points, 95 % interval " in line


@pytest.mark.parametrize("split", ["stratified", "signer", "zigzag"])
def test_random_folds_of_known_signers_are_no_measure_for_others(
    tmp_path: Path, split: str
) -> None:
    text = written(tmp_path / "s", {"cnn": [0.75, 0.75]}, split=split)
    warned = any(s.startswith("Folds were assigned at random although the signers") for s in text)
    assert warned == (split == "stratified")


def test_settings_that_lack_folds_or_have_none_are_counted(tmp_path: Path) -> None:
    written(tmp_path / "s", {"whole": [0.75, 0.75], "half": [0.75], "other": [0.75]})
    begun = write_run(tmp_path / "s", {"model": "none"})
    (begun / "metrics.json").unlink()
    (lacking,) = (s for s in told(tmp_path / "s") if "complete" in s)
    assert lacking.startswith("3 settings of 4 are not complete: ")
    for name in ("half", "other"):
        write_run(tmp_path / "s", {"model": name}, 1)
    (lacking,) = (s for s in told(tmp_path / "s") if "complete" in s)
    assert lacking.startswith("1 setting of 4 is not complete: ")


def test_other_versions_and_devices_are_warned_of(tmp_path: Path) -> None:
    text = written(tmp_path / "s", {"cnn": [0.75, 0.75]})
    assert not any("different" in s for s in text)
    change(tmp_path / "s" / "cnn" / "fold=1", lambda record: record.update(device="GPU"))
    (line,) = (s for s in told(tmp_path / "s") if "different" in s)
    assert line.endswith("devices, so times and speeds do not compare: CPU; GPU.")
    change(tmp_path / "s" / "cnn" / "fold=1", lambda record: record.update(signlang="0.2.0"))
    assert "The runs are of different versions of signlang: 0.1.0, 0.2.0." in told(tmp_path / "s")
