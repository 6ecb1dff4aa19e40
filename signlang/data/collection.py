"""A data set as the configuration names it: one source, or several that are joined by class name.

In a joined data set a path starts with the name of its set, and so does a signer: signer 1 of one
set is not signer 1 of another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf

from signlang import hydra_app
from signlang.console import log
from signlang.data.image_folder import class_names, read_groups
from signlang.data.image_io import Thumbnails
from signlang.data.index import BadFile, Index, index_options, read_index
from signlang.data.patterns import several
from signlang.data.sources import JoinedRoot, open_source
from signlang.errors import DataError, SettingError, suggestion
from signlang.files import expanded, is_plain_name, set_name

SETTINGS: Final = ("signers", "pattern", "groups", "boxes", "box_margin", "on_bad_image")
OPTIONS: Final = ("source", "root", "signer", *SETTINGS)  # of a set
NULL: Final = ("null", "~", "")  # of YAML
INHERITED: Final = ("on_bad_image", "box_margin")  # from the joined data set
ClassNames = Mapping[str, Mapping[str, str | None]]  # name in the whole by set and class


def data_settings(node: DictConfig) -> dict[str, Any]:
    """What says which images a data set has, of the group `data` of a configuration, resolved.

    The image size is left out: it may be that of a network, which not every verb has.
    """
    keys = ("source", "root", *SETTINGS, "sets", "mapping", "classes")
    values = {key: node.get(key) for key in keys}
    return {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in values.items()
        if key in ("source", "root") or value is not None
    }


def read_data_set(
    data: Mapping[str, Any], cache_dir: str, thumbnails: Thumbnails | None = None
) -> Index:
    """Read the data set that a configuration names, and open every image of it once.

    Args:
        data: The group `data` of the configuration, resolved.
        cache_dir: Folder for generated files.
        thumbnails: Gets the images that are decoded, whole.

    Raises:
        DataError: As `read_index`; or if joined sets have no two classes in common.
        SettingError: If the sets or their mapping are not what they must be.
    """
    if not data.get("sets"):
        root = open_source(data["source"], data["root"], cache_dir)
        options = index_options(data)
        return read_index(root, cache_dir=cache_dir, thumbnails=thumbnails, **options)
    sets = {}
    for name, settings in resolved_sets(data).items():
        root = open_source(settings["source"], settings["root"], cache_dir)
        options = index_options(settings)
        own_index = read_index(root, cache_dir=cache_dir, thumbnails=thumbnails, **options)
        signer = str(settings.get("signer") or "")  # the one person in it
        sets[name] = replace(own_index, signers=(signer,) * len(own_index)) if signer else own_index
    names = joined_names(data, {name: own_index.classes for name, own_index in sets.items()})
    index = join(sets, names)
    _log_joined(sets, names, index)
    known = read_groups(Path(str(index.root)), data.get("groups"), list(index.paths))
    if not known:
        return index
    groups = index.groups or ("",) * len(index)
    pairs = zip(index.paths, groups, strict=True)
    return replace(index, groups=tuple(known.get(path, group) for path, group in pairs))


def data_set_classes(data: Mapping[str, Any], cache_dir: str) -> list[str]:
    """Names of the classes of a data set, without a look at the images.

    Raises:
        SignlangError: As `read_data_set`.
    """

    def classes_of(settings: Mapping[str, Any]) -> list[str]:
        root = open_source(settings["source"], settings["root"], cache_dir)
        return class_names(root, settings.get("pattern"), settings.get("boxes"))

    if not data.get("sets"):
        return classes_of(data)
    classes = {name: classes_of(settings) for name, settings in resolved_sets(data).items()}
    names = joined_names(data, classes)
    return sorted({new for mapped in names.values() for new in mapped.values() if new is not None})


def resolved_sets(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each set of a joined data set.

    Args:
        data: The group `data` of the configuration; `sets` is a list of names and paths, or maps
            names to a path or to settings.

    Raises:
        SettingError: If a set is not known, or two have one name.
    """
    values: list[tuple[str, Any]] = []
    sets = data["sets"]
    for item in [sets] if isinstance(sets, Mapping | str) else sets:
        if isinstance(item, Mapping):
            values += [(str(name), value) for name, value in item.items()]
        else:
            text = str(item)
            values.append((set_name(text), None if text == set_name(text) else text))
    names = [name for name, _ in values]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingError(
            f"data.sets: two are called {twice}. Name them: data.sets={{one: DIR, other: DIR}}."
        )
    if len(values) < 2:
        raise SettingError("data.sets: give two sets or more, e.g. data.sets=[digits,MY_FOLDER].")
    inherited = {key: data[key] for key in INHERITED if data.get(key) is not None}
    return {name: _settings_of_set(name, value, inherited) for name, value in values}


def _settings_of_set(name: str, value: Any, inherited: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a set: those of its configuration, and those that `data.sets` gives it."""
    if not is_plain_name(name) or "/" in name:
        raise SettingError(f"data.sets: {name} cannot be the name of a set.")
    settings = dict(value) if isinstance(value, Mapping) else {}
    if value is not None and not isinstance(value, Mapping):
        settings = {"root": str(value)}
    unknown = next((key for key in settings if key not in OPTIONS), None)
    if unknown is not None:
        raise SettingError(
            f"data.sets: {name} has no setting {unknown}. {suggestion(str(unknown), OPTIONS)}"
        )
    if "source" in settings:
        base: Mapping[str, Any] = {"root": None, "signers": "auto"}
    else:
        configured = _configured(name)
        if configured is None and settings.get("root") is None and not expanded(name).exists():
            raise SettingError(
                f"data.sets: {name} is no data set of conf/data, and there is no such folder. Give "
                f"its folder: data.sets={{{name}: DIR}}."
            )
        base = configured or {**(_configured("folder") or {}), "root": name}
    return {**base, **inherited, **settings}


@lru_cache(maxsize=32)
def _configured(name: str) -> dict[str, Any] | None:
    """The settings of a data set of conf/data; None if there is none of that name."""
    from hydra.errors import HydraException

    if name in {"joined", "custom"} or not name.isidentifier():
        return None
    try:
        node = hydra_app.default_config("train", (f"data={name}",)).data
    except HydraException:
        return None
    source = OmegaConf.to_container(node.source, resolve=True)
    return {"source": source} | {key: node[key] for key in ("root", *SETTINGS) if key in node}


def joined_names(data: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> ClassNames:
    """The name of each class of each set in the whole; None for one that is left out.

    Classes are of one name if they differ in case only, that of the first set, unless the mapping
    says otherwise.

    Args:
        data: The group `data` of the configuration.
        classes: Names of each set's own classes.

    Raises:
        SettingError: If the mapping cannot be used.
        DataError: If fewer than two classes are left.
    """
    mapping = _read_mapping(data.get("mapping"), classes)
    spelled: dict[str, str] = {}
    names: dict[str, dict[str, str | None]] = {}
    for name, set_classes in classes.items():
        folded = [old.casefold() for old in set_classes]
        names[name] = {}
        for old in set_classes:
            if old in mapping.get(name, {}):
                names[name][old] = mapping[name][old]
                continue
            is_unambiguous = folded.count(old.casefold()) == 1
            names[name][old] = spelled.setdefault(old.casefold(), old) if is_unambiguous else old
        for new in mapping.get(name, {}).values():
            if new is not None:
                spelled.setdefault(new.casefold(), new)
    kept = _chosen_classes(data.get("classes"), names)
    if kept is not None:
        names = {
            name: {old: new if new in kept else None for old, new in mapped.items()}
            for name, mapped in names.items()
        }
    joined_classes = {
        new for mapped in names.values() for new in mapped.values() if new is not None
    }
    if len(joined_classes) < 2:
        raise DataError(
            f"The sets {several(names)} have {len(joined_classes)} classes in common: give "
            "data.mapping=FILE.yaml (set: {class: name}), or take all with data.classes=union."
        )
    return names


def _chosen_classes(chosen: Any, names: ClassNames) -> set[str] | None:
    """The classes of the whole that `data.classes` chooses; None for all.

    Raises:
        SettingError: If no set has one of them.
    """
    per_set = [{new for new in mapped.values() if new is not None} for mapped in names.values()]
    if chosen == "common":
        return set.intersection(*per_set)
    if chosen in (None, "union"):
        return None
    known = {new.casefold(): new for mapped in per_set for new in mapped}
    unknown = next((str(name) for name in chosen if str(name).casefold() not in known), None)
    if unknown is not None:
        raise SettingError(
            f"data.classes: no set has the class {unknown}. "
            f"{suggestion(unknown, sorted(known.values()))}"
        )
    return {known[str(name).casefold()] for name in chosen}


def _read_mapping(file: str | None, classes: Mapping[str, Sequence[str]]) -> ClassNames:
    """Read `data.mapping`: YAML or JSON that maps set, then class, to a class or to null."""
    if file is None:
        return {}
    try:
        text = expanded(str(file)).read_text("utf-8-sig")
        content = yaml.load(text, yaml.BaseLoader)  # noqa: S506 - texts only: no, on, 01
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingError(
            f"data.mapping={file} cannot be read ({type(error).__name__})."
        ) from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise SettingError(
            f"data.mapping={file} must map each set to its classes, e.g. massey: {{a: A, z: null}}."
        )
    result: dict[str, dict[str, str | None]] = {}
    for name, mapped in content.items():
        if str(name) not in classes:
            raise SettingError(
                f"data.mapping={file} names the set {name}, which is none of the sets. "
                f"{suggestion(str(name), list(classes))}"
            )
        result[str(name)] = pairs = {k: None if v in NULL else str(v) for k, v in mapped.items()}
        unknown = next((one for one in pairs if one not in classes[str(name)]), None)
        if unknown is not None:
            raise SettingError(
                f"data.mapping={file}: {name} has no class {unknown}. "
                f"{suggestion(unknown, classes[str(name)])}"
            )
    return result


def join(sets: Mapping[str, Index], names: ClassNames) -> Index:
    """Join data sets to one.

    Args:
        sets: Index of each set, by its name.
        names: See `joined_names`.
    """
    rows = sorted(
        (f"{name}/{path}", name, row)
        for name, index in sets.items()
        for row, path in enumerate(index.paths)
        if names[name][index.classes[int(index.labels[row])]] is not None
    )
    labels = [str(names[name][sets[name].classes[int(sets[name].labels[row])]])
              for _, name, row in rows]  # fmt: skip
    classes = tuple(sorted(set(labels)))
    position = {name: label for label, name in enumerate(classes)}

    def prefixed(field: str) -> tuple[str, ...] | None:
        values = tuple(
            f"{name}/{column[row]}"
            if (column := getattr(sets[name], field)) and column[row]
            else ""
            for _, name, row in rows
        )
        return values if any(values) else None

    subsets = tuple((sets[name].given or {row: ""})[row] for _, name, row in rows)
    crops = tuple(sets[name].crop(row) for _, name, row in rows)
    return Index(
        root=JoinedRoot(tuple((name, Path(str(index.root))) for name, index in sets.items())),
        classes=classes,
        paths=tuple(path for path, _, _ in rows),
        labels=np.array([position[label] for label in labels], dtype=np.int64),
        signers=prefixed("signers"),
        facts=tuple(sets[name].facts[row] for _, name, row in rows),
        excluded=tuple(
            BadFile(f"{name}/{bad.path}", bad.reason)
            for name, index in sets.items() for bad in index.excluded
        ),
        groups=prefixed("groups"),
        given=subsets if any(subsets) else None,
        crops=crops if any(crops) else None,
        sets=tuple(name for _, name, _ in rows),
    )  # fmt: skip


def _log_joined(sets: Mapping[str, Index], names: ClassNames, index: Index) -> None:
    """Log what was joined, what was left out, and which classes only one set has."""
    sizes = (f"{n} ({len(p):,} images, {len(p.classes)} classes)" for n, p in sets.items())
    log.info("joined: %s", ", ".join(sizes))
    for name, mapped in names.items():
        changed = [f"{old} as {new}" for old, new in mapped.items() if new not in {old, None}]
        left_out = [old for old, new in mapped.items() if new is None]
        if changed:
            log.info("%s: %s", name, several(changed))
        if left_out:
            rows = np.isin(sets[name].labels, [sets[name].classes.index(old) for old in left_out])
            log.warning("%s: %d images of %s are left out", name, rows.sum(), several(left_out))
    holders = [
        {name for name, mapped in names.items() if old in mapped.values()} for old in index.classes
    ]
    peculiar = [
        c for c, set_names in zip(index.classes, holders, strict=True) if len(set_names) == 1
    ]
    if peculiar:
        log.warning(
            "%d of %d classes are in one set only (%s): a network can tell them by what is "
            "peculiar to the set. data.classes=common leaves them out.",
            len(peculiar), len(index.classes), several(peculiar),
        )  # fmt: skip
