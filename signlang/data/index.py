"""A folder of class folders or a CSV comes in, one typed table of usable pictures goes out.

Everything after this module speaks of rows of that table, never of files on a disk.
"""

import hashlib
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from signlang.data import cache
from signlang.data.files import PICTURES, write_csv, write_json
from signlang.data.inspection import inspect
from signlang.data.listing import Entry, list_csv, list_folder, read_signers
from signlang.data.pictures import Facts
from signlang.errors import DataError, SettingError, listing

Labels = npt.NDArray[np.int64]
ON_BAD_IMAGE: Final = ("error", "exclude")


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Index:
    """All usable pictures of a data set, sorted by path.

    Attributes:
        root: What the paths are relative to.
        classes: Names of the classes, sorted by code point; a label is a position in them.
        paths: One per picture, POSIX.
        labels: (N,) positions in `classes`.
        signers: Who is in each picture, or None where the data set does not say.
        facts: Digest, size and kind of each file.
        excluded: Files that cannot be used and were left out because the user said so.
    """

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Labels
    signers: tuple[str, ...] | None
    facts: tuple[Facts, ...]
    excluded: tuple[BadFile, ...] = ()

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.paths)

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """(classes,) pictures per class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def content(self) -> str:
        """Digest of all pictures in order, 32 hexadecimal digits: equal only for equal files."""
        return _digest(fact.digest for fact in self.facts)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of pictures, names, labels and signers: what a run was trained on."""
        names = [self.classes[label] for label in self.labels]
        return _digest((self.content, *self.paths, *names, *(self.signers or ())))

    def write(self, folder: Path, parts: npt.NDArray[np.str_]) -> None:
        """Write `data.csv` (path,label,signer,part), `classes.json`, and `excluded.csv` if any.

        Args:
            folder: Where to.
            parts: (N,) what each picture is used for.
        """
        signers = self.signers or ("",) * len(self)
        rows = (
            (path, self.classes[label], signer, part)
            for path, label, signer, part in zip(
                self.paths, self.labels, signers, parts, strict=True
            )
        )
        write_csv(folder / "data.csv", PICTURES, rows)
        write_json(folder / "classes.json", self.classes)
        if self.excluded:
            bad = ((file.path, file.reason) for file in self.excluded)
            write_csv(folder / "excluded.csv", ("path", "reason"), bad)


@lru_cache(maxsize=4)  # the jobs of one sweep share one reading
def read(
    root: Path, *, cache_dir: str, signers: str | None = "auto", on_bad_image: str = "error"
) -> Index:
    """Read a data set and open every picture of it once.

    Args:
        root: A folder with one folder per class, or a CSV file `path,label[,signer]`.
        cache_dir: Where findings are remembered.
        signers: A CSV file `path,signer`; `auto` looks for `signers.csv` in `root` and above it.
        on_bad_image: `error` stops at files that cannot be used and lists them all; `exclude`
            leaves them out.

    Raises:
        DataError: If there is nothing to train on, or there are bad files and they are an error.
        SettingError: If `on_bad_image` is neither.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise SettingError(f"data.on_bad_image={on_bad_image}: choose error or exclude.")
    entries = list_csv(root) if root.is_file() else list_folder(root)
    base = root.parent if root.is_file() else root
    known = read_signers(base, signers, [entry.path for entry in entries])
    if known is not None:
        entries = [replace(entry, signer=known.get(entry.path, "")) for entry in entries]

    memory = cache.folder(cache_dir, "inspected") / f"{_digest([str(root.resolve())])}.json"
    results = inspect(base, [entry.path for entry in entries], memory)
    good = [(e, r) for e, r in zip(entries, results, strict=True) if isinstance(r, Facts)]
    bad = tuple(
        BadFile(e.path, r) for e, r in zip(entries, results, strict=True) if isinstance(r, str)
    )
    if bad and on_bad_image == "error":
        raise DataError(
            f"{len(bad)} file{'s' * (len(bad) > 1)} of {root} cannot be used as pictures:"
            f"{listing(map(str, bad), most=1000)}\n"
            "Mend or remove them, or leave them out with data.on_bad_image=exclude."
        )
    return _index(root, base, good, bad)


def _index(
    root: Path, base: Path, good: list[tuple[Entry, Facts]], bad: tuple[BadFile, ...]
) -> Index:
    good = sorted(good, key=lambda item: item[0].path)
    classes = tuple(sorted({entry.label for entry, _ in good}))
    if not good:
        raise DataError(
            f"{root} holds no usable picture: expected one folder of pictures per sign."
        )
    if len(classes) < 2:
        raise DataError(
            f"{root} holds one class only, {classes[0]}: a classifier needs at least two. "
            "Give the folder that holds one folder per sign."
        )
    position = {name: label for label, name in enumerate(classes)}
    signers = tuple(entry.signer for entry, _ in good)
    return Index(
        root=base,
        classes=classes,
        paths=tuple(entry.path for entry, _ in good),
        labels=np.array([position[entry.label] for entry, _ in good], dtype=np.int64),
        signers=signers if any(signers) else None,
        facts=tuple(fact for _, fact in good),
        excluded=bad,
    )


def _digest(parts: Iterable[str]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        name = unicodedata.normalize("NFC", part)
        state.update(os.fsencode(name) + b"\0")
    return state.hexdigest()
