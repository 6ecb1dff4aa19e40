"""Train one network on one fold: `python -m signlang.train model=squeezenet fold=0`."""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from signlang.hydra_app import run


def train(cfg: DictConfig) -> float:
    """Train, test and record one run; a finished one is only read.

    Returns:
        Accuracy on the validation subset, for sweepers: what chooses a setting must not see the
        test fold.
    """
    from signlang import system, validation

    validation.check_train_config(cfg)  # in milliseconds, before any data is read
    from signlang.runs import lifecycle

    fold = lifecycle.read_fold(cfg)
    overrides = list(HydraConfig.get().overrides.task)
    cfg.run_folder = str(lifecycle.run_folder(cfg, overrides).path)
    with lifecycle.started_run(cfg, fold, overrides) as folder:
        metrics = folder.metrics()
        if metrics is None:
            system.check_accelerator(str(cfg.trainer.accelerator))
            from signlang.runs import training  # torch, Lightning and timm take seconds to import

            data = training.build_datamodule(cfg, fold)
            model = training.build_classifier(cfg, data)
            callbacks, logger = training.build_callbacks(cfg), training.build_loggers(cfg)
            trainer = training.build_trainer(cfg, callbacks, logger)
            last = training.resume_checkpoint(folder)
            trainer.fit(
                model, data, ckpt_path=last, weights_only=True
            )  # it may come from elsewhere
            tester = training.build_tester(cfg, callbacks, logger)
            metrics = training.test_and_record(cfg, folder, tester, data)
            folder.finish(metrics)
        lifecycle.show_metrics(folder, metrics)
    return float(metrics["validation"]["accuracy"])


def main() -> None:
    """Entry point of the command."""
    from signlang.sweeps import sweeper

    sweeper.register()
    run(train, "train")


if __name__ == "__main__":
    main()
