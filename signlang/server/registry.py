"""Registry of the loaded models, with the batch size that suits each.

On a processor larger batches fall out of the caches: SqueezeNet computes single images a fifth
faster than sixteen at once. Small networks and graphics cards want large batches. So it is tried.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from signlang.arrays import Floats32, Pixels
from signlang.errors import BundleError, SettingError, SignlangError, first_line, suggestion
from signlang.hands.hand_input import HandInput
from signlang.inference.bundle import Bundle, DrawnHand, load_bundle, load_hands, load_signs
from signlang.inference.onnx_model import OnnxModel
from signlang.server.config import ServeConfig
from signlang.server.schemas import RequestError

SIZES: Final = (1, 2, 4, 8, 16, 32)
REPEATS: Final = 3  # of which the fastest counts: others may have been disturbed
LONGEST: Final = 0.2  # seconds of a batch; an image that arrives meanwhile waits for it
PATIENCE: Final = 8  # larger batches are not tried if such a multiple brings nothing
WORTH: Final = 0.95  # a larger batch is to save a twentieth of the time of an image


Compute = Callable[[Pixels], Floats32]


def best_batch_size(compute: Compute, image_size: int) -> int:
    """Try batches of rising size on black images of that size; takes about a second."""
    chosen, fastest = 1, float("inf")
    for size in SIZES:
        images = np.zeros((size, image_size, image_size, 3), dtype=np.uint8)
        compute(images)  # the first one of a size takes memory
        seconds = min(_timed(compute, images) for _ in range(REPEATS))
        if seconds > LONGEST or size >= PATIENCE * chosen:
            break
        if seconds / size < fastest * WORTH:
            chosen, fastest = size, seconds / size
    return chosen


def _timed(compute: Compute, images: Pixels) -> float:
    start = time.perf_counter()
    compute(images)
    return time.perf_counter() - start


CARD: Final = "card.html"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to predict.

    Attributes:
        bundle: Where it comes from.
        network: Maps images to probabilities.
        threshold: Below this probability an answer is not sure.
        threshold_source: `setting`, `bundle`, or `fallback` where the bundle has none.
        browser: Precision of the model that a browser may run itself.
        onnx: That model.
        card: HTML, or nothing.
        max_batch: Images that it computes at once.
        hands: What it sees of an image; None: the whole image.
        signs: The mean hand of each class, if the bundle has them.
    """

    bundle: Bundle
    network: OnnxModel
    threshold: float
    threshold_source: str
    browser: str
    onnx: bytes
    card: bytes
    max_batch: int
    hands: HandInput | None = None
    signs: Mapping[str, DrawnHand] = field(default_factory=dict)


class ModelRegistry(Mapping[str, LoadedModel]):
    """The networks of a service by name.

    Attributes:
        default: Name of the one that answers when a request names none.
    """

    def __init__(self, models: Mapping[str, LoadedModel], default: str) -> None:
        self._models, self.default = dict(models), default

    def __getitem__(self, name: str) -> LoadedModel:
        return self._models[name]

    def __iter__(self) -> Any:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def resolve(self, name: str | None) -> str:
        """The name of the network that a request asks for.

        Raises:
            RequestError: 404 if there is none of that name.
        """
        name = name or self.default
        if name not in self._models:
            names = ", ".join(sorted(self._models))
            raise RequestError(404, f"There is no network of this name. There are: {names}.")
        return name


def read_bundles(paths: Sequence[Path], default: str | None) -> tuple[dict[str, Bundle], str]:
    """Read bundles, without their networks.

    Returns:
        The bundles by name, and the name of the default.

    Raises:
        SignlangError: If one cannot be used, two have one name, or the default is not among them.
    """
    bundles: dict[str, Bundle] = {}
    for path in paths:
        bundle = load_bundle(path)
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


def fingerprints_of(bundles: Mapping[str, Bundle]) -> dict[str, str]:
    """What tells bundles from those that replace them, by name."""
    return {name: bundle.fingerprint for name, bundle in bundles.items()}


def load_models(
    options: ServeConfig, fingerprints: Mapping[str, str] | None = None
) -> ModelRegistry:
    """Load all networks and let each compute an image, so that the first request is not slow.

    Args:
        options: The settings.
        fingerprints: Of the bundles by name, as the other processes of the service have them;
            None: whatever they are.

    Raises:
        SignlangError: If one cannot be used, or is another one by now.
    """
    bundles, default = read_bundles(options.paths, options.default)
    current = fingerprints_of(bundles)
    replaced = [
        name for name in current if fingerprints and fingerprints.get(name) != current[name]
    ]
    if replaced:
        raise BundleError(
            f"{bundles[replaced[0]].path} was replaced while the service runs. Start the service "
            "again, so that no two of its processes answer by different networks."
        )
    return ModelRegistry(
        {name: _load_from_bundle(bundle, options) for name, bundle in bundles.items()}, default
    )


def _load_from_bundle(bundle: Bundle, options: ServeConfig) -> LoadedModel:
    network = OnnxModel.from_bundle(bundle, options.precision, options.device, options.threads)
    size = bundle.image_sizes[0]  # the graph resizes to the others
    try:
        network(np.zeros((1, size, size, 3), dtype=np.uint8))
    except Exception as error:  # onnxruntime has no base class for what it raises
        raise BundleError(
            f"The network of {bundle.path} does not compute: {first_line(error)}"
        ) from None
    hands = load_hands(bundle)
    if hands is not None:
        hands(Image.new("RGB", (size, size)))
    threshold, source = options.reject_threshold, "setting"
    if threshold is None:
        threshold, source = bundle.threshold, "fallback" if bundle.no_threshold else "bundle"
    browser = "int8" if "int8" in bundle.models else "fp32"
    return LoadedModel(
        bundle, network, threshold, source, browser,
        onnx=bundle.read(bundle.models[browser]), card=_card(bundle),
        max_batch=options.max_batch or best_batch_size(network, size), hands=hands,
        signs=load_signs(bundle),
    )  # fmt: skip


def _card(bundle: Bundle) -> bytes:
    try:
        return bundle.read(CARD)
    except SignlangError:
        return b""
