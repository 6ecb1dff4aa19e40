"""Our variant, as `signlang.train`, and its ceiling: the same steps on one tensor in memory."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from cases import Case
from clock import Clock
from hydra import compose, initialize_config_dir
from ticks import Enough, Ticks
from torch.nn import functional as F

from signlang.hydra_app import CONF
from signlang.models.classifier import Classifier
from signlang.runs import lifecycle, training
from signlang.system import choose_precision

OPTIMIZERS: Final = {"adam": "torch.optim.Adam", "adamw": "torch.optim.AdamW"}


def overrides(case: Case, root: Path) -> list[str]:
    """Overrides of `python -m signlang.train` that train a case."""
    return [
        f"data={case.data}", f"data.root='{root}'", f"model={case.network}",
        f"image_size={case.size}", f"augment={case.data}",
        f"batch_size={case.batch}", f"optimizer={case.optimizer}", f"optimizer.lr={case.rate}",
        "trainer.gradient_clip_val=null",
    ]  # fmt: skip


def classifier(case: Case) -> Classifier:
    """The network of a case, with random weights."""
    return Classifier(
        network={"_target_": f"signlang.models.networks.{case.network}"},
        image_size=case.size,
        classes=[str(number) for number in range(case.classes)],
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        optimizer={"_target_": OPTIMIZERS[case.optimizer], "lr": case.rate},
    )  # fmt: skip


def race(case: Case, root: Path, clock: Clock) -> None:
    """Train as the command does, with all that it writes, until the measurement is complete."""
    with TemporaryDirectory() as place, initialize_config_dir(str(CONF), version_base="1.3"):
        more = ["callbacks.one_cycle=null", "trainer.max_epochs=100000", f"run_folder={place}"]
        cfg = compose("train", [*overrides(case, root), *more])
        module = training.build_datamodule(cfg, lifecycle.read_fold(cfg))
        model, callbacks = training.build_classifier(cfg, module), training.build_callbacks(cfg)
        trainer = training.build_trainer(
            cfg, [*callbacks, Ticks(clock)], training.build_loggers(cfg)
        )
        with suppress(Enough):
            trainer.fit(model, module)


def ceiling(case: Case, root: Path, clock: Clock) -> None:
    """Forward, backward and optimizer step on one batch in memory; nothing else.

    The batch is a real one: steps on noise are up to 5 % faster, as max-pooling and ELU get other
    values.
    """
    with TemporaryDirectory() as place, initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*overrides(case, root), f"run_folder={place}"])
        bytes_, labels = next(
            iter(training.build_datamodule(cfg, lifecycle.read_fold(cfg)).train_dataloader())
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = choose_precision(str(cfg.trainer.precision), "auto")
    model = classifier(case).to(device).train()
    optimizer = model.configure_optimizers()
    images, labels = bytes_.to(device), labels.to(device)
    normal = images.permute(0, 3, 1, 2).float().sub_(128).div_(64)
    while True:
        with torch.autocast(device, torch.bfloat16, enabled="bf16" in precision):
            loss = F.cross_entropy(model.network(normal).float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if clock.tick(case.batch):
            return
