"""A run on several devices: two processes of the CPU train it as one."""

import csv
import json
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK, run_command
from started import start_anew, wait_for_epoch

from signlang import api
from signlang.data.datamodule import EpochBatchSampler
from signlang.errors import SettingError
from signlang.runs.ranks import slurm_rank

# the last epoch is tested, in float32, as it was trained: bf16 where there is AMX would differ
TWO = (*QUICK, "trainer=ddp", "callbacks.checkpoint.monitor=null", "trainer.precision=32-true")
LONG = (*TWO, "trainer.max_epochs=60", "callbacks.early_stopping=null")


def run_in(place: Path) -> Path:
    (record,) = place.glob("runs/*/*/fold=0/record.json")
    return record.parent


def metrics_in(place: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_in(place) / "metrics.json").read_text())
    return content


def history_in(place: Path) -> list[dict[str, str]]:
    with (run_in(place) / "history.csv").open() as stream:
        return list(csv.DictReader(stream))


def others(place: Path) -> set[int]:
    """Processes that train along with a rank 0 that was started in a folder."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command, here = (folder / "cmdline").read_bytes(), (folder / "cwd").readlink()
            if b"ranks.follow_parent" in command and here == place:
                found.add(int(folder.name))
    return found


def test_two_processes_train_one_run(tiny: Path, tmp_path: Path) -> None:
    result = run_command(tmp_path, *TWO, f"data.root={tiny}")
    assert result.code == 0, result.err
    assert not others(tmp_path), "no process is left"
    run, metrics, history = run_in(tmp_path), metrics_in(tmp_path), history_in(tmp_path)
    assert len(history) == metrics["epochs"] == 3
    # two processes have counted each image once: one process that tests finds the same
    for name in ("accuracy", "loss", "macro_f1", "calibration_error"):
        together = float(history[-1][f"validation/{name}"])
        assert together == pytest.approx(metrics["validation"][name], abs=1e-5), name
    with (run / "predictions.csv").open() as stream:
        tested = [row["path"] for row in csv.DictReader(stream)]
    assert len(tested) == len(set(tested)) == 12
    assert json.loads((run / "record.json").read_text())["settings"]["trainer.devices"] == 2
    assert len(list(run.glob("events*"))) == 3, "as many as one process writes"
    assert "sync_dist" not in (run / "run.log").read_text()


def batches(size: int, rank: int, processes: int, count: int, epoch: int = 0) -> list[list[int]]:
    sampler = EpochBatchSampler(
        np.arange(count), size, 7, lambda: epoch, rank=rank, processes=processes
    )
    found = [rows.tolist() for _, rows in sampler]
    assert len(found) == len(sampler)
    return found


@pytest.mark.parametrize(("count", "processes"), [(40, 2), (41, 2), (43, 4), (34, 2), (33, 2)])
def test_processes_have_equal_parts_of_the_batches_of_one(count: int, processes: int) -> None:
    parts = [batches(8, rank, processes, count) for rank in range(processes)]
    assert len({len(part) for part in parts}) == 1, "each process has as many batches"
    for together in zip(*parts, strict=True):
        assert len({len(rows) for rows in together}) == 1, "of the same size"
        assert len(together[0]) > 1, "batch normalization needs more than one image"
    alone = batches(8, 0, 1, count)
    rows = [row for part in parts for some in part for row in some]
    assert len(rows) == len(set(rows)) == count // processes * processes
    first = [sorted(row for part in parts for row in part[n]) for n in range(2)]
    assert first == [sorted(alone[n]) for n in range(2)]


def test_processes_validate_different_images_and_augment_differently() -> None:
    rows = np.arange(300)
    parts = [EpochBatchSampler(rows, 128, rank=rank, processes=4) for rank in range(4)]
    found = [np.concatenate([rows for _, rows in part]) for part in parts]
    assert np.concatenate(found).tolist() == rows.tolist()
    seeds = [
        [seed for seed, _ in EpochBatchSampler(rows, 30, 1, lambda: 0, rank=rank, processes=2)]
        for rank in range(2)
    ]
    assert not {*seeds[0]} & {*seeds[1]}
    assert seeds[0] == [seed for seed, _ in EpochBatchSampler(rows, 30, 1, lambda: 0)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["batch_size=33"], r"batch_size=33 cannot .* 2 devices: say batch_size=32, of .* 16\."),
        (["batch_size=1"], r"say batch_size=2, of which each computes 1\."),
        (["trainer.strategy=fsdp"], r"trainer\.strategy=fsdp: .* with ddp, or ddp_find_unused"),
        (["trainer.accelerator=mps"], r"trainer\.accelerator=mps: .* on cpu or gpu only"),
        (
            ["trainer.accelerator=cpu", "trainer.sync_batchnorm=true"],
            r"sync_batchnorm=true: PyTorch has it for GPUs only",
        ),
        (["trainer.use_distributed_sampler=true"], r"sampler=true: the data module divides each"),
        (["callbacks=finetune"], r"callbacks\.finetuning thaws .* say trainer\.devices=1"),
        (["trainer.devices=0"], r"trainer\.devices=0: it must be a whole number of at least 1"),
        (["trainer.devices=auto"], r"trainer\.devices=auto: it must be a whole number of at least"),
        (["trainer.num_nodes=2"], r"num_nodes=2: SLURM starts .* srun --nodes=2 --ntasks=4 python"),
    ],
)
def test_what_cannot_work_on_two_devices_is_refused(
    tmp_path: Path, words: list[str], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        api.train(["data=folder", f"data.root={tmp_path}", "trainer=ddp", *words])
    assert not (tmp_path / "runs").exists()


def test_srun_must_start_as_many_processes_as_the_settings_name() -> None:
    environment = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "0"}
    with pytest.raises(SettingError, match=r"srun started 3 .*devices=2 .*nodes=1 needs 2: say"):
        slurm_rank({"devices": 2}, environment)


def slurm(number: int, port: int) -> dict[str, str]:
    """What `srun --ntasks=2` sets for one of its tasks."""
    return {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number), "SLURM_NODEID": "0", "SLURM_JOB_ID": str(port - 15000),
        "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip


def test_tasks_of_slurm_do_not_each_run_a_sweep(tmp_path: Path) -> None:
    result = run_command(tmp_path, "-m", *TWO, "data=synthetic", "fold=0,1", **slurm(0, 15001))
    assert result.code == 2, result.err
    assert "srun started 2 processes, and each would run the whole sweep" in result.err


def outcome(place: Path) -> tuple[Any, Any, bytes]:
    metrics = metrics_in(place)
    return metrics["test"], metrics["validation"], (run_in(place) / "predictions.csv").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("uninterrupted")
    result = run_command(place, *LONG, f"data.root={tiny}", "augment=digits")
    assert result.code == 0, result.err
    return outcome(place)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_which_is_then_resumed(
    tiny: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    words = (*LONG, f"data.root={tiny}", "augment=digits")
    process = start_anew(tmp_path, *words)
    wait_for_epoch(tmp_path, 3, process)
    (other,) = others(tmp_path)
    killed = time.monotonic()
    os.kill(other, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - killed < 15
    assert process.returncode == 1
    assert re.search(r"Process 2 of the 2 that train this run was killed by signal SIGKILL", errors)
    assert "The same command resumes the run." in errors
    assert "Traceback" not in errors
    assert not others(tmp_path)
    again = run_command(tmp_path, *words)
    assert again.code == 0, again.err
    assert "resuming after epoch" in again.err
    assert outcome(tmp_path) == uninterrupted, "as if it had not been killed"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_ends_takes_its_processes_with_it(
    tiny: Path, tmp_path: Path, uninterrupted: Any, number: signal.Signals
) -> None:
    words = (*LONG, f"data.root={tiny}", "augment=digits")
    process = start_anew(tmp_path, *words)
    wait_for_epoch(tmp_path, 3, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    deadline = time.monotonic() + 15
    while others(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not others(tmp_path)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert re.search(
            r"Interrupted after \d+ finished epochs\. The same command resumes", errors
        )
    again = run_command(tmp_path, *words)
    assert again.code == 0, again.err
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow
def test_a_fault_of_another_process_alone_is_told(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        "from pytorch_lightning import Callback\n\n\n"
        "class Faulty(Callback):\n"
        "    def on_train_epoch_end(self, trainer, pl_module):\n"
        "        if trainer.global_rank == 1:\n"
        "            raise ValueError('no luck')\n"
    )
    result = run_command(
        tmp_path, *TWO, f"data.root={tiny}", "+callbacks.faulty._target_=faulty.Faulty"
    )
    assert result.code == 1
    assert "Process 2 of the 2 that train this run failed with exit code 1. It wrote:" in result.err
    assert "ValueError: no luck" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["serial", "local"])
def test_two_processes_train_each_run_of_a_sweep(tiny: Path, tmp_path: Path, launcher: str) -> None:
    result = run_command(
        tmp_path, "-m", *TWO, f"data.root={tiny}", "fold=0,1,2", f"hydra/launcher={launcher}"
    )
    assert result.code == 0, result.err
    files = sorted(tmp_path.glob("runs/*/*/*/metrics.json"))
    assert len(files) == 3
    assert len({file.parent.parent for file in files}) == 1
    assert not others(tmp_path)


@pytest.mark.slow
def test_two_tasks_of_slurm_train_one_run(tiny: Path, tmp_path: Path) -> None:
    words, port = (*TWO, f"data.root={tiny}"), 15000 + os.getpid() % 10000
    for finished in (False, True):
        tasks = [start_anew(tmp_path, *words, **slurm(n, port)) for n in (1, 0)]
        errors = [task.communicate(timeout=120)[1] for task in tasks]
        assert [task.returncode for task in tasks] == [0, 0], errors
        assert errors[0] == "", "only the first one writes"
        assert ("is finished already" in errors[1]) == finished
    assert len(history_in(tmp_path)) == 3
    alone = tmp_path / "alone"
    alone.mkdir()
    result = run_command(alone, *words)
    assert result.code == 0, result.err
    assert outcome(tmp_path) == outcome(alone), "whoever starts the processes"
