"""Which files of a folder or table are images of a class, by the functions that list them."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from signlang.data.image_folder import ImageEntry, list_csv, list_folder, read_signers
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
    ("names", "refused"),
    [
        (("train/A/1.png", "test/A/1.png"), True),
        (("Training_set/A/1.png", "asl-val/A/1.png"), True),
        (("train/1.png", "test/1.png"), False),  # flat: they may be signs
        (("train/A/1.png", "A/1.png"), False),
        (("trained/A/1.png", "tested/A/1.png"), False),
    ],
)
def test_only_folders_that_are_all_subsets_are_refused(
    tmp_path: Path, names: tuple[str, ...], refused: bool
) -> None:
    for name in names:
        image(tmp_path / name)
    if refused:
        first = sorted(name.partition("/")[0] for name in names)[0]
        with pytest.raises(DataError, match=f"data.root={tmp_path / first}"):
            list_folder(tmp_path)
    else:
        assert len(list_folder(tmp_path)) == 2


def test_every_empty_class_is_named(root: Path) -> None:
    (root / "C").mkdir()
    (root / "D").mkdir()
    (root / "D" / "x.txt").write_text("no image")
    with pytest.raises(DataError, match=r"2 of the 4 class folders of .*: C, D\. Fill"):
        list_folder(root)


def test_a_table_may_have_blanks_more_columns_and_signers(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(" path , label,age, signer\n a.png , A ,7,  ann \nb.png,B\n,C\n", "utf-8")
    with pytest.raises(DataError, match=r"no path or no label in:\s*line 4$"):
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
    table.write_text("path;label\n")
    with pytest.raises(DataError, match=r"no column path and no column label.*it is path;label"):
        list_csv(table)
    table.write_text("path\n")
    with pytest.raises(DataError, match=r"no column label: its first line must be path,label"):
        list_csv(table)
    with pytest.raises(DataError, match=r"cannot be read as CSV"):
        list_csv(tmp_path)
