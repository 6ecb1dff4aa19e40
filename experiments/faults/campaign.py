"""Break commands in every way a machine can: does the same command, given again, put it right?

    python experiments/faults/campaign.py --seed 0

Each fault happens to a command on 36 tiny images, in a folder of its own. Then its cause is
removed, and the same command is given again: it must complete, what it writes must equal what the
undisturbed command writes (but for times), and nothing half-written and no process may be left. It
writes `results.csv`, a line for each fault, and prints the faults that went wrong.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import commands
import numpy as np
from commands import Ended, run
from PIL import Image

from signlang.files import write_csv

HERE: Final = Path(__file__).parent
CLASSES: Final = {"A": (200, 60, 60), "B": (60, 200, 60), "C": (60, 60, 200)}
EACH: Final = 12  # images of a class
STUDY: Final = "runs/signs"
SETTING: Final = f"{STUDY}/simple_cnn"
DATA: Final = ("data=folder", "data.root=../photos", "data.image_size=32")
TRAIN: Final = (
    *DATA, "study=signs", "model=simple_cnn", "image_size=32", "folds=3", "batch_size=8",
    "trainer.max_epochs=3", "trainer.accelerator=cpu", "augment=digits",
)  # fmt: skip
RUN: Final = "run=simple_cnn,fold=0"
VERBS: Final[Mapping[str, tuple[str, ...]]] = {  # name -> verb and words
    "train": ("train", *TRAIN, "fold=0"),
    "sweep": ("train", "-m", *TRAIN, "fold=0,1"),
    "describe": ("describe", *DATA, "out=card"),
    "compare": ("compare", STUDY, "allow_incomplete=true", "out=comparison"),
    "export": ("export", f"run={STUDY}", "verify=60", "out=bundles/bundle", "overwrite=true"),
    "evaluate": ("evaluate", f"run={STUDY}", *DATA, "out=evaluation"),
}
WRITES_TO: Final = {
    "train": "runs", "sweep": "runs", "describe": "card", "compare": "comparison",
    "export": "bundles", "evaluate": "evaluation",
}  # fmt: skip
NEEDS_RUNS: Final = ("compare", "export", "evaluate")
# no result: logs, charts of times, how it was started, checkpoints (predictions show their weights)
NO_RESULT: Final = re.compile(
    r"(^|/)(events\.out\..*|run\.log|\.lock(\..*)?|\.hydra/.*|hparams\.yaml|record\.json|.*\.ckpt"
    r"|cost\.png|bundle/card\.(md|html))$"
)
TIMES: Final = {
    "checksums",
    "seconds", "images_per_second", "latency_ms", "latency_quartiles_ms", "environment", "root",
    "latency", "files", "measured",
}  # fmt: skip
OK: Final = ("killed", "failed with a sentence", "no effect", "put right", "told")


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        number: From 0; it seeds what is random.
        kind: What went wrong.
        command: In which command.
        detail: Where, when or how much.
        ended: How the command ended.
        outcome: `ok`, or what is wrong.
        seconds: That both commands and the checks took.
    """

    number: int
    kind: str
    command: str
    detail: str
    ended: str
    outcome: str
    seconds: float


@dataclass
class Case:
    """What a fault works on.

    Attributes:
        place: A folder of its own, in which commands run.
        verb: Name of the command.
        draw: Its random numbers.
        base: The undisturbed commands.
        detail: See `Row`.
        wrong: What is wrong, filled while it is looked at.
        ended: See `Row`.
    """

    place: Path
    verb: str
    draw: random.Random
    base: "Baseline"
    detail: str = ""
    wrong: list[str] = field(default_factory=list)
    ended: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """Of the command."""
        return VERBS[self.verb]

    @property
    def output(self) -> Path:
        """The folder that it writes to."""
        return self.place / WRITES_TO[self.verb]

    def again(self, *more: str) -> None:
        """Give the command again: now everything must be as if nothing had happened."""
        ended = run(self.place, [*self.words, *more])
        self.check_end(ended, "the same command again")
        if ended.code:
            self.wrong.append(f"the same command fails: {last_line(ended)}")
            return
        self.check_results()
        left = commands.half_written(self.place)
        if left:
            self.wrong.append(f"half-written: {', '.join(sorted({p.name for p in left}))}")

    def check_results(self) -> None:
        """Compare what is there with the undisturbed results."""
        expected, found = self.base.results[self.verb], results(self.output)
        odd = sorted(expected.keys() ^ found.keys())
        odd += [name for name in found if expected.get(name) not in {found[name], None}]
        if odd:
            self.wrong.append(f"other results: {', '.join(odd)}")

    def check_end(self, ended: Ended, what: str) -> None:
        """A command ends by itself, without a trace, and leaves no process."""
        if ended.hung:
            self.wrong.append(f"{what} hung")
        if "Traceback" in ended.err:
            self.wrong.append(f"{what} shows a trace: {last_line(ended)}")
        if ended.left:
            self.wrong.append(f"{what} left {ended.left} processes")

    def first(self, ended: Ended, what: str = "the command") -> None:
        """Look at the command to which the fault happened."""
        self.check_end(ended, what)
        if ended.code < 0:
            self.ended = "killed"
            if ended.code != -signal.SIGKILL:
                self.ended = f"killed by {signal.Signals(-ended.code).name}"
        elif ended.code:
            self.ended = "failed with a sentence"
        else:
            self.ended = "no effect"
            self.check_results()


def last_line(ended: Ended) -> str:
    """The end of what a command said."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"exit code {ended.code}"


def results(folder: Path) -> dict[str, bytes | None]:
    """Content of all files of results below a folder, without times."""
    names = (
        (file.relative_to(folder).as_posix(), file)
        for file in folder.rglob("*")
        if file.is_file() and not commands.HALF_WRITTEN.search(file.as_posix())
    )
    return {name: timeless(file) for name, file in names if not NO_RESULT.search(name)}


def timeless(file: Path) -> bytes:
    """A file without what depends on speed."""
    data = file.read_bytes()
    if file.name in {"metrics.json", "bundle.json", "data.json"}:
        try:
            return json.dumps(without_times(json.loads(data)), sort_keys=True).encode()
        except ValueError:
            return data
    if file.name == "history.csv":
        return b"\n".join(line.rsplit(b",", 2)[0] for line in data.splitlines())
    return data


def without_times(content: Any) -> Any:
    """The same without the keys of `TIMES`."""
    if not isinstance(content, dict):
        return content
    return {key: without_times(value) for key, value in content.items() if key not in TIMES}


class Baseline:
    """The undisturbed commands: each is run twice, and what differs is no result.

    Attributes:
        root: The folder of all places; `photos` is in it.
        results: Of each command, see `results`; None for files that no two runs have in common.
        seconds: That each takes.
        writes: How often each writes, renames or removes something.
    """

    def __init__(self, root: Path, verbs: Sequence[str] = tuple(VERBS)) -> None:
        self.root = root
        write_images(root / "photos")
        self.results: dict[str, dict[str, bytes | None]] = {}
        self.seconds: dict[str, float] = {}
        self.writes: dict[str, int] = {}
        first, second = root / "base", root / "twin"
        for place in (first, second):
            place.mkdir()
        for verb in verbs:
            for place in (first, second):
                if place is second and verb in NEEDS_RUNS:  # of other times they are no results
                    shutil.rmtree(place / "runs")
                    shutil.copytree(first / "runs", place / "runs")
                self._measure(place, verb)
            one, other = (results(place / WRITES_TO[verb]) for place in (first, second))
            assert one.keys() == other.keys(), one.keys() ^ other.keys()
            self.results[verb] = {k: v if other[k] == v else None for k, v in one.items()}

    def _measure(self, place: Path, verb: str) -> None:
        counts = place / ".counts"
        started = time.monotonic()
        ended = run(place, VERBS[verb], commands.counting(place, counts))
        assert ended.code == 0, ended.err
        self.seconds[verb] = time.monotonic() - started
        self.writes[verb] = int(counts.read_text())
        counts.unlink()

    @property
    def unsteady(self) -> list[str]:
        """Files that differ between two undisturbed commands."""
        return sorted(
            f"{verb}: {name}"
            for verb, of_verb in self.results.items()
            for name, data in of_verb.items()
            if data is None
        )

    def case(self, number: int, verb: str, seed: int, *, cached: bool = True) -> Case:
        """A place in which a command finds what it needs."""
        place = self.root / f"fault-{number}"
        place.mkdir()
        if cached:
            shutil.copytree(self.root / "base" / "cache", place / "cache")
        if verb in NEEDS_RUNS:
            shutil.copytree(self.root / "base" / "runs", place / "runs")
        return Case(place, verb, random.Random(f"{seed}-{number}"), self)


def write_images(folder: Path) -> None:
    """Write 36 small images of three colours, by six signers."""
    rng = np.random.default_rng(0)
    rows = ["path,signer"]
    for name, colour in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            noise = rng.integers(-40, 40, size=(32, 32, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
            rows.append(f"{name}/{number}.png,s{number % 6}")
    (folder / "signers.csv").write_text("\n".join(rows) + "\n")


# the faults


def kill_at(place: Path, number: int) -> commands.Action:
    """Prepare a process to kill itself at its n-th write."""
    return commands.at_write(place, number, commands.kill_itself)


def killed_at_a_write(case: Case) -> None:
    """SIGKILL just before it writes, renames or removes something."""
    number = case.draw.randint(1, case.base.writes[case.verb])
    case.detail = f"at write {number}"
    case.first(run(case.place, case.words, kill_at(case.place, number)))
    case.again()


def killed_at_a_time(case: Case) -> None:
    """SIGKILL after a random time."""
    after = case.draw.uniform(0.02, case.base.seconds[case.verb])
    case.detail = f"after {after:.2f} s"
    command = commands.Command(case.place, case.words)
    if not command.ended(after):
        command.kill()
    case.first(command.wait())
    case.again()


def killed_over_and_over(case: Case) -> None:
    """SIGKILL four times in a row, each at another write."""
    numbers = sorted(case.draw.randint(1, case.base.writes[case.verb]) for _ in range(4))
    case.detail = f"at writes {', '.join(map(str, numbers))}"
    for number in numbers:
        case.first(run(case.place, case.words, kill_at(case.place, number)))
    case.again()


def killed_while_replacing(case: Case) -> None:
    """SIGKILL at a write of a command that replaces what an earlier one wrote."""
    shutil.copytree(case.base.root / "base" / WRITES_TO[case.verb], case.output)
    killed_at_a_write(case)


LOCAL: Final = ("hydra/launcher=local", "hydra.launcher.jobs=2")


def killed_sweep_of_workers(case: Case) -> None:
    """SIGKILL to the parent of a sweep, or to a worker, while two work on jobs."""
    whom = case.draw.choice(["parent", "worker"])
    after = case.draw.uniform(3.0, 8.0)
    case.detail = f"{whom}, after {after:.1f} s"
    command = commands.started_apart(case.place, [*case.words, *LOCAL])
    time.sleep(after)
    workers = [p for p in commands.session(command.pid) if p != command.pid]
    for process in [command.pid] if whom == "parent" else workers[:1]:
        if command.poll() is None:
            os.kill(process, signal.SIGKILL)
    out, err = command.communicate(timeout=commands.LIMIT)
    deadline = time.monotonic() + commands.GRACE
    while (left := commands.session(command.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    case.first(Ended(command.returncode, out, err, len(left)))
    case.again()


def full_disk(case: Case) -> None:
    """The disk that it writes to is too small."""
    most = {"train": 900, "sweep": 1600, "describe": 400, "compare": 700, "export": 1200}
    size = case.draw.randint(4, most.get(case.verb, 300))
    case.detail = f"{size} kB"
    with commands.mounted(case.output) as disk:
        disk.remount(f"size={size}k")
        case.first(run(case.place, case.words))
        disk.remount("size=256m")
        case.again()


def full_disk_of_the_cache(case: Case) -> None:
    """The disk of the cache is too small."""
    size = case.draw.choice([4, 8, 12, 40, 110, 64_200])
    case.detail = f"{size} kB"
    with commands.mounted(case.place / "cache") as disk:
        disk.remount(f"size={size}k")
        case.first(run(case.place, case.words))
        disk.remount("size=256m")
        case.again()


def limited_files(case: Case) -> None:
    """No file may become larger than that (RLIMIT_FSIZE, as quotas of some clusters)."""
    size = round(10 ** case.draw.uniform(4.5, 6))  # what it says is written to a file, too
    case.detail = f"{size} bytes"
    case.first(run(case.place, case.words, commands.limited(resource.RLIMIT_FSIZE, size)))
    case.again()


def read_only(case: Case) -> None:
    """The folder that it writes to, or the cache, cannot be written to."""
    which = case.draw.choice([case.output, case.place / "cache"])
    case.detail = which.name
    with commands.mounted(which) as disk:
        disk.remount("ro")
        case.first(run(case.place, case.words))
        disk.remount("rw")
        case.again()


def read_only_runs(case: Case) -> None:
    """The runs that it reads are on a disk that cannot be written to."""
    case.detail = "runs"
    with commands.mounted(case.place / "runs") as disk:
        disk.remount("ro")
        case.first(run(case.place, case.words))
        if case.ended != "no effect":
            case.wrong.append("it does not read runs of a read-only disk")
        disk.remount("rw")
        case.again()


def changing_data(case: Case) -> None:
    """While images are read, one that was read before vanishes, changes, or is cut off."""
    what = case.draw.choice(["vanishes", "changes", "is cut off", "is swapped", "folder vanishes"])
    reads = 2 * EACH * len(CLASSES)
    number = case.draw.randint(2, reads)
    case.detail = f"{what}, at read {number}"
    own = case.place / "photos"
    shutil.copytree(case.base.root / "photos", own)
    pick = case.draw.random()

    def act(seen: list[str]) -> None:
        victim = Path(seen[int(pick * len(seen))])
        if what == "vanishes":
            victim.unlink()
        elif what == "changes":
            victim.write_bytes(Path(seen[0 if seen[0] != str(victim) else -1]).read_bytes())
        elif what == "is cut off":
            victim.write_bytes(victim.read_bytes()[:-400])
        elif what == "is swapped":
            other = next(own.glob("C/*.png"))
            data = victim.read_bytes()
            victim.write_bytes(other.read_bytes())
            other.write_bytes(data)
        else:
            victim.parent.rename(own.parent / "elsewhere")

    words = [word.replace("../photos", "photos") for word in case.words]
    case.first(run(case.place, words, commands.at_read(own, number, act)))
    shutil.rmtree(own)
    shutil.rmtree(case.place / "elsewhere", ignore_errors=True)
    shutil.copytree(case.base.root / "photos", own)
    ended = run(case.place, words)
    case.check_end(ended, "the same command again")
    if ended.code:
        case.wrong.append(f"the same command fails: {last_line(ended)}")
    else:
        case.check_results()


def clock_jumps_back(case: Case) -> None:
    """The clock (`time.time`) jumps back in the middle; files of the place are of tomorrow."""
    calls = case.draw.randint(0, 400)
    seconds = case.draw.choice([60.0, 3600.0, 86400.0, 4e8])
    number = case.draw.randint(1, case.base.writes[case.verb])
    case.detail = f"by {seconds:.0f} s after {calls} calls, killed at write {number}"
    case.first(run(case.place, case.words, kill_at(case.place, number)))
    later = time.time() + seconds
    for file in case.place.rglob("*"):
        os.utime(file, (later, later))
    ended = run(case.place, case.words, commands.jumping_clock(calls, seconds))
    case.check_end(ended, "the command under that clock")
    if ended.code:
        case.wrong.append(f"it fails under that clock: {last_line(ended)}")
    else:
        case.check_results()
    case.again()


def two_at_once(case: Case) -> None:
    """The same command twice, at the same moment or a little apart."""
    pause = case.draw.choice([0.0, 0.0, 0.1, 0.4])
    case.detail = f"{pause} s apart"
    one = commands.Command(case.place, case.words)
    time.sleep(pause)
    other = commands.Command(case.place, case.words)
    endings = [one.wait(), other.wait()]
    for ended in endings:
        case.check_end(ended, "one of two")
    codes = sorted(ended.code for ended in endings)
    case.ended = "no effect" if codes == [0, 0] else "failed with a sentence"
    if codes[0] and case.verb == "sweep":  # each may have trained what the other was refused
        case.ended = "failed with a sentence"
    elif codes[0]:
        case.wrong.append(f"both fail: {last_line(endings[0])}; {last_line(endings[1])}")
    else:
        case.check_results()
    case.again()


def full_shared_memory(case: Case) -> None:
    """The shared memory is full, and batches are prepared in two processes."""
    size = case.draw.choice(["4k", "64k", "256k", "1m"])
    case.detail = f"{size} left"
    words = (*case.words, "workers=2")
    case.first(run(case.place, words, commands.small_shm(size)))
    ended = run(case.place, words)
    case.check_end(ended, "the same command again")
    if ended.code:
        case.wrong.append(f"the same command fails: {last_line(ended)}")
    case.again()


def out_of_memory(case: Case) -> None:
    """The process gets that much memory more than when it starts to work (RLIMIT_AS)."""
    size = round(10 ** case.draw.uniform(6, 8.6))
    case.detail = f"{size / 1e6:.0f} MB"
    case.first(run(case.place, case.words, commands.limited(resource.RLIMIT_AS, size, beyond=True)))
    case.again()


def flip(file: Path, draw: random.Random) -> str:
    """Change one bit of a file."""
    data = bytearray(file.read_bytes())
    position, bit = draw.randrange(len(data)), draw.randrange(8)
    data[position] ^= 1 << bit
    file.write_bytes(data)
    return f"{file.name}, byte {position} of {len(data)}, bit {bit}"


def copy_run(case: Case) -> None:
    """Put one finished run of the undisturbed commands into the place."""
    base = case.base.root / "base"
    (run_of,) = base.glob(f"{STUDY}/*/fold=0")
    shutil.copytree(run_of, case.place / run_of.relative_to(base))


def damaged_run(case: Case, name: str) -> None:
    """A bit of a file of a finished run is flipped: it is noticed, or does not matter."""
    if case.verb == "train":
        copy_run(case)
    (folder,) = case.place.glob(f"{STUDY}/*/fold=0")
    file = next(iter(sorted(folder.glob(name))))
    case.detail = flip(file, case.draw)
    ended = run(case.place, case.words)
    case.check_end(ended, "the command")
    said = file.name in ended.err
    if ended.code:
        case.ended = "failed with a sentence"
        if not said:
            case.wrong.append(f"it does not name the file: {last_line(ended)}")
    else:
        case.check_results()
        if case.wrong and said:
            case.wrong.clear()
        case.ended = "told" if said else "no effect"
        if case.wrong:
            case.wrong.append("SILENT")
    ended = run(case.place, [*VERBS["train"], "overwrite=true"])
    case.check_end(ended, "train overwrite=true")
    if ended.code:
        case.wrong.append(f"overwrite=true fails: {last_line(ended)}")
    if case.verb != "train":  # it shows times as well: of the runs of the undisturbed command
        shutil.rmtree(case.place / "runs")
        shutil.copytree(case.base.root / "base" / "runs", case.place / "runs")
    case.again()


def damaged_unfinished_run(case: Case, name: str) -> None:
    """A bit of a file of a run that was killed before its test is flipped."""
    copy_run(case)
    (folder,) = case.place.glob(f"{STUDY}/*/fold=0")
    (folder / "metrics.json").unlink()
    (folder / "predictions.csv").unlink()
    file = next(iter(sorted(folder.glob(name))))
    case.detail = flip(file, case.draw)
    ended = run(case.place, case.words)
    case.check_end(ended, "the command")
    if ended.code:
        case.ended = "failed with a sentence"
        if file.name not in ended.err:
            case.wrong.append(f"it does not name the file: {last_line(ended)}")
        case.again("overwrite=true")
    else:
        case.ended = "told" if file.name in ended.err else "no effect"
        case.check_results()
        case.again()


def damaged_cache(case: Case, name: str) -> None:
    """A bit of a file of the cache is flipped."""
    file = next(iter(sorted((case.place / "cache").glob(name))))
    case.detail = flip(file, case.draw)
    ended = run(case.place, case.words)
    case.check_end(ended, "the command")
    if ended.code:
        case.ended = "failed with a sentence"
        case.wrong.append(f"it fails: {last_line(ended)}")
    else:
        case.ended = "put right"
        case.check_results()
    case.again()


Fault = Callable[[Case], None]
Plan = tuple[str, str, Fault, bool]  # kind, command, fault, and whether the cache is there
RUN_FILES: Final = (
    "metrics.json", "record.json", "predictions.csv", "data.csv", "classes.json",
    "calibration.json", "history.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "run.log",
    "events.out.*", "hparams.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml",
)  # fmt: skip
UNFINISHED_FILES: Final = (
    "record.json", "data.csv", "classes.json", "history.csv", "checkpoints/best.ckpt",
    "checkpoints/last.ckpt", "run.log", ".hydra/config.yaml", "calibration.json",
)  # fmt: skip
READ_BY: Final = {"metrics.json": "compare export", "record.json": "compare export",
                  "predictions.csv": "compare train", "data.csv": "compare export",
                  "classes.json": "compare export", "calibration.json": "export evaluate",
                  "history.csv": "compare train", "checkpoints/best.ckpt": "export evaluate",
                  ".hydra/config.yaml": "export evaluate"}  # fmt: skip


ON_CACHE: Final[Sequence[tuple[Fault, str, str]]] = (  # fault, kind, commands with their counts
    (killed_at_a_write, "SIGKILL at a write",
     "train 30 sweep 8 describe 10 compare 10 export 5 evaluate 6"),
    (killed_at_a_time, "SIGKILL at a random time",
     "train 12 sweep 4 describe 5 compare 5 export 3 evaluate 3"),
    (killed_over_and_over, "four SIGKILL in a row", "train 4 sweep 2"),
    (killed_while_replacing, "SIGKILL while replacing", "compare 4 export 4 describe 3"),
    (killed_sweep_of_workers, "SIGKILL in a sweep of workers", "sweep 4"),
    (full_disk, "full disk (tmpfs)",
     "train 8 sweep 1 describe 3 compare 3 export 2 evaluate 1"),
    (limited_files, "limit of file sizes", "train 5 describe 2 compare 2 export 1"),
    (read_only, "read-only folder", "train 3 describe 2 compare 2 export 1 evaluate 1"),
    (read_only_runs, "runs on a read-only disk", "compare 1 export 1 evaluate 1"),
    (clock_jumps_back, "clock jumps back", "train 4 sweep 1 describe 1 compare 1 export 1"),
    (two_at_once, "two equal commands at once",
     "train 3 sweep 1 describe 2 compare 2 export 2 evaluate 1"),
    (full_shared_memory, "full /dev/shm", "train 4"),
    (out_of_memory, "out of memory (RLIMIT_AS)", "train 6 sweep 1 describe 2 compare 1"),
)  # fmt: skip
WITHOUT_CACHE: Final[Sequence[tuple[Fault, str, str]]] = (
    (killed_at_a_write, "SIGKILL while the cache is built", "train 10 describe 4"),
    (killed_at_a_time, "SIGKILL while the cache is built", "train 4"),
    (full_disk_of_the_cache, "full disk of the cache", "train 4 describe 2"),
    (two_at_once, "two builds of one cache at once", "train 2 describe 1"),
    (changing_data, "data changes while it is read", "train 16 describe 4"),
)  # fmt: skip
NEEDS_ROOT: Final = (
    full_disk, full_disk_of_the_cache, read_only, read_only_runs, full_shared_memory,
)  # fmt: skip
CACHE_FILES: Final = {"pixels/*.npy": 8, "pixels/*.json": 6, "inspected/*.json": 12}


def planned() -> Iterator[Plan]:
    """Every fault in turn."""
    for faults, cached in ((ON_CACHE, True), (WITHOUT_CACHE, False)):
        for fault, kind, counts in faults:
            if commands.IS_ROOT or fault not in NEEDS_ROOT:
                yield from ((kind, verb, fault, cached) for verb in _times(counts))
    yield from _bits()


def _bits() -> Iterator[Plan]:
    for name in RUN_FILES:
        for verb in READ_BY.get(name, "compare").split():
            for _ in range(2 if name in READ_BY else 1):
                yield "a bit of a finished run", verb, partial(damaged_run, name=name), True
    for name in UNFINISHED_FILES:
        for _ in range(6 if name.endswith("last.ckpt") else 2):
            fault = partial(damaged_unfinished_run, name=name)
            yield "a bit of an unfinished run", "train", fault, True
    for name, count in CACHE_FILES.items():
        for _ in range(count):
            yield "a bit of the cache", "train", partial(damaged_cache, name=name), True


SHORT: Final = (  # kinds of which the short campaign tries one, of a training
    "SIGKILL at a write", "SIGKILL while the cache is built", "data changes while it is read",
    "a bit of the cache",
)  # fmt: skip


def short() -> list[tuple[int, Plan]]:
    """A few faults, for the fast tests."""
    plans = [(number, plan) for number, plan in enumerate(planned()) if plan[1] == "train"]
    return [next(one for one in plans if one[1][0] == kind) for kind in SHORT]


def _times(counts: str) -> Iterator[str]:
    words = counts.split()
    for verb, count in zip(words[::2], words[1::2], strict=True):
        yield from [verb] * int(count)


def tried(base: Baseline, number: int, seed: int, plan: Plan) -> Row:
    """Let a fault happen, and look at what comes of it."""
    kind, verb, fault, cached = plan
    started = time.monotonic()
    case = base.case(number, verb, seed, cached=cached)
    try:
        fault(case)
    except Exception:
        case.wrong.append(f"the campaign failed: {traceback.format_exc()}")
    shutil.rmtree(case.place, ignore_errors=True)
    outcome = "; ".join(case.wrong) or "ok"
    seconds = round(time.monotonic() - started, 2)
    return Row(number, kind, verb, case.detail, case.ended, outcome, seconds)


def lane(base: Baseline, seed: int, plans: Sequence[tuple[int, Plan]], sender: Any) -> None:
    """Try faults one after another, in a process that forks the commands."""
    for number, plan in plans:
        if os.getppid() == 1:  # the campaign was ended
            return
        sender.send(tried(base, number, seed, plan))
    sender.send(None)


def campaign(
    base: Baseline, seed: int, plans: Sequence[tuple[int, Plan]], lanes: int
) -> Iterator[Row]:
    """Try faults side by side."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    own = [plans[start::lanes] for start in range(lanes)]
    workers = [context.Process(target=lane, args=(base, seed, some, sender)) for some in own]
    for worker in workers:
        worker.start()
    running = lanes
    while running:
        row = receiver.recv()
        if row is None:
            running -= 1
        else:
            yield row
    for worker in workers:
        worker.join()


def table(rows: Sequence[Row]) -> str:
    """Kinds of faults with their outcomes, as Markdown."""
    lines = [f"| fault | tried | {' | '.join(OK)} | wrong |", "|---" * (len(OK) + 3) + "|"]
    for kind in dict.fromkeys(row.kind for row in rows):
        some = [row for row in rows if row.kind == kind]
        ended = Counter(row.ended if row.ended in OK else "killed" for row in some)
        wrong = sum(row.outcome != "ok" for row in some)
        cells = [len(some), *(ended[name] for name in OK), wrong]
        lines.append(f"| {kind} | {' | '.join(str(cell or '') for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Try all faults, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="an expression that kinds match")
    parser.add_argument("--short", action="store_true", help="tries a handful")
    parser.add_argument("--numbers", type=int, nargs="+", help="tries these only")
    parser.add_argument("--every", type=int, default=1, help="tries one of so many")
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["COLUMNS"] = "200"
    started = time.monotonic()
    commands.import_all(commands.TO_TRAIN if arguments.short else commands.NEEDED)
    rows: list[Row] = []
    folder = Path(tempfile.mkdtemp())  # no TemporaryDirectory: a forked command would remove it
    try:
        base = Baseline(folder, ["train"] if arguments.short else [*VERBS])
        sys.stdout.write(f"not the same in two undisturbed commands: {base.unsteady}\n")
        sys.stdout.write(f"writes: {base.writes}\n")
        plans = (
            short()
            if arguments.short
            else [
                (number, plan)
                for number, plan in enumerate(planned())
                if re.search(arguments.only, plan[0])
                and number % arguments.every == 0
                and number in (arguments.numbers or [number])
            ]
        )
        random.Random(arguments.seed).shuffle(plans)  # a campaign that is ended has tried all kinds
        for row in campaign(base, arguments.seed, plans, arguments.lanes):
            rows = sorted([*rows, row], key=lambda one: one.number)
            write_csv(arguments.out, [f.name for f in fields(Row)], [astuple(one) for one in rows])
            if row.outcome != "ok":
                sys.stdout.write(f"--- {row}\n")
                sys.stdout.flush()
    finally:
        shutil.rmtree(folder)
    used = sum(os.times()[:4])
    wrong = sum(row.outcome != "ok" for row in rows)
    sys.stdout.write(
        f"{table(rows)}\n\n{len(rows)} faults, {wrong} wrong; {time.monotonic() - started:.0f} s, "
        f"{used:.0f} s of processor time\n"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
