"""Results of an experiment: results.csv, figures and the tables of its README.

    python experiments/results.py experiments/digits runs/digits_simple_cnn runs/digits_best

Results of studies that are not named are kept. Published accuracies are read from `published.csv`
in the folder of the experiment. Photographs of the data sets are not written.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from signlang import console
from signlang.errors import SignlangError
from signlang.files import atomic_write, read_csv, write_between, write_csv
from signlang.reporting.page import markdown
from signlang.reporting.plots import png_bytes
from signlang.studies import comparison, leaderboard, sections, verdicts
from signlang.studies.leaderboard_columns import COLUMNS, chosen, csv_cell
from signlang.studies.ranking import Ranking, Row, rank_settings
from signlang.studies.study import read_study

FIGURES: Final = ("cost", "factors", "curves", "confusion", "reliability")
COSTS: Final = (
    "macro_f1", "calibration_error", "size_mb", "parameters", "flops", "latency_ms", "epochs",
)  # fmt: skip
Published = Mapping[tuple[str, str], str]


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Collect the results of an experiment.")
    parser.add_argument("folder", type=Path, help="of the experiment, e.g. experiments/digits")
    parser.add_argument("studies", type=Path, nargs="+", help="e.g. runs/digits_simple_cnn")
    arguments = parser.parse_args()
    console.start()
    try:
        collect(
            arguments.folder,
            [rank_settings(read_study(study)) for study in arguments.studies],
        )
    except SignlangError as error:
        sys.exit(str(error))


def collect(folder: Path, rankings: Sequence[Ranking]) -> None:
    """Write `results.csv`, `figures/` and, between markers, the README section of each study.

    Raises:
        DataError: If the README lacks the markers of a study.
    """
    published = _published(folder)
    _write_lines(folder / "results.csv", rankings)
    for result in rankings:
        if any(row.setting.is_complete for row in result.rows):  # or its table tells costs, no more
            _write_figures(folder / "figures", result)
        text = "\n".join(_section(result, published))
        write_between(folder / "README.md", result.study.name, text)


def _write_figures(folder: Path, ranking: Ranking) -> None:
    folder.mkdir(exist_ok=True)
    for image in comparison.report_page(ranking).images():
        if image.name in FIGURES and isinstance(image.image, Figure):  # no photographs
            with atomic_write(folder / f"{ranking.study.name}-{image.name}.png") as file:
                file.write_bytes(png_bytes(image.image))


def _write_lines(file: Path, rankings: Sequence[Ranking]) -> None:
    """Replace the lines of the studies in a table that may also contain others."""
    studies: dict[str, list[dict[str, str]]] = {}
    for line in read_csv(file):  # none without the file
        studies.setdefault(line["study"], []).append(line)
    for one in rankings:
        studies[one.study.name] = [
            {"study": one.study.name} | {name: csv_cell(value) for name, value in line.items()}
            for _, line in leaderboard.ranked(one)
        ]
    lines = [line for each in studies.values() for line in each]
    header = list(dict.fromkeys(name for line in lines for name in line))
    write_csv(file, header, ([line.get(name, "") for name in header] for line in lines))


def _published(folder: Path) -> Published:
    """Published accuracies, by the names of study and setting."""
    return {(row["study"], row["setting"]): row["published"]
            for row in read_csv(folder / "published.csv")}  # fmt: skip


def _section(ranking: Ranking, published: Published) -> Iterator[str]:
    study = ranking.study
    yield f"\n### `{study.name}`\n"
    names = sections.fold_assignments(row.setting for row in ranking.rows)
    costs = [column.title for column in chosen(COSTS)]
    header = [COLUMNS["label"].title, leaderboard.FOLDS_AND_MEAN, "published", *costs, "s a fold"]
    for assignment, name in names.items():
        yield f"{name[:1].upper()}{name[1:]}:\n"
        yield f"| {' | '.join(header)} |"
        yield f"|{'---|' * 3}{'---:|' * (len(header) - 3)}"
        for row in ranking.rows:
            if row.setting.fold_assignment == assignment:
                value = published.get((study.name, row.setting.name), "")
                yield f"| {' | '.join(_cells(row, value))} |"
        yield ""
    yield from (f"- {markdown(sentence)}" for sentence in verdicts.sentences(ranking))
    runs = [run for setting in study.settings for run in setting.runs]
    devices = "; ".join(sorted({str(run.record["device"]) for run in runs}))
    torch = "; ".join(sorted({str(run.record["packages"]["torch"]) for run in runs}))
    precision = "; ".join(sorted({str(run.settings["trainer.precision"]) for run in runs}))
    hours = sum(run.metric("seconds") for run in runs) / 3600
    yield (
        f"\n{len(runs)} runs, {hours:.1f} hours of training one after another; {devices}; torch "
        f"{torch}; trainer.precision={precision}.\n"
    )


def _cells(row: Row, published: str) -> Iterator[str]:
    setting = row.setting
    mark = "" if setting.is_complete else f" ({len(setting.runs)} of {setting.folds} folds)"
    yield markdown(row.label) + mark
    yield leaderboard.fold_accuracies_and_mean(row)
    yield published
    yield from (column.text(row) for column in chosen(COSTS))
    yield f"{setting.mean('seconds'):.0f}"


if __name__ == "__main__":
    main()
