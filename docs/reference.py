"""Reference pages of the site, generated from the configuration, the code and its tables.

`pages` needs no mkdocs, so that tests can read what the site will say. `hooks.py` hands the pages
to mkdocs.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from signlang import api, errors, predict
from signlang.command_line import TRAINER_OPTIONS, VERBS
from signlang.hydra_app import CONF
from signlang.metrics.classification import classification_metrics
from signlang.runs.results import METRICS
from signlang.server.app import create_app
from signlang.server.config import ServeConfig
from signlang.server.registry import ModelRegistry
from signlang.studies.leaderboard_columns import COLUMNS, EACH_FOLD

GENERATED: Final = "This page is generated from {}."
WITH_GROUPS: Final = "train"  # the verb whose page has all groups; the others link there
# what each group of conf/ chooses; a group that is not named here fails the build
GROUPS: Final = {
    "data": "where the images come from",
    "split": "which images may not be in two folds",
    "hands": "what the network sees of an image: all, a crop around the hand, or its points",
    "augment": "how training images are varied",
    "model": "the network",
    "optimizer": "the optimizer; any of torch by `optimizer._target_=torch.optim.NAME`",
    "loss": "the loss of training",
    "callbacks": "schedule, early stopping, checkpoints, files",
    "trainer": "options of Lightning's `Trainer`",
    "logger": "dashboards and where they go",
    "experiment": "all settings of a study by one word",
    "debug": "short runs in a study of their own",
    "hydra/launcher": "where the jobs of a sweep (`-m`) run",
    "hydra/sweeper": "which jobs a sweep (`-m`) has",
}


def pages() -> dict[str, str]:
    """Markdown of each page by its path below `docs/`."""
    found = {"reference/commands.md": commands_page(), "reference/http.md": http_page()}
    for verb in VERBS:
        text = predict_page() if verb == "predict" else settings_page(verb)
        found[f"reference/settings/{verb}.md"] = text
    found["reference/metrics.md"] = metrics_page()
    found["reference/exit-codes.md"] = exit_codes_page()
    found["reference/python.md"] = python_page()
    return found


# --- settings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A setting in a file of `conf/`.

    Attributes:
        name: Dotted, as on the command line.
        value: As the file writes it.
        comment: What stands beside it, or nothing.
    """

    name: str
    value: str
    comment: str


LINE: Final = re.compile(r"( *)([\w.-]+):(?: +(.*))?$")  # of a file: indentation, key, value
COMMENT: Final = re.compile(r"(?:^|\s)#\s?")


def read_keys(file: Path, prefix: str = "") -> list[Key]:
    """The settings of a file in their order, and the nodes that have a comment.

    Args:
        file: Of `conf/`.
        prefix: Put in front of each name.
    """
    content = yaml.safe_load(file.read_text("utf-8"))
    comments = read_comments(file)
    own = {} if prefix.startswith("hydra.") else {"hydra": None}
    content = {key: value for key, value in content.items() if key not in {"defaults", *own}}
    return [
        Key(prefix + name, value, comments.get(name, ""))
        for name, value in _flat(content, "")
        if value or name in comments
    ]


def _flat(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield prefix + key, ""
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = str(yaml.safe_dump(value, width=1000)).split("\n")[0].strip("'")
            yield prefix + key, text or '""'


def read_comments(file: Path) -> dict[str, str]:
    """The comment of each dotted key; a line that holds only a comment in its column continues it.

    Args:
        file: Of `conf/`.
    """
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    name, column = "", -1
    for line in file.read_text("utf-8").splitlines():
        text, comment, place = _cut(line)
        if not text.strip():
            if comment and place == column:
                found[name] += f" {comment}"
            continue
        parts = LINE.match(text.rstrip())
        if not parts:
            continue
        above = [*(one for one in above if one[0] < len(parts[1])), (len(parts[1]), parts[2])]
        name, column = ".".join(one for _, one in above), place
        if comment:
            found[name] = comment
    return found


def _cut(line: str) -> tuple[str, str, int]:
    """Text and comment of a line, and where the comment begins; a quoted `#` is text."""
    for parts in COMMENT.finditer(line):
        before = line[: parts.start()]
        if before.count('"') % 2 == 0 and before.count("'") % 2 == 0:
            return before, line[parts.end() :].strip(), line.index("#", parts.start())
    return line, "", -1


def head_comment(file: Path) -> str:
    """The comment lines at the top of a file, as one text."""
    lines = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def groups_of(verb: str) -> list[str]:
    """The groups that a verb's configuration chooses from, in their order."""
    defaults = yaml.safe_load((CONF / f"{verb}.yaml").read_text("utf-8"))["defaults"]
    names = [
        str(name).removeprefix("override ")
        for entry in defaults
        if isinstance(entry, dict)
        for name in entry
    ]
    return [name for name in names if not name.startswith("optional ")]


def settings_page(verb: str) -> str:
    """Every setting of a verb, with its default and its comment."""
    file = CONF / f"{verb}.yaml"
    text = [
        f"# Settings of {verb}",
        f"`signlang {verb} {VERBS[verb].usage}`: {VERBS[verb].summary}.",
        f"`signlang {verb} --help` prints the same settings, with the values that your words give.",
        GENERATED.format(f"`conf/{verb}.yaml` and the groups beside it"),
        table(("setting", "default", "what for"), map(_row, read_keys(file))),
    ]
    groups = groups_of(verb)
    if groups:
        text += ["## Groups", _groups_text(verb, groups)]
    for group in groups if verb == WITH_GROUPS else ():
        text += [f"## {group}", f"{GROUPS[group][0].upper()}{GROUPS[group][1:]}."]
        for choice in sorted((CONF / group).glob("*.yaml")):
            text += _choice(group, choice)
    if verb == WITH_GROUPS:
        options = ", ".join(f"`trainer.{name}`" for name in TRAINER_OPTIONS)
        text += ["### Further options of the Trainer", f"As Lightning documents them: {options}."]
    return "\n\n".join(text) + "\n"


def _groups_text(verb: str, groups: Sequence[str]) -> str:
    page = "" if verb == WITH_GROUPS else f"{WITH_GROUPS}.md"
    lines = []
    for group in groups:
        names = ", ".join(f"`{file.stem}`" for file in sorted((CONF / group).glob("*.yaml")))
        lines.append((f"[`{group}=`]({page}#{group.replace('/', '')})", names, GROUPS[group]))
    return table(("word", "choices", "what it decides"), lines)


def _choice(group: str, file: Path) -> list[str]:
    keys = read_keys(file, "" if _is_global(file) else group.replace("/", ".") + ".")
    text = [f"### {group}={file.stem}", plain(head_comment(file))]
    if keys:
        text.append(table(("setting", "value", "what for"), map(_row, keys)))
    return [part for part in text if part]


def _is_global(file: Path) -> bool:
    return "@package _global_" in file.read_text("utf-8")


def _row(key: Key) -> tuple[str, str, str]:
    return f"`{key.name}`", _code(key.value), plain(key.comment)


def predict_page() -> str:
    """`predict` does without Hydra; its help has every setting."""
    fields = {name: field.default for name, field in predict.PredictConfig.model_fields.items()}
    absent = [name for name in fields if f"  {name}=" not in predict.HELP]
    if absent:
        raise ValueError(f"the help of predict does not say what {absent} is")
    text = [
        "# Settings of predict",
        "`signlang predict BUNDLE PATH...`: recognise signs with a bundle. It needs neither "
        "torch nor Hydra.",
        GENERATED.format("what `signlang predict --help` prints"),
        f"```text\n{predict.HELP.strip()}\n```",
    ]
    return "\n\n".join(text) + "\n"


# --- commands, exit codes, Python -------------------------------------------------------------


def commands_page() -> str:
    """The verbs."""
    rows = [
        (f"[`{name}`](settings/{name}.md)", f"`signlang {name} {verb.usage}`", verb.summary,
         f"`{verb.key}`" + (", several" if verb.several else ""))
        for name, verb in VERBS.items()
    ]  # fmt: skip
    text = [
        "# Commands",
        "`signlang VERB ...` and `python -m signlang.VERB ...` are the same command. Settings are "
        "`key=value`; a path without a key is taken for the setting in the last column. What "
        "stands behind `--` is a path in any case.",
        GENERATED.format("the table of verbs in `signlang/command_line.py`"),
        table(("verb", "usage", "what it does", "a path is"), rows),
        "## Words that every verb knows",
        table(
            ("word", "what it does"),
            [
                ("`--help`", "all settings and components, each with its comment"),
                ("`--version`", "the version"),
                ("`verbose=false`", "shows warnings and errors only"),
                ("`--config-dir=DIR`", "adds your own choices of components (not for `predict`)"),
                ("`-m`", "`train` only: a sweep, `key=a,b` are the values of a key"),
                ("`HYDRA_FULL_ERROR=1`", "an environment variable: shows the trace of an error"),
            ],
        ),
        "## Tab completion",
        "Of verbs, settings, components, runs and studies, in bash and zsh (with `bashcompinit`):",
        '```text\neval "$(signlang -sc install=bash)"\n```',
        "## Names of runs",
        "A RUN is its folder, a study (the first fold of its best setting by the accuracy over "
        "folds), `latest` (the one that was finished last), or a part of its name that no other "
        "has: `export squeezenet/fold=2`. The command says which was taken.",
    ]
    return "\n\n".join(text) + "\n"


def exit_codes_page() -> str:
    """What a command returns to the shell."""
    rows = []
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.SignlangError) and kind.__module__ == errors.__name__:
            rows.append((kind.exit_code, f"`{name}`", _first_line(kind)))
    rows.sort(key=lambda row: (row[0], row[1]))
    text = [
        "# Exit codes",
        "An error for people is one sentence on the standard error: what is wrong, where, and how "
        "to fix it. The same text is the text of the exception in Python.",
        GENERATED.format("`signlang/errors.py`"),
        table(
            ("code", "what it means"),
            [
                ("0", "the command did what it says; a finished run that was skipped is finished"),
                ("1", "the work cannot be done or failed; also a fault of the program, with a "
                      "trace in the run's `run.log`"),
                ("2", "a setting, or a combination of settings, that cannot work; of `predict`: "
                      "any error but of a single image"),
                ("130", "Ctrl-C; the same command resumes"),
                ("143", "SIGTERM; the same command resumes"),
            ],
        ),
        "`signlang predict` returns 0 if all images could be used, and 1 if some could not.",
        "## Errors in Python",
        "All derive from `signlang.errors.SignlangError`.",
        table(("code", "class", "what it is"), [(str(a), b, c) for a, b, c in rows]),
    ]  # fmt: skip
    return "\n\n".join(text) + "\n"


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def python_page() -> str:
    """The functions and classes of `signlang.api`."""
    text = [
        "# Python",
        "`signlang.load_run`, `load_study` and `load_bundle` are in the package itself; the verbs "
        "are in `signlang.api`. `help(api)` shows a long example, which the tests run.",
        GENERATED.format("the docstrings of `signlang/api.py`"),
    ]
    names = [name for name in vars(api) if not name.startswith("_")]
    for name in names:
        thing = getattr(api, name)
        if getattr(thing, "__module__", "") != api.__name__:
            continue
        if inspect.isclass(thing):
            text += [f"## {name}", f"```text\n{inspect.getdoc(thing)}\n```"]
            text += [
                f"### {name}.{key}\n\n```text\n{inspect.getdoc(value)}\n```"
                for key, value in vars(thing).items()
                if not key.startswith("_") and inspect.getdoc(value) and _is_documented(value)
            ]
        elif inspect.isfunction(thing):
            signature = str(inspect.signature(thing)).replace("'", "")
            text += [f"## {name}", f"```text\n{name}{signature}\n\n{inspect.getdoc(thing)}\n```"]
    return "\n\n".join(text) + "\n"


def _is_documented(value: object) -> bool:
    return inspect.isfunction(value) or type(value).__name__ in {"cached_property", "property"}


# --- metrics and columns ----------------------------------------------------------------------

# what the tables of a study do not explain, because they do not show it
UNEXPLAINED: Final = {
    "rank": "1 is the most accurate; by mean accuracy over the finished folds",
    "label": "the network and what distinguishes it from the other settings of the study",
    "setting": "name of the folder of the setting",
    "model": "name of the network",
    "split": "stratified, signer, group, blocks, given, dataset, or a class of your own",
    "protocol": "`test fold untouched`, or that the test fold also chose the checkpoint",
    "folds_done": "finished folds",
    "folds": "folds that there are",
    "complete": "whether all folds are finished",
    "accuracy_2sd": "two standard deviations (n - 1) of the accuracies of the folds",
    "accuracy_high": "the upper end of the 95 % interval",
    "clusters": "by what the images of the intervals belong together: signers, blocks of film",
    "per_set": "accuracy on each of joined data sets",
    "loss": "mean cross-entropy of the test images; mean over folds",
    "validation_accuracy": "accuracy on the validation subset of the checkpoint; mean over folds",
    "latency_alone": "whether no other job ran beside the measurement of the time per image",
    "difference_high": "the upper end of the interval of the best less this",
    "p_mcnemar": "exact McNemar test on the images that both were tested on; it takes the images "
    "as independent and the networks as they are",
    "device": "what trained the runs",
    "signlang": "version that trained the runs",
    "data_fingerprint": "the first eight digits of the fingerprint of the images and labels",
}


def metrics_page() -> str:
    """Metrics of a run, and the columns of the leaderboard."""
    columns = [
        (f"`{key}`", column.title or "", column.meaning or UNEXPLAINED[key])
        for key, column in COLUMNS.items()
    ]
    rows = [
        (f"`{name}`", f"`{'.'.join(path)}`", COLUMNS[name].meaning or UNEXPLAINED[name])
        for name, path in METRICS.items()
    ]
    computed = ", ".join(f"`{name}`" for name in sorted(_computed()))
    text = [
        "# Metrics and columns",
        GENERATED.format("the tables that the commands themselves read"),
        "## Metrics of a run",
        "`compare` computes those of the test fold again, from `predictions.csv` of the run "
        f"({computed}); what `metrics.json` says otherwise is reported.",
        table(("metric", "in `metrics.json`", "meaning, in the table of a study"), rows),
        "## Columns of leaderboard.csv",
        "Each can be named by `sort=`. Between `model` and `split` stands a column for each "
        "setting that differs within the study, and behind `complete` one for each fold, "
        "`accuracy_fold_0` and so on.",
        table(("column", "heading in tables", "meaning"), columns),
        f"Tables also have a column *{EACH_FOLD.title}*: {EACH_FOLD.meaning}.",
    ]
    return "\n\n".join(text) + "\n"


def _computed() -> Iterable[str]:
    import numpy as np

    return classification_metrics(np.full((2, 2), 0.5), np.array([0, 1]))


# --- HTTP -------------------------------------------------------------------------------------


def http_page() -> str:
    """Routes of the service, from the OpenAPI document that it serves."""
    described = _openapi()
    routes = [
        (f"`{method.upper()} {path}`", _sentence(route))
        for path, methods in described["paths"].items()
        for method, route in methods.items()
    ]
    text = [
        "# HTTP routes",
        described["info"]["description"].replace("\n", " "),
        "A running service describes itself at `/docs` and `/openapi.json`. Where it has an "
        "`api_key`, `/v1` and `/metrics` ask for it, in the header `X-API-Key`.",
        GENERATED.format("the OpenAPI document of the service"),
        table(("route", "what it does"), [*routes, ("`GET /`", "The page that spells."),
              ("`GET /docs`", "This description, as a page.")]),
    ]  # fmt: skip
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            text += _route(path, method, route)
    text.append("## Schemas")
    for name, schema in described["components"]["schemas"].items():
        rows = [
            (f"`{key}`", _type(value), value.get("description", ""))
            for key, value in schema["properties"].items()
        ]
        text += [f"### {name}", schema.get("description", "")]
        text.append(table(("field", "type", "what"), rows))
    return "\n\n".join(part for part in text if part) + "\n"


def _openapi() -> Mapping[str, Any]:
    """Of a service without networks, which has the same routes."""
    app = create_app(ModelRegistry({}, ""), ServeConfig(bundle=("none",)))
    while not hasattr(app, "openapi"):  # out of its middleware
        app = app.app
    described: Mapping[str, Any] = app.openapi()
    return described


def _sentence(route: Mapping[str, Any]) -> str:
    return str(route.get("description") or route["summary"]).split("\n")[0]


def _route(path: str, method: str, route: Mapping[str, Any]) -> list[str]:
    text = [f"## {method.upper()} {path}", _sentence(route)]
    parameters = [
        (f"`{one['name']}`", one["in"], one.get("description", ""))
        for one in route.get("parameters", [])
    ]
    if parameters:
        text.append(table(("parameter", "in", "what"), parameters))
    if body := route.get("requestBody"):
        text.append("Body: " + ", ".join(f"`{kind}`" for kind in body["content"]) + ".")
    answers = [
        (f"{code}", answer["description"], _answer(answer))
        for code, answer in route["responses"].items()
    ]
    return [*text, table(("status", "when", "answer"), answers)]


def _answer(answer: Mapping[str, Any]) -> str:
    for content in answer.get("content", {}).values():
        if "$ref" in content.get("schema", {}):
            return _type(content["schema"])
    return ""


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return str(schema.get("type", "any"))


# --- Markdown ---------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A table in Markdown.

    >>> print(table(["a"], [["x | y"]]))
    | a |
    |---|
    | x \| y |
    """
    lines = [header, ["---"] * len(header), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    text = ["| " + " | ".join(line) + " |" for line in cells]
    text[1] = "|" + "---|" * len(header)
    return "\n".join(text)


def plain(text: str) -> str:
    r"""Let Markdown show a text as it is.

    >>> plain("goes to <out> * 2")
    'goes to &lt;out&gt; \\* 2'
    """
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*")


def _code(value: str) -> str:
    return f"`{value}`" if value else ""
