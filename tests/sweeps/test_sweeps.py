"""Multiruns, as their user meets them: side by side, killed, interrupted, resumed, searched."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from conftest import QUICK, Result, run_command
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from typist import run_anew

from signlang.errors import SettingError
from signlang.sweeps import optuna_search
from signlang.sweeps.jobs import JobResult
from signlang.sweeps.launcher import worker_count
from signlang.sweeps.sweeper import combinations
from signlang.system import cpu_count

TWO_AT_ONCE = ("hydra/launcher=local", "hydra.launcher.jobs=2")
LONG = ("trainer.max_epochs=60", "callbacks.early_stopping=null", "callbacks.images=null")


def finished(place: Path) -> dict[str, float]:
    """Test accuracy of every finished run, by the last two parts of its folder."""
    files = place.glob("runs/*/*/fold=*/metrics.json")
    return {
        "/".join(file.parts[-3:-1]): json.loads(file.read_text())["test"]["accuracy"]
        for file in files
    }


def costs(place: Path) -> list[str]:
    """The different costs of all finished runs."""
    files = place.glob("runs/*/*/fold=*/metrics.json")
    return list({json.dumps(json.loads(file.read_text())["cost"]) for file in files})


def begin(place: Path, *words: str) -> subprocess.Popen[str]:
    """Start a training command that a test wants to disturb."""
    return subprocess.Popen(
        [sys.executable, "-m", "signlang.train", *words],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for_epochs(place: Path, runs: int, epochs: int = 3) -> list[Path]:
    """Wait until some runs are in the middle of their training."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        files = list(place.glob("runs/*/*/fold=*/history.csv"))
        if sum(len(file.read_text().splitlines()) > epochs for file in files) >= runs:
            return files
        time.sleep(0.1)
    raise AssertionError("no run has begun")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_jobs_side_by_side_fail_alone_and_are_skipped_the_next_time(
    tiny: Path, tmp_path: Path
) -> None:
    words = (
        "-m",
        "hydra/launcher=local",
        "hydra.launcher.jobs=2",
        *QUICK,
        f"data.root={tiny}",
        "fold=0,7,1",
    )
    result = run_command(tmp_path, *words)
    assert result.code == 1
    assert "fold=7 failed" in result.err
    assert "fold=7: there are 3 folds, counted from 0 to 2." in result.err
    assert "1 of 3 jobs of the sweep failed" in result.err
    assert "Traceback" not in result.err
    assert len(finished(tmp_path)) == 2
    assert "measuring the time per image again, one network at a time" in result.err
    assert len(costs(tmp_path)) == 1, "one network has one time, measured once, alone"
    assert '"latency_alone": true' in costs(tmp_path)[0]
    assert (tmp_path / "runs/Bilder_1/leaderboard.csv").is_file(), "compared although a job failed"
    assert result.err.count("counted from 0 to 2") == 1
    (run,) = tmp_path.glob("runs/*/*/fold=1")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["cost"] |= {"latency_ms": 1e9, "latency_alone": False}  # as if killed before
    (run / "metrics.json").write_text(json.dumps(metrics))
    again = run_command(tmp_path, *words)
    assert "2 of 3 jobs are finished already" in again.err
    measured = json.loads((run / "metrics.json").read_text())["cost"]
    assert (measured["latency_alone"], measured["latency_ms"] < 1e9) == (True, True)
    assert again.code == 1


COUNTING = """
import gc

import pytorch_lightning as pl


class Counting(pl.Callback):
    def on_fit_start(self, trainer, pl_module):
        networks = [o for o in gc.get_objects() if issubclass(type(o), pl.LightningModule)]
        with open("networks.txt", "a") as file:
            print(len(networks), file=file)
"""


def test_a_sweep_keeps_no_network_of_earlier_jobs(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    result = run_command(
        tmp_path, "-m", *QUICK, "trainer.max_epochs=1", f"data.root={tiny}", "fold=0,1,2",
        "+callbacks.counting._target_=counting.Counting",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert (tmp_path / "networks.txt").read_text().split() == ["1", "1", "1"]


def test_a_sweep_that_is_finished_imports_no_torch(tiny: Path, tmp_path: Path) -> None:
    words = ("-m", *QUICK, f"data.root={tiny}", "fold=0,1", "trainer.max_epochs=1")
    first = run_command(tmp_path, *words)
    assert first.code == 0, first.err
    before = finished(tmp_path)
    again = run_command(tmp_path, *words, PYTHONPROFILEIMPORTTIME="1")
    assert again.code == 0, again.err
    assert "2 of 2 jobs are finished already" in again.err
    assert " torch\n" not in again.err
    assert finished(tmp_path) == before


@pytest.mark.slow  # make test-faults kills workers as well
def test_a_killed_worker_costs_only_its_own_job(tiny: Path, tmp_path: Path) -> None:
    words = ("-m", *TWO_AT_ONCE, *QUICK, f"data.root={tiny}",
             "fold=0,1,2", *LONG)  # fmt: skip
    command = begin(tmp_path, *words)
    wait_for_epochs(tmp_path, runs=2)
    os.kill(children(command.pid)[0], signal.SIGKILL)
    _, err = command.communicate(timeout=300)
    assert command.returncode == 1
    assert "killed by signal SIGKILL" in err
    assert len(finished(tmp_path)) == 2
    again = run_command(tmp_path, *words)
    assert again.code == 0, again.err
    assert len(finished(tmp_path)) == 3
    logs = [file.read_text() for file in tmp_path.glob("runs/*/*/fold=*/run.log")]
    assert sum("resuming after epoch" in text for text in logs) == 1


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_and_the_same_command_goes_on(tiny: Path, tmp_path: Path) -> None:
    words = ("-m", *TWO_AT_ONCE, *QUICK, f"data.root={tiny}",
             "fold=0,1", *LONG)  # fmt: skip
    command = begin(tmp_path, *words)
    wait_for_epochs(tmp_path, runs=2)
    workers = children(command.pid)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=100)
    assert command.returncode == 130
    assert "Interrupted after 0 of 2 jobs. The same command resumes" in err
    assert "Traceback" not in err
    assert not any(map(alive, workers))
    logs = list(tmp_path.glob("runs/*/*/fold=*/run.log"))
    assert all("interrupted" in file.read_text() for file in logs)
    again = run_command(tmp_path, *words)
    assert again.code == 0, again.err
    assert all("resuming after epoch" in file.read_text() for file in logs)


@pytest.mark.slow  # make test-faults kills sweeps of workers as well
def test_workers_die_with_their_parent(tiny: Path, tmp_path: Path) -> None:
    command = begin(
        tmp_path, "-m", *TWO_AT_ONCE, *QUICK, f"data.root={tiny}",
        "fold=0,1", *LONG, "trainer.max_epochs=100000",
    )  # fmt: skip
    wait_for_epochs(tmp_path, runs=2)
    workers = children(command.pid)
    assert len(workers) == 2
    command.kill()
    command.communicate(timeout=60)
    deadline = time.monotonic() + 15
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, workers))


@pytest.fixture(scope="module")
def searched(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The place of a search of two trials, and what its command said."""
    place = tmp_path_factory.mktemp("searched")
    return place, search(place, tiny, "hydra.sweeper.trials=2")


def search(place: Path, tiny: Path, *words: str) -> Result:
    return run_command(
        place, "-m", "hydra/sweeper=optuna", *QUICK, f"data.root={tiny}", "trainer.max_epochs=1",
        "optimizer.lr=tag(log, interval(1e-4, 1e-1))", "label_smoothing=0.0,0.1", *words,
    )  # fmt: skip


def test_a_search_judges_by_the_cross_validated_mean_and_goes_on(
    searched: tuple[Path, Result], tiny: Path
) -> None:
    place, result = searched
    assert result.code == 0, result.err
    assert len(finished(place)) == 6, "each of two trials on three folds"
    assert "best of 2 trials: " in result.err
    more = search(place, tiny, "hydra.sweeper.trials=3")
    assert more.code == 0, more.err
    study = optuna.load_study(
        study_name="Bilder_1", storage=f"sqlite:///{place / 'runs/Bilder_1/optuna.db'}"
    )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    for trial in study.trials:
        rate = trial.params["optimizer.lr"]
        files = [
            json.loads(record.with_name("metrics.json").read_text())
            for record in place.glob("runs/Bilder_1/*/fold=*/record.json")
            if json.loads(record.read_text())["settings"]["optimizer.lr"]
            == pytest.approx(rate, rel=1e-3)  # four digits of it are trained
        ]
        assert len(files) == 3
        mean = sum(metrics["validation"]["accuracy"] for metrics in files) / 3
        assert trial.value == pytest.approx(mean)


def test_a_search_over_all_folds_is_told_as_optimistic(searched: tuple[Path, Result]) -> None:
    place, result = searched
    told = "The settings were chosen by validation subsets that overlap the test images"
    assert "the search over 3 folds is not nested" in result.err
    for text in (result.err, *((place / "runs/Bilder_1" / name).read_text() for name in (
        "leaderboard.md", "report.html"))):  # fmt: skip
        assert told in text
        assert "hydra.sweeper.nested=true" in text


@pytest.mark.slow
def test_a_nested_search_chooses_in_each_fold_and_counts_the_chosen_only(
    tiny: Path, tmp_path: Path
) -> None:
    first = search(tmp_path, tiny, "hydra.sweeper.nested=true", "hydra.sweeper.trials=2")
    assert first.code == 0, first.err
    study = tmp_path / "runs" / "Bilder_1"
    begun = finished(tmp_path)
    assert len(begun) == 6, "two trials of each of three folds"
    check_nested_study(study, trials=2)
    more = search(tmp_path, tiny, "hydra.sweeper.nested=true", "hydra.sweeper.trials=3")
    assert more.code == 0, more.err
    assert begun.items() <= finished(tmp_path).items()
    assert len(finished(tmp_path)) == 9
    check_nested_study(study, trials=3)
    assert "so that its test accuracy is unbiased" in more.out
    other = search(tmp_path, tiny, "hydra.sweeper.nested=true", "label_smoothing=0.0,0.2")
    assert other.code == 2
    assert "trials of another search" in other.err
    assert "label_smoothing: 0.0,0.1 there, 0.0,0.2 now" in other.err


def check_nested_study(study: Path, trials: int) -> None:
    """The study has one row, made of the runs that were best in validation in their own fold."""
    test = []
    with (study / "nested_search.csv").open(newline="") as stream:
        chosen = {int(row["fold"]): row for row in csv.DictReader(stream)}
    assert sorted(chosen) == [0, 1, 2]
    for fold, row in chosen.items():
        runs = {
            f"{file.parts[-3]}/{file.parts[-2]}": json.loads(file.read_text())
            for file in study.glob(f"*/fold={fold}/metrics.json")
        }
        assert len(runs) == trials
        accuracies = {name: run["validation"]["accuracy"] for name, run in runs.items()}
        assert accuracies[row["run"]] == max(accuracies.values())
        assert row["chosen"].startswith("optimizer.lr=")
        test.append(runs[row["run"]]["test"]["accuracy"])
        assert float(row["test"]) == pytest.approx(test[-1], abs=1e-6)
    with (study / "leaderboard.csv").open(newline="") as stream:
        (line,) = csv.DictReader(stream)
    assert line["label"] == f"simple_cnn, nested search ({trials} trials a fold)"
    assert float(line["accuracy"]) == pytest.approx(sum(test) / 3)
    assert line["folds_done"] == "3"


def accuracy_of(words: Sequence[str]) -> float:
    """A validation accuracy that is best at another learning rate in each fold."""
    values = dict(word.split("=") for word in words)
    rate, fold = float(values["optimizer.lr"]), int(values["fold"])
    return 1 / (1 + abs(math.log10(rate) + 2 + fold))


@pytest.mark.parametrize(
    ("sampler", "more"), [("TPESampler", {"n_startup_trials": 2}), ("RandomSampler", {})]
)
def test_a_nested_search_that_was_interrupted_tries_what_it_would_have_tried(
    sampler: str, more: dict[str, int], tmp_path: Path
) -> None:
    parser = OverridesParser.create()
    words = ["optimizer.lr=tag(log, interval(1e-5, 1e-1))", "model=resnet18"]
    overrides = {o.get_key_element(): o for o in parser.parse_overrides(words)}
    space = optuna_search.search_space(overrides)

    def searches(place: str, seed: int = 0) -> dict[int, optuna_search.Trials]:
        return {
            fold: optuna_search.open_trials(
                f"fold {fold}", f"sqlite:///{tmp_path / place}/optuna.db",
                {"_target_": f"optuna.samplers.{sampler}", "seed": seed, **more},
                {"_target_": "optuna.pruners.NopPruner"}, space, {"nested": True},
            )
            for fold in (0, 1)
        }  # fmt: skip

    def run(place: str, stop_after: int = 100, seed: int = 0) -> list[list[str]]:
        launched: list[list[str]] = []

        def launch(jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
            if len(launched) >= stop_after:
                raise KeyboardInterrupt
            launched.extend(map(list, jobs))
            return [JobResult(accuracy_of(job)).as_hydra_has_it(job) for job in jobs]

        with suppress(KeyboardInterrupt):
            optuna_search.run_nested_search(
                searches(place, seed), wanted=5, launch=launch, record=lambda: None
            )
        return launched

    whole = run("whole")
    assert len({tuple(job) for job in whole}) == 10, "all differ"
    assert run("parts", 4) + run("parts", 4) + run("parts") == whole
    assert run("parts") == [], "nothing is left to do"
    assert run("other", seed=1) != whole
    for trials in (searches("whole"), searches("parts")):
        tried = optuna_search.nested_trials(trials, 5, lambda words: " ".join(words))
        for fold in (0, 1):
            mine = [trial for trial in tried if trial.fold == fold]
            (chosen,) = (trial for trial in mine if trial.chosen)
            assert chosen.validation == max(trial.validation or 0 for trial in mine)
        assert len({trial.setting for trial in tried if trial.chosen}) == 2, "each its own"


def test_a_search_needs_something_to_search(tmp_path: Path) -> None:
    result = run_command(tmp_path, "-m", "hydra/sweeper=optuna", "optimizer.lr=1e-3")
    assert result.code == 2
    assert "hydra/sweeper=optuna needs something to search, e.g." in result.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hydra/launcher=cluster"], "hydra/launcher=cluster: there is no such choice."),
        (["hydra/launcher=local", "hydra.launcher.jobs=0"],
         "hydra.launcher.jobs=0: it must be auto or a whole"),
        (["hydra/launcher=loca"], "Did you mean local?"),
        (["hydra/sweeper=optuna", "seed=0,1", "hydra.sweeper.pruner._target_=collections.Counter"],
         "returns Counter, not a BasePruner of Optuna"),
        (["hydra/sweeper=optuna", "seed=0,1", "split.validation=fold"],
         "split.validation=fold: a search would choose by the test folds."),
        (["hydra/sweeper=optuna", "split.validation=0.1,fold"],
         "split.validation=fold: a search would choose by the test folds."),
        (["hydra/sweeper=optuna", "hydra.sweeper.nested=true", "split=signer,stratified"],
         "hydra.sweeper.nested=true: split cannot be searched"),
        (["hydra/sweeper=optuna", "hydra.sweeper.nested=true", "seed=0,1"],
         "seed cannot be searched, because each trial would have other folds. Add split.seed=0"),
        (["hydra/sweeper=optuna", "hydra.sweeper.nested=maybe", "batch_size=8,16"],
         "hydra.sweeper.nested=maybe: it must be true or false."),
        (["hydra/sweeper=optuna", "hydra.sweeper.trials=0", "batch_size=8,16"],
         "hydra.sweeper.trials=0: it must be a whole number of at least 1."),
        (["optimizer.lr=interval(0, 1)"], "an interval is for a search; say hydra/sweeper=optuna"),
        (["modell=a,b"], "There is no setting modell; did you mean model?"),
    ],
)  # fmt: skip
def test_a_wrong_sweep_is_one_sentence(words: Sequence[str], told: str, tmp_path: Path) -> None:
    result = run_command(tmp_path, "-m", *words)
    assert result.code == 2
    assert told in result.err
    assert "Traceback" not in result.err


def parsed(*words: str) -> list[list[str]]:
    overrides = OverridesParser.create().parse_overrides(list(words))
    return combinations({override.get_key_element(): override for override in overrides})


def test_combinations_vary_the_last_key_fastest() -> None:
    assert parsed("a=1,2", "b=x", "fold=range(2)") == [
        ["a=1", "b=x", "fold=0"], ["a=1", "b=x", "fold=1"],
        ["a=2", "b=x", "fold=0"], ["a=2", "b=x", "fold=1"],
    ]  # fmt: skip
    with pytest.raises(HydraException, match="an interval is for a search"):
        parsed("a=interval(0, 1)")


@pytest.mark.slow
def test_the_studies_have_all_their_jobs(tmp_path: Path) -> None:
    for name, jobs in {
        "digits_simple_cnn": 90,
        "digits_mobilenetv2": 90,
        "asl_alphabet": 15,
    }.items():
        result = run_command(tmp_path, "-m", f"experiment={name}", "data.root=none", "folds=9")
        assert f"{jobs} of {jobs} jobs of the sweep failed" in result.err, name
    fewer = run_command(
        tmp_path, "-m", "experiment=digits_simple_cnn", "data.root=none", "fold=0,1", "augment=none"
    )
    assert "18 of 18 jobs of the sweep failed" in fewer.err, "the command line has the last word"


@pytest.mark.slow
def test_the_words_of_before_are_translated_and_the_new_ones_are_named(
    tiny: Path, tmp_path: Path
) -> None:
    words = [*QUICK, f"data.root={tiny}", "trainer.max_epochs=1", "folds=2", "fold=0,1"]
    result = run_anew(tmp_path, "train", "-m", "launcher=local", "launcher.jobs=2", *words)
    assert result.code == 0, result.err
    assert "type hydra/launcher=local for launcher=local" in result.err
    assert "hydra.launcher.jobs=2 for launcher.jobs=2" in result.err
    assert len(finished(tmp_path)) == 2
    result = run_command(
        tmp_path, "-m", "sweep=optuna", "sweep.trials=1", "label_smoothing=0.0,0.1", *words
    )
    assert result.code == 0, result.err
    assert "trial 1 of 1: complete" in result.err
    today = run_command(tmp_path, "-m", *TWO_AT_ONCE, *words)
    assert "2 of 2 jobs are finished already" in today.err, "the words are no part of a run"
    assert "Old words" not in today.err


def test_the_grid_works_with_another_launcher(tmp_path: Path) -> None:
    result = run_command(tmp_path, "-m", "hydra/launcher=basic", "folds=7", "data.root=none",
                         "fold=0,1")  # fmt: skip
    assert result.code != 0
    assert "data.root=none" in result.err
    assert "Traceback" not in result.err


def test_how_many_jobs_a_machine_carries() -> None:
    assert 1 <= worker_count("auto") <= cpu_count()
    assert worker_count(3) == 3
    with pytest.raises(SettingError, match=r"hydra\.launcher\.jobs=many"):
        worker_count("many")


def test_a_worker_that_dies_while_it_is_asked_is_told_and_replaced(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from functools import partial\n"
        "from signlang.sweeps.launcher import WorkerPool\n"
        "pool = WorkerPool(print, 2)\n"
        "first, same = (pool.call(partial(os.getpid)) for _ in range(2))\n"
        "died = pool.call(partial(signal.raise_signal, signal.SIGKILL))\n"
        "another = pool.call(partial(os.getpid))\n"
        "pool.close()\n"
        "print(first == same != another, os.getpid() in (first, another), died)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.startswith("True False its process was killed by signal SIGKILL"), (
        done.stderr
    )
