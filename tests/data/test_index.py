"""Index of folders and tables of images, and its error messages."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_tiny
from PIL import Image

from signlang.data import image_io
from signlang.data.index import Index, image_clusters, read_index
from signlang.errors import DataError, SettingError
from signlang.runs.folder import RunFolder


def index_of(root: Path, cache_dir: Path, **options: str) -> Index:
    read_index.cache_clear()  # a command reads a folder once; tests change folders
    return read_index(root, cache_dir=str(cache_dir), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "data", per_class=3)


def image(file: Path, colour: str = "red") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), colour).save(file)


def test_classes_are_folders_in_stable_order(folder: Path, cache_dir: Path) -> None:
    index = index_of(folder, cache_dir)
    assert index.classes == ("A", "B", "ß")
    assert index.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert index.paths == tuple(sorted(index.paths))
    assert index.signers == ("s0", "s1", "s2") * 3
    assert index.counts.tolist() == [3, 3, 3]


def test_the_fingerprint_is_of_content_not_of_place_or_time(folder: Path, cache_dir: Path) -> None:
    before = index_of(folder, cache_dir)
    moved = shutil.move(folder, folder.with_name("moved"))
    for file in sorted(Path(moved).rglob("*.png"), reverse=True):
        os.utime(file, (1, 1))
    assert index_of(Path(moved), cache_dir).fingerprint == before.fingerprint
    image(Path(moved) / "A" / "A0.png")
    assert index_of(Path(moved), cache_dir).fingerprint != before.fingerprint


def test_the_fingerprint_is_of_the_signers_and_labels_too(folder: Path, cache_dir: Path) -> None:
    before = index_of(folder, cache_dir)
    table = (folder / "signers.csv").read_text("utf-8")
    (folder / "signers.csv").write_text(table.replace("A/A0.png,s0", "A/A0.png,s1"), "utf-8")
    other = index_of(folder, cache_dir)
    (folder / "signers.csv").unlink()
    unsigned = index_of(folder, cache_dir)
    (folder / "A").rename(folder / "C")
    renamed = index_of(folder, cache_dir)
    assert before.content == other.content == unsigned.content
    assert unsigned.signers is None
    fingerprints = [index.fingerprint for index in (before, other, unsigned, renamed)]
    assert len(set(fingerprints)) == 4


def test_hidden_files_junk_links_and_nested_folders(folder: Path, cache_dir: Path) -> None:
    (folder / "A" / "Thumbs.db").write_bytes(b"junk")
    (folder / "A" / ".DS_Store").write_bytes(b"junk")
    (folder / ".git").mkdir()
    (folder / "__MACOSX" / "A").mkdir(parents=True)
    image(folder / "A" / "session 1" / "naïve, “x”.png")
    shutil.copy(folder / "B" / "B0.png", folder / "A" / "ohne_endung")
    (folder / "A" / "notes.txt").write_text("no image")
    (folder / "A" / "loop").symlink_to(folder / "A", target_is_directory=True)
    elsewhere = folder.with_name("elsewhere")
    image(elsewhere / "linked.png")
    (folder / "B" / "more").symlink_to(elsewhere, target_is_directory=True)
    (folder / "B" / "link.png").symlink_to(elsewhere / "linked.png")
    (folder / "signers.csv").unlink()
    index = index_of(folder, cache_dir)
    assert {p for p, label in zip(index.paths, index.labels, strict=True) if label == 0} == {
        "A/A0.png", "A/A1.png", "A/A2.png", "A/ohne_endung", "A/session 1/naïve, “x”.png",
    }  # fmt: skip
    assert {"B/link.png", "B/more/linked.png"} < set(index.paths)


def test_all_bad_files_are_listed_at_once(folder: Path, cache_dir: Path) -> None:
    (folder / "A" / "A0.png").write_bytes(b"")
    (folder / "B" / "B1.png").write_bytes((folder / "B" / "B0.png").read_bytes()[:300])
    with pytest.raises(DataError, match="2 files") as caught:
        index_of(folder, cache_dir)
    assert "A/A0.png: empty (0 bytes)" in str(caught.value)
    assert "B/B1.png: damaged or cut off" in str(caught.value)
    assert "data.on_bad_image=exclude" in str(caught.value)
    index = index_of(folder, cache_dir, on_bad_image="exclude")
    assert len(index) == 7
    index.write(folder, np.full(len(index), "train"))
    assert (folder / "excluded.csv").read_text().startswith("path,reason\nA/A0.png,empty (0 bytes)")


def test_results_are_cached_until_the_file_changes(folder: Path, cache_dir: Path) -> None:
    index_of(folder, cache_dir)
    file = folder / "A" / "A0.png"
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[-20] ^= 255
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(index_of(folder, cache_dir)) == 9  # same size and time: not opened again
    os.utime(file)
    with pytest.raises(DataError, match=r"A0\.png"):
        index_of(folder, cache_dir)


def test_a_damaged_cache_of_results_is_rebuilt(folder: Path, cache_dir: Path) -> None:
    before = index_of(folder, cache_dir)
    for file in (cache_dir / "inspected").iterdir():
        file.write_text('{"version": 1, "files": {"A/A0.png": [1')
    assert index_of(folder, cache_dir).fingerprint == before.fingerprint


def test_one_class_empty_class_and_no_classes(folder: Path, cache_dir: Path) -> None:
    (folder / "C").mkdir()
    with pytest.raises(DataError, match="hold no image: C"):
        index_of(folder, cache_dir)
    for name in ("B", "C", "ß"):
        shutil.rmtree(folder / name)
    (folder / "signers.csv").unlink()
    with pytest.raises(DataError, match="one class only, A"):
        index_of(folder, cache_dir)
    with pytest.raises(DataError, match="has no folders"):
        index_of(folder / "A", cache_dir)
    with pytest.raises(DataError, match="There is no folder"):
        index_of(folder / "nowhere", cache_dir)


def test_subset_folders_are_not_taken_for_classes(tmp_path: Path, cache_dir: Path) -> None:
    for subset in ("train", "test"):
        image(tmp_path / subset / "A" / "a.png")
        image(tmp_path / subset / "B" / "b.png", "blue")
    index = index_of(tmp_path, cache_dir)
    assert index.classes == ("A", "B")
    assert index.given == ("test", "test", "train", "train")


def test_classes_that_differ_in_case_only_are_told(
    folder: Path, cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index_of(folder, cache_dir)
    assert "differ in case" not in caplog.text
    image(folder / "b" / "1.png")
    (folder / "signers.csv").unlink()
    assert "b" in index_of(folder, cache_dir).classes
    assert "B and b differ in case only" in caplog.text


def test_missing_files_of_a_table_are_one_line_and_are_looked_for(
    folder: Path, cache_dir: Path
) -> None:
    (folder / "signers.csv").unlink()
    table = folder / "A" / "t.csv"
    names = [f"{name}/{name}{n}.png" for name in ("A", "B") for n in range(3)]
    rows = "".join(f"{name},{name[0]}\n" for name in names)
    table.write_text(f"path,label\n{rows}", "utf-8")
    with pytest.raises(DataError) as caught:
        index_of(table, cache_dir)
    text = str(caught.value)
    assert "6 files: no such file: A/A0.png, A/A1.png, A/A2.png and 3 more" in text
    assert f"A/A0.png is at {folder / 'A' / 'A0.png'}" in text
    assert len(text.splitlines()) == 4


def test_a_csv_names_images_labels_and_signers(folder: Path, cache_dir: Path) -> None:
    table = folder / "my data.csv"
    table.write_text(
        "\ufeffpath,label,signer\nA/A0.png,yes,ann\nß/ß1.png,no,bob\nA/A1.png,no,ann\n", "utf-8"
    )
    (folder / "signers.csv").unlink()
    index = index_of(table, cache_dir)
    assert index.classes == ("no", "yes")
    assert dict(zip(index.paths, index.labels, strict=True)) == {
        "A/A0.png": 1, "A/A1.png": 0, "ß/ß1.png": 0,
    }  # fmt: skip
    assert index.signers == ("ann", "ann", "bob")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file;label\n", "no column path: its first line must be path,label"),
        ("", "no column path and no column label"),
        ("path,label\nA/A0.png,\n", "line 2"),
        ("path,label\nA/A0.png,x\nA/A0.png,y\n", "more than once"),
        ("path,label\nA/A0.png,x\nnowhere.png,y\n", r"nowhere\.png: no such file"),
        ("path,label\n", "names no image: there is no line below its first one"),
    ],
)
def test_a_csv_with_faults_is_refused(
    folder: Path, cache_dir: Path, text: str, sentence: str
) -> None:
    table = folder / "table.csv"
    table.write_text(text, "utf-8")
    (folder / "signers.csv").unlink()
    with pytest.raises(DataError, match=sentence):
        index_of(table, cache_dir)


def test_signers_that_leave_images_out_are_refused(folder: Path, cache_dir: Path) -> None:
    (folder / "signers.csv").write_text("path,signer\nA/A0.png,ann\n")
    with pytest.raises(DataError, match=r"has no signer for 8 of 9 images"):
        index_of(folder, cache_dir)
    assert index_of(folder, cache_dir, signers="").signers is None
    with pytest.raises(DataError, match="There is no file"):
        index_of(folder, cache_dir, signers=str(folder / "nowhere.csv"))


def test_names_that_are_not_utf8_are_written_as_they_are(folder: Path, cache_dir: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    image(folder / "A" / name)
    (folder / "signers.csv").unlink()
    index = index_of(folder, cache_dir)
    index.write(folder, np.full(len(index), "test"))
    assert b"A/caf\xe9.png,A,,test\n" in (folder / "data.csv").read_bytes()


def test_the_table_of_a_run_has_every_image(folder: Path, cache_dir: Path, tmp_path: Path) -> None:
    index = index_of(folder, cache_dir)
    index.write(tmp_path, np.array(["train", "validation", "test"] * 3))
    lines = (tmp_path / "data.csv").read_text("utf-8").splitlines()
    assert lines[:2] == ["path,label,signer,subset", "A/A0.png,A,s0,train"]
    assert lines[-1] == "ß/ß2.png,ß,s2,test"
    assert len(lines) == 10
    assert json.loads((tmp_path / "classes.json").read_text("utf-8")) == ["A", "B", "ß"]
    assert not (tmp_path / "excluded.csv").exists()
    with pytest.raises(ValueError, match="zip"):
        index.write(tmp_path, np.array(["train"]))


def test_one_bad_file_is_one_file_and_only_a_known_choice_is_taken(
    folder: Path, cache_dir: Path
) -> None:
    (folder / "A" / "A0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^1 file of "):
        index_of(folder, cache_dir)
    with pytest.raises(SettingError, match=r"on_bad_image=ignore: choose error or exclude"):
        index_of(folder, cache_dir, on_bad_image="ignore")
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"^None of the \d+ images of .* can be used: .*: empty"):
        index_of(folder, cache_dir, on_bad_image="exclude")


def test_only_what_is_new_is_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_dir = tmp_path / "cache"
    index_of(folder, cache_dir)
    inspected: list[str] = []
    inspect = image_io.inspect_image

    def counted(data: bytes, suffix: str, *more: Any) -> image_io.ImageFacts:
        inspected.append(suffix)
        return inspect(data, suffix, *more)

    monkeypatch.setattr(image_io, "inspect_image", counted)
    before = index_of(folder, cache_dir)
    assert not inspected
    image(folder / "A" / "A9.png")
    (folder / "signers.csv").unlink()
    assert len(index_of(folder, cache_dir)) == 10
    assert inspected == [".png"]
    (memory,) = (cache_dir / "inspected").glob("*.json")
    memory.write_text(memory.read_text().replace('"version": 1', '"version": 0'))
    again = index_of(folder, cache_dir)
    assert len(inspected) == 11  # another version's findings are not believed
    assert set(before.facts) < set(again.facts)


def test_a_file_that_was_missing_is_looked_at_again(folder: Path, cache_dir: Path) -> None:
    table = folder / "t.csv"
    table.write_text("path,label\nA/A0.png,x\nB/B0.png,y\nlater.png,y\n")
    (folder / "signers.csv").unlink()
    for _ in range(2):
        with pytest.raises(DataError, match=r"later\.png: no such file"):
            index_of(table, cache_dir)
    image(folder / "later.png")
    assert len(index_of(table, cache_dir)) == 3


def test_facts_are_of_the_files(folder: Path, cache_dir: Path) -> None:
    Image.new("L", (30, 20)).save(folder / "A" / "A0.png")
    first = index_of(folder, cache_dir).facts[0]
    assert (first.width, first.height, first.kind) == (30, 20, "PNG L")
    assert (
        first.digest
        == hashlib.blake2b((folder / "A" / "A0.png").read_bytes(), digest_size=16).hexdigest()
    )


def test_one_bad_file_is_one(folder: Path, cache_dir: Path) -> None:
    (folder / "A" / "A0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^1 file of .* cannot be used as images:"):
        index_of(folder, cache_dir)


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "{}", '{"version": 1}', '{"version": 1, "files": 3}', "\0"]
)
def test_any_damaged_cache_of_results_is_rebuilt(
    folder: Path, tmp_path: Path, content: str
) -> None:
    before = index_of(folder, tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "inspected").iterdir()
    file.write_text(content)
    assert index_of(folder, tmp_path / "cache").fingerprint == before.fingerprint
    assert json.loads(file.read_text())["files"].keys() == set(before.paths)


def test_groups_and_subsets_come_from_columns_and_files(folder: Path, cache_dir: Path) -> None:
    (folder / "signers.csv").unlink()
    table = folder / "t.csv"
    rows = "A/A0.png;x;one;Train\nA/A1.png;y;one;valid\nB/B0.png;y;;TEST\n"
    table.write_text(f"Path;Label;Group;Subset\n{rows}", "utf-8")
    index = index_of(table, cache_dir)
    assert index.groups == ("one", "one", "")
    assert index.given == ("train", "validation", "test")
    plain = folder / "plain.csv"
    plain.write_text("path,label\nA/A0.png,x\nA/A1.png,y\nB/B0.png,y\n", "utf-8")
    before = index_of(plain, cache_dir)
    assert (before.groups, before.given) == (None, None)
    assert before.fingerprint != index.fingerprint
    groups = folder / "groups.csv"
    groups.write_text("path,group\nA/A1.png,two\n", "utf-8")
    named = index_of(plain, cache_dir, groups=str(groups))
    assert named.groups == ("", "two", "")
    assert named.fingerprint != before.fingerprint
    groups.write_text("path,group\nsigns/A/A1.png,two\n", "utf-8")
    with pytest.raises(DataError, match=r"names no image of .* must be like A/A0\.png"):
        index_of(plain, cache_dir, groups=str(groups))


def test_groups_travel_with_a_run_and_its_intervals_are_by_them(tmp_path: Path, tiny: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("path,group\nA/A0.png,g1\nA/A1.png,g1\nB/B0.png,g2\nB/B5.png,g2\n")
    index = read_index(tiny, cache_dir=str(tmp_path), signers=None, groups=str(groups))
    index.write(tmp_path, np.full(len(index), "test"))
    clusters = RunFolder(tmp_path).image_table.clusters_of(index.paths)
    assert (clusters.kind, clusters.count) == ("group", len(index) - 2)
    assert clusters.names.tolist() == index.clusters.names.tolist()
    place = index.paths.index
    assert clusters.names[place("A/A0.png")] == clusters.names[place("A/A1.png")] == "g1"
    assert clusters.names[place("A/A2.png")] == "A/A2.png"


def test_each_of_several_sets_has_clusters_of_its_own() -> None:
    paths = ["a/1.jpg", "a/2.jpg", "b/x.jpg", "b/y.jpg", "b/z.jpg"]
    signers, groups = ["a/1", "a/2", "", "", ""], ["", "", "g", "g", ""]
    clusters = image_clusters(paths, ["A"] * 5, signers, groups, ["a", "a", "b", "b", "b"])
    assert (clusters.kind, clusters.count) == ("mixed", 4)
    assert str(clusters) == "4 clusters"
    assert clusters.names[2] == clusters.names[3]
