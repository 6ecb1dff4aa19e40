"""An interrupted run, resumed by the same command, ends as the uninterrupted one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from boards import events_of, hparams_page
from conftest import QUICK, run_command
from started import start, wait_for_epoch
from typist import Command

EPOCHS = 12


def overrides(tiny: Path, *more: str) -> list[str]:
    return [
        *QUICK, f"data.root={tiny}", "augment=digits", f"trainer.max_epochs={EPOCHS}",
        "batch_size=2", *more,
    ]  # fmt: skip


def run_in(place: Path) -> Path:
    return next(place.glob("runs/*/*/fold=0"))


def outcome(place: Path) -> tuple[Any, Any, bytes, list[str]]:
    """What must not depend on interruptions: metrics, predictions, and the history of epochs."""
    run = run_in(place)
    metrics = json.loads((run / "metrics.json").read_text())
    history = (run / "history.csv").read_text().splitlines()
    epochs = [",".join(line.split(",")[:-2]) for line in history]  # without seconds and speed
    predictions = (run / "predictions.csv").read_bytes()
    return metrics["test"], metrics["validation"], predictions, epochs


def epochs_of(place: Path) -> int:
    return len((run_in(place) / "history.csv").read_text().splitlines()) - 1


@pytest.fixture(scope="module")
def uninterrupted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("uninterrupted")
    result = run_command(place, *overrides(tiny))
    assert result.code == 0, result.err
    return outcome(place)


def test_killed_and_resumed_twice_is_as_if_never_killed(
    tiny: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    for epochs, pause in ((2, 0.0), (6, 0.07)):
        process = start(tmp_path, *overrides(tiny))
        wait_for_epoch(tmp_path, epochs, process)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (run_in(tmp_path) / "metrics.json").exists()
    result = run_command(tmp_path, *overrides(tiny))
    assert result.code == 0, result.err
    assert "resuming after epoch" in result.err
    assert outcome(tmp_path) == uninterrupted
    events = events_of(run_in(tmp_path))
    each = [*range(epochs_of(tmp_path))]  # the curves go on, and no epoch is there twice
    for tag in ("accuracy/train", "loss/validation", "speed/images_per_second"):
        assert [point.step for point in events.Scalars(tag)] == each
    assert [i.step for i in events.Images("training/validation mistakes")] == each
    assert len(hparams_page(run_in(tmp_path))[1]) == 1


@pytest.mark.parametrize(("way", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_says_how_to_resume(
    tiny: Path, tmp_path: Path, uninterrupted: Any, way: signal.Signals, code: int
) -> None:
    process = start(tmp_path, *overrides(tiny))
    wait_for_epoch(tmp_path, 3, process)
    process.send_signal(way)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Stopping after this batch; once more ends at once." in err
    assert "The same command resumes it." in err
    assert "Traceback" not in err
    result = run_command(tmp_path, *overrides(tiny))
    assert result.code == 0, result.err
    assert outcome(tmp_path) == uninterrupted


SLOW = """
import pathlib
import time

import pytorch_lightning as pl


class Slow(pl.Callback):
    def on_PHASE_batch_start(self, *_):
        pathlib.Path("begun").touch()
        time.sleep(SECONDS)
"""


def start_slow(tiny: Path, place: Path, phase: str, seconds: float) -> tuple[Command, list[str]]:
    """Start a run, and wait until it is in the middle of a batch that takes long."""
    (place / "slow.py").write_text(SLOW.replace("PHASE", phase).replace("SECONDS", str(seconds)))
    words = overrides(tiny, "+callbacks.slow._target_=slow.Slow", "trainer.max_epochs=2")
    process = start(place, *words)
    wait_for_file(place / "begun", process)
    return process, words


def wait_for_file(file: Path, process: "Command | subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    assert file.exists(), process.communicate()[1]


@pytest.mark.parametrize("phase", ["train", "validation", "test"])
def test_the_first_ctrl_c_lets_a_batch_of_any_subset_end(
    tiny: Path, tmp_path: Path, phase: str
) -> None:
    process, words = start_slow(tiny, tmp_path, phase, 0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.index("Stopping after this batch") < err.index("\nInterrupted")
    assert "Traceback" not in err
    assert not (run_in(tmp_path) / "metrics.json").exists()
    result = run_command(tmp_path, *words)
    assert result.code == 0, result.err


def test_the_second_ctrl_c_ends_at_once(tiny: Path, tmp_path: Path) -> None:
    process, _ = start_slow(tiny, tmp_path, "train", 60)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.endswith("Stopping after this batch; once more ends at once.\nInterrupted.\n")


@pytest.mark.parametrize("verb", ["train", "export", "predict"])
def test_ctrl_c_while_modules_are_imported_leaves_no_trace(tmp_path: Path, verb: str) -> None:
    code = "import pathlib, time; pathlib.Path('begun').touch(); time.sleep(60)"
    for package in ("hydra", "pydantic"):  # instead of the real ones
        (tmp_path / f"{package}.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "-m", f"signlang.{verb}"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    wait_for_file(tmp_path / "begun", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "Interrupted.\n")


def test_epochs_that_are_not_the_best_are_kept_too(tiny: Path, tmp_path: Path) -> None:
    rising = ("callbacks.checkpoint.monitor=learning_rate", "callbacks.checkpoint.mode=min",
              "callbacks.one_cycle.warm_up=0.99")  # fmt: skip
    command = overrides(tiny, *rising)
    process = start(tmp_path, *command)
    wait_for_epoch(tmp_path, 5, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    (finished,) = re.findall(r"Interrupted after (\d+) finished epochs", err)
    assert torch.load(run_in(tmp_path) / "checkpoints" / "best.ckpt")["epoch"] == 0
    for file in run_in(tmp_path).glob("events.*"):  # as if killed before it was logged
        file.unlink()
    result = run_command(tmp_path, *command)
    assert result.code == 0, result.err
    assert f"resuming after epoch {finished}," in result.err
    steps = [point.step for point in events_of(run_in(tmp_path)).Scalars("accuracy/train")]
    assert steps == [*range(int(finished) - 1, epochs_of(tmp_path))]


def test_a_second_process_leaves_the_folder_alone(tiny: Path, tmp_path: Path) -> None:
    long = overrides(tiny, "trainer.max_epochs=4000", "callbacks.early_stopping=null")
    process = start(tmp_path, *long)
    wait_for_epoch(tmp_path, 1, process)
    result = run_command(tmp_path, *long)
    assert result.code == 1
    assert "Another process is at work in" in result.err
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_run_stopped_early_stays_stopped(tiny: Path, tmp_path: Path) -> None:
    command = overrides(
        tiny, "callbacks.early_stopping.patience=1", "callbacks.early_stopping.standard_errors=0"
    )
    assert run_command(tmp_path, *command).code == 0
    before = outcome(tmp_path)
    assert len(before[3]) < EPOCHS  # it did stop early
    (run_in(tmp_path) / "metrics.json").unlink()  # as if killed between training and testing
    (run_in(tmp_path) / "history.csv").unlink()  # its rows are in last.ckpt too
    assert run_command(tmp_path, *command).code == 0
    assert outcome(tmp_path) == before


def test_a_damaged_last_checkpoint_starts_again(
    tiny: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    assert run_command(tmp_path, *overrides(tiny)).code == 0
    run = run_in(tmp_path)
    (run / "metrics.json").unlink()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"half a file")
    result = run_command(tmp_path, *overrides(tiny))
    assert result.code == 0, result.err
    assert "is damaged" in result.err
    assert outcome(tmp_path) == uninterrupted


def test_a_damaged_history_is_rewritten(tiny: Path, tmp_path: Path, uninterrupted: Any) -> None:
    process = start(tmp_path, *overrides(tiny))
    wait_for_epoch(tmp_path, 6, process)
    process.kill()
    process.wait()
    history = run_in(tmp_path) / "history.csv"
    history.write_bytes(history.read_bytes()[:300] + bytes(9))
    result = run_command(tmp_path, *overrides(tiny))
    assert result.code == 0, result.err
    assert outcome(tmp_path) == uninterrupted


def test_a_run_started_without_history_resumes(tiny: Path, tmp_path: Path) -> None:
    process = start(tmp_path, *overrides(tiny))
    wait_for_epoch(tmp_path, 6, process)
    process.kill()
    process.wait()
    last = run_in(tmp_path) / "checkpoints" / "last.ckpt"
    state = torch.load(last)
    del state["history"]  # as with callbacks.history=null
    torch.save(state, last)
    result = run_command(tmp_path, *overrides(tiny))
    assert result.code == 0, result.err
    epochs = [row.split(",")[0] for row in outcome(tmp_path)[3][1:]]
    assert epochs == [str(epoch) for epoch in range(state["epoch"] + 1, EPOCHS)]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(tiny: Path, tmp_path: Path, uninterrupted: Any) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        result = run_command(tmp_path, *overrides(tiny, f"runs_dir={disk}"))
        assert result.code == 1
        assert "The disk is full" in result.err
        assert "Traceback" not in result.err
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        result = run_command(tmp_path, *overrides(tiny, f"runs_dir={disk}"))
        assert result.code == 0, result.err
        (tmp_path / "runs").symlink_to(disk)
        assert outcome(tmp_path) == uninterrupted
    finally:
        subprocess.run(["umount", str(disk)], check=True)
