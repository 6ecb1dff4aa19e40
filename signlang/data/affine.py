"""Batches of pictures come in, each picture rotated, shifted and zoomed at random goes out.

The same function as albumentations' `Affine`. That one takes 236 microseconds for a picture of
100 x 100, three quarters of them in Python; the small networks learn from one in 700.
"""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


class Affine:
    """Rotates, shifts and zooms whole batches; what comes in from outside repeats the edge.

    Args:
        rotate: Largest angle, in degrees, either way.
        shift: Largest shift of each axis, as a share of the side.
        zoom: Largest zoom of each axis, as a share.
    """

    def __init__(self, rotate: float, shift: float, zoom: float) -> None:
        self.rotate, self.shift, self.zoom = rotate, shift, zoom

    def __call__(self, batch: Pixels, rng: np.random.Generator) -> Pixels:
        """Transform a batch; equal states of the generator transform equally.

        Args:
            batch: (B, h, w, 3).
            rng: Draws angles, shifts and zooms.

        Returns:
            (B, h, w, 3).
        """
        import cv2

        count, height, width, _ = batch.shape
        angles = np.deg2rad(rng.uniform(-self.rotate, self.rotate, count))
        shifts = rng.uniform(-self.shift, self.shift, (count, 2)) * (width, height)
        zooms = rng.uniform(1 - self.zoom, 1 + self.zoom, (count, 2))
        moves = matrices(angles, shifts, zooms, (width, height))
        out = np.empty_like(batch)

        for row in range(count):
            cv2.warpAffine(
                batch[row], moves[row], (width, height), dst=out[row],
                flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
        return out


def matrices(angles: Floats, shifts: Floats, zooms: Floats, size: tuple[int, int]) -> Floats:
    """Matrices that zoom, then rotate, then shift about the middle of a picture.

    Args:
        angles: (B,) in radians, counter-clockwise as one looks at the picture.
        shifts: (B, 2) to the right and down, in pixels.
        zooms: (B, 2) of the horizontal and the vertical axis.
        size: Width and height, in pixels.

    Returns:
        (B, 2, 3), from where a point was to where it goes.

    >>> found = matrices(np.array([0.0]), np.array([[3.0, 0.0]]), np.ones((1, 2)), (5, 5))
    >>> found[0].tolist()
    [[1.0, 0.0, 3.0], [-0.0, 1.0, 0.0]]
    """
    cosines, sines = np.cos(angles), np.sin(angles)
    turned = np.array([[cosines, sines], [-sines, cosines]]).transpose(2, 0, 1) * zooms[:, None]
    middle = (np.array(size) - 1) / 2
    moved = middle + shifts - turned @ middle
    return np.concatenate([turned, moved[:, :, None]], axis=2)
