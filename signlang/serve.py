"""Serve bundles over HTTP, with a webcam page: `python -m signlang.serve bundle=B`."""

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from signlang.hydra_app import run


def serve(cfg: DictConfig) -> None:
    """Answer until SIGTERM or Ctrl-C; needs onnxruntime, not torch."""
    from omegaconf import OmegaConf

    from signlang import console
    from signlang.server import config, json_log
    from signlang.server.config import checked_config

    config.check_packages()
    options = checked_config(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    from signlang.server.processes import Supervisor
    from signlang.server.registry import read_bundles

    bundles, default = read_bundles(options.paths, options.default)
    console.log.info("Loading %s; the default is %s.", ", ".join(bundles), default)
    json_log.start_json_log()
    Supervisor(options).run()


def gathered(words: Sequence[str]) -> list[str]:
    """Write repeated `bundle=` as the one list that Hydra understands.

    >>> gathered(["bundle=a", "port=0", "bundle=b, c"])
    ['port=0', "bundle=['a','b, c']"]
    """
    places = [word.removeprefix("bundle=") for word in words if word.startswith("bundle=")]
    if not places or any(place[:1] in {"[", "'", '"'} for place in places):
        return list(words)
    escaped = [place.replace("\\", "\\\\").replace("'", "\\'") for place in places]
    rest = [word for word in words if not word.startswith("bundle=")]
    return [*rest, "bundle=[" + ",".join(f"'{place}'" for place in escaped) + "]"]


def main() -> None:
    """Entry point of the command."""
    sys.argv[1:] = gathered(sys.argv[1:])
    run(serve, "serve")


if __name__ == "__main__":
    main()
