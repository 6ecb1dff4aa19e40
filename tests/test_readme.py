"""Every command that the README shows is run, on tiny pictures and for one epoch."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, run_command, write_tiny
from safetensors.torch import save_file

from signlang.models.networks import build

README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^python -m signlang\.(\w+) (.*?)(?:\s+#.*)?$", README, re.MULTILINE)
TINY = {
    "train": ["image_size=32", "batch_size=8", "trainer.max_epochs=1", "folds=5",
              "data.stored_size=32", "trainer.accelerator=cpu"],
    "describe": ["samples=2"],
    "compare": [],
}  # fmt: skip
DRAWN = ["data.source.signers=2", "data.source.takes=3", "data.source.size=32"]
FEWER = {  # of a long command, the same on a smaller scale
    "sweep=optuna": ["sweep.trials=1", "folds=2"],
    "experiment=": ["fold=0,1", "folds=2", "augment=none", "optimizer.lr=1e-3"],
    "model=resnet18,mobilenetv2,squeezenet": ["fold=0,1"],
}


def test_the_readme_shows_every_verb() -> None:
    verbs = {file.stem for file in (ROOT / "signlang").glob("*.py") if "def main()" in
             file.read_text("utf-8")}  # fmt: skip
    assert {verb for verb, _ in COMMANDS} == verbs


@pytest.mark.parametrize(("verb", "line"), COMMANDS)
def test_a_command_of_the_readme_works(verb: str, line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    for word in words:
        if word.startswith("data.root="):
            write_tiny(tmp_path / word.removeprefix("data.root="))
        if word.startswith("model.weights="):
            state = build("squeezenet", 1000, 224).state_dict()
            save_file(state, tmp_path / word.removeprefix("model.weights="))
    if "--help" not in words:
        words += TINY[verb] + [word for key in FEWER if key in line for word in FEWER[key]]
        if verb == "compare":  # the runs that it needs
            made = run_command(tmp_path, "-m", *TINY["train"], *DRAWN, "folds=2", "fold=0,1")
            assert made.code == 0, made.err
        elif not any(word.startswith(("data=", "experiment=")) for word in words):
            words += DRAWN
    result = run_command(tmp_path, *words, verb=verb)
    assert result.code == 0, result.err
    assert result.out


def test_every_target_that_is_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = README + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for target in re.findall(r"make ([a-z-]+) ", text):
        if f"make {target}  " in text or f"`make {target}`" in text:
            assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
