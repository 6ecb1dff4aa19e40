"""Whether a fitted temperature helps images that it was not fitted on, by the rule that keeps it.

    python experiments/calibration/resplits.py runs/digits/*/fold=0 ...

The validation and test images of each run, none of which it was trained on, are pooled and split
again 300 times: a temperature is fitted on some, and measured on the rest. Of runs whose setting
has all folds, the calibrations of run and study are compared on the test folds as well.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch

from signlang import console
from signlang.arrays import Floats, Ints
from signlang.console import track
from signlang.data.image_io import resize_batch
from signlang.evaluation.predictors import network_outputs
from signlang.files import read_csv, write_between, write_csv
from signlang.metrics import calibration
from signlang.metrics.calibration import apply_temperature, fit_temperature, logits_of
from signlang.metrics.classification import classification_metrics
from signlang.runs import trained_run
from signlang.runs.trained_run import TrainedRun
from signlang.studies.study import read_setting

FOLDER: Final = Path(__file__).parent
SIZES: Final = (33, 60, 166, 465)  # images that a temperature is fitted on
SPLITS: Final = 300
TOLERANCE: Final = 1e-3  # a loss or an error that is higher by less is no worse
LEAST: Final = 50  # images to measure on
RULES: Final = ("always", "leave one out", "one mistake more", "in use")
RESPLITS: Final = (
    "data", "split", "label_smoothing", "fold", "images", "accuracy", "fitted_on", "rule", "kept",
    "loss_no_worse", "error_no_worse", "loss_change", "error_change",
)  # fmt: skip
SOURCES: Final = (
    "data", "split", "label_smoothing", "fold", "calibration", "kept", "loss", "error",
)  # fmt: skip
Outputs = tuple[Floats, Ints]  # probabilities and labels


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Split held-out images again and again.")
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs, fold=K")
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    arguments = parser.parse_args()
    console.start()
    torch.set_num_threads(1)
    runs = [trained_run.load_trained_run(path) for path in arguments.runs]
    outputs = [{name: predicted(run, name) for name in ("validation", "test")} for run in runs]
    pairs = list(zip(runs, outputs, strict=True))
    if not arguments.tables:
        rows = [row for run, pair in pairs for row in resplits(run, pair)]
        write_csv(FOLDER / "resplits.csv", RESPLITS, rows)
        rows = [row for run, pair in pairs for row in sources(run, pair)]
        write_csv(FOLDER / "sources.csv", SOURCES, rows)
    write_tables()


def write_tables() -> None:
    """Write the tables of the README from the two files."""
    head = "| data, split, fold, label smoothing | accuracy | fitted on | " + " | ".join(RULES)
    lines = [head + " |", "|---|---:|---:|" + "---:|" * len(RULES)]
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for row in read_csv(FOLDER / "resplits.csv"):
        cell = f"{row['kept']}: {row['loss_no_worse']}, {row['error_no_worse']}"
        groups.setdefault((_run(row), row["accuracy"], row["fitted_on"]), {})[row["rule"]] = cell
    lines += [
        f"| {' | '.join([*key, *(cells[rule] for rule in RULES)])} |"
        for key, cells in groups.items()
    ]
    write_between(FOLDER / "README.md", "resplits", "\n".join(lines))
    means: dict[tuple[str, str], list[list[float]]] = {}
    for row in read_csv(FOLDER / "sources.csv"):
        key = f"{row['data']}, {row['split']}", row["calibration"]
        means.setdefault(key, []).append([float(row[n]) for n in ("kept", "loss", "error")])
    lines = [
        "| data, split | calibration | folds with one | loss | error |",
        "|---|---|" + "---:|" * 3,
    ]
    for (name, source), values in means.items():
        kept, loss, error = np.array(values).T
        lines.append(
            f"| {name} | {source} | {kept.sum():.0f} of {len(kept)} | {loss.mean():.4f} | "
            f"{error.mean():.4f} |"
        )
    write_between(FOLDER / "README.md", "sources", "\n".join(lines))


def _run(row: Mapping[str, str]) -> str:
    smoothing = float(row["label_smoothing"])
    return f"{row['data']}, {row['split']}, {row['fold']}" + f", {smoothing:g}" * (smoothing > 0)


def predicted(run: TrainedRun, subset: str) -> Outputs:
    """Show the images of a subset to the network of a run."""
    images, rows = trained_run.find_images(run, None), run.subset(subset)
    network = network_outputs(run.classifier)
    batches = images.batches(rows, f"{run.path.parent.name} {run.path.name} {subset}")
    tables = [network(resize_batch(batch, *run.image_sizes[1:])) for batch in batches]
    return np.concatenate(tables), trained_run.label_array(rows)


def named(run: TrainedRun) -> list[object]:
    """The first cells of its rows."""
    smoothing = run.settings.get("label_smoothing", 0.0)
    return [run.path.resolve().parents[1].name, run.metrics["split"], smoothing, run.fold]


def resplits(run: TrainedRun, outputs: dict[str, Outputs]) -> Iterator[list[object]]:
    """A row for each number of images and each rule."""
    probabilities, labels = (
        np.concatenate([outputs[name][part] for name in outputs]) for part in (0, 1)
    )
    metrics = classification_metrics(probabilities, labels)
    for size in SIZES:
        if len(labels) - size < LEAST:
            continue
        rng = np.random.default_rng(0)
        every = [
            resplit(probabilities, labels, rng.permutation(len(labels)), size)
            for _ in track(range(SPLITS), f"{run.path.parent.name} {size}", SPLITS)
        ]
        for rule in RULES:
            kept, loss, error = np.array([one[rule] for one in every]).T
            yield [
                *named(run), len(labels), f"{metrics['accuracy']:.4f}", size, rule,
                f"{kept.mean():.3f}", f"{(loss <= TOLERANCE).mean():.3f}",
                f"{(error <= TOLERANCE).mean():.3f}", f"{loss.mean():.5f}", f"{error.mean():.5f}",
            ]  # fmt: skip


def resplit(
    probabilities: Floats, labels: Ints, order: Ints, size: int
) -> dict[str, tuple[float, float, float]]:
    """By rule: whether the temperature is kept, and the change of loss and error on the rest."""
    here, rest = order[:size], order[size:]
    logits = logits_of(probabilities[here])
    temperature = fit_temperature(logits, labels[here])
    gains = calibration.leave_one_out_gains(logits, labels[here])
    mean, deviation = calibration.expected_gain(logits, labels[here], temperature)
    keeps = {
        "always": True,
        "leave one out": gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(size),
        "one mistake more": mean > 0,
        "in use": mean > calibration.CLEARLY * deviation,
    }
    before, after = (
        classification_metrics(apply_temperature(probabilities[rest], t), labels[rest])
        for t in (1.0, temperature)
    )
    change = [after[name] - before[name] for name in ("loss", "calibration_error")]
    return {
        rule: (float(kept), *(kept * number for number in change)) for rule, kept in keeps.items()
    }


def sources(run: TrainedRun, outputs: dict[str, Outputs]) -> Iterator[list[object]]:
    """Loss and error of the test fold without a temperature, with the run's, with the study's."""
    setting = read_setting(run)
    if setting is None or setting.cross_fit is None:
        return
    probabilities, labels = outputs["validation"]
    own = calibration.fit_calibration(probabilities, labels, run.calibration.wanted_precision)
    forced = fit_temperature(logits_of(probabilities), labels)
    study = setting.cross_fit.folds[run.fold][0]
    for name, kept, temperature in (
        ("none", False, 1.0),
        ("validation subset, always", True, forced),
        ("validation subset, rule", own.kept, own.temperature),
        ("other folds of the study, rule", study.kept, study.temperature),
    ):
        metrics = classification_metrics(
            apply_temperature(outputs["test"][0], temperature), outputs["test"][1]
        )
        yield [
            *named(run), name, int(kept), f"{metrics['loss']:.5f}",
            f"{metrics['calibration_error']:.5f}",
        ]  # fmt: skip


if __name__ == "__main__":
    main()
