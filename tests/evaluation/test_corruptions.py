"""`signlang.evaluate corruptions=...`: accuracy on damaged images."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Result, run_command
from hydra import compose, initialize_config_dir
from PIL import Image, ImageOps

from signlang.data.image_io import digest_of
from signlang.errors import SettingError
from signlang.evaluate import evaluate
from signlang.evaluation.corruptions import KINDS, corrupt
from signlang.hands.finder import Hand
from signlang.hydra_app import quoted
from signlang.metrics.significance import clustered_interval
from signlang.validation import CORRUPTIONS

RANDOM = set(CORRUPTIONS) - {"blur", "jpeg", "mirror"}  # the others have one form of each grade
MOVING = {"rotation", "scale", "shift"}  # far enough, another part may look alike


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def evaluated(place: Path, *words: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        quoted_words = [quoted(word) for word in (*words, f"out={place / 'out'}")]
        evaluate(compose("evaluate", overrides=quoted_words))
    content: dict[str, Any] = json.loads((place / "out" / "metrics.json").read_text("utf-8"))
    return content


def corrupted_copy(tiny: Path, folder: Path, kind: str, grade: int) -> Path:
    """The tiny images as files that are corrupted already."""
    for file in tiny.rglob("*.png"):
        target = folder / file.relative_to(tiny)
        target.parent.mkdir(parents=True, exist_ok=True)
        seed = int(digest_of(file.read_bytes())[:8], 16)
        corrupt(Image.open(file).convert("RGB"), kind, grade, seed).save(target)
    (folder / "signers.csv").write_bytes((tiny / "signers.csv").read_bytes())
    return folder


@pytest.fixture(scope="module")
def whole(
    trained: Path, tiny: Path, made_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """All corruptions of a run, by the public command, on a screen of 80 columns."""
    place = tmp_path_factory.mktemp("whole")
    words = [f"run={trained}", f"data.root={tiny}", "corruptions=true", "out=out"]
    result = run_command(place, *words, verb="evaluate", COLUMNS="80")
    assert result.code == 0, result.err
    return place / "out", result


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(40, 216, (9, 7, 3), dtype=np.uint8))
    return coarse.resize((120, 160), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def hand() -> Hand:
    points = np.zeros((21, 3), np.float32)
    points[:, :2] = np.random.default_rng(0).uniform(50, 75, (21, 2))
    return Hand(points, 1.0, 1.0)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_grades_rise_and_seeds_decide(kind: str, photograph: Image.Image, hand: Hand) -> None:
    grades = range(1, len(KINDS[kind].amounts) + 1)
    assert len(grades) == (1 if kind == "mirror" else 5)
    for seed in (0, 3):
        made = [corrupt(photograph, kind, grade, seed, hand) for grade in grades]
        assert {image.size for image in made} == {photograph.size}
        changes = [difference(photograph, image) for image in made]
        assert changes[0] > 0.05
        assert changes[0] == min(changes)
        assert kind in MOVING or changes == sorted(changes)
    again = corrupt(photograph, kind, 1, 3, hand)
    assert difference(again, made[0]) == 0
    others = [corrupt(photograph, kind, 1, seed, hand) for seed in range(12)]
    assert any(difference(again, other) > 0 for other in others) == (kind in RANDOM)


@pytest.mark.parametrize("kind", ["blur", "motion_blur", "shift", "occlusion", "background"])
def test_what_has_a_length_grows_with_the_image(
    kind: str, photograph: Image.Image, hand: Hand
) -> None:
    large = photograph.resize((480, 640), Image.Resampling.BICUBIC)
    larger = Hand(hand.points * 4, 1.0, 1.0)
    small = corrupt(photograph, kind, 4, 5, hand)
    shrunk = corrupt(large, kind, 4, 5, larger).resize(small.size, Image.Resampling.BOX)
    assert difference(small, shrunk) < 0.4 * difference(photograph, small)


def test_a_new_background_leaves_the_hand(photograph: Image.Image, hand: Hand) -> None:
    made = np.asarray(corrupt(photograph, "background", 5, 0, hand), np.int64)
    before = np.asarray(photograph, np.int64)
    left, top, right, bottom = map(round, hand.box)
    inside = made[top + 8 : bottom - 8, left + 8 : right - 8]
    assert (inside == before[top + 8 : bottom - 8, left + 8 : right - 8]).all()
    assert (np.abs(made - before)[:20].max(axis=2) > 0).mean() > 0.9


def test_all_of_them_are_in_the_table_and_on_the_screen(whole: tuple[Path, Result]) -> None:
    out, result = whole
    rows = rows_of(out / "corruptions.csv")
    expected = [("none", "0")]
    expected += [(k, str(g)) for k in CORRUPTIONS for g in range(1, len(KINDS[k].amounts) + 1)]
    assert [(row["corruption"], row["grade"]) for row in rows] == expected
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    assert float(rows[0]["accuracy"]) == pytest.approx(metrics["test"]["accuracy"], abs=1e-6)
    scores = metrics["corruptions"]["scores"]
    assert [one["accuracy"]["count"] for one in scores] == [int(r["recognised"]) for r in rows[1:]]
    assert "56 of 36 images, 2,016 predictions" in result.err
    table = result.out.split("corrupted images")[1]
    assert max(map(len, table.splitlines())) <= 80
    assert "left out" not in table
    for row in rows[1:]:
        assert f"{float(row['accuracy']):.3f}" in table
        assert f"{float(row['low']):.2f}-{float(row['high']):.2f}" in table
    assert "no hand" not in table
    report = (out / "report.html").read_text("utf-8")
    assert ">Robustness</h2>" in report
    assert {"robustness.png", "corrupted.png"} <= {f.name for f in (out / "figures").iterdir()}


@pytest.mark.parametrize(("kind", "grade"), [("contrast", 5), ("occlusion", 5), ("noise", 4)])
def test_corruptions_count_as_corrupted_files_would(
    kind: str, grade: int, whole: tuple[Path, Result], trained: Path, tiny: Path, tmp_path: Path
) -> None:
    data = corrupted_copy(tiny, tmp_path / "data", kind, grade)
    metrics = evaluated(tmp_path, f"run={trained}", f"data.root={data}")
    (row,) = [
        row
        for row in rows_of(whole[0] / "corruptions.csv")
        if (row["corruption"], row["grade"]) == (kind, str(grade))
    ]
    assert float(row["accuracy"]) == pytest.approx(metrics["test"]["accuracy"], abs=1e-6)
    predicted = rows_of(tmp_path / "out" / "predictions.csv")
    correct = np.array([one["label"] == one["predicted"] for one in predicted])
    signer = {one["path"]: one["signer"] for one in rows_of(data / "signers.csv")}
    interval = clustered_interval(correct, np.array([signer[one["path"]] for one in predicted]))
    assert [float(row["low"]), float(row["high"])] == pytest.approx(interval, abs=1e-6)


def test_a_bundle_and_a_mirror(exported: tuple[Path, Result], tiny: Path, tmp_path: Path) -> None:
    for file in tiny.rglob("*.png"):
        target = tmp_path / "mirrored" / file.relative_to(tiny)
        target.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.mirror(Image.open(file).convert("RGB")).save(target)
    words = [f"bundle={exported[0]}", f"data.root={tmp_path / 'mirrored'}"]
    expected = evaluated(tmp_path, *words)["test"]["accuracy"]
    metrics = evaluated(tmp_path, words[0], f"data.root={tiny}", "corruptions=mirror")
    (score,) = metrics["corruptions"]["scores"]
    assert (score["corruption"], score["accuracy"]["share"]) == ("mirror", expected)


def test_images_without_a_hand_have_no_background_to_replace(
    trained: Path, some_without: Path, made_cache: Path, tmp_path: Path
) -> None:
    words = [f"run={trained}", f"data.root={some_without}", "corruptions=[background,jpeg]"]
    metrics = evaluated(tmp_path, *words)
    counts = {s["corruption"]: s["accuracy"]["of"] for s in metrics["corruptions"]["scores"]}
    assert counts == {"background": 33, "jpeg": 36}
    assert any("3 images in which no hand is found are left out" in r for r in metrics["remarks"])


def test_backgrounds_need_the_hand_networks(trained: Path, tiny: Path, tmp_path: Path) -> None:
    words: Sequence[str] = [f"run={trained}", f"data.root={tiny}", f"cache_dir={tmp_path}/empty"]
    with pytest.raises(SettingError, match=r"corruptions=\[background\]: The hand networks are"):
        evaluated(tmp_path, *words, "corruptions=[mirror,background]")
    metrics = evaluated(tmp_path, *words, "corruptions=true")
    kinds = {score["corruption"] for score in metrics["corruptions"]["scores"]}
    assert kinds == set(CORRUPTIONS) - {"background"}
    assert any(remark.startswith("background is left out.") for remark in metrics["remarks"])


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("corruptions=[blurr]", "blurr is no corruption; true tries all. Did you mean blur?"),
        ("corruptions=fog", "fog is no corruption"),
        ("corruptions=3", "3 is no corruption"),
    ],
)
def test_other_corruptions_are_refused(word: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as error:
        evaluated(tmp_path, "run=.", "data.root=.", word)
    assert sentence in str(error.value)
