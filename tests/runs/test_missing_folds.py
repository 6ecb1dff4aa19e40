"""What a missing fold needs is decided by its state, never by the words of its reason."""

import shlex
from pathlib import Path

from signlang.runs.lifecycle import (
    FoldState,
    IncompleteSetting,
    MissingFold,
    unfinished_fold,
)

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


def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    def state() -> str:
        return str(unfinished_fold(tmp_path))

    assert state() == "is not finished (0 epochs done)"
    (tmp_path / "history.csv").write_text("epoch\n0\n")
    assert state() == "is not finished (1 epoch done)"
    (tmp_path / "history.csv").write_text("epoch\n0\n1\n")
    log = tmp_path / "run.log"
    log.write_text("2026-01-02 03:04:05 ERROR it failed\nTraceback\n2026-01-02 03:05:05 INFO on\n")
    assert state() == "is not finished (2 epochs done)"
    log.write_text("2026-01-02 03:04:05 INFO on\n2026-01-02 03:04:05 ERROR it failed\nTraceback\n")
    assert state() == f"failed (see {log})"


def test_missing_folds_come_with_the_commands_that_train_them() -> None:
    overrides = ["model=cnn", "data.root='/my/signs'", "x='a b'", "fold=0", "runs_dir=old",
                 "overwrite=true"]  # fmt: skip
    record = {"settings": {"folds": 6}, "overrides": overrides}
    missing = {
        3: MissingFold(FoldState.NOT_STARTED), 1: MissingFold(FoldState.UNUSABLE, "damaged"),
        5: MissingFold(FoldState.DIVERGED, "nan"), 4: MissingFold(FoldState.FAILED),
        9: MissingFold(FoldState.FAILED),
    }  # fmt: skip
    first, *commands = str(IncompleteSetting(Path("there/s/cnn"), missing, record)).splitlines()
    assert first == (
        "there/s/cnn has 2 of 6 folds: fold 1 cannot be used (damaged); fold 3 was not started; "
        "fold 4 failed; fold 5 diverged (nan); fold 9 failed. Complete it with"
    )
    words = "python -m signlang.train -m model=cnn data.root=/my/signs 'x='\"'\"'a b'\"'\"''"
    assert [command.strip() for command in commands] == [
        f"{words} runs_dir=there fold=3,4",
        f"{words} runs_dir=there overwrite=true fold=1",
    ]
    failed = {0: MissingFold(FoldState.FAILED)}
    assert "runs_dir" not in str(IncompleteSetting(Path("runs/s/cnn"), failed, record))
    diverged = {5: MissingFold(FoldState.DIVERGED, "nan")}
    only = str(IncompleteSetting(Path("runs/s/cnn"), diverged, record))
    assert only == "runs/s/cnn has 5 of 6 folds: fold 5 diverged (nan)."
