"""A setting lacks folds; why, and the commands that train them, go out in a sentence."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from signlang.data.files import read_csv

# how the reason begins if a fold must be made anew, and if that would be in vain
UNUSABLE: Final = "cannot be used"
DIVERGED: Final = "diverged"
PATH: Final = re.compile(r"[\w.-]*(/[\w.-]*)+")  # means nothing else to Hydra or a shell


def state(path: Path) -> str:
    """Say how far an unfinished run has come."""
    try:
        lines = (path / "run.log").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    heads = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)]
    if heads and " ERROR " in heads[-1]:
        return f"failed (see {path / 'run.log'})"
    done = len(read_csv(path / "history.csv"))
    return f"is not finished ({done} epoch{'s' * (done != 1)} done)"


def reasons(missing: Mapping[int, str]) -> str:
    """Say why each fold is missing.

    >>> reasons({2: "was not begun", 1: "failed"})
    'fold 1 failed; fold 2 was not begun'
    """
    return "; ".join(f"fold {fold} {why}" for fold, why in sorted(missing.items()))


def sentence(folder: Path, missing: Mapping[int, str], record: Mapping[str, Any]) -> str:
    """Say which folds are missing, with the commands that train them."""
    folds = range(record["settings"]["folds"])
    finished = len(folds) - sum(fold in folds for fold in missing)
    trained = {k: why for k, why in missing.items() if k in folds and not why.startswith(DIVERGED)}
    anew = {fold for fold, why in trained.items() if why.startswith(UNUSABLE)}
    commands = [
        "\n    " + _command(folder, record["overrides"], which, more)
        for which, more in ((trained.keys() - anew, []), (anew, ["overwrite=true"]))
        if which
    ]
    what = f"{folder} has {finished} of {len(folds)} folds: {reasons(missing)}."
    return f"{what} Complete it with{''.join(commands)}" if commands else what


def _command(
    folder: Path, overrides: Sequence[str], folds: Iterable[int], more: Sequence[str]
) -> str:
    """The command line that trains folds of a setting."""
    runs_dir = folder.parent.parent
    made_by = [
        _unquoted(word)
        for word in overrides
        if word.partition("=")[0] not in {"fold", "runs_dir", "overwrite"}
    ]
    where = [] if str(runs_dir) == "runs" else [f"runs_dir={runs_dir}"]
    numbers = f"fold={','.join(map(str, sorted(folds)))}"
    return shlex.join(["python", "-m", "signlang.train", "-m", *made_by, *where, *more, numbers])


def _unquoted(word: str) -> str:
    """Write a path without quotes where it needs none.

    >>> _unquoted("data.root='/pictures/mine'"), _unquoted("data.root='/a, b'")
    ('data.root=/pictures/mine', "data.root='/a, b'")
    """
    key, _, value = word.partition("=")
    inner = value.strip("'\"")
    return f"{key}={inner}" if PATH.fullmatch(inner) else word
