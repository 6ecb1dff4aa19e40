"""Corruptions of decoded images in five grades, and the accuracy of a network under each of them.

The kinds follow ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) and what happens to
photographs of hands; the amounts are our own. Percentages are of the shorter side of the image, for
shifts and holes of each side. An image is corrupted before its hand is found and before it is
resized, so that the whole chain is tested. The same image is always corrupted in the same way, and
in the same direction in all grades.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from PIL import Image

from signlang.arrays import Flags, Pixels
from signlang.console import log, track
from signlang.data import image_io
from signlang.data.index import Index
from signlang.data.synthetic.generator import draw_scene
from signlang.errors import DataError, SettingError
from signlang.evaluation.predictors import BATCH, BatchPredictor
from signlang.evaluation.results import CorruptionScore, Evaluation, Robustness
from signlang.hands.finder import Hand
from signlang.hands.hand_networks import HandNetworks, find_networks
from signlang.hands.hand_store import find_hands
from signlang.reporting.formatting import counted
from signlang.reporting.plots import contact_sheet
from signlang.system import cpu_count
from signlang.validation import CORRUPTIONS

BACKGROUND: Final = "background"
DILATION: Final = 0.12  # around the hull of the points, as a share of the hand's size
Alternatives = Callable[[float, int], list[Any]]


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        amounts: One for each grade, the mildest first.
        text: What an amount is, as a format.
        alternatives: Maps an amount and the shorter side of the image, in pixels, to albumentations
            transforms, one of which is drawn for each image; None for what needs the hand.
    """

    amounts: tuple[float, ...]
    text: str
    alternatives: Alternatives | None


def _light(what: str) -> Alternatives:
    def alternatives(amount: float, size: int) -> list[Any]:
        import albumentations as A

        unchanged = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
        return [A.ColorJitter(**unchanged | {what: (f, f)}, p=1) for f in (amount, 1 / amount)]

    return alternatives


def _blur(amount: float, size: int) -> list[Any]:
    import albumentations as A

    return [A.GaussianBlur(blur_limit=0, sigma_limit=(amount / 100 * size,) * 2, p=1)]


def _motion_blur(amount: float, size: int) -> list[Any]:
    import albumentations as A

    pixels = max(2 * round(amount / 100 * size / 2) + 1, 3)  # odd
    return [A.MotionBlur((pixels, pixels), allow_shifted=False, direction_range=(0, 0), p=1)]


def _jpeg(amount: float, size: int) -> list[Any]:
    import albumentations as A

    return [A.ImageCompression("jpeg", (int(amount), int(amount)), p=1)]


def _noise(amount: float, size: int) -> list[Any]:
    import albumentations as A

    return [A.GaussNoise((amount, amount), p=1)]


def _affine(*variants: Mapping[str, Any]) -> list[Any]:
    import albumentations as A
    import cv2

    return [A.Affine(border_mode=cv2.BORDER_REPLICATE, p=1, **one) for one in variants]


def _rotation(amount: float, size: int) -> list[Any]:
    return _affine({"rotate": (amount, amount)}, {"rotate": (-amount, -amount)})


def _scale(amount: float, size: int) -> list[Any]:
    return _affine({"scale": (amount, amount)}, {"scale": (1 / amount, 1 / amount)})


def _shift(amount: float, size: int) -> list[Any]:
    share = amount / 100
    shifts = [(-share, 0.0), (share, 0.0), (0.0, -share), (0.0, share)]
    return _affine(*({"translate_percent": {"x": (x, x), "y": (y, y)}} for x, y in shifts))


def _occlusion(amount: float, size: int) -> list[Any]:
    import albumentations as A

    shares = (amount / 100, amount / 100)
    return [A.CoarseDropout((1, 1), shares, shares, "random_uniform", p=1)]


def _mirror(amount: float, size: int) -> list[Any]:
    import albumentations as A

    return [A.HorizontalFlip(p=1)]


KINDS: Final[Mapping[str, Corruption]] = {
    "brightness": Corruption((1.3, 1.6, 2, 2.5, 3), "{:g} times or less", _light("brightness")),
    "contrast": Corruption((1.5, 2, 3, 4, 6), "{:g} times or less", _light("contrast")),
    "blur": Corruption((0.5, 1, 2, 3, 4), "sigma {:g} %", _blur),
    "motion_blur": Corruption((3, 5, 8, 12, 16), "{:g} % long", _motion_blur),
    "jpeg": Corruption((40, 25, 15, 10, 5), "quality {:g}", _jpeg),
    "noise": Corruption((0.04, 0.08, 0.12, 0.18, 0.26), "sigma {:g}", _noise),
    "rotation": Corruption((10, 20, 30, 45, 60), "{:g} degrees", _rotation),
    "scale": Corruption((1.1, 1.2, 1.35, 1.5, 2), "{:g} times or less", _scale),
    "shift": Corruption((5, 10, 15, 20, 30), "{:g} %", _shift),
    "occlusion": Corruption((10, 20, 30, 40, 50), "{:g} % of a side", _occlusion),
    "mirror": Corruption((1,), "left and right", _mirror),
    BACKGROUND: Corruption((20, 40, 60, 80, 100), "{:g} % replaced", None),
}


def corrupt(
    image: Image.Image, kind: str, grade: int, seed: int, hand: Hand | None = None
) -> Image.Image:
    """Corrupt an image, reproducibly for equal seeds.

    Args:
        image: RGB.
        kind: A key of `KINDS`.
        grade: From 1.
        seed: Of everything random.
        hand: Where it is in the image; `background` needs it.
    """
    corruption, pixels = KINDS[kind], np.asarray(image, dtype=np.uint8)
    amount = corruption.amounts[grade - 1]
    if corruption.alternatives is None:
        assert hand is not None
        return Image.fromarray(_with_background(pixels, hand, amount, seed))
    import albumentations as A

    transform = A.OneOf(corruption.alternatives(amount, min(pixels.shape[:2])), p=1)
    return Image.fromarray(A.Compose([transform], seed=seed)(image=pixels)["image"])


def _with_background(pixels: Pixels, hand: Hand, amount: float, seed: int) -> Pixels:
    """Blend a drawn scene into all that is outside the hand."""
    import cv2

    height, width = pixels.shape[:2]
    mask = np.zeros((height, width), np.float32)
    hull = cv2.convexHull(hand.points[:, :2].round().astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 1.0)
    margin = max(round(DILATION * hand.size), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1,) * 2)
    inside = cv2.GaussianBlur(cv2.dilate(mask, disc), (0, 0), margin / 4)
    scene = cv2.resize(draw_scene(np.random.default_rng(seed), 256), (width, height))
    share = (amount / 100 * (1 - inside))[..., None]
    return (pixels * (1 - share) + scene * share).round().astype(np.uint8)


@dataclass(frozen=True)
class CorruptionPlan:
    """Which corruptions are to be tried.

    Attributes:
        kinds: In order.
        networks: That find the hand for `background`; None where it is not among them.
        remarks: Sentences on what is left out.
    """

    kinds: tuple[str, ...]
    networks: HandNetworks | None = None
    remarks: tuple[str, ...] = ()


def planned(
    wanted: bool | str | Sequence[str], predictor: BatchPredictor, cache_dir: str
) -> CorruptionPlan:
    """Plan what `corruptions=` asks for; `true` leaves out what cannot be.

    Raises:
        SettingError: If `background` is asked for by its name, and the hand networks are missing.
    """
    names = [wanted] if isinstance(wanted, str) else wanted or ()
    kinds = CORRUPTIONS if names is True else tuple(dict.fromkeys(names))
    if BACKGROUND not in kinds:
        return CorruptionPlan(kinds)
    try:
        hand_input = predictor.hands
        return CorruptionPlan(
            kinds, hand_input.networks if hand_input else find_networks(None, cache_dir)
        )
    except SettingError as error:
        if wanted is not True:
            raise SettingError(f"corruptions=[{BACKGROUND}]: {error}") from None
        remaining = tuple(kind for kind in kinds if kind != BACKGROUND)
        return CorruptionPlan(remaining, None, (f"{BACKGROUND} is left out. {error}",))


def robustness(evaluation: Evaluation, plan: CorruptionPlan, cache_dir: str) -> Robustness:
    """Predict corrupted images of the shared classes.

    Args:
        evaluation: Of the images as they are.
        plan: What is tried.
        cache_dir: The cache folder.

    Raises:
        DataError: If an image can no longer be read.
    """
    variants = [(k, g) for k in plan.kinds for g in range(1, len(KINDS[k].amounts) + 1)]
    positions = np.flatnonzero(evaluation.known).tolist()
    log.info(
        "corruptions: %s of %s, %s predictions",
        len(variants), counted(len(positions), "image"), f"{len(variants) * len(positions):,}",
    )  # fmt: skip
    hands = _hands(evaluation, plan, cache_dir)
    corrupt_image = partial(_corrupted_variants, evaluation, variants, hands)
    shape = len(variants), len(evaluation.rows)
    tried, has_hand, correct = (np.zeros(shape, dtype=np.bool_) for _ in range(3))
    started = time.perf_counter()
    images = image_io.map_in_order(corrupt_image, positions, cpu_count(), ahead=cpu_count())
    chunk_size = max(BATCH // len(variants), 1)
    steps = -(-len(positions) // chunk_size)
    for chunk in track(image_io.batched(images, chunk_size), "corrupting and predicting", steps):
        predictions = _predicted_classes(
            evaluation.predictor, [pixels for one in chunk for pixels in one.pixels]
        )
        for one in chunk:
            of_image, predictions = np.split(predictions, [len(one.pixels)])
            cells = one.variants, one.position
            tried[cells], has_hand[cells] = True, one.has_hand
            correct[cells] = of_image == evaluation.labels[one.position]
    scores = _scores(evaluation, variants, tried, has_hand, correct)
    remarks = list(plan.remarks)
    without_hand = sum(hands[position] is None for position in positions) if hands else 0
    if without_hand:
        remarks.append(
            f"{counted(without_hand, 'image')} in which no hand is found are left out of "
            f"{BACKGROUND}: it is not known where their background is."
        )
    sheet = _sheet(evaluation, plan, hands, positions)
    return Robustness(tuple(scores), tuple(remarks), sheet, time.perf_counter() - started)


def _hands(evaluation: Evaluation, plan: CorruptionPlan, cache_dir: str) -> list[Hand | None]:
    """The hand of each evaluated image, for `background`; empty where it is not asked for."""
    if plan.networks is None:
        return []
    index, rows = evaluation.index, evaluation.rows.tolist()
    paths, digests = [index.paths[row] for row in rows], [index.facts[row].digest for row in rows]
    hands = find_hands(index.root, paths, digests, plan.networks, cache_dir)
    return [_in_crop(hand, index, row) for hand, row in zip(hands, rows, strict=True)]


def _in_crop(hand: Hand | None, index: Index, row: int) -> Hand | None:
    crop = index.crop(row)
    if hand is None or crop is None:
        return hand
    corner = np.array([crop.left, crop.top, 0], dtype=np.float32)
    return Hand(hand.points - corner, hand.right, hand.score)


@dataclass(frozen=True, eq=False)
class _CorruptedImage:
    """The corrupted variants of one image, those that it has.

    Attributes:
        position: Of the image among the evaluated ones.
        variants: Numbers of kind and grade.
        pixels: (size, size, 3) of each variant, as the network sees it.
        has_hand: Whether a hand was found in each.
    """

    position: int
    variants: list[int]
    pixels: list[Pixels]
    has_hand: list[bool]


def _corrupted_variants(
    evaluation: Evaluation,
    variants: Sequence[tuple[str, int]],
    hands: Sequence[Hand | None],
    position: int,
) -> _CorruptedImage:
    predictor, (image, seed) = evaluation.predictor, _decoded(evaluation, position)
    hand = hands[position] if hands else None
    corrupted = _CorruptedImage(position, [], [], [])
    for number, (kind, grade) in enumerate(variants):
        if kind == BACKGROUND and hand is None:
            continue
        network_input, has_hand = corrupt(image, kind, grade, seed, hand), True
        if predictor.hands is not None:
            network_input, detected = predictor.hands(network_input)
            has_hand = detected is not None
        corrupted.variants.append(number)
        corrupted.pixels.append(image_io.resize_image(network_input, predictor.image_sizes[0]))
        corrupted.has_hand.append(has_hand)
    return corrupted


def _decoded(evaluation: Evaluation, position: int) -> tuple[Image.Image, int]:
    """An image, and the seed of its corruptions."""
    index, row = evaluation.index, int(evaluation.rows[position])
    path = index.root / index.paths[row]
    try:
        image = image_io.decode_crop(image_io.read_bytes(path), index.crop(row))
    except image_io.BadImageError as error:
        raise DataError(f"{path}: {error}. Repeat the command.") from None
    return image, int(index.facts[row].digest[:8], 16)


def _predicted_classes(predictor: BatchPredictor, images: Sequence[Pixels]) -> Any:
    """(n,) predicted classes."""
    if not images:
        return np.zeros(0, dtype=np.int64)
    return predictor.predict(predictor.resized(np.stack(images))).argmax(1)


def _scores(
    evaluation: Evaluation,
    variants: Sequence[tuple[str, int]],
    tried: Flags,
    has_hand: Flags,
    correct: Flags,
) -> Iterable[CorruptionScore]:
    for (kind, grade), is_tried, with_hand, is_correct in zip(
        variants, tried, has_hand, correct, strict=True
    ):
        yield CorruptionScore(
            kind,
            grade,
            KINDS[kind].text.format(KINDS[kind].amounts[grade - 1]),
            evaluation.share(is_correct, is_tried),
            None if evaluation.predictor.hands is None else evaluation.share(~with_hand, is_tried),
        )


def _sheet(
    evaluation: Evaluation,
    plan: CorruptionPlan,
    hands: Sequence[Hand | None],
    positions: Sequence[int],
) -> Image.Image:
    """The first image, with its hand if it must be known, in all grades of each kind."""
    position = next((p for p in positions if hands and hands[p] is not None), positions[0])
    image, seed = _decoded(evaluation, position)
    hand = hands[position] if hands else None
    images: list[Pixels] = []
    titles: list[list[str]] = []
    for kind in plan.kinds:
        if kind == BACKGROUND and hand is None:
            continue
        grades = range(1, len(KINDS[kind].amounts) + 1)
        versions = [image, *(corrupt(image, kind, grade, seed, hand) for grade in grades)]
        texts = ["as it is", *(KINDS[kind].text.format(a) for a in KINDS[kind].amounts)]
        blank = Image.new("RGB", image.size, "white")
        versions += [blank] * (6 - len(versions))
        texts += [""] * (6 - len(texts))
        images += [np.asarray(one, dtype=np.uint8) for one in versions]
        titles += [[kind if text else "", text] for text in texts]
    return contact_sheet(evaluation.paths[position], images, titles)
