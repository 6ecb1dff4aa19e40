"""Mutation testing: one small error at a time in a copy of the code, and whether a test notices.

    python experiments/mutation/mutate.py --count 300 --seed 0 --workers 2

cosmic-ray's operators make the mutants. The runner is our own, since a process per mutant would
spend most of its time on importing torch: it imports the packages once and forks for each mutant.
The README beside this file says how to read the result.
"""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from mutants import Mutant, difference, lines_that_reach, mutated_text, sample
from selection import ROOMS, Test, read_tests, select

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("signlang", "conf", "tests", "experiments", "pyproject.toml", "README.md")
BUDGET: Final = 45.0  # seconds of tests that a mutant may cost
WARM: Final = ("torch", "torchvision", "timm", "pytorch_lightning", "torchmetrics", "hydra",
    "albumentations", "cv2", "sklearn.model_selection", "scipy.stats", "scipy.optimize",
    "matplotlib.pyplot", "PIL.Image", "pytest", "rich.console", "jinja2", "safetensors.torch",
    "fvcore.nn", "filelock")  # fmt: skip
INVALID: Final = 77  # the mutated module cannot be imported: no test is needed to notice it
NOTICED: Final = ("killed", "timeout")


def copy_code(folder: Path) -> Path:
    """Copy what the tests need into a folder."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "node_modules", "vendor")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_mutant(place: Path, mutant: Mutant, tests: Sequence[Test]) -> dict[str, Any]:
    """Test one mutant in a copy of the code, and restore the copy.

    Args:
        place: The copy.
        mutant: To be tested.
        tests: All that are known.

    Returns:
        A line of the results.
    """
    file, began = place / "signlang" / mutant.module, time.monotonic()
    text = file.read_text("utf-8")
    changed = mutated_text(mutant, text)
    selected = select(tests, mutant.module, lines_that_reach(text, mutant.line), BUDGET)
    expected = sum(test.seconds for test in selected)
    expected += sum({name: s for test in selected for name, s in test.fixtures.items()}.values())
    file.write_text(changed, "utf-8")
    try:
        outcome = run_tests(place, mutant.module, selected, 3 * expected + 20)
    finally:
        file.write_text(text, "utf-8")
    return {
        "key": mutant.key, "module": mutant.module, "outcome": outcome, "tests": len(selected),
        "seconds": round(time.monotonic() - began, 1), "diff": difference(text, changed),
    }  # fmt: skip


def run_tests(place: Path, module: str, tests: Sequence[Test], limit: float) -> str:
    """Run tests in a fork of this process, for `limit` seconds at most.

    Returns:
        `killed`, `survived`, `timeout` or `invalid`.
    """
    child = os.fork()
    if child == 0:
        _test_and_exit(place, module, [test.name for test in tests])
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            codes = {0: "survived", INVALID: "invalid"}
            return codes.get(os.waitstatus_to_exitcode(status), "killed")
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _test_and_exit(place: Path, module: str, tests: Sequence[str]) -> None:
    """Run pytest in this process and end it; never returns."""
    code = 1
    try:
        os.setsid()  # what the tests start ends with them
        os.chdir(place)
        sys.path.insert(0, str(place))
        os.environ["PYTHONPATH"] = str(place)  # the commands that tests start run the mutant too
        log = os.open(place / "last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            importlib.import_module("signlang." + module.removesuffix(".py").replace("/", "."))
        except BaseException:
            code = INVALID
        else:
            import pytest

            words = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--durations=0"]
            words += ["-p", "no:xdist", f"--basetemp={place / 'temporary'}"]
            code = int(pytest.main([*words, *tests])) if tests else 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def work(mutants: Sequence[Mutant], wanted: int, results: Path, tests: Sequence[Test]) -> None:
    """Test mutants one after another until as many valid ones have a result; append results."""
    for name in WARM:
        importlib.import_module(name)
    sys.dont_write_bytecode = True  # files change within a second: a compiled one would be stale
    valid = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place = copy_code(Path(folder))
        for mutant in mutants:
            if valid == wanted:
                break
            result = read_results(results).get(mutant.key)
            if result is None:
                result = {**test_mutant(place, mutant, tests), "suite": _suite()}
                with results.open("a", encoding="utf-8") as stream:  # a short line: one write
                    stream.write(json.dumps(result) + "\n")
                print(f"{result['outcome']:9} {result['seconds']:6.1f} s  {mutant.key}", flush=True)
            valid += result["outcome"] != "invalid"


def _suite() -> str:
    """Digest of all tests."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_results(results: Path) -> dict[str, dict[str, Any]]:
    """Results that still hold, by the key of the mutant: a survivor of other tests does not."""
    if not results.is_file():
        return {}
    known = {r["key"]: r for r in map(json.loads, results.read_text("utf-8").splitlines())}
    suite = _suite()
    return {k: r for k, r in known.items() if r["outcome"] != "survived" or r["suite"] == suite}


def write_report(results: Path, mutants: Sequence[Mutant], count: int, words: str) -> str:
    """Write the report beside the results.

    Returns:
        The score in one sentence.
    """
    known = read_results(results)
    tested = [known[mutant.key] for mutant in mutants if mutant.key in known]
    tested = [result for result in tested if result["outcome"] != "invalid"][:count]
    noticed = sum(result["outcome"] in NOTICED for result in tested)
    score = f"{noticed} of {len(tested)} mutants were noticed"
    score += f" ({100 * noticed / len(tested):.1f} %)." if tested else "."
    table = ["| room | killed | timeout | survived |", "|---|---|---|---|"]
    for room in sorted({result["module"].partition("/")[0] for result in tested}):
        here = [result for result in tested if result["module"].partition("/")[0] == room]
        counts = Counter(result["outcome"] for result in here)
        table.append(
            f"| {room} | {counts['killed']} | {counts['timeout']} | {counts['survived']} |"
        )
    survivors = [
        f"### {result['module']}\n\n```diff\n{result['diff']}\n```"
        for result in sorted(tested, key=lambda result: str(result["key"]))
        if result["outcome"] == "survived"
    ]
    text = [f"# Mutants\n\n`{words}`\n\n{score}", "\n".join(table), "## Survivors", *survivors]
    results.with_suffix(".md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return score


def main() -> None:
    """Test a sample of mutants and write the report; what has a result already is not repeated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=300, help="mutants of the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--rooms", nargs="+", default=ROOMS, help="or single modules of them")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutants.jsonl")
    parser.add_argument("--share", help=argparse.SUPPRESS)  # of a worker: its number/their count
    given = parser.parse_args()
    given.results.parent.mkdir(parents=True, exist_ok=True)
    mutants = sample(ROOT / "signlang", given.rooms, given.seed)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place, records = copy_code(Path(folder)), given.results.with_suffix(".tests.json")
        tests = read_tests(ROOT, place, records, given.workers)
    if given.share:
        number, count = map(int, given.share.split("/"))
        wanted = len(range(number, given.count, count))
        work(mutants[number::count], wanted, given.results, tests)
        return
    words = [sys.executable, *sys.argv, "--share"]
    quiet = {
        "OMP_NUM_THREADS": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with ThreadPoolExecutor(given.workers) as pool:
        codes = list(
            pool.map(
                lambda n: subprocess.call(
                    [*words, f"{n}/{given.workers}"], env={**os.environ, **quiet}
                ),
                range(given.workers),
            )
        )
    shown = f"--count {given.count} --seed {given.seed} --rooms {' '.join(given.rooms)}"
    print(write_report(given.results, mutants, given.count, f"mutate.py {shown}"))
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
