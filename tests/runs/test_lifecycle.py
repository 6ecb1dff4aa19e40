"""What is known of a run before and after its training, without torch."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import Timer

from signlang import api, validation
from signlang.components import instantiate_component
from signlang.errors import RunError, SettingError
from signlang.runs import lifecycle
from signlang.runs.folder import RunFolder
from signlang.runs.identity import fingerprint, settings_of
from signlang.runs.lifecycle import (
    fold_of,
    metrics_of_trained_run,
    plain,
    read_fold,
    run_folder,
    show_metrics,
    started_run,
)


@pytest.fixture
def words(tiny: Path, tmp_path: Path) -> list[str]:
    return [
        "data=folder", f"data.root='{tiny}'", "model=simple_cnn", "study=s", "folds=3", "fold=1",
        f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "split.validation=0.25",
        "batch_size=6", "model.pretrained=false", "balance=none",
    ]  # fmt: skip


@pytest.fixture
def cfg(words: list[str]) -> Iterator[DictConfig]:
    with api.composed("train", words) as whole:
        composed = api.without_hydra(whole)
        composed.run_folder = str(run_folder(composed, words).path)
        yield composed


def finish(cfg: DictConfig, **more: Any) -> dict[str, Any]:
    """Write the metrics of a run that was started."""
    wanted = fingerprint(settings_of(cfg), fold_of(cfg).index.fingerprint)
    metrics = {"fingerprint": wanted, "epochs": 7, **more}
    RunFolder(Path(cfg.run_folder)).path.mkdir(parents=True, exist_ok=True)
    (Path(cfg.run_folder) / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def test_nodes_are_resolved_where_they_refer_to_others() -> None:
    cfg = OmegaConf.create({"a": 1, "inner": {"b": "${a}", "c": [1, "${a}"]}})
    assert plain(cfg.inner) == {"b": 1, "c": [1, 1]}


def test_a_run_has_the_folder_of_its_study_choice_and_fold(
    cfg: DictConfig, words: list[str], tmp_path: Path
) -> None:
    folder = run_folder(cfg, [*words, "optimizer.lr=0.5"]).path
    assert folder.parent.parent == tmp_path / "runs" / "s"
    assert "+lr=0.5" in folder.parent.name
    assert folder.name == "fold=1"


def test_metrics_are_those_of_the_same_settings_and_data(cfg: DictConfig, words: list[str]) -> None:
    assert metrics_of_trained_run(cfg, words) is None
    metrics = finish(cfg)
    assert metrics_of_trained_run(cfg, words) == metrics
    cfg.overwrite = True
    assert metrics_of_trained_run(cfg, words) is None
    cfg.overwrite = False
    cfg.seed = 5
    assert metrics_of_trained_run(cfg, words) is None  # of other settings
    cfg.seed = 0
    finish(cfg, fingerprint="of other data")
    assert metrics_of_trained_run(cfg, words) is None


def test_what_is_wrong_with_a_run_is_left_for_its_own_log(
    cfg: DictConfig, words: list[str], tmp_path: Path
) -> None:
    finish(cfg)
    cfg.data.root = str(tmp_path / "nowhere")
    assert metrics_of_trained_run(cfg, words) is None
    (Path(cfg.run_folder) / "metrics.json").write_text("{")
    assert metrics_of_trained_run(cfg, words) is None


def test_a_source_of_ones_own_is_not_imported_to_ask(
    cfg: DictConfig, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(cfg)
    cfg.data.source["_target_"] = "my_sources.mine"
    monkeypatch.setattr(lifecycle, "fold_of", lambda cfg: pytest.fail("it was read"))
    monkeypatch.setattr(validation, "check_train_config", lambda cfg: None)
    assert metrics_of_trained_run(cfg, words) is None


def test_a_started_run_has_its_record_data_and_settings(
    cfg: DictConfig, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        images = read_fold(cfg)
    assert (
        "Bilder_1: 36 images of 3 classes by 6 signers; fold 1 of 3 (stratified): 18 train, "
        "6 validation, 12 test" in caplog.text
    )
    with started_run(cfg, images, words) as folder:
        assert folder.path == Path(cfg.run_folder)
        record = folder.record()
    assert record is not None
    assert {key: record["data"][key] for key in ("images", "classes", "excluded", "test")} == {
        "images": 36, "classes": 3, "excluded": 0, "test": 12,
    }  # fmt: skip
    assert record["overrides"] == words
    assert len(folder.images) == 36
    assert OmegaConf.load(folder.path / ".hydra" / "overrides.yaml") == words
    assert OmegaConf.load(folder.path / ".hydra" / "config.yaml").run_folder == cfg.run_folder
    finish(cfg)
    (folder.path / "record.json").unlink()
    with started_run(cfg, images, words) as again:
        assert again.record() is None  # finished: nothing is written


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, r"Interrupted after 2 finished epochs\. The same"),
        (SystemExit(1), KeyboardInterrupt, r"Interrupted after 2 finished epochs\. The same"),
        (SettingError("the rate"), SettingError, "^the rate$"),
        (OSError(28, "No space left", "x.ckpt"), RunError, "The disk is full: x.ckpt was not wr"),
        (OSError(2, "No such file", "x"), RunError, r"The run failed: FileNotFoundError: .*'x'"),
        (ValueError("shapes"), RunError, "The run failed: ValueError: shapes\nThe traceback is in"),
    ],
)
def test_a_run_that_ends_early_says_why_in_one_sentence(
    cfg: DictConfig, words: list[str], error: BaseException, kind: type[BaseException],
    sentence: str,
) -> None:  # fmt: skip
    def fail() -> None:
        with started_run(cfg, fold_of(cfg), words) as folder:
            (folder.path / "history.csv").write_text("epoch\n0\n1\n")
            raise error

    with pytest.raises(kind, match=sentence):
        fail()
    log = (Path(cfg.run_folder) / "run.log").read_text("utf-8")
    assert "Traceback" in log
    assert type(error).__name__ in log


def machine(monkeypatch: pytest.MonkeyPatch, *, bf16: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": bf16})


def start(cfg: DictConfig, words: list[str]) -> tuple[dict[str, Any], str]:
    """Start a run as the command does each time; its record, and the precision that trains."""
    again = cfg.copy()
    again.trainer.precision = "auto"
    with started_run(again, fold_of(again), words) as folder:
        record = folder.record()
    assert record is not None
    return record, str(again.trainer.precision)


@pytest.fixture
def on_processor(cfg: DictConfig) -> DictConfig:
    cfg.trainer.accelerator = "cpu"
    return cfg


@pytest.mark.parametrize(("bf16", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_the_precision_that_auto_becomes_is_part_of_a_run(
    on_processor: DictConfig, words: list[str], monkeypatch: pytest.MonkeyPatch,
    bf16: bool, chosen: str,
) -> None:  # fmt: skip
    machine(monkeypatch, bf16=bf16)
    record, trained = start(on_processor, words)
    assert record["settings"]["trainer.precision"] == trained == chosen
    on_processor.trainer.precision = chosen  # to ask for it by name is the same run
    assert (
        fingerprint(settings_of(on_processor), record["data"]["fingerprint"])
        == (record["fingerprint"])
    )


def test_a_finished_run_is_finished_on_every_machine(
    on_processor: DictConfig, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, bf16=True)
    record, _ = start(on_processor, words)
    metrics = {"fingerprint": record["fingerprint"]}
    folder = RunFolder(Path(on_processor.run_folder))
    folder.finish(metrics)
    machine(monkeypatch, bf16=False)
    assert metrics_of_trained_run(on_processor, words) == folder.metrics()
    start(on_processor, words)
    assert folder.record() == record


def test_a_run_keeps_its_precision_on_a_better_machine_and_says_so(
    on_processor: DictConfig, words: list[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    machine(monkeypatch, bf16=False)
    start(on_processor, words)
    machine(monkeypatch, bf16=True)
    with caplog.at_level(logging.INFO):
        _, trained = start(on_processor, words)
    assert trained == "32-true"
    assert "trainer.precision=auto: 32-true, in which the run was started" in caplog.text


def test_a_run_is_not_resumed_where_its_precision_is_emulated(
    on_processor: DictConfig, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, bf16=True)
    start(on_processor, words)
    machine(monkeypatch, bf16=False)
    with pytest.raises(RunError, match=r"was started in bf16-mixed on .* only emulates: resume it"):
        start(on_processor, words)
    on_processor.overwrite = True
    assert start(on_processor, words)[1] == "32-true"


def test_a_run_of_before_goes_on_in_the_precision_of_the_machine(
    on_processor: DictConfig, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, bf16=True)
    record, _ = start(on_processor, words)
    old = settings_of(on_processor)
    assert old["trainer.precision"] == "auto"
    record |= {"settings": old, "fingerprint": fingerprint(old, record["data"]["fingerprint"])}
    file = Path(on_processor.run_folder) / "record.json"
    file.write_text(json.dumps(record))
    assert start(on_processor, words) == (record, "bf16-mixed")


def test_a_run_that_is_resumed_elsewhere_says_what_is_other(
    on_processor: DictConfig, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    record, _ = start(on_processor, words)
    folder = RunFolder(Path(on_processor.run_folder))
    folder.last.parent.mkdir()
    folder.last.write_bytes(b"an epoch")
    start(on_processor, words)
    assert "resumed on" not in caplog.text
    torch_then = record["packages"]["torch"]
    record["processor"], record["packages"]["torch"] = "Abacus, two beads", "1.0"
    (folder.path / "record.json").write_text(json.dumps(record))
    start(on_processor, words)
    (line,) = (line for line in caplog.messages if "resumed on" in line)
    assert "another machine or version: processor: Abacus, two beads there, " in line
    assert line.endswith(f"; torch: 1.0 there, {torch_then} now")
    assert line in folder.log.read_text("utf-8")


METRICS = {
    "model": "cnn", "data": "signs", "fold": 1, "folds": 5, "split": "signer", "epochs": 3,
    "protocol": "test fold untouched", "seconds": 12.6, "images_per_second": 99.6,
    "test": {"accuracy": 0.91234, "macro_f1": 0.9, "calibration_error": 0.0312},
    "cost": {"parameters": 1234567, "flops": 2_345_678_900, "size_mb": 4.94, "latency_ms": 3.21},
}  # fmt: skip


def test_metrics_of_a_run_are_shown_in_units_of_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(lifecycle, "show_table", lambda *table: shown.extend(table))
    path = tmp_path / "runs" / "study" / "cnn" / "fold=1"
    show_metrics(RunFolder(path), METRICS)
    title, table, paths = shown
    assert title == "cnn on signs, fold 1 of 5 (signer split, test fold untouched)"
    assert table == {
        "test accuracy": "0.9123",
        "test macro F1": "0.9000",
        "test calibration error": "0.0312",
        "parameters": "1,234,567",
        "FLOPs (fvcore, multiply-add = 1)": "2,345.68 M",
        "size": "4.9 MB",
        "time per image (1 thread)": "3.21 ms",
        "training": "3 epochs, 13 s, 100 images/s",
    }
    assert paths == {
        "run folder": str(path),
        "dashboards": f"tensorboard --logdir {tmp_path / 'runs' / 'study'}",
    }


def test_what_is_doubtful_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(lifecycle, "show_table", lambda *table: shown.extend(table))
    cost = {**METRICS["cost"], "latency_alone": False}  # type: ignore[dict-item]
    show_metrics(RunFolder(tmp_path), {**METRICS, "cost": cost, "remarks": ["It predicts [a]."]})
    assert shown[1]["time per image (1 thread)"] == "3.21 ms, measured beside other jobs"
    assert shown[1]["warning"] == r"It predicts \[a]."


def test_components_are_of_the_kind_that_is_asked_for() -> None:
    node = OmegaConf.create({"_target_": "pytorch_lightning.callbacks.Timer"})
    assert isinstance(instantiate_component(node, Callback, "callbacks.timer"), Timer)
    counter = OmegaConf.create({"_target_": "collections.Counter"})
    with pytest.raises(SettingError, match=r"callbacks\.c: collections\.Counter returns Counter, "):
        instantiate_component(counter, Callback, "callbacks.c")
    with pytest.raises(SettingError, match=r"callbacks\.t: .*Timer refuses its settings: .*'x'"):
        instantiate_component(node, Callback, "callbacks.t", x=1)
