"""Export a finished run as a bundle: `python -m signlang.export run=runs/digits/.../fold=0`."""

from omegaconf import DictConfig

from signlang.application import run


def export(cfg: DictConfig) -> None:
    """Write what recognises signs without torch, after it was found to say the same as the run."""
    from signlang.deploy import checks

    checks.check(cfg)  # in milliseconds: before torch is imported
    from pathlib import Path

    from signlang.deploy import assembling, bundle, finished, making, modelcard, verifying

    trained = finished.read(Path(str(cfg.run)).expanduser())
    out, found = assembling.target(cfg, trained), making.pictures_of(cfg, trained)
    with assembling.assembled(out) as folder:
        info = assembling.facts(trained, assembling.name_of(cfg, trained))
        network = making.write_models(cfg, trained, folder, info)
        agreement = verifying.verified(trained, bundle.load(folder), found, cfg.verify)
        layers = ""
        if found is not None and cfg.quantize:
            layers = making.quantize(cfg, trained, found, network, folder)
            info["models"]["int8"] = making.INT8
            assembling.seal(folder, info)
        measured = making.measured(cfg, trained, found, folder, layers)
        info |= making.told(measured, agreement, trained)
        modelcard.card(trained, measured, info).write(folder)
        assembling.seal(folder, info)
        bundle.load(folder)  # as a service will
    making.report(out, trained, measured, agreement)


def main() -> None:
    """Entry point of the command."""
    run(export, "export")


if __name__ == "__main__":
    main()
