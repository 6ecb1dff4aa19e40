"""The generator of the built-in data set: determinism, variation and whole folders."""

from __future__ import annotations

import csv
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from services import wait_for

from signlang.data.synthetic.generator import SIGNS, draw_image, draw_scene, write_dataset
from signlang.files import remove_abandoned

WRITE = "import sys, pathlib, signlang.data.synthetic.generator as s; " + (
    "s.write_dataset(pathlib.Path(sys.argv[1]), signers=2, takes=2, size=32)"
)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("size", [24, 96, 131])
def test_image_is_rgb_of_the_size_asked_for(size: int) -> None:
    for sign in SIGNS:
        pixels = draw_image(sign, 1, 2, size=size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 5  # something is there


def test_image_depends_on_its_arguments_alone() -> None:
    first = draw_image("3", 4, 1)
    np.random.default_rng(0).normal(size=10)
    for sign in SIGNS:
        draw_image(sign, 5, 0, size=64)
    draw_image("3", 4, 1, size=64)
    assert np.array_equal(first, draw_image("3", 4, 1))


def test_image_is_the_same_in_another_process() -> None:
    code = (
        "from signlang.data.synthetic.generator import draw_image as p; import sys; "
        "sys.stdout.buffer.write(p('7', 3, 1).tobytes())"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert printed == draw_image("7", 3, 1).tobytes()


def test_every_argument_changes_the_image() -> None:
    images = [draw_image(sign, 0, 0) for sign in SIGNS]
    images += [draw_image("0", 1, 0), draw_image("0", 0, 1), draw_image("0", 0, 0, seed=1)]
    for one, other in combinations(images, 2):
        assert np.abs(one.astype(int) - other).mean() > 2


@pytest.mark.parametrize("arguments", [("x", 0, 0), ("0", -1, 0), ("0", 0, -1)])
def test_image_refuses_what_it_cannot_draw(arguments: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match=r"no sign|non-negative"):
        draw_image(*arguments)


def test_scene_is_repeatable_and_varied() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), 40) for seed in (0, 0, 1)]
    assert all(s.shape == (40, 40, 3) and s.dtype == np.uint8 for s in scenes)
    assert np.array_equal(scenes[0], scenes[1])
    assert not np.array_equal(scenes[0], scenes[2])


def test_write_lays_out_a_folder_per_sign_and_names_the_signers(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "synthetic"
    write_dataset(folder, signers=2, takes=3, size=32, seed=5)
    with (folder / "signers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "signer"]
    assert {"path": "3/s001_02.png", "signer": "s001"} in rows
    assert {row["path"] for row in rows} | {"signers.csv"} == set(files(folder))
    assert len(rows) == 10 * 2 * 3
    stored = cv2.imread(str(folder / "3/s001_02.png"))
    assert stored is not None
    assert np.array_equal(stored[..., ::-1], draw_image("3", 1, 2, size=32, seed=5))
    assert [path.name for path in folder.parent.iterdir()] == ["synthetic"]  # no draft is left


def test_write_gives_the_same_files_with_several_processes(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_dataset(tmp_path / str(workers), signers=4, takes=10, size=16, workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_write_keeps_a_finished_folder(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", signers=1, takes=1, size=16)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    write_dataset(tmp_path / "a", signers=1, takes=1, size=16)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}


def test_write_refuses_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"no signers\.csv"):
        write_dataset(tmp_path, signers=1, takes=1, size=16)
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_two_processes_at_once_end_in_one_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "synthetic"
    command = [sys.executable, "-c", WRITE, str(folder)]
    codes = [task.wait() for task in [subprocess.Popen(command) for _ in range(2)]]
    assert codes == [0, 0]
    assert len(files(folder)) == 10 * 2 * 2 + 1
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


def test_a_killed_process_leaves_nothing_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "synthetic"
    code = WRITE.replace("signers=2, takes=2", "signers=400, takes=20, workers=1")
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    wait_for(lambda: next(tmp_path.rglob("*.png"), None))
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.glob(".synthetic.*"))) == 1, "it is in use"
    process.kill()
    process.wait()
    write_dataset(folder, signers=1, takes=1, size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]
