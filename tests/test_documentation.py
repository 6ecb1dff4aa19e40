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
from conftest import ROOT, write_tiny
from documents import PAGES, Command, Page
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from safetensors.torch import save_file
from services import service
from typist import Typist

from signlang import hydra_app
from signlang.command_line import VERBS
from signlang.models.networks import build_network

README: Final = Page(ROOT / "README.md")
SITE: Final = [Page(file) for file in PAGES]
WITH_COMMANDS: Final = [page for page in [README, *SITE] if page.commands or page.python]
SLOW: Final = {  # typed by `make test-all`; their words are checked each time
    "augment", "check-data", "compare-and-search", "cpu-and-gpu", "evaluate", "explain",
    "find-hands", "label-images", "manage-runs", "notebook", "own-network", "read-the-report",
    "resume", "robustness", "switches", "your-own-images",
}  # fmt: skip
TYPED: Final = [
    pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.path.stem in SLOW else [])
    for page in WITH_COMMANDS
]
ADDRESS: Final = "http://127.0.0.1:8000"
TINY: Final = {
    "train": ["image_size=32", "batch_size=4", "trainer.max_epochs=1", "data.stored_size=32",
              "trainer.accelerator=cpu"],
    "describe": ["samples=2"],
    "export": ["calibration_images=20"],
}  # fmt: skip
DRAWN: Final = ["data.source.signers=5", "data.source.takes=2", "data.source.size=32"]
FEWER: Final = {  # of a long command, the same on a smaller scale
    "hydra/sweeper=optuna": ["hydra.sweeper.trials=1", "folds=2"],
    "split.gap=10": ["split.gap=1"],
    "hands=landmarks": ["image_size=8"],
    "hands=both": ["image_size=64"],
    "experiment=strangers": ["data.classes=[A,B]", "image_size=8"],
    "experiment=": ["fold=0,1", "folds=2", "augment=none", "optimizer.lr=1e-3"],
    "fold=0,1,2,3,4": ["fold=0,1", "folds=2"],
    "image_size=96": ["folds=2"],
    "study=spring": ["folds=2"],
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
        typist: Runs them.
        request: For a trained run and a bundle.
    """

    def __init__(self, place: Path, typist: Typist, request: pytest.FixtureRequest) -> None:
        self.place, self.typist, self.request = place, typist, request
        self.stack = ExitStack()
        self.address = ADDRESS

    def prepare(self, page: Page) -> None:
        """Lay out what the page shows or takes for granted."""
        text = "\n".join([*(command.line for command in page.commands), *page.python])
        text += "".join(name and content for name, content in page.files.items())
        for name in ("my_signs", "IMAGES", "PEOPLE", "ROOMS", "OTHERS", "digits/Dataset",
                     "asl_alphabet"):  # fmt: skip
            used = re.search(rf"(?<![\w=]){name}\b|root={name}\b|backgrounds={name}\b", text)
            if used and "write_dataset" not in text:
                write_tiny(self.place / name)
        if "groups.csv" in text:  # there must be something that is alike
            image = self.place / "my_signs" / "A" / "A0.png"
            shutil.copy(image, image.with_name("A0_again.png"))
            with (self.place / "my_signs" / "signers.csv").open("a") as file:
                file.write("A/A0_again.png,s0\n")
        if "PEOPLE" in text:
            self._move_to_people(self.place / "PEOPLE")
        if "imagenet.safetensors" in text:
            weights = build_network("squeezenet", 1000, 224).state_dict()
            save_file(weights, self.place / "imagenet.safetensors")
        if "BUNDLE" in text:
            shutil.copytree(self.request.getfixturevalue("exported")[0], self.place / "BUNDLE")
        if re.search(r"\bRUN\b", text):
            shutil.copytree(self.request.getfixturevalue("trained"), self.place / "RUN")
        if "hands=" in text:
            self.request.getfixturevalue("made_cache")
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
        line = command.line.replace(ADDRESS, self.address).replace("takes=6", "takes=3")
        if command.verb == "serve" and "--help" not in command.words:
            running = self.stack.enter_context(service(self.place, *command.words))
            self.address = running.url
        elif command.verb:
            words = smaller(command.verb, command.words)
            result = self.typist.type(self.place, command.verb, *words)
            assert result.code == 0, f"{line}\n{result.err}"
            assert result.out or " out=" in line
        elif line.startswith("make "):
            makefile = (ROOT / "Makefile").read_text("utf-8")
            assert re.search(rf"^{command.words[1]}:.*## ", makefile, re.MULTILINE), line
        elif line.startswith("source "):  # what a shell does with it is no business of ours
            assert line == "source .venv/bin/activate"
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


@pytest.mark.parametrize("page", TYPED)
def test_a_page_works_from_top_to_bottom(
    page: Page, typist: Typist, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    reader = Reader(tmp_path, typist, request)
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


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_words_of_a_page_are_known(page: Page) -> None:
    for command in page.commands:
        if command.verb not in {"", "predict"}:
            check_words(command)


def check_words(command: Command) -> None:
    """Let Hydra compose the configuration of a command; of a sweep, that of its first job."""
    words = [word for word in command.words if word not in {"-m", "--help"}]
    if "--config-dir" not in command.line:  # which has choices that are not there
        words = hydra_app.override_words(command.verb, words)
        parsed = OverridesParser.create().parse_overrides(words)
        jobs = [first_job(override) for override in parsed]
        with initialize_config_dir(str(hydra_app.CONF), version_base="1.3"):
            compose(
                command.verb, overrides=[word for word in jobs if word], return_hydra_config=True
            )


def first_job(override: Override) -> str:
    """The word of a sweep's first job; empty for a search, which has no first value."""
    if not override.is_sweep_override():
        return str(override.input_line)
    if not override.is_discrete_sweep():
        return ""
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def test_all_verbs_are_shown() -> None:
    shown = {command.verb for page in WITH_COMMANDS for command in page.commands}
    assert shown >= set(VERBS)


def test_few_commands_are_not_run() -> None:
    left_out = [c.line for page in WITH_COMMANDS for c in page.commands if c.why_not]
    assert len(left_out) <= 9, left_out


def test_every_target_that_is_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    texts = [README.text, (ROOT / "CONTRIBUTING.md").read_text("utf-8"), *(p.text for p in SITE)]
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)(?=`|\s+#|$)", "\n".join(texts), re.MULTILINE))
    assert named >= {"train", "test", "docs", "setup"}
    for target in named:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_every_experiment_is_named() -> None:
    text = (ROOT / "docs" / "how-to" / "compare-and-search.md").read_text("utf-8")
    for file in (ROOT / "conf" / "experiment").iterdir():
        assert f"`experiment={file.stem}`" in text


def test_the_readme_is_a_screen_and_leads_on() -> None:
    assert len(README.text.splitlines()) < 90
    links = re.findall(r"\]\(([^)#]+)\)", README.text)
    assert [link for link in links if not (ROOT / link).is_file()] == []
    for page in ("tutorial/your-own-images.md", "how-to/index.md", "troubleshooting.md"):
        assert f"docs/{page}" in links
