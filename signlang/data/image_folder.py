"""Scanning of folders, CSV tables and annotated data sets into entries.

An entry is path, label, signer, group, subset and box of an image.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from signlang.console import log
from signlang.data import annotations, patterns
from signlang.data.annotations import Annotations
from signlang.data.boxes import (
    Box,
    box_columns,
    box_of_row,
    check_pixels,
    read_box_table,
)
from signlang.data.image_io import is_image_name, looks_like_image
from signlang.data.patterns import several
from signlang.errors import DataError, listing
from signlang.files import expanded, read_table

JUNK: Final = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}  # files of operating systems
EXAMPLES: Final = 5
SUBSETS: Final = (
    "%s brings its own subsets, %s: split=given takes them as they are, any other split divides "
    "all images anew"
)
SAMPLED: Final = 5000  # paths of which a pattern is guessed


@dataclass(frozen=True)
class ImageEntry:
    """Path, label, signer, group, subset and box of one image; empty where unknown.

    Attributes:
        box: Around the hand; None for the whole image.
        left_out: Why it is not used, although its file may be fine; empty if it is.
    """

    path: str
    label: str
    signer: str = ""
    group: str = ""
    subset: str = ""
    box: Box | None = None
    left_out: str = ""


@dataclass(frozen=True)
class _ClassFolder:
    """A folder of images of one class: its path below the root, and the subset around it."""

    path: str
    label: str
    subset: str = ""


AUTO: Final = "auto"
COLUMNS: Final = "columns"
BOX_FILES: Final = ("boxes.csv",)  # in a folder of class folders, or above it
OF_ANNOTATIONS: Final = (".txt", ".xml", ".json", ".csv", ".yaml", ".yml")  # their suffixes


def list_entries(
    root: Path, pattern: str | None = None, boxes: str | None = None
) -> list[ImageEntry]:
    """List the images of a data set.

    Args:
        root: A folder, or a CSV file.
        pattern: `data.pattern`, what the paths of a folder mean; None: class folders.
        boxes: `data.boxes`: where boxes come from; None: no boxes.

    Raises:
        DataError: As `list_csv`, `list_matching`, `list_folder` and `read_annotations`.
    """
    entries, box_use = _list_entries(root, pattern, boxes)
    if box_use:
        box_use.log_summary(root, entries)
    return entries


@dataclass
class _BoxUse:
    """What became of the boxes of a data set, for the log.

    Attributes:
        source: Where they come from.
        several: Images with several boxes, of which the largest is taken.
        other_class: Images whose box has another class than their folder says.
        numbered: Whether classes are numbers, because nothing names them.
    """

    source: str
    several: list[str]
    other_class: list[str]
    numbered: bool = False

    def log_summary(self, root: Path, entries: Sequence[ImageEntry]) -> None:
        """Log how many images are cropped, and which are not as they should be."""
        used = [entry for entry in entries if not entry.left_out]
        whole = [entry.path for entry in used if entry.box is None]
        log.info(
            "boxes (%s): %d of %d images are cropped to one", self.source, len(used) - len(whole),
            len(entries),
        )  # fmt: skip
        if self.numbered:
            log.info("its classes are numbers: there is no data.yaml or classes.txt with names")
        subsets = sorted({entry.subset for entry in entries} - {""})
        if subsets and self.source in annotations.KINDS:
            log.info(SUBSETS, root, several(subsets))
        left_out = [f"{entry.path}: {entry.left_out}" for entry in entries if entry.left_out]
        for paths, phrase in (
            (whole, "have no box and are used whole"),
            (self.several, "have several boxes, of which the largest one of the sign is taken"),
            (self.other_class, "have a box of another class than the data set says, which counts"),
            (left_out, "are left out"),
        ):
            if paths:
                text = (
                    phrase if len(paths) > 1 else phrase.replace("have", "has").replace("are", "is")
                )
                log.warning(
                    "%d image%s of %s %s:%s", len(paths), "s" * (len(paths) > 1), root, text,
                    listing(paths, most=EXAMPLES),
                )  # fmt: skip


def _list_entries(
    root: Path, pattern: str | None, boxes: str | None
) -> tuple[list[ImageEntry], _BoxUse | None]:
    kind = None if boxes == "none" else boxes
    if root.is_file():
        if pattern:
            raise DataError(
                f"data.pattern={pattern} is for folders: {root} is read by its columns."
            )
        if kind in {AUTO, COLUMNS}:
            return _list_csv_boxes(root, needed=kind == COLUMNS)
        return _add_boxes(root.parent, list_csv(root), kind)
    if kind in {AUTO, *annotations.KINDS} and not pattern and annotated_kind(root, kind):
        return _list_annotated(root, annotated_kind(root, kind) or "")
    if pattern:
        return _add_boxes(root, list_matching(root, pattern), kind)
    return _add_boxes(root, list_folder(root, with_annotations=kind not in {None, AUTO}), kind)


def annotated_kind(root: Path, kind: str | None) -> str | None:
    """The annotations from which a folder has its classes; None where it has class folders.

    Raises:
        DataError: If there are annotations of several kinds, and none is named.
    """
    if not root.is_dir() or not annotations.is_bare(root):
        return None
    if kind in annotations.KINDS:
        return kind
    kinds = annotations.kinds_of(root, _relative_paths(root, ""))
    if len(kinds) > 1:
        raise DataError(
            f"{root} has annotations of several kinds: choose one with "
            f"{' or '.join(f'data.boxes={one}' for one in kinds)}."
        )
    return kinds[0] if kinds else None


def _list_annotated(root: Path, kind: str) -> tuple[list[ImageEntry], _BoxUse]:
    """The images of an annotated data set, of which the boxes say the classes."""
    annotation_set = annotations.read_annotations(root, kind, _relative_paths(root, ""))
    use = _BoxUse(kind, [], [], annotation_set.numbered)
    entries = [
        _annotated_entry(path, annotation_set.boxes.get(path, []), use)
        for path in annotation_set.files
    ]
    if not any(entry.label for entry in entries):
        raise DataError(
            f"data.boxes={kind}: none of the {len(entries)} images of {root} has a box of one sign."
        )
    return entries, use


def _annotated_entry(path: str, boxes: Sequence[Box], use: _BoxUse) -> ImageEntry:
    subset = annotations.subset_of_path(path)
    signs = annotations.several_signs(boxes)
    if not boxes:
        return ImageEntry(path, "", subset=subset, left_out="it has no box, and so no sign")
    if len(signs) > 1:
        reason = f"it has boxes of several signs: {several(signs, most=3)}"
        return ImageEntry(path, "", subset=subset, left_out=reason)
    if len(boxes) > 1:
        use.several.append(path)
    label = unicodedata.normalize("NFC", signs[0])
    return ImageEntry(path, label, subset=subset, box=_largest(boxes))


def _largest(boxes: Sequence[Box]) -> Box:
    return max(boxes, key=lambda box: box.area if box.area > 0 else -1.0)  # nan is never largest


def _add_boxes(
    root: Path, entries: list[ImageEntry], kind: str | None
) -> tuple[list[ImageEntry], _BoxUse | None]:
    """Give entries with a label their boxes."""
    if kind in {None, AUTO}:
        if kind == AUTO:
            _log_unused_boxes(root, entries)
        return entries, None
    boxes = _boxes_of(root, str(kind), entries)
    if not any(boxes.get(entry.path) for entry in entries):
        raise DataError(f"data.boxes={kind}: no image of {root} has a box there.")
    return _choose_boxes(entries, boxes, str(kind))


def _boxes_of(root: Path, kind: str, entries: Sequence[ImageEntry]) -> Mapping[str, list[Box]]:
    """The boxes of each path, by the kind of their source."""
    if kind in annotations.KINDS:
        annotation_set: Annotations = annotations.read_annotations(
            root, kind, _relative_paths(root, "")
        )
        return annotation_set.boxes
    file = _box_file(root) if kind == COLUMNS else expanded(kind)
    if file is None:
        raise DataError(
            f"data.boxes=columns: there is no file boxes.csv in {root} or above it. Give a CSV "
            "file path,x,y,width,height as data.boxes=FILE."
        )
    if not file.is_file():
        raise DataError(
            f"data.boxes={kind}: there is no such file, and it is none of auto, yolo, coco, voc, "
            "columns and none."
        )
    boxes = read_box_table(file)
    if not any(entry.path in boxes for entry in entries):
        raise DataError(f"{file} names no image of {root}: its paths must be like "
                        f"{entries[0].path}.")  # fmt: skip
    return boxes


def _box_file(root: Path) -> Path | None:
    files = (folder / name for folder in (root, root.parent) for name in BOX_FILES)
    return next((file for file in files if file.is_file()), None)


def _log_unused_boxes(root: Path, entries: Sequence[ImageEntry]) -> None:
    """Say which boxes beside class folders are not used unless they are named."""
    known = {entry.path for entry in entries}
    kind = ""
    file = _box_file(root)
    if file is not None:
        first = next((row["path"] for _, row in read_table(file, required=("path",))), "")
        kind = "columns" if first in known else ""
    elif entries:
        stem = (root / entries[0].path).with_suffix("")
        kind_of_suffix = {".xml": "voc", ".txt": "yolo"}
        kind = next(
            (k for suffix, k in kind_of_suffix.items() if stem.with_suffix(suffix).is_file()), ""
        )
    if kind:
        log.info("%s has boxes, which are not used: data.boxes=%s crops images to them", root, kind)


def _choose_boxes(
    entries: Sequence[ImageEntry], boxes: Mapping[str, Sequence[Box]], source: str
) -> tuple[list[ImageEntry], _BoxUse]:
    """Choose the box of each image, whose sign is known: the largest one of that sign."""
    use = _BoxUse(source, [], [])
    result = []
    for entry in entries:
        image_boxes = boxes.get(entry.path, ())
        same_class = [box for box in image_boxes if box.label.casefold() == entry.label.casefold()]
        named = [box for box in image_boxes if box.label and not box.label.isdecimal()]
        if len(same_class or image_boxes) > 1:
            use.several.append(entry.path)
        if named and not same_class:
            use.other_class.append(
                f"{entry.path}: {several(sorted({box.label for box in named}), 3)}"
            )
        result.append(
            replace(entry, box=_largest(same_class or image_boxes)) if image_boxes else entry
        )
    return result, use


def list_folder(root: Path, *, with_annotations: bool = False) -> list[ImageEntry]:
    """List the images below a folder that has one folder per class.

    Images may lie in folders of any depth below their class; links are followed; hidden files and
    files of operating systems are skipped. A file without an image suffix is opened, and skipped
    with a log line if it holds no image. Folders that are named like subsets (train, valid, test)
    may stand above the class folders.

    Args:
        root: The folder.
        with_annotations: Whether files of annotations may lie beside the images.

    Raises:
        DataError: If there is no such folder, it has no class folders, some class folder is empty,
            or its folders look like people or subsets rather than classes.
    """
    names, folders = _root_content(root)
    class_folders = _class_folders(root, folders)
    entries: list[ImageEntry] = []
    skipped: list[str] = []
    empty: list[str] = []
    for class_folder in class_folders:
        before = len(entries)
        for path in _relative_paths(root, class_folder.path):
            if is_image_name(Path(path).suffix) or looks_like_image(root / path):
                entries.append(ImageEntry(path, class_folder.label, subset=class_folder.subset))
            elif not (with_annotations and path.lower().endswith(OF_ANNOTATIONS)):
                skipped.append(path)
        if len(entries) == before:
            empty.append(class_folder.path)
    if empty:
        raise DataError(
            f"{len(empty)} of the {len(class_folders)} class folders of {root} hold no image: "
            f"{', '.join(empty)}. Fill or remove them."
        )
    skipped += [n for n in names if n not in folders and is_image_name(Path(n).suffix)]
    _warn_of_skipped(root, skipped)
    if any(class_folder.subset for class_folder in class_folders):
        _log_subsets(root, folders, class_folders)
    _check_people(root, sorted({class_folder.label for class_folder in class_folders}), entries)
    return entries


def _log_subsets(root: Path, folders: list[str], classes: list[_ClassFolder]) -> None:
    bare = [name for name in folders if not any(c.path.startswith(f"{name}/") for c in classes)]
    if bare:
        log.warning("no class folders in %s: the images there are not used", several(bare))
    log.info(SUBSETS, root, several(folders))


def _warn_of_skipped(root: Path, skipped: list[str]) -> None:
    if skipped:
        log.warning(
            "%d files of %s are no images of a class and were skipped:%s",
            len(skipped),
            root,
            listing(skipped, most=EXAMPLES),
        )


def list_matching(root: Path, text: str) -> list[ImageEntry]:
    """List the images below a folder whose paths match a pattern, and log what was matched.

    Raises:
        DataError: If the folder cannot be read, or no path matches.
        SettingError: If it is no pattern.
    """
    entries, others = _match_paths(root, text)
    log.info("%s", _match_summary(text, entries, len(entries) + len(others)))
    if others:
        log.warning(
            "%s not match data.pattern and %s left out:%s",
            "1 image does" if len(others) == 1 else f"{len(others)} images do",
            "is" if len(others) == 1 else "are",
            listing(others, most=EXAMPLES),
        )
    return entries


def _match_paths(root: Path, text: str) -> tuple[list[ImageEntry], list[str]]:
    """The images whose paths match a pattern, and the paths of the others."""
    pattern = patterns.parsed(text)
    entries: list[ImageEntry] = []
    others: list[str] = []
    for path in _relative_paths(root, ""):
        if not is_image_name(Path(path).suffix):
            continue
        fields = pattern.fields_of(path)
        if fields is None:
            others.append(path)
        else:
            subset = fields.get("subset", "")
            fields["subset"] = patterns.subset_of(subset) or subset
            label, signer, group, subset = (fields.get(name, "") for name in patterns.KEPT)
            entries.append(ImageEntry(path, label, signer, group, subset))
    if not entries and not others:
        raise DataError(f"{root} holds no image.")
    if not entries:
        raise DataError(
            f"data.pattern={text} matches none of the {len(others)} images of {root}. "
            f"{pattern.mismatch(others)}"
        )
    return entries, others


def _match_summary(text: str, entries: list[ImageEntry], files: int) -> str:
    """What a pattern matched: how many, the values of each field, some examples."""
    fields = patterns.parsed(text).fields
    lines = []
    for field in fields:
        values = sorted({getattr(entry, field) for entry in entries})
        noun = {"label": "class"}.get(field, field)
        plural = f"{noun}{'es' * (noun == 'class') or 's'}" if len(values) > 1 else noun
        lines.append(f"{len(values)} {plural}: {several(values)}")
    count = min(EXAMPLES, len(entries))
    for number in range(count):
        entry = entries[number * (len(entries) - 1) // max(1, count - 1)]
        lines.append(f"{entry.path}: {', '.join(f'{f} {getattr(entry, f)}' for f in fields)}")
    return f"data.pattern={text} matches {len(entries)} of {files} images{listing(lines)}"


def class_names(root: Path, pattern: str | None = None, boxes: str | None = None) -> list[str]:
    """Names of the classes of a data set, without a look at the images.

    Args:
        root: A folder, or a CSV file.
        pattern: `data.pattern`.
        boxes: `data.boxes`.

    Raises:
        DataError: As `list_entries`.
    """
    if root.is_file():
        rows = read_table(root, required=("path", "label"))
        return sorted({unicodedata.normalize("NFC", row["label"]) for _, row in rows} - {""})
    if not pattern and (kind := annotated_kind(root, boxes) if boxes not in {None, "none"} else ""):
        return sorted({entry.label for entry in _list_annotated(root, kind)[0]} - {""})
    if pattern:
        return sorted({entry.label for entry in _match_paths(root, pattern)[0]})
    return sorted(
        {class_folder.label for class_folder in _class_folders(root, _root_content(root)[1])}
    )


def _root_content(root: Path) -> tuple[list[str], list[str]]:
    """All names in a folder but junk, and those of its folders."""
    if not root.is_dir():
        raise DataError(
            f"There is no folder {root}: give the folder of class folders as data.root."
        )
    names, folders = _folder_content(root)
    if not folders:
        guess = patterns.guessed_flat([n for n in names if is_image_name(Path(n).suffix)])
        example = guess[0] if guess else "{label}_*"
        signs = f" They look like {len(guess[1])} signs: {several(guess[1])}." if guess else ""
        raise DataError(
            f"{root} has no folders in it: expected one folder of images per sign, a CSV file with "
            "the columns path,label, or, where names of files hold the sign, a pattern, e.g. "
            f"data.pattern='{example}'.{signs}"
        )
    return names, folders


def _folder_content(folder: Path) -> tuple[list[str], list[str]]:
    """All names in a folder but junk, sorted, and those of its folders.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        names = sorted(p.name for p in folder.iterdir() if not _is_junk(p.name))
        return names, [name for name in names if (folder / name).is_dir()]
    except OSError as error:
        raise _unreadable([folder], error) from None


def _unreadable(folders: list[Path], error: OSError) -> DataError:
    which = f"The folder {folders[0]}" if len(folders) == 1 else f"{len(folders)} folders"
    more = listing(map(str, folders)) + "\n" if len(folders) > 1 else " "
    return DataError(
        f"{which} cannot be read ({error.strerror}).{more}Allow it (chmod -R u+rX FOLDER), or move "
        "what is not to be used out of the data set."
    )


def _class_folders(root: Path, folders: list[str]) -> list[_ClassFolder]:
    """The class folders of a data set, which may stand in folders of its subsets.

    Raises:
        DataError: If folders look like people or subsets.
    """
    subsets = [name for name in folders if patterns.subset_of(name)]
    if len(subsets) > 1 and len(subsets) == len(folders):
        class_folders = _folders_below_subsets(root, folders)
    elif len(subsets) > 1 and any(_folder_content(root / name)[1] for name in subsets):
        others = [name for name in folders if name not in subsets]
        raise DataError(
            f"{root} has folders of subsets ({several(subsets)}) beside others "
            f"({several(others)}): move the others elsewhere, or say where the sign stands in a "
            "path, e.g. data.pattern='{subset}/{label}/*'."
        )
    else:
        class_folders = [_ClassFolder(name, unicodedata.normalize("NFC", name)) for name in folders]
    names = sorted({class_folder.label for class_folder in class_folders})
    if patterns.are_people(names):
        raise _people_error(
            root,
            names,
            [p for class_folder in class_folders for p in _relative_paths(root, class_folder.path)],
        )
    return class_folders


def _folders_below_subsets(root: Path, subsets: list[str]) -> list[_ClassFolder]:
    """The class folders in the folders of subsets."""
    class_folders: list[_ClassFolder] = []
    for name in subsets:
        path, subset = _unpacked_folder(root, name), patterns.subset_of(name) or ""
        labels = _folder_content(root / path)[1]
        class_folders += [
            _ClassFolder(f"{path}/{label}", unicodedata.normalize("NFC", label), subset)
            for label in labels
        ]
    if not class_folders:
        raise DataError(
            f"The folders of {root} look like subsets of a data set, not like signs: "
            f"{', '.join(subsets)}. Say where the sign stands in a path, e.g. "
            f"data.pattern='{{subset}}/{{label}}_*' ({_first_file(root)}); if each folder is a "
            "sign, type data.pattern='{label}/**'."
        )
    return class_folders


def _unpacked_folder(root: Path, path: str) -> str:
    """The innermost of folders of subsets that hold nothing but another one, as archives unpack."""
    while True:
        names, folders = _folder_content(root / path)
        if len(names) != 1 or len(folders) != 1 or patterns.subset_of(folders[0]) is None:
            return path
        path = f"{path}/{folders[0]}"


def _first_file(root: Path) -> str:
    return next((f"a file is {path}" for path in _relative_paths(root, "")), "there are no files")


def _paths_from_class(paths: list[str], names: list[str]) -> list[str]:
    """Paths from their class folder on."""
    known = set(names)
    tails = []
    for path in paths:
        segments = path.split("/")
        start = next((n for n, segment in enumerate(segments[:-1]) if segment in known), 0)
        tails.append("/".join(segments[start:]))
    return tails


def _people_error(root: Path, names: list[str], paths: list[str]) -> DataError:
    """The error for folders that look like people, with the pattern that their files suggest."""
    images = [path for path in paths if is_image_name(Path(path).suffix)]
    images = images[:: 1 + len(images) // SAMPLED]
    guess = patterns.guessed(_paths_from_class(images, names))
    if guess:
        text, labels = guess
        signs = f"{len(labels)} signs ({several(labels)})"
        fix = f"Their files look like {signs}: type data.pattern='{text}'."
    else:
        fix = (
            "Say where the sign stands in a path, e.g. data.pattern='{signer}/{label}_*' "
            f"({_first_file(root)})."
        )
    return DataError(
        f"The folders of {root} look like people or sessions, not like signs: {several(names)}. "
        f"{fix} If each folder is a sign, type data.pattern='{{label}}/**'."
    )


def _check_people(root: Path, names: list[str], entries: list[ImageEntry]) -> None:
    """Refuse folders s1, s2 that hold the same signs each, and warn of other likely people."""
    subset = next((name for name in names if patterns.subset_of(name)), None)
    if subset is not None:
        log.warning("The folder %s of %s is taken for a sign, not for a subset.", subset, root)
    weak = patterns.may_be_people(names)
    paths = [entry.path for entry in entries[:: 1 + len(entries) // SAMPLED]]
    guess = patterns.guessed(_paths_from_class(paths, names))
    if weak and guess:
        raise _people_error(root, names, paths)
    if weak:
        log.warning(
            "The folders of %s are taken for signs: %s. If they are people, say where the sign "
            "stands, e.g. data.pattern='{signer}/{label}_*'.",
            root, several(names),
        )  # fmt: skip
    elif guess and patterns.are_signs(guess[1]) and not patterns.are_signs(names):
        log.warning(
            "The folders of %s are taken for signs: %s. Each holds files that look like %d signs "
            "(%s); if the folders are people, type data.pattern='%s'.",
            root, several(names), len(guess[1]), several(guess[1]), guess[0],
        )  # fmt: skip


def list_csv(file: Path) -> list[ImageEntry]:
    """List the images of a CSV file with the columns path,label and, if known, signer.

    Columns group and subset are read as well. Paths are relative to the file's folder, or absolute;
    missing files are reported later, when every image is opened.

    Raises:
        DataError: If a column or a value is missing, or a path is named twice.
    """
    rows = _csv_rows(file)
    lines: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, row in rows:
        lines[os.path.normpath(file.parent / row["path"])].append((number, row["path"]))
    repeated = [
        f"{occurrences[0][1]}: lines {several([str(number) for number, _ in occurrences])}"
        + (
            ""
            if len(spellings := {path for _, path in occurrences}) == 1
            else f", as {several(sorted(spellings))}"
        )
        for occurrences in lines.values()
        if len(occurrences) > 1
    ]
    if repeated:
        raise DataError(
            f"{file} names {len(repeated)} images more than once:{listing(repeated)}\n"
            "Keep one line for each."
        )
    return [_csv_entry(row) for _, row in rows]


def _csv_rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table of images, each with a path and a label."""
    rows = read_table(file, required=("path", "label"))
    if not rows:
        raise DataError(f"{file} names no image: there is no line below its first one.")
    missing = [str(number) for number, row in rows if not (row["path"] and row["label"])]
    if missing:
        where = f"line{'s' * (len(missing) > 1)} {several(missing)}"
        raise DataError(f"{file}: no path or no label in {where}.")
    return rows


def _csv_entry(row: Mapping[str, str]) -> ImageEntry:
    return ImageEntry(
        row["path"],
        unicodedata.normalize("NFC", row["label"]),
        row.get("signer", ""),
        row.get("group", ""),
        patterns.subset_of(row.get("subset", "")) or row.get("subset", ""),
    )


def _list_csv_boxes(file: Path, *, needed: bool) -> tuple[list[ImageEntry], _BoxUse | None]:
    """The images of a CSV file with columns of boxes, in which an image may have several rows.

    Raises:
        DataError: If it has no such columns although they are needed, or as `list_csv`.
    """
    rows = _csv_rows(file)
    columns = box_columns(list(rows[0][1])) if rows else None
    if columns is None:
        if needed:
            raise DataError(
                f"data.boxes=columns: {file} has no columns x,y,width,height (pixels), "
                "xmin,ymin,xmax,ymax (pixels) or x_center,y_center,width,height (shares)."
            )
        return list_csv(file), None
    boxes: dict[str, list[Box]] = defaultdict(list)
    first: dict[str, ImageEntry] = {}
    ambiguous: set[str] = set()
    for line, row in rows:
        entry = _csv_entry(row)
        if first.setdefault(entry.path, entry).label != entry.label:
            ambiguous.add(entry.path)
        box = box_of_row(file, line, row, columns)
        boxes[entry.path] += [box] if box else []
    check_pixels(file, [box for image_boxes in boxes.values() for box in image_boxes])
    entries, use = _choose_boxes(list(first.values()), boxes, "columns")
    reason = "it has boxes of several signs"
    return [replace(e, left_out=reason) if e.path in ambiguous else e for e in entries], use


def read_signers(root: Path, signers: str | None, paths: list[str]) -> dict[str, str] | None:
    """Read the signers of images.

    Args:
        root: The folder of class folders.
        signers: A CSV file `path,signer`, paths relative to `root`; `auto` takes `signers.csv` from
            `root` or the folder above it if it names an image of `root`; None reads nothing.
        paths: The images of the data set.

    Returns:
        The signer by path, or None if signers are unknown.

    Raises:
        DataError: If the file is missing or unreadable, or leaves images without a signer.
    """
    if not signers:
        return None
    if signers == "auto":
        for file in (root / "signers.csv", root.parent / "signers.csv"):
            if file.is_file():
                known = _read_signer_table(file)
                if any(path in known for path in paths):
                    return _check_complete(file, known, paths)
        return None
    file = expanded(signers)
    if not file.is_file():
        raise DataError(f"There is no file {file}: data.signers names a CSV file path,signer.")
    return _check_complete(file, _read_signer_table(file), paths)


def _read_signer_table(file: Path) -> dict[str, str]:
    rows = read_table(file, required=("path", "signer"))
    return {row["path"]: row["signer"] for _, row in rows if row["signer"]}


def _check_complete(file: Path, known: dict[str, str], paths: list[str]) -> dict[str, str]:
    unknown = [path for path in paths if path not in known]
    if unknown:
        raise DataError(
            f"{file} has no signer for {len(unknown)} of {len(paths)} images:"
            f"{listing(unknown)}\nAdd them, or ignore signers: data.signers=null."
        )
    return known


def read_groups(root: Path, groups: str | None, paths: list[str]) -> dict[str, str]:
    """Read the groups of images, which are kept in one fold by `split=group`.

    Args:
        root: The folder of class folders.
        groups: `data.groups`, a CSV file `path,group`, paths relative to `root`; or None.
        paths: The images of the data set.

    Returns:
        The group by path, of the images that have one.

    Raises:
        DataError: If the file is missing or unreadable, or names no image of the data set.
    """
    if not groups:
        return {}
    file = expanded(groups)
    if not file.is_file():
        raise DataError(f"There is no file {file}: data.groups names a CSV file path,group.")
    rows = read_table(file, required=("path", "group"))
    known = {row["path"]: row["group"] for _, row in rows if row["group"]}
    if not any(path in known for path in paths):
        raise DataError(f"{file} names no image of {root}: its paths must be like {paths[0]}.")
    return known


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _relative_paths(root: Path, folder: str) -> list[str]:
    """Paths of all files below a folder of a data set, relative to its root.

    Raises:
        DataError: Names each folder that cannot be read.
    """
    failed: list[OSError] = []
    paths = [file.relative_to(root).as_posix() for file in _walk_files(root / folder, failed)]
    if failed:
        raise _unreadable([Path(str(error.filename)) for error in failed], failed[0])
    return paths


def _walk_files(folder: Path, failed: list[OSError]) -> Iterator[Path]:
    """Yield all files in sorted order; follow links to folders, but no folder inside itself."""
    for path, folders, files in os.walk(folder, onerror=failed.append, followlinks=True):
        current = Path(path)
        above = {current.resolve(), *current.resolve().parents}
        folders[:] = sorted(
            name for name in folders
            if not _is_junk(name) and (current / name).resolve() not in above
        )  # fmt: skip
        for name in sorted(files):
            if not _is_junk(name):
                yield current / name
