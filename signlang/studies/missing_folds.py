"""Folds that a study lacks: why, and the commands that train them."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from signlang.files import read_csv
from signlang.runs.folder import RunFolder

PATH: Final = re.compile(r"[\w.-]*(/[\w.-]*)+")  # means nothing else to Hydra or a shell
LOG_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")  # others continue the one before


class FoldState(Enum):
    """State of a fold that has no result to count."""

    NOT_STARTED = "was not started"
    UNFINISHED = "is not finished"
    FAILED = "failed"
    UNUSABLE = "cannot be used"  # damaged: the same command must replace what is there
    DIVERGED = "diverged"  # the same command would give the same result
    PARTIAL = "saw only a part of the images"  # likewise


@dataclass(frozen=True)
class MissingFold:
    """Why a fold is missing.

    Attributes:
        state: What became of it.
        detail: What else is known, in a few words.

    >>> print(MissingFold(FoldState.UNFINISHED, "3 epochs done"))
    is not finished (3 epochs done)
    """

    state: FoldState
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.state.value} ({self.detail})" if self.detail else self.state.value


def unfinished_fold(path: Path) -> MissingFold:
    """State of a run that was started and has no metrics.

    Args:
        path: Its folder.
    """
    divergence = RunFolder(path).divergence()
    if divergence is not None:
        return diverged_fold(divergence)
    try:
        lines = (path / "run.log").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    heads = [line for line in lines if LOG_LINE.match(line)]
    if heads and " ERROR " in heads[-1]:
        return MissingFold(FoldState.FAILED, f"see {path / 'run.log'}")
    done = len(read_csv(path / "history.csv"))
    return MissingFold(FoldState.UNFINISHED, f"{done} epoch{'s' * (done != 1)} done")


def diverged_fold(what: object) -> MissingFold:
    """State of a run whose loss is not finite.

    Args:
        what: Which loss, in a few words.
    """
    advice = "move the setting out of the study, or choose a lower learning rate"
    return MissingFold(FoldState.DIVERGED, f"{what}: {advice}")


@dataclass(frozen=True, eq=False)
class IncompleteSetting:
    """A setting that lacks folds.

    Attributes:
        folder: Of its runs.
        missing: Why each fold is missing, by fold.
        record: Content of `record.json` of one of its runs; None if there is none to read.
        words: Of the command that completes it, if that is not the one of its runs.
    """

    folder: Path
    missing: Mapping[int, MissingFold]
    record: Mapping[str, Any] | None
    words: Sequence[str] = ()

    @cached_property
    def text(self) -> str:
        """Which folds are missing and why, in one sentence."""
        why = "; ".join(f"fold {fold} {reason}" for fold, reason in sorted(self.missing.items()))
        if self.record is None:
            return f"{self.folder}: {why}."
        folds = range(self.record["settings"]["folds"])
        finished = len(folds) - sum(fold in folds for fold in self.missing)
        return f"{self.folder} has {finished} of {len(folds)} folds: {why}."

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """The command lines that train the missing folds; none if that would not help."""
        if self.words:
            return (shlex.join(["python", "-m", "signlang.train", *map(_unquoted, self.words)]),)
        if self.record is None:
            return ()
        folds = range(self.record["settings"]["folds"])
        states = {fold: reason.state for fold, reason in self.missing.items() if fold in folds}
        again = {fold for fold, state in states.items() if state is FoldState.UNUSABLE}
        hopeless = {FoldState.DIVERGED, FoldState.PARTIAL}
        rest = {fold for fold, state in states.items() if state not in hopeless} - again
        return tuple(
            self._command(which, more)
            for which, more in ((rest, []), (again, ["overwrite=true"]))
            if which
        )

    def __str__(self) -> str:
        if not self.commands:
            return self.text
        return "\n    ".join([f"{self.text} Complete it with", *self.commands])

    def _command(self, folds: Iterable[int], more: list[str]) -> str:
        runs_dir = self.folder.parent.parent
        chosen = [
            _unquoted(word)
            for word in (self.record or {})["overrides"]
            if word.partition("=")[0] not in {"fold", "runs_dir", "overwrite"}
        ]
        location = [] if str(runs_dir) == "runs" else [f"runs_dir={runs_dir}"]
        numbers = f"fold={','.join(map(str, sorted(folds)))}"
        words = ["python", "-m", "signlang.train", "-m", *chosen, *location, *more, numbers]
        return shlex.join(words)


def _unquoted(word: str) -> str:
    """Write a path, or a pattern of file names, without quotes where it needs none.

    >>> _unquoted("data.root='/images/mine'"), _unquoted("data.root='/a, b'")
    ('data.root=/images/mine', "data.root='/a, b'")
    """
    key, _, value = word.partition("=")
    inner = value.strip("'\"")
    return f"{key}={inner}" if PATH.fullmatch(inner) or key == "data.pattern" else word
