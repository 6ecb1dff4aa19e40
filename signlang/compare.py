"""Compare the runs of a study: `python -m signlang.compare runs/digits`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from signlang import console
from signlang.errors import SettingError, SignlangError

EXAMPLES = """examples:
  python -m signlang.compare runs/digits
  python -m signlang.compare runs/digits --allow-incomplete --sort latency_ms
  python -m signlang.compare runs/digits runs/asl_alphabet --out comparisons

It writes leaderboard.md, leaderboard.csv, report.html, predictions.csv (of all folds) and
cross_validated/ (for TensorBoard). Runs are only read."""


def compare(studies: Sequence[Path], out: Path | None, *, allow_incomplete: bool, sort: str) -> int:
    """Compare studies, each on its own.

    Returns:
        The exit code: that of the first study that could not be compared, otherwise 0.
    """
    from signlang.studies.comparison import compare_study

    places = {study: study.resolve().name for study in studies}
    if out is not None and len(set(places.values())) < len(places):
        raise SettingError("--out would get two studies of one name: compare them one by one.")
    code = 0
    for study, name in places.items():
        place = out / name if out is not None and len(places) > 1 else out
        try:
            compare_study(study, place, allow_incomplete=allow_incomplete, sort=sort)
        except SignlangError as error:
            sys.stderr.write(f"{error}\n")
            code = code or error.exit_code
    return code


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(
        prog="signlang.compare",
        description="Compare all runs of a study: leaderboard, tests, figures, report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help="runs/<study>")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (the study)")
    parser.add_argument("--allow-incomplete", action="store_true", help="though folds are missing")
    parser.add_argument("--sort", default="rank", metavar="COLUMN", help="of leaderboard.csv")
    parser.add_argument("--quiet", action="store_true", help="show errors only")
    given = vars(parser.parse_args())
    console.start(not given.pop("quiet"))
    try:
        sys.exit(compare(**given))
    except SignlangError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. The same command begins anew; no file is half written.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
