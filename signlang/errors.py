"""Errors for users: what is wrong, where, and how to fix it, in one or a few sentences.

A command prints the text of a `SignlangError` without a stack trace and exits with its code.
Any other exception is a fault of the program; its trace is written to the run's log.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Final

# what each extra of pyproject.toml brings, by the names of modules
EXTRAS: Final = {
    "train": {
        "albumentations", "cleanlab", "cv2", "filelock", "fvcore", "jinja2", "kagglehub",
        "lightning_fabric", "matplotlib", "pooch", "pytorch_lightning", "safetensors", "scipy",
        "sklearn", "tensorboard", "timm", "torch", "torchmetrics", "torchvision",
    },
    "export": {"onnx", "onnxscript"},
    "search": {"optuna"},
    "cluster": {"submitit", "ray"},
    "wandb": {"wandb"},
    "mlflow": {"mlflow", "sqlalchemy", "alembic"},
}  # fmt: skip


class SignlangError(Exception):
    """Base of all errors that are meant to be read by the user."""

    exit_code = 1


class SettingError(SignlangError):
    """A setting, or a combination of settings, that cannot work."""

    exit_code = 2


class DataError(SignlangError):
    """Images, labels or folds that cannot be used as they are."""


class WeightsError(SignlangError):
    """Weights that are missing or do not fit the network."""


class RunError(SignlangError):
    """A run folder that is in use, belongs to other settings, or whose run failed."""


class DivergedError(RunError):
    """A training whose loss is no finite number any more.

    Args:
        epoch: In which it was seen, from 1.
        loss: Its mean over the epoch.
    """

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"The training diverged: its loss is {loss} in epoch {epoch}.")
        self.epoch, self.loss = epoch, loss


class BundleError(SignlangError):
    """A bundle that is missing, damaged, or of a kind that this version does not know."""


class SweepError(SignlangError):
    """A sweep with failed jobs; each failure has been reported before."""


class ServiceError(SignlangError):
    """A server that cannot start: its address is in use, or a process ended."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the work, which is in order; its text says how to resume.

    Args:
        text: For the user.
        exit_code: 128 and the number of the signal.
    """

    def __init__(self, text: str = "Interrupted.", exit_code: int = 130) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def missing_extra(error: ModuleNotFoundError) -> Exception:
    """Say which extra brings a module that is not installed; another error as it is.

    >>> print(missing_extra(ModuleNotFoundError("No module named 'cv2'", name="cv2")))
    cv2 is not installed: pip install "signlang[train]" brings it.
    """
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return SettingError(
                f'{module} is not installed: pip install "signlang[{extra}]" brings it.'
            )
    return error


def suggestion(word: str, known: Iterable[str]) -> str:
    """Suggest the closest known word, then list all of them, to end an error message.

    >>> suggestion("sqeezenet", ["resnet18", "squeezenet"])
    'Did you mean squeezenet? There are: resnet18, squeezenet.'
    """
    known = sorted(known)
    match = closest(word, known)
    return (f"Did you mean {match}? " if match else "") + f"There are: {', '.join(known)}."


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like another, upper and lower case apart; "" if none is.

    >>> closest("Sqeezenet", ["resnet18", "squeezenet"]), closest("x", ["squeezenet"])
    ('squeezenet', '')
    """
    name_of: dict[str, str] = {}
    for name in known:
        name_of.setdefault(name.lower(), name)
    matches = get_close_matches(word.lower(), name_of, n=1)
    return name_of[matches[0]] if matches else ""


ENTRIES: Final = 1_000  # of a folder that are looked at


def first_line(error: BaseException | str, most: int = 200) -> str:
    r"""First line of the text of an error, or its type: some libraries raise errors without text.

    >>> first_line(ValueError(" no such node\nadvice")), first_line(IndexError())
    ('no such node', 'IndexError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def near_path(path: Path) -> str:
    """Suggest a path that is there for one that is not, as the end of an error; "" if none is near.

    >>> near_path(Path("signlang/errors.pi"))
    ' Did you mean signlang/errors.py?'
    """
    if path.exists():  # something else is wrong with it
        return ""
    missing = path
    while not missing.parent.is_dir() and missing != missing.parent:
        missing = missing.parent
    try:
        names = [entry.name for entry in islice(missing.parent.iterdir(), ENTRIES)]
    except OSError:
        return ""
    match = closest(missing.name, names)
    whole = missing.parent / match / path.relative_to(missing)
    return f" Did you mean {whole if whole.exists() else missing.parent / match}?" if match else ""


def listing(lines: Iterable[str], most: int = 20) -> str:
    r"""Indent lines below a sentence, followed by the number of omitted ones.

    >>> listing(["a", "b", "c"], most=2)
    '\n  a\n  b\n  ... and 1 more'
    """
    lines = list(lines)
    text = "".join(f"\n  {line}" for line in islice(lines, most))
    return text + (f"\n  ... and {len(lines) - most} more" if len(lines) > most else "")
