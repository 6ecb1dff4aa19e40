"""Mutation testing: one small error at a time in a copy of the code, and whether a test notices.

    python experiments/mutation/mutate.py --count 300 --seed 0 --workers 2

cosmic-ray's operators make the mutants. The runner is our own, since a process per mutant would
spend most of its time on importing torch: it imports the packages once and forks for each mutant.
The README beside this file says how to read the result.
"""

import argparse
import ast
import difflib
import functools
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
COPIED: Final = ("signlang", "conf", "tests", "pyproject.toml", "README.md")

# The tests that run for the mutants of a room, the fast ones first; a longer name of a module
# counts more than the name of its room. The doctests of the mutated module always run.
TESTS: Final[Mapping[str, tuple[str, ...]]] = {
    "data": ("tests/data", "tests/runs/test_training.py"),
    "metrics": ("tests/metrics", "tests/studies/test_ranking.py"),
    "metrics/classification": (
        "tests/metrics",
        "tests/studies/test_ranking.py",
        "tests/studies/test_report.py",
    ),
    "models": ("tests/models", "tests/runs/test_training.py"),
    "runs": (
        "tests/runs/test_identity.py",
        "tests/runs/test_training.py",
        "tests/studies",
        "tests/test_train.py",
        "tests/runs/test_resume.py",
    ),
    "studies": ("tests/studies", "tests/test_compare.py"),
}
DRAWINGS: Final = ("data/synthetic/", "studies/plots.py")  # numbers that only shape a drawing
WARM: Final = ("torch", "torchvision", "timm", "pytorch_lightning", "torchmetrics", "hydra",
    "albumentations", "cv2", "sklearn.model_selection", "scipy.stats", "scipy.optimize",
    "matplotlib.pyplot", "PIL.Image", "pytest", "rich.console", "jinja2", "safetensors.torch",
    "fvcore.nn", "filelock")  # fmt: skip
INVALID: Final = 77  # the mutated module cannot be imported: no test is needed to notice it
NOTICED: Final = ("killed", "timeout")


@dataclass(frozen=True)
class Mutant:
    """One change at one place of one module.

    Attributes:
        module: Path below `signlang/`, POSIX.
        operator: Name of the operator of cosmic-ray.
        occurrence: Which of the places where it applies.
        source: Digest of the module's text: results of another text are not reused.
    """

    module: str
    operator: str
    occurrence: int
    source: str

    @property
    def key(self) -> str:
        """Identifies the mutant in the results."""
        return f"{self.module} {self.operator} {self.occurrence} {self.source}"


def list_places(module: Path) -> list[list[Mutant]]:
    """List the mutants of a module, grouped by the place of the code that they change."""
    from cosmic_ray.ast import Visitor, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = module.read_text("utf-8")
    name = module.relative_to(ROOT / "signlang").as_posix()
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    passive = set(_passive_places(text))
    tree = get_ast(text)
    places: dict[Any, list[Mutant]] = {}

    class Positions(Visitor):  # type: ignore[misc,unused-ignore]
        def visit(self, node: Any) -> Any:
            found.extend(operator.mutation_positions(node))
            return node

    for operator_name in sorted(operator_names()):
        operator = _operator(get_operator(operator_name))
        if operator is None:
            continue
        found: list[Any] = []
        Positions().walk(tree)
        for occurrence, place in enumerate(found):
            if not any(start <= place[0] and place[1] <= end for start, end in passive):
                mutant = Mutant(name, operator_name, occurrence, digest)
                places.setdefault(place[0], []).append(mutant)
    return [places[place] for place in sorted(places)]


def _operator(kind: Any) -> Any:
    try:
        return kind()
    except TypeError:  # needs arguments: replaces a variable that one names
        return None


def _passive_places(text: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where types and arguments of decorators stand: they compute nothing."""
    for node in ast.walk(ast.parse(text)):
        kinds = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for decorator in getattr(node, "decorator_list", []):
            kinds += getattr(decorator, "args", []) + getattr(decorator, "keywords", [])
        for kind in kinds:
            if isinstance(kind, ast.expr | ast.keyword):
                assert kind.end_lineno is not None
                assert kind.end_col_offset is not None
                start, end = (kind.lineno, kind.col_offset), (kind.end_lineno, kind.end_col_offset)
                yield start, end


def sample(rooms: Sequence[str], seed: int) -> list[Mutant]:
    """One mutant at every place, in an order that depends on the seed alone."""
    rng = random.Random(seed)
    places = [
        place
        for room in rooms
        for module in sorted((ROOT / "signlang" / room).rglob("*.py"))
        if not module.relative_to(ROOT / "signlang").as_posix().startswith(DRAWINGS)
        for place in list_places(module)
    ]
    rng.shuffle(places)
    return [rng.choice(place) for place in places]


def mutated_text(mutant: Mutant, text: str) -> str:
    """The text of the module with the change in it."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    changed: str | None = mutate_code(text, get_operator(mutant.operator)(), mutant.occurrence)
    assert changed is not None, mutant
    return changed


def difference(text: str, changed: str) -> str:
    """The change as a unified diff without context."""
    lines = difflib.unified_diff(text.splitlines(), changed.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


@functools.cache
def tests_of(module: str) -> tuple[str, ...]:
    """The tests of a module by `TESTS`, and its doctests."""
    rooms = [room for room in TESTS if module.startswith((f"{room}/", f"{room}.py"))]
    return (f"signlang/{module}", *TESTS[max(rooms, key=len)])


def run_tests(place: Path, module: str, changed: str | None, limit: float) -> tuple[str, float]:
    """Run the tests of a module in a fork, in a copy of the code.

    Args:
        place: The copy; the module is restored afterwards.
        module: Path below `signlang/`.
        changed: The module's text for this run; None leaves it as it is.
        limit: Seconds after which the run is ended.

    Returns:
        `killed`, `survived`, `timeout` or `invalid`, and the seconds it took.
    """
    file, began = place / "signlang" / module, time.monotonic()
    text = file.read_text("utf-8")
    if changed is not None:
        file.write_text(changed, "utf-8")
    try:
        child = os.fork()
        if child == 0:
            _test_and_exit(place, module)
        code = _wait(child, limit)
    finally:
        file.write_text(text, "utf-8")
    outcome = {0: "survived", INVALID: "invalid", None: "timeout"}.get(code, "killed")
    return outcome, time.monotonic() - began


def _test_and_exit(place: Path, module: str) -> None:
    """Run pytest in this process and end it; never returns."""
    code = 1
    try:
        os.setsid()  # what the tests start ends with them
        os.chdir(place)
        sys.path.insert(0, str(place))
        os.environ["PYTHONPATH"] = str(place)
        null = os.open(place / "last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            importlib.import_module("signlang." + module.removesuffix(".py").replace("/", "."))
        except BaseException:
            code = INVALID
        else:
            import pytest

            words = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--durations=0"]
            words += ["-p", "no:xdist", f"--basetemp={place / 'temporary'}"]
            code = int(pytest.main([*words, *tests_of(module)]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def _wait(child: int, limit: float) -> int | None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class Worker:
    """A copy of the code, and how long the tests of each module take without an error."""

    def __init__(self, folder: Path) -> None:
        self.place = folder
        self.usual: dict[tuple[str, ...], float] = {}
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "node_modules", "vendor")
                shutil.copytree(source, folder / name, ignore=ignore)
            else:
                shutil.copy(source, folder / name)

    def test(self, mutant: Mutant) -> dict[str, Any]:
        """The result of one mutant, as a line of the results."""
        tests = tests_of(mutant.module)
        if tests not in self.usual:
            outcome, seconds = run_tests(self.place, mutant.module, None, 900)
            if outcome != "survived":
                log = (self.place / "last.log").read_text("utf-8", errors="replace")
                raise SystemExit(
                    f"{mutant.module}: its tests fail without a mutant.\n{log[-3000:]}"
                )
            self.usual[tests] = seconds
        text = (self.place / "signlang" / mutant.module).read_text("utf-8")
        changed = mutated_text(mutant, text)
        limit = 3 * self.usual[tests] + 20
        outcome, seconds = run_tests(self.place, mutant.module, changed, limit)
        return {
            "key": mutant.key, "module": mutant.module, "outcome": outcome,
            "seconds": round(seconds, 1), "diff": difference(text, changed),
        }  # fmt: skip


def work(mutants: Sequence[Mutant], wanted: int, results: Path) -> None:
    """Test mutants one after another until as many valid ones have a result; append results."""
    for name in WARM:
        importlib.import_module(name)
    sys.dont_write_bytecode = True  # files change within a second: a compiled one would be stale
    valid = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        worker = Worker(Path(folder))
        for mutant in mutants:
            if valid == wanted:
                break
            known = read_results(results).get(mutant.key)
            result = known or worker.test(mutant)
            valid += result["outcome"] != "invalid"
            if known is None:
                with results.open("a", encoding="utf-8") as stream:  # a short line: one write
                    stream.write(json.dumps(result) + "\n")
                print(f"{result['outcome']:9} {result['seconds']:6.1f} s  {mutant.key}", flush=True)


def read_results(results: Path) -> dict[str, dict[str, Any]]:
    """Results so far, by the key of the mutant."""
    if not results.is_file():
        return {}
    lines = results.read_text("utf-8").splitlines()
    return {result["key"]: result for result in map(json.loads, lines)}


def write_report(results: Path, mutants: Sequence[Mutant], words: str) -> str:
    """Write the report beside the results.

    Returns:
        The score in one sentence.
    """
    known = read_results(results)
    tested = [known[mutant.key] for mutant in mutants if mutant.key in known]
    tested = [result for result in tested if result["outcome"] != "invalid"]
    noticed = sum(result["outcome"] in NOTICED for result in tested)
    score = f"{noticed} of {len(tested)} mutants were noticed"
    score += f" ({100 * noticed / len(tested):.1f} %)." if tested else "."
    rooms = sorted({result["module"].partition("/")[0] for result in tested})
    table = ["| room | killed | timeout | survived |", "|---|---|---|---|"]
    for room in rooms:
        here = [result for result in tested if result["module"].startswith(f"{room}/")]
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
    parser.add_argument(
        "--rooms", nargs="+", default=["data", "metrics", "models", "runs", "studies"]
    )
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutants.jsonl")
    parser.add_argument("--share", help=argparse.SUPPRESS)  # of a worker: its number/their count
    given = parser.parse_args()
    given.results.parent.mkdir(parents=True, exist_ok=True)
    mutants = sample(given.rooms, given.seed)
    if given.share:
        number, count = map(int, given.share.split("/"))
        wanted = len(range(number, given.count, count))
        work(mutants[number::count], wanted, given.results)
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
    print(write_report(given.results, mutants, f"mutate.py {shown}"))
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
