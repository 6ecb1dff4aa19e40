"""Options of Lightning's Trainer and callbacks that are switched off: each works, or is refused."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import QUICK, ROOT, run_command

from signlang import api
from signlang.command_line import TRAINER_OPTIONS
from signlang.errors import RunError, SettingError

STEPS = 3  # batches of an epoch of the tiny images


def train(place: Path, tiny: Path, *words: str) -> api.LoadedRun:
    """A run in this process; what the words say has the last word."""
    return api.train(
        [*QUICK, f"data.root={tiny}", f"runs_dir={place}/runs", "verbose=false", *words]
    )


def last_of(run: api.LoadedRun) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def test_every_option_of_the_trainer_can_be_typed_without_a_plus() -> None:
    ours = yaml.safe_load((ROOT / "conf" / "trainer" / "default.yaml").read_text())
    assert set(inspect.signature(pl.Trainer).parameters) == {*TRAINER_OPTIONS, *ours} - {"_target_"}


def test_fast_dev_run_touches_no_study_and_runs_again(tiny: Path, tmp_path: Path) -> None:
    words = [*QUICK, f"data.root={tiny}"]
    result = run_command(tmp_path, *words, "trainer.fast_dev_run=true")
    assert result.code == 0, result.err
    assert re.search(r"part of the images only +│ trainer\.fast_dev_run=true", result.out)
    written = next(tmp_path.rglob("metrics.json")).stat().st_mtime_ns
    train(tmp_path, tiny, "+trainer.fast_dev_run=true")
    assert next(tmp_path.rglob("metrics.json")).stat().st_mtime_ns > written, "trained again"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["debug"]
    (metrics,) = tmp_path.glob("runs/debug/*/fold=0/metrics.json")
    content = json.loads(metrics.read_text())
    assert content["epochs"] == 1
    assert content["partial"] == ["trainer.fast_dev_run=true"]
    run = api.load_run(metrics.parent)
    with pytest.raises(RunError, match=r"holds no weights: it was trained with .*fast_dev_run"):
        run.network  # noqa: B018
    assert train(tmp_path, tiny, "trainer.fast_dev_run=2").metrics["status"] == "finished"


def test_max_steps_ends_the_training_and_its_schedule(tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path, tiny, "trainer.max_steps=7", "trainer.max_epochs=9")
    assert last_of(run)["global_step"] == 7
    assert run.metrics["epochs"] == 3
    assert run.history["learning_rate"][-1] < 1e-6, "the cycle ends with the last step"
    assert run.metrics["checkpoint"] == "best.ckpt"
    short = train(tmp_path, tiny, "trainer.max_steps=2")  # within the first epoch
    assert short.metrics["checkpoint"] == "last.ckpt", "no validation chose"
    assert short.metrics["partial"] == []


@pytest.mark.parametrize(
    ("word", "partial"),
    [
        ("trainer.overfit_batches=1", True),
        ("trainer.limit_val_batches=1", True),
        ("trainer.limit_test_batches=1", True),
        ("trainer.limit_test_batches=1.0", False),
        ("trainer.limit_train_batches=0.5", False),
    ],
)
def test_limits_are_marked_where_they_touch_the_metrics(
    tiny: Path, tmp_path: Path, word: str, partial: bool
) -> None:
    run = train(tmp_path, tiny, word, "trainer.max_epochs=2")
    assert run.metrics["partial"] == ([word] if partial else [])
    assert run.metrics["status"] == "finished"
    if "train_batches" in word or "overfit" in word:
        assert last_of(run)["global_step"] == 2, "one batch in each epoch"
    if partial:
        with pytest.raises(RunError, match=r"fold 0 saw only a part of the images \(trainer"):
            api.compare(run.path.parent.parent, allow_incomplete=True)


def test_max_time_ends_a_training_without_a_last_epoch(tiny: Path, tmp_path: Path) -> None:
    words = ("trainer.max_epochs=-1", "callbacks.one_cycle=null", "callbacks.early_stopping=null")
    run = train(tmp_path, tiny, *words, "+trainer.max_time=00:00:00:02")
    assert run.metrics["epochs"] > 1
    assert run.metrics["seconds"] < 10
    log = (run.path / "run.log").read_text()
    assert re.search(r"epoch 2  train loss", log)


def test_without_checkpoints_the_last_epoch_is_tested(tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path, tiny, "trainer.enable_checkpointing=false")
    assert not (run.path / "checkpoints").exists()
    assert run.metrics["checkpoint"] is None
    kept = train(tmp_path, tiny, "callbacks.checkpoint=null")
    assert run.metrics["test"] == kept.metrics["test"]
    assert kept.metrics["checkpoint"] == "last.ckpt"
    with pytest.raises(RunError, match=r"holds no weights: it was trained with trainer\.enable_ch"):
        api.export([f"run={run.path}"])


def test_the_report_of_a_profiler_is_shown(tiny: Path, tmp_path: Path) -> None:
    result = run_command(tmp_path, *QUICK, f"data.root={tiny}", "trainer.profiler=simple",
                         COLUMNS="80")  # fmt: skip
    assert result.code == 0, result.err
    table = result.out[result.out.index("profile of training") : result.out.index("test accuracy")]
    assert re.search(r"run_training_epoch +\d+\.\d\d +\d+\.\d +3\n", table)
    assert re.search(r"History\.on_train_batch_end +\d", table) or "Classifier" in table
    assert max(map(len, table.splitlines())) <= 80


def test_validation_every_second_epoch_leaves_gaps_not_copies(tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path, tiny, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=6",
                "callbacks.early_stopping.patience=2")  # fmt: skip
    losses = run.history["validation/loss"]
    assert [loss == loss for loss in losses] == [False, True, False, True, False, True]
    assert len(losses) == 6, "an epoch without validation is not one without improvement"


@pytest.mark.parametrize(
    "word",
    ["trainer.val_check_interval=1", "trainer.deterministic=true", "trainer.num_sanity_val_steps=1",
     "trainer.accumulate_grad_batches=2"],
)  # fmt: skip
def test_other_options_work(tiny: Path, tmp_path: Path, word: str) -> None:
    try:
        run = train(tmp_path, tiny, word)
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(run.history["validation/loss"]) == 3
    assert last_of(run)["global_step"] == (6 if "accumulate" in word else 3 * STEPS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trainer.logger=false"], r"trainer\.logger=false: loggers are chosen by logger=none"),
        (["+trainer.callbacks=[]"], r"trainer\.callbacks=\[\]: callbacks are chosen by callbacks="),
        (
            ["trainer.barebones=true"],
            r"trainer\.barebones=true: .*enable_checkpointing=false inst",
        ),
        (["trainer.default_root_dir=x"], r"trainer\.default_root_dir=x: runs go to runs_dir=DIR"),
        (["trainer.limit_test_batches=0"], r"limit_test_batches=0: it must be a number of batches"),
        (["trainer.limit_val_batches=1.5"], r"limit_val_batches=1\.5: it must be a number of batc"),
        (["trainer.max_time=5m"], r"trainer\.max_time=5m: it must be DD:HH:MM:SS, e\.g\. 00:00:05"),
        (["trainer.max_steps=0"], r"trainer\.max_steps=0: it must be a whole number of at least 1"),
        (
            ["trainer.max_epochs=-1"],
            r"callbacks\.one_cycle needs the number of steps; give trainer",
        ),
        (
            ["trainer.max_epochs=-1", "callbacks=none"],
            r"the training would never end; give trainer\.max_time=DD:HH:MM:SS or trainer\.max_st",
        ),
        (["ckpt_path=nowhere.ckpt"], r"ckpt_path=nowhere\.ckpt: there is no such file or folder"),
        (["callbacks.checkpoint.filename=mine"], r"checkpoint\.filename=mine: it must be best"),
    ],
)
def test_what_cannot_work_is_refused_before_any_image_is_read(
    tmp_path: Path, words: list[str], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        train(tmp_path, tmp_path, *words)  # a folder without images
    assert not (tmp_path / "runs").exists()


def test_another_run_is_resumed_by_its_last_checkpoint(tiny: Path, tmp_path: Path) -> None:
    off = ("one_cycle", "early_stopping", "checkpoint")  # a constant rate; the last epoch is tested
    constant = [f"callbacks.{name}=null" for name in off]
    first = train(tmp_path, tiny, *constant)
    last = first.path / "checkpoints" / "last.ckpt"
    longer = ("trainer.max_epochs=5", *constant)
    more = train(tmp_path, tiny, *longer, f"ckpt_path='{last}'")
    whole = train(tmp_path, tiny, *longer)
    assert more.path != whole.path
    assert more.metrics["epochs"] == 5
    assert more.metrics["test"] == whole.metrics["test"], "as if trained in one go"
    assert more.record["settings"]["ckpt_path"].startswith("last.ckpt ")


def test_a_checkpoint_that_cannot_be_resumed_is_refused(tiny: Path, tmp_path: Path) -> None:
    cycled = train(tmp_path, tiny)
    best, last = (cycled.path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    for words, sentence in (
        (
            [f"ckpt_path='{best}'"],
            r"holds weights only.* last\.ckpt beside it.* model\.weights=FILE",
        ),
        ([f"ckpt_path='{last}'"], r"3 finished epochs, so trainer\.max_epochs=3 leaves none"),
        ([f"ckpt_path='{last}'", "trainer.max_epochs=9"], r"has 27 steps, its checkpoint 9\. Plan"),
        (
            [f"ckpt_path='{last}'", "trainer.max_epochs=9", "fold=1"],
            r"trained on 12 of the 12 imag",
        ),
        (
            [f"ckpt_path='{last}'", "trainer.max_epochs=9", "callbacks.one_cycle=null"],
            r"with a schedule of its learning rate, and this run has callbacks\.one_cycle=null",
        ),
        ([f"ckpt_path='{tiny / 'signers.csv'}'"], r"signers\.csv is no checkpoint of Lightning"),
        ([f"ckpt_path='{last}'", "model=squeezenet"], r"is of another network or of other classes"),
    ):
        with pytest.raises(SettingError, match=sentence):
            train(tmp_path, tiny, *words)


def test_a_study_may_be_called_by_a_number(tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path, tiny, "study=2024", "trainer.max_epochs=1", "callbacks=none")
    assert run.path.parent.parent == tmp_path / "runs" / "2024"


CALLBACKS = tuple(yaml.safe_load((ROOT / "conf" / "callbacks" / "default.yaml").read_text()))
FILES = {
    "history": "history.csv",
    "checkpoint": "checkpoints/best.ckpt",
    "last": "checkpoints/last",
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_each_callback_can_be_switched_off(tiny: Path, tmp_path: Path, name: str) -> None:
    run = train(tmp_path, tiny, f"callbacks.{name}=null", "trainer.max_epochs=2")
    metrics = run.metrics
    assert (metrics["status"], metrics["epochs"]) == ("finished", 2)
    assert metrics["seconds"] > 0
    assert metrics["images_per_second"] > 0
    assert metrics["cost"]["parameters"] > 0
    assert (metrics["cost"]["latency_ms"] is None) == (name == "cost")
    assert len(run.predictions["path"]) == 12
    if name in FILES:
        assert not list(run.path.glob(f"{FILES[name]}*"))
    assert run.network.predict_images([tiny / run.predictions["path"][0]]).shape == (1, 3)


def test_a_run_without_any_callback_goes_through_every_verb(tiny: Path, tmp_path: Path) -> None:
    for fold in range(3):
        run = train(tmp_path, tiny, "callbacks=none", f"fold={fold}", "split=signer",
                    f"data.signers='{tiny / 'signers.csv'}'")  # fmt: skip
    files = {f.relative_to(run.path).as_posix() for f in run.path.rglob("*") if f.is_file()}
    assert "checkpoints/last.ckpt" in files
    assert not files & {"checkpoints/best.ckpt", "history.csv"}
    assert {"predictions.csv", "calibration.json", "metrics.json"} <= files
    study = api.compare(run.path.parent.parent)
    report = (study.path / "leaderboard.md").read_text()
    (row,) = [line for line in report.splitlines() if line.startswith("| 1 ")]
    assert "nan" not in row
    assert "| - |" in row, "no FLOPs, no time"
    evaluation = api.evaluate([f"run={run.path}", f"data.root='{tiny}'", "data=folder",
                               f"out={tmp_path / 'evaluation'}"])  # fmt: skip
    assert (evaluation / "report.html").is_file()
    bundle = api.export([f"run={run.path}", f"out={tmp_path / 'bundles'}"])
    card = (bundle / "card.md").read_text()
    assert re.search(r"^[\d,]+ parameters\.$", card, re.MULTILINE), "no FLOPs"


DIVERGING = ("optimizer.lr=1e30", "trainer.gradient_clip_val=null")


def test_a_training_that_diverges_fails_and_is_not_resumed(tiny: Path, tmp_path: Path) -> None:
    words = [*QUICK, f"data.root={tiny}", *DIVERGING, "trainer.precision=bf16-mixed"]
    first = run_command(tmp_path, *words)
    assert first.code == 1
    assert re.search(
        r"The training of runs/.*/fold=0 diverged: its loss is (nan|inf) in epoch 1\. Lower "
        r"optimizer\.lr \(it is 1e\+30\) or set trainer\.gradient_clip_val=1\.0 or set t",
        first.err,
    )
    assert "Traceback" not in first.err
    (run,) = (file.parent for file in tmp_path.glob("runs/*/*/*/record.json"))
    assert not (run / "metrics.json").exists()
    assert not list((run / "checkpoints").glob("*"))
    again = run_command(tmp_path, *words)
    assert again.code == 1
    assert "diverged: its loss is" in again.err
    assert "epoch 1/3" not in again.err, "it was not trained again"
    compared = run_command(tmp_path, "runs/Bilder_1", verb="compare")
    assert re.search(r"fold 0 diverged \(its loss is (nan|inf) in epoch 1: ", compared.err)
    over = run_command(tmp_path, *words, "overwrite=true")
    assert "deleting the contents" in over.err
    assert over.code == 1


def test_a_sweep_goes_on_past_a_training_that_diverges(tiny: Path, tmp_path: Path) -> None:
    words = [*QUICK, f"data.root={tiny}", "optimizer.lr=1e30,1e-3", "trainer.max_epochs=1"]
    result = run_command(tmp_path, "-m", *words)
    assert result.code == 1
    assert "1 of 2 jobs of the sweep failed" in result.err
    assert len(list(tmp_path.glob("runs/*/*/fold=0/metrics.json"))) == 1
    assert len(list(tmp_path.glob("runs/*/*/fold=0/diverged.json"))) == 1
