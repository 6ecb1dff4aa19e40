"""Training throughput of signlang and of three other variants on real images.

    python experiments/speed/speed.py --digits digits/Dataset --letters asl_alphabet_train

Every variant runs in a process of its own, one after another, in turn for each round. It writes
`results-*.csv`, `speed-*.png` and the section of `README.md` between the markers.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cases import CASES, Case
from study import VARIANTS as STUDY_VARIANTS

from signlang.files import read_csv, write_between, write_csv
from signlang.system import cpu_count, cpu_name

HERE: Final = Path(__file__).parent
VARIANTS: Final = ("ours", "ceiling", "published", "usual")
TWO_JOBS: Final = ", two jobs"  # at once, as hydra/launcher=local runs studies on two cores
HEADER: Final = (
    "network", "batch", "ours", "ceiling", "share of it", "ours, two jobs", "ceiling, two jobs",
    "share of it", "published", "ours is", "goal", "usual", "ours is",
)  # fmt: skip
Speeds = Mapping[str, Mapping[str, Sequence[float]]]  # case -> variant -> images a second
Studies = Mapping[str, Sequence[float]]  # variant -> seconds


def measure_speeds(arguments: argparse.Namespace) -> Speeds:
    """Measure every case, round after round."""
    speeds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(arguments.rounds):
        for name in arguments.cases:
            root = arguments.digits if CASES[name].data == "digits" else arguments.letters
            twice = [f"{variant}{TWO_JOBS}" for variant in VARIANTS[:2] if CASES[name].goal]
            for variant in (*VARIANTS, *twice):
                kind, _, two = variant.partition(",")
                words = [kind, name, "--root", str(root), "--seconds", str(arguments.seconds)]
                words += ["--jobs", "2"] if two else []
                speed = float(_run("variant.py", words)["speed"])
                speeds[name][variant].append(speed)
                _report(f"round {number + 1}, {name}, {variant}: {speed:.1f} images/s")
    return speeds


def measure_studies(arguments: argparse.Namespace) -> Studies:
    """Time five folds of Model A, round after round."""
    durations: dict[str, list[float]] = defaultdict(list)
    for number in range(arguments.rounds if arguments.epochs else 0):
        for variant in STUDY_VARIANTS:
            words = [
                variant,
                "--root",
                str(arguments.digits),
                "--epochs",
                str(arguments.epochs),
            ]
            seconds = float(_run("study.py", words)["seconds"])
            durations[variant].append(seconds)
            _report(f"round {number + 1}, five folds, {variant}: {seconds:.1f} s")
    return durations


def _run(program: str, words: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, str(HERE / program), *words]
    # environment variables that signlang set must not affect the other variants
    without = {key: value for key, value in os.environ.items() if not key.startswith("OPENCV_")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE.parent.parent, env=without
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _report(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def by_case(results: Sequence[Mapping[str, str]]) -> dict[str, dict[str, list[float]]]:
    """Values of all rounds, by case and variant."""
    cases: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in results:
        cases[row["case"]][row["variant"]].append(float(row["value"]))
    return cases


def lines(results: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Write the rows of one machine's results in Markdown."""
    cases = by_case(results)
    counts = {len(values) for variants in cases.values() for values in variants.values()}
    rounds = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    plural = "s" * (max(counts) > 1)
    yield f"{results[0]['machine']}; medians of {rounds} round{plural}; images a second:\n"
    yield f"| {' | '.join(HEADER)} |"
    yield f"|---|{'---:|' * (len(HEADER) - 1)}"
    for name, variants in cases.items():
        if name in CASES:
            yield f"| {' | '.join(_cells(CASES[name], variants))} |"
    for name, variants in cases.items():
        if name not in CASES:
            yield f"\n{name[:1].upper()}{name[1:]}, start-up included:\n"
            yield "| | seconds | times ours |"
            yield "|---|---:|---:|"
            fastest = statistics.median(variants["ours"])
            for variant, seconds in variants.items():
                middle = statistics.median(seconds)
                yield f"| {variant} | {middle:.1f} | {middle / fastest:.1f} |"


def _cells(case: Case, variants: Mapping[str, Sequence[float]]) -> Iterator[str]:
    ours, ceiling, published, usual = (statistics.median(variants[variant]) for variant in VARIANTS)
    both = [
        statistics.median(variants.get(f"{variant}{TWO_JOBS}", [0.0])) for variant in VARIANTS[:2]
    ]
    best = max(ours, both[0])
    yield f"{case.network}, {case.size} px"
    yield str(case.batch)
    yield f"{ours:.0f}"
    yield f"{ceiling:.0f}"
    yield f"{ours / ceiling:.2f}"
    yield from (f"{speed:.0f}" if speed else "" for speed in both)
    yield f"{both[0] / both[1]:.2f}" if both[1] else ""
    yield f"{published:.0f}"
    yield f"{best / published:.1f} times"
    yield f"{case.goal:.1f}" if case.goal else ""
    yield f"{usual:.0f}"
    yield f"{best / usual:.1f} times"


def machine() -> str:
    """Name of the machine."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{cpu_name()}, {cpu_count()} cores, torch {torch.__version__}"


def rows(speeds: Speeds, studies: Studies, epochs: int) -> list[dict[str, str]]:
    """All measurements as rows of the results."""
    races = {(case, "images/s"): variants for case, variants in speeds.items()}
    name = f"five folds of model_a, {epochs} epoch{'s' * (epochs > 1)}"
    return [
        {
            "machine": machine(), "case": case, "variant": variant, "round": str(number),
            "value": f"{value:.2f}", "unit": unit,
        }
        for (case, unit), variants in {**races, (name, "s"): studies}.items()
        for variant, values in variants.items()
        for number, value in enumerate(values, 1)
    ]  # fmt: skip


def write(results: Sequence[Mapping[str, str]]) -> None:
    """Write this machine's results and plot, and all machines' tables into the README."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", machine().partition(", torch")[0]).strip("-").lower()
    write_csv(HERE / f"results-{name}.csv", list(results[0]), [list(r.values()) for r in results])
    plot(results, HERE / f"speed-{name}.png")
    tables = []
    for file in sorted(HERE.glob("results-*.csv")):
        image = f"![speed](speed-{file.stem.removeprefix('results-')}.png)"
        tables.append("\n".join([*lines(read_csv(file)), "", image]))
    write_between(HERE / "README.md", "results", "\n\n".join(tables))


def plot(results: Sequence[Mapping[str, str]], file: Path) -> None:
    """Draw every variant as a share of its ceiling."""
    from matplotlib.figure import Figure

    speeds = {CASES[name]: variants for name, variants in by_case(results).items() if name in CASES}
    figure = Figure(figsize=(8, 0.6 + 0.7 * len(speeds)), layout="constrained")
    panel = figure.subplots()
    plotted = [("ours", "#0072b2"), ("usual", "#e69f00"), ("published", "#999999")]
    for row, variants in enumerate(speeds.values()):
        ceiling = statistics.median(variants["ceiling"])
        for place, (variant, colour) in enumerate(plotted):
            speed = statistics.median(variants[variant])
            here = row + (place - 1) * 0.26
            panel.barh(
                here, speed / ceiling, 0.24, color=colour, label=variant if not row else None
            )
            panel.text(speed / ceiling + 0.01, here, f"{speed:.0f}/s", va="center", fontsize=8)
    panel.set_yticks(range(len(speeds)), [_label(case) for case in speeds])
    panel.invert_yaxis()
    panel.axvline(0.9, color="black", linewidth=0.8, linestyle=":")
    panel.set_xlabel("share of the ceiling: the same steps on one tensor in memory (dotted: 0.9)")
    panel.set_xlim(0, 1.12)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3)
    figure.savefig(file, dpi=120)


def _label(case: Case) -> str:
    return f"{case.network}\nbatch {case.batch}"


def main() -> None:
    """Entry point of the command."""
    shared = Path(os.environ.get("SIGNLANG_SHARED", HERE.parents[2] / "shared")) / "data"
    letters = shared / "asl_alphabet/asl_alphabet_train/asl_alphabet_train"
    parser = argparse.ArgumentParser(description="Measure how fast networks are trained.")
    parser.add_argument("--digits", type=Path, default=shared / "digits/Dataset",
                        help="class folders of the digits")  # fmt: skip
    parser.add_argument("--letters", type=Path, default=letters,
                        help="class folders of the alphabet")  # fmt: skip
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--seconds", type=float, default=2.5, help="shortest measurement of a variant"
    )
    parser.add_argument("--epochs", type=int, default=1, help="of the five folds; 0: without them")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print only, write no file")
    arguments = parser.parse_args()
    for folder, option in ((arguments.digits, "--digits"), (arguments.letters, "--letters")):
        if not folder.is_dir():
            sys.exit(f"There are no images at {folder}: give {option} DIR, its class folders.")
    results = rows(measure_speeds(arguments), measure_studies(arguments), arguments.epochs)
    print("\n".join(lines(results)))
    if not arguments.show:
        write(results)


if __name__ == "__main__":
    main()
