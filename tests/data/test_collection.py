"""Data sets joined by the names of their classes, and folds that leave one of them out."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COLOURS, QUICK, run_command
from PIL import Image

from signlang.data.boxes import Crop
from signlang.data.collection import data_set_classes, read_data_set, resolved_sets
from signlang.data.datamodule import balanced
from signlang.data.index import Index
from signlang.data.sources import images_root
from signlang.data.splits import ByDataSet, BySigner, split_subsets
from signlang.errors import DataError, SettingError


def write_set(root: Path, classes: dict[str, int], signers: int = 3, shift: int = 0) -> Path:
    """Class folders of so many images each, with signers 0, 1, ... in a table."""
    colours, rows = list(COLOURS.values()), ["path,signer"]
    rng = np.random.default_rng(shift)
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for take in range(count):
            noise = rng.integers(-30, 30, (32, 32, 3)) + shift
            pixels = np.clip(np.array(colours[number % 3]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{take}.png")
            rows.append(f"{name}/{take}.png,{take % signers}")
    if signers:
        (root / "signers.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sets")
    return {
        "one": write_set(place / "one", {"A": 9, "B": 9, "C": 9}),
        "two": write_set(place / "two", {"a": 24, "B": 24, "D": 6}, shift=9),
    }


def read(folders: dict[str, Path], cache_dir: Path, **data: Any) -> Index:
    sets = {name: str(root) for name, root in folders.items()}
    return read_data_set({"sets": sets, **data}, str(cache_dir))


def test_classes_are_joined_by_name_and_people_are_not(
    folders: dict[str, Path], cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "signlang")
    index = read(folders, cache_dir)
    assert index.classes == ("A", "B", "C", "D")
    assert index.counts.tolist() == [33, 33, 9, 6]
    assert index.sets is not None
    assert index.signers is not None
    assert (len(index), index.sets.count("one")) == (81, 27)
    assert set(index.signers) == {f"{name}/{n}" for name in ("one", "two") for n in range(3)}
    assert all((index.root / path).is_file() for path in index.paths)
    assert "two: a as A" in caplog.text
    assert "2 of 4 classes are in one set only (C, D)" in caplog.text
    names = data_set_classes({"sets": {n: str(f) for n, f in folders.items()}}, str(cache_dir))
    assert tuple(names) == index.classes


def test_common_classes_and_a_mapping(
    folders: dict[str, Path], cache_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(folders, cache_dir, classes="common").classes == ("A", "B")
    file = tmp_path / "mapping.yaml"
    file.write_text("one: {C: null}\ntwo: {D: C, a: Alpha}\n")
    index = read(folders, cache_dir, mapping=str(file))
    assert index.classes == ("A", "Alpha", "B", "C")
    assert index.counts.tolist() == [9, 24, 33, 6]
    assert "one: 9 images of C are left out" in caplog.text
    for text, message in (
        ("on: {C: null}", "names the set on, which is none of the sets. Did you mean one"),
        ("one: {c: null}", "one has no class c"),
        ("one: [C]", "must map each set to its classes"),
        ("one: {C: null", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(SettingError, match=message):
            read(folders, cache_dir, mapping=str(file))
    file.write_text("one: {A: X, B: Y, C: Z}")
    with pytest.raises(DataError, match="have 0 classes in common"):
        read(folders, cache_dir, mapping=str(file), classes="common")


def test_each_set_is_tested_by_what_the_others_teach(
    folders: dict[str, Path], cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = read(folders, cache_dir)
    assert index.sets is not None
    sets, signers = np.array(index.sets), np.array(index.signers)
    for fold, (tested, classes) in enumerate({"one": {"A", "B"}, "two": {"A", "B"}}.items()):
        subsets = split_subsets(index, ByDataSet(), folds=2, fold=fold)
        assert set(sets[subsets.test]) == {tested}
        assert {index.classes[label] for label in index.labels[subsets.test]} == classes
        assert tested not in sets[np.concatenate([subsets.train, subsets.validation])]
        assert not set(signers[subsets.train]) & set(signers[subsets.validation])
    assert "9 of 27 test images are left out: only their own set has C" in caplog.text
    with pytest.raises(DataError, match="there are 2 sets, so folds=2"):
        split_subsets(index, ByDataSet(), folds=3)


def test_classes_can_be_listed(folders: dict[str, Path], cache_dir: Path) -> None:
    index = read(folders, cache_dir, classes=["b", "D"])
    assert index.classes == ("B", "D")
    assert set(index.sets or ()) == {"one", "two"}
    with pytest.raises(SettingError, match="no set has the class E"):
        read(folders, cache_dir, classes=["A", "E"])


def test_only_named_sets_are_trained_on(folders: dict[str, Path], cache_dir: Path) -> None:
    three = {**folders, "three": folders["two"]}
    index = read(three, cache_dir)
    sets = np.array(index.sets)
    subsets = split_subsets(index, ByDataSet(["two"]), folds=3, fold=0)
    assert set(sets[subsets.test]) == {"one"}
    assert set(sets[np.concatenate([subsets.train, subsets.validation])]) == {"two"}
    with pytest.raises(SettingError, match="two is the set that is tested"):
        split_subsets(index, ByDataSet(["two"]), folds=3, fold=1)
    with pytest.raises(SettingError, match=r"split\.trained: tow is none of data\.sets"):
        split_subsets(index, ByDataSet(["tow"]), folds=3, fold=0)


def test_sets_have_settings_of_their_own(
    folders: dict[str, Path], cache_dir: Path, tmp_path: Path
) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,x,y,width,height\nA/0.png,2,4,10,20\n")
    alone = read_data_set(
        {
            "sets": {
                "one": {"root": str(folders["one"]), "signer": "ann"},
                "two": str(folders["two"]),
            }
        },
        str(cache_dir),
    )
    assert set(alone.signers or ()) == {"one/ann", "two/0", "two/1", "two/2"}
    one = {"root": str(folders["one"]), "boxes": str(boxes), "signers": None}
    data = {"sets": {"one": one, "two": str(folders["two"])}, "box_margin": 0.5}
    index = read_data_set(data, str(cache_dir))
    assert index.crop(index.paths.index("one/A/0.png")) == Crop(0, 0, 17, 32)
    assert index.cropped == 1
    assert index.signers is not None
    assert index.signers[index.paths.index("one/A/0.png")] == ""
    with pytest.raises(DataError, match="the signer of 27 of 81 images of one is unknown"):
        split_subsets(index, BySigner())
    groups = tmp_path / "groups.csv"
    groups.write_text("path,group\none/A/0.png,g\ntwo/a/0.png,g\n")
    assert read(folders, cache_dir, groups=str(groups)).groups is not None
    sources = {
        name: one["source"] for name, one in resolved_sets({"sets": ["digits", "/x/y"]}).items()
    }
    assert {name: str(s["_target_"]).rpartition(".")[2] for name, s in sources.items()} == {
        "digits": "digits", "y": "folder",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["digits"], "give two sets or more"),
        (["digits", "digits"], "two are called digits"),
        (["digits", "nowhere"], "nowhere is no data set of conf/data, and there is no such folder"),
        ({"digits": None, "b": {"rot": "x"}}, "b has no setting rot. Did you mean root"),
        ({"digits": None, "../b": "x"}, "cannot be the name of a set"),
    ],
)
def test_sets_that_cannot_be_are_named(sets: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        resolved_sets({"sets": sets})


def test_an_epoch_has_equal_shares_of_classes_sets_and_signers() -> None:
    labels = np.repeat([[0, 0, 0], [0, 1, 1], [0, 1, 2], [1, 0, 0]], [40, 10, 2, 8], axis=0)
    drawn = balanced(np.arange(60), labels, np.random.default_rng(0))
    kinds, counts = np.unique(labels[drawn], axis=0, return_counts=True)
    assert len(kinds) == 4
    assert dict(zip(map(tuple, kinds.tolist()), counts.tolist(), strict=True)) == pytest.approx(
        {(0, 0, 0): 15, (0, 1, 1): 7.5, (0, 1, 2): 7.5, (1, 0, 0): 30}, abs=1
    )


def test_a_run_on_joined_sets_has_figures_of_each(
    folders: dict[str, Path], cache_dir: Path, tmp_path: Path
) -> None:
    for name, root in folders.items():
        (tmp_path / name).symlink_to(root)
    words = [word for word in QUICK if not word.startswith(("data=", "folds="))]
    words += ["data=joined", "data.sets=[./one,./two]", "data.classes=common", "folds=3"]
    result = run_command(tmp_path, *words, "trainer.max_epochs=8", "callbacks.early_stopping=null")
    assert result.code == 0, result.err
    (run,) = tmp_path.glob("runs/one+two/*/fold=0")
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    with (run / "predictions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for name in ("one", "two"):
        own = [row for row in rows if row["set"] == name]
        right = sum(row["label"] == row["predicted"] for row in own) / len(own)
        assert metrics["test"]["per_set"][name]["images"] == len(own)
        assert metrics["test"]["per_set"][name]["accuracy"] == pytest.approx(right, abs=1e-6)
    assert str(images_root(run) / rows[0]["path"]).startswith(("one/", "two/", str(tmp_path)))
    result = run_command(tmp_path, f"run={run}", *words[-4:-1], "calibrate=true", verb="evaluate")
    assert result.code == 0, result.err  # the images of the run are found, and are the same
    (out,) = (tmp_path / "evaluations").iterdir()
    assert {row.split(",")[0] for row in (out / "per_set.csv").read_text().splitlines()} == {
        "set", "one", "two",
    }  # fmt: skip
