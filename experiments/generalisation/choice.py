"""Choose ingredients for each data set by the other ones, and show what they reach on it.

    python experiments/generalisation/choice.py OUT

It reads what `leave_out.py` wrote, writes results.csv and prints the tables of README.md. For a
tested set X, a variant counts by its accuracy on the sets that are neither X nor trained on; of
those that are `GAIN` above the base, the best `MOST` are taken together.
"""

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from signlang.files import write_csv
from signlang.metrics.calibration import accepted, apply_temperature, fit_calibration

HERE: Final = Path(__file__).parent
HEADER: Final = ("variant", "trained", "seed", "tested", "accuracy")
GAIN: Final = 0.003
MOST: Final = 3
PRECISION: Final = 0.95
Trained = tuple[str, ...]
Accuracies = Mapping[tuple[str, Trained, str], list[float]]  # by variant, trained and tested


def read(folder: Path) -> tuple[Accuracies, list[str]]:
    """Accuracies of all seeds, and the names of the sets; writes results.csv."""
    lines = []
    for file in sorted(folder.glob("part-*.csv")):
        with file.open(newline="") as stream:
            lines += list(csv.reader(stream))
    lines.sort()
    write_csv(HERE / "results.csv", HEADER, lines)
    found: dict[tuple[str, Trained, str], list[float]] = {}
    for variant, trained, _, tested, accuracy in lines:
        found.setdefault((variant, tuple(trained.split()), tested), []).append(float(accuracy))
    return found, sorted({line[3] for line in lines})


def inner(found: Accuracies, variant: str, cells: list[tuple[Trained, str]]) -> float:
    """Mean accuracy over pairs of trained and tested sets; nan if one is missing."""
    values = [found.get((variant, *cell)) for cell in cells]
    return float(np.mean([np.mean(v[:3]) for v in values if v])) if all(values) else float("nan")


def chosen(found: Accuracies, cells: list[tuple[Trained, str]]) -> tuple[str, dict[str, float]]:
    """What is taken together, and the gain of each variant."""
    variants = [v for v in dict.fromkeys(key[0] for key in found) if " + " not in v]
    base = inner(found, "base", cells)
    gains = {v: inner(found, v, cells) - base for v in variants if v != "base"}
    good = sorted((v for v in gains if gains[v] >= GAIN), key=lambda v: -gains[v])[:MOST]
    return " + ".join(sorted(good)) or "base", gains


def cells_without(names: list[str], reported: str | None) -> list[tuple[Trained, str]]:
    """Two sets trained on and a third one tested, none of them the reported one."""
    return [
        (tuple(n for n in trained if n != tested), tested)
        for trained in (
            [[n for n in names if n != out] for out in names if reported in (None, out)]
        )
        for tested in trained
    ]


def main() -> None:
    """Print the tables."""
    folder = Path(sys.argv[1])
    found, names = read(folder)
    choices: dict[tuple[str, str], str] = {}
    print("# gains, by the sets that are not reported")
    for reported in (None, *names):
        choice, gains = chosen(found, cells_without(names, reported))
        choices["others", str(reported)] = choice
        _print_gains(f"others -> {reported or 'any'}", gains, choice)
    single: Trained = ("asl_alphabet",)
    strangers = [name for name in names if name not in single]
    for reported in (None, *strangers):
        cells = [(single, name) for name in strangers if name != reported]
        choice, gains = chosen(found, cells)
        choices["asl", str(reported)] = choice
        _print_gains(f"asl -> {reported or 'any'}", gains, choice)
    print("\n# reported: base, chosen by the others; mean and range over seeds; mean of networks")
    for kind, of in (("others", names), ("asl", strangers)):
        for tested in of:
            trained = single if kind == "asl" else tuple(n for n in names if n != tested)
            for variant in dict.fromkeys(["base", choices[kind, tested], choices[kind, "None"]]):
                values = found.get((variant, trained, tested))
                if values is None:
                    print(kind, tested, variant, "is not trained")
                    continue
                _, labels, together = together_of(folder, variant, trained, tested)
                ensemble = float((together.argmax(1) == labels).mean())
                print(
                    f"{kind} | {tested} | {variant} | {np.mean(values):.4f} "
                    f"[{min(values):.4f}, {max(values):.4f}] of {len(values)} | {ensemble:.4f}"
                )
    print("\n# rejection at a precision of", PRECISION)
    for variant in ("base", choices["others", "None"]):
        rejection(folder, variant, names)


def _print_gains(title: str, gains: Mapping[str, float], choice: str) -> None:
    told = ", ".join(f"{name} {gain:+.4f}" for name, gain in gains.items() if gain == gain)
    print(f"{title}: {told}; taken: {choice}")


LABELS: Final[dict[str, Any]] = {}


def together_of(folder: Path, variant: str, trained: Trained, tested: str) -> tuple[Any, Any, Any]:
    """Rows, labels and mean probabilities of the networks of all seeds for a tested set."""
    table = LABELS.setdefault("labels", np.load(folder / "labels.npz"))
    files = sorted(folder.glob(f"{variant}, {' '.join(trained)}, [0-9].npz"))
    loaded = [np.load(file) for file in files]
    rows = loaded[0]["rows"]
    here = table["sets"][rows] == tested
    mean = np.mean([one["probabilities"][here] for one in loaded], axis=0)
    return rows[here], table["labels"][rows[here]], mean / mean.sum(1, keepdims=True)


def rejection(folder: Path, variant: str, names: list[str]) -> None:
    """Share right among the accepted, and coverage, of each set by thresholds of the others."""
    single: dict[str, tuple[Any, Any]] = {}
    for tested in names:
        trained = tuple(n for n in names if n != tested)
        file = folder / f"{variant}, {' '.join(trained)}, 0.npz"
        if not file.exists():
            print(variant, "is not trained")
            return
        table, one = LABELS["labels"], np.load(file)
        probabilities = one["probabilities"].astype(np.float64)
        single[tested] = probabilities, table["labels"][one["rows"]]

    def pooled(others: list[str]) -> tuple[float, float]:
        fit = fit_calibration(
            np.concatenate([single[n][0] for n in others]),
            np.concatenate([single[n][1] for n in others]), PRECISION, "",
        )  # fmt: skip
        return fit.temperature, fit.threshold

    def strictest(others: list[str]) -> tuple[float, float]:
        temperature = pooled(others)[0]
        return temperature, max(
            fit_calibration(
                apply_temperature(single[n][0], temperature), single[n][1], PRECISION, ""
            ).threshold
            for n in others
        )

    rules: dict[str, Callable[[list[str]], tuple[float, float]]] = {
        "all together": pooled, "the strictest set": strictest,
    }  # fmt: skip
    for rule, fit in rules.items():
        for tested in names:
            temperature, threshold = fit([n for n in names if n != tested])
            after = apply_temperature(single[tested][0], temperature)
            taken = accepted(after.max(1), threshold)
            right = (after.argmax(1) == single[tested][1])[taken].mean()
            print(f"{variant} | {rule} | {tested} | {right:.4f} | {taken.mean():.4f}"
                  f" | threshold {threshold:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
