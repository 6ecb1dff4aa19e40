"""Mapping between the classes of a data set and those of a network.

Images of a class that the network does not know are kept: they are predicted and reported apart.
"""

import csv
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from signlang.errors import DataError, SettingError, listing, suggestion
from signlang.files import parse_json

EXACT: Final = "the same name"
CASE: Final = "but for case"
MAPPED: Final = "mapping"
UNKNOWN: Final = "not known"
COLUMNS: Final = ("data", "network")
FIX: Final = "Give mapping=FILE, a CSV with the columns data,network."


@dataclass(frozen=True)
class ClassMapping:
    """One class of the data set and its counterpart in the network.

    Attributes:
        data: Its name in the data set.
        network: Its name in the network; None if the network does not know it.
        how: How the two were matched.
    """

    data: str
    network: str | None
    how: str


def map_classes(
    data: Sequence[str], network: Sequence[str], mapping: Mapping[str, str | None] | None = None
) -> tuple[ClassMapping, ...]:
    """Match each class of the images to a class of the network.

    A mapping takes precedence. Otherwise the network's class of the same name is used, or the one
    whose name differs in case only.

    Args:
        data: Names of the classes of the images.
        network: Names of the classes of the network.
        mapping: From names of the images to names of the network, or to None for a class that
            the network does not know. Several may map to one class of the network.

    Raises:
        DataError: If a match is ambiguous, or no class is shared.

    >>> [(m.network, m.how) for m in map_classes(["a", "B", "?"], ["A", "B", "C"])]
    [('A', 'but for case'), ('B', 'the same name'), (None, 'not known')]
    """
    mapped = mapping or {}
    matches = tuple(_map_class(name, network, mapped) for name in data)
    owners_of: dict[str, list[str]] = {}
    for one in matches:
        if one.network is not None and one.how != MAPPED:
            owners_of.setdefault(one.network, []).append(one.data)
    for name, owners in owners_of.items():
        if len(owners) > 1:
            raise DataError(
                f"The classes {' and '.join(owners)} of the images could both be {name} of the "
                f"network. {FIX}"
            )
    if not any(one.network is not None for one in matches):
        raise DataError(
            f"The images and the network share no class.\nClasses of the images:"
            f"{listing(sorted(data), most=50)}\nClasses of the network:{listing(network, most=50)}"
            f"\n{FIX}"
        )
    return matches


def _map_class(name: str, network: Sequence[str], mapped: Mapping[str, str | None]) -> ClassMapping:
    if name in mapped:
        return ClassMapping(name, mapped[name], UNKNOWN if mapped[name] is None else MAPPED)
    if name in network:
        return ClassMapping(name, name, EXACT)
    matches = [other for other in network if other.lower() == name.lower()]
    if len(matches) > 1:
        raise DataError(
            f"The class {name} of the images could be {' or '.join(matches)} of the network. {FIX}"
        )
    return ClassMapping(name, matches[0], CASE) if matches else ClassMapping(name, None, UNKNOWN)


def read_mapping(file: Path, network: Sequence[str]) -> dict[str, str | None]:
    """Read a user's class mapping: a CSV with the columns data,network, or a JSON object.

    An empty second value (in JSON null) means that the network does not know the class.

    Raises:
        SettingError: If the file cannot be read, names a class twice, or one that the network does
            not have.
    """
    pairs = _json_pairs(file) if file.suffix.lower() == ".json" else _csv_pairs(file)
    mapping: dict[str, str | None] = {}
    for data_name, network_name in pairs:
        name = normal(data_name)
        if name in mapping:
            raise SettingError(f"mapping={file} names {name} twice.")
        mapping[name] = normal(network_name) if network_name else None
    for network_name in filter(None, mapping.values()):
        if network_name not in network:
            raise SettingError(
                f"mapping={file}: the network has no class {network_name}. "
                f"{suggestion(network_name, network)}"
            )
    return mapping


def read_classes(file: Path) -> tuple[str, ...]:
    """Read the names of a network's classes, in the order of its outputs.

    Args:
        file: A JSON list, or one name a line.

    Raises:
        SettingError: If it cannot be read, holds fewer than two names, or one twice.
    """
    text = _text(file, "classes")
    if file.suffix.lower() == ".json":
        content = _parsed(text, file, "classes")
        if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
            raise SettingError(f"classes={file} holds no list of names.")
    else:
        content = [line.strip() for line in text.split("\n") if line.strip()]
    names = tuple(map(normal, content))
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or duplicates:
        what = f"names {duplicates[0]} twice" if duplicates else f"names {len(names)} classes"
        raise SettingError(f"classes={file} {what}: give one name for each output of the network.")
    return names


def normal(name: str) -> str:
    """Normalize a name for comparison: composed letters (NFC)."""
    return unicodedata.normalize("NFC", name)


def _csv_pairs(file: Path) -> list[tuple[str, str]]:
    try:
        rows = list(csv.reader(io.StringIO(_text(file, "mapping"), newline="")))
    except csv.Error as error:
        raise SettingError(f"mapping={file} cannot be read as CSV: {error}.") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if header != list(COLUMNS) or not all(len(row) == 2 for row in rows if row):
        raise SettingError(
            f"mapping={file}: its first line must be data,network and each other line two names; "
            f"the first one is {','.join(header) or 'empty'}."
        )
    return [(row[0].strip(), row[1].strip()) for row in rows[1:] if row]


def _json_pairs(file: Path) -> list[tuple[str, str]]:
    content = _parsed(_text(file, "mapping"), file, "mapping")
    if not isinstance(content, dict) or not all(
        isinstance(network_name, str | None) for network_name in content.values()
    ):
        raise SettingError(f"mapping={file} holds no JSON object of names to names.")
    return [(data_name, network_name or "") for data_name, network_name in content.items()]


def _text(file: Path, key: str) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{key}={file} cannot be read ({error}).") from None


def _parsed(text: str, file: Path, key: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{key}={file} is no JSON ({error}).") from None
