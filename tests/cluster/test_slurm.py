"""Sweeps on a SLURM of one node, started here: jobs that are lost, stopped and preempted."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cluster_sweep import LOCALLY, PATIENCE, Sweep
from start_slurm import reason_against, running_slurm

pytestmark = [
    pytest.mark.slow,  # minutes: no time limit of SLURM is below one
    pytest.mark.skipif(bool(reason_against()), reason=reason_against()),
]
ON_SLURM = (
    "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1",
    "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment variables of a cluster."""
    with running_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def process_of(task: int) -> int:
    """The process that works on a job of an array."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_job = b"submitit.core._submit" in words and b"srun" not in words
        if is_job and f"SLURM_ARRAY_TASK_ID={task}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"no process works on job {task}")


def test_jobs_that_are_cancelled_killed_and_stopped_leave_the_study_of_a_local_sweep(
    cluster: Mapping[str, str], tiny: Path, tmp_path: Path
) -> None:
    local = Sweep(tmp_path / "local", tiny, {})
    assert local.run(*LOCALLY).code == 0
    sweep = Sweep(tmp_path / "slurm", tiny, {**cluster, "SLOW": "1"})
    # jobs are numbered as a local sweep runs them: the last key varies fastest
    cancelled, killed, stopped = 0, 2, 4
    with sweep.begun(*ON_SLURM) as command:
        sweep.wait_for_epochs(3, ("0.001", 0), ("0.001", 1))
        array = sweep.call("squeue", "-h", "-o", "%F").split()[0]
        sweep.call("scancel", f"{array}_{cancelled}")
        os.kill(process_of(killed), signal.SIGKILL)
        _, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 1, err
    assert f"its job {array}_{cancelled} ended as CANCELLED" in err
    assert f"its job {array}_{killed} ended as FAILED" in err
    assert "2 of 6 jobs of the sweep failed" in err
    assert "Traceback" not in err
    assert len(sweep.files("metrics.json")) == 4

    log = sweep.log("0.001", 2)
    jobs = (sweep.place / "runs" / "Bilder_1" / ".submitit").glob(f"{array}_{stopped}_0_log.out")
    assert "Caught signal SIGUSR2" in next(jobs).read_text()
    assert log.count("resuming after epoch") == log.count("INFO signlang: interrupted") >= 1
    assert int(log.partition("resuming after epoch ")[2].split()[0].rstrip(",.")) > 3
    assert sweep.epochs("0.001", 2) == 30, "each epoch was trained once"

    again = sweep.run(*ON_SLURM)
    assert again.code == 0, again.err
    assert "4 of 6 jobs are finished already" in again.err
    for fold in (0, 1):
        assert "resuming after epoch" in sweep.log("0.001", fold)
    assert sweep.files("predictions.csv") == local.files("predictions.csv")
    assert len(sweep.files("predictions.csv")) == 6
    assert sweep.accuracies() == local.accuracies()


def test_a_job_that_is_preempted_resumes(
    cluster: Mapping[str, str], tiny: Path, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path / "slurm", tiny, {**cluster, "SLOW": "1"})
    with sweep.begun(*ON_SLURM, "hydra.launcher.timeout_min=10", "fold=0") as command:
        sweep.wait_for_epochs(3, ("0.001", 0))
        sweep.call("srun", "-p", "urgent", "-n", str(os.cpu_count()), "true")
        _, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, err
    log = sweep.log("0.001", 0)
    assert "interrupted" in log
    assert "resuming after epoch" in log


def test_two_tasks_of_a_job_train_one_run(
    cluster: Mapping[str, str], tiny: Path, tmp_path: Path
) -> None:
    words = ("trainer.devices=2", "fold=2", "optimizer.lr=0.001")
    local = Sweep(tmp_path / "local", tiny, {})
    assert local.run(*words).code == 0
    sweep = Sweep(tmp_path / "slurm", tiny, {**cluster, "SLOW": "1"})
    done = sweep.run(*ON_SLURM, "hydra.launcher.tasks_per_node=2", *words)
    assert done.code == 0, done.err
    log = sweep.log("0.001", 2)
    assert log.count("resuming after epoch") == log.count("INFO signlang: interrupted") >= 1
    assert sweep.epochs("0.001", 2) == 30, "each epoch was trained once"
    assert sweep.files("predictions.csv") == local.files("predictions.csv")


def test_ctrl_c_cancels_the_jobs(cluster: Mapping[str, str], tiny: Path, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "slurm", tiny, {**cluster, "SLOW": "1"})
    with sweep.begun(*ON_SLURM) as command:
        sweep.wait_for_epochs(2, ("0.001", 0))
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=60)
    assert command.returncode == 130, err
    assert "of 6 jobs; the others are cancelled. The same command resumes from there." in err
    assert "INFO signlang: interrupted" in sweep.log("0.001", 0)
    assert not sweep.call("squeue", "-h").strip()


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("hydra.launcher.partition=nowhere", "invalid partition specified: nowhere"),
        ("+hydra.launcher.colour=red", "colour"),
    ],
)
def test_what_slurm_does_not_know_is_refused_in_a_sentence(
    word: str, text: str, cluster: Mapping[str, str], tiny: Path, tmp_path: Path
) -> None:
    result = Sweep(tmp_path / "slurm", tiny, cluster).run(*ON_SLURM, word)
    assert result.code == 2
    assert text in result.err
    assert "Traceback" not in result.err


def test_a_repeated_command_waits_for_the_jobs_of_one_that_was_killed(
    cluster: Mapping[str, str], tiny: Path, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path / "slurm", tiny, {**cluster, "SLOW": "1"})
    words = (*ON_SLURM, "hydra.launcher.timeout_min=10", "fold=0,1")
    with sweep.begun(*words) as command:
        sweep.wait_for_epochs(1, ("0.001", 0))
        command.kill()  # as the end of a session does
    again = sweep.run(*words)
    assert again.code == 0, again.err
    assert "jobs of an earlier command are still there: waiting for them" in again.err
    assert "submitted to SLURM" not in again.err
    assert len(sweep.files("metrics.json")) == 4
    assert "resuming" not in sweep.log("0.001", 0), "nobody disturbed it"
