"""Every table and sentence of a comparison, as they were once read and found right.

The files in `expected/` are what a reader gets; a change of them is a change of what is published.
Write them again with `RENEW_EXPECTED=1 pytest tests/studies/test_comparison_texts.py`, and read the
difference.
"""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_report import write_run

from signlang import __version__
from signlang.studies.comparison import compare_study

EXPECTED = Path(__file__).parent / "expected"
SMALL = {"parameters": 457_226, "flops": 41_234_567.0, "size_mb": 1.8, "latency_ms": 0.62}
LARGE = {"parameters": 11_191_389, "flops": 1_826_020_000.0, "size_mb": 44.8, "latency_ms": 4.693}


class Words(HTMLParser):
    """The texts of a page, a line for each cell, heading and paragraph."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.hidden = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in {"style", "script"}
        self.lines += [f"[{value}]" for name, value in attrs if name == "alt"]

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in {"style", "script"}

    def handle_data(self, data: str) -> None:
        if not self.hidden and data.strip():
            self.lines.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Texts of the comparison of a study with everything in it that is told of."""
    study = tmp_path_factory.mktemp("texts") / "runs" / "signs"
    accuracies = {
        ("small", "0.001"): (1.0, 0.875, 1.0), ("small", "0.0001"): (0.75, 0.875, 0.75),
        ("large", "0.001"): (0.25, 0.375, 0.5), ("large", "0.0001"): (0.875, 0.875, 1.0),
    }  # fmt: skip
    for (model, rate), of_folds in accuracies.items():
        for fold, accuracy in enumerate(of_folds):
            cost = SMALL if model == "small" else LARGE
            write_run(study, {"model": model, "optimizer.lr": rate}, fold, 3, accuracy,
                      cost=cost, epochs=3 + fold)  # fmt: skip
    for fold, accuracy in enumerate((0.5, 0.625, 0.5)):
        words = {"model": "small", "optimizer.lr": "0.001", "split": "signer"}
        write_run(study, words, fold, 3, accuracy, cost=SMALL)
    write_run(study, {"model": "half", "optimizer.lr": "0.001"}, 1, 3, 0.875, cost=SMALL)
    out = study.parent / "out"
    compare_study(study, out, allow_incomplete=True)
    compare_study(study, study.parent / "sorted", allow_incomplete=True, sort="latency_ms")
    hidden = f"{re.escape(str(study.parent.parent))}|(?<=[`g] ){re.escape(__version__)}"
    texts = {
        "leaderboard.md": (out / "leaderboard.md").read_text("utf-8"),
        "leaderboard.csv": (out / "leaderboard.csv").read_text("utf-8"),
        "sorted.csv": (study.parent / "sorted" / "leaderboard.csv").read_text("utf-8"),
        "report.txt": "\n".join(Words((out / "report.html").read_text("utf-8")).lines) + "\n",
    }
    return {name: re.sub(hidden, "...", text) for name, text in texts.items()}


@pytest.mark.parametrize("name", ["leaderboard.md", "leaderboard.csv", "sorted.csv", "report.txt"])
def test_what_is_published_is_what_was_found_right(compared: dict[str, str], name: str) -> None:
    file = EXPECTED / name
    if os.environ.get("RENEW_EXPECTED"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(compared[name], encoding="utf-8")
    assert compared[name] == file.read_text("utf-8")
