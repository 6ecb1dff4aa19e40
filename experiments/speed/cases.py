"""Cases of the benchmark: networks at the size, batch and augmentation of their studies."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Case:
    """A network as its study trains it.

    Attributes:
        name: For tables and the command line.
        network: Name in `conf/model`.
        data: Name in `conf/data`; its augmentation has the same name.
        size: Width and height of the network's images, in pixels.
        batch: Images per step.
        classes: Number of outputs of the network.
        optimizer: Name in `conf/optimizer`.
        rate: Learning rate.
        goal: Wanted speed-up against the published variant; 0 for no goal.
    """

    name: str
    network: str
    data: str
    size: int
    batch: int
    classes: int
    optimizer: str
    rate: float
    goal: float = 0.0


def _digits(name: str, network: str, size: int, batch: int, goal: float = 0.0) -> Case:
    return Case(name, network, "digits", size, batch, 10, "adam", 4e-4, goal)


def _letters(network: str, goal: float) -> Case:
    return Case(network, network, "asl_alphabet", 224, 64, 29, "adamw", 1e-4, goal=goal)


CASES: Final = {
    case.name: case
    for case in (
        _digits("model_a", "simple_cnn", 100, 64, goal=7.0),
        _digits("model_a_32", "simple_cnn", 100, 32),
        _digits("model_a_128", "simple_cnn", 100, 128),
        _digits("model_b", "mobilenetv2_dense", 128, 64, goal=3.0),
        _letters("squeezenet", 4.8),
        _letters("mobilenetv2", 3.6),
        _letters("resnet18", 3.2),
    )
}
