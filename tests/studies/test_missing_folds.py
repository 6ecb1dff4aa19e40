"""What a missing fold needs is decided by its state, never by the words of its reason."""

import shlex
from pathlib import Path

from signlang.studies.missing_folds import FoldState, IncompleteSetting, MissingFold

RECORD = {"settings": {"folds": 5}, "overrides": ["model=simple_cnn", "fold=3", "overwrite=true"]}


def test_each_state_has_its_command() -> None:
    missing = {
        0: MissingFold(FoldState.DIVERGED, "its loss is nan"),
        1: MissingFold(FoldState.UNUSABLE, "diverged.json is missing"),
        2: MissingFold(FoldState.NOT_STARTED),
        4: MissingFold(FoldState.FAILED, "cannot be used"),
        7: MissingFold(FoldState.UNFINISHED, "a fold that this setting does not have"),
    }
    setting = IncompleteSetting(Path("runs/digits/simple_cnn"), missing, RECORD)
    command = ["python", "-m", "signlang.train", "-m", "model=simple_cnn"]
    assert [shlex.split(line) for line in setting.commands] == [
        [*command, "fold=2,4"], [*command, "overwrite=true", "fold=1"],
    ]  # fmt: skip
    assert setting.text.startswith("runs/digits/simple_cnn has 1 of 5 folds: fold 0 diverged (its ")
    assert str(setting).splitlines()[1:] == [f"    {line}" for line in setting.commands]


def test_without_a_fold_to_train_there_is_no_command() -> None:
    missing = {0: MissingFold(FoldState.DIVERGED)}
    setting = IncompleteSetting(Path("runs/s/cnn"), missing, {**RECORD, "settings": {"folds": 1}})
    assert setting.commands == ()
    assert str(setting) == "runs/s/cnn has 0 of 1 folds: fold 0 diverged."
    unknown = IncompleteSetting(Path("runs/s/cnn"), missing, None)
    assert str(unknown) == "runs/s/cnn: fold 0 diverged."
