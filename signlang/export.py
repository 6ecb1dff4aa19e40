"""Export a finished run as a bundle: `python -m signlang.export run=runs/digits/.../fold=0`."""

from pathlib import Path

from omegaconf import DictConfig

from signlang.hydra_app import run


def export(cfg: DictConfig) -> Path:
    """Write what recognises signs without torch, after it was found to say the same as the run.

    Returns:
        The bundle, a folder or a ZIP file.
    """
    from signlang import validation

    validation.check_export_config(cfg)  # in milliseconds: before torch is imported
    from signlang.deploy import bundle_writer, model_card, parity, pipeline
    from signlang.inference import bundle
    from signlang.runs import trained_run

    trained = trained_run.load_trained_run(Path(str(cfg.run)).expanduser(), trust=cfg.trust)
    out, found = bundle_writer.bundle_target(cfg, trained), pipeline.run_images(cfg, trained)
    with bundle_writer.assemble_bundle(out) as folder:
        info = bundle_writer.manifest_fields(trained, bundle_writer.bundle_name(cfg, trained))
        network = pipeline.write_models(cfg, trained, folder, info)
        agreement = parity.verify_parity(trained, bundle.load_bundle(folder), found, cfg.verify)
        layers = ""
        if found is not None and cfg.quantize:
            layers = pipeline.quantize(cfg, trained, found, network, folder)
            info["models"]["int8"] = pipeline.INT8
            bundle_writer.write_manifest(folder, info)
        measured = pipeline.measure(cfg, trained, found, folder, layers)
        info |= pipeline.describe_models(measured, agreement, trained)
        model_card.card(trained, measured, info).write(folder)
        bundle_writer.write_manifest(folder, info)
        bundle.load_bundle(folder)  # as a service will
    pipeline.report(out, trained, measured, agreement)
    return out


def main() -> None:
    """Entry point of the command."""
    run(export, "export")


if __name__ == "__main__":
    main()
