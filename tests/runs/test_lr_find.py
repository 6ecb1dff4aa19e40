"""`lr_find=true`: a suggestion, a table and a chart, and no run."""

import csv
from pathlib import Path

import pytest
from conftest import QUICK, run_command
from PIL import Image

from signlang import api
from signlang.errors import SettingError
from signlang.validation import check_train_config

WORDS = (*QUICK, "study=s", "batch_size=4")


@pytest.mark.slow
def test_a_rate_is_suggested_and_nothing_is_trained(tiny: Path, tmp_path: Path) -> None:
    words = [*WORDS, f"data.root={tiny}", "callbacks=finetune", "optimizer.lr=0.0123"]
    found = run_command(tmp_path, *words, "lr_find=true", "fold=1", TMPDIR=str(tmp_path))
    assert found.code == 0, found.err
    (suggestion,) = found.out.splitlines()
    table, chart = (
        word.partition("written: ")[2] for word in found.err.splitlines() if "written: " in word
    )
    start, _, now = suggestion.partition(" (it is ")
    assert now == "0.0123)"
    rate = float(start.removeprefix("suggested: optimizer.lr="))
    assert 1e-6 < rate < 1
    with (tmp_path / table).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rates, losses = ([float(row[key]) for row in rows] for key in ("learning_rate", "loss"))
    assert 50 < len(rows) <= 100
    assert rates == sorted(rates)
    assert rates[5] / rates[4] == pytest.approx(rates[9] / rates[8], rel=1e-3)  # exponential
    slopes = {n: losses[n + 1] - losses[n - 1] for n in range(10, losses.index(min(losses)))}
    steepest = min(slopes, key=lambda n: slopes[n])
    assert slopes[steepest] < 0
    assert rate == pytest.approx(rates[steepest], rel=0.02)
    with Image.open(tmp_path / chart) as image:
        assert image.width > 300
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"lr_find.csv", "lr_find.png"}
    # the folder is that of the run, which starts as if nothing had been
    trained = run_command(tmp_path, *words, "trainer.max_epochs=1", "callbacks.cost=null")
    assert trained.code == 0, trained.err
    (metrics,) = tmp_path.glob("runs/s/*/fold=0/metrics.json")
    again = run_command(tmp_path, *words, "lr_find=true", TMPDIR=str(tmp_path))
    assert again.code == 0, again.err
    assert metrics.is_file()


def test_where_it_makes_no_sense_it_is_refused(tiny: Path, tmp_path: Path) -> None:
    words = [*WORDS, f"data.root={tiny}", f"runs_dir={tmp_path}", "lr_find=true"]
    with (
        api.composed("train", [*words, "trainer.fast_dev_run=true"]) as cfg,
        pytest.raises(SettingError, match=r"takes 100 steps: leave trainer\.fast_dev_run out"),
    ):
        check_train_config(api.without_hydra(cfg))
    with pytest.raises(SettingError, match="trains nothing: use python -m signlang"):
        api.train(words)
    swept = run_command(tmp_path, "-m", *words)
    assert swept.code != 0
    assert "lr_find=true is for one run: leave -m out." in swept.err
    assert not list(tmp_path.rglob("lr_find*"))
