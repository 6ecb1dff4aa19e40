"""Folds: complete, disjoint, balanced, grouped, and the same wherever the files lie."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from signlang.data.image_io import ImageFacts
from signlang.data.index import Index
from signlang.data.splits import (
    ByBlocks,
    BySigner,
    Split,
    Stratified,
    Subsets,
    assign_folds,
    build_split,
    fold_numbers,
    group_ids,
    split_subsets,
)
from signlang.datacard.statistics import coverage
from signlang.errors import DataError, SettingError


def index_of(per_class: dict[str, int], signers: int = 0, stem: str = "frame") -> Index:
    rows = [
        (f"{name}/{stem}{n}.png", label, f"s{n % signers}" if signers else "")
        for label, (name, count) in enumerate(per_class.items())
        for n in range(count)
    ]
    rows.sort()
    paths, labels, people = zip(*rows, strict=True)
    return Index(
        root=Path("/data"),
        classes=tuple(per_class),
        paths=paths,
        labels=np.array(labels, dtype=np.int64),
        signers=people if signers else None,
        facts=tuple(ImageFacts(path, 1, 1, "PNG RGB", "") for path in paths),
    )


INDEX = index_of({"A": 50, "B": 100, "C": 150}, signers=30)
SPLITS: dict[str, Split] = {
    "stratified": Stratified(), "signer": BySigner(), "blocks": ByBlocks()
}  # fmt: skip


def subsets_of(index: Index = INDEX, split: str = "stratified", **more: Any) -> Subsets:
    return split_subsets(index, SPLITS[split], **more)


@pytest.mark.parametrize("split", ["stratified", "signer", "blocks"])
def test_every_image_is_tested_once_and_never_trained_on(split: str) -> None:
    tested = []
    for fold in range(5):
        parts = subsets_of(INDEX, split, fold=fold)
        together = np.concatenate([parts.train, parts.validation, parts.test])
        assert sorted(together) == list(range(300))
        for rows in (parts.train, parts.validation, parts.test):
            assert set(INDEX.labels[rows]) == {0, 1, 2}
        tested += parts.test.tolist()
    assert sorted(tested) == list(range(300))


def test_stratified_parts_have_equal_shares() -> None:
    parts = subsets_of(INDEX, fold=2)
    assert np.bincount(INDEX.labels[parts.test]).tolist() == [10, 20, 30]
    assert np.bincount(INDEX.labels[parts.validation]).tolist() == [4, 8, 12]


@pytest.mark.parametrize("split", ["signer", "blocks"])
def test_groups_stay_together_in_test_and_in_validation(split: str) -> None:
    groups = group_ids(SPLITS[split], INDEX)
    assert groups is not None
    for fold in range(5):
        parts = subsets_of(INDEX, split, fold=fold)
        sets = [set(groups[rows]) for rows in (parts.train, parts.validation, parts.test)]
        assert not sets[0] & sets[1]
        assert not sets[0] & sets[2]
        assert not sets[1] & sets[2]


def test_blocks_are_runs_of_neighbouring_frames() -> None:
    groups = group_ids(ByBlocks(5), INDEX)
    assert groups is not None
    frames = {path: int(path.split("frame")[1][:-4]) for path in INDEX.paths}
    by_frame = sorted((f, g) for (p, f), g in zip(frames.items(), groups, strict=True) if "A/" in p)
    assert [group for _, group in by_frame] == [n // 10 for n in range(50)]


def test_the_seed_decides_and_nothing_else() -> None:
    same, other = subsets_of(INDEX, seed=1), subsets_of(INDEX, seed=2)
    assert np.array_equal(same.test, subsets_of(INDEX, seed=1).test)
    assert not np.array_equal(same.test, other.test)


def test_folds_stay_what_they_were() -> None:
    # fixed numbers: a release that deals differently must not pass unnoticed
    alone = assign_folds(np.repeat([0, 1], 6), None, 3, 0, ("A", "B"))
    assert alone.tolist() == [2, 1, 0, 1, 0, 2, 0, 1, 2, 0, 1, 2]
    grouped = assign_folds(np.tile([0, 1], 6), np.repeat(np.arange(6), 2), 3, 0, ("A", "B"))
    assert grouped.tolist() == [1, 1, 2, 2, 1, 1, 0, 0, 2, 2, 0, 0]


def test_the_optimistic_protocol_names_itself() -> None:
    parts = subsets_of(INDEX, validation="fold")
    assert np.array_equal(parts.validation, parts.test)
    assert set(parts.names(300)) == {"train", "validation+test"}
    assert set(subsets_of(INDEX).names(300)) == {"train", "validation", "test"}


def test_what_cannot_be_folded_is_refused_with_the_mend() -> None:
    with pytest.raises(DataError, match=r"fewer of A \(3\).*folds=3"):
        subsets_of(index_of({"A": 3, "B": 50}))
    with pytest.raises(DataError, match=r"who is in the images.*data\.signers"):
        subsets_of(index_of({"A": 20, "B": 20}), split="signer")
    with pytest.raises(DataError, match="as many groups"):
        subsets_of(index_of({"A": 20, "B": 20}, signers=3), split="signer")
    names = tuple(path.split("frame")[0] + "x.png" for path in INDEX.paths)
    nameless = Index(INDEX.root, INDEX.classes, names, INDEX.labels, None, INDEX.facts)
    with pytest.raises(DataError, match="frame number"):
        subsets_of(nameless, split="blocks")


def test_unknown_signers_are_not_taken_for_one_person() -> None:
    index = index_of({"A": 40, "B": 40}, signers=8)
    some = replace(index, signers=tuple("" if s == "s3" else s for s in index.signers or ()))
    with pytest.raises(DataError, match="signer of 10 of 80 images of /data is unknown"):
        group_ids(BySigner(), some)
    assert coverage(some.signers or (), some.labels, 2).unknown == 10
    assert "" not in coverage(some.signers or (), some.labels, 2).names


def test_a_fold_without_some_class_is_refused() -> None:
    index = index_of({"A": 40, "B": 40}, signers=8)
    rare = np.array([s if label == 0 else f"b{n % 2}" for n, (s, label) in enumerate(
        zip(index.signers or (), index.labels, strict=True))])  # fmt: skip
    lopsided = Index(index.root, index.classes, index.paths, index.labels, tuple(rare), index.facts)
    with pytest.raises(DataError, match=r"has no image of B.*folds=4"):
        subsets_of(lopsided, split="signer")


def test_two_images_of_a_class_leave_nothing_to_validate() -> None:
    with pytest.raises(DataError, match=r"No validation subset.*split\.validation=fold"):
        subsets_of(index_of({"A": 2, "B": 2}), folds=2)
    assert len(subsets_of(index_of({"A": 2, "B": 2}), folds=2, validation="fold").train) == 2


class Own(Split):
    """Returns what a test wants."""

    def __init__(self, groups: Any = None, folds: Any = None) -> None:
        self.own = {"groups": groups, "folds": folds}

    def groups(self, index: Index) -> Any:
        return self.own["groups"]

    def folds(self, index: Index, count: int, seed: int) -> Any:
        own = self.own["folds"]
        return super().folds(index, count, seed) if own is None else own


def test_a_split_of_ones_own_keeps_its_groups_together_and_may_name_the_folds() -> None:
    days = [f"day {n % 12}" for n in range(300)]
    groups = group_ids(Own(groups=days), INDEX)
    assert groups is not None
    for fold in range(5):
        parts = split_subsets(INDEX, Own(groups=days), fold=fold)
        held = [{days[row] for row in rows} for rows in (parts.train, parts.validation, parts.test)]
        assert not held[0] & held[1]
        assert not (held[0] | held[1]) & held[2]
    numbers = np.arange(300) % 5
    assert np.array_equal(fold_numbers(Own(folds=numbers.tolist()), INDEX, 5, 0), numbers)
    assert split_subsets(INDEX, Own(folds=numbers), fold=3).test.tolist() == list(range(3, 300, 5))


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (Own(folds=np.zeros(299, int)), r"Own\.folds must return one value per image.*\(300,\)"),
        (Own(groups=[1, 2]), r"Own\.groups must return one value per image.*\(300,\).*\(2,\)"),
        (Own(folds=np.zeros(300)), r"must return integers.*float64"),
        (Own(folds=["0"] * 300), r"must return integers"),
        (Own(folds=np.arange(300) % 5 + 1), r"returns fold 5; with folds=5 they are 0 to 4"),
        (Own(folds=np.arange(300) % 5 - 1), r"returns fold -1"),
        (Own(folds=np.arange(300) % 4), r"leaves fold 4 empty: use fewer than folds=5"),
        (Own(folds=np.where(INDEX.labels == 1, np.arange(300) % 4, np.arange(300) % 5)),
         r"fold 4 without an image of B"),
    ],
)  # fmt: skip
def test_a_split_that_breaks_the_contract_is_refused(own: Split, sentence: str) -> None:
    with pytest.raises((SettingError, DataError), match=sentence):
        split_subsets(INDEX, own)


def test_a_split_must_be_one() -> None:
    with pytest.raises(SettingError, match=r"returns Counter; it must be a class that derives"):
        build_split({"_target_": "collections.Counter", "name": "x", "seed": 0})
    assert build_split({"_target_": "signlang.data.splits.ByBlocks", "blocks": 3}).__dict__ == {
        "blocks": 3
    }
