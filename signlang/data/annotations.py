"""Annotated data sets: boxes and classes in the files of YOLO, COCO and Pascal VOC.

Annotations may come from elsewhere: what they say is data, a file of more than `MOST_BYTES` is
refused, and so is XML with a DOCTYPE, which entity bombs and external entities need.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final
from xml.parsers import expat

import yaml

from signlang.data import patterns
from signlang.data.boxes import Box, centred
from signlang.data.image_io import is_image_name
from signlang.errors import DataError
from signlang.files import parse_json

KINDS: Final = ("yolo", "coco", "voc")
MOST_BYTES: Final = {".xml": 4 << 20, ".txt": 4 << 20, ".json": 1 << 30, ".yaml": 4 << 20}
DEEPEST: Final = 32  # elements of XML inside each other
MOST_FOLDERS: Final = 6  # of an annotated data set, below each other
# folders of annotated data sets that are no classes, beside those of subsets
PLACES: Final = {
    "images", "labels", "annotations", "jpegimages", "imagesets", "main", "imgs", "img", "xml",
    "xmls", "obj_train_data", "data",
}  # fmt: skip
NAME_FILES: Final = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
HEAD: Final = 1 << 16  # bytes of a JSON file in which COCO's keys are looked for


@dataclass
class Annotations:
    """The boxes of a data set.

    Attributes:
        kind: `yolo`, `coco` or `voc`.
        boxes: Of each image, by its path; an image without a box may be absent or have none.
        files: Images, sorted, those that annotations name and that are not there included.
        numbered: Whether classes are numbers, because nothing names them.
    """

    kind: str
    files: list[str]
    boxes: dict[str, list[Box]] = field(default_factory=lambda: defaultdict(list))
    numbered: bool = False


def subset_of_path(path: str) -> str:
    """The subset that the folders of a path name; empty if none.

    >>> subset_of_path("images/train2017/a.jpg"), subset_of_path("images/a.jpg")
    ('train', '')
    """
    folders = (folder.rstrip("0123456789") for folder in PurePosixPath(path).parts[:-1])
    return next((subset for subset in map(patterns.subset_of, folders) if subset), "")


def is_bare(root: Path) -> bool:
    """Whether all folders below a root are those of an annotated data set, none of a class."""
    base = len(root.parts)
    for path, folders, _ in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        if not all(map(_is_known_folder, folders)) or len(Path(path).parts) - base > MOST_FOLDERS:
            return False
    return True


def _is_known_folder(name: str) -> bool:
    return name.lower() in PLACES or bool(patterns.subset_of(name.rstrip("0123456789")))


def kinds_of(root: Path, files: Sequence[str]) -> list[str]:
    """The kinds of annotations among some files."""
    stems = {_stem(path) for path in files if _is_image(path)}
    kinds = set()
    for path in files:
        suffix, folder = PurePosixPath(path).suffix.lower(), PurePosixPath(path).parent.name.lower()
        if suffix == ".json" and _looks_like_coco(root / path):
            kinds.add("coco")
        elif suffix == ".xml" and (
            folder in {"annotations", "xml", "xmls"} or _stem(path) in stems
        ):
            kinds.add("voc")
        elif suffix == ".txt" and (
            folder == "labels" or "/labels/" in path or _stem(path) in stems
        ):
            kinds.add("yolo")
    return sorted(kinds)


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def _is_image(path: str) -> bool:
    return is_image_name(PurePosixPath(path).suffix)


def _looks_like_coco(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    keys = (b'"images"', b'"annotations"', b'"categories"')
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and any(k in head for k in keys)


def read_annotations(root: Path, kind: str, files: Sequence[str]) -> Annotations:
    """Read the annotations of a data set.

    Args:
        root: Its folder.
        kind: One of `KINDS`.
        files: All files below it, relative to it.

    Raises:
        DataError: If there are none of that kind, or one cannot be read.
    """
    reader = {"yolo": _read_yolo, "coco": _read_coco, "voc": _read_voc}[kind]
    annotations = Annotations(kind, sorted(path for path in files if _is_image(path)))
    reader(root, files, annotations)
    return annotations


def _read_limited(file: Path) -> bytes:
    """The content of an annotation file.

    Raises:
        DataError: If it cannot be read, or is too large.
    """
    limit = MOST_BYTES.get(file.suffix.lower(), 4 << 20)
    try:
        if file.stat().st_size > limit:
            raise DataError(f"{file} is larger than {limit >> 20} MiB, which no annotation is.")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None


def _read_yolo(root: Path, files: Sequence[str], annotations: Annotations) -> None:
    """YOLO: a text file for each image, a line `class x_center y_center width height` per box."""
    names, key_points = _yolo_names(root)
    existing, has_labels = set(files), False
    annotations.numbered = not names
    for path in annotations.files:
        for label_file in _yolo_label_files(path):
            if label_file in existing or (
                label_file.startswith("../") and (root / label_file).is_file()
            ):
                has_labels = True
                annotations.boxes[path] = _read_yolo_boxes(root / label_file, names, key_points)
                break
    if not has_labels:
        raise DataError(
            f"data.boxes=yolo: no image of {root} has a text file of its name beside it, or in a "
            "folder labels beside its folder images."
        )


def _yolo_label_files(path: str) -> list[str]:
    """Where the boxes of an image may lie, as Ultralytics and others look for them.

    >>> _yolo_label_files("train/images/a.jpg")
    ['train/images/a.txt', 'train/labels/a.txt']
    >>> _yolo_label_files("A/a.jpg")
    ['A/a.txt', '../labels/A/a.txt', 'A/labels/a.txt']
    """
    name = f"{_stem(path)}.txt"
    segments = name.split("/")
    for index in range(len(segments) - 2, -1, -1):
        if segments[index].lower() in {"images", "imgs", "img"}:
            return [name, "/".join([*segments[:index], "labels", *segments[index + 1 :]])]
    beside = "/".join([*segments[:-1], "labels", segments[-1]])
    return [name, f"../labels/{name}", beside]


def _read_yolo_boxes(file: Path, names: Mapping[int, str], key_points: bool) -> list[Box]:
    boxes = []
    for line, text in enumerate(_read_limited(file).decode("utf-8-sig", "replace").splitlines(), 1):
        values = text.split()
        if not values:
            continue
        try:
            number, *numbers = int(float(values[0])), *map(float, values[1:])
            boxes.append(_parse_yolo_box(numbers, names.get(number, str(number)), key_points))
        except (ValueError, OverflowError):
            raise DataError(
                f"{file}, line {line}: it must be a class and the box's centre and size as shares "
                f"of the image, five numbers (or the outline of the hand); it is {text[:60]!r}."
            ) from None
    return boxes


def _parse_yolo_box(numbers: Sequence[float], label: str, key_points: bool) -> Box:
    """A box, one with key points behind it, or the box around an outline."""
    if len(numbers) == 4 or (key_points and len(numbers) > 4):
        x, y, width, height = numbers[:4]
        return centred(x, y, width, height, label)
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError("neither a box nor an outline")
    across, down = numbers[::2], numbers[1::2]
    left, top = min(across), min(down)
    return Box(left, top, max(across) - left, max(down) - top, shares=True, label=label)


def _yolo_names(root: Path) -> tuple[dict[int, str], bool]:
    """Names of the classes, and whether boxes have key points; numbers stay where none are given.

    Raises:
        DataError: If a file of names is damaged.
    """
    folders = (root, root.parent)
    for file in (
        path
        for folder in folders
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    ):
        try:
            content = yaml.load(_read_limited(file), yaml.BaseLoader)  # noqa: S506 - texts only: a sign is no
        except (yaml.YAMLError, RecursionError, ValueError):
            continue  # of something else
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list | dict):
            pairs = enumerate(names) if isinstance(names, list) else names.items()
            try:
                return {int(key): str(name) for key, name in pairs}, "kpt_shape" in content
            except (ValueError, TypeError):
                raise DataError(f"{file}: names must be a list, or number: name.") from None
    for file in (folder / name for folder in (*folders, root / "labels") for name in NAME_FILES):
        if file.is_file():
            lines = _read_limited(file).decode("utf-8-sig", "replace").splitlines()
            return {n: line.strip() for n, line in enumerate(lines) if line.strip()}, False
    return {}, False


def _read_coco(root: Path, files: Sequence[str], annotations: Annotations) -> None:
    """COCO: JSON files with images, annotations and categories."""
    tables = [path for path in files if path.endswith(".json") and _looks_like_coco(root / path)]
    above = [f"../{p.name}" for p in sorted(root.parent.glob("*.json")) if _looks_like_coco(p)]
    tables = tables or above
    if not tables:
        raise DataError(f"data.boxes=coco: {root} has no JSON file with images and annotations.")
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in annotations.files:
        by_name[PurePosixPath(path).name].append(path)
    for table in tables:
        _read_coco_table(root, table, by_name, annotations)
    annotations.files = sorted({*annotations.files, *annotations.boxes})


def _read_coco_table(
    root: Path, table: str, by_name: Mapping[str, Sequence[str]], annotations: Annotations
) -> None:
    file = root / table
    try:
        content = parse_json(_read_limited(file))
        labels = {
            category["id"]: str(category["name"]) for category in content.get("categories", [])
        }
        images: dict[Any, tuple[str, tuple[int, int] | None]] = {}
        for image in content["images"]:
            size = (int(image.get("width") or 0), int(image.get("height") or 0))
            path = _coco_path(file, table, str(image["file_name"]), by_name)
            images[image["id"]] = (path, size if all(size) else None)
            annotations.boxes.setdefault(path, [])
        for annotation in content.get("annotations", []):
            path, drawn_on = images[annotation["image_id"]]
            x, y, width, height = map(float, annotation["bbox"])
            label = labels.get(
                annotation.get("category_id"), str(annotation.get("category_id", ""))
            )
            annotations.boxes[path].append(Box(x, y, width, height, label=label, size=drawn_on))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file} cannot be read as COCO: {type(error).__name__} {str(error)[:80]}. It needs "
            "images (id, file_name), annotations (image_id, category_id, bbox) and categories."
        ) from None


def _coco_path(file: Path, table: str, name: str, by_name: Mapping[str, Sequence[str]]) -> str:
    """The image that a table means: of its name, and as near to the table as there is one.

    Raises:
        DataError: If several could be.
    """
    wanted = PurePosixPath(name.replace("\\", "/"))
    matches = [
        path for path in by_name.get(wanted.name, ())
        if path == str(wanted) or path.endswith(f"/{wanted}")
    ] or list(by_name.get(wanted.name, ()))  # fmt: skip
    subset = subset_of_path(f"{_stem(table)}/x") or patterns.subset_of(
        _stem(PurePosixPath(table).name)
    )
    folder = str(PurePosixPath(table).parent)
    for narrower in (
        [path for path in matches if str(PurePosixPath(path).parent) == folder],
        [path for path in matches if subset and subset_of_path(path) == subset],
        [path for path in matches if path == str(wanted)],
    ):
        if len(matches) > 1 and narrower:
            matches = narrower
    if len(matches) > 1:
        raise DataError(f"{file}: {name} could be {' or '.join(matches[:3])}.")
    if not matches and (wanted.is_absolute() or ".." in wanted.parts):
        raise DataError(f"{file} names the image {name}, which is not below {file.parent}.")
    return matches[0] if matches else str(wanted)


def _read_voc(root: Path, files: Sequence[str], annotations: Annotations) -> None:
    """Pascal VOC: an XML file for each image, with an element `object` per box."""
    tables = [path for path in files if path.lower().endswith(".xml")]
    if not tables:
        raise DataError(f"data.boxes=voc: {root} has no XML file.")
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in annotations.files:
        by_stem[PurePosixPath(path).stem].append(path)
    for table in tables:
        boxes, name = _read_voc_boxes(root / table)
        stem = PurePosixPath(table).stem
        images = by_stem.get(stem, []) or by_stem.get(PurePosixPath(name).stem, [])
        matches = [
            path for path in images if subset_of_path(path) == subset_of_path(table)
        ] or images
        matches = [path for path in matches if _stem(path) == _stem(table)] or matches
        if len(matches) > 1:
            raise DataError(f"{root / table} could be of {' or '.join(matches[:3])}.")
        path = matches[0] if matches else str(PurePosixPath(table).with_name(name or f"{stem}.jpg"))
        annotations.boxes[path] += boxes
    annotations.files = sorted({*annotations.files, *annotations.boxes})


def _read_voc_boxes(file: Path) -> tuple[list[Box], str]:
    """The boxes of an XML file, and the name of its image."""
    fields = _xml_fields(file)
    boxes: list[Box] = []
    try:
        sizes = [
            int(float(text or "0")) for text in _last_texts(fields, "size/width", "size/height")
        ]
        size = (sizes[0], sizes[1]) if all(sizes) else None
        for number in range(sum(name == "object" for name, _ in fields)):
            elements = _object_fields(fields, number)
            left, top, right, bottom = (
                float(elements[f"object/bndbox/{name}"])
                for name in ("xmin", "ymin", "xmax", "ymax")
            )
            label = elements.get("object/name", "")
            boxes.append(Box(left, top, right - left, bottom - top, label=label, size=size))
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{file} cannot be read as Pascal VOC: an object needs bndbox with xmin, ymin, xmax "
            f"and ymax ({type(error).__name__} {str(error)[:60]})."
        ) from None
    return boxes, PurePosixPath(_last_texts(fields, "filename")[0].replace("\\", "/")).name


def _last_texts(fields: Sequence[tuple[str, str]], *names: str) -> list[str]:
    known = dict(fields)
    return [known.get(name, "") for name in names]


def _object_fields(fields: Sequence[tuple[str, str]], number: int) -> dict[str, str]:
    """The elements inside the object of that number; each ends with its own name."""
    end_indices = [index for index, (name, _) in enumerate(fields) if name == "object"]
    start = end_indices[number - 1] + 1 if number else 0
    elements: dict[str, str] = {}
    for name, text in fields[start : end_indices[number]]:
        if name.startswith("object/") and not name.startswith("object/part/"):
            elements.setdefault(name, text)
    return elements


def _xml_fields(file: Path) -> list[tuple[str, str]]:
    """Elements below the root, in the order in which they end, with their text.

    Raises:
        DataError: If it is no XML, is nested too deeply, or has a DOCTYPE.
    """
    above: list[str] = []
    texts: list[list[str]] = []
    fields: list[tuple[str, str]] = []

    def start(name: str, _: Any) -> None:
        if len(above) >= DEEPEST:
            raise DataError(f"{file} has more than {DEEPEST} elements inside each other.")
        above.append(name)
        texts.append([])

    def end(_: str) -> None:
        fields.append(("/".join(above[1:]), "".join(texts.pop()).strip()))
        above.pop()

    def refuse(*_: Any) -> None:
        raise DataError(f"{file} has a DOCTYPE, which annotations do not need: remove it.")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = lambda text: texts[-1].append(text)
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(_read_limited(file), True)
    except (expat.ExpatError, ValueError) as error:
        raise DataError(f"{file} is no XML ({error}).") from None
    return fields


def several_signs(boxes: Iterable[Box]) -> list[str]:
    """The classes of some boxes, sorted."""
    return sorted({box.label for box in boxes})
