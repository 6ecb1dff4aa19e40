"""The wheel brings everything along: it trains from an empty folder, without the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from signlang.command_line import VERBS


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and nothing else of the project."""
    place = tmp_path_factory.mktemp("wheel")
    uv = str(Path(sys.executable).with_name("uv"))
    build = [uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", str(place / "dist"), str(ROOT)], check=True)
    (wheel,) = (place / "dist").glob("*.whl")
    target = ["--target", str(place / "site"), "--no-deps", "--no-index", str(wheel)]
    install = [uv, "pip", "install", "--python", sys.executable]
    subprocess.run([*install, *target], check=True)
    return place / "site"


def run(installed: Path, cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_configuration_and_the_templates_travel_inside(installed: Path) -> None:
    files = {path.relative_to(installed).as_posix() for path in installed.rglob("*")}
    assert "signlang/conf/train.yaml" in files
    assert "signlang/conf/model/squeezenet.yaml" in files
    assert "signlang/reporting/page.html.j2" in files
    assert "signlang/py.typed" in files
    assert {"signlang/server/page/index.html", "signlang/server/page/app.js"} <= files
    assert not any("node_modules" in name for name in files)
    brought = (ROOT / "signlang/server/page/vendor/ort.wasm.min.mjs").is_file()  # by make page
    assert ("signlang/server/page/vendor/ort.wasm.min.mjs" in files) == brought


def test_it_trains_from_another_folder(installed: Path, tmp_path: Path) -> None:
    words = [
        "data.source.signers=3", "data.source.takes=5", "data.source.size=32", "batch_size=16",
        "trainer.max_epochs=1", "model=simple_cnn", "trainer.accelerator=cpu",
    ]  # fmt: skip
    code = "import signlang; print(signlang.__file__)"
    where = run(installed, tmp_path, sys.executable, "-c", code).stdout
    assert str(installed) in where
    done = run(installed, tmp_path, sys.executable, "-m", "signlang.train", *words)
    assert done.returncode == 0, done.stderr
    script = installed / "bin" / "signlang"
    again = run(installed, tmp_path, sys.executable, str(script), "train", *words)
    assert again.returncode == 0, again.stderr
    assert "finished already" in again.stderr
    assert {f"signlang-{verb}" for verb in VERBS} < {file.name for file in script.parent.iterdir()}
