"""Boxes around hands: what annotations say, and that every reader of images sees the same crop."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, QUICK, run_command
from PIL import Image

from signlang.data import image_cache
from signlang.data.boxes import BadBoxError, Box, Crop
from signlang.data.image_folder import class_names, list_entries
from signlang.data.index import Index, read_index
from signlang.errors import DataError

SIZE = (96, 64)
NAMES = list(COLOURS)
Place = Callable[[Path, int, str, tuple[int, int, int, int]], None]  # writes image and annotation


def draw(file: Path, label: str, box: tuple[int, int, int, int]) -> None:
    """A grey scene with a hand, a patch in the colour of its class, at x, y, width, height."""
    rng = np.random.default_rng(len(file.name) + sum(box))
    pixels = rng.integers(90, 170, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    x, y, width, height = box
    pixels[y : y + height, x : x + width] = COLOURS[label]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def boxes(per_class: int = 6) -> list[tuple[int, str, tuple[int, int, int, int]]]:
    rng = np.random.default_rng(1)
    return [
        (number, label, (int(rng.integers(0, 70)), int(rng.integers(0, 40)), 20, 24))
        for label in NAMES for number in range(per_class)
    ]  # fmt: skip


def shares(box: tuple[int, int, int, int]) -> tuple[float, ...]:
    x, y, width, height = box
    across, down = SIZE
    return ((x + width / 2) / across, (y + height / 2) / down, width / across, height / down)


def write_yolo(root: Path, per_class: int = 6) -> Path:
    for number, label, box in boxes(per_class):
        subset, name = ("train", "valid", "test")[number % 3], f"{NAMES.index(label)}_{number}"
        draw(root / subset / "images" / f"{name}.png", label, box)
        text = " ".join(map(str, (NAMES.index(label), *shares(box))))
        file = root / subset / "labels" / f"{name}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{text}\n")
    (root / "data.yaml").write_text(f"names: {json.dumps(NAMES)}\n", "utf-8")
    return root


def write_coco(root: Path) -> Path:
    images, annotations = [], []
    for place, (number, label, box) in enumerate(boxes()):
        name = f"{NAMES.index(label)}_{number}.png"
        draw(root / "images" / name, label, box)
        images.append({"id": place, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        annotations.append({"image_id": place, "category_id": 7 + NAMES.index(label), "bbox": box})
    categories = [{"id": 7 + number, "name": name} for number, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content), "utf-8")
    return root


def voc(label: str, *corners: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> str:
    objects = "".join(
        f"<object><name>{label}</name><part><name>thumb</name></part><bndbox><xmin>{x}</xmin>"
        f"<ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h in corners
    )
    numbers = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation>{numbers}{objects}</annotation>"


def write_voc(root: Path) -> Path:
    (root / "Annotations").mkdir(parents=True)
    for number, label, box in boxes():
        name = f"{NAMES.index(label)}_{number}"
        draw(root / "JPEGImages" / f"{name}.png", label, box)
        (root / "Annotations" / f"{name}.xml").write_text(voc(label, box), "utf-8")
    return root


def write_table(root: Path, columns: str = "x,y,width,height") -> Path:
    lines = [f"path,label,{columns}"]
    for number, label, box in boxes():
        name = f"{NAMES.index(label)}_{number}.png"
        draw(root / name, label, box)
        values = shares(box) if columns.startswith("x_") else box
        lines.append(",".join(map(str, (name, label, *values))))
    (root / "hands.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return root / "hands.csv"


def indexed(root: Path, tmp_path: Path, where: str = "auto", margin: float = 0.0) -> Index:
    return read_index(root, cache_dir=str(tmp_path / "cache"), boxes=where, box_margin=margin)


@pytest.mark.parametrize(
    "write",
    [
        write_yolo, write_coco, write_voc, write_table,
        lambda root: write_table(root, "x_center,y_center,width,height"),
    ],
)  # fmt: skip
def test_every_kind_gives_the_same_classes_and_crops(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    root = write(tmp_path / "signs")
    index = indexed(root, tmp_path)
    assert index.classes == tuple(NAMES) == tuple(class_names(root, boxes="auto"))
    assert index.cropped == len(index) == 18
    truth = {f"{NAMES.index(label)}_{number}": (label, box) for number, label, box in boxes()}
    pixels = image_cache.decode_images(index, 8, str(tmp_path / "cache"))[:]
    for row, path in enumerate(index.paths):
        label, (x, y, width, height) = truth[Path(path).stem]
        assert index.classes[index.labels[row]] == label
        assert index.crop(row) == Crop(x, y, x + width, y + height)
        assert (pixels[row] == COLOURS[label]).all()  # nothing but the hand


def test_subsets_of_an_annotated_data_set_are_its_folders(tmp_path: Path) -> None:
    index = indexed(write_yolo(tmp_path / "signs"), tmp_path)
    assert index.given is not None
    assert sorted(set(index.given)) == ["test", "train", "validation"]


def test_class_folders_stay_whole_unless_their_boxes_are_named(tmp_path: Path) -> None:
    root, lines = tmp_path / "signs" / "images", ["path;x;y;width;height"]
    for number, label, box in boxes():
        draw(root / label / f"{number}.png", label, box)
        lines.append(";".join(map(str, (f"{label}/{number}.png", *box))))
    (root.parent / "boxes.csv").write_text("\n".join(lines[:-1]) + "\n", "utf-8")
    whole, cut = indexed(root, tmp_path), indexed(root, tmp_path, "columns")
    assert (whole.cropped, cut.cropped) == (0, 17)  # the last one has no box: it stays whole
    named = indexed(root, tmp_path, str(root.parent / "boxes.csv"))
    assert named.crops == cut.crops
    assert whole.fingerprint == read_index(root, cache_dir=str(tmp_path / "cache")).fingerprint
    assert len({one.content for one in (whole, cut, indexed(root, tmp_path, "columns", 0.2))}) == 3
    with pytest.raises(DataError, match=r"boxes=nowhere\.csv: there is no such file"):
        indexed(root, tmp_path, "nowhere.csv")


def test_of_several_boxes_the_largest_of_the_sign_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_voc(tmp_path / "signs")
    two = [(0, 0, 10, 10), (30, 20, 20, 20)]
    (root / "Annotations" / "0_0.xml").write_text(voc("A", *two), "utf-8")
    mixed = voc("A", (0, 0, 10, 10)).replace("</annotation>", "") + voc("B", (9, 9, 9, 9))
    mixed = mixed.replace("<annotation>", "", 2)
    (root / "Annotations" / "0_1.xml").write_text(f"<annotation>{mixed}", "utf-8")
    (root / "Annotations" / "0_2.xml").write_text(voc("A"), "utf-8")
    caplog.set_level("INFO", "signlang")
    index = indexed(root, tmp_path)
    assert index.crop(index.paths.index("JPEGImages/0_0.png")) == Crop(30, 20, 50, 40)
    assert {file.path: file.reason for file in index.excluded} == {
        "JPEGImages/0_1.png": "it has boxes of several signs: A, B",
        "JPEGImages/0_2.png": "it has no box, and so no sign",
    }
    said = caplog.text
    assert "16 of 18 images are cropped to one" in said
    assert "1 image of" in said
    assert "has several boxes, of which the largest" in said
    assert "2 images of" in said
    assert "are left out" in said


def test_the_folder_of_a_class_counts_more_than_its_box(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "signs"
    for number, label, box in boxes():
        draw(root / label / f"{number}.png", label, box)
        (root / label / f"{number}.xml").write_text(voc("Z" if number == 3 else label, box))
    index = indexed(root, tmp_path, "voc")
    assert index.counts.tolist() == [6, 6, 6]
    assert index.cropped == 18
    assert "3 images of" in caplog.text
    assert "box of another class" in caplog.text
    assert "no images of a class" not in caplog.text  # the annotations themselves


def test_boxes_that_cannot_be_are_bad_images(tmp_path: Path) -> None:
    file = write_table(tmp_path / "signs")
    lines = file.read_text("utf-8").splitlines()
    for line, box in ((1, "200,0,9,9"), (2, "5,5,0,9"), (3, "nan,1,9,9")):
        lines[line] = ",".join([*lines[line].split(",")[:2], box])
    file.write_text("\n".join(lines), "utf-8")
    with pytest.raises(DataError, match="3 files of") as caught:
        indexed(file, tmp_path)
    assert "holds no pixel of its 96 x 64" in str(caught.value)
    assert str(caught.value).count("has no area") == 2
    kept = read_index(file, cache_dir=str(tmp_path), boxes="auto", on_bad_image="exclude")
    assert (len(kept), len(kept.excluded)) == (15, 3)


def test_crops_have_a_margin_and_stay_inside() -> None:
    assert Box(10, 10, 20, 40).crop(100, 100, 0.1) == Crop(8, 6, 32, 54)
    assert Box(0, 90, 20, 40).crop(100, 100, 0.5) == Crop(0, 70, 30, 100)
    halved = Box(10, 10, 20, 40, size=(200, 200))  # drawn before the image was made smaller
    assert halved.crop(100, 100, 0) == Crop(5, 5, 15, 25)
    with pytest.raises(BadBoxError, match=r"drawn on 200 x 100 pixels, of another shape"):
        Box(10, 10, 20, 40, size=(200, 100)).crop(100, 200, 0)
    with pytest.raises(BadBoxError, match="shares are from 0 to 1"):
        Box(0, 0, 12, 1, shares=True).crop(100, 100, 0)


BOMB = """<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]>
<annotation><filename>&c;</filename></annotation>"""
OUTSIDE = """<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>
<annotation><filename>&b;</filename></annotation>"""


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, BOMB.replace("\n", "").encode("utf-16")])
def test_xml_with_entities_is_refused(tmp_path: Path, text: str | bytes) -> None:
    root = write_voc(tmp_path / "signs")
    data = text.encode() if isinstance(text, str) else text
    (root / "Annotations" / "0_0.xml").write_bytes(data)
    with pytest.raises(DataError, match=r"0_0\.xml has a DOCTYPE"):
        list_entries(root, boxes="auto")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Annotations/0_0.xml", "<a>" * 40, "more than 32 elements inside each other"),
        ("Annotations/0_0.xml", "<a", "is no XML"),
        ("Annotations/0_0.xml", "<annotation><object/></annotation>", "cannot be read as Pascal"),
        ("Annotations/0_0.xml", " " * (5 << 20), "larger than 4 MiB"),
    ],
)
def test_damaged_xml_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    root = write_voc(tmp_path / "signs")
    (root / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        list_entries(root, boxes="auto")
    assert name in str(caught.value)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.2", "A 0.5 0.5 0.2 0.2", "0 x 0.5 0.2 0.2"])
def test_a_damaged_line_of_yolo_is_named(tmp_path: Path, line: str) -> None:
    root = write_yolo(tmp_path / "signs")
    (root / "train" / "labels" / "0_0.txt").write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=r"0_0\.txt, line 2: it must be a class"):
        list_entries(root, boxes="auto")


def test_yolo_outlines_and_key_points_are_boxes(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "signs")
    file = root / "train" / "labels" / "0_0.txt"
    file.write_text("0 0.25 0.5 0.5 0.25 0.5 0.75\n")
    (outline,) = [
        e.box for e in list_entries(root, boxes="auto") if e.path.endswith("in/images/0_0.png")
    ]
    assert outline == Box(0.25, 0.25, 0.25, 0.5, shares=True, label="A")
    (root / "data.yaml").write_text(f"kpt_shape: [1, 3]\nnames: {json.dumps(NAMES)}\n", "utf-8")
    file.write_text("0 0.5 0.5 0.5 0.5 0.1 0.2 2\n")
    (hand,) = [
        e.box for e in list_entries(root, boxes="auto") if e.path.endswith("in/images/0_0.png")
    ]
    assert hand == Box(0.25, 0.25, 0.5, 0.5, shares=True, label="A")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "cannot be read as COCO: KeyError 'images'"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), "cannot be read as COCO"),
        (lambda c: c["images"][0].update(file_name="../../etc/passwd"), "is not below"),
    ],
)
def test_damaged_coco_is_named(
    tmp_path: Path, change: Callable[[dict[str, list[dict[str, object]]]], object], message: str
) -> None:
    file = write_coco(tmp_path / "signs") / "annotations.json"
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(DataError, match=message):
        list_entries(file.parent, boxes="auto")


def test_shares_in_columns_of_pixels_are_refused(tmp_path: Path) -> None:
    file = write_table(tmp_path / "signs", "x_center,y_center,width,height")
    file.write_text(file.read_text("utf-8").replace("x_center,y_center", "x,y"), "utf-8")
    with pytest.raises(DataError, match="no box is larger than one pixel"):
        list_entries(file, boxes="auto")


@pytest.mark.slow
def test_a_run_on_boxes_is_evaluated_with_and_without(tmp_path: Path) -> None:
    write_yolo(tmp_path / "signs", per_class=12)
    words = [*QUICK, "data.root=signs", "trainer.max_epochs=8", "verbose=false"]
    words += ["callbacks.checkpoint.monitor=null", "callbacks.early_stopping=null"]
    result = run_command(tmp_path, *words)
    assert result.code == 0, result.err
    (file,) = tmp_path.glob("runs/*/*/*/data.csv")
    with file.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 36
    assert all(len(row["crop"].split()) == 4 for row in rows)
    record = json.loads((file.parent / "record.json").read_text("utf-8"))
    assert (record["data"]["boxes"], record["data"]["box_margin"]) == (36, 0.1)
    whole = write_table(tmp_path / "scenes")
    for words, told in (
        (
            ["data.root=signs", "calibrate=true"],
            "",
        ),  # by the crops in data.csv, or the loss differs
        ([f"data.root={whole}", "data.boxes=none"], "here are whole, with smaller hands"),
    ):
        result = run_command(tmp_path, f"run={file.parent}", *words, verb="evaluate")
        assert result.code == 0, result.err
        assert told in result.err
        assert ("another task" in result.err) == bool(told)


@pytest.mark.slow
def test_a_bundle_is_compared_on_the_crops_of_its_run(tmp_path: Path) -> None:
    write_yolo(tmp_path / "signs", per_class=12)
    words = [*QUICK, "data.root=signs", "trainer.max_epochs=8", "verbose=false"]
    assert run_command(tmp_path, *words, "callbacks.early_stopping=null").code == 0
    result = run_command(tmp_path, "run=latest", "quantize=true", verb="export")
    assert result.code == 0, result.err
    (bundle,) = (tmp_path / "bundles").iterdir()
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    assert manifest["boxes"] == {"images": 36, "of": 36, "margin": 0.1}
    assert manifest["accuracy"]["fp32"] == pytest.approx(manifest["accuracy"]["run"])
    assert "36 of its 36 images were cropped to a box" in (bundle / "card.md").read_text("utf-8")
