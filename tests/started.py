"""Trainings that are started, watched and ended from outside."""

import os
import subprocess
import sys
import time
from pathlib import Path

from conftest import the_typist
from typist import Command


def start(place: Path, *words: str) -> Command:
    """Start a training in a folder, without waiting for it."""
    return the_typist().start(place, "train", *words)


def start_anew(place: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """Start one in an interpreter of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "signlang.train", *words],
        cwd=place, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def wait_for_epoch(place: Path, epochs: int, process: "Command | subprocess.Popen[str]") -> None:
    """Wait until its fold 0 has more epochs than that; it must not end before."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for file in place.glob("runs/*/*/fold=0/history.csv"):
            if len(file.read_text().splitlines()) > epochs:
                return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError("the run did not come so far")
