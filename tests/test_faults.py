"""A handful of the faults of `experiments/faults`, and what they brought to light."""

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import QUICK, ROOT, run_command, write_tiny

import signlang
from signlang import files
from signlang.data.file_check import inspect_files
from signlang.deploy.bundle_writer import assemble_bundle
from signlang.errors import RunError
from signlang.runs.folder import RunFolder
from signlang.runs.training import resume_checkpoint


def test_a_handful_of_faults_is_put_right(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    campaign = ROOT / "experiments" / "faults" / "campaign.py"
    done = subprocess.run(
        [sys.executable, str(campaign), "--short", "--lanes", "1", "--out", str(table)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    assert {row["outcome"] for row in rows} == {"ok"}


def killed(action: Callable[[], None]) -> None:
    """Do something in a process that is killed in the middle of it."""
    child = os.fork()
    if not child:
        action()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    def write() -> None:
        with files.atomic_write(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            die()

    killed(write)
    mine = tmp_path / ".a.json.notes"
    mine.write_text("of the user")
    assert len(list(tmp_path.iterdir())) == 2
    with files.atomic_write(tmp_path / "a.json") as one:
        one.write_text("1")
        with files.atomic_write(tmp_path / "a.json") as other:  # at work at the same time
            other.write_text("2")
    assert sorted(tmp_path.iterdir()) == [mine, tmp_path / "a.json"]
    assert (tmp_path / "a.json").read_text() == "1"


def test_the_folder_of_a_killed_run_is_swept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    for place in (folder.path, folder.checkpoints):
        (place / ".x.0123456789ab").write_text("half")
    with folder.locked():
        assert [p.name for p in folder.path.rglob(".x*")] == []


def test_a_bundle_that_was_being_replaced_is_put_back(tmp_path: Path) -> None:
    out = tmp_path / "bundle"

    def replace() -> None:
        rename = Path.rename

        def renamed(self: Path, target: Path) -> Path:
            if target == out:
                die()
            return rename(self, target)

        Path.rename = renamed  # type: ignore[assignment, method-assign]
        with assemble_bundle(out) as folder:
            (folder / "new").touch()

    with assemble_bundle(out) as folder:
        (folder / "old").touch()
    killed(replace)
    assert not out.exists()
    with pytest.raises(RunError), assemble_bundle(out):
        raise RunError("it fails as well")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "old"]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy of a finished run."""
    return RunFolder(Path(shutil.copytree(trained, tmp_path / "study" / "net" / "fold=0")))


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_a_flipped_bit_of_weights_is_noticed(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    for file in (run.best, run.last):
        flip(file, file.stat().st_size // 2)
    with pytest.raises(RunError, match=r"best\.ckpt"):
        signlang.load_run(run.path).network  # noqa: B018
    with caplog.at_level(logging.WARNING):
        assert resume_checkpoint(run) is None
    assert "last.ckpt is damaged" in caplog.text


@pytest.mark.parametrize(
    "name", ["metrics.json", "record.json", "predictions.csv", "data.csv", "history.csv"]
)
def test_a_file_that_a_run_did_not_leave_so_is_named(
    name: str, run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        signlang.load_run(run.path).predictions  # noqa: B018
    assert caplog.text == ""
    file = run.path / name
    text = file.read_text("utf-8")
    digit = next(n for n, letter in reversed([*enumerate(text)]) if letter in "3456")
    file.write_text(f"{text[:digit]}2{text[digit + 1 :]}", "utf-8")
    with caplog.at_level(logging.WARNING), suppress(RunError):  # some damage is refused as well
        signlang.load_run(run.path).predictions  # noqa: B018
    assert f"{name} was changed or damaged since the run was finished" in caplog.text


def test_a_run_that_is_finished_again_vouches_for_its_own_figures_only(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = run.metrics()
    assert metrics is not None
    (run.path / "history.csv").write_text("epoch\n0\n")
    run.finish({**metrics, "seconds": 1.0})  # as after a measurement
    with caplog.at_level(logging.WARNING):
        run.report_changes("metrics.json", "history.csv")
    assert "history.csv was changed" in caplog.text
    assert "metrics.json was changed" not in caplog.text
    caplog.clear()
    run.accept("history.csv")
    run.report_changes("metrics.json", "history.csv")
    assert caplog.text == ""


def test_a_flipped_bit_of_the_cached_facts_of_images_is_noticed(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, paths = tmp_path / "facts.json", ["A/A0.png", "A/A1.png"]
    facts = inspect_files(tiny, paths, cache)
    text = cache.read_text()
    content = json.loads(text)
    assert content["files"]["A/A0.png"][:1] == [(tiny / "A/A0.png").stat().st_size]
    digest = facts[0].digest  # type: ignore[union-attr]
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    cache.write_text(text.replace(digest, other))
    with caplog.at_level(logging.WARNING):
        assert inspect_files(tiny, paths, cache) == facts
    assert "was damaged" in caplog.text


def test_an_image_that_was_away_for_a_moment_is_read_again(tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "images"
    shutil.copytree(tiny, place)
    victim, away, cache = place / "A" / "A0.png", tmp_path / "A0.png", tmp_path / "facts.json"

    def leave(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]) == str(victim) and not away.exists():
            victim.rename(away)

    sys.addaudithook(leave)
    (reason,) = inspect_files(place, ["A/A0.png"], cache)
    assert isinstance(reason, str)
    assert away.exists()
    shutil.copy2(away, victim)  # with its time of modification
    (facts,) = inspect_files(place, ["A/A0.png"], cache)
    assert not isinstance(facts, str)


def test_a_full_disk_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "card"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        words = ("data=folder", f"data.root={tiny}", f"out={disk}")
        result = run_command(tmp_path, *words, verb="describe")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert result.code == 1
    assert "No space left on device" in result.err
    assert "repeat the command" in result.err
    assert "Traceback" not in result.err


def test_a_path_that_is_too_long_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    words = (*QUICK, f"data.root={tiny}", f"runs_dir={'/'.join(['d' * 200] * 30)}")
    result = run_command(tmp_path, *words)
    assert (result.code, "Traceback" in result.err) == (1, False), result.err
    assert "File name too long" in result.err
    assert "Choose another folder, and repeat the command" in result.err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_class_whose_name_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    images = write_tiny(tmp_path / "images", 6)
    os.rename(images / "B", os.fsencode(images) + b"/\xfe\xff")  # noqa: PTH104 - a name of bytes
    (images / "signers.csv").unlink()
    result = run_command(tmp_path, *QUICK, f"data.root={images}")
    assert (result.code, "Traceback" in result.err) == (1, False), result.err
    assert r"the name of the class '\udcfe\udcff' is not UTF-8: rename its folder" in result.err


@pytest.mark.skipif(sys.platform != "linux", reason="the variables are those of Linux")
def test_names_that_the_system_does_not_read_as_utf_8_are_told_with_the_remedy(
    tmp_path: Path,
) -> None:
    images = write_tiny(tmp_path / "images", 6)
    (images / "B").rename(images / "\xdc")
    (images / "signers.csv").unlink()
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run_command(tmp_path, *QUICK, f"data.root={images}", **ascii_only)
    assert (result.code, "Traceback" in result.err) == (1, False), result.err
    assert "is not UTF-8: names are read as ascii here, set the variable PYTHONUTF8=1" in result.err


def test_a_full_shared_memory_is_told_before_processes_are_started(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("mounting a small /dev/shm needs root")
    code = (
        "from signlang.errors import SettingError\n"
        "from signlang.system import check_shared_memory\n"
        "check_shared_memory(0)\n"
        "try:\n"
        "    check_shared_memory(2)\n"
        "except SettingError as error:\n"
        "    print(error)\n"
    )
    full = "mount -t tmpfs -o size=4k tmpfs /dev/shm || exit 9; "
    words = ["unshare", "--mount", "sh", "-c", f'{full}exec "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode in (1, 9) and "mount" in done.stderr + done.stdout:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("workers=2 need shared memory, and there is none left"), done
