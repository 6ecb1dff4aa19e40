"""Which files of a folder or table are images of a class, by the functions that list them."""

import csv
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image

from signlang.data.image_folder import (
    ImageEntry,
    list_csv,
    list_folder,
    list_matching,
    read_signers,
)
from signlang.errors import DataError


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("A/1.png", "A/2.png", "B/deep/er/1.png", "B/0.png"):
        image(tmp_path / "signs" / name)
    return tmp_path / "signs"


def test_labels_are_the_folders_just_below_and_files_come_in_order(root: Path) -> None:
    assert list_folder(root) == [
        ImageEntry("A/1.png", "A"), ImageEntry("A/2.png", "A"),
        ImageEntry("B/0.png", "B"), ImageEntry("B/deep/er/1.png", "B"),
    ]  # fmt: skip


def test_names_of_one_look_are_one_label(root: Path) -> None:
    image(root / "u\u0308" / "1.png")  # as some systems write it: two code points
    assert {entry.label for entry in list_folder(root)} == {"A", "B", "ü"}
    table = root / "t.csv"
    table.write_text("path,label\nA/1.png,u\u0308\n", encoding="utf-8")
    assert list_csv(table) == [ImageEntry("A/1.png", "ü", "")]


def test_what_is_passed_over_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list_folder(root)
    assert not caplog.records
    (root / "A" / "notes.txt").write_text("no image")
    (root / "readme.txt").write_text("of no class, and no image")
    image(root / "stray.png")
    for junk in (".hidden.png", "Thumbs.db", "DESKTOP.INI"):
        (root / "A" / junk).write_bytes(b"junk")
    with caplog.at_level(logging.WARNING):
        assert len(list_folder(root)) == 4
    (record,) = caplog.records
    assert "2 files of" in record.getMessage()
    assert "A/notes.txt" in record.getMessage()
    assert "stray.png" in record.getMessage()
    assert "readme" not in record.getMessage()


def test_a_link_to_a_folder_is_followed_but_never_into_itself(root: Path) -> None:
    image(root.parent / "elsewhere" / "x.png")
    (root / "A" / "more").symlink_to(root.parent / "elsewhere", target_is_directory=True)
    (root / "A" / "loop").symlink_to(root, target_is_directory=True)
    (root / "A" / "self").symlink_to(root / "A", target_is_directory=True)
    assert [entry.path for entry in list_folder(root) if entry.label == "A"] == [
        "A/1.png", "A/2.png", "A/more/x.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "subsets"),
    [
        (("train/A/1.png", "test/A/1.png"), ["test", "train"]),
        (("Training_set/A/1.png", "asl-val/A/1.png"), ["train", "validation"]),
        (("set_train/set_train/A/1.png", "set_test/set_test/A_test.png"), ["train"]),
        (("train/A/1.png", "A/1.png"), ["", ""]),
        (("trained/A/1.png", "tested/A/1.png"), ["", ""]),
    ],
)
def test_only_folders_that_are_all_subsets_stand_above_the_classes(
    tmp_path: Path, names: tuple[str, ...], subsets: list[str]
) -> None:
    for name in names:
        image(tmp_path / name)
    entries = list_folder(tmp_path)
    assert sorted(entry.subset for entry in entries) == subsets
    assert {entry.label for entry in entries if entry.subset} <= {"A"}


def test_subsets_beside_other_folders_are_not_taken_for_signs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train/A/1.png", "A/1.png"):
        image(tmp_path / name)
    assert {entry.label for entry in list_folder(tmp_path)} == {"A", "train"}
    assert "The folder train of" in caplog.text
    image(tmp_path / "valid" / "A" / "1.png")
    with pytest.raises(DataError, match=r"subsets \(train, valid\) beside others \(A\): move"):
        list_folder(tmp_path)
    assert len(list_matching(tmp_path, "{subset}/{label}/*")) == 2


def test_flat_subsets_are_not_taken_for_two_signs(tmp_path: Path) -> None:
    image(tmp_path / "train" / "A_1.png")
    image(tmp_path / "test" / "A_2.png")
    with pytest.raises(DataError, match=r"look like subsets .*test/A_2\.png.*\{label\}/\*\*"):
        list_folder(tmp_path)
    assert {entry.label for entry in list_matching(tmp_path, "{label}/**")} == {"test", "train"}
    entries = list_matching(tmp_path, "{subset}/{label}_{n}")
    assert [(entry.label, entry.subset) for entry in entries] == [("A", "test"), ("A", "train")]


def test_every_empty_class_is_named(root: Path) -> None:
    (root / "C").mkdir()
    (root / "D").mkdir()
    (root / "D" / "x.txt").write_text("no image")
    with pytest.raises(DataError, match=r"2 of the 4 class folders of .*: C, D\. Fill"):
        list_folder(root)


def test_a_table_may_have_blanks_more_columns_and_signers(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(" path , label,age, signer\n a.png , A ,7,  ann \nb.png,B\n,C\n", "utf-8")
    with pytest.raises(DataError, match=r"no path or no label in line 4\.$"):
        list_csv(table)
    table.write_text(" path , label,age, signer\n a.png , A ,7,  ann \nb.png,B\n", "utf-8")
    assert list_csv(table) == [ImageEntry("a.png", "A", "ann"), ImageEntry("b.png", "B", "")]


def test_a_path_that_is_named_twice_is_refused_by_name(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,A\nb.png,B\na.png,B\nb.png,B\nc.png,C\n", "utf-8")
    with pytest.raises(DataError, match="names 2 images more than once") as caught:
        list_csv(table)
    assert "a.png" in str(caught.value)
    assert "c.png" not in str(caught.value)


def test_signers_are_looked_for_beside_the_classes_and_above_them(root: Path) -> None:
    paths = ["A/1.png", "B/0.png"]
    assert read_signers(root, b"auto".decode(), paths) is None
    table = root.parent / "signers.csv"
    table.write_text("path,signer\nA/1.png,ann\nB/0.png,bob\n")
    known = {"A/1.png": "ann", "B/0.png": "bob"}
    assert read_signers(root, b"auto".decode(), paths) == known  # as a file spells it
    assert read_signers(root, None, paths) is None
    (root / "signers.csv").write_text("path,signer\nA/1.png,eve\nB/0.png,eve\n")
    assert read_signers(root, "auto", paths) == {"A/1.png": "eve", "B/0.png": "eve"}
    (root / "signers.csv").write_text("path,signer\nother/1.png,eve\n")  # of other images
    assert read_signers(root, "auto", paths) == {"A/1.png": "ann", "B/0.png": "bob"}
    assert read_signers(root, str(table), paths) == {"A/1.png": "ann", "B/0.png": "bob"}
    table.write_text("path,signer\nA/1.png,ann\nB/0.png,\n")
    with pytest.raises(DataError, match=r"has no signer for 1 of 2 images:\s*B/0\.png"):
        read_signers(root, "auto", paths)


def test_a_table_that_cannot_be_read_says_what_it_needs(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file;class\n")
    with pytest.raises(DataError, match=r"no column path and no column label.*it is file;class"):
        list_csv(table)
    table.write_text("path\n")
    with pytest.raises(DataError, match=r"no column label: its first line must be path,label"):
        list_csv(table)
    with pytest.raises(DataError, match=r"cannot be read as CSV"):
        list_csv(tmp_path)


ROWS = [("Path", "Label", "Signer"), ("A/1.png", "Ä", "Zoë, 2"), ("B/0.png", "B", "bob")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_a_table_may_be_as_a_spreadsheet_writes_it(
    tmp_path: Path, delimiter: str, encoding: str
) -> None:
    table = tmp_path / "t.csv"
    with table.open("w", newline="", encoding=encoding) as stream:
        csv.writer(stream, delimiter=delimiter).writerows([*ROWS, ("", "", "")])
    assert list_csv(table) == [
        ImageEntry("A/1.png", "Ä", "Zoë, 2"), ImageEntry("B/0.png", "B", "bob"),
    ]  # fmt: skip
    table.write_bytes("sep=;\r\npath;label;\r\nA/1.png;Ä;\r\n".encode(encoding))
    assert list_csv(table) == [ImageEntry("A/1.png", "Ä")]


def test_backslashes_are_slashes_unless_a_file_is_called_so(root: Path) -> None:
    table = root / "t.csv"
    table.write_text("path,label\nA\\1.png,A\nB\\x.png,B\n")
    image(root / "B\\x.png")
    assert [entry.path for entry in list_csv(table)] == ["A/1.png", "B\\x.png"]


def test_names_of_another_encoding_are_found_as_they_are_on_the_disk(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xfc.png")  # ü in Latin-1, no UTF-8
    try:
        image(tmp_path / odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    table = tmp_path / "t.csv"
    table.write_bytes(b"path,label\n\xfc.png,A\n\xe4.png,\xc4\n")
    assert [(entry.path, entry.label) for entry in list_csv(table)] == [(odd, "A"), ("ä.png", "Ä")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('path,label\na.png,A\n"b.png,B\nc.png,C\n', r"line 3: a quotation mark is not closed"),
        ('path,label\n"a.png,A\nb.png,B\nc.png",C\n', r"line 2: a quotation mark is not closed"),
        ('path,label\n"a".png,A\n', r"line 2: a quotation mark"),
        ("path,label\na,b.png,A\n", r"line 2: there are 3 values for 2 columns"),
        ("path,label\na.png,A\n./a.png,B\n", r"a\.png: lines 2, 3, as \./a\.png, a\.png"),
        ("path,label\nA/a.png,A\nA\\a.png,B\n", r"A/a\.png: lines 2, 3"),
        ("PK\3\4", r"is a workbook, not a CSV file: save it as CSV"),
        ("path,label\na.png,A\0\n", r"null bytes"),
    ],
)
def test_a_fault_of_a_table_is_named_with_its_line(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=sentence):
        list_csv(tmp_path / "t.csv")


LOCKED = """
import os, sys
from pathlib import Path
from PIL import Image
from signlang.data import image_folder, sources
from signlang.errors import DataError
Image.init()
if os.geteuid() == 0:
    os.setuid(65534)  # root may read everything
try:
    print(len(image_folder.list_folder(sources.folder(sys.argv[1], ""))))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("locked", "mode", "sentence"),
    [
        ("A/deep", 0o000, "The folder {}/A/deep cannot be read (Permission denied). Allow it"),
        ("A", 0o000, "The folder {}/A cannot be read (Permission denied). Allow it"),
        ("", 0o000, "data.root={0}: {0} cannot be read (Permission denied). Allow it"),
        ("", 0o444, "cannot be read (Permission denied). Allow it"),
    ],
)
def test_a_folder_that_cannot_be_read_is_never_dropped(
    locked: str, mode: int, sentence: str
) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        Path(place).chmod(0o755)
        root = Path(place, "signs")
        for name in ("A/1.png", "A/deep/2.png", "B/1.png"):
            image(root / name)
        command = [sys.executable, "-c", LOCKED, str(root)]
        open_answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert open_answer.stdout == "3\n", open_answer.stderr
        (root / locked).chmod(mode)
        try:
            answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        finally:
            (root / locked).chmod(0o755)
    assert sentence.format(root) in answer.stdout, answer.stderr
    assert not answer.stderr
