"""The documentation: every command is run, on tiny images, and what pages say is compared."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from conftest import ROOT, run_command, write_tiny
from documents import PAGES, Command, Page
from safetensors.torch import save_file
from services import service

from signlang.models.networks import build_network

README: Final = Page(ROOT / "README.md")
SITE: Final = [Page(file) for file in PAGES]
WITH_COMMANDS: Final = [page for page in [README, *SITE] if page.commands or page.python]
ADDRESS: Final = "http://127.0.0.1:8000"
TINY: Final = {
    "train": ["image_size=32", "batch_size=8", "trainer.max_epochs=1", "data.stored_size=32",
              "trainer.accelerator=cpu"],
    "describe": ["samples=2"],
    "export": ["calibration_images=20"],
}  # fmt: skip
DRAWN: Final = ["data.source.signers=5", "data.source.takes=2", "data.source.size=32"]
FEWER: Final = {  # of a long command, the same on a smaller scale
    "hydra/sweeper=optuna": ["hydra.sweeper.trials=1", "folds=2"],
    "split.gap=10": ["split.gap=1"],
    "experiment=": ["fold=0,1", "folds=2", "augment=none", "optimizer.lr=1e-3"],
    "model=resnet18,mobilenetv2,squeezenet": ["fold=0,1"],
}


def smaller(verb: str, words: list[str]) -> list[str]:
    """The same command on a smaller scale."""
    if "--help" in words:
        return words
    line = " ".join(words)
    more = [word for key in FEWER if key in line for word in FEWER[key]]
    paths = [word for word in words if "=" not in word and not word.startswith("-")]
    of_images = verb in {"train", "describe"} and not re.search("data=|data.root=|experim", line)
    drawn = DRAWN if of_images and not paths else []
    return [*words, *TINY.get(verb, []), *more, *drawn]


class Reader:
    """Types the commands of a page, one after another, in a folder of its own.

    Args:
        place: The folder.
        request: For a trained run and a bundle.
    """

    def __init__(self, place: Path, request: pytest.FixtureRequest) -> None:
        self.place, self.request = place, request
        self.stack = ExitStack()
        self.address = ADDRESS

    def prepare(self, page: Page) -> None:
        """Lay out what the page shows or takes for granted."""
        text = "\n".join(command.line for command in page.commands) + "\n".join(page.python)
        for name in ("my_signs", "IMAGES", "PEOPLE", "ROOMS", "OTHERS", "digits/Dataset",
                     "asl_alphabet"):  # fmt: skip
            if re.search(rf"(?<![\w=]){name}\b|root={name}\b|backgrounds={name}\b", text):
                write_tiny(self.place / name)
        if "PEOPLE" in text:
            self._move_to_people(self.place / "PEOPLE")
        if "imagenet.safetensors" in text:
            weights = build_network("squeezenet", 1000, 224).state_dict()
            save_file(weights, self.place / "imagenet.safetensors")
        if "BUNDLE" in text:
            shutil.copytree(self.request.getfixturevalue("exported")[0], self.place / "BUNDLE")
        if re.search(r"\bRUN\b", text):
            shutil.copytree(self.request.getfixturevalue("trained"), self.place / "RUN")
        for name, content in page.files.items():
            (self.place / name).parent.mkdir(parents=True, exist_ok=True)
            (self.place / name).write_text(content, "utf-8")

    def _move_to_people(self, folder: Path) -> None:
        for file in sorted(folder.rglob("*.png")):
            people = folder / f"user_{int(file.stem[1:]) % 6}"
            people.mkdir(exist_ok=True)
            file.rename(people / file.name)
        for name in ("A", "B", "ß"):
            (folder / name).rmdir()

    def type(self, command: Command) -> None:
        """Run a command; it must succeed."""
        line = command.line.replace(ADDRESS, self.address)
        if command.verb == "serve" and "--help" not in command.words:
            running = self.stack.enter_context(service(self.place, *command.words))
            self.address = running.url
        elif command.verb:
            result = run_command(
                self.place, *smaller(command.verb, command.words), verb=command.verb
            )
            assert result.code == 0, f"{line}\n{result.err}"
            assert result.out or "verbose=false" in line
        elif line.startswith("make "):
            makefile = (ROOT / "Makefile").read_text("utf-8")
            assert re.search(rf"^{command.words[1]}:.*## ", makefile, re.MULTILINE), line
        elif line.startswith("tensorboard "):
            self._watch(command.words)
        else:
            self._shell(line)

    def _shell(self, line: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", line], cwd=self.place, env={**os.environ, "PATH": path},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}"

    def _watch(self, words: list[str]) -> None:
        """What runs until somebody ends it: it shows its folder, and it is there."""
        folder = words[words.index("--logdir") + 1]
        assert list((self.place / folder).rglob("events.out.tfevents.*")), words
        assert (Path(sys.executable).parent / words[0]).is_file()


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_a_page_works_from_top_to_bottom(
    page: Page, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    reader = Reader(tmp_path, request)
    reader.prepare(page)
    with reader.stack:
        for command in page.commands:
            if not command.why_not:
                started = time.perf_counter()
                reader.type(command)
                print(f"{time.perf_counter() - started:6.1f} s  {command.line}")
        for code in page.python:
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
