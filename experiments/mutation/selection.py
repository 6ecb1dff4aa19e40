"""Tests that notice a change of a line: those that execute it, those of its room first.

The tests run once under coverage.py. What is known of a test file is kept until it, or the code
that it tests, changes.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

ROOMS: Final = ("data", "metrics", "models", "runs", "studies")  # folders of signlang/
HERE: Final = Path(__file__).resolve().parent
# These test other packages, or run every command of the documentation: slow, and nothing new.
LEFT_OUT: Final = (
    "tests/server/", "tests/sweeps/", "tests/test_container.py", "tests/test_documentation.py",
    "tests/test_predict.py", "tests/test_serve.py", "tests/test_wheel.py",
)  # fmt: skip
CONFIGURATION: Final = """[run]
parallel = true
patch = _exit, fork
data_file = {records}/coverage
source = {sources}
context = ${{TEST_CONTEXT-}}
"""


@dataclass(frozen=True)
class Test:
    """A test, and what it costs.

    Attributes:
        name: Node of pytest.
        seconds: That it takes, without shared fixtures.
        fixtures: Seconds of the shared fixtures that it uses, by name.
        lines: That it executes, by module (path below `signlang/`).
    """

    name: str
    seconds: float
    fixtures: dict[str, float]
    lines: dict[str, list[int]]

    @property
    def cost(self) -> float:
        """Seconds that it takes alone."""
        return self.seconds + sum(self.fixtures.values())


def read_tests(root: Path, place: Path, file: Path, workers: int) -> list[Test]:
    """What each test executes; recorded where it is not known yet.

    Args:
        root: The repository.
        place: A copy of it, in which tests may run.
        file: Keeps the records, by test file.
        workers: Processes that record.
    """
    records = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    digests = {name: _digest(root, name) for name in _test_files(root)}
    records = {name: records[name] for name in digests if name in records}
    stale = [name for name in digests if records.get(name, {}).get("digest") != digests[name]]
    if stale:
        print(f"recording what the tests of {len(stale)} files execute ...", flush=True)
        fresh: dict[str, list[Any]] = {name: [] for name in stale}
        for test in _record(place, stale, workers):
            fresh[test.name.partition("::")[0]].append(asdict(test))
        for name, tests in fresh.items():
            records[name] = {"digest": digests[name], "tests": tests}
        file.write_text(json.dumps(records), encoding="utf-8")
    return [Test(**test) for record in records.values() for test in record["tests"]]


def _test_files(root: Path) -> list[str]:
    tests = [path.relative_to(root).as_posix() for path in root.glob("tests/**/test_*.py")]
    tested = [path for path in root.glob("signlang/**/*.py") if ">>> " in path.read_text("utf-8")]
    doctests = [path.relative_to(root).as_posix() for path in tested]
    return sorted(name for name in tests + doctests if not name.startswith(LEFT_OUT))


def _digest(root: Path, name: str) -> str:
    """Of a test file, and of everything that it may execute."""
    digest = hashlib.blake2b(digest_size=8)
    used = [*root.glob("signlang/**/*.py"), *root.glob("conf/**/*.yaml")]
    for path in [root / name, root / "tests/conftest.py", *sorted(used)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _record(place: Path, files: Iterable[str], workers: int) -> Iterator[Test]:
    """Run test files under coverage.py in a copy of the repository."""
    from coverage import Coverage

    records = place / "records"
    records.mkdir()
    sources = ",".join(str(place / "signlang" / room) for room in ROOMS)
    (records / "coveragerc").write_text(CONFIGURATION.format(records=records, sources=sources))
    path = os.pathsep.join([str(place), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        "PYTHONPATH": path, "TEST_RECORDS": str(records),
        "COVERAGE_PROCESS_START": str(records / "coveragerc"),
    }  # fmt: skip
    words = [sys.executable, "-m", "pytest", "-q", "-p", "recorder", "-p", "no:cacheprovider"]
    words += ["-n", str(workers if workers > 1 else 0), "-m", "not slow"]
    words += [f"--basetemp={place / 'temporary'}", *files]
    subprocess.run(words, cwd=place, env={**os.environ, **environment}, check=False)
    counter = Coverage(data_file=str(records / "coverage"), config_file=False)
    counter.combine([str(records)])
    lines: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    data = counter.get_data()
    for file in data.measured_files():
        module = Path(file).relative_to(place / "signlang").as_posix()
        for line, contexts in data.contexts_by_lineno(file).items():
            for context in {context.strip("|") for context in contexts}:
                lines[context][module].append(line)
    for record in map(json.loads, (path.read_text("utf-8") for path in records.glob("*.json"))):
        for name in record["unusable"]:
            print(f"failed or skipped, left out: {name}", flush=True)
        for name, test in record["tests"].items():
            reached: dict[str, set[int]] = defaultdict(set)
            for context in (name, *test["fixtures"]):
                for module, executed in lines[context].items():
                    reached[module].update(executed)
            yield Test(name, **test, lines={m: sorted(reached[m]) for m in reached})


def select(tests: Iterable[Test], module: str, lines: set[int], budget: float) -> list[Test]:
    """Tests that execute any of some lines: those of the module's room first, the fast ones first.

    Args:
        tests: To select from.
        module: Path below `signlang/`.
        lines: Of the module.
        budget: Seconds that all may take; at least one test is selected.
    """
    chosen: list[Test] = []
    ready: set[str] = set()
    own = (f"tests/{module.partition('/')[0]}/", f"signlang/{module}::")
    for test in sorted(tests, key=lambda t: (not t.name.startswith(own), t.cost, t.name)):
        if lines.isdisjoint(test.lines.get(module, ())):
            continue
        budget -= test.seconds + sum(s for f, s in test.fixtures.items() if f not in ready)
        if chosen and budget < 0:
            break
        ready.update(test.fixtures)
        chosen.append(test)
    return chosen
