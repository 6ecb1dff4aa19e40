"""The dialect of all commands: the verbs, `key=value`, flags, and paths without a key.

Neither Hydra nor torch is imported here, so that the list of the verbs and the version are there at
once.
"""

import errno
import os
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from signlang import __version__
from signlang.errors import SettingError
from signlang.files import expanded, is_bundle

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, the limit of a file
VERSION: Final = "--version"
HELP: Final = ("--help", "-h")


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let a command run, and end in order, with whatever it gets as standard streams.

    A closed one is like an empty one. A reader that has seen enough, `head` for one, is no error;
    a disk that has no room for the output is one, in a sentence.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        _discard_output()
        if isinstance(error.__context__, SystemExit):  # it had ended, and knew how
            raise error.__context__ from None
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        _discard_output()
        sys.stderr.write(
            f"{error.strerror}: the output was not written. Free some space, and repeat the "
            "command.\n"
        )
        sys.exit(1)


def _discard_output() -> None:
    """Send what is left of the standard output nowhere: Python writes it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True)
class Verb:
    """A command.

    Attributes:
        usage: The words that it takes most often.
        summary: What it does, in one line.
        key: The setting that a path without a key is for.
        instead: Settings that take its place; the path of a bundle is for `bundle`.
        second: The setting that the next such path is for.
        several: Whether that setting is a list.
        implied: Further settings that such a path stands for.
    """

    usage: str
    summary: str
    key: str
    instead: tuple[str, ...] = ()
    second: str = ""
    several: bool = False
    implied: tuple[str, ...] = ()


FOLDER: Final = ("data=folder",)
VERBS: Final[Mapping[str, Verb]] = {
    "train": Verb(
        "IMAGES KEY=VALUE...", "train a network on a fold; with -m a sweep",
        "data.root", implied=FOLDER,
    ),
    "compare": Verb("STUDY...", "rank the runs of a study, with tests",
                    "studies", several=True),
    "list": Verb("STUDY", "show studies and runs: status, accuracy, date", "study"),
    "describe": Verb("IMAGES", "write the data card of a data set", "data.root", implied=FOLDER),
    "evaluate": Verb("RUN IMAGES", "show labelled images to a network",
                     "run", instead=("bundle", "model"), second="data.root"),
    "export": Verb("RUN", "write a run as a bundle, without torch", "run", several=True),
    "predict": Verb("BUNDLE PATH...", "recognise signs with a bundle",
                    "paths", several=True),
    "serve": Verb("BUNDLE...", "serve bundles over HTTP, with a webcam page",
                  "bundle", several=True),
}  # fmt: skip
# flags of Hydra 1.3, and those that a word of their own follows
HYDRA_FLAGS: Final = (
    *HELP, "--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r",
    "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip
WITH_VALUE: Final = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip
# options of Lightning's Trainer that conf/trainer leaves out: a word adds them without Hydra's `+`
TRAINER_OPTIONS: Final = (
    "barebones", "benchmark", "callbacks", "check_val_every_n_epoch", "default_root_dir",
    "detect_anomaly", "deterministic", "enable_autolog_hparams", "fast_dev_run",
    "gradient_clip_algorithm", "inference_mode", "limit_predict_batches", "limit_test_batches",
    "limit_train_batches", "limit_val_batches", "logger", "max_steps", "max_time", "min_epochs",
    "min_steps", "model_registry", "num_nodes", "overfit_batches", "plugins", "profiler",
    "reload_dataloaders_every_n_epochs", "strategy", "sync_batchnorm", "val_check_interval",
)  # fmt: skip
FORMER_FLAGS: Final = {"allow_incomplete": "true", "quiet": "false", "sort": "COLUMN", "out": "DIR"}


def version_line() -> str:
    """The answer to `--version`."""
    return f"signlang {__version__}\n"


def sort_words(
    words: Sequence[str], allowed: Container[str] = (), known: Container[str] | None = None
) -> tuple[list[str], list[str], list[str]]:
    """Tell settings, paths and flags from each other.

    A path is what has no equals sign, what stands behind `--`, and a file or folder with an equals
    sign in its name: an existing one, or a run folder, even if mistyped.

    Args:
        words: Of a command.
        allowed: Flags that there are.
        known: The keys that there are; None leaves it to Hydra to find wrong ones.

    Returns:
        Settings, paths and flags, each in their order.

    Raises:
        SettingError: Names a flag that there is not, and what to write instead.

    >>> sort_words(["-m", "runs/a/fold=0", "x=1", "--", "y=2"], HYDRA_FLAGS)
    (['x=1'], ['runs/a/fold=0', 'y=2'], ['-m'])
    """
    settings: list[str] = []
    paths: list[str] = []
    flags: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            paths += remaining
        elif word.startswith("-") and word != "-":
            _check_flag(word, allowed)
            flags.append(word)
            if word in WITH_VALUE:
                flags += [value for value in [next(remaining, None)] if value is not None]
        else:
            (paths if _is_path(word, known) else settings).append(word)
    return settings, paths, flags


def _check_flag(word: str, allowed: Container[str]) -> None:
    name = word.partition("=")[0]
    if name in allowed:
        return
    flags = allowed if isinstance(allowed, Sequence) else ()
    if matches := get_close_matches(name, flags, n=1, cutoff=0.8):
        raise SettingError(f"{name}: there is no such flag. Did you mean {matches[0]}?")
    key = name.lstrip("-").replace("-", "_")
    value = FORMER_FLAGS.get(key, "VALUE")
    key = "verbose" if key == "quiet" else key
    raise SettingError(f"{word}: settings are written as key=value, {key}={value}; see --help.")


def _is_path(word: str, known: Container[str] | None) -> bool:
    key, equals, _ = word.partition("=")
    if not equals:
        return not word.startswith("~")  # Hydra's way to delete a setting
    if known is not None:
        return key not in known and (not key.isidentifier() or exists(word))
    return "/" in key and (word.rpartition("/")[2].startswith("fold=") or exists(word))


def exists(path: str) -> bool:
    """Whether there is such a file or folder."""
    try:
        return expanded(path).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a null byte
        return False


def quote(value: str) -> str:
    r"""Quote a value, so that Hydra takes it as it is.

    >>> print(quote("a, b's"), quote("a\\"))
    'a, b\'s' 'a\\'
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value, Quote.single).with_quotes()


def hydra_words(verb: str, words: Sequence[str]) -> list[str]:
    """Give the paths of a command their key, as Hydra knows keys only.

    >>> hydra_words("export", ["runs/digits/a,split=signer/fold=0", "zip=true"])
    ['zip=true', "run=['runs/digits/a,split=signer/fold=0']"]
    >>> hydra_words("serve", ["a.zip", "bundle=b, c", "port=0"])
    ['port=0', "bundle=['a.zip','b, c']"]
    >>> hydra_words("describe", ["IMAGES"])
    ['data=folder', "data.root='IMAGES'"]
    >>> hydra_words("evaluate", ["RUN", "IMAGES"]), hydra_words("evaluate", ["run=RUN", "IMAGES"])
    (["run='RUN'", "data.root='IMAGES'"], ['run=RUN', "data.root='IMAGES'"])

    Raises:
        SettingError: If there are more paths than the command takes, or a flag that it has not.
    """
    settings, paths, flags = sort_words(words, HYDRA_FLAGS)
    command = VERBS[verb]
    assignments = [word for word in settings if word.startswith(f"{command.key}=")]
    if command.several and (paths or len(assignments) > 1):
        settings = [word for word in settings if word not in assignments]
        settings.append(_list_setting(command.key, paths, assignments))
    elif paths:
        settings = _with_paths(verb, settings, paths)
    return [*settings, *flags]  # Hydra wants the settings side by side


def _list_setting(key: str, paths: Sequence[str], assignments: Sequence[str]) -> str:
    values = [word.partition("=")[2] for word in assignments]
    if any(value[:1] in {"[", "'", '"'} for value in values):
        raise SettingError(f"{assignments[0]}: give one list, or {key} path by path.")
    return f"{key}=[{','.join(map(quote, [*paths, *values]))}]"


def _with_paths(verb: str, settings: Sequence[str], paths: Sequence[str]) -> list[str]:
    command = VERBS[verb]
    chosen = {word.partition("=")[0] for word in settings}
    free = [command.second] if command.second and command.second not in chosen else []
    if not chosen & {command.key, *command.instead}:
        holds_bundle = "bundle" in command.instead and is_bundle(expanded(paths[0]))
        free.insert(0, "bundle" if holds_bundle else command.key)
    if len(paths) > len(free):
        names = command.usage.split()[: 2 if command.second else 1]
        takes = " and ".join(f"one {name}" for name in names)
        keys = {command.key, *command.instead, command.second}
        values = [*paths, *(word for word in settings if word.partition("=")[0] in keys)]
        raise SettingError(
            f"{verb} takes {takes}, but there are {' and '.join(values)}; settings are written "
            "as key=value."
        )
    implied = [word for word in command.implied if word.partition("=")[0] not in chosen]
    assigned = [f"{key}={quote(path)}" for key, path in zip(free, paths, strict=False)]
    return [*implied, *settings, *assigned]
