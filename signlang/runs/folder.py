"""The run folder: the contract between the verbs.

`record.json` is written first, `metrics.json` last; the presence of the latter means finished.
Hyper-parameter searches write `search.json` beside the run folders of their study.
"""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from signlang import locks
from signlang.console import log
from signlang.constraints import Count, Index, Probability, Strict, Text, read_validated
from signlang.data.boxes import Crop
from signlang.data.index import Clusters, image_clusters
from signlang.errors import DataError, RunError, SettingError, closest, listing
from signlang.files import (
    CROP,
    GROUP,
    IMAGE_COLUMNS,
    SET,
    escaping_link,
    expanded,
    parse_json,
    remove_abandoned,
    text_lines,
    write_json,
)
from signlang.runs.identity import FORMAT, differences

LOCK: Final = ".lock"
TRAIN_AGAIN: Final = "Train this run again with overwrite=true."


DIVERGED: Final = "diverged.json"
FOLD: Final = re.compile(r"fold=(\d+)")  # name of the folder of a run
RECORD: Final = "record.json"  # of a run that was started
LATEST: Final = "latest"  # names the run that was finished last
BEST: Final = "best.ckpt"  # the weights that validation chose
LAST: Final = "last.ckpt"  # of the last finished epoch, with all that a resumed run needs


METRICS: Final = "metrics.json"  # of a run that is finished
CHECKSUMS: Final = "checksums"  # key of it
CHECKED: Final = (
    RECORD, "classes.json", "data.csv", "predictions.csv", "history.csv", "calibration.json",
)  # fmt: skip


AT_ONCE: Final = 2**18  # bytes, the buffer that `file_digest` fills with zeros for each file


def _file_checksum(file: Path) -> str:
    """Checksum of a file; empty if it cannot be read."""
    try:
        with file.open("rb", buffering=0) as stream:
            start = stream.read(AT_ONCE)
            if len(start) < AT_ONCE and not stream.read(1):
                return _checksum(start)
            stream.seek(0)
            return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
    except OSError:
        return ""


def _file_stamp(file: Path) -> tuple[int, int]:
    """What tells one content of a file from another, without reading it; (0, 0) without a file."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2**16)
def _recorded_checksums(run: Path, _: tuple[int, int]) -> Mapping[str, str]:
    """Checksums that `metrics.json` holds; read once of each content."""
    return _checksums_of(RunFolder(run).metrics() or {})


def _checksums_of(metrics: Mapping[str, Any]) -> Mapping[str, str]:
    """Checksums that the content of a `metrics.json` holds."""
    checksums = metrics.get(CHECKSUMS)
    return checksums if isinstance(checksums, dict) else {}


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content).hexdigest()[:32]


def _checksum_of_content(metrics: Mapping[str, Any]) -> str:
    """Checksum of metrics that were read from a file."""
    content = {key: value for key, value in metrics.items() if key != CHECKSUMS}
    return _checksum(json.dumps(content, sort_keys=True).encode())


def _metrics_checksum(metrics: Mapping[str, Any]) -> str:
    """Checksum of metrics, as they are once they were written and read."""
    return _checksum_of_content(json.loads(json.dumps(metrics)))


@cache
def _warn_of_change(file: Path, checksum: str) -> None:
    """Warn once of each content of a file."""
    log.warning(
        "%s was changed or damaged since the run was finished. If that was not you: %s",
        file, TRAIN_AGAIN[0].lower() + TRAIN_AGAIN[1:],
    )  # fmt: skip


@dataclass(frozen=True)
class Divergence:
    """What ended a training.

    Attributes:
        epoch: In which the loss was not finite, from 1.
        loss: `nan`, `inf` or `-inf`.
    """

    epoch: int
    loss: str

    def __str__(self) -> str:
        return f"its loss is {self.loss} in epoch {self.epoch}"


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The images of a run, from its `data.csv`.

    Attributes:
        rows: Path, label, signer and subset of every image.
    """

    rows: Sequence[Mapping[str, str]]

    @cached_property
    def is_whole(self) -> bool:
        """Whether there are rows, and each has all columns."""
        return bool(self.rows) and all(
            row.get(column) is not None for row in self.rows for column in IMAGE_COLUMNS
        )

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """The row of each path."""
        return {row["path"]: number for number, row in enumerate(self.rows)}

    @cached_property
    def tested(self) -> Mapping[str, str]:
        """The signer of each image of the test fold, by its path."""
        return {row["path"]: row["signer"] for row in self.of("test")}

    @cached_property
    def sets(self) -> tuple[str, ...] | None:
        """The data set of each image; None where there is one only."""
        return self._optional(SET)

    @cached_property
    def _clusters(self) -> Clusters:
        paths, labels, signers = (
            [row[name] for row in self.rows] for name in ("path", "label", "signer")
        )
        return image_clusters(paths, labels, signers, self._optional(GROUP), self.sets)

    def clusters_of(self, paths: Sequence[str]) -> Clusters:
        """Which of some images are alike, by all images of the run."""
        return self._clusters[[self.row_of[path] for path in paths]]

    def tested_images(self, paths: tuple[str, ...]) -> "TestedImages | None":
        """The images of the test fold in some order, the same object each time.

        Args:
            paths: In that order; None is returned if they are not all of them, each once.
        """
        if paths not in self._images_by_paths:
            if set(paths) != self.tested.keys() or len(paths) != len(self.tested):
                return None
            signers = tuple(self.tested[path] for path in paths)
            sets = self.sets
            self._images_by_paths[paths] = TestedImages(
                paths,
                signers if all(signers) else None,
                self.clusters_of(paths),
                None if sets is None else tuple(sets[self.row_of[path]] for path in paths),
            )
        return self._images_by_paths[paths]

    @cached_property
    def _images_by_paths(self) -> "dict[tuple[str, ...], TestedImages]":
        return {}

    def _optional(self, column: str) -> tuple[str, ...] | None:
        values = tuple(row.get(column) or "" for row in self.rows)
        return values if any(values) else None

    def of(self, subset: str) -> list[Mapping[str, str]]:
        """The rows of `train`, `validation` or `test`; an image may be in both of the latter."""
        return [row for row in self.rows if subset in row["subset"].split("+")]


@dataclass(frozen=True, eq=False)
class TestedImages:
    """The images of a test fold, in some order.

    Attributes:
        paths: One per image.
        signers: Of each image; None if unknown.
        clusters: (n,) which images are alike.
        sets: The data set of each image; None where there is one only.
    """

    paths: tuple[str, ...]
    signers: tuple[str, ...] | None
    clusters: Clusters
    sets: tuple[str, ...] | None


# as many as a study has folds: the settings of a study have the same tables
@lru_cache(maxsize=32)
def _image_table(content: bytes) -> ImageTable:
    return ImageTable(list(csv.DictReader(text_lines(content))))


@dataclass(frozen=True)
class RunFolder:
    """Paths and state of one run.

    Attributes:
        path: The folder, `runs/<study>/<what was chosen>/fold=<k>`.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of `BEST` and `LAST`."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint that validation chose."""
        return self.checkpoints / BEST

    @property
    def last(self) -> Path:
        """The checkpoint of the last finished epoch."""
        return self.checkpoints / LAST

    def tested_checkpoint(self) -> str | None:
        """Name of the checkpoint to test: that of validation, else of the last epoch, if any."""
        return next((name for name in (BEST, LAST) if (self.checkpoints / name).is_file()), None)

    @property
    def log(self) -> Path:
        """The whole log; of a failed run, its traceback as well."""
        return self.path / "run.log"

    def metrics(self) -> dict[str, Any] | None:
        """Read `metrics.json`; None if the run is not finished."""
        return self._read_json("metrics.json")

    def divergence(self) -> Divergence | None:
        """Read `diverged.json`; None if its training did not diverge."""
        content = self._read_json(DIVERGED)
        if content is None:
            return None
        return Divergence(int(content["epoch"]), str(content["loss"]))

    def mark_diverged(self, divergence: Divergence) -> None:
        """Write `diverged.json`: the run failed, and would fail again."""
        write_json(self.path / DIVERGED, asdict(divergence))

    def record(self) -> dict[str, Any] | None:
        """Read `record.json`; None if the run was never started.

        Raises:
            RunError: If it cannot be read, or was written in another format than today's.
        """
        return self.parsed_record(self.read(RECORD))

    def parsed_record(self, content: bytes | None) -> dict[str, Any] | None:
        """`record`, of a file that was read."""
        record = self.parsed(RECORD, content)
        if record is not None and record.get("format") != FORMAT:
            raise RunError(
                f"{self.path / 'record.json'} is of format {record.get('format', 1)}, this version "
                f"of signlang reads and writes format {FORMAT}: use the version that wrote it "
                f"({record.get('signlang', 'unknown')}), keep it and train into another study with "
                "study=NAME, or replace it with overwrite=true."
            )
        return record

    @cached_property
    def image_table(self) -> ImageTable:
        """The images of the run, from `data.csv`, which is read once.

        Raises:
            RunError: If it is missing, damaged, or has the columns of an earlier version.
        """
        file = self.path / "data.csv"
        try:
            table = _image_table(self.content("data.csv"))
        except OSError:
            raise RunError(f"{file} is missing or damaged. {TRAIN_AGAIN}") from None
        rows = table.rows
        if rows and "subset" not in rows[0] and "part" in rows[0]:
            raise RunError(
                f"{file} names its column of subsets part, as earlier versions of signlang did: "
                "rename it to subset, or train the run again with overwrite=true."
            )
        if not table.is_whole:
            raise RunError(f"{file} is missing or damaged. {TRAIN_AGAIN}")
        return table

    @property
    def images(self) -> Sequence[Mapping[str, str]]:
        """Path, label, signer and subset of every image; errors as of `image_table`."""
        return self.image_table.rows

    @cached_property
    def crops(self) -> dict[str, Crop]:
        """The part of each image that the run used, by path; of whole images none.

        Raises:
            RunError: If `data.csv` is missing or damaged.
        """
        try:
            crops = {row["path"]: Crop.parsed(row.get(CROP) or "") for row in self.images}
        except ValueError as error:
            raise RunError(
                f"{self.path / 'data.csv'} is damaged ({error}). {TRAIN_AGAIN}"
            ) from None
        return {path: crop for path, crop in crops.items() if crop is not None}

    def images_of(self, subset: str) -> list[Mapping[str, str]]:
        """The rows of `train`, `validation` or `test`; an image may be in both of the latter.

        Raises:
            RunError: If `data.csv` is missing or damaged.
        """
        return self.image_table.of(subset)

    def subset(self, name: str, classes: Sequence[str]) -> list[tuple[str, int]]:
        """Paths and labels of the images of a subset.

        Args:
            name: `train`, `validation` or `test`.
            classes: Names, in the order of the labels.

        Raises:
            DataError: If an image is of another class.
        """
        label_of = {name: label for label, name in enumerate(classes)}
        try:
            return [(row["path"], label_of[row["label"]]) for row in self.images_of(name)]
        except KeyError as error:
            raise DataError(
                f"{self.path / 'data.csv'} does not fit the network: no {error}."
            ) from None

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`: from now on the run is finished.

        It holds the checksums of the other files of the run, and of itself; those that are in the
        metrics already are kept.
        """
        files = metrics.get(CHECKSUMS) or {
            name: _file_checksum(self.path / name)
            for name in CHECKED
            if (self.path / name).is_file()
        }
        content = {**metrics, CHECKSUMS: {**files, METRICS: _metrics_checksum(metrics)}}
        write_json(self.path / METRICS, content)

    def accept(self, name: str) -> None:
        """Take a file of a finished run that was written again for one of the run."""
        metrics = self.metrics()
        if metrics is not None and CHECKSUMS in metrics:
            checksums = {**metrics[CHECKSUMS], name: _file_checksum(self.path / name)}
            self.finish({**metrics, CHECKSUMS: checksums})

    def content(self, name: str) -> bytes:
        """Read a file, and warn if it is not as the run has left it.

        Raises:
            OSError: If it cannot be read.
        """
        try:
            content = (self.path / name).read_bytes()
        except OSError:
            self.report_changes(name, contents={name: None})
            raise
        self.report_changes(name, contents={name: content})
        return content

    def report_changes(
        self,
        *names: str,
        metrics: Mapping[str, Any] | None = None,
        contents: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Warn of files that are not as the run has left them; of each once.

        Nothing is known of the files of earlier versions, which wrote no checksums.

        Args:
            names: Of the files.
            metrics: Content of `metrics.json`, where it was read already.
            contents: Those of other files, likewise; None of a file that cannot be read.
        """
        if metrics is None:
            recorded = _recorded_checksums(self.path, _file_stamp(self.path / METRICS))
        else:
            recorded = _checksums_of(metrics)
        for name in names:
            if name in recorded:
                if name == METRICS:
                    checksum = _checksum_of_content(
                        self.metrics() or {} if metrics is None else metrics
                    )
                elif contents is None or name not in contents:
                    checksum = _file_checksum(self.path / name)
                else:
                    content = contents[name]
                    checksum = "" if content is None else _checksum(content)
                if checksum != recorded[name]:
                    _warn_of_change(self.path / name, checksum)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process, of all machines, out of the folder as long as the block runs.

        The lock ends with the process, however that ends; with its machine, after `locks.EXPIRY`.

        Raises:
            RunError: If another process holds the lock, or the folder cannot be created.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._refuse_links()
                stack.enter_context(locks.exclusive(self.path / LOCK))
            except locks.HeldError as held:
                raise RunError(
                    f"Another process is at work in {self.path}{held}: wait until it ends."
                ) from None
            except OSError as error:
                raise RunError(
                    f"The run folder {self.path} cannot be created ({error.strerror}): "
                    "choose another folder with runs_dir=DIR."
                ) from None
            for inner in (self.path, self.checkpoints):
                remove_abandoned(inner, alone=True)
            yield

    def start(self, record: Mapping[str, Any], *, overwrite: bool) -> None:
        """Write `record.json`, or check that the one in place is of this run.

        Args:
            record: See `identity.record`.
            overwrite: Delete the files of an earlier run first.

        Raises:
            RunError: If the folder, or a file in it, belongs to a run with other settings or data.
        """
        if overwrite and (self.path / "record.json").exists():
            log.warning("overwrite=true: deleting the contents of %s", self.path)
            self._clear()
        old = self.record()
        if old is None:
            write_json(self.path / "record.json", record)
        elif old.get("fingerprint") != record["fingerprint"]:
            self._refuse(old, record)
        metrics = self.metrics()
        if metrics is not None and metrics.get("fingerprint") != record["fingerprint"]:
            raise RunError(
                f"{self.path / 'metrics.json'} does not belong to the run of record.json beside "
                "it: delete it to finish the run again."
            )

    def is_finished(self, fingerprint: str) -> bool:
        """Whether this very run is finished."""
        metrics = self.metrics()
        return metrics is not None and metrics.get("fingerprint") == fingerprint

    def _refuse(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        changed = differences(old.get("settings", {}), new["settings"])
        old_data, new_data = old.get("data", {}), new["data"]
        if old_data.get("fingerprint") != new_data["fingerprint"]:
            changed.append(
                f"data: {old_data.get('images')} images of {old_data.get('classes')} classes there "
                f"({str(old_data.get('fingerprint'))[:8]}), {new_data['images']} of "
                f"{new_data['classes']} now ({new_data['fingerprint'][:8]})"
            )
        raise RunError(
            f"{self.path} holds a run with other settings:{listing(changed)}\n"
            "Keep both with study=NAME, or replace the old one with overwrite=true."
        )

    def _refuse_links(self) -> None:
        """A folder that came from elsewhere could have any file of the user's written to."""
        link = escaping_link(self.path)
        if link is not None:
            raise RunError(
                f"{link} is a link to {link.resolve()}, outside of its run folder, which is not "
                "written to: delete the link, or put the file in its place."
            )

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.name == LOCK or entry.name.startswith(f"{LOCK}."):  # its lease
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _read_json(self, name: str) -> dict[str, Any] | None:
        return self.parsed(name, self.read(name))

    def read(self, name: str) -> bytes | None:
        """Read a file of JSON; None if there is none.

        Raises:
            RunError: If it cannot be read.
        """
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(name, error) from None

    def parsed(self, name: str, content: bytes | None) -> dict[str, Any] | None:
        """What a file of JSON holds; None if there is none.

        Raises:
            RunError: If that is no JSON object.
        """
        if content is None:
            return None
        try:
            parsed = parse_json(content.decode("utf-8"))
        except ValueError as error:
            raise self._unreadable(name, error) from None
        if not isinstance(parsed, dict):
            raise RunError(
                f"{self.path / name} holds no JSON object: delete it to finish the run again."
            )
        return parsed

    def _unreadable(self, name: str, error: OSError | ValueError) -> RunError:
        return RunError(
            f"{self.path / name} cannot be read ({getattr(error, 'strerror', None) or error}): "
            "delete it to finish the run again, or train the run again with overwrite=true."
        )


SEARCH: Final = "search.json"


class Trial(Strict):
    """One setting that a nested search tried in one fold.

    Attributes:
        setting: Name of the folder of its runs.
        values: What was chosen, by the name of the setting.
        validation: Accuracy on the validation subset of the fold; None if it was not finished.
        chosen: Whether it is the one that the fold selects.
    """

    fold: Index
    setting: Text
    values: dict[str, str]
    validation: Probability | None = None
    chosen: bool = False

    @property
    def text(self) -> str:
        """What was chosen, as on a command line."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())


class Search(Strict):
    """A hyper-parameter search, as it writes itself into `search.json` of its study.

    Attributes:
        name: Of what its trials share.
        nested: Whether each fold has trials of its own.
        trials: How many were asked for; of each fold if it is nested.
        folds: Those that were searched.
        space: The settings that were searched, with their values as they were typed.
        words: Words of the command that resumes it.
        tried: The trials of a nested search.
    """

    name: Text
    nested: bool
    trials: Count
    folds: list[Index]
    space: dict[str, str]
    words: list[str]
    tried: list[Trial] = Field(default_factory=list)

    @property
    def title(self) -> str:
        """The kind of search in a few words."""
        return f"nested search ({self.trials} trial{'s' * (self.trials != 1)} a fold)"

    @property
    def caution(self) -> str:
        """How far its metrics are biased, in sentences."""
        if self.nested:
            return (
                f"{self.name}, {self.title}: each fold chose among settings by validation images "
                "outside of its test fold, so that its test accuracy is unbiased. Only the runs "
                f"that the folds chose count; the {len(self.tried)} that were tried have no rows "
                "of their own."
            )
        if len(self.folds) == 1:
            return (
                f"{self.name}: the settings were searched with fold {self.folds[0]} alone; what it "
                "chose has seen test images of the other folds, whose test accuracy is optimistic."
            )
        return (
            f"{self.name}: the search over {len(self.folds)} folds is not nested. The settings "
            "were chosen by validation subsets that overlap the test images of other folds, so the "
            "test accuracy of what it chose is optimistic. hydra.sweeper.nested=true gives an "
            "unbiased figure."
        )


class SearchFile(Strict):
    """`search.json`."""

    searches: list[Search]


def read_searches(study: Path) -> list[Search]:
    """The hyper-parameter searches of a study.

    Args:
        study: Its folder.

    Raises:
        RunError: If their file is damaged.
    """
    fix = "Delete it, and repeat the search: its runs are kept."
    content = read_validated(SearchFile, study / SEARCH, error=RunError, fix=fix)
    return [] if content is None else content.searches


def write_search(study: Path, search: Search) -> None:
    """Write a search into the file of its study, in place of what it wrote before.

    A nested search keeps what it tried in other folds; they choose again if they are to have
    another number of trials.

    Raises:
        RunError: If the file is damaged, or the other folds were searched among other values.
    """
    others = []
    for one in read_searches(study):
        if (one.name, one.nested) != (search.name, search.nested):
            others.append(one)
        elif one.nested and (kept := [t for t in one.tried if t.fold not in search.folds]):
            if one.space != search.space:
                raise RunError(
                    f"{study / SEARCH}: the other folds of this nested search were searched among "
                    f"other values:{listing(differences(one.space, search.space))}\nRepeat these, "
                    "or search in another study with study=NAME."
                )
            choose_again = one.trials != search.trials
            kept = [t.model_copy(update={"chosen": t.chosen and not choose_again}) for t in kept]
            folds = sorted({*search.folds, *(t.fold for t in kept)})
            search = search.model_copy(update={"folds": folds, "tried": [*search.tried, *kept]})
    file = SearchFile(searches=[*others, search])
    study.mkdir(parents=True, exist_ok=True)
    write_json(study / SEARCH, file.model_dump())


def fold_folders(setting: Path) -> dict[int, Path]:
    """The run folders of a setting, by fold; none where there is no such folder."""
    if not setting.is_dir():
        return {}
    matches = ((FOLD.fullmatch(p.name), p) for p in setting.iterdir() if p.is_dir())
    return {int(match[1]): path for match, path in sorted(matches, key=lambda f: f[1]) if match}


def all_runs(runs_dir: Path) -> list[Path]:
    """Folders of all runs that were started in a folder of studies, in the order of their names."""
    return sorted(file.parent for file in runs_dir.glob("*/*/fold=*/record.json"))


def is_other_folder(word: str, runs_dir: Path) -> bool:
    """Whether a name is that of a study and of a folder without runs: the images it is named after.

    Args:
        word: As it was typed.
        runs_dir: The folder of the studies.
    """
    if Path(word).name != word or not (runs_dir / word).is_dir():
        return False
    return not any(any(Path(word).glob(f"{above}{RECORD}")) for above in ("", "*/", "*/*/"))


def find_folder(word: str, runs_dir: Path, key: str = "run") -> Path:
    """The folder that a word names: of a run, of the runs of a setting, or of a study.

    Args:
        word: A path; `latest`; a name below `runs_dir`, or a part of one that nothing else has. A
            name that a study and a folder without runs have in common is the study's.
        runs_dir: The folder of the studies.
        key: The setting that the word was given for.

    Raises:
        SettingError: If none or several fit, with those that are near.
    """
    path = expanded(word)
    if word and path.exists() and not is_other_folder(word, runs_dir):
        return path
    runs = all_runs(runs_dir)
    if word == LATEST:
        return _latest(runs, runs_dir, key)
    folders = {folder for run in runs for folder in (run, run.parent, run.parents[1])}
    names = {folder.relative_to(runs_dir).as_posix(): folder for folder in sorted(folders)}
    query = word.strip("/").removeprefix(f"{runs_dir.as_posix()}/")
    for fits in (str.__eq__, _ends_with, _contains):
        matches = [name for name in names if query and fits(name, query)]
        matches = [name for name in matches if not any(name.startswith(f"{f}/") for f in matches)]
        if len(matches) == 1:
            return names[matches[0]]
        if matches:
            raise SettingError(f"{key}={word} fits several. Give one of them:{listing(matches)}")
    if not names:
        raise SettingError(
            f"{key}={word}: there is no such folder, and no run in {runs_dir}: train something "
            "first, or say where runs are with runs_dir=DIR."
        )
    suggestion = closest(query, [*names, LATEST]) or closest(query, [Path(n).name for n in names])
    hint = f" Did you mean {suggestion}?" if suggestion else ""
    raise SettingError(
        f"{key}={word}: there is no such folder, and nothing in {runs_dir} has that name.{hint} "
        f"{LIST_RUNS}"
    )


LIST_RUNS: Final = "python -m signlang.list shows all runs."


def _ends_with(name: str, query: str) -> bool:
    return name.endswith(f"/{query}")


def _contains(name: str, query: str) -> bool:
    return query in name


def _latest(runs: Sequence[Path], runs_dir: Path, key: str) -> Path:
    metrics_files = [file for run in runs if (file := run / "metrics.json").is_file()]
    if not metrics_files:
        raise SettingError(f"{key}={LATEST}: no run in {runs_dir} is finished. {LIST_RUNS}")
    return max(metrics_files, key=lambda file: file.stat().st_mtime_ns).parent
