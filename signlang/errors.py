"""Errors for users: what is wrong, where, and how to fix it, in one or a few sentences.

A command prints the text of a `SignlangError` without a stack trace and exits with its code.
Any other exception is a fault of the program; its trace is written to the run's log.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice


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


class BundleError(SignlangError):
    """A bundle that is missing, damaged, or of a kind that this version does not know."""


class SweepError(SignlangError):
    """A sweep with failed jobs; each failure has been reported before."""


class ServiceError(SignlangError):
    """A server that cannot start: its address is in use, or a process ended."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Suggest the closest known word, then list all of them, to end an error message.

    >>> suggestion("sqeezenet", ["resnet18", "squeezenet"])
    'Did you mean squeezenet? There are: resnet18, squeezenet.'
    """
    known = sorted(known)
    close = get_close_matches(word, known, n=1)
    return (f"Did you mean {close[0]}? " if close else "") + f"There are: {', '.join(known)}."


def listing(lines: Iterable[str], most: int = 20) -> str:
    r"""Indent lines below a sentence, followed by the number of omitted ones.

    >>> listing(["a", "b", "c"], most=2)
    '\n  a\n  b\n  ... and 1 more'
    """
    lines = list(lines)
    shown = "".join(f"\n  {line}" for line in islice(lines, most))
    return shown + (f"\n  ... and {len(lines) - most} more" if len(lines) > most else "")
