"""Every command that the README shows is run, on tiny images and for one epoch."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, run_command, write_tiny
from safetensors.torch import save_file
from services import service

from signlang.command_line import VERBS
from signlang.models.networks import build_network

README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^python -m signlang\.(\w+) (.*?)(?:\s+#.*)?$", README, re.MULTILINE)
TINY = {
    "train": ["image_size=32", "batch_size=8", "trainer.max_epochs=1", "folds=5",
              "data.stored_size=32", "trainer.accelerator=cpu"],
    "describe": ["samples=2"],
    "compare": [],
    "list": [],
    "evaluate": [],
    "export": ["calibration_images=20"],
    "predict": [],
    "serve": [],
}  # fmt: skip
DRAWN = ["data.source.signers=2", "data.source.takes=3", "data.source.size=32"]
FEWER = {  # of a long command, the same on a smaller scale
    "hydra/sweeper=optuna": ["hydra.sweeper.trials=1", "folds=2"],
    "split.gap=10": ["split.gap=1"],
    "hands=landmarks": ["image_size=8"],
    "experiment=": ["fold=0,1", "folds=2", "augment=none", "optimizer.lr=1e-3"],
    "model=resnet18,mobilenetv2,squeezenet": ["fold=0,1"],
}


def test_the_readme_shows_every_verb() -> None:
    assert {verb for verb, _ in COMMANDS} == set(VERBS)


def filled(line: str, place: Path, request: pytest.FixtureRequest) -> list[str]:
    """The words of a line, with everything that they name in its place."""
    words = shlex.split(line)
    for number, word in enumerate(words):
        key, _, value = word.rpartition("=")
        if key == "hands":
            request.getfixturevalue("made_cache")
        if value == "RUN":
            words[number] = f"run={request.getfixturevalue('trained')}"
        if value == "BUNDLE":
            words[number] = f"bundle={request.getfixturevalue('exported')[0]}"
        if key == "data.root" or value == "IMAGES":
            write_tiny(place / value)
        if value == "PEOPLE":
            for file in sorted((place / value).rglob("*.png")):
                people = place / value / f"user_{int(file.stem[1:]) % 6}"
                people.mkdir(exist_ok=True)
                file.rename(people / file.name)
            for name in ("A", "B", "ß"):
                (place / value / name).rmdir()
        if key == "model.weights":
            save_file(build_network("squeezenet", 1000, 224).state_dict(), place / value)
    return words


def smaller(verb: str, words: list[str]) -> list[str]:
    """The same command on a smaller scale."""
    if "--help" in words:
        return words
    line = " ".join(words)
    more = [word for key in FEWER if key in line for word in FEWER[key]]
    drawn = (
        []
        if verb in {"compare", "list"} or re.search("data=|experiment=|run=|bundle=", line)
        else DRAWN
    )
    return [*words, *TINY[verb], *more, *drawn]


@pytest.mark.parametrize(("verb", "line"), COMMANDS)
def test_a_command_of_the_readme_works(
    verb: str, line: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    words = smaller(verb, filled(line, tmp_path, request))
    if verb in {"compare", "list"}:  # the runs that it needs
        made = run_command(tmp_path, "-m", *TINY["train"], *DRAWN, "folds=2", "fold=0,1")
        assert made.code == 0, made.err
    if verb == "serve":
        with service(tmp_path, *words) as running, running.client() as client:
            assert client.get("/readyz").status_code == 200
        return
    result = run_command(tmp_path, *words, verb=verb)
    assert result.code == 0, result.err
    assert result.out


def test_every_target_that_is_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = README + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for target in re.findall(r"make ([a-z-]+) ", text):
        if f"make {target}  " in text or f"`make {target}`" in text:
            assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
