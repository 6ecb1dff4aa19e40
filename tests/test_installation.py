"""`pip install signlang` without an extra: what it runs, and what it says of the rest."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Result

NAMES = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of requirements-serve.lock and no others."""
    folder = tmp_path_factory.mktemp("site")
    for name in NAMES.findall((ROOT / "requirements-serve.lock").read_text("utf-8")):
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for top in {file.parts[0] for file in installed.files or () if ".." not in file.parts}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(installed.locate_file(top))).resolve())
    return folder


def run(site: Path, place: Path, *words: str) -> Result:
    command = [sys.executable, "-S", "-m", "signlang", *words]  # -S: no site-packages
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    return Result(done.returncode, done.stdout, done.stderr)


def test_it_predicts_without_torch(
    site: Path, exported: tuple[Path, Result], tiny: Path, tmp_path: Path
) -> None:
    assert not (site / "torch").exists()
    done = run(site, tmp_path, "predict", f"bundle={exported[0]}", str(tiny / "A" / "A0.png"))
    assert done.code == 0, done.err
    assert "A0.png" in done.out


@pytest.mark.parametrize("verb", ["serve", "train", "compare", "describe", "evaluate", "export"])
def test_every_verb_has_its_help(verb: str, site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, verb, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"signlang.{verb}" in done.out


@pytest.mark.parametrize(
    ("verb", "words", "extra"),
    [
        ("train", (), "train"),
        ("describe", (), "train"),
        ("compare", ("runs",), "train"),
        ("evaluate", ("run=runs", "data.root=runs"), "train"),
        ("export", ("run=runs",), "export"),
    ],
)
def test_a_missing_extra_is_named(
    verb: str, words: tuple[str, ...], extra: str, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "study" / "a" / "fold=0").mkdir(parents=True)
    done = run(site, tmp_path, verb, *words)
    assert done.code == 2, done.err
    assert f'pip install "signlang[{extra}]"' in done.err
    assert "Traceback" not in done.err


def test_python_names_it_too(site: Path, tmp_path: Path) -> None:
    code = "import signlang; signlang.load_run('runs')"
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True
    )
    assert 'SettingError: filelock is not installed: pip install "signlang[train]"' in done.stderr


def make(*words: str) -> str:
    """What make does, or would do with `-n`."""
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_another_build_of_torch_comes_without_the_cuda_packages(tmp_path: Path) -> None:
    make(f"VENV={tmp_path}", f"{tmp_path}/without-torch.lock")
    locked = NAMES.findall((ROOT / "requirements.lock").read_text("utf-8"))
    left = (tmp_path / "without-torch.lock").read_text("utf-8")
    gone = {name for name in locked if name not in NAMES.findall(left)}
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"} <= gone
    assert all(name.startswith(("torch", "triton", "nvidia-", "cuda-")) for name in gone)
    assert left.count("--hash=") >= len(NAMES.findall(left)) == len(locked) - len(gone)


def test_the_build_of_torch_is_remembered_and_can_be_changed(tmp_path: Path) -> None:
    setup = (f"VENV={tmp_path}", f"{tmp_path}/.ready")
    assert "--torch-backend=cpu" in make("-n", *setup, "TORCH=cpu")
    assert "torch-backend" not in make("-n", *setup)
    (tmp_path / ".torch").write_text("cpu\n", "utf-8")
    assert "--torch-backend=cpu" in make("-n", *setup)
    (tmp_path / ".ready").touch()
    assert "uv pip" not in make("-n", *setup)
    assert "--reinstall-package torch " in make("-n", *setup, "TORCH=")
