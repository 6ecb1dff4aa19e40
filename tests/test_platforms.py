"""What other systems lack is taken away here: macOS's and Windows' parts of `os` and `signal`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK, ROOT, Result, run_command

from signlang.sweeps import launcher

NO_PROC = """
import builtins, io
real_open = io.open
def guarded(file, *rest, **options):
    if str(file).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return real_open(file, *rest, **options)
io.open = builtins.open = guarded
"""
MACOS = f"""{NO_PROC}
import os
real_sysconf = os.sysconf
def sysconf(name):
    if name == "SC_AVPHYS_PAGES":
        raise ValueError("unrecognized configuration name")
    return real_sysconf(name)
os.sysconf = sysconf
del os.sched_getaffinity
"""
WINDOWS = f"""{NO_PROC}
import multiprocessing, multiprocessing.context as context, os, signal, sys
real_import = builtins.__import__
def importing(name, globals=None, *rest, **options):
    if name == "fcntl" and globals["__name__"].startswith("signlang"):
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return real_import(name, globals, *rest, **options)
builtins.__import__ = importing
real_os_open = os.open
def os_open(path, *rest, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real_os_open(path, *rest, **options)
os.open = os_open
for name in ("ForkProcess", "ForkContext", "ForkServerProcess", "ForkServerContext"):
    delattr(context, name)
for name in ("fork", "forkserver"):
    del context._concrete_contexts[name]
context.DefaultContext.get_all_start_methods = lambda self: ["spawn"]
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.set_start_method("spawn")
for name in ("fork", "setpgid", "sysconf", "sched_getaffinity", "killpg"):
    delattr(os, name)
delattr(signal, "SIGHUP")
"""


def python_path(system: str, place: Path) -> str:
    """A path of modules with which Python starts with parts of itself taken away."""
    start = place / "start"
    start.mkdir(exist_ok=True)
    (start / "sitecustomize.py").write_text(system)
    return f"{start}{os.pathsep}{ROOT}"


def run_on(system: str, place: Path, *words: str, verb: str = "train") -> Result:
    """Run a verb on such a system."""
    return run_command(place, *words, verb=verb, PYTHONPATH=python_path(system, place))


def words_for(tiny: Path) -> tuple[str, ...]:
    return (*QUICK, f"data.root={tiny}", "trainer.max_epochs=1", "logger=none")


def test_windows_trains(tiny: Path, tmp_path: Path) -> None:
    done = run_on(WINDOWS, tmp_path, *words_for(tiny))
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("runs/*/*/fold=*/metrics.json"))) == 1


@pytest.mark.slow
def test_windows_runs_jobs_one_after_another(tiny: Path, tmp_path: Path) -> None:
    done = run_on(WINDOWS, tmp_path, *words_for(tiny), "-m", "fold=0,1")
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("runs/*/*/fold=*/metrics.json"))) == 2


def test_windows_is_told_that_it_has_no_local_launcher(tiny: Path, tmp_path: Path) -> None:
    words = [*words_for(tiny), "-m", "fold=0,1", "hydra/launcher=local"]
    done = run_on(WINDOWS, tmp_path, *words)
    assert done.code == 2
    assert "hydra/launcher=local forks processes, which this system cannot" in done.err
    assert "Traceback" not in done.err


def test_windows_predicts(exported: tuple[Path, Result], tiny: Path, tmp_path: Path) -> None:
    image = tiny / "A" / "A0.png"
    done = run_on(WINDOWS, tmp_path, f"bundle={exported[0]}", str(image), verb="predict")
    assert done.code == 0, done.err


def test_windows_draws_images_and_writes_a_bundle(trained: Path, tmp_path: Path) -> None:
    write = (
        "import pathlib; from signlang.data.synthetic.generator import write_dataset as write; "
        "write(pathlib.Path('images'), signers=1, takes=1, size=16)"
    )
    drawn = subprocess.run(
        [sys.executable, "-c", write], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": python_path(WINDOWS, tmp_path)},
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "images" / "signers.csv").is_file()
    done = run_on(WINDOWS, tmp_path, f"run={trained}", "out=bundle", verb="export")
    assert done.code == 0, done.err
    assert (tmp_path / "bundle" / "bundle.json").is_file()


@pytest.mark.slow
def test_macos_runs_jobs_side_by_side(tiny: Path, tmp_path: Path) -> None:
    words = [*words_for(tiny), "-m", "fold=0,1", "hydra/launcher=local"]
    done = run_on(MACOS, tmp_path, *words)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("runs/*/*/fold=*/metrics.json"))) == 2


@pytest.mark.parametrize(
    ("missing", "known"),
    [
        ((), True),
        (("SC_AVPHYS_PAGES",), True),  # macOS
        (("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"), False),
    ],
)
def test_free_memory_is_known_or_not_without_an_error(
    missing: tuple[str, ...], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysconf = os.sysconf

    def without(name: str) -> int:
        if name in missing:
            raise ValueError("unrecognized configuration name")
        return sysconf(name)

    monkeypatch.setattr(launcher, "Path", lambda name: Path("nowhere"))
    monkeypatch.setattr(os, "sysconf", without)
    assert (launcher.available_memory() is not None) == known
    assert launcher.worker_count("auto") >= 1
