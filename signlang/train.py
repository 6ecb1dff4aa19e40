"""Train one network on one fold: `python -m signlang.train model=squeezenet fold=0`."""

from omegaconf import DictConfig

from signlang.application import run


def train(cfg: DictConfig) -> float:
    """Train, test and record one run; a finished one is only read.

    Returns:
        Accuracy on the test fold, for sweepers.
    """
    from signlang.runs import claiming, settings

    settings.check(cfg)  # in milliseconds, before any data is read
    fold = claiming.fold(cfg)
    with claiming.claimed(cfg, fold) as folder:
        metrics = folder.metrics()
        if metrics is None:
            from signlang.runs import training  # torch, Lightning and timm take seconds to import

            data = training.data(cfg, fold)
            model = training.model(cfg, data)
            callbacks, logger = training.callbacks(cfg), training.logger(cfg)
            trainer = training.trainer(cfg, callbacks, logger)
            trainer.fit(model, data, ckpt_path=training.resumable(folder))
            tester = training.tester(cfg, callbacks, logger)
            metrics = training.evaluated(cfg, folder, tester, data)
            folder.finish(metrics)
        claiming.report(folder, metrics)
    return float(metrics["test"]["accuracy"])


def main() -> None:
    """Entry point of the command."""
    from signlang.sweeps import plugins

    plugins.register()
    run(train, "train")


if __name__ == "__main__":
    main()
