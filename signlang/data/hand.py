"""A sign, a signer's build and a view come in, a drawn hand goes out.

Each bone is solved in closed form into one depth picture, from which normals, contact shade and
cast shadow follow, so that folded fingers, the thumb across the palm and the back of the hand come
for free.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from signlang.data.skeleton import Build, Vector, skeleton

Array = npt.NDArray[np.float32]

SUPERSAMPLING = 2  # pixels drawn per pixel and edge

CREASES = (((0.40, 0.66), (0.12, 0.60), (-0.20, 0.42)), ((-0.38, 0.66), (-0.10, 0.72), (0.2, 0.9)))

TINT = (0.18, 0.0, -0.08)  # light that enters skin leaves it redder, which shows in the shade

SIDEWAYS = {"0": -58.0}  # the O is shown from the thumb's side, as signers do
SHOWN_FROM_BACK = frozenset("12345")  # the signs that some signers show with the palm inwards


def draw_capsule(depth: Array, start: Vector, end: Vector, radii: tuple[float, float]) -> None:
    """Raise a depth picture, in place, to the front of a tapered capsule; everything in pixels."""
    (ax, ay, az), (dx, dy, dz) = start, end - start
    pad = max(radii)
    left, right = max(0, int(min(ax, end[0]) - pad)), int(max(ax, end[0]) + pad) + 2
    top, bottom = max(0, int(min(ay, end[1]) - pad)), int(max(ay, end[1]) + pad) + 2
    window = depth[top : max(bottom, 0), left : max(right, 0)]
    if window.size == 0:
        return
    x = np.arange(left, left + window.shape[1], dtype=np.float32)[None] - np.float32(ax)
    y = np.arange(top, top + window.shape[0], dtype=np.float32)[:, None] - np.float32(ay)
    length = float(np.hypot(dx, dy)) + 1e-3
    ux, uy = np.float32(dx / length), np.float32(dy / length)
    rise = np.float32(dz / np.hypot(length, dz))
    along, across = x * ux + y * uy, np.square(y * ux - x * uy)
    ra, dr = np.float32(radii[0]), np.float32(radii[1] - radii[0])
    seen = along  # where along the axis the sight line of a pixel meets the surface
    if abs(rise) > 0.08:
        seen = along + rise * np.sqrt(np.maximum(np.square(ra + dr / 2) - across, 0.0))
    t = seen * np.float32(1.0 / length)
    t = np.minimum(np.maximum(t, 0.0), 1.0)
    square = np.square(ra + dr * t) - np.square(along - t * np.float32(length)) - across
    height = np.float32(az) + t * np.float32(dz) + np.sqrt(np.maximum(square, 0.0))
    np.copyto(window, height, where=(square > 0.0) & (height > window))


@dataclass(frozen=True)
class View:
    """How one picture looks at the hand: lengths are shares of the picture's edge."""

    centre: tuple[float, float]
    scale: float  # the palm's length
    roll: float
    yaw: float
    pitch: float
    light: Vector  # unit vector towards the light: x right, y down, z to the viewer
    colour: tuple[float, float, float]
    ambient: float


def _projection(sign: str, build: Build, view: View, edge: int) -> tuple[Vector, Vector]:
    """The 3x3 matrix and the shift that take hand coordinates to pixels (y down, z in pixels)."""
    back = build.palm_inwards and sign in SHOWN_FROM_BACK
    yaw = np.radians(view.yaw + SIDEWAYS.get(sign, 0.0) + (180.0 if back else 0.0))
    pitch, roll = np.radians(view.pitch), np.radians(view.roll)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    sin, cos = np.sin(pitch), np.cos(pitch)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    sin, cos = np.sin(roll), np.cos(roll)
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    flip = np.diag([-1.0 if build.mirrored else 1.0, -1.0, 1.0])
    matrix = view.scale * edge * (about_z @ flip @ about_x @ about_y)
    middle = matrix @ np.array([0.0, 0.85, 0.0])  # the point that lies on the picture's centre
    return matrix, np.array([*view.centre, 0.0]) * edge - middle


def _shade(depth: Array, view: View, unit: float) -> Array:
    """Brightness (height, width) of a depth picture: light, contact shade and cast shadow."""
    smooth = cv2.GaussianBlur(depth, (0, 0), 0.012 * unit + 0.5)
    nx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=-0.125)
    ny = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=-0.125)
    lx, ly, lz = (float(v) for v in view.light)
    facing = (lx * nx + ly * ny + lz) / np.sqrt(nx * nx + ny * ny + 1.0)
    hollow = np.clip((cv2.GaussianBlur(depth, (0, 0), 0.07 * unit) - depth) / (0.22 * unit), 0, 1)
    step = 0.16 * unit
    move = np.array([[1, 0, -lx * step], [0, 1, -ly * step]], dtype=np.float32)
    blocker = cv2.warpAffine(depth, move, depth.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    shadow = np.clip((blocker - depth - lz * step) / (0.12 * unit), 0, 1)
    direct = (1.0 - 0.6 * cv2.GaussianBlur(shadow, (0, 0), 0.02 * unit)) * np.maximum(facing, 0)
    bright: Array = (view.ambient + (1.0 - view.ambient) * direct) * (1.0 - 0.6 * hollow)
    return bright


def _even_out(depth: Array, sigma: float) -> Array:
    """Fill the valleys between the bones of the palm, which flesh would fill."""
    inside = np.isfinite(depth)
    weight = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), sigma)
    filled = cv2.GaussianBlur(np.where(inside, depth, 0), (0, 0), sigma)
    return np.where(inside, 0.8 * filled / np.maximum(weight, 1e-3) + 0.2 * depth, depth)


def draw(
    sign: str, build: Build, view: View, size: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw one hand: (size, size, 4) RGB times cover, and cover, which is 1 on hand and arm."""
    bones = skeleton(sign, build, rng)
    matrix, shift = _projection(sign, build, view, size * SUPERSAMPLING)
    unit = view.scale * size * SUPERSAMPLING
    ends = np.array([p for part in bones.values() for b in part for p in b[:2]]) @ matrix.T + shift
    low, high = ends.min(0)[:2] - 0.3 * unit, ends.max(0)[:2] + 0.3 * unit
    left, top = (np.clip(low / SUPERSAMPLING, 0, size - 1)).astype(int)
    right, bottom = (np.clip(high / SUPERSAMPLING, 0, size - 1)).astype(int) + 1
    shift = shift - SUPERSAMPLING * np.array([left, top, 0])  # from here on inside that window
    shape = (SUPERSAMPLING * (bottom - top), SUPERSAMPLING * (right - left))

    def paint(depth: Array, part: str) -> Array:
        for start, end, (first, last) in bones[part]:
            radii = (first * unit, last * unit)
            draw_capsule(depth, matrix @ start + shift, matrix @ end + shift, radii)
        return depth

    palm = _even_out(paint(np.full(shape, -np.inf, np.float32), "palm"), 0.06 * unit)
    bare = paint(palm.copy(), "digits")
    depth = paint(bare.copy(), "sleeve")
    cover = np.isfinite(depth)
    floor = depth[cover].min(initial=np.inf)  # depth behind the hand must be finite to be blurred
    shade = _shade(np.where(cover, depth, floor), view, unit)
    skin = build.tone
    if matrix[2, 2] > 0:  # the palm faces the viewer
        skin = build.palm_tone
        lines = np.zeros(shape, np.float32)
        for crease in CREASES:
            points = [matrix @ np.array([x * build.palm_width, y, 0.1]) + shift for x, y in crease]
            corners = np.rint(np.array(points)[:, :2]).astype(np.int32)
            cv2.polylines(lines, [corners], False, 0.25, 1)
        shade *= 1.0 - cv2.GaussianBlur(lines, (0, 0), 0.012 * unit) * (bare == palm)
    drawn = np.empty((*shape, 4), np.float32)
    drawn[..., 3] = cover
    covered = depth > bare
    deep = shade * (1.0 - shade) * (cover & ~covered)
    shade *= cover
    for channel, (light, tint) in enumerate(zip(view.colour, TINT, strict=True)):
        cloth = build.sleeve[channel] if build.sleeve else 0.0
        albedo = np.where(covered, np.float32(cloth * light), np.float32(skin[channel] * light))
        drawn[..., channel] = albedo * (shade + np.float32(tint) * deep)
    layer = np.zeros((size, size, 4), np.float32)
    extent = (right - left, bottom - top)
    layer[top:bottom, left:right] = cv2.resize(drawn, extent, interpolation=cv2.INTER_AREA)
    return layer
