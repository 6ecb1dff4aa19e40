"""Random image transforms of the training subset, applied to whole batches.

The transforms are those of the published studies, in their order, by albumentations. `Affine`
replaces albumentations' own: that one takes 236 microseconds for an image of 100 x 100, three
quarters of them in Python, where small networks train on one in 700.

The contract of transforms: what `augment.transforms._target_` names is called with its own
arguments of the node and returns a list, in order, of albumentations transforms, which work on one
image, and of functions of whole batches: `f(batch, rng)` gets uint8 images (N, H, W, 3) and a
`numpy.random.Generator`, and returns uint8 images (N, H, W, 3) of the same shape, not changing
those that it gets. Functions of batches go first. Everything random must come from `rng`, or from
albumentations' own state, so that a resumed run sees the same images. The result is resized to the
network's size last, by the filter that resizes the images of validation, test and prediction:
another filter would train on sharper or softer images than are predicted. Tried before training on
images of the stored size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from signlang.arrays import Floats, Pixels
from signlang.components import TARGET, build
from signlang.data import image_io
from signlang.data.image_folder import JUNK
from signlang.data.image_io import BadImageError, is_image_name
from signlang.data.synthetic.generator import draw_scene
from signlang.errors import DataError, SettingError, listing
from signlang.files import expanded


class Affine:
    """Rotates, shifts and zooms whole batches; the border is filled with the nearest pixel.

    Args:
        rotate: Largest angle, in degrees, in both directions.
        shift: Largest shift of each axis, as a share of the image size.
        zoom: Largest zoom of each axis, as a share.
    """

    def __init__(self, rotate: float, shift: float, zoom: float) -> None:
        self.rotate, self.shift, self.zoom = rotate, shift, zoom

    def __call__(self, batch: Pixels, rng: np.random.Generator) -> Pixels:
        """Transform a batch, reproducibly for equal states of the generator.

        Args:
            batch: (B, h, w, 3).
            rng: Generator of angles, shifts and zooms.

        Returns:
            (B, h, w, 3).
        """
        import cv2

        count, height, width, _ = batch.shape
        angles = np.deg2rad(rng.uniform(-self.rotate, self.rotate, count))
        shifts = rng.uniform(-self.shift, self.shift, (count, 2)) * (width, height)
        zooms = rng.uniform(1 - self.zoom, 1 + self.zoom, (count, 2))
        moves = affine_matrices(angles, shifts, zooms, (width, height))
        out = np.empty_like(batch)

        for row in range(count):
            cv2.warpAffine(
                batch[row], moves[row], (width, height), dst=out[row],
                flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
        return out


def affine_matrices(angles: Floats, shifts: Floats, zooms: Floats, size: tuple[int, int]) -> Floats:
    """Matrices that zoom, then rotate, then shift about the centre of an image.

    Args:
        angles: (B,) in radians, counter-clockwise in the displayed image.
        shifts: (B, 2) to the right and down, in pixels.
        zooms: (B, 2) of the horizontal and the vertical axis.
        size: Width and height, in pixels.

    Returns:
        (B, 2, 3), from source to destination coordinates.

    >>> matrices = affine_matrices(np.array([0.0]), np.array([[3.0, 0.0]]), np.ones((1, 2)), (5, 5))
    >>> matrices[0].tolist()
    [[1.0, 0.0, 3.0], [-0.0, 1.0, 0.0]]
    """
    cosines, sines = np.cos(angles), np.sin(angles)
    rotations = np.array([[cosines, sines], [-sines, cosines]]).transpose(2, 0, 1) * zooms[:, None]
    middle = (np.array(size) - 1) / 2
    offsets = middle + shifts - rotations @ middle
    return np.concatenate([rotations, offsets[:, :, None]], axis=2)


SCENES: Final = 64  # generated backgrounds if no folder is given
BACKGROUND_WEIGHT: Final = 0.12  # of the alphabet study


def none() -> list[Any]:
    """No transforms."""
    return []


def asl_alphabet() -> list[Any]:
    """Transforms of the alphabet study, with the middle of the probabilities it used.

    Rotation up to 10 degrees, horizontal flip, brightness and contrast, shuffled channels, hue and
    saturation, blur of 3 to 7 pixels, and 8 to 10 holes of 10 to 30 pixels, all for 200 x 200.
    """
    import albumentations as A
    import cv2

    return [
        A.Rotate(limit=10, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
        A.HorizontalFlip(p=0.6),
        A.RandomBrightnessContrast(p=0.5),
        A.ChannelShuffle(p=0.4),
        A.HueSaturationValue(p=0.5),
        A.Blur(blur_limit=(3, 7), p=0.5),
        A.CoarseDropout(
            num_holes_range=(8, 10), hole_height_range=(10, 30), hole_width_range=(10, 30), p=0.5
        ),
    ]


def digits() -> list[Any]:
    """Transforms of the digits study, as Keras' ImageDataGenerator applies them to every image.

    Rotation up to 20 degrees, shifts up to a tenth of width and height, zoom of each axis by up to
    a tenth; the border is filled with the nearest pixel.
    """
    return [Affine(rotate=20, shift=0.1, zoom=0.1)]


def robust() -> list[Any]:
    """Transforms for images of other people, rooms and cameras, for crops of hands above all.

    Scale, shift and rotation, perspective, brightness, contrast and colour, grey, blur, and holes.
    Sizes of holes are shares of the image, so that they fit any size.
    """
    import albumentations as A
    import cv2

    border = cv2.BORDER_REPLICATE
    return [
        A.Affine(scale=(0.8, 1.2), translate_percent=(-0.1, 0.1), rotate=(-15, 15),
            border_mode=border, p=0.9),
        A.Perspective(scale=(0.02, 0.1), border_mode=border, p=0.3),
        A.ColorJitter(brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.3, 1.7),
            hue=(-0.08, 0.08), p=0.8),
        A.ToGray(p=0.1),
        A.GaussianBlur(blur_limit=(3, 7), p=0.2),
        A.CoarseDropout(num_holes_range=(1, 4), hole_height_range=(0.05, 0.2),
            hole_width_range=(0.05, 0.2), fill="random_uniform", p=0.4),
    ]  # fmt: skip


def trivial() -> list[Any]:
    """One transform for each image, at a random strength: TrivialAugment (arXiv 2103.10158).

    Its transforms and strengths are those of RandAugment, by albumentations: torchvision's own has
    no random state but torch's, which training steps use at the same time.
    """
    import albumentations as A
    import cv2

    border = {"border_mode": cv2.BORDER_REPLICATE, "p": 1.0}
    strength = (0.1, 1.9)
    return [
        A.OneOf(
            [
                A.NoOp(p=1.0),
                A.Affine(shear={"x": (-17, 17), "y": (0, 0)}, **border),
                A.Affine(shear={"x": (0, 0), "y": (-17, 17)}, **border),
                A.Affine(translate_percent={"x": (-0.45, 0.45), "y": (0, 0)}, **border),
                A.Affine(translate_percent={"x": (0, 0), "y": (-0.45, 0.45)}, **border),
                A.Affine(rotate=(-30, 30), **border),
                A.ColorJitter(strength, (1, 1), (1, 1), (0, 0), p=1.0),
                A.ColorJitter((1, 1), strength, (1, 1), (0, 0), p=1.0),
                A.ColorJitter((1, 1), (1, 1), strength, (0, 0), p=1.0),
                A.Sharpen(alpha=(0.0, 0.9), lightness=(1.0, 1.0), p=1.0),
                A.Posterize(num_bits=(4, 8), p=1.0),
                A.Solarize(threshold_range=(0.0, 1.0), p=1.0),
                A.AutoContrast(p=1.0),
                A.Equalize(p=1.0),
            ],
            p=1.0,
        )
    ]


BatchTransform = Callable[[Pixels, np.random.Generator], Pixels]


def build_transforms(node: Mapping[str, Any], stored: int, image_size: int) -> list[Any]:
    """Build the transforms that a node of the configuration names, and try them.

    Args:
        node: `augment.transforms` of the configuration, resolved.
        stored: Width and height of the decoded images, in pixels.
        image_size: Width and height of the images of the network, in pixels.

    Raises:
        SettingError: If they break the contract, see the module.
    """
    target = node.get(TARGET)
    transforms = build(node, {}, key="augment.transforms")
    if not isinstance(transforms, list | tuple) or not all(map(callable, transforms)):
        raise SettingError(
            f"augment.transforms: {target} must return a list of albumentations transforms and of "
            f"functions of a batch; it returns {type(transforms).__name__}."
        )
    sample = np.random.default_rng(0).integers(0, 256, (2, stored, stored, 3), dtype=np.uint8)
    try:
        fault = _contract_fault(list(transforms), sample, image_size)
    except Exception as error:  # a user's transform may raise anything
        fault = f"they fail on images {sample.shape}: {type(error).__name__}: {error}"
    if fault:
        raise SettingError(f"augment.transforms: the transforms of {target} {fault}")
    return list(transforms)


def _contract_fault(transforms: list[Any], sample: Pixels, image_size: int) -> str:
    """What is wrong with transforms, to follow their name; empty if nothing is."""
    augmentation, out = Augmentation(transforms, image_size), sample
    for function in augmentation.functions:
        before, out = out, function(out.copy(), np.random.default_rng(0))
        if not isinstance(out, np.ndarray) or out.dtype != np.uint8 or out.shape != before.shape:
            kind = getattr(out, "dtype", type(out).__name__), getattr(out, "shape", "")
            return f"must return uint8 images {before.shape}; they return {kind[0]} {kind[1]}."
    if augmentation.transform is not None:
        image = augmentation.transform(image=out[0])["image"]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            return (
                "must return uint8 images (height, width, 3), which are then resized; they return "
                f"{image.dtype} {image.shape}."
            )
    if not np.array_equal(augmentation(sample.copy(), 1), augmentation(sample.copy(), 1)):
        return "return other images for the same seed: take everything random from `rng`."
    return ""


class Augmentation:
    """Transforms whole batches, reproducibly for equal seeds in any process.

    Args:
        transforms: In order; functions of whole batches are applied before albumentations
            transforms.
        size: Width and height of the results, in pixels.
        backgrounds: (M, h, h, 3) images to blend in at random, or None.
        background_weight: Their share in the blend, 0 to 1.
        coded_rows: Rows of pixels at the lower edge that hold numbers and stay as they are; images
            with such rows have the size of the results.
    """

    def __init__(
        self,
        transforms: Sequence[Any],
        size: int,
        backgrounds: Pixels | None = None,
        background_weight: float = 0.0,
        coded_rows: int = 0,
    ) -> None:
        import albumentations as A

        self.size, self.coded_rows = size, coded_rows
        self.backgrounds = backgrounds
        self.weight = background_weight
        of_images = (A.BasicTransform, A.BaseCompose)
        self.image_transforms = [
            transform for transform in transforms if isinstance(transform, of_images)
        ]
        self.functions: list[BatchTransform] = [
            transform for transform in transforms if not isinstance(transform, of_images)
        ]
        self.transform = A.Compose(self.image_transforms) if self.image_transforms else None

    def __call__(self, batch: Pixels, seed: int) -> Pixels:
        """Transform a batch.

        Args:
            batch: (B, h, h, 3).
            seed: Seed of all random numbers of this batch.

        Returns:
            (B, size, size, 3).
        """
        if not self.coded_rows:
            return self._transformed(batch, seed)
        uncoded, rows = batch.copy(), self.coded_rows
        uncoded[:, -rows:] = batch[:, -rows - 1 : -rows]  # repeats the row above
        out = self._transformed(uncoded, seed)
        out[:, -rows:] = batch[:, -rows:]
        return out

    def _transformed(self, batch: Pixels, seed: int) -> Pixels:
        if self.backgrounds is not None:
            batch = self._blend(batch, seed)
        if self.functions:
            rng = np.random.default_rng((seed, 3))
            for function in self.functions:
                batch = function(batch, rng)
        if self.transform is None:
            return image_io.resize_batch(batch, self.size)
        self.transform.set_random_seed(seed % 2**32)
        out = np.empty((len(batch), self.size, self.size, 3), dtype=np.uint8)
        for row, image in enumerate(batch):
            out[row] = _resize(self.transform(image=image)["image"], self.size)
        return out

    def _blend(self, batch: Pixels, seed: int) -> Pixels:
        import cv2

        assert self.backgrounds is not None
        rng = np.random.default_rng((seed, 1))
        backgrounds = self.backgrounds[rng.integers(len(self.backgrounds), size=len(batch))]
        blended = [
            cv2.addWeighted(image, 1 - self.weight, scene, self.weight, 0)
            for image, scene in zip(batch, backgrounds, strict=True)
        ]
        return np.stack(blended).astype(np.uint8, copy=False)


def _resize(image: Pixels, size: int) -> Pixels:
    """Resize an image (h, w, 3) to (size, size, 3) by the filter of `image_io.resize_image`.

    Where nothing shrinks, the filter is linear interpolation, for which OpenCV takes a sixth of the
    time; its rounding differs by one level at most.
    """
    import cv2

    if image.shape[:2] == (size, size):
        return image
    if max(image.shape[:2]) > size:
        return image_io.resize_image(Image.fromarray(image), size)
    enlarged: Pixels = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return enlarged


def read_backgrounds(
    folder: str | None, weight: float | None, size: int, seed: int
) -> Pixels | None:
    """Read the images of a folder as backgrounds, or generate scenes if no folder is given.

    Args:
        folder: Images without hands, of any size.
        weight: Share of the background; None means 0.12 if a folder is given, else 0.
        size: Width and height of the images to blend with, in pixels.
        seed: Seed of the generated scenes.

    Returns:
        (M, size, size, 3), or None if the weight is 0.

    Raises:
        DataError: If the folder is missing, holds no image, or bad ones.
        SettingError: If the folder is given with a weight of 0.
    """
    if weight == 0 and folder is not None:
        raise SettingError("augment.backgrounds has no effect with augment.background_weight=0.")
    if not weight and folder is None:
        return None
    if folder is None:
        rng = np.random.default_rng((seed, 2))
        return np.stack([draw_scene(rng, size) for _ in range(SCENES)])
    path = expanded(folder)
    files = [
        file
        for file in sorted(path.rglob("*"))
        if is_image_name(file.suffix) and file.name.lower() not in JUNK and file.name[0] != "."
    ]
    if not files:
        raise DataError(f"augment.backgrounds={folder}: no such folder, or no image in it.")
    scenes, bad = [], []
    for file in files:
        try:
            scenes.append(image_io.resize_image(image_io.decode(image_io.read_bytes(file)), size))
        except BadImageError as error:
            bad.append(f"{file}: {error}")
    if bad:
        raise DataError(
            f"{len(bad)} backgrounds cannot be used:{listing(bad)}\nFix or remove them."
        )
    return np.stack(scenes)
