"""Reading of tables, atomic writing of files, content digests, and the cache directory."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import socket
import time
import unicodedata
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from signlang import system
from signlang.errors import DataError, SettingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BUNDLE_MANIFEST: Final = "bundle.json"


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder in the place of a leading `~` or `~user`, as a shell has it.

    Where there is no such user, it is the name of a file.

    >>> expanded("~nobody-has-this-name/images").as_posix()
    '~nobody-has-this-name/images'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_bundle(path: Path) -> bool:
    """Whether a path is a folder with the manifest of a bundle, or a ZIP file."""
    try:
        return zipfile.is_zipfile(path) if path.is_file() else (path / BUNDLE_MANIFEST).is_file()
    except OSError:  # longer than a path can be
        return False


def cache_folder(cache_dir: str | os.PathLike[str], *names: str) -> Path:
    """Create a folder of the cache and return it.

    Raises:
        SettingError: If it cannot be created or written to.
    """
    path = expanded(cache_dir).joinpath(*names)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"The cache folder {path} cannot be created ({error.strerror}): "
            "choose another with cache_dir=DIR or the environment variable SIGNLANG_CACHE."
        ) from None
    if not os.access(path, os.W_OK):
        raise SettingError(
            f"The cache folder {path} cannot be written to: "
            "choose another with cache_dir=DIR or the environment variable SIGNLANG_CACHE."
        )
    return path


def escaping_link(folder: Path, *names: str) -> Path | None:
    """The first link below a folder that leads out of it; None if there is none.

    Args:
        folder: May come from elsewhere, and is about to be written to.
        names: Of entries of the folder; without any, all of it.
    """
    resolved = folder.resolve()
    tops = [folder / name for name in names] or [folder]
    for entry in (inner for top in tops for inner in (top, *top.rglob("*")) if inner != folder):
        if entry.is_symlink() and not entry.resolve().is_relative_to(resolved):
            return entry
    return None


# names of folders that say nothing about what is in them, and names of our own data sets
GENERIC: Final = {"train", "test", "valid", "images", "image", "img", "imgs", "data", "dataset"}
TAKEN: Final = {"synthetic", "digits", "asl_alphabet", "custom", "folder", "joined"}


def data_set_name(root: str | None) -> str:
    """Name a data set by its folder or CSV file, without what names of folders must not hold.

    >>> data_set_name("/x/My signs, (1)"), data_set_name("/x/asl.csv"), data_set_name("/asl/train")
    ('My_signs_1', 'asl', 'asl_train')
    >>> data_set_name(None), data_set_name("digits")
    ('folder', 'digits_folder')
    """
    if root is None:
        return "folder"
    path = expanded(str(root)).absolute()
    path = Path(os.path.normpath(path))
    name = path.stem if path.suffix.lower() in {".csv", ".tsv", ".txt"} else path.name
    if name.lower() in GENERIC and path.parent.name:
        name = f"{path.parent.name}_{name}"
    name = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._-")
    return f"{name}_folder" if name.lower() in TAKEN else name or "folder"


LONGEST_JOINED: Final = 48  # letters of the name of a joined data set


def set_name(word: str) -> str:
    """Name a set of a joined data set: a data set of the configuration as it is, or a folder.

    >>> set_name("digits"), set_name("/x/My signs"), set_name("signs.csv")
    ('digits', 'My_signs', 'signs')
    """
    return word if word.isidentifier() else data_set_name(word)


def set_names(sets: Any) -> list[str]:
    """Names of the sets that `data.sets` holds: words, or what maps names to settings.

    >>> set_names(["digits", {"rooms": None}]), set_names({"a": "/x", "b": "/y"})
    (['digits', 'rooms'], ['a', 'b'])
    """
    if not sets:
        return []
    items = [sets] if isinstance(sets, str | Mapping) else sets
    names = [list(map(str, i)) if isinstance(i, Mapping) else [set_name(str(i))] for i in items]
    return [name for group in names for name in group]


def joined_name(sets: Any) -> str:
    """Name a joined data set by its sets.

    >>> joined_name(["digits", "massey"]), joined_name(None)
    ('digits+massey', 'joined')
    """
    name = "+".join(set_names(sets)) or "joined"
    if len(name) <= LONGEST_JOINED:
        return name
    return f"{name[:32]}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"


IMAGE_COLUMNS: Final = ("path", "label", "signer", "subset")  # columns of a run's data.csv
GROUP: Final = "group"  # columns that it has as well where they are known
SET: Final = "set"
CROP: Final = "crop"


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file, which replaces the file at the end of the block.

    The old content is kept if the process is killed, the disk is full, or the block raises. What
    killed processes left of this file is removed.
    """
    remove_abandoned(file.parent, file.name)
    temporary = temporary_path(file)
    try:
        with in_use(temporary):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            system.check_watches()
            temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A name beside a file or folder for what is to replace it; it ends with the machine's mark."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_machine_mark()}")


def _machine_mark() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=2).hexdigest()


FORGOTTEN: Final = 3600.0  # seconds since the last change of a temporary file of another machine


TEMPORARY: Final = re.compile(r"\.(.+)\.[0-9a-f]{12}")  # see `temporary_path`


@contextmanager
def in_use(path: Path, *, folder: bool = False) -> Iterator[None]:
    """Create a temporary file or folder, which others can see to be in use until the block ends.

    The system keeps the lock, and drops it however the process ends.

    Args:
        path: See `temporary_path`.
        folder: Create a folder; on systems that cannot open folders nobody sees that it is in use.
    """
    if folder and fcntl is None:
        path.mkdir(parents=True)
        yield
        return
    while True:
        if folder:
            path.mkdir(parents=True)
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_CREAT | os.O_RDWR, 0o666)
        _lock(descriptor, wait=True)
        if path.exists():  # nobody took it for abandoned before it was locked
            break
        os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, name: str | None = None, *, alone: bool = False) -> None:
    """Remove temporary files and folders of processes that were killed.

    Those of another machine, whose locks may not be seen, are left alone for an hour.

    Args:
        folder: In which they lie; it must be ours, unless a name is given.
        name: Of the file or folder that they were to replace; None: of any.
        alone: No process of any machine writes into the folder but this one.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            match = TEMPORARY.fullmatch(entry.name)
            if not match or name not in {None, match[1]} or entry.is_symlink():
                continue
            is_old = time.time() - entry.stat().st_mtime > FORGOTTEN
            if alone or is_old or entry.name.endswith(_machine_mark()):
                _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _lock(descriptor, wait=False):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file or folder; False if another process has it, or the system has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


@contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Let processes that rename things in a folder do so one after another."""
    if fcntl is None:  # Windows cannot open folders either
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically; names that are not valid UTF-8 are preserved."""
    with (
        atomic_write(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(file: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file that `write_csv` wrote; none if there is no such file."""
    return list(csv.DictReader(text_lines(file.read_bytes()))) if file.is_file() else []


def text_lines(content: bytes) -> io.StringIO:
    """The lines of a CSV file that `write_csv` wrote, for a reader of them."""
    return io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")


DELIMITERS: Final = ",;\t|"


def read_table(file: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a table as spreadsheets write it: the line and the values by column of each row.

    Columns may be separated by commas, semicolons, tabs or bars, and named in any case; the text
    may be UTF-8, UTF-16 or Windows-1252; in the column `path`, backslashes become slashes.

    Args:
        file: The table; paths in it are relative to its folder.
        required: Columns that it must have, in lower case.

    Raises:
        DataError: If it cannot be read, or lacks a column.
    """
    text = _read_text(file)
    delimiter, columns, header_end = _header(file, text, required)
    rows: list[tuple[int, dict[str, str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            values = [cell.strip() for cell in cells]
            if any("\n" in value for value in values):
                raise csv.Error("a value runs over several lines")
            if line > header_end and any(values):
                rows.append((line, _row(file, line, columns, values)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file}, line {line}: a quotation mark is not closed, or stands inside a quoted value "
            f"({error})."
        ) from None
    return rows


def _row(file: Path, line: int, columns: list[str], values: list[str]) -> dict[str, str]:
    if any(values[len(columns) :]):
        raise DataError(
            f"{file}, line {line}: there are {len(values)} values for {len(columns)} columns; put "
            "quotation marks around a value that holds the separator."
        )
    values = values + [""] * (len(columns) - len(values))
    return {
        name: _plain_value(value, file.parent, is_path=name == "path")
        for name, value in zip(columns, values, strict=False)
    }


def _plain_value(value: str, folder: Path, *, is_path: bool) -> str:
    """A value without what is only its spelling: another encoding, backslashes."""
    is_not_utf8 = any("\udc80" <= letter <= "\udcff" for letter in value)
    exists = os.path.exists  # unlike Path's it takes any text: a name may be too long
    if is_path and (is_not_utf8 or "\\" in value) and exists(folder / value):
        return value
    if is_not_utf8:  # no UTF-8
        value = value.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return value.replace("\\", "/") if is_path else value


def _read_text(file: Path) -> str:
    """The text of a table; bytes that are not UTF-8 are kept as surrogates."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read as CSV: {error.strerror}.") from None
    if data.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{file} is a workbook, not a CSV file: save it as CSV and give that.")
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        if b"\0" in data[:4]:
            return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} cannot be read as CSV: damaged UTF-16 ({error.reason}).") from None
    if b"\0" in data:
        raise DataError(f"{file} cannot be read as CSV: it holds null bytes.")
    return data.decode("utf-8-sig", "surrogateescape")


def _header(file: Path, text: str, required: Sequence[str]) -> tuple[str, list[str], int]:
    """Delimiter, names of the columns, and the line that they stand in."""
    lines = text.splitlines()
    number = next((n for n, line in enumerate(lines) if line.strip()), 0)
    if lines and lines[number].lower().startswith("sep="):  # so Excel marks the separator
        number += 1
    line = lines[number] if number < len(lines) else ""
    columns_by_delimiter = {
        separator: [
            cell.strip().lower() for cell in next(csv.reader([line], delimiter=separator), [])
        ]
        for separator in DELIMITERS
    }
    delimiter = max(
        columns_by_delimiter,
        key=lambda separator: (
            sum(r in columns_by_delimiter[separator] for r in required),
            len(columns_by_delimiter[separator]),
        ),
    )
    columns = columns_by_delimiter[delimiter]
    absent = [name for name in required if name not in columns]
    if absent:
        raise DataError(
            f"{file} has no column {' and no column '.join(absent)}: its first line must be "
            f"{','.join(required)}, separated by commas, semicolons or tabs; it is "
            f"{delimiter.join(columns) or 'empty'}."
        )
    return delimiter, columns, number + 1


def write_json(file: Path, content: Any) -> None:
    """Write an indented JSON file atomically."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_between(file: Path, name: str, text: str) -> None:
    """Replace the text between the markers `<!-- name: begin -->` and `<!-- name: end -->`.

    Raises:
        DataError: If the file lacks one of them.
    """
    start_marker, end_marker = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, opening, rest = file.read_text("utf-8").partition(start_marker)
    _, closing, after = rest.partition(end_marker)
    if not opening or not closing:
        raise DataError(f"{file} lacks the lines {start_marker} and {end_marker}.")
    with atomic_write(file) as temporary:
        temporary.write_text(
            f"{before}{start_marker}\n\n{text.strip()}\n\n{end_marker}{after}", "utf-8"
        )


def content_digest(folder_: Path) -> str:
    """Digest of the names and bytes of all files below a folder, 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=16)
    for file in sorted(p for p in folder_.rglob("*") if p.is_file()):
        state.update(file.relative_to(folder_).as_posix().encode() + b"\0")
        state.update(hashlib.blake2b(file.read_bytes()).digest())
    return state.hexdigest()


def check_archive(file: Path) -> None:
    """Check the checksums in a ZIP file, as every checkpoint of torch is; other files pass.

    Raises:
        BadZipFile: If one is wrong; torch does not look at them.
        OSError: If it cannot be read.
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} in it is damaged")


@lru_cache(maxsize=8)
def file_digest(file: str) -> str:
    """Name of a file and the digest of its content."""
    path = expanded(file)
    with path.open("rb") as stream:
        return f"{path.name} {hashlib.file_digest(stream, 'blake2b').hexdigest()[:32]}"


def bytes_text(count: int) -> str:
    """Write a number of bytes in the unit that shows digits.

    >>> bytes_text(37_500_000), bytes_text(13_050_000_000), bytes_text(900)
    ('37.5 MB', '13.1 GB', '900 bytes')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def is_plain_name(name: str) -> bool:
    """Whether a name stays inside the folder that it is looked up in.

    >>> [is_plain_name(name) for name in ("figures/confusion.png", "../x", "/x", "a" + chr(92))]
    [True, False, False, False]
    """
    segments = PurePosixPath(name).parts
    forbidden = set(name) & {"\\", ":", "\0"}
    return bool(segments) and not forbidden and not name.startswith("/") and ".." not in segments


def is_utf8(text: str) -> bool:
    r"""Whether a text can be written as UTF-8: a name of other bytes cannot.

    >>> is_utf8("ß"), is_utf8("\udcff")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str | bytes) -> Any:
    r"""Read JSON of a file that anybody may have written.

    Raises:
        ValueError: If it is none, is nested too deeply, or holds what no file could: half of a
            character, which is not a byte of a name that is no UTF-8 (PEP 383).

    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: it is nested too deeply
    >>> parse_json(r'["\ud83d\ude00", "\udcff"]') == ["\U0001f600", "\udcff"]
    True
    >>> parse_json(r'{"\ud83d": 1}')
    Traceback (most recent call last):
    ValueError: it holds half of a character
    """
    if isinstance(text, bytes):  # json.loads would let halves of characters pass
        text = text.decode(json.detect_encoding(text))
    try:
        content = json.loads(text)
        if r"\u" in text:
            json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character") from None
    return content
