"""Train one network on one fold: `python -m signlang.train model=squeezenet fold=0`."""

import math
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from signlang.errors import SettingError
from signlang.hydra_app import run

if TYPE_CHECKING:
    from signlang.data.splits import Fold
    from signlang.runs.folder import RunFolder
    from signlang.runs.ranks import Peers, Rank


def train(cfg: DictConfig) -> float:
    """Train, test and record one run; a finished one is only read.

    Returns:
        Accuracy on the validation subset, for sweepers: what chooses a setting must not see the
        test fold. With `lr_find=true` the learning rate that was found, and nothing is trained.
        nan in a process that only trains along with another one.
    """
    from signlang import system, validation

    validation.check_train_config(cfg)  # in milliseconds, before any data is read
    from signlang.runs import lifecycle

    overrides = list(HydraConfig.get().overrides.task)
    cfg.run_folder = str(lifecycle.run_folder(cfg, overrides).path)
    with peers_of(cfg) as peers, system.stopping_between_batches():
        if peers.rank is not None and peers.rank.number > 0:
            follow(peers.rank)
            return math.nan
        fold = lifecycle.read_fold(cfg)
        if cfg.lr_find:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise SettingError("lr_find=true is for one run: leave -m out.")
            return learning_rate_of_range_test(cfg, fold)
        with lifecycle.started_run(cfg, fold, overrides) as folder:
            metrics = folder.metrics() or trained_metrics(cfg, fold, folder, peers)
            lifecycle.show_metrics(folder, metrics)
        system.check_stop()
    return float(metrics["validation"]["accuracy"])


def peers_of(cfg: DictConfig) -> "Peers":
    """The other processes that train the same run, if it is trained on several devices."""
    from signlang.runs import ranks

    if ranks.process_count(cfg.trainer) == 1 or ranks.started_together() == 1:
        return ranks.local_peers(cfg.trainer)
    from signlang.runs import process_group  # imports torch: the others wait for rank 0

    return process_group.SlurmPeers(ranks.slurm_rank(cfg.trainer))


def follow(rank: "Rank") -> None:
    """Train along with rank 0, which `srun` started elsewhere, and write nothing."""
    from signlang import console
    from signlang.runs import ranks, training

    ranks.ignore_signals()
    console.mute()
    training.follow(rank)


def trained_metrics(
    cfg: DictConfig, fold: "Fold", folder: "RunFolder", peers: "Peers"
) -> dict[str, Any]:
    """Train and test the network of a run that is not finished."""
    from signlang import system

    system.check_accelerator(str(cfg.trainer.accelerator))
    peers.start()
    with system.ending_at_once():  # torch, Lightning and timm take seconds to import
        from signlang.callbacks import progress
        from signlang.runs import lifecycle, training

    callbacks, logger = training.build_callbacks(cfg), training.build_loggers(cfg)
    data = training.build_datamodule(cfg, fold)
    model = training.build_classifier(cfg, data)
    trainer = training.build_trainer(cfg, callbacks, logger, peers.rank)
    checkpoint = training.resume_checkpoint(folder) or training.configured_checkpoint(
        cfg, data, model
    )
    work = training.SharedWork(lifecycle.plain(cfg), fold, checkpoint)
    training.fit(trainer, model, data, work, peers)
    progress.show_profile(trainer)
    tested = training.keep_weights(cfg, folder, trainer)
    tester = training.build_tester(cfg, callbacks, logger)
    metrics = training.test_and_record(cfg, folder, tester, data, model, tested)
    folder.finish(metrics)
    return metrics


def learning_rate_of_range_test(cfg: DictConfig, fold: "Fold") -> float:
    """Find a learning rate for a run that is not started; nan if there is none to suggest."""
    from signlang import system

    system.check_accelerator(str(cfg.trainer.accelerator))
    with system.ending_at_once():
        from signlang.runs import training

    return training.find_learning_rate(cfg, fold)


def main() -> None:
    """Entry point of the command."""
    from signlang.sweeps import sweeper

    sweeper.register()
    run(train, "train")


if __name__ == "__main__":
    main()
