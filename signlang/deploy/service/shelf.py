"""Bundles come in; the networks among which a request can choose go out, loaded and tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from signlang.deploy.bundle import Bundle, Network, load
from signlang.deploy.service import tuning
from signlang.deploy.service.options import Options
from signlang.deploy.service.refusals import Refusal
from signlang.errors import BundleError, SettingError, SignlangError, suggestion

FALLBACK: Final = 0.5  # "not sure" below it, where a bundle holds no threshold
CARD: Final = "card.html"


@dataclass(frozen=True, eq=False)
class Served:
    """A network that answers.

    Attributes:
        bundle: Where it comes from.
        network: Maps pictures to probabilities.
        threshold: Below this probability an answer is not sure.
        browser: Precision of the model that a browser may run itself.
        onnx: That model.
        card: HTML, or nothing.
        max_batch: Pictures that it computes at once.
    """

    bundle: Bundle
    network: Network
    threshold: float
    browser: str
    onnx: bytes
    card: bytes
    max_batch: int


class Shelf(Mapping[str, Served]):
    """The networks of a service by name.

    Attributes:
        default: Name of the one that answers when a request names none.
    """

    def __init__(self, served: Mapping[str, Served], default: str) -> None:
        self._served, self.default = dict(served), default

    def __getitem__(self, name: str) -> Served:
        return self._served[name]

    def __iter__(self) -> Any:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    def chosen(self, name: str | None) -> str:
        """The name of the network that a request asks for.

        Raises:
            Refusal: 404 if there is none of that name.
        """
        name = name or self.default
        if name not in self._served:
            there = ", ".join(sorted(self._served))
            raise Refusal(404, f"There is no network of this name. There are: {there}.")
        return name


def named(paths: Sequence[Path], default: str | None) -> tuple[dict[str, Bundle], str]:
    """Read bundles, without their networks.

    Returns:
        The bundles by name, and the name of the default.

    Raises:
        SignlangError: If one cannot be used, two have one name, or the default is not among them.
    """
    bundles: dict[str, Bundle] = {}
    for path in paths:
        bundle = load(path)
        if bundle.name in bundles:
            raise SettingError(
                f"{bundles[bundle.name].path} and {path} are both named {bundle.name}: serve one "
                "of them, or export one again with name=ANOTHER."
            )
        bundles[bundle.name] = bundle
    chosen = default or next(iter(bundles))
    if chosen not in bundles:
        raise SettingError(f"default={chosen}: {suggestion(chosen, bundles)}")
    return bundles, chosen


def loaded(options: Options) -> Shelf:
    """Load all networks and let each compute a picture, so that the first request is not slow.

    Raises:
        SignlangError: If one cannot be used.
    """
    bundles, default = named(options.paths, options.default)
    return Shelf({name: _served(bundle, options) for name, bundle in bundles.items()}, default)


def _served(bundle: Bundle, options: Options) -> Served:
    network = Network(bundle, options.precision, options.device, options.threads)
    side = bundle.sides[0]  # the graph squeezes to the others
    try:
        network(np.zeros((1, side, side, 3), dtype=np.uint8))
    except Exception as error:  # onnxruntime has no base class for what it raises
        first = str(error).strip().splitlines()[0][:200]
        raise BundleError(f"The network of {bundle.path} does not compute: {first}") from None
    threshold = options.reject_threshold
    if threshold is None:
        threshold = FALLBACK if bundle.reject_threshold is None else bundle.reject_threshold
    browser = "int8" if "int8" in bundle.models else "fp32"
    return Served(
        bundle, network, threshold, browser,
        onnx=bundle.read(bundle.models[browser]), card=_card(bundle),
        max_batch=options.max_batch or tuning.best_batch(network, side),
    )  # fmt: skip


def _card(bundle: Bundle) -> bytes:
    try:
        return bundle.read(CARD)
    except SignlangError:
        return b""
