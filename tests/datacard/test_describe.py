"""Data cards of `signlang.describe` on generated folders of images."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

from signlang.data import image_io, index
from signlang.datacard import duplicates, label_errors, statistics
from signlang.errors import DataError
from signlang.hands.finder import Hand
from signlang.hands.hand_networks import HandNetworks
from signlang.reporting.page import Notes, Page, Section, Table, Text

SIZE = 64
EXIF_ORIENTATION = 0x0112


def image(seed: int, size: int = SIZE) -> Image.Image:
    """Draw smooth random blobs, as unlike another seed's as two photographs."""
    rough = np.random.default_rng(seed).integers(0, 200, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC)


def write_images(root: Path, classes: str = "ABC", each: int = 6) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for take in range(each):
            image(100 * number + take).save(root / name / f"{take}.png")
    return root


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "signlang.describe", *words],
        cwd=folder,
        env={**os.environ, "SIGNLANG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def vector(drawn: Image.Image) -> npt.NDArray[np.float32]:
    return duplicates.vectors(image_io.resize_image(drawn.convert("RGB"), 32)[None])


def read(root: Path) -> index.Index:
    return index.read_index(root, cache_dir=str(root.parent / "cache"), on_bad_image="exclude")


class Reader(HTMLParser):
    """Tags of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card, by the public command, of a folder with one fault of every kind."""
    base = tmp_path_factory.mktemp("describe")
    root = write_images(base / "signs")
    (root / "B" / "copy.png").write_bytes((root / "A" / "0.png").read_bytes())
    ImageEnhance.Brightness(image(101)).enhance(1.05).save(root / "B" / "again.jpg", quality=70)
    (root / "C" / "broken.png").write_bytes((root / "C" / "0.png").read_bytes()[:90])
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    image(900).save(root / "C" / "turned.jpg", exif=exif)
    image(901, size=8 * SIZE).save(root / "C" / "huge.png")
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*"))
    lines = [f"{name},{'ann' if n % 2 else 'bob'}" for n, name in enumerate(names)]
    (base / "signs" / "signers.csv").write_text("path,signer\n" + "\n".join(lines) + "\n")

    flipped = {"A/3.png"}
    with (base / "predictions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "predicted", "confidence", "p_A", "p_B", "p_C"])
        for name in names:
            if name != "C/broken.png":
                predicted = "B" if name in flipped else name[0]
                p = [0.9 if c == predicted else 0.05 for c in "ABC"]
                writer.writerow([name, name[0], predicted, 0.9, *p])

    done = run(
        base, "data=folder", f"data.root={root}", "folds=2", "split=signer",
        f"predictions=[{base / 'predictions.csv'}]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "probably wrong labels" in done.stdout
    return base / "cards" / "signs"


def test_two_folders_have_two_cards_with_their_names(tmp_path: Path) -> None:
    for name in ("hands", "people"):
        write_images(tmp_path / name, classes="AB", each=2)
        done = run(tmp_path, name, "folds=2", "samples=1")
        assert done.returncode == 0, done.stderr
        assert f"data card of {name}" in done.stdout
    for name in ("hands", "people"):
        assert f"# Data card: {name}\n" in (tmp_path / "cards" / name / "card.md").read_text()


def test_augmented_copies_are_leaks_and_are_offered_as_groups(tmp_path: Path) -> None:
    root = tmp_path / "exported"
    for number, name in enumerate("AB"):
        (root / name).mkdir(parents=True)
        for take in range(6):
            for copy in range(3):  # as unlike as a flip and a crop
                file = f"{name}{take}_jpg.rf.{take}{copy}0f1e2d3c4b5a.jpg"
                image(1000 * number + 10 * take + copy).save(root / name / file)
    done = run(tmp_path, "exported", "folds=3", "samples=1")
    assert done.returncode == 0, done.stderr
    assert "0 pairs" in done.stdout
    assert re.search(r"augmented copies\W+36 images, by their names", done.stdout)
    leak = re.search(r"in another fold too\W+([\d.]+)%", done.stdout)
    assert leak is not None
    assert float(leak[1]) > 50
    words = "split=group data.groups=cards/exported/groups.csv"
    assert f"  {words}" in done.stdout.splitlines()
    groups = rows_of(tmp_path / "cards" / "exported" / "groups.csv")
    assert (len(groups), len({row["group"] for row in groups})) == (36, 12)
    page = (tmp_path / "cards" / "exported" / "card.md").read_text()
    assert "36 images (100.0%) are augmented copies of one another" in page
    assert "have a copy, duplicate or near duplicate in its training subset" in page
    again = run(tmp_path, "exported", "folds=3", "samples=1", *words.split())
    assert again.returncode == 0, again.stderr
    assert re.search(r"in another fold too\W+0\.0%", again.stdout)
    assert "To keep" not in again.stdout


def test_exact_duplicate_across_classes_is_found(described: Path) -> None:
    rows = {row["path"]: row for row in rows_of(described / "duplicates.csv")}
    assert rows["A/0.png"]["other_class"] == "B/copy.png"
    assert float(rows["A/0.png"]["similarity"]) == 1
    assert "1 pair of equal images has different labels" in (described / "card.md").read_text()


def test_near_duplicate_is_found_and_nothing_else(described: Path) -> None:
    nearest = {row["path"]: row["nearest"] for row in rows_of(described / "duplicates.csv")}
    assert nearest["B/again.jpg"] == "B/1.png"
    assert set(nearest) == {"A/0.png", "B/copy.png", "B/again.jpg", "B/1.png"}


def test_bad_and_odd_files_are_listed(described: Path) -> None:
    files = {row["path"]: (row["state"], row["reason"]) for row in rows_of(described / "files.csv")}
    assert files["C/broken.png"][0] == "unusable"
    assert files["C/turned.jpg"] == ("odd", "turned by EXIF")
    assert files["C/huge.png"] == ("odd", "512 x 512 pixels where 64 x 64 is usual")
    assert set(files) == {"C/broken.png", "C/turned.jpg", "C/huge.png"}
    assert "C/<wbr>broken.png" in (described / "card.html").read_text()


def test_flipped_label_is_found(described: Path) -> None:
    rows = rows_of(described / "suspicious.csv")
    assert [(row["path"], row["label"], row["suggested"]) for row in rows] == [
        ("A/3.png", "A", "B")
    ]


def test_page_needs_nothing_else_and_every_image_has_words(described: Path) -> None:
    text = (described / "card.html").read_text()
    page = Reader(text)
    assert "http" not in text
    assert "url(" not in text
    images = page.all("img")
    assert len(images) > 8
    assert all(image["alt"] and (image["src"] or "").startswith("data:image/") for image in images)
    assert all(row.get("scope") in {"row", "col"} for row in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert "prefers-color-scheme: dark" in text


def test_markdown_shows_images_that_are_there(described: Path) -> None:
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (described / "card.md").read_text())
    assert len(names) == len(Reader((described / "card.html").read_text()).all("img"))
    for name in names:
        with Image.open(described / name) as opened:
            opened.load()
    assert {p.name for p in (described / "figures").iterdir()} == {Path(n).name for n in names}


def test_second_card_drops_what_the_first_one_left(described: Path) -> None:
    out = described.parent / "again"
    root = f"data.root={described.parent.parent / 'signs'}"
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "duplicates-077.png").write_bytes(b"")
    (out / "figures" / "mine.png").write_bytes(b"")
    (out / "suspicious.csv").write_text("path\n")
    done = run(
        described.parent.parent, "data=folder", root, f"out={out}", "split=blocks", "folds=3"
    )
    assert done.returncode == 0, done.stderr
    assert not (out / "suspicious.csv").exists()
    assert {"mine.png"} == {p.name for p in (out / "figures").iterdir()} & {
        "mine.png", "duplicates-077.png",
    }  # fmt: skip
    text = (out / "card.md").read_text()
    assert "There are no folds" in text  # the files have no frame numbers
    assert "not known" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["near=2"], "near=2: it must be a correlation"),
        (["predictions=nowhere"], "predictions=nowhere: there is no such folder, and no run in"),
        (["predictions=1.5"], "predictions=1.5: it must be"),
        (["out=null"], "out=null: it must be"),
        (["runs_dir=true"], "runs_dir=true: it must be"),
    ],
)
def test_bad_settings_get_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode in {1, 2}
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


def test_digits_alone_are_text(tmp_path: Path) -> None:
    write_images(tmp_path / "2024", classes="AB", each=2)
    for word, sentence in (
        ("data.signers=10", "There is no file 10: data.signers names a CSV file"),
        ("data.pattern=5", "data.pattern=5: it must hold {label}"),
    ):
        done = run(tmp_path, "data=folder", "data.root=2024", word)
        assert done.returncode in {1, 2}
        assert done.stderr.startswith(sentence)


def test_signers_can_be_ignored(tmp_path: Path) -> None:
    root = write_images(tmp_path / "2024")
    names = [f"{name}/{take}.png" for name in "ABC" for take in range(6)]
    (root / "signers.csv").write_text("path,signer\n" + "".join(f"{n},me\n" for n in names))
    for word, expected in (("data.signers=auto", "1"), ("data.signers=null", "unknown")):
        done = run(tmp_path, "data=folder", "data.root=2024", word, "out=card")
        assert done.returncode == 0, done.stderr
        assert re.search(rf"signers \W*{expected}", done.stdout), done.stdout


def test_predictions_are_named_as_runs_are(trained: Path, tiny: Path, tmp_path: Path) -> None:
    for number, word in enumerate(("latest", trained.parent.name)):
        done = run(
            tmp_path, f"data.root={tiny}", "data=folder", "folds=3", f"predictions='{word}'",
            f"runs_dir={trained.parents[2]}", "samples=1", f"out=card{number}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"card{number}" / "suspicious.csv").is_file()


def test_near_duplicates_survive_encoding_and_light_but_not_another_image() -> None:
    original = image(1)
    stream = io.BytesIO()
    original.save(stream, "JPEG", quality=60)
    changed = [
        Image.open(stream),
        ImageEnhance.Brightness(original).enhance(1.1),
        original.resize((SIZE // 2, SIZE // 2)),
    ]
    drawn = np.concatenate([vector(p) for p in [original, *changed, image(2)]])
    result = duplicates.find_duplicates(drawn, list("abcde"), np.zeros(5, dtype=np.int64), None)
    assert result.group.tolist() == [0, 0, 0, 0, -1]
    assert result.near.across_folds is None


def test_another_hand_before_the_same_wall_is_no_near_duplicate() -> None:
    wall = np.zeros((32, 32, 3), dtype=np.uint8)
    wall[:16] = 250
    one, other = wall.copy(), wall.copy()
    one[22:26, 8:12] = 110
    other[22:26, 20:24] = 110
    drawn = duplicates.vectors(np.stack([one, other]))
    assert drawn[0] @ drawn[1] > 0.98
    result = duplicates.find_duplicates(drawn, ["a", "b"], np.array([0, 1]), None)
    assert result.near.total == 0


@pytest.mark.parametrize(("many", "dense"), [(10_000, 100), (10_000, 1), (1, 100), (1, 10**9)])
def test_counts_agree_with_comparing_all_pairs(
    many: int, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MANY", many), ("DENSE", dense), ("SHORT", 4), ("TILE", 300)):
        monkeypatch.setattr(duplicates, name, value)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(60, 16)).astype(np.float32)
    drawn = base[rng.integers(0, 60, 700)] + rng.normal(scale=0.02, size=(700, 16))
    drawn[650:] = drawn[:50]
    drawn = drawn.astype(np.float32) / np.linalg.norm(drawn, axis=1, keepdims=True)
    digests = [str(n) for n in [*range(650), *range(50)]]
    labels, folds = rng.integers(0, 3, 700), rng.integers(0, 5, 700)
    result = duplicates.find_duplicates(drawn, digests, labels, folds, near=0.99, detail=9)

    upper = np.triu(drawn @ drawn.T >= 0.99, 1)
    equal = np.triu(np.array(digests)[:, None] == np.array(digests), 1)
    classes, across = labels[:, None] != labels, folds[:, None] != folds
    for kind, pairs in ((result.exact, equal), (result.near, upper & ~equal)):
        assert kind.total == pairs.sum()
        assert kind.across_classes == (pairs & classes).sum()
        assert kind.across_folds == (pairs & across).sum()
    both = upper | equal | (upper | equal).T
    assert (result.other_fold.exists == (both & across).any(1)).all()
    assert (result.other_class.exists == (both & classes).any(1)).all()
    for row in np.flatnonzero(result.nearest.exists):
        assert both[row, result.nearest.row[row]]
        assert result.group[row] == result.group[result.nearest.row[row]]
    assert ((result.group >= 0) == both.any(1)).all()


def test_equal_images_without_contrast_are_exact_duplicates_only_if_files_are_equal() -> None:
    flat = duplicates.vectors(np.full((3, 32, 32, 3), 90, dtype=np.uint8))
    result = duplicates.find_duplicates(
        flat, ["a", "a", "b"], np.array([0, 1, 1]), np.array([0, 1, 0])
    )
    assert (result.exact.total, result.exact.across_classes, result.exact.across_folds) == (1, 1, 1)
    assert result.near.total == 0
    assert result.group.tolist() == [0, 0, -1]


def test_predictions_of_several_runs_are_averaged(tmp_path: Path) -> None:
    data = read(write_images(tmp_path / "signs", "AB", each=2))
    for fold, p in enumerate((0.8, 0.6)):
        (tmp_path / "runs" / f"fold={fold}").mkdir(parents=True)
        lines = f"path,label,predicted,confidence,p_A,p_B\nA/0.png,A,A,{p},{p},{1 - p:.1f}\n"
        (tmp_path / "runs" / f"fold={fold}" / "predictions.csv").write_text(lines)
    predictions = label_errors.read_predictions_for(
        label_errors.prediction_files([tmp_path / "runs"]), data
    )
    assert predictions.rows.tolist() == [0]
    assert predictions.probabilities == pytest.approx(np.array([[0.7, 0.3]]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it has no column path and no column label"),
        ("path,label,p_A\nA/0.png,A,1\n", "only in the data set: B"),
        ("path,label,p_A,p_B\nX/9.png,A,1,0\n", "has predictions of 1 images that are not in"),
        ("path,label,p_A,p_B\nA/0.png,A,one,0\n", "cannot be read as predictions"),
        ("path,label,p_A,p_B\nA/0.png,A,nan,0\n", "cannot be read as predictions"),
        ("path,label,p_A,p_B\n", "cannot be read as predictions"),
        ("path,label,p_A,p_B\nA/0.png\n", "cannot be read as predictions"),
    ],
)
def test_predictions_of_something_else_get_a_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    data = read(write_images(tmp_path / "signs", "AB", each=2))
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(sentence)):
        label_errors.read_predictions_for([tmp_path / "predictions.csv"], data)


def test_samples_are_of_different_signers_and_the_same_each_time() -> None:
    labels = np.zeros(30, dtype=np.int64)
    signers = [f"s{n // 5}" for n in range(30)]
    rows = statistics.samples(labels, 0, signers, 6)
    assert len({signers[row] for row in rows}) == 6
    assert rows == statistics.samples(labels, 0, signers, 6)
    assert statistics.samples(labels, 0, None, 3) == [0, 10, 20]


def test_the_gap_of_a_split_is_described(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", "AB", each=30)
    words = ["data=folder", f"data.root={root}", "out=card", "split=blocks", "folds=3"]
    result = run(tmp_path, *words, "split.gap=2")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "card" / "card.html").read_text()
    assert "split=blocks, gap 2, 3 folds, seed 0" in page
    assert "are left out of training when a fold is tested" in page
    assert "left out of training" in result.stderr + result.stdout
    result = run(tmp_path, *words, "split.gap=30")
    assert "split.gap=30 leaves no training image of A, B" in result.stderr


def test_names_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    nasty = "<script>|`*x*\udcff"
    table = Table("of files", ["file"], [[nasty]])
    sections = [Section("one", [Text(nasty), table])]
    notes = [Notes(nasty, [nasty])]
    card = Page("card", nasty, "", {"images": "1"}, notes, sections, re.compile(""))
    card.write(tmp_path)
    assert "<script>" not in (tmp_path / "card.html").read_text()
    assert "<script>" not in (tmp_path / "card.md").read_text()
    assert r"| &lt;script&gt;\|\`\*x\*? |" in (tmp_path / "card.md").read_text()


def pointing(degrees: float, right: float = 1.0) -> Hand:
    """A hand that points so far clockwise from upwards."""
    points = np.zeros((21, 3), np.float32)
    points[:, :2] = (40, 70)
    points[9, :2] += (20 * np.sin(np.radians(degrees)), -20 * np.cos(np.radians(degrees)))
    return Hand(points, right, 1.0)


def test_hands_that_point_elsewhere_than_their_class_are_found() -> None:
    upright = [pointing(angle) for angle in (-20, -10, 0, 10, 20)]
    sideways = [pointing(80 + angle) for angle in (-10, 0, 10)]
    sideways += [pointing(-80 + angle, right=0.1) for angle in (-10, 0, 10)]  # left hands
    anywhere = [pointing(angle) for angle in (0, 90, 180, 270)]
    odd = [pointing(-95), pointing(-80, right=0.2), pointing(40), None]
    hands = [*upright, *odd, *sideways, pointing(0), *anywhere]
    labels = np.array([0] * 9 + [1] * 7 + [2] * 4)
    turned = statistics.turned_hands(hands, labels)
    assert list(turned) == [5, 6, 15]
    assert turned[5] == pytest.approx(-95, abs=12)
    assert turned[6] == pytest.approx(-80, abs=12), "counted as it is seen, not as mirrored"
    assert turned[15] == pytest.approx(-69, abs=3)
    assert statistics.turned_hands([None, None], labels[:2]) == {}


def test_photographs_that_lie_on_their_side_are_listed(
    shared: Path, real_networks: HandNetworks, tmp_path: Path
) -> None:
    cache = Path(os.environ.get("SIGNLANG_HANDS_CACHE", "~/.cache/signlang")).expanduser()
    networks = Path("hands") / real_networks.key
    shutil.copytree(cache / networks, tmp_path / "cache" / networks)
    for name in "27":
        (tmp_path / "signs" / name).mkdir(parents=True)
        files = sorted((shared / "data/digits/Dataset" / name).glob("IMG_11*"))[:8]
        for number, file in enumerate(files):
            drawn = Image.open(file).convert("RGB")
            if name == "7" and number in {2, 5}:
                drawn = drawn.rotate(90 if number == 2 else -90)
            drawn.save(tmp_path / "signs" / name / f"{number}.png")
    words = ["data=folder", "data.root=signs", "hands=crop", "out=card"]
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    listed = {row["path"]: float(row["degrees"]) for row in rows_of(tmp_path / "card/turned.csv")}
    assert listed == {
        "7/2.png": pytest.approx(-90, abs=25),
        "7/5.png": pytest.approx(90, abs=25),
    }
    assert "2 images, which turned.csv lists" in done.stdout
    card = (tmp_path / "card/card.md").read_text("utf-8")
    assert "2 hands point elsewhere than the others of the class" in card
    assert (tmp_path / "card/figures/turned.png").is_file()
