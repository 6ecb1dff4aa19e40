"""A sweep on a Ray cluster that is started here, a worker of which is killed."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
from cluster_sweep import LOCALLY, PATIENCE, Sweep

pytestmark = [
    pytest.mark.slow,  # minutes: a cluster, and twelve runs
    pytest.mark.skipif(find_spec("ray") is None, reason='no ray: pip install "signlang[cluster]"'),
]


@pytest.fixture(scope="module")
def token() -> Mapping[str, str]:
    """What the processes of a cluster and its users must share, made for this one."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture(scope="module")
def address(token: Mapping[str, str]) -> Iterator[str]:
    """The address of a cluster of two processors, beside this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = (
        "start", "--head", "--block", f"--port={address.partition(':')[2]}", "--num-cpus=2",
        "--include-dashboard=false", "--disable-usage-stats",
    )  # fmt: skip
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), *words], start_new_session=True,
        env={**os.environ, **token, "SLOW": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as cluster:  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not _listens(address):
            assert time.monotonic() < deadline
            assert cluster.poll() is None
            time.sleep(0.2)
        yield address
        cluster.terminate()  # and with it all of its processes


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0


def worker_in(folder: Path) -> int:
    """The worker that has the log of a run open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [file.readlink() for file in (process / "fd").iterdir()]
        except OSError:
            continue
        if folder / "run.log" in files:
            return int(process.name)
    raise AssertionError(f"nobody is at work in {folder}")


def test_a_sweep_on_ray_survives_a_killed_worker(
    address: str, token: Mapping[str, str], tiny: Path, tmp_path: Path
) -> None:
    local = Sweep(tmp_path / "local", tiny, {})
    assert local.run(*LOCALLY).code == 0
    sweep = Sweep(tmp_path / "ray", tiny, token)
    with sweep.begun("hydra/launcher=ray", f"hydra.launcher.address={address}") as command:
        sweep.wait_for_epochs(3, ("0.001", 0))
        os.kill(worker_in(sweep.folder("0.001", 0)), signal.SIGKILL)
        _, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, err
    assert "[6/6, done]" in err
    assert "Traceback" not in err
    assert "resuming after epoch" in sweep.log("0.001", 0)
    assert sweep.epochs("0.001", 0) == 30, "each epoch was trained once"
    assert sweep.files("predictions.csv") == local.files("predictions.csv")
    assert len(sweep.files("predictions.csv")) == 6
    assert sweep.accuracies() == local.accuracies()


def test_ray_on_this_machine_tells_of_jobs_that_fail_and_ends_with_the_sweep(
    token: Mapping[str, str], tiny: Path, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path / "ray", tiny, token)
    result = sweep.run(
        "hydra/launcher=ray", "fold=0,7", "optimizer.lr=0.003", "trainer.max_epochs=2"
    )
    assert result.code == 1
    assert "fold=7: there are 3 folds, counted from 0 to 2." in result.err
    assert "fold=0: validation accuracy" in result.err
    assert "Traceback" not in result.err
