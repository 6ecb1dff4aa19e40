"""Serve bundles over HTTP, with a webcam page: `python -m signlang.serve bundle=B`."""

from omegaconf import DictConfig

from signlang.hydra_app import run


def serve(cfg: DictConfig) -> None:
    """Answer until SIGTERM or Ctrl-C; needs onnxruntime, not torch."""
    from omegaconf import OmegaConf

    from signlang import console
    from signlang.server import config
    from signlang.server.config import checked_config

    config.check_platform()
    config.check_packages()
    options = checked_config(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    from signlang.server.processes import Supervisor, start_json_log
    from signlang.server.registry import fingerprints_of, read_bundles

    bundles, default = read_bundles(options.paths, options.default)
    console.log.info("Loading %s; the default is %s.", ", ".join(bundles), default)
    for bundle in bundles.values():
        if bundle.no_threshold and options.reject_threshold is None:
            console.log.info("%s", bundle.fallback_text)
    start_json_log()
    Supervisor(options, fingerprints_of(bundles)).run()


def main() -> None:
    """Entry point of the command."""
    run(serve, "serve")


if __name__ == "__main__":
    main()
