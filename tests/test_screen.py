"""What the screen says: 80 columns hold it, paths stay whole, and a log hears every 30 seconds."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK, run_command

from signlang import api, console
from signlang.callbacks import progress
from signlang.inference.predictor import Prediction, write_table

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(place: Path, verb: str, *words: str, columns: int = 80) -> str:
    """Everything that a command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM"}}
    command = [sys.executable, "-m", f"signlang.{verb}", *words]
    with subprocess.Popen(
        command, cwd=place, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**environment, "COLUMNS": str(columns), "TERM": "xterm-256color"},
    ):  # fmt: skip
        os.close(theirs)
        written = b""
        while True:
            try:
                read = os.read(ours, 65536)
            except OSError:  # the command has ended
                break
            if not read:
                break
            written += read
    os.close(ours)
    return CONTROL.sub("", written.decode(errors="replace"))


def test_a_training_fits_80_columns_and_names_what_its_bar_measures(
    tiny: Path, tmp_path: Path
) -> None:
    words = [f"data.root={tiny}", f"runs_dir={tmp_path / ('long' * 20)}", "batch_size=4"]
    screen = on_terminal(tmp_path, "train", *QUICK, *words)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", screen)]
    (run,) = tmp_path.glob("long*/*/*/fold=0")
    (study,) = tmp_path.glob("long*/*")
    long = [line for line in lines if len(line) > 80]
    assert {line.strip() for line in long} <= {str(run), f"tensorboard --logdir {study}"}
    assert lines[lines.index("run folder:") + 1] == f"  {run}"
    bar = re.compile(r"epoch 1/3  batch \d/\d .* \d:\d\d left, run \d:\d\d left$")
    assert any(bar.search(line) for line in lines), lines
    measured = re.compile(r"loss \d\.\d{4}  accuracy [01]\.\d{4}  learning rate [\d.e-]+")
    assert any(measured.match(line) for line in lines)
    assert any("validation accuracy" in line for line in lines if measured.match(line))


def test_an_error_is_broken_between_words_on_a_terminal_alone(tmp_path: Path) -> None:
    path = "/nowhere/" + "x" * 90
    words = ["data=folder", f"data.root={path}", "label_smoothing=2", "folds=1"]
    lines = on_terminal(tmp_path, "train", *words).splitlines()
    assert [line.strip() for line in lines if len(line) > 80] == [f"data.root={path}:"]
    assert " ".join(" ".join(lines).split()) == " ".join(run_command(tmp_path, *words).err.split())


def test_a_log_hears_of_a_long_epoch(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "signlang")
    monkeypatch.setattr(progress, "BETWEEN_DRAWINGS", 0.0)
    monkeypatch.setattr(progress, "BETWEEN_LINES", 0.0)  # every 30 seconds otherwise
    monkeypatch.setattr(console, "BETWEEN_LINES", 0.0)
    places = [f"runs_dir={tmp_path}", f"cache_dir={tmp_path}"]
    api.train([*QUICK[:-2], f"data.root={tiny}", *places, "trainer.max_epochs=1"])
    lines = [record.getMessage() for record in caplog.records]
    wanted = (
        r"epoch 1/1  batch 2/3, \d:\d\d left, run \d:\d\d left  "
        r"loss \d\.\d{4}  accuracy [01]\.\d{4}  learning rate [\d.e-]+$"
    )
    assert any(re.match(wanted, line) for line in lines), lines
    assert any(re.match(r"checking images: \d+ of 36, \d:\d\d left$", line) for line in lines)


def test_lines_are_broken_between_words_and_long_words_stay_whole() -> None:
    path = "runs/digits/squeezenet+lr=0.001/fold=0"
    assert console.wrapped(f"- see {path} and a-b-c-d", 20) == f"- see\n{path}\nand a-b-c-d"
    assert console.wrapped("  a\n\n  b", 20) == "  a\n\n  b"
    command = "    python -m signlang.train -m model=squeezenet fold=0,1"  # to be copied
    assert console.wrapped(command, 20) == command


def test_tables_have_their_title_above_and_their_paths_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console.start(True)
    path = "runs/a b/" + "long" * 20
    console.show_table(
        "a title [of] two lines, as it is longer", {"name": "value"}, {"place": path}
    )
    console.show_columns("a second title", ("one", "two"), [["x", "1"], ["y", "2"]], flexible=0)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "a title [of] two lines, as it is longer"
    assert lines[lines.index("place:") + 1] == f"  {path}"
    assert lines.index("a second title") > lines.index("place:")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_paths_of_predictions_have_lines_of_their_own_where_it_is_narrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = "images/" + "long" * 20 + ".jpg"
    rows = [Prediction(path, (("A", 0.9), ("B", 0.1)))]
    monkeypatch.setenv("COLUMNS", "80")
    narrow, log = Terminal(), io.StringIO()
    for stream in (narrow, log):
        write_table(rows, stream, 2)
    assert [len(line) > 80 for line in narrow.getvalue().splitlines()] == [0, 0, 1, 0]
    assert narrow.getvalue().splitlines()[2:] == [path, "  A      0.9000      B 0.1000"]
    assert log.getvalue().splitlines()[1] == f"{path}  A      0.9000      B 0.1000"
