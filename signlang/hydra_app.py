"""Command line of a verb: `hydra.main` with exit codes, short errors and quoted overrides."""

import errno
import functools
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from signlang import command_line, system
from signlang.errors import (
    Interrupted,
    SettingError,
    SignlangError,
    SweepError,
    first_line,
    missing_extra,
    suggestion,
)
from signlang.files import TEMPORARY

if TYPE_CHECKING:  # --help and errors of words come first
    from omegaconf import DictConfig

PACKAGE: Final = Path(__file__).parent
# a wheel carries the configuration inside the package, a checkout beside it
CONF: Final = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


@command_line.standard_streams()
def run(task: Callable[[Any], Any], config_name: str) -> None:
    """Run a task with the configuration that the command line composes, then leave the process.

    Ends with 0; with the exit code of the error if the task raises a `SignlangError`, whose text is
    all that is printed; with 2 for settings that cannot be composed; with 130 when interrupted by
    Ctrl-C, and 143 by SIGTERM. HYDRA_FULL_ERROR=1 shows stack traces instead.
    """
    system.end_at_signals()
    if command_line.VERSION in sys.argv:  # Hydra would print its own
        sys.stdout.write(command_line.version_line())
        return
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    runner = _TaskRunner(task)
    traces = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands errors on instead of printing them
    register_resolvers()
    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    try:
        if config_name != "train":  # which stops between two batches instead
            system.restore_signals()
        sys.argv[1:] = override_words(config_name, sys.argv[1:])
        main(functools.wraps(task)(lambda cfg: runner(cfg)))()
    except (
        _TaskError,
        SignlangError,
        HydraException,
        OmegaConfBaseException,
        KeyboardInterrupt,
        system.StopRequested,
        ValueError,
        RecursionError,
        YAMLError,
        OSError,
        ModuleNotFoundError,
    ) as error:
        if isinstance(error, ModuleNotFoundError):
            is_explained = missing_extra(error) is not error
        elif isinstance(error, OSError) and not isinstance(error, HydraException):
            is_explained = of_file(error)
        else:
            is_explained = True
        # once the task runs, it is a fault of the program
        if traces or not is_explained or (of_settings_file(error) and runner.started):
            raise
        has_own_text = isinstance(error, (SweepError, KeyboardInterrupt, system.StopRequested))
        message = (None if has_own_text else runner.summary()) or readable(error, config_name)
        from signlang.console import show_error

        show_error(str(message))
        sys.exit(getattr(message, "exit_code", 130))
    finally:
        system.end_at_signals()  # while the interpreter ends


NOT_WRITABLE: Final = (*command_line.FULL, errno.EROFS, errno.ENAMETOOLONG)


def unwritten(error: OSError) -> str:
    """Say what was not written because of the disk, and how to continue.

    >>> unwritten(OSError(28, "No space left", "cards/.card.html.0123456789ab"))
    'No space left: cards/card.html was not written. Free some space, and repeat the command.'
    """
    name = error.filename if isinstance(error.filename, str | os.PathLike) else None
    path = Path(name) if name else None
    if path is not None and (temporary := TEMPORARY.fullmatch(path.name)):
        path = path.with_name(temporary[1])
    what = f"{path} was" if path else "some of the files were"
    fix = "Free some space" if error.errno in command_line.FULL else "Choose another folder"
    return f"{error.strerror}: {what} not written. {fix}, and repeat the command."


class _TaskError(BaseException):
    """Carries the error of a single run past Hydra, which has words of its own for exceptions."""


class _TaskRunner:
    """The task, reporting a failing job of a sweep when it fails; Hydra would at the end."""

    def __init__(self, task: Callable[[Any], Any]) -> None:
        self.task, self.started = task, False
        self.failed_of_sweep: list[SignlangError] = []

    def __call__(self, cfg: Any) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from signlang import console

        self.started = True
        hydra = HydraConfig.get()
        words = " ".join(hydra.overrides.task)
        console.start(cfg.verbose is not False)
        if hydra.mode != RunMode.MULTIRUN:
            try:
                return self._run(cfg)
            except SignlangError as error:
                raise _TaskError from error
        console.log.info("-- %s", words)
        try:
            return self._run(cfg)
        except SignlangError as error:
            self.failed_of_sweep.append(error)
            console.log.error("%s failed: %s", words, error)
            raise

    def _run(self, cfg: Any) -> Any:
        """Run the task; a package that is not installed ends a sweep at its first job.

        Raises:
            SignlangError: If the disk is full, or cannot be written to.
        """
        try:
            return self.task(cfg)
        except ModuleNotFoundError as error:
            explained = missing_extra(error)
            if explained is error:
                raise
            raise _TaskError from explained
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            raise SignlangError(unwritten(error)) from error

    def summary(self) -> SignlangError | None:
        """Error for the end of a sweep in which jobs failed."""
        count = len(self.failed_of_sweep)
        if not count:
            return None
        return SignlangError(f"{count} job{'s' * (count > 1)} of the sweep failed, see above.")


def sweep_task(name: str) -> Callable[[Any], Any]:
    """The task of a sweep's job that runs in a process without `run`, on another machine.

    Args:
        name: The dotted name of the task.
    """
    from hydra.utils import get_method

    register_resolvers()
    return _TaskRunner(get_method(name))


def override_words(verb: str, words: Sequence[str]) -> list[str]:
    """The words of a command line as Hydra understands them.

    Raises:
        SettingError: If a word cannot be used.
    """
    sweeps = not {"-m", "--multirun"}.isdisjoint(words)
    words = command_line.hydra_words(verb, current_words(words, verb))
    return [quoted(word, sweeps=sweeps) for word in words]


NULL_GROUP: Final = "Config group override must be a string or a list"  # Hydra's message
# words of before Hydra's own groups -> the words of today
RENAMED: Final = {
    "launcher=": "hydra/launcher=", "launcher.": "hydra.launcher.",
    "sweep=": "hydra/sweeper=", "sweep.": "hydra.sweeper.",
}  # fmt: skip


def current_words(words: Sequence[str], config_name: str) -> list[str]:
    """Translate words of `train` that have other names today, and log that once.

    >>> current_words(["launcher=local", "fold=0,1"], "train")
    ['hydra/launcher=local', 'fold=0,1']
    """
    if config_name != "train":
        return list(words)
    words = [_with_plus(word) for word in words]
    pairs = [(word, _translated(word)) for word in words]
    changed = [f"{new} for {old}" for old, new in pairs if new != old]
    if changed:
        sys.stderr.write(f"Old words still work; type {', '.join(changed)}.\n")
    return [new for _, new in pairs]


def _with_plus(word: str) -> str:
    """Let an option of Lightning's Trainer be set although conf/trainer does not name it.

    >>> _with_plus("trainer.max_steps=9"), _with_plus("trainer.max_epochs=9")
    ('++trainer.max_steps=9', 'trainer.max_epochs=9')
    """
    group, _, option = word.partition("=")[0].lstrip("+").partition(".")
    is_option = group == "trainer" and option in command_line.TRAINER_OPTIONS
    return f"++{word.lstrip('+')}" if is_option else word


def _translated(word: str) -> str:
    for old, new in RENAMED.items():
        if word.startswith(old):
            return new + word.removeprefix(old)
    return word


def register_resolvers() -> None:
    """Define what configurations interpolate: names of data sets, and what --help shows."""
    from omegaconf import OmegaConf

    from signlang.files import data_set_name, joined_name, set_names

    for resolver in (group_choices, commented_settings):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("data_name", data_set_name, replace=True)
    OmegaConf.register_new_resolver("joined_name", joined_name, replace=True)
    OmegaConf.register_new_resolver(
        "set_count", lambda sets: len(set_names(sets)) or 1, replace=True
    )


def group_choices() -> str:
    """List the groups of a verb and their choices, those of --config-dir as well, for --help."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    loader = GlobalHydra.instance().config_loader()
    hydra = HydraConfig.get()
    hydra_groups = {"hydra/launcher", "hydra/sweeper"} if hydra.job.config_name == "train" else ()
    groups = [g for g in hydra.runtime.choices if not g.startswith("hydra/") or g in hydra_groups]
    width = shutil.get_terminal_size().columns
    lines = [
        textwrap.fill(
            f"{group}: {', '.join(loader.get_group_options(group))}",
            width, subsequent_indent="  ", break_on_hyphens=False,
        )
        for group in sorted(groups)
        if "@" not in group
    ]  # fmt: skip
    text = "\n".join(lines)
    return f"== Components to choose from (group=name) ==\n\n{text}\n\n" if lines else ""


def commented_settings(*, _root_: Any) -> str:
    """All settings as YAML, each with the comment beside it in its file, for --help."""
    from omegaconf import OmegaConf

    settings = {key: _root_._get_node(key) for key in _root_ if key != "hydra"}
    comments = setting_comments(_root_.hydra.runtime, _root_.hydra.job.config_name)
    width = shutil.get_terminal_size().columns
    parents: list[tuple[int, str]] = []  # indentation and name of the keys around a line
    lines = []
    for line in OmegaConf.to_yaml(OmegaConf.create(settings)).splitlines():
        match = KEY.match(line)
        comment = None
        if match:
            indent = len(match[1])
            parents = [*(key for key in parents if key[0] < indent), (indent, match[2])]
            comment = comments.get(".".join(name for _, name in parents))
        if comment and len(line) + len(comment) + 4 > width:
            indentation = f"{' ' * len(match[1] if match else '')}# "
            lines += textwrap.wrap(
                comment, width, initial_indent=indentation, subsequent_indent=indentation,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
        elif comment:
            line = f"{line}  # {comment}"
        lines.append(line)
    return "\n".join(lines).replace("$", "$$")  # Hydra's template takes one for a name


KEY: Final = re.compile(r"( *)([\w.-]+):")  # of a line of YAML
COMMENT: Final = re.compile(r"( *)([\w.-]+):(?:[^#]*[^#\w])?# (.+)$")  # likewise, with a comment


def setting_comments(runtime: Any, config_name: str) -> dict[str, str]:
    """The comments of all settings by dotted key, from the files that the choices name.

    Args:
        runtime: `hydra.runtime`.
        config_name: Name of the primary configuration.
    """
    comments: dict[str, str] = {}
    for source in reversed(runtime.config_sources):
        if source.schema != "file":
            continue
        folder = Path(source.path)
        comments |= _comments(folder / f"{config_name}.yaml", "")
        for group, choice in runtime.choices.items():
            if choice is not None and not group.startswith("hydra/"):
                for name in ("default", str(choice)):  # which a choice may build upon
                    prefix = group.replace("/", ".") + "."
                    comments |= _comments(folder / group / f"{name}.yaml", prefix)
    return comments


def _comments(file: Path, prefix: str) -> dict[str, str]:
    """The comments in a file of settings; none where there is no such file."""
    comments: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    for line in lines:
        if match := KEY.match(line):
            indent = len(match[1])
            parents = [*(key for key in parents if key[0] < indent), (indent, match[2])]
        if match := COMMENT.match(line):
            comments[prefix + ".".join(name for _, name in parents)] = match[3]
    return comments


# settings that are paths or names: a comma in one is no sweep, unless there is -m
PATHS: Final = {
    "run", "bundle", "data.root", "data.signers", "data.groups", "data.boxes", "data.mapping",
    "model.weights", "ckpt_path", "images", "out", "runs_dir", "cache_dir", "cards_dir",
    "bundles_dir", "evaluations_dir", "predictions", "mapping", "classes", "studies",
    "augment.backgrounds", "study", "name", "hands.model",
}  # fmt: skip
LISTS: Final = {"run", "bundle", "studies"}  # those of them that may be lists
FUNCTION: Final = re.compile(r"\w+\(")  # of Hydra: range(5), tag(log, interval(1e-4, 1e-2))
PLAIN_PATH: Final = re.compile(
    r"(\.{0,2}/)?[A-Za-z_][\w./-]*", re.ASCII
)  # a text to Hydra as it is


def quoted(word: str, *, sweeps: bool = False) -> str:
    """Quote the value of an override that is a path or a name, or that Hydra could not read.

    Hydra would take a comma in it for a sweep, and brackets, braces, equals signs and blanks for
    syntax. So it would in a pattern of file names.

    Args:
        word: `key=value`.
        sweeps: Whether -m is given, with which a comma is a sweep unless there is such a path.

    >>> quoted("model=squeezenet"), quoted("run=runs/digits/squeezenet+lr=0.01/fold=0")
    ('model=squeezenet', "run='runs/digits/squeezenet+lr=0.01/fold=0'")
    >>> quoted("data.root=signlang"), quoted("data.root=./signlang")
    ('data.root=signlang', 'data.root=./signlang')
    >>> quoted("study=Gebärden")
    "study='Gebärden'"
    >>> quoted("data.root=a,b"), quoted("data.root=a,b", sweeps=True), quoted("data.root=(x")
    ("data.root='a,b'", 'data.root=a,b', "data.root='(x'")
    >>> quoted("run=[a+x=1/fold=0, b]")
    "run=['a+x=1/fold=0','b']"
    """
    key, equals, value = word.partition("=")
    if not equals or key.startswith("-") or value[:1] in {"'", '"'}:
        return word
    if value.isalnum() and value.isascii():  # Hydra reads no other letters without quotes
        return word
    if key in LISTS and _is_list(value):
        items = (item.strip() for item in value[1:-1].split(","))
        return f"{key}=[{','.join(map(command_line.quote, items))}]"
    is_path = key.lstrip("+") in PATHS and value[:1] not in {"[", "$"} and value != "null"
    is_run = value[:1] != "[" and value.rpartition("/")[2].startswith("fold=")  # even if mistyped
    needs_quotes = is_run or (is_path and "," in value and not sweeps)
    needs_quotes |= not PLAIN_PATH.fullmatch(value) and command_line.exists(value)
    if key == "data.pattern" and value != "null":  # its braces are no dictionary
        needs_quotes = True
    if not needs_quotes and (is_path or not FUNCTION.match(value)):
        needs_quotes = not _is_readable(word)
    return f"{key}={command_line.quote(value)}" if needs_quotes else word


def _is_list(value: str) -> bool:
    """Whether a value is a list of paths without quotes of its own."""
    brackets = value[:1] == "[" and value[-1:] == "]" and len(value) > 2
    return brackets and not set("'\"[$") & set(value[1:]) and not command_line.exists(value)


def _is_readable(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def readable(error: BaseException, config_name: str) -> BaseException:
    """Shorten Hydra's message to one sentence, with the fix."""
    from hydra.errors import MissingConfigException

    if isinstance(error, _TaskError) and error.__cause__ is not None:
        return error.__cause__
    if isinstance(error, SignlangError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return missing_extra(error)
    if NULL_GROUP in str(error):
        return SettingError("A group cannot be null: --help lists the choices of each.")
    if of_settings_file(error):
        return unreadable_file(error)
    if isinstance(error, KeyboardInterrupt | system.StopRequested):
        return error if isinstance(error, Interrupted) else system.interruption()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return SettingError(
            f"{group}={name}: there is no such choice. {suggestion(name, error.options)}"
        )
    sweep = re.match(r"Ambiguous value for argument '([^']+)'", str(error))
    if sweep:
        key, _, values = sweep[1].partition("=")
        return SettingError(
            f"{sweep[1]}: several values are a sweep, which needs -m as well; a list is written "
            f"{key}=[{values}]."
        )
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if unknown:
        key = unknown[1]
        matches = get_close_matches(key, _all_keys(config_name), n=1)
        hint = f"did you mean {matches[0]}? See" if matches else "see"
        return SettingError(f"There is no setting {key}; {hint} --help for all settings.")
    lines = [line for line in str(error).splitlines() if line.strip()]
    cause = [line for line in str(error.__cause__ or "").splitlines() if line.strip()]
    return SettingError(f"{' '.join([*lines[:2], *cause[:1]])} See --help for all settings.")


def of_settings_file(error: BaseException) -> bool:
    """Whether an error is one that an unreadable file of settings raises before the task starts."""
    from yaml import YAMLError

    plain = type(error) in {ValueError, UnicodeDecodeError}  # not those that derive from them
    return plain or of_file(error) or isinstance(error, RecursionError | YAMLError)


def of_file(error: BaseException) -> bool:
    """Whether an error is of the system and about a file: not a closed pipe, nor one of Hydra's."""
    return isinstance(error, OSError) and error.filename is not None


def unreadable_file(error: BaseException) -> SettingError:
    """Say which file of settings is not as YAML, or Hydra, wants it.

    Args:
        error: That the files raise, of --config-dir for example.
    """
    mark = getattr(error, "problem_mark", None)  # of PyYAML: file, and line from 0
    name = mark.name if mark else getattr(error, "filename", getattr(error, "name", None))
    name = name or _file_being_loaded(error)
    location = f"{name or 'A file of settings'}{f', line {mark.line + 1}' if mark else ''}"
    reason = getattr(error, "problem", None) or getattr(error, "strerror", None) or error
    if isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    what = first_line(reason)
    fix = "Fix it" if name else "Fix it (HYDRA_FULL_ERROR=1 shows where)"
    return SettingError(f"{location} cannot be read: {what}. {fix}, or leave it out.")


def _file_being_loaded(error: BaseException) -> str | None:
    """The file of settings that Hydra was reading when an error was raised; None if none."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "load_config" and "full_path" in frame.f_locals:
            return str(frame.f_locals["full_path"])
    return None


def default_config(config_name: str, groups: Sequence[str]) -> "DictConfig":
    """The configuration as it is with the choices of some groups and nothing else.

    Args:
        config_name: Name of the primary configuration.
        groups: `group=choice`.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    if not GlobalHydra.instance().is_initialized():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(config_name, overrides=list(groups), return_hydra_config=True)
    loader = GlobalHydra.instance().config_loader()  # with the folder of --config-dir
    return loader.load_configuration(config_name, list(groups), RunMode.RUN)


def _all_keys(config_name: str) -> list[str]:
    """All dotted keys of the configuration as it is without overrides."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    def below(value: Any, prefix: str) -> list[str]:
        if not isinstance(value, dict):
            return [prefix]
        inner = [k for name, v in value.items() for k in below(v, f"{prefix}.{name}".lstrip("."))]
        return [prefix, *inner]

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return below(OmegaConf.to_container(compose(config_name), resolve=False), "")[1:]
