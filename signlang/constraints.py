"""Constrained types of settings and files, and one dialect of their errors, on top of pydantic.

A model states each rule once; the sentence of an error is derived from it, so that the two cannot
differ. Neither torch nor omegaconf is needed here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from signlang.errors import SettingError, SignlangError, closest, listing, near_path, suggestion
from signlang.files import expanded, is_utf8, parse_json

Schema = Mapping[str, Any]  # a JSON schema, or a piece of one


class Strict(BaseModel):
    """Base of all models: no unknown keys, no conversions, no nan or infinity, no changes.

    `true` is no number and `"5"` is no integer. A field whose values come as another type (a path
    as text, a tuple as a list) says `Field(strict=False)`. A rule that a type cannot state is a
    validator that raises ValueError; that of a field completes `key=value: ...`, that of a model is
    a sentence of its own and names the settings.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,  # a verb does not wait for the models of the others
    )


Model = TypeVar("Model", bound=BaseModel)


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_path(value: object) -> object:
    if value == "":
        raise ValueError("it is empty: give a path, or leave it out.")
    return _as_text(value)


def _check_exists(path: Path) -> Path:
    path = expanded(path)
    try:
        exists = path.exists()
    except OSError as error:  # a folder above it may not be looked into
        raise ValueError(f"it cannot be looked at ({error.strerror}).") from None
    if not exists:
        raise ValueError(f"there is no such file or folder.{near_path(path)}")
    return path


def _check_file(path: Path) -> Path:
    if path.is_dir():
        raise ValueError("it is a folder: name a file.")
    return path


def _check_folder(path: Path) -> Path:
    path = expanded(path)
    if not path.is_dir():
        raise ValueError(f"there is no such folder.{near_path(path)}")
    return path


def _check_distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("each name must be there once.")
    return names


def _check_utf8(name: str) -> str:
    if not is_utf8(name):
        raise ValueError("it must be text, which can be written as UTF-8.")
    return name


def _check_duration(value: object) -> object:
    known = value is None or isinstance(value, Mapping)  # {minutes: 5}, which Lightning checks
    if not known and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(value)):
        raise ValueError("it must be DD:HH:MM:SS, e.g. 00:00:05:00 for five minutes.")
    return value


Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Duration = Annotated[Any, AfterValidator(_check_duration)]
Batches = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)],
    Field(description="a number of batches of at least 1, or a share above 0 and up to 1.0"),
]
Name = Annotated[str, AfterValidator(_check_utf8)]
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(_check_distinct)]
Text = Annotated[str, BeforeValidator(_as_text)]  # digits alone come as a number
Place = Annotated[str, BeforeValidator(_check_path)]  # a path that need not be there
ExistingPath = Annotated[
    Path,
    Field(strict=False, description="the path of a file or folder"),
    BeforeValidator(_check_path),
    AfterValidator(_check_exists),
]
ExistingFile = Annotated[ExistingPath, AfterValidator(_check_file)]
ExistingFolder = Annotated[
    Path,
    Field(strict=False, description="the path of a folder"),
    BeforeValidator(_check_path),
    AfterValidator(_check_folder),
]


def validated(
    model: type[Model],
    values: object,
    *,
    error: type[SignlangError] = SettingError,
    before: str = "",
    fix: str = "",
) -> Model:
    """Make a model of values that came from outside.

    Args:
        model: See `Strict`.
        values: What is to be a mapping; a key of a nested model is written `split.seed`.
        error: What is raised.
        before: Of a file: its name, and what else the text starts with.
        fix: Of a file: what to do about it.

    Raises:
        SignlangError: `error`, with every problem: where it is, what is there, what it must be.

    >>> class Split(Strict):
    ...     n: int = Field(ge=2)
    ...     seed: Index = 0
    >>> validated(Split, {"n": 5}).n
    5
    >>> validated(Split, {"n": True})
    Traceback (most recent call last):
        ...
    signlang.errors.SettingError: n=true: it must be a whole number of at least 2.
    >>> validated(Split, {"n": 2, "sed": 1})
    Traceback (most recent call last):
        ...
    signlang.errors.SettingError: There is no setting sed. Did you mean seed? There are: n, seed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as refused:
        messages = problems(model, refused)
    except UnicodeEncodeError as refused:  # pydantic cannot quote a name of bytes that are no text
        messages = [f"{refused.object!a}: that is not UTF-8."]
    if before:
        more = f" And {len(messages) - MOST} more." if len(messages) > MOST else ""
        raise error(f"{before}: {' '.join(messages[:MOST])}{more} {fix}".strip())
    if len(messages) == 1:
        raise error(messages[0])
    raise error(f"{len(messages)} settings cannot work:{listing(messages)}")


def read_validated(
    model: type[Model], file: Path, *, error: type[SignlangError], fix: str
) -> Model | None:
    """Read a JSON file as a model; None where there is none.

    Args:
        model: See `Strict`.
        file: The file.
        error: What is raised.
        fix: What to do about a damaged one.

    Raises:
        SignlangError: `error`, if it cannot be read or does not fit.
    """
    try:
        content = parse_json(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as cause:
        raise error(f"{file} cannot be read ({cause}). {fix}") from None
    return validated(model, content, error=error, before=str(file), fix=fix)


MOST: Final = 3  # problems of a file that are listed


def problems(model: type[BaseModel], refused: ValidationError) -> list[str]:
    """Each problem as a sentence, in the order of the fields."""
    root = model.model_json_schema()
    return list(dict.fromkeys(_sentence(root, details) for details in refused.errors()))


def requirement_of(model: type[BaseModel], key: str) -> str | None:
    """What the value of a dotted key must be; None where the model has no such key.

    >>> class Split(Strict):
    ...     n: int = Field(ge=2)
    >>> requirement_of(Split, "n"), requirement_of(Split, "m")
    ('a whole number of at least 2', None)
    """
    root = model.model_json_schema()
    located_key, schema = _locate(root, tuple(key.split(".")))
    return requirement(schema, root) if located_key == key else None


def _sentence(root: Schema, details: Mapping[str, Any]) -> str:
    """One error of pydantic (type, loc, input, ctx) as a sentence that says what to do."""
    key, schema = _locate(root, details["loc"])
    value, kind = details["input"], details["type"]
    if kind == "extra_forbidden":
        name = ".".join(map(str, details["loc"]))
        return f"There is no setting {name}. {suggestion(name, _keys(schema, key))}"
    wanted = requirement(schema, root)
    if kind == "missing":
        return f"{key} is missing: it must be {wanted}."
    if kind == "value_error":
        text = str(details["ctx"]["error"])
        return (
            text if isinstance(value, Mapping) else f"{_setting_text(key, value, schema)}: {text}"
        )
    similar = closest(str(value), map(str, _choices(schema)))
    hint = f" Did you mean {similar}?" if similar else ""
    return f"{_setting_text(key, value, schema)}: it must be {wanted}.{hint}"


def _locate(root: Schema, loc: tuple[int | str, ...]) -> tuple[str, Schema]:
    """Key and schema of a place; members of a union, which pydantic counts as places, are not."""
    key, schema = "", root
    for step in loc:
        schema = _resolve(schema, root)
        inner = schema.get("items") if isinstance(step, int) else schema.get("additionalProperties")
        inner = schema.get("properties", {}).get(step, inner)
        if not isinstance(inner, Mapping):
            break
        key, schema = f"{key}[{step}]" if isinstance(step, int) else _dotted(key, step), inner
    return key, _resolve(schema, root)


def _resolve(schema: Schema, root: Schema) -> Schema:
    """Follow a reference, and take the object or list out of "that or null"."""
    if "$ref" in schema:
        return _resolve(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    inner = [choice for choice in schema.get("anyOf", ()) if not choice.keys().isdisjoint(NESTED)]
    return _resolve(inner[0], root) if len(inner) == 1 else schema


def _choices(schema: Schema) -> list[object]:
    """The words that a value may be, also beside values of other types."""
    inner = [choice for one in schema.get("anyOf", ()) for choice in _choices(one)]
    return [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ()), *inner]


NESTED: Final = ("$ref", "items", "additionalProperties")


def _dotted(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _keys(schema: Schema, prefix: str) -> list[str]:
    return [_dotted(prefix, key) for key in schema.get("properties", ())]


def _setting_text(key: str, value: object, schema: Schema) -> str:
    """`key=value` as it is typed; of a secret (`writeOnly`) the key only."""
    if schema.get("writeOnly"):
        return key
    return f"{key}={typed(value)}" if key else typed(value)


def typed(value: object) -> str:
    """A value as it is written on a command line.

    >>> typed([True, None, 0.5, "a"])
    '[true, null, 0.5, a]'
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(typed, value))}]"
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


LONGEST: Final = 100  # characters of a value in an error
NOUNS: Final = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
    "null": "null",
    "object": "a mapping of keys to values",
    "array": "a list",
}


def requirement(schema: Schema, root: Schema) -> str:
    """What a value must be, from its JSON schema; a description takes precedence.

    >>> requirement({"type": "integer", "minimum": 1, "maximum": 9}, {})
    'a whole number from 1 to 9'
    >>> requirement({"anyOf": [{"exclusiveMinimum": 0, "type": "number"}, {"type": "null"}]}, {})
    'a number above 0 or null'
    """
    if "description" in schema and "properties" not in schema:
        return str(schema["description"])
    if "anyOf" in schema:
        return " or ".join(requirement(_resolve(one, root), root) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        *others, last = map(typed, schema.get("enum", [schema.get("const")]))
        return f"{', '.join(others)} or {last}" if others else last
    if "minLength" in schema:
        return f"a text of at least {schema['minLength']} characters"
    if "minItems" in schema:
        return f"a list of at least {schema['minItems']}"
    noun = NOUNS.get(schema.get("type", ""), "another value")
    return f"{noun} {bounds}" if (bounds := _bounds(schema)) else noun


def _bounds(schema: Schema) -> str:
    """The range of a number in words; "" without one."""
    ends = {name: _limit_text(schema[name]) for name in LIMITS if name in schema}
    return RANGES[tuple(ends)].format(*ends.values()) if ends else ""


LIMITS: Final = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
RANGES: Final[Mapping[tuple[str, ...], str]] = {
    ("minimum",): "of at least {}",
    ("exclusiveMinimum",): "above {}",
    ("maximum",): "of at most {}",
    ("exclusiveMaximum",): "below {}",
    ("minimum", "maximum"): "from {} to {}",
    ("minimum", "exclusiveMaximum"): "from {} to below {}",
    ("exclusiveMinimum", "maximum"): "above {} and up to {}",
    ("exclusiveMinimum", "exclusiveMaximum"): "between {} and {}",
}


def _limit_text(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"
