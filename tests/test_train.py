"""`python -m signlang.train`, as its user meets it: run, skip, refuse, sweep, fail."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from boards import custom_scalars, events_of, hparams_page
from conftest import QUICK, Result, run_command
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

from signlang.models.classifier import Classifier
from signlang.runs.identity import former_name
from signlang.system import choose_precision, processor


def runs_in(place: Path) -> list[Path]:
    return sorted(file.parent for file in place.glob("runs/*/*/*/record.json"))


def json_of(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def done(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The place of a finished run, and what its command said; read it, never change it."""
    place = tmp_path_factory.mktemp("done")
    result = run_command(place, *QUICK, f"data.root={tiny}", "split=signer", "augment=digits")
    assert result.code == 0, result.err
    return place, result


def test_a_run_of_an_earlier_version_keeps_its_folder_and_is_not_trained_again(
    done: tuple[Path, Result], tiny: Path, tmp_path: Path
) -> None:
    (run,) = runs_in(done[0])
    words = [*QUICK, f"data.root={tiny}", "split=signer", "augment=digits"]
    old = former_name("simple_cnn", "Bilder_1", [*words, "fold=0"])
    shutil.copytree(run, tmp_path / "runs" / "Bilder_1" / old / "fold=0")
    # other words for the same settings, in another order
    same = [*reversed(words), "optimizer.lr=0.003", "optimizer=adamw"]
    again = run_command(tmp_path, *same)
    assert again.code == 0, again.err
    assert "is finished already" in again.err
    assert runs_in(tmp_path) == [tmp_path / "runs" / "Bilder_1" / old / "fold=0"]
    # a further fold joins those that there are
    sweep = run_command(tmp_path, *same, "-m", "fold=0,1")
    assert sweep.code == 0, sweep.err
    assert "1 of 2 jobs are finished already" in sweep.err
    assert {path.parent.name for path in runs_in(tmp_path)} == {old}
    listed = run_command(tmp_path, verb="list").out
    assert "2/3" in listed


def test_the_run_folder_is_the_contract(done: tuple[Path, Result]) -> None:
    place, _ = done
    (run,) = runs_in(place)
    assert run.relative_to(place).as_posix() == (
        "runs/Bilder_1/simple_cnn+accelerator=cpu+augment=digits+batch_size=8+data.image_size=32"
        "+epochs=3+folds=3+image_size=32+split=signer/fold=0"
    )
    names = {path.name.split(".tfevents")[0] for path in run.iterdir()} - {
        ".lock",
        ".lock.1-free",
        "hparams.yaml",
    }
    assert names == {
        ".hydra", "checkpoints", "metrics.json", "predictions.csv", "events.out", "record.json",
        "run.log", "data.csv", "classes.json", "history.csv", "calibration.json",
    }  # fmt: skip
    checkpoints = {path.name: torch.load(path) for path in (run / "checkpoints").iterdir()}
    assert set(checkpoints) == {"best.ckpt", "last.ckpt"}
    assert "optimizer_states" in checkpoints["last.ckpt"]
    assert "optimizer_states" not in checkpoints["best.ckpt"]
    assert "${" not in (run / ".hydra" / "config.yaml").read_text()
    metrics = json_of(run / "metrics.json")
    assert metrics["status"] == "finished"
    assert (metrics["model"], metrics["data"], metrics["fold"], metrics["folds"]) == (
        "simple_cnn", "Bilder_1", 0, 3,
    )  # fmt: skip
    assert set(metrics["validation"]) == {"accuracy", "macro_f1", "loss", "calibration_error"}
    assert set(metrics["cost"]) >= {"parameters", "flops", "size_mb", "latency_ms"}
    assert metrics["epochs"] == 3
    assert metrics["images_per_second"] > 0
    record = json_of(run / "record.json")
    assert record["fingerprint"] == metrics["fingerprint"]
    assert record["packages"]["torch"]
    environment = metrics["environment"]
    assert environment["precision"] == choose_precision("auto", "cpu")
    assert record["settings"]["trainer.precision"] == environment["precision"]
    assert environment["processor"] == record["processor"] == processor("cpu")
    assert environment["torch"] == record["packages"]["torch"]
    assert environment["git"] == record["git"]
    assert metrics["cost"]["latency_alone"] is True
    assert record["data"]["images"] == 36


def test_predictions_are_of_the_test_fold_and_give_the_metrics(done: tuple[Path, Result]) -> None:
    (run,) = runs_in(done[0])
    predictions, data = rows_of(run / "predictions.csv"), rows_of(run / "data.csv")
    assert [p["path"] for p in predictions] == [d["path"] for d in data if d["subset"] == "test"]
    labels, predicted = zip(*((p["label"], p["predicted"]) for p in predictions), strict=True)
    metrics = json_of(run / "metrics.json")["test"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    classes = json.loads((run / "classes.json").read_text("utf-8"))
    assert classes == ["A", "B", "ß"]
    for row in predictions:
        shares = {name: float(row[f"p_{name}"]) for name in classes}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(shares, key=lambda name: shares[name])
        assert float(row["confidence"]) == max(shares.values())
    parts = {d["signer"]: set() for d in data}  # type: ignore[var-annotated]
    for d in data:
        parts[d["signer"]].add(d["subset"])
    assert all(len(found) == 1 for found in parts.values())  # split=signer, validation too


def test_the_table_says_what_matters(done: tuple[Path, Result]) -> None:
    for words in ("test accuracy", "macro F1", "parameters", "FLOPs", "size", "time per image",
                  "run folder", "tensorboard --logdir"):  # fmt: skip
        assert words in done[1].out
    assert "Traceback" not in done[1].err


CURVES = {
    "accuracy/train", "accuracy/validation", "loss/train", "loss/validation",
    "metrics/macro_f1/validation", "metrics/calibration_error/validation",
    "optimizer/learning_rate", "speed/images_per_second",
}  # fmt: skip


def test_tensorboard_opens_with_the_curves(done: tuple[Path, Result]) -> None:
    (run,) = runs_in(done[0])
    events = events_of(run)
    steps = {tag: [p.step for p in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {tag for tag in steps if steps[tag] == [0, 1, 2]} == CURVES  # of epochs
    single = {tag for tag in steps if len(steps[tag]) == 1}
    assert single == steps.keys() - CURVES
    assert {"test/accuracy", "test/cost/flops"} <= single
    # the page sorts the groups and opens two; single values come after all curves
    shown = [*single, *events.Tags()["images"]]
    assert max(CURVES) < min(shown)
    groups = sorted({tag.partition("/")[0] for tag in [*CURVES, *shown]})
    assert groups == ["accuracy", "loss", "metrics", "optimizer", "speed", "test", "training"]
    history = rows_of(run / "history.csv")
    speeds = [p.value for p in events.Scalars("speed/images_per_second")]
    assert speeds == pytest.approx([float(row["images_per_second"]) for row in history])


def test_tensorboard_shows_the_mistakes_of_each_epoch(done: tuple[Path, Result]) -> None:
    (run,) = runs_in(done[0])
    events = events_of(run)
    steps = {tag: [i.step for i in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps.pop("training/validation mistakes") == [0, 1, 2]
    assert steps.pop("training/images") == [0]
    assert {"test/confusion matrix", "test/worst mistakes"} == steps.keys()
    for image in events.Images("training/validation mistakes"):
        with Image.open(io.BytesIO(image.encoded_image_string)) as sheet:
            assert sheet.size == (image.width, image.height)
        assert len(image.encoded_image_string) < 100_000


def test_custom_scalars_shows_train_and_validation_together(done: tuple[Path, Result]) -> None:
    (run,) = runs_in(done[0])
    tags = events_of(run).Tags()["scalars"]
    charts = {
        title: {tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)}
        for title, patterns in custom_scalars(run).items()
    }
    for name in ("accuracy", "loss"):
        assert charts[name] == {f"{name}/train", f"{name}/validation"}


def test_hparams_has_one_filled_row(done: tuple[Path, Result]) -> None:
    (run,) = runs_in(done[0])
    _, rows = hparams_page(run)
    (row,) = rows.values()
    assert {key: row[key] for key in ("model", "split", "protocol", "fold", "image_size")} == {
        "model": "simple_cnn", "split": "signer", "protocol": "test fold untouched", "fold": "0",
        "image_size": 32,
    }  # fmt: skip
    metrics = json_of(run / "metrics.json")["test"]
    for name in ("accuracy", "macro_f1", "loss", "calibration_error"):
        assert row[f"test/{name}"] == pytest.approx(metrics[name], abs=1e-6)


def test_the_best_checkpoint_loads_by_itself(done: tuple[Path, Result]) -> None:
    (run,) = runs_in(done[0])
    model = Classifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert model.classes == ("A", "B", "ß")


@pytest.fixture
def again(done: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of the finished run's place, to change."""
    return Path(shutil.copytree(done[0], tmp_path / "again"))


def settings(tiny: Path) -> list[str]:
    return [*QUICK, f"data.root={tiny}", "split=signer", "augment=digits"]


def test_a_finished_run_is_not_trained_again(again: Path, tiny: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in again.rglob("*") if file.is_file()}
    result = run_command(again, *settings(tiny), "workers=1")
    assert result.code == 0, result.err
    assert "finished already" in result.err
    assert "test accuracy" in result.out
    after = {file: file.stat().st_mtime_ns for file in again.rglob("*") if file.is_file()}
    assert after == before


def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_lost(
    again: Path, tiny: Path
) -> None:
    (run,) = runs_in(again)
    record = json_of(run / "record.json")
    record["settings"]["optimizer.lr"] = 0.5
    record["fingerprint"] = "another"
    (run / "record.json").write_text(json.dumps(record))
    metrics = (
        (run / "metrics.json")
        .read_text()
        .replace(json_of(run / "metrics.json")["fingerprint"], "another")
    )
    (run / "metrics.json").write_text(metrics)
    result = run_command(again, *settings(tiny))
    assert result.code == 1
    assert "optimizer.lr: 0.5 there, 0.003 now" in result.err
    assert "study=NAME" in result.err
    assert "overwrite=true" in result.err
    assert (run / "metrics.json").read_text() == metrics
    result = run_command(again, *settings(tiny), "overwrite=true", "verbose=false")
    assert result.code == 0, result.err
    assert result.out == ""
    assert json_of(run / "metrics.json")["test"] == json.loads(metrics)["test"]


def test_metrics_of_another_run_are_not_taken_for_its_own(again: Path, tiny: Path) -> None:
    (run,) = runs_in(again)
    (run / "metrics.json").write_text("{}")
    result = run_command(again, *settings(tiny))
    assert result.code == 1
    assert re.search(r"metrics\.json does not belong to the run .* delete it to finish", result.err)
    assert "Traceback" not in result.err


def test_other_images_are_refused_too(again: Path, tiny: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny, tmp_path / "other" / tiny.name))
    (other / "A" / "A0.png").unlink()
    result = run_command(again, *QUICK, f"data.root={other}", "split=signer", "augment=digits")
    assert result.code == 1
    assert "data: 36 images of 3 classes there" in result.err
    assert "35 of 3 now" in result.err


def test_a_sweep_goes_on_past_a_failing_job_and_says_so(tiny: Path, tmp_path: Path) -> None:
    sweep = [*QUICK, f"data.root={tiny}", "trainer.max_epochs=1", "fold=0,9,1,2"]
    result = run_command(tmp_path, "-m", *sweep)
    assert result.code != 0
    assert "fold=9: there are 3 folds" in result.err
    assert "1 of 4 jobs of the sweep failed" in result.err
    finished = [run.name for run in runs_in(tmp_path) if (run / "metrics.json").exists()]
    assert finished == ["fold=0", "fold=1", "fold=2"]


def test_a_failing_job_keeps_its_traceback_in_its_own_log(tiny: Path, tmp_path: Path) -> None:
    words = [*QUICK, f"data.root={tiny}", "trainer.max_epochs=1"]
    result = run_command(
        tmp_path, "-m", *words, "callbacks.checkpoint.monitor=validation/accuracy,nothing"
    )
    assert result.code == 1
    assert "The run failed" in result.err
    assert "Traceback" not in result.err
    logs = {run: (run / "run.log").read_text() for run in runs_in(tmp_path)}
    failed = [run for run, text in logs.items() if "Traceback (most recent call last)" in text]
    assert len(logs) == 2
    assert len(failed) == 1
    assert not (failed[0] / "metrics.json").exists()


def test_bad_images_can_be_left_out_but_not_in_silence(tiny: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny, tmp_path / "data"))
    (data / "A" / "A1.png").write_bytes(b"")
    words = [*QUICK, f"data.root={data}", "trainer.max_epochs=1"]
    result = run_command(tmp_path, *words)
    assert result.code == 1
    assert "A/A1.png: empty (0 bytes)" in result.err
    assert not (tmp_path / "runs").exists()
    result = run_command(tmp_path, *words, "data.on_bad_image=exclude")
    assert result.code == 0, result.err
    (run,) = runs_in(tmp_path)
    assert rows_of(run / "excluded.csv") == [{"path": "A/A1.png", "reason": "empty (0 bytes)"}]
    assert "1 file left out" in result.err
    assert "A/A1.png: empty" in (run / "run.log").read_text()


def test_backgrounds_are_blended_in_and_known_by_content(tiny: Path, tmp_path: Path) -> None:
    scenes = Path(shutil.copytree(tiny, tmp_path / "scenes"))
    words = [*QUICK, f"data.root={tiny}", "trainer.max_epochs=1", "augment=asl_alphabet"]
    words += [f"augment.backgrounds={scenes}"]
    assert run_command(tmp_path, *words).code == 0
    (run,) = runs_in(tmp_path)
    assert "augment.backgrounds=scenes" in run.parent.name
    (scenes / "A" / "A0.png").unlink()
    result = run_command(tmp_path, *words)
    assert result.code == 1
    assert "augment.backgrounds: " in result.err
    result = run_command(tmp_path, *words, "augment.background_weight=0", "study=none")
    assert "augment.backgrounds has no effect" in result.err


def test_the_best_checkpoint_is_tested_not_the_last(tiny: Path, tmp_path: Path) -> None:
    first = ["callbacks.checkpoint.monitor=epoch", "callbacks.checkpoint.mode=min",
             "callbacks.early_stopping=null"]  # fmt: skip
    result = run_command(tmp_path, *QUICK, f"data.root={tiny}", *first)
    assert result.code == 0, result.err
    (run,) = runs_in(tmp_path)
    assert torch.load(run / "checkpoints" / "best.ckpt")["epoch"] == 0
    assert torch.load(run / "checkpoints" / "last.ckpt")["epoch"] == 2
    losses = [float(row["validation/loss"]) for row in rows_of(run / "history.csv")]
    found = json_of(run / "metrics.json")["validation"]["loss"]
    assert found == pytest.approx(losses[0], rel=0.02)  # of bfloat16 in training, float32 here
    assert losses[2] != pytest.approx(losses[0], rel=0.05)
    (row, *_) = rows_of(run / "predictions.csv")
    best = Classifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    said = best.predict_images([tiny / row["path"]])[0]
    assert [float(row[f"p_{name}"]) for name in "ABß"] == pytest.approx(said.tolist(), abs=1e-4)


def test_given_subsets_are_one_fold_with_a_table_of_its_own(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "published"
    for file in sorted(tiny.rglob("*.png")):
        subset = ["train", "train", "train", "valid", "test"][int(file.stem[1:]) % 5]
        place = data / subset / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    quick = [word for word in QUICK if not word.startswith(("folds=", "data="))]
    result = run_command(tmp_path, *quick, str(data), "split=given", "trainer.max_epochs=1")
    assert result.code == 0, result.err
    assert "published brings its own subsets, test, train, valid" in result.err
    assert "fold 0 of 1 (given): 24 train, 6 validation, 6 test" in result.err
    (run,) = runs_in(tmp_path)
    for row in rows_of(run / "data.csv"):
        assert row["path"].startswith(row["subset"][:5])
    compared = run_command(tmp_path, "runs/published", verb="compare")
    assert compared.code == 0, compared.err
    (line,) = rows_of(tmp_path / "runs" / "published" / "leaderboard.csv")
    assert (line["folds"], line["complete"], line["split"]) == ("1", "true", "given")
    refused = run_command(tmp_path, *QUICK, str(data), "split=given")
    assert refused.code == 2
    assert (
        "folds=3: split=given takes the data set's own subsets, which are one fold" in refused.err
    )
    assert run_command(tmp_path, *quick, str(data), "split=given", "fold=1").err == (
        "fold=1: there is one fold, 0.\n"
    )


def test_copies_of_test_images_in_the_training_subset_are_told(tiny: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny, tmp_path / "data"))
    (data / "signers.csv").unlink()
    words = [*QUICK, f"data.root={data}", "trainer.fast_dev_run=true", "callbacks=none"]
    result = run_command(tmp_path, *words)
    assert result.code == 0, result.err
    assert "have a copy" not in result.err
    for number in range(12):  # equal files
        shutil.copy(data / "A" / f"A{number}.png", data / "A" / f"again{number}.png")
    result = run_command(tmp_path, *words)
    assert re.search(r"\d of \d+ test images have a copy among the training images", result.err)
    assert "split=group keeps copies in one fold" in result.err
    result = run_command(tmp_path, *words, "split=group")
    assert result.code == 0, result.err
    assert "have a copy" not in result.err
