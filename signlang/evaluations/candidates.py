"""A run or a bundle comes in; a network that can be shown pictures goes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from signlang.confidence.calibration import Calibration, calibrated
from signlang.data.pictures import Pixels, squeezed

Floats = npt.NDArray[np.float64]
BATCH: Final = 64  # pictures


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network with all that belongs to it.

    Attributes:
        kind: `run`, `bundle` or `weights`.
        name: For people and for the name of a folder.
        path: Where it came from.
        classes: Names, in the order of its outputs.
        sides: To which squares, one after another, pictures are brought, in pixels.
        judge: Maps (n, side, side, 3) to (n, classes) probabilities, uncalibrated.
        calibration: What came with it, if anything.
        facts: What else is known of it, for the record.
    """

    kind: str
    name: str
    path: Path
    classes: tuple[str, ...]
    sides: tuple[int, ...]
    judge: Callable[[Pixels], Floats]
    calibration: Calibration | None
    facts: Mapping[str, Any]

    def prepared(self, pictures: Pixels) -> Pixels:
        """Bring (n, h, w, 3) pictures to the last side, through any that are still to come."""
        return squeezed(pictures, *self.sides)


def of_run(path: Path) -> Candidate:
    """The best checkpoint of a finished run.

    Raises:
        RunError: If there is no finished run, or its checkpoint is damaged.
    """
    from signlang.deploy import finished

    run = finished.read(path)
    here = path.resolve()
    return Candidate(
        kind="run",
        name=f"{here.parent.name},{here.name}",
        path=path,
        classes=run.classes,
        sides=run.sides,
        judge=shown_to(run.classifier),
        calibration=run.stored,
        facts={
            "model": run.metrics["model"], "trained_on": run.record["data"],
            "fingerprint": run.record["fingerprint"],
            "protocol": run.metrics.get("protocol", ""),
        },
    )  # fmt: skip


def of_bundle(path: Path) -> Candidate:
    """A bundle; what its graph does about the temperature is undone.

    Raises:
        BundleError: If it is missing or damaged.
    """
    from signlang.deploy.bundle import Network, load

    bundle = load(path)
    network = Network(bundle)

    def judge(pictures: Pixels) -> Floats:
        return calibrated(network(pictures), 1 / bundle.temperature)

    here = path.resolve()
    return Candidate(
        kind="bundle",
        name=here.stem if here.is_file() else here.name,
        path=path,
        classes=bundle.classes,
        sides=bundle.sides[:1],  # its graph does the rest
        judge=judge,
        calibration=Calibration(
            bundle.temperature,
            float(bundle.info.get("wanted_precision") or Calibration.wanted_precision),
            bundle.reject_threshold,
        ),
        facts={"model": bundle.info.get("model"), "bundle": bundle.name},
    )


def shown_to(model: Any, swap_axes: bool = False) -> Callable[[Pixels], Floats]:
    """Show pictures to a classifier in float32, on a GPU if there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    ready = model.eval().to(device)

    def judge(pictures: Pixels) -> Floats:
        given = torch.from_numpy(pictures)
        if swap_axes:  # height and width exchanged
            given = given.transpose(1, 2)
        with torch.inference_mode():
            shares = ready(given.to(device)).double().softmax(1)
        return np.asarray(shares.cpu().numpy(), dtype=np.float64)

    return judge
