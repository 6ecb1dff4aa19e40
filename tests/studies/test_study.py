"""Run folders are written by hand; what is read of them as a study is checked."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import write_run

from signlang.arrays import Floats
from signlang.errors import RunError
from signlang.metrics.calibration import calibration_effects, fit_calibration
from signlang.metrics.classification import Predictions
from signlang.runs.lifecycle import FoldState
from signlang.runs.results import read_run
from signlang.studies.ranking import rank_settings
from signlang.studies.study import cross_fit, cross_fits, read_study


def test_folders_without_runs_are_passed_over(tmp_path: Path) -> None:
    write_run(tmp_path / "s", {"model": "cnn"}, folds=1)
    (tmp_path / "s" / "a" / "other").mkdir(parents=True)
    study = read_study(tmp_path / "s")
    assert [setting.name for setting in study.settings] == ["cnn"]
    assert study.incomplete == []


def test_a_damaged_fold_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    for fold in range(3):
        run = write_run(tmp_path / "s", {"model": "cnn"}, fold, folds=3)
        if fold == 0:
            (run / "metrics.json").write_text("{")
    (setting,) = read_study(tmp_path / "s").settings
    assert [run.fold for run in setting.runs] == [1, 2]
    assert {fold: missing.state for fold, missing in setting.missing.items()} == {
        0: FoldState.UNUSABLE
    }
    assert not setting.is_complete


def test_a_run_that_is_known_is_not_read_again(tmp_path: Path) -> None:
    for fold in range(3):
        write_run(tmp_path / "s", {"model": "cnn"}, fold, folds=3)
    known = read_run(tmp_path / "s" / "cnn" / "fold=1")
    (setting,) = read_study(tmp_path / "s", known).settings
    assert setting.is_complete
    assert [run is known for run in setting.runs] == [False, True, False]
    assert [run.fold for run in setting.runs] == [0, 1, 2]


def test_a_setting_without_a_finished_fold_comes_with_its_commands(tmp_path: Path) -> None:
    write_run(tmp_path / "s", {"model": "cnn"}, folds=1)
    begun = write_run(tmp_path / "s", {"model": "other"}, 1, folds=3)
    (begun / "metrics.json").unlink()
    study = read_study(tmp_path / "s")
    (lacking,) = study.unusable
    assert study.incomplete == [lacking]
    assert {fold: missing.state for fold, missing in lacking.missing.items()} == {
        0: FoldState.NOT_STARTED, 1: FoldState.UNFINISHED, 2: FoldState.NOT_STARTED,
    }  # fmt: skip
    (command,) = lacking.commands
    assert command.endswith(f"model=other runs_dir={tmp_path} fold=0,1,2")


def test_spread_is_two_standard_deviations_of_the_folds(tmp_path: Path) -> None:
    for fold, accuracy in enumerate((1.0, 0.5, 0.75)):
        write_run(tmp_path / "s", {"model": "cnn"}, fold, 3, accuracy)
    write_run(tmp_path / "s", {"model": "one"}, folds=1)
    spread = {s.name: s.two_deviations("accuracy") for s in read_study(tmp_path / "s").settings}
    assert spread["cnn"] == pytest.approx(2 * np.std([1, 0.5, 0.75], ddof=1))
    assert np.isnan(spread["one"])


def test_labels_hold_what_differs_in_as_few_words_as_tell_it_apart(tmp_path: Path) -> None:
    for name, rate in (("a", "0.1"), ("b", "0.2")):
        write_run(tmp_path / "one", {"model": name, "optimizer.lr": rate}, folds=1)
        more = {"optimizer.lr": rate, "augment.lr": f"{rate}5"}
        write_run(tmp_path / "two", {"model": "cnn", **more}, folds=1)
    one, two = (read_study(tmp_path / name) for name in ("one", "two"))
    assert one.factors == ("model", "optimizer.lr")
    assert sorted(one.labels.values()) == ["a, lr 0.1", "b, lr 0.2"]
    assert two.factors == ("augment.lr", "optimizer.lr")
    assert sorted(two.labels.values()) == [
        "cnn, augment.lr 0.15, optimizer.lr 0.1", "cnn, augment.lr 0.25, optimizer.lr 0.2",
    ]  # fmt: skip
    assert two.label(two.settings[0], without="augment").count("augment") == 0


def test_settings_of_one_label_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("b", "a"):
        run = write_run(tmp_path / "s", {"model": "cnn", "x": name}, folds=1)
        record = json.loads((run / "record.json").read_text())
        (run / "record.json").write_text(json.dumps({**record, "overrides": ["model=cnn"]}))
    assert sorted(read_study(tmp_path / "s").labels.values()) == [
        "cnn (cnn,x=a)", "cnn (cnn,x=b)",
    ]  # fmt: skip


def test_folds_of_other_settings_are_not_averaged(tmp_path: Path) -> None:
    for fold in range(2):
        run = write_run(tmp_path / "s", {"model": "cnn"}, fold)
    record = json.loads((run / "record.json").read_text())
    record["settings"]["optimizer.lr"] = 0.5
    (run / "record.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"cannot be averaged: optimizer\.lr: not set there, 0\.5"):
        read_study(tmp_path / "s")


def change(file: Path, **more: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


def environment(run: Path, **more: str | None) -> None:
    """Write into a run what computed it."""
    known = {"precision": "bf16-mixed", "processor": "P", "torch": "2.6", "git": "abc"}
    change(run / "metrics.json", environment={**known, **more})
    record = json.loads((run / "record.json").read_text())
    change(run / "record.json", settings={**record["settings"], "trainer.precision": "auto"})


def test_folds_of_two_precisions_are_not_averaged(tmp_path: Path) -> None:
    for fold, precision in enumerate(("bf16-mixed", "32-true")):
        run = write_run(tmp_path / "s", {"model": "cnn"}, fold)
        environment(run, precision=precision)
    with pytest.raises(RunError) as caught:
        read_study(tmp_path / "s")
    assert "averaged: trainer.precision: bf16-mixed there, 32-true now. Train" in str(caught.value)
    assert "(trainer.precision=32-true is the same on every machine)" in str(caught.value)


def test_folds_of_two_machines_or_versions_are_warned_of_by_number(tmp_path: Path) -> None:
    for model in ("cnn", "other"):
        for fold in range(3):
            environment(write_run(tmp_path / "s", {"model": model}, fold, 3))
    assert read_study(tmp_path / "s").remarks == []
    for model in ("cnn", "other"):
        environment(tmp_path / "s" / model / "fold=2", torch="2.7", git=None)
    assert read_study(tmp_path / "s").remarks == [
        "cnn, other: Its folds were not trained alike: torch 2.6 in fold 0, 1, 2.7 in fold 2; git "
        "abc in fold 0, 1, not known in fold 2."
    ]


def test_a_precision_that_was_not_recorded_is_averaged_with_a_warning(tmp_path: Path) -> None:
    for fold in range(2):
        run = write_run(tmp_path / "s", {"model": "cnn"}, fold)
        environment(run, precision="bf16-mixed" if fold else None)
    (line,) = read_study(tmp_path / "s").remarks
    assert "precision not known in fold 0, bf16-mixed in fold 1" in line


def test_settings_of_two_precisions_are_compared_with_a_warning(tmp_path: Path) -> None:
    for model, precision in (("a", "bf16-mixed"), ("b", "32-true")):
        environment(write_run(tmp_path / "s", {"model": model}, folds=1), precision=precision)
    (line,) = read_study(tmp_path / "s").remarks
    assert "part of their differences: bf16-mixed: a; 32-true: b. trainer" in line


def test_a_network_no_better_than_chance_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "s", {"model": "cnn"}, folds=1)
    write_run(tmp_path / "s", {"model": "dead"}, folds=1, accuracy=0.5)
    (line,) = read_study(tmp_path / "s").remarks
    assert line.startswith("dead: No better than chance: 8 of 16 images are recognised (95 % inte")


def test_an_image_that_two_folds_tested_is_refused(tmp_path: Path) -> None:
    for fold in range(2):
        run = write_run(tmp_path / "s", {"model": "cnn"}, fold)
    for name in ("predictions.csv", "data.csv"):
        text = (run / name).read_text("utf-8")
        (run / name).write_text(text.replace("0/1-3.png", "0/0-3.png"), "utf-8")
    one, other = (tmp_path / "s" / "cnn" / f"fold={k}" / "predictions.csv" for k in (1, 0))
    with pytest.raises(RunError) as caught:
        rank_settings(read_study(tmp_path / "s"))
    assert str(caught.value).startswith(f"{one} and {other} hold the same image, 0/0-3.png: an")


def test_settings_of_one_data_set_were_tested_on_the_same_images(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "s", {"model": name}, folds=1) for name in ("a", "b")]
    assert len(rank_settings(read_study(tmp_path / "s")).rows) == 2
    for run, new in zip(runs, ("0/0-8.png", "0/0-9.png"), strict=True):
        for name in ("predictions.csv", "data.csv"):
            text = (run / name).read_text("utf-8")
            (run / name).write_text(text.replace("0/0-3.png", new), "utf-8")
    with pytest.raises(RunError) as caught:
        rank_settings(read_study(tmp_path / "s"))
    one, other = (run / "predictions.csv" for run in runs)
    assert str(caught.value).startswith(f"{one} and {other} hold different images, although")
    assert all(path in str(caught.value) for path in ("0/0-8.png", "0/0-9.png"))


def test_choices_are_those_that_took_effect_in_short(tmp_path: Path) -> None:
    words = {"optimizer.lr": "1e-3", "augment": "own", "+extra": "'3'", "model.weights": "w.pt"}
    run = write_run(tmp_path / "s", {"model": "cnn", **words}, folds=1)
    record = json.loads((run / "record.json").read_text())
    record["settings"] |= {
        "optimizer.lr": 0.001, "augment.name": "mine", "model.weights": "w.pt (1a2b3c)",
    }  # fmt: skip
    (run / "record.json").write_text(json.dumps(record))
    (setting,) = read_study(tmp_path / "s").settings
    assert {key: setting.choice(key) for key in setting.overrides} == {
        "optimizer.lr": "0.001", "augment": "mine", "extra": "3", "model.weights": "w.pt",
    }  # fmt: skip
    assert setting.choice("nothing") == "None"


def of_folds(seed: int = 0, n: int = 300) -> Predictions:
    """Predictions of three folds by networks that are far too sure."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(n, 4))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(4, p=p) for p in shares])
    sharp = shares**4 / (shares**4).sum(1, keepdims=True)
    paths = tuple(map(str, range(n)))
    return Predictions(tuple("ABCD"), paths, labels, sharp, np.arange(n) % 3, None)


def test_a_fold_is_calibrated_by_the_others_alone() -> None:
    predictions = of_folds()
    fitted = cross_fit(predictions, 0.9)
    assert fitted.calibration.images == 300
    assert fitted.calibration.temperature == pytest.approx(4, rel=0.3)
    error = fitted.effects["calibration_error"]
    assert error["after"] < error["before"] / 2
    for fold, (calibration, effects) in fitted.folds.items():
        here = predictions.folds == fold
        expected = fit_calibration(predictions.probabilities[~here], predictions.labels[~here], 0.9)
        assert calibration.temperature == expected.temperature
        assert calibration.reject_threshold == expected.reject_threshold
        assert effects == calibration_effects(
            calibration, predictions.probabilities[here], predictions.labels[here]
        )
        assert fitted.of_fold(fold).test_error == effects["calibration_error"]
    # whatever the labels of a fold are, they do not reach its own calibration
    other = dataclasses.replace(
        predictions, labels=np.where(predictions.folds == 1, 0, predictions.labels)
    )
    again = cross_fit(other, 0.9)
    assert again.folds[1][0].temperature == fitted.folds[1][0].temperature
    assert again.folds[0][0].temperature != fitted.folds[0][0].temperature


def test_zeros_of_older_files_do_not_decide_the_temperature() -> None:
    exact = of_folds(1)
    rounded = dataclasses.replace(exact, probabilities=exact.probabilities.round(6))
    assert (rounded.probabilities == 0).any()
    temperatures = [cross_fit(p, 0.9).calibration.temperature for p in (exact, rounded)]
    assert temperatures[1] == pytest.approx(temperatures[0], rel=0.2)


def write_search_file(study: Path, chosen: dict[int, str], trials: int = 2) -> None:
    """Two trials of each of two folds; what was chosen by fold."""
    search: dict[str, Any] = {
        "name": "cnn", "nested": True, "trials": trials, "folds": [0, 1],
        "space": {"optimizer.lr": "0.1,0.2"},
        "words": ["-m", "hydra/sweeper=optuna", "optimizer.lr=0.1,0.2", "data.root=a b"],
    }  # fmt: skip
    search["tried"] = [
        {
            "fold": fold, "setting": f"cnn,optimizer.lr={rate}", "values": {"optimizer.lr": rate},
            "validation": 0.5, "chosen": chosen.get(fold) == rate,
        }
        for fold in (0, 1) for rate in ("0.1", "0.2")
    ]  # fmt: skip
    (study / "search.json").write_text(json.dumps({"searches": [search]}))


def test_a_nested_search_is_one_setting_of_what_its_folds_chose(tmp_path: Path) -> None:
    path = tmp_path / "s"
    accuracies = {("0.1", 0): 0.5, ("0.2", 0): 0.875, ("0.1", 1): 1.0, ("0.2", 1): 0.625}
    for (rate, fold), accuracy in accuracies.items():
        write_run(path, {"model": "cnn", "optimizer.lr": rate}, fold, accuracy=accuracy)
    for fold in (0, 1):
        write_run(path, {"model": "other", "optimizer.lr": "0.1"}, fold, accuracy=0.25)
    write_search_file(path, {0: "0.1", 1: "0.2"})  # the worse ones of the test folds
    ranking = rank_settings(read_study(path))
    row, other = ranking.rows
    assert row.setting.values("accuracy").tolist() == [0.5, 0.625]
    assert row.label == "cnn, nested search (2 trials a fold)"
    assert other.label == "other, lr 0.1"
    assert row.setting.is_complete
    assert [trial.text for _, trial in row.setting.chosen] == [
        "optimizer.lr=0.1", "optimizer.lr=0.2"
    ]  # fmt: skip


def test_a_setting_that_was_also_trained_by_itself_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for fold in range(3):
        write_run(path, {"model": "cnn", "optimizer.lr": "0.1"}, fold, folds=3)
    write_search_file(path, {0: "0.1"})
    study = read_study(path)
    assert {setting.search is None for setting in study.settings} == {True, False}
    (lacking,) = study.incomplete
    assert "fold 1 is not finished (2 of 2 trials of its search are done)" in lacking.text
    assert lacking.commands == (
        "python -m signlang.train -m hydra/sweeper=optuna optimizer.lr=0.1,0.2 'data.root=a b'",
    )


def test_a_search_without_any_choice_hides_what_it_tries(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_run(path, {"model": "cnn", "optimizer.lr": "0.1"}, 0)
    write_search_file(path, {}, trials=3)
    with pytest.raises(RunError, match=r"(?s)no finished run.*2 of 3 trials of its search.*optuna"):
        read_study(path)
    for content in ("{", '{"searches": [{}]}'):
        (path / "search.json").write_text(content)
        with pytest.raises(RunError, match=r"search\.json.*Delete it, and repeat the search"):
            read_study(path)


def test_settings_that_are_fitted_together_are_fitted_as_each_alone() -> None:
    every = [of_folds(), *(dataclasses.replace(of_folds(), probabilities=p) for p in tables())]
    wanted = [0.9, 0.5, 0.99, 0.9]
    alone = [cross_fit(one, of).as_json() for one, of in zip(every, wanted, strict=True)]
    assert [fitted.as_json() for fitted in cross_fits(every, wanted)] == alone
    assert len({fitted["temperature"] for fitted in alone}) == len(alone)


def tables() -> list[Floats]:
    """Probabilities of other networks for the images of `of_folds`."""
    labels, rng = of_folds().labels, np.random.default_rng(5)
    logits = [3 * np.eye(4)[labels] * right + rng.normal(size=(300, 4)) for right in (1, 0.3, 0)]
    return [np.exp(scores) / np.exp(scores).sum(1, keepdims=True) for scores in logits]


def test_probabilities_and_lists_of_images_are_kept_once(tmp_path: Path) -> None:
    """A study of a million images has no memory for copies of them."""
    for model in ("cnn", "other"):
        for fold in range(2):
            write_run(tmp_path / "s", {"model": model}, fold)
    one, other = read_study(tmp_path / "s").settings
    before = [run.predictions.probabilities for run in one.runs]
    assert one.predictions.paths is other.predictions.paths
    assert one.predictions.clusters is other.predictions.clusters
    for run, table in zip(one.runs, before, strict=True):
        own = run.predictions.probabilities
        assert np.array_equal(own, table)
        assert np.shares_memory(own, one.predictions.probabilities)
