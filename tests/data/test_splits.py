"""Folds: complete, disjoint, balanced, grouped, and the same wherever the files lie."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from signlang.data.image_io import ImageFacts
from signlang.data.index import Index, Subsets, frame_number
from signlang.data.splits import (
    ByBlocks,
    ByGroup,
    BySigner,
    Fold,
    Given,
    Split,
    Stratified,
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
        subsets = subsets_of(INDEX, split, fold=fold)
        together = np.concatenate([subsets.train, subsets.validation, subsets.test])
        assert sorted(together) == list(range(300))
        for rows in (subsets.train, subsets.validation, subsets.test):
            assert set(INDEX.labels[rows]) == {0, 1, 2}
        tested += subsets.test.tolist()
    assert sorted(tested) == list(range(300))


def test_stratified_folds_have_equal_shares() -> None:
    subsets = subsets_of(INDEX, fold=2)
    assert np.bincount(INDEX.labels[subsets.test]).tolist() == [10, 20, 30]
    assert np.bincount(INDEX.labels[subsets.validation]).tolist() == [4, 8, 12]


@pytest.mark.parametrize("split", ["signer", "blocks"])
def test_groups_stay_together_in_test_and_in_validation(split: str) -> None:
    groups = group_ids(SPLITS[split], INDEX)
    assert groups is not None
    for fold in range(5):
        subsets = subsets_of(INDEX, split, fold=fold)
        sets = [set(groups[rows]) for rows in (subsets.train, subsets.validation, subsets.test)]
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
    subsets = subsets_of(INDEX, validation="fold")
    assert np.array_equal(subsets.validation, subsets.test)
    assert set(subsets.names(300)) == {"train", "validation+test"}
    assert set(subsets_of(INDEX).names(300)) == {"train", "validation", "test"}


def test_what_cannot_be_folded_is_refused_with_the_fix() -> None:
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


@pytest.mark.parametrize(
    ("counts", "folds", "hint"),
    [
        ({"A": 3, "B": 2, "C": 9}, 4, r"fewer of A \(3\), B \(2\)\. Use folds=2, or add"),
        ({"A": 4, "B": 9}, 5, r"fewer of A \(4\)\. Use folds=4, or add"),
        ({"A": 1, "B": 9}, 5, r"fewer of A \(1\)\. Add images of it, or leave it out"),
    ],
)
def test_the_largest_number_of_folds_that_works_is_named(
    counts: dict[str, int], folds: int, hint: str
) -> None:
    with pytest.raises(DataError, match=hint):
        subsets_of(index_of(counts), folds=folds)


def test_as_many_images_or_groups_as_folds_are_enough() -> None:
    assert len(subsets_of(index_of({"A": 4, "B": 4}), folds=4).test) == 2
    index = index_of({"A": 40, "B": 40}, signers=5)
    assert len(subsets_of(index, split="signer", folds=5, validation="fold").test) == 16
    with pytest.raises(DataError, match="6 folds need as many groups, but there are 5"):
        subsets_of(index, split="signer", folds=6)


@pytest.mark.parametrize(
    ("share", "held"), [(0.1, 8), (0.2, 16), (0.3, 27), (0.5, 40), (0.6, 40), (0.01, 2)]
)
def test_the_validation_subset_is_one_part_in_a_whole_number(share: float, held: int) -> None:
    subsets = subsets_of(index_of({"A": 50, "B": 50}), folds=5, validation=share)
    assert len(subsets.train) + len(subsets.validation) == 80
    assert len(subsets.validation) == pytest.approx(held, abs=1)


def test_few_groups_make_a_larger_validation_subset() -> None:
    # four of five signers are left, and each must stay whole: a quarter, not a tenth
    subsets = subsets_of(index_of({"A": 50, "B": 50}, signers=5), split="signer", folds=5)
    assert len(subsets.validation) == 20
    # of one class there are two signers only: half of what is left of them
    people = [f"s{n % (2 if label else 5)}" for label in (0, 1) for n in range(50)]
    index = replace(index_of({"A": 50, "B": 50}, signers=5), signers=tuple(people))
    with pytest.raises(DataError, match="fold"):
        subsets_of(index, split="signer", folds=3)


def test_ten_blocks_of_each_class_unless_told() -> None:
    index = index_of({"A": 30, "B": 60})
    for blocks, options in ((10, {}), (4, {"blocks": 4})):
        groups = group_ids(ByBlocks(**options), index)
        assert groups is not None
        assert sorted(set(groups)) == list(range(2 * blocks))
        for label in (0, 1):
            mine = np.bincount(groups[index.labels == label])[label * blocks :]
            assert mine.max() - mine.min() <= 1
            assert len(mine) == blocks


def test_frames_are_ordered_by_the_last_number_of_the_name() -> None:
    paths = ("A2/9_take3.png", "A2/take1_10.png", "A2/take2_9.png", "A2/007.png")
    assert [frame_number(path) for path in paths] == [3, 10, 9, 7]
    assert frame_number("A2/x.jp2") is None
    some = replace(index_of({"A": 20, "B": 20}), signers=None)
    nameless = replace(some, paths=("A/x.png", "A/y.png", *some.paths[2:]))
    with pytest.raises(DataError, match=r"A/x\.png and 1 others of /data have none"):
        group_ids(ByBlocks(), nameless)


def frames_and_films(index: Index) -> tuple[Any, Any]:
    """Frame number and class of each image."""
    return np.array([frame_number(path) for path in index.paths]), index.labels


@pytest.mark.parametrize("validation", [0.1, "fold"])
@pytest.mark.parametrize("gap", [0, 1, 4, 9])
def test_no_frame_within_the_gap_of_a_tested_one_is_learned_from(
    gap: int, validation: float | str
) -> None:
    index, least = index_of({"A": 100, "B": 130}), set()
    numbers, films = frames_and_films(index)
    without = [split_subsets(index, ByBlocks(), fold=fold) for fold in range(5)]
    for fold in range(5):
        split = ByBlocks(gap=gap)
        subsets = split_subsets(index, split, fold=fold, validation=validation)
        assert np.array_equal(subsets.test, without[fold].test), "the folds do not depend on it"
        learned = subsets.train
        if validation != "fold":
            learned = np.concatenate([subsets.train, subsets.validation])
        for film in (0, 1):
            tested = numbers[[row for row in subsets.test if films[row] == film]]
            seen = numbers[[row for row in learned if films[row] == film]]
            distances = np.abs(seen[:, None] - tested[None, :]).min(1)
            least.add(int(distances.min()))
            expected = [n for n in range(100 if film == 0 else 130)
                        if np.abs(n - tested).min() > gap]  # fmt: skip
            assert sorted(seen) == expected, "and nothing else is left out"
        names = subsets.names(len(index))
        assert ("unused" in names) == (gap > 0)
    assert least == {gap + 1}


def test_a_gap_that_leaves_nothing_to_learn_from_is_refused() -> None:
    index = index_of({"A": 400, "B": 50})
    with pytest.raises(DataError, match=r"split\.gap=60 leaves no training image of B when fold 0"):
        split_subsets(index, ByBlocks(gap=60))


class NextDoor(Split):
    """Leaves out what a test wants."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def left_out(self, index: Index, test: Any) -> Any:
        return self.values


def test_a_split_of_ones_own_may_leave_images_out() -> None:
    out = np.arange(300) % 7 == 0
    subsets = split_subsets(INDEX, NextDoor(out.tolist()), fold=1)
    learned = np.concatenate([subsets.train, subsets.validation])
    assert not out[learned].any()
    assert len(learned) + len(subsets.test) + int(out.sum() - out[subsets.test].sum()) == 300
    for values, sentence in (
        (np.arange(300), r"NextDoor\.left_out must return booleans; it returns int64"),
        ([True], r"NextDoor\.left_out must return one value per image"),
        (np.ones(300, bool), r"NextDoor\.left_out leaves no training image of A, B, C when fold 0"),
    ):
        with pytest.raises((SettingError, DataError), match=sentence):
            split_subsets(INDEX, NextDoor(values))


def test_a_class_of_too_few_signers_says_what_to_do() -> None:
    index = index_of({"A": 40, "B": 40}, signers=8)
    people = tuple(s if label == 0 else "b" for s, label in zip(
        index.signers or (), index.labels, strict=True))  # fmt: skip
    for folds, words in ((3, r"Use fewer folds \(folds=2\)"), (2, "even with 2 folds: use split")):
        with pytest.raises(DataError, match=rf"has no image of B.*{words}"):
            subsets_of(replace(index, signers=people), split="signer", folds=folds)


def test_a_batch_must_fit_into_the_training_subset(tiny: Path, tmp_path: Path) -> None:
    def fold(batch_size: int) -> Fold:
        data = {"source": {"_target_": "signlang.data.sources.folder"}, "root": str(tiny),
                "signers": None, "on_bad_image": "error"}  # fmt: skip
        split = {"_target_": "signlang.data.splits.Stratified", "name": "stratified", "seed": 0,
                 "validation": 0.25}  # fmt: skip
        return Fold(data=data, split=split, folds=3, fold=0, batch_size=batch_size,
                    cache_dir=str(tmp_path))  # fmt: skip

    count = len(fold(1).subsets.train)
    assert count == 18
    assert len(fold(count).subsets.train) == count
    with pytest.raises(DataError, match=r"batch_size=19 is more than the 18 .* batch_size=18"):
        fold(count + 1).subsets  # noqa: B018


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
        subsets = split_subsets(INDEX, Own(groups=days), fold=fold)
        held = [
            {days[row] for row in rows}
            for rows in (subsets.train, subsets.validation, subsets.test)
        ]
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
        "blocks": 3,
        "gap": 0,
    }


def named(paths: list[str], **more: Any) -> Index:
    """An index of images A/... and B/..., sorted, with more of its properties."""
    labels = np.array(["AB".index(path[0]) for path in paths], dtype=np.int64)
    facts = tuple(ImageFacts(path, 1, 1, "PNG RGB", "") for path in paths)
    index = Index(Path("/data"), ("A", "B"), tuple(paths), labels, None, facts)
    return replace(index, **more)


COPIES = named(
    [f"{c}/{c}{n}_jpg.rf.{n}{k}0f1e2d3c4b5a.jpg" for c in "AB" for n in range(8) for k in range(3)]
)


def test_copies_groups_and_equal_files_stay_in_one_fold() -> None:
    facts = list(COPIES.facts)
    facts[0] = facts[47]  # equal files of A0 and B7
    groups = tuple("film" if n in (3, 9) else "" for n in range(48))  # A1 and A3
    index = replace(COPIES, facts=tuple(facts), groups=groups)
    numbers = group_ids(ByGroup(), index)
    assert numbers is not None
    assert len(set(numbers)) == 14, "of 16 sources, two pairs are joined"
    assert numbers[0] == numbers[1] == numbers[47]
    assert numbers[3] == numbers[9] != numbers[6]
    folds = fold_numbers(ByGroup(), index, 4, 0)
    for number in range(14):
        assert len(set(folds[numbers == number])) == 1
    assert str(index.clusters) == "15 groups"  # A1 and A3 are one film
    assert str(replace(index, groups=None).clusters) == "16 source images"


def test_groups_that_are_not_known_are_an_error_with_the_ways_to_give_them() -> None:
    with pytest.raises(DataError, match=r"no groups are known .* data\.groups=FILE"):
        split_subsets(INDEX, ByGroup())


SUBSETS = tuple(s for _ in "AB" for s in ("train",) * 6 + ("validation",) * 2 + ("test",) * 2)


def with_subsets(names: tuple[str, ...] | None) -> Index:
    return named([f"{c}/{n}.png" for c in "AB" for n in range(10)], given=names)


def test_given_subsets_are_taken_as_they_are() -> None:
    subsets = split_subsets(with_subsets(SUBSETS), Given(), folds=1)
    assert subsets.train.tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
    assert subsets.validation.tolist() == [6, 7, 16, 17]
    assert subsets.test.tolist() == [8, 9, 18, 19]
    none = tuple({"validation": "unused"}.get(name, name) for name in SUBSETS)
    cut = split_subsets(with_subsets(none), Given(), folds=1, validation=0.34)
    assert cut.test.tolist() == [8, 9, 18, 19]
    assert sorted([*cut.train, *cut.validation]) == subsets.train.tolist()
    assert len(cut.validation) == 4
    with pytest.raises(SettingError, match=r"folds=5: add \+split\.folds=1"):
        split_subsets(with_subsets(SUBSETS), Given())
    same = split_subsets(with_subsets(SUBSETS), Given(), folds=1, validation="fold")
    assert same.validation.tolist() == same.test.tolist() == [8, 9, 18, 19]
    assert (
        fold_numbers(Given(), with_subsets(SUBSETS), 1, 0).tolist()
        == [1] * 8 + [0] * 2 + [1] * 8 + [0] * 2
    )


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (None, r"brings no subsets\. They are folders train, valid and test"),
        (("train",) * 20, "The test subset of /data has no image of A, B"),
        (("train",) * 15 + ("test",) * 5, "The test subset of /data has no image of A"),
        (("test",) + ("extra",) * 19, "are extra; they must be train, validation and test"),
    ],
)
def test_given_subsets_that_cannot_be_used_are_named(
    names: tuple[str, ...] | None, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        split_subsets(with_subsets(names), Given(), folds=1)
