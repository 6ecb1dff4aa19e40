"""Each kind of wrong value gives one sentence: the key, the value, and what it must be."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from signlang.constraints import (
    Count,
    ExistingFolder,
    ExistingPath,
    Index,
    Positive,
    Probability,
    Share,
    Strict,
    Text,
    validated,
)
from signlang.errors import BundleError, SettingError


class Split(Strict):
    folds: int = Field(default=5, ge=2)
    fold: Index = 0

    @model_validator(mode="after")
    def _fold_exists(self) -> "Split":
        if self.fold >= self.folds:
            raise ValueError(f"split.fold={self.fold}: there are {self.folds} folds.")
        return self


class Example(Strict):
    split: Split = Split()
    workers: Literal["auto"] | Count = "auto"
    format: Literal["table", "csv"] = "table"
    lr: Positive | None = None
    smoothing: Share = 0.0
    threshold: Probability = 0.5
    between: Annotated[float, Field(gt=0, lt=1)] = 0.5
    port: int = Field(default=80, ge=0, le=100_000_000)
    most: float = Field(default=0.5, gt=0, le=0.5)
    low: int = Field(default=0, le=3)
    flag: bool = False
    file: ExistingPath | None = None
    folder: ExistingFolder | None = None
    name: Text = "a"
    scores: dict[str, float] = Field(default={})
    places: list[str] = Field(default=[])
    mean: list[float] = Field(default=[0.0], description="[R,G,B], three numbers")
    key: str | None = Field(default=None, min_length=16, json_schema_extra={"writeOnly": True})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"split": {"folds": True}}, "split.folds=true: it must be a whole number of at least 2."),
    ({"split": {"folds": "5"}}, "split.folds=5: it must be a whole number of at least 2."),
    ({"split": {"folds": 2.0}}, "split.folds=2.0: it must be a whole number of at least 2."),
    ({"split": {"fold": 5}}, "split.fold=5: there are 5 folds."),
    ({"split": None}, "split=null: it must be a mapping of keys to values."),
    (
        {"split": {"flod": 1}},
        "There is no setting split.flod. Did you mean split.fold? "
        "There are: split.fold, split.folds.",
    ),
    ({"workers": 0}, "workers=0: it must be auto or a whole number of at least 1."),
    ({"format": "tabel"}, "format=tabel: it must be table or csv. Did you mean table?"),
    ({"lr": math.nan}, "lr=nan: it must be a number above 0 or null."),
    ({"lr": math.inf}, "lr=inf: it must be a number above 0 or null."),
    ({"smoothing": 1}, "smoothing=1: it must be a number from 0 to below 1."),
    ({"threshold": 1.5}, "threshold=1.5: it must be a number from 0 to 1."),
    ({"between": 1}, "between=1: it must be a number between 0 and 1."),
    ({"port": -1}, "port=-1: it must be a whole number from 0 to 100000000."),
    ({"most": 0}, "most=0: it must be a number above 0 and up to 0.5."),
    ({"low": 4}, "low=4: it must be a whole number of at most 3."),
    ({"flag": 1}, "flag=1: it must be true or false."),
    ({"file": "nowhere"}, "file=nowhere: there is no such file or folder."),
    ({"folder": __file__}, f"folder={__file__}: there is no such folder."),
    ({"file": None, "name": None}, "name=null: it must be a text."),
    ({"scores": {"a": "x"}}, "scores.a=x: it must be a number."),
    ({"places": ["a", 1]}, "places[1]=1: it must be a text."),
    ({"mean": 1}, "mean=1: it must be [R,G,B], three numbers."),
    ({"key": "secret"}, "key: it must be a text of at least 16 characters or null."),
]


@pytest.mark.parametrize(("values", "sentence"), WRONG)
def test_a_wrong_value_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        validated(Example, values)
    assert str(refused.value) == sentence


def test_good_values_are_taken_as_they_are(tmp_path: Path) -> None:
    example = validated(
        Example,
        {"split": {"folds": 2, "fold": 1}, "workers": 4, "lr": 1, "file": tmp_path, "name": 12},
    )
    assert (example.split.fold, example.workers, example.lr, example.name) == (1, 4, 1.0, "12")
    assert example.file == tmp_path
    with pytest.raises(ValidationError, match="frozen"):
        example.lr = 2.0


def test_what_is_missing_is_named() -> None:
    class Needed(Strict):
        weights: str

    with pytest.raises(SettingError, match=r"^weights is missing: it must be a text\.$"):
        validated(Needed, {})


def test_several_problems_are_listed_at_once() -> None:
    with pytest.raises(SettingError) as refused:
        validated(Example, {"lr": 0, "flag": "no"})
    assert str(refused.value) == (
        "2 settings cannot work:\n  lr=0: it must be a number above 0 or null."
        "\n  flag=no: it must be true or false."
    )


def test_an_error_of_a_file_says_which_and_how_to_fix_it() -> None:
    with pytest.raises(BundleError) as refused:
        validated(Example, {"lr": 0}, error=BundleError, before="a.json", fix="Export it again.")
    assert str(refused.value) == (
        "a.json: lr=0: it must be a number above 0 or null. Export it again."
    )
    with pytest.raises(BundleError, match=r"^a\.json: \[\]: it must be a mapping of keys"):
        validated(Example, [], error=BundleError, before="a.json")
    many = dict.fromkeys(("lr", "low", "flag", "port"), "x")
    with pytest.raises(BundleError, match=r"^a\.json: lr=x: .* low=x: .*\. And 1 more\.$"):
        validated(Example, many, error=BundleError, before="a.json")
