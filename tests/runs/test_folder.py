"""The run folder by its own methods: who may write into it, and what is read back."""

import json
from pathlib import Path
from typing import Any

import pytest

from signlang.compare import CompareConfig
from signlang.errors import DataError, RunError
from signlang.files import IMAGE_COLUMNS, write_csv
from signlang.runs.folder import RunFolder, find_folder

ROWS = ("A/1.png,A,ann,train", "B/2.png,B,bob,validation+test", "A/3.png,A,,test")


def record(fingerprint: str = "f" * 32, **more: Any) -> dict[str, Any]:
    data = {"fingerprint": "d" * 32, "images": 3, "classes": 2}
    return {"format": 2, "fingerprint": fingerprint, "settings": {"seed": 0}, "data": data, **more}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "runs" / "fold=0"
    path.mkdir(parents=True)
    text = "\n".join(["path,label,signer,subset", *ROWS]) + "\n"
    (path / "data.csv").write_text(text, encoding="utf-8")
    return RunFolder(path)


def test_images_are_those_of_a_subset(folder: RunFolder) -> None:
    assert [row["path"] for row in folder.images] == ["A/1.png", "B/2.png", "A/3.png"]
    found = {name: folder.subset(name, ("A", "B")) for name in ("train", "validation", "test")}
    assert found == {
        "train": [("A/1.png", 0)],
        "validation": [("B/2.png", 1)],
        "test": [("B/2.png", 1), ("A/3.png", 0)],
    }
    with pytest.raises(DataError, match="does not fit the network: no 'B'"):
        folder.subset("test", ("A",))


@pytest.mark.parametrize(
    "text", ["", "path,label,signer,subset\n", "path,label\nA/1.png,A\n",
             "path,label,signer,subset\nA/1.png,A,ann,train\nA/2.png,A\n"]
)  # fmt: skip
def test_a_damaged_table_is_told_as_such(folder: RunFolder, text: str) -> None:
    (folder.path / "data.csv").write_text(text)
    with pytest.raises(RunError, match=r"data\.csv is missing or damaged.*overwrite=true"):
        list(folder.images)


def test_a_table_of_an_earlier_version_is_refused_with_the_fix(folder: RunFolder) -> None:
    (folder.path / "data.csv").write_text("path,label,signer,part\nA/1.png,A,ann,train\n")
    with pytest.raises(RunError, match=r"data\.csv names its column of subsets part.*rename it"):
        list(folder.images)


def test_a_run_is_finished_once_its_metrics_are_written(folder: RunFolder) -> None:
    assert folder.record() is None
    assert folder.metrics() is None
    folder.start(record(), overwrite=False)
    assert folder.record() == record()
    assert not folder.is_finished("f" * 32)
    folder.finish({"fingerprint": "f" * 32})
    assert folder.is_finished("f" * 32)
    assert not folder.is_finished("e" * 32)
    folder.start(record(started="later"), overwrite=False)
    assert folder.record() == record()  # the first start is kept


def test_other_settings_or_data_are_refused_with_what_differs(folder: RunFolder) -> None:
    folder.start(record(), overwrite=False)
    other = record("e" * 32, settings={"seed": 1})
    with pytest.raises(RunError, match=r"other settings:\s+seed: 0 there, 1 now") as caught:
        folder.start(other, overwrite=False)
    assert "data:" not in str(caught.value)
    for way in ("study=NAME", "overwrite=true"):
        assert way in str(caught.value)
    data = {"fingerprint": "c" * 32, "images": 4, "classes": 3}
    with pytest.raises(RunError) as caught:
        folder.start(record("e" * 32, data=data), overwrite=False)
    assert ("data: 3 images of 2 classes there (dddddddd), 4 of 3 now (cccccccc)") in str(
        caught.value
    )
    assert folder.record() == record()


def test_metrics_of_another_run_are_refused(folder: RunFolder) -> None:
    folder.start(record(), overwrite=False)
    folder.finish({"fingerprint": "e" * 32})
    with pytest.raises(RunError, match="does not belong to the run"):
        folder.start(record(), overwrite=False)


def test_overwriting_deletes_everything_but_the_lock_and_what_links_point_to(
    folder: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.start(record("e" * 32), overwrite=True)
    assert "deleting" not in caplog.text  # there was nothing of a run
    assert (folder.path / "data.csv").is_file()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").touch()
    (folder.path / "link").symlink_to(tmp_path / "precious", target_is_directory=True)
    (folder.path / "checkpoints").mkdir()
    folder.best.touch()
    folder.last.touch()
    with pytest.raises(RunError, match="outside of its run folder"), folder.locked():
        pass
    (folder.path / ".lock").touch()
    folder.start(record(), overwrite=True)
    assert {path.name for path in folder.path.iterdir()} == {".lock", "record.json"}
    assert folder.record() == record()
    assert (tmp_path / "precious" / "x").is_file()
    assert "deleting the contents of" in caplog.text


def test_a_folder_has_one_owner_at_a_time(folder: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "runs" / "fold=0")
    with (
        folder.locked(),
        pytest.raises(RunError, match="Another process is at work"),
        other.locked(),
    ):
        pass
    with other.locked():
        pass
    new = RunFolder(tmp_path / "deep" / "er" / "fold=1")
    with new.locked():
        assert new.path.is_dir()
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"cannot be created .*runs_dir=DIR"),
        RunFolder(tmp_path / "file" / "fold=0").locked(),
    ):
        pass


def test_files_have_their_places(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    names = [
        path.relative_to(tmp_path).as_posix() for path in (folder.best, folder.last, folder.log)
    ]
    assert names == ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "run.log"]


@pytest.mark.parametrize("text", ["{", "", "[]", "3"])
def test_a_damaged_record_is_one_sentence(folder: RunFolder, text: str) -> None:
    for name in ("record.json", "metrics.json"):
        (folder.path / name).write_text(text)
    with pytest.raises(RunError, match=r"record\.json .*delete it to finish the run again"):
        folder.record()
    with pytest.raises(RunError, match=r"metrics\.json .*delete it to finish the run again"):
        folder.metrics()


def test_a_record_of_a_newer_format_is_refused(folder: RunFolder) -> None:
    (folder.path / "record.json").write_text(
        json.dumps({**record(), "format": 3, "signlang": "9.0"})
    )
    with pytest.raises(RunError, match=r"is of format 3, .*version that wrote it \(9\.0\)"):
        folder.record()


def test_a_study_goes_before_the_images_that_it_is_named_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "signs" / "net" / "fold=0"
    run.mkdir(parents=True)
    (run / "record.json").write_text("{}")
    (tmp_path / "signs" / "A").mkdir(parents=True)
    assert find_folder("signs", Path("runs")) == Path("runs/signs")
    assert CompareConfig(studies=["signs"]).targets() == {Path("runs/signs"): None}
    (tmp_path / "signs" / "net").mkdir()
    (tmp_path / "signs" / "net" / "record.json").write_text("{}")
    assert find_folder("signs", Path("runs")) == Path("signs"), "it holds runs itself"


def test_runs_of_one_fold_share_their_table_of_images(tmp_path: Path) -> None:
    for name, label in (("one", "a"), ("other", "a"), ("changed", "b")):
        (tmp_path / name).mkdir()
        rows = [["a/1.png", label, "", "train"], ["a/2.png", "a", "", "test"]]
        write_csv(tmp_path / name / "data.csv", IMAGE_COLUMNS, rows)
    one, other, changed = (RunFolder(tmp_path / name) for name in ("one", "other", "changed"))
    assert one.image_table is other.image_table
    assert list(one.image_table.tested) == ["a/2.png"]
    images = one.image_table.tested_images(("a/2.png",))
    assert images is not None
    assert images is other.image_table.tested_images(("a/2.png",)), "and what is known of them"
    for others in ((), ("a/1.png",), ("a/2.png", "a/2.png")):
        assert one.image_table.tested_images(others) is None
    assert [row["label"] for row in changed.images] == ["b", "a"]
