"""Export runs as a bundle: `python -m signlang.export run=runs/digits/.../fold=0`."""

from pathlib import Path

from omegaconf import DictConfig

from signlang.files import expanded
from signlang.hydra_app import run


def export(cfg: DictConfig) -> Path:
    """Write a bundle, which recognises signs without torch, once it agrees with the run.

    Returns:
        The bundle, a folder or a ZIP file.
    """
    from signlang import validation

    validation.check_export_packages()
    from signlang.studies import ranking

    ranking.locate_members(cfg)
    validation.check_export_config(cfg)  # in milliseconds: before torch is imported
    from signlang.runs.trained_run import load_trained_run

    loaded = [load_trained_run(expanded(run), trust=cfg.trust) for run in cfg.run]
    from signlang.deploy import (  # torch is there now
        bundle_writer,
        ensemble,
        model_card,
        onnx_export,
        parity,
        pipeline,
    )
    from signlang.inference.bundle import load_bundle
    from signlang.inference.onnx_model import OnnxModel

    trained = (
        pipeline.choose_calibration(loaded[0], str(cfg.calibration))
        if len(loaded) == 1
        else ensemble.build_ensemble(loaded, str(cfg.calibration))
    )
    out, images = bundle_writer.bundle_target(cfg, trained), pipeline.run_images(cfg, trained)
    with bundle_writer.assemble_bundle(out) as folder:
        graph = onnx_export.network_graph(trained)
        models = {"fp32": pipeline.onnx_model(trained, graph)}
        program = folder / onnx_export.PROGRAM if "torch_export" in cfg.formats else None
        if program is not None:
            onnx_export.write_program(trained, program)
        network = OnnxModel(models["fp32"], trained.classes, bundle_writer.MODEL_FILES["fp32"])
        hands = trained.hand_input(str(cfg.cache_dir))
        agreement = parity.verify_parity(trained, network, images, cfg.verify, program, hands)
        int8_layers = ""
        if images is not None and cfg.quantize:
            models["int8"], int8_layers = pipeline.quantize(cfg, trained, images, graph)
        measured = pipeline.measure(cfg, trained, images, models, int8_layers)
        manifest = bundle_writer.manifest_fields(
            trained, bundle_writer.bundle_name(cfg, trained), models, hands
        ) | pipeline.describe_models(measured, agreement, trained)
        mean_hands = pipeline.mean_hands(cfg, trained, images, hands)
        bundle_writer.write_files(trained, models, folder, hands, mean_hands)
        model_card.card(trained, measured, manifest).write(folder)
        bundle_writer.write_manifest(folder, manifest)
        load_bundle(folder)  # as a service will
    pipeline.report(out, trained, measured, agreement)
    return out


def main() -> None:
    """Entry point of the command."""
    run(export, "export")


if __name__ == "__main__":
    main()
