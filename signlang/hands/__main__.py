"""Get the networks that find hands: `python -m signlang.hands`, `signlang hands`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from signlang import command_line, console, system
from signlang.constraints import ExistingPath, Strict, validated
from signlang.errors import SettingError, SignlangError
from signlang.hands import hand_networks

HELP: Final = """python -m signlang.hands: gets the networks that find hands, for hands=crop and
hands=landmarks.

  python -m signlang.hands
  python -m signlang.hands model=hand_landmarker.task

Both are MediaPipe's (Apache-2.0). pip downloads the wheel that holds them, 36 MB,
without installing it; they are converted to ONNX and kept in the cache.

  model=FILE       takes them from MediaPipe's hand_landmarker.task instead
  cache_dir=DIR    the cache; else SIGNLANG_CACHE, or ~/.cache/signlang
  verbose=true     false shows errors only
"""


class HandsConfig(Strict):
    """The settings; `HELP` documents each. Their values come as the text of a word."""

    model_config = ConfigDict(strict=False)

    model: ExistingPath | None = None
    cache_dir: Annotated[Path, Field(description="the path of a folder")] | None = None
    verbose: bool = True

    @property
    def cache(self) -> str:
        """The cache folder."""
        return str(self.cache_dir or os.environ.get("SIGNLANG_CACHE") or "~/.cache/signlang")


def parse_arguments(arguments: list[str]) -> HandsConfig:
    """Read the words of a command.

    Raises:
        SettingError: Names the word that cannot work.
    """
    settings, paths, _ = command_line.sort_words(arguments, known=HandsConfig.model_fields)
    if paths:
        raise SettingError(f"{paths[0]}: settings are written as key=value, see --help.")
    return validated(HandsConfig, dict(word.split("=", 1) for word in settings))


def get_networks(config: HandsConfig) -> None:
    """Fetch or convert the networks, and load them once."""
    if config.model is None:
        hand_networks.fetch_networks(config.cache)
    networks = hand_networks.find_networks(
        None if config.model is None else str(config.model), config.cache
    )
    networks.finder()
    folder = hand_networks.network_folder(config.cache, networks.key)
    console.log.info("hand networks: %s (Apache-2.0, see %s)", folder, hand_networks.LICENSE)


@command_line.standard_streams()
def main() -> None:
    """Entry point of the command."""
    arguments = sys.argv[1:]
    if command_line.VERSION in arguments:
        sys.stdout.write(command_line.version_line())
        return
    if not {*command_line.HELP}.isdisjoint(arguments):
        sys.stdout.write(HELP)
        return
    system.restore_signals()
    try:
        config = parse_arguments(arguments)
        console.start(config.verbose)
        get_networks(config)
    except SignlangError as error:
        console.show_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
