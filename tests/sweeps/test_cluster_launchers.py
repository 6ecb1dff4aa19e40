"""Launchers of clusters where there is none: scripts, errors, and jobs of SLURM on this machine.

`tests/cluster/` runs sweeps on real ones.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK, run_command
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from submitit import SlurmExecutor

from signlang import hydra_app, system
from signlang.errors import SettingError
from signlang.sweeps.slurm import SlurmLauncher


def launcher(place: Path, *words: str) -> SlurmLauncher:
    """The launcher that a command line chooses, with its folder in a place."""
    chosen = ["hydra/launcher=slurm", f"hydra.launcher.folder={place}", *words]
    with initialize_config_dir(str(hydra_app.CONF), version_base="1.3"):
        cfg = compose("train", overrides=chosen, return_hydra_config=True)
    node = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    assert isinstance(node, dict)
    node.pop("_target_")
    return SlurmLauncher(**{str(key): value for key, value in node.items()})


@pytest.fixture
def with_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search path on which submitit finds the programs of SLURM; they do nothing."""
    for name in ("srun", "sbatch", "sacct"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)


@pytest.mark.usefixtures("with_slurm")
def test_settings_become_the_script_of_the_jobs(tmp_path: Path) -> None:
    executor = launcher(
        tmp_path, "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1",
        "hydra.launcher.cpus_per_task=3", "hydra.launcher.timeout_min=90",
        "hydra.launcher.mem_gb=8", "hydra.launcher.setup=[module load cuda]",
        "hydra.launcher.additional_parameters={reservation: lab}",
        "+hydra.launcher.constraint=a100",
    ).build_executor()  # fmt: skip
    inner = executor._executor
    assert isinstance(inner, SlurmExecutor)
    script = inner._make_submission_file_text("COMMAND", "")
    options = {line for line in script.splitlines() if line.startswith("#SBATCH")}
    assert options >= {
        "#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --cpus-per-task=3",
        "#SBATCH --time=90", "#SBATCH --mem=8GB", "#SBATCH --reservation=lab",
        "#SBATCH --constraint=a100", "#SBATCH --signal=USR2@120", "#SBATCH --open-mode=append",
    }  # fmt: skip
    assert not [line for line in options if "account" in line or "qos" in line]
    *_, setup, rest = script.partition("module load cuda\n")
    assert setup
    (run,) = [line for line in rest.splitlines() if line.startswith("srun ")]
    assert "--cpus-per-task=3" in run, "srun does not take it from sbatch"


@pytest.mark.usefixtures("with_slurm")
def test_a_setting_that_submitit_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Unknown argument 'colour'"):
        launcher(tmp_path, "+hydra.launcher.colour=red").build_executor()
    with pytest.raises(SettingError, match='"timeout_min" expected type'):
        launcher(tmp_path, "hydra.launcher.timeout_min=soon").build_executor()


def test_a_machine_without_slurm_is_told_so(tiny: Path, tmp_path: Path) -> None:
    words = ("-m", "hydra/launcher=slurm", *QUICK, f"data.root={tiny}", "fold=0,1")
    result = run_command(tmp_path, *words, PATH=str(tmp_path))
    assert result.code == 2
    assert "hydra/launcher=slurm needs SLURM, and there is no sbatch here" in result.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "Ray")])
def test_a_missing_extra_is_named(name: str, package: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['ray'] = sys.modules['submitit'] = None\n"  # as if not installed
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = ("-m", f"hydra/launcher={name}", *QUICK, f"data.root={tiny}", "fold=0,1")
    result = run_command(tmp_path, *words, PYTHONPATH=path)
    assert result.code == 2
    wanted = f'hydra/launcher={name} needs {package}: pip install "signlang[cluster]".'
    assert result.err.strip() == wanted


@pytest.mark.parametrize(("given", "count"), [("1", 1), ("100000", None), ("", None), ("x", None)])
def test_a_task_of_slurm_uses_the_processors_that_it_was_given(
    given: str, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    everything = system.cpu_count()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert system.cpu_count() == (count or everything)


def descendants(pid: int) -> list[int]:
    """The processes below a process, and their own."""
    below = Path(f"/proc/{pid}/task/{pid}/children")
    own = [int(word) for word in below.read_text().split()] if below.exists() else []
    return [*own, *(inner for child in own for inner in descendants(child))]


def task_of(pid: int) -> int:
    """The process below a command that works on the job of fold 0."""
    for child in descendants(pid):
        if b"submitit.core._submit" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
            return child
    raise AssertionError("no job runs")


@pytest.mark.slow
def test_jobs_fail_alone_and_resume_when_they_are_requeued(tiny: Path, tmp_path: Path) -> None:
    words = (
        "-m", "hydra/launcher=slurm", "hydra.launcher.cluster=local",
        "hydra.launcher.cpus_per_task=1", *QUICK, f"data.root={tiny}", "fold=0,7",
        "trainer.max_epochs=40", "callbacks.early_stopping=null", "callbacks.images=null",
    )  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "signlang.train", *words], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as command:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/*/fold=0/checkpoints/last.ckpt")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(task_of(command.pid), signal.SIGUSR2)  # what SLURM sends before the time limit
        _, err = command.communicate(timeout=120)
    assert command.returncode == 1, err
    assert "fold=7 failed" in err
    assert "fold=7: there are 3 folds, counted from 0 to 2." in err
    assert "fold=0: validation accuracy" in err
    assert "Traceback" not in err
    (run,) = tmp_path.glob("runs/*/*/fold=0")
    log = (run / "run.log").read_text()
    assert log.count("INFO signlang: interrupted") == log.count("resuming after epoch") == 1
    assert len((run / "history.csv").read_text().splitlines()) == 41, "each epoch once"
    assert "1 thread" in (run / "record.json").read_text()
    assert (run.parents[1] / "leaderboard.csv").is_file(), "compared although a job failed"
    assert not list((run.parents[1] / ".submitit").glob("*.pkl"))
