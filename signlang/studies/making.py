"""The folder of a study comes in; its tables, dashboards and report are made."""

from pathlib import Path

from signlang import console
from signlang.errors import RunError, SettingError
from signlang.studies import dashboard, leaderboard, ranking, showing
from signlang.studies.collecting import read_study
from signlang.studies.runs import Study
from signlang.studies.standings import Standings


def compare_study(
    path: Path,
    out: Path | None = None,
    *,
    allow_incomplete: bool = False,
    sort: str = leaderboard.RANK,
) -> Standings:
    """Compare all settings of a study, write what comes of it, and show the leaderboard.

    Run folders are only read.

    Args:
        path: Folder of the study.
        out: Where to write; the folder of the study if not given.
        allow_incomplete: Compare what there is, though folds are missing.
        sort: Column of `leaderboard.csv` to sort the tables by.

    Raises:
        RunError: If runs are missing, or cannot be compared.
        SettingError: If `out` cannot be written to, or `sort` is no column.
    """
    study = read_study(path)
    out = path if out is None else out
    leaderboard.check_column(sort, study)
    if study.incomplete and not allow_incomplete:
        raise RunError(_incomplete(study))
    standings = ranking.judged(study)
    write(standings, out, sort)
    showing.show(standings, sort)
    console.show_table(
        "written",
        {
            "table": f"{out / 'leaderboard.md'}, leaderboard.csv",
            "report": str(out / "report.html"),
            "predictions": str(out / "predictions.csv"),
            "dashboards": f"tensorboard --logdir {out / dashboard.FOLDER}",
        },
    )
    return standings


def write(standings: Standings, out: Path, sort: str = leaderboard.RANK) -> None:
    """Write everything into a folder.

    Raises:
        SettingError: If that cannot be done, or the folder belongs to a run.
    """
    from signlang.studies import report

    if any((place / "record.json").exists() for place in (out, *out.resolve().parents)):
        raise SettingError(
            f"{out} belongs to a run, whose files are not touched: choose another place with "
            "--out DIR."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        leaderboard.write(standings, out, sort)
        showing.write(standings, out, sort)
        leaderboard.write_predictions(standings.study, out)
        dashboard.write(standings.study, out)
        report.write(standings, out)
    except OSError as error:
        file = error.filename2 or error.filename or out
        raise SettingError(
            f"{file} cannot be written ({error.strerror}): choose another place with --out DIR."
        ) from None


def _incomplete(study: Study) -> str:
    lacking = "\n".join(study.incomplete)
    return (
        f"{study.path} is not complete, and means over different folds do not compare.\n{lacking}\n"
        "Complete it, or look at what there is with --allow-incomplete."
    )
