"""Pages of the documentation as tests see them: the files that they show, and their commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conftest import ROOT

PAGES: Final = sorted((ROOT / "docs").rglob("*.md"))
FENCE: Final = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NOT_RUN: Final = "not run by the tests: "  # the title of a block, with the reason
# a reason must be one of these: what the machine of the tests does not have
REASONS: Final = {"needs Docker", "needs a GPU", "needs SLURM", "needs Ray"}


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        line: As the page has it, without its comment.
        why_not: Why no test runs it; empty for all others.
    """

    line: str
    why_not: str = ""

    @property
    def words(self) -> list[str]:
        """Its words, of `signlang VERB` those behind the verb."""
        words = shlex.split(self.line)
        return words[2:] if self.verb else words

    @property
    def verb(self) -> str:
        """The verb of signlang, or nothing."""
        parts = re.match(r"(?:signlang |python -m signlang\.)(\w+)(?: |$)", self.line)
        return parts[1] if parts else ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        path: Its source.
    """

    path: Path

    @property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text("utf-8")

    @property
    def name(self) -> str:
        """Its path, below the documentation or the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def files(self) -> dict[str, str]:
        """Name and content of the files that it shows."""
        return {
            title: text
            for language, title, text in FENCE.findall(self.text)
            if language != "bash" and re.fullmatch(r"[\w/.-]+\.\w+", title)
        }

    @property
    def commands(self) -> list[Command]:
        """Its commands, in their order."""
        return list(self._commands())

    def _commands(self) -> Iterator[Command]:
        for language, title, text in FENCE.findall(self.text):
            if language not in {"bash", "sh"}:
                continue
            why_not = title.removeprefix(NOT_RUN)
            assert not title or (title.startswith(NOT_RUN) and why_not in REASONS), title
            for line in re.sub(r"\\\n\s*", "", text).splitlines():
                line = re.sub(r"(^|\s+)# .*$", "", line).strip()
                if line:
                    yield Command(line, why_not)

    @property
    def python(self) -> list[str]:
        """Its Python that is no file."""
        return [
            text for language, title, text in FENCE.findall(self.text)
            if language == "python" and not title
        ]  # fmt: skip
