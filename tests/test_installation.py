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
