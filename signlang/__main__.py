"""Umbrella of the verbs: `signlang VERB ...`, `python -m signlang VERB ...`."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

from signlang import command_line
from signlang.command_line import HELP, VERBS, VERSION
from signlang.errors import suggestion

COMPLETION: Final = {"-sc", "--shell-completion"}


def overview() -> str:
    """List the verbs, each with what it takes and does."""
    width = max(len(f"{name} {verb.usage}") for name, verb in VERBS.items())
    lines = [f"  {f'{name} {verb.usage}':{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "signlang VERB ...: trains, compares and deploys classifiers of hand signs.",
            "",
            *lines,
            f"  {'hands':{width}}  get the networks that find hands, for hands=crop",
            "",
            "Settings are written as key=value. `signlang VERB --help` shows all of a verb,",
            "`signlang --version` the version. Tab completion, in bash and zsh:",
            '  eval "$(signlang -sc install=bash)"',
            "",
        ]
    )


@command_line.standard_streams()
def main() -> None:
    """Run the verb that the first word names, with the rest of the words.

    Only that verb's module is imported.
    """
    verb, *words = sys.argv[1:] or HELP
    if verb in HELP:
        sys.stdout.write(overview())
    elif VERSION in (verb, *words):
        sys.stdout.write(command_line.version_line())
    elif verb in COMPLETION:
        _complete(words)
    elif verb == "hands":  # no verb of Hydra: it fetches what hands=crop needs
        sys.argv[1:] = words
        import_module("signlang.hands.__main__").main()
    elif verb in VERBS:
        sys.argv[1:] = words
        import_module(f"signlang.{verb}").main()
    else:
        sys.stderr.write(f"There is no verb {verb}. {suggestion(verb, VERBS)}\n")
        sys.exit(2)


def _complete(words: list[str]) -> None:
    """Hydra's tab completion: of the verb, then of its settings."""
    name, _, line = os.environ.get("COMP_LINE", "").partition(" ")
    verb, blank, rest = line.lstrip().partition(" ")
    is_query = any(word.startswith("query=") for word in words)
    key, equals, _ = rest.rpartition(" ")[2].partition("=")
    if is_query and not blank:
        sys.stdout.write(f"{' '.join(VERBS)}\n")
    elif is_query and equals and key in {"run", "study", "studies"}:
        sys.stdout.write("".join(f"{key}={name}\n" for name in _names(key)))
    elif not is_query or (verb in VERBS and verb != "predict"):  # which does without Hydra
        os.environ["COMP_LINE"] = f"{name} {rest}"  # as if there were no umbrella
        sys.argv[1:] = ["-sc", *words]
        import_module(f"signlang.{verb if is_query else 'train'}").main()


def _names(key: str) -> list[str]:
    """What the shell offers for a run or a study: names below the folder `runs`."""
    settings = [path.parents[1] for path in Path("runs").glob("*/*/fold=*/record.json")]
    studies = sorted({setting.parent.name for setting in settings})
    if key != "run":
        return studies
    return ["latest", *studies, *sorted({f"{s.parent.name}/{s.name}" for s in settings})]


if __name__ == "__main__":
    main()
