"""Coverage of the intervals by cluster, and false alarms of the tests against the best setting.

    python experiments/intervals/simulation.py experiments/intervals

Everything is drawn, with a fixed seed: the true accuracy is known.
"""

import argparse
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Final

import numpy as np

from signlang.arrays import Flags, Ints
from signlang.files import write_between
from signlang.metrics.significance import (
    clustered_interval,
    corrected_t_test,
    holm,
    paired_difference,
    wilson_interval,
)

DRAWS: Final = 2000
CLUSTERS: Final = {  # number of clusters and images of each
    (3, 100): "few signers", (5, 400): "Massey has 5 hands", (10, 50): "",
    (50, 10): "Hand Reader", (207, 10): "digits", (290, 20): "ASL Alphabet, every 15th frame",
}  # fmt: skip
ACCURACIES: Final = (0.9, 0.97, 0.99)
CORRELATIONS: Final = (0.05, 0.2, 0.4)
FOLDS: Final = 5


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Measure how often intervals and tests are right.")
    parser.add_argument("folder", type=Path, help="of the README that holds the tables")
    readme = parser.parse_args().folder / "README.md"
    for name, lines in (
        ("accuracy", accuracy_lines()), ("difference", difference_lines()), ("best", best_lines()),
    ):  # fmt: skip
        write_between(readme, name, "\n".join(["", *lines, ""]))


def draw(rng: np.random.Generator, names: Ints, mean: float, correlation: float) -> Flags:
    """(n,) whether each image is recognised: each cluster has an accuracy of its own (beta)."""
    a, b = mean * (1 / correlation - 1), (1 - mean) * (1 / correlation - 1)
    accuracies = rng.beta(a, b, names.max() + 1)
    recognised: Flags = rng.random(len(names)) < accuracies[names]
    return recognised


def accuracy_lines() -> Iterator[str]:
    """How often the interval of an accuracy holds the true one."""
    yield "| clusters x images | accuracy | correlation | images independent | by cluster | width |"
    yield "|---|---:|---:|---:|---:|---:|"
    for (count, size), mean, correlation in product(CLUSTERS, ACCURACIES, CORRELATIONS):
        rng = np.random.default_rng(0)
        names = np.repeat(np.arange(count), size)
        held, widths = np.zeros(2), []
        for _ in range(DRAWS):
            flags = draw(rng, names, mean, correlation)
            alone = wilson_interval(int(flags.sum()), len(flags))
            by_cluster = clustered_interval(flags, names)
            assert by_cluster is not None
            held += [low <= mean <= high for low, high in (alone, by_cluster)]
            widths.append(by_cluster[1] - by_cluster[0])
        what = CLUSTERS[count, size]
        yield (
            f"| {count} x {size}{f' ({what})' if what else ''} | {mean} | {correlation} "
            f"| {held[0] / DRAWS:.3f} | {held[1] / DRAWS:.3f} | {np.median(widths):.4f} |"
        )


def difference_lines() -> Iterator[str]:
    """How often the interval of a difference of two networks on the same images holds the truth."""
    yield "| clusters x images | accuracies | images independent | by cluster |"
    yield "|---|---:|---:|---:|"
    for (count, size), (one, other) in product(CLUSTERS, ((0.95, 0.95), (0.97, 0.9))):
        rng = np.random.default_rng(0)
        names = np.repeat(np.arange(count), size)
        held = np.zeros(2)
        for _ in range(DRAWS):
            pair = draw(rng, names, one, 0.2), draw(rng, names, other, 0.2)
            for column, clusters in enumerate((None, names)):
                low, high = paired_difference(*pair, clusters).interval or (0.0, 0.0)
                held[column] += low <= one - other <= high
        alone, by_cluster = held / DRAWS
        yield f"| {count} x {size} | {one}, {other} | {alone:.3f} | {by_cluster:.3f} |"


def best_lines() -> Iterator[str]:
    """How often any of several equal settings is called worse than the best of the table."""
    yield (
        "| settings | test images for each image trained on | as assumed by the test "
        "| Holm over those with the best | Holm over all pairs |"
    )
    yield "|---:|---:|---:|---:|---:|"
    for settings, (true, assumed) in product((2, 3, 6, 18), ((0.278, 0.25), (0.278, 0.278))):
        rng = np.random.default_rng(0)
        alarms = np.zeros(2)
        for _ in range(DRAWS):
            alarms += false_alarms(rng, settings, true, assumed)
        with_best, all_pairs = alarms / DRAWS
        yield f"| {settings} | {true} | {assumed} | {with_best:.3f} | {all_pairs:.3f} |"


def false_alarms(
    rng: np.random.Generator, settings: int, true: float, assumed: float
) -> tuple[bool, bool]:
    """Whether some setting is called worse than the best, though all are equal.

    The accuracies of the folds of one setting have the correlation share / (1 + share), where
    share is the number of test images for each training image (Nadeau and Bengio 2003).
    """
    correlation = true / (1 + true)
    common = rng.normal(0, correlation**0.5, (settings, 1))
    folds = common + rng.normal(0, (1 - correlation) ** 0.5, (settings, FOLDS))
    folds = folds[np.argsort(-folds.mean(1))]
    p = [
        corrected_t_test(folds[one] - folds[other], assumed).p
        for one, other in combinations(range(settings), 2)
    ]  # those with the best come first
    with_best, all_pairs = holm(p[: settings - 1]), holm(p)[: settings - 1]
    return bool(with_best.min() <= 0.05), bool(all_pairs.min() <= 0.05)


if __name__ == "__main__":
    main()
