"""Rendering of a hand: pose, skeleton, projection and shading.

Bones are tapered capsules. Lengths are in units of the palm (wrist to middle knuckle); +x is the
thumb side of a right hand whose palm faces the viewer, +y runs along the fingers, +z out of the
palm; angles are in degrees.

Each bone is rendered in closed form into one depth image, from which normals, contact shade and
cast shadow follow, so that folded fingers, the thumb across the palm and the back of the hand need
no special cases.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from signlang.arrays import Floats, Floats32

Bone = tuple[Floats, Floats, tuple[float, float]]  # a tapered capsule: its ends and radii
# index, middle, ring, pinky: knuckle x and y, foot of the metacarpal x, length, radius, rest spread
FINGERS = (
    (0.30, 0.96, 0.15, 0.91, 0.098, 9.0),
    (0.10, 1.00, 0.05, 1.00, 0.100, 2.0),
    (-0.11, 0.94, -0.06, 0.94, 0.094, -5.0),
    (-0.31, 0.83, -0.17, 0.73, 0.082, -13.0),
)
PHALANGES = (0.47, 0.30, 0.23)  # shares of a finger's length, from knuckle to tip
THUMB = (0.46, 0.37, 0.28)  # metacarpal, proximal and distal length
THUMB_ROOT = np.array([0.20, 0.14, 0.06])
THUMB_RADII = (0.17, 0.125, 0.105, 0.085)
# Poses of a finger: flexion at knuckle, middle and end joint.
FLEXION = {
    "U": (5.0, 8.0, 5.0),  # up
    "F": (84.0, 100.0, 55.0),  # folded into the palm
    "T": (56.0, 58.0, 26.0),  # bent towards the thumb
    "O": (52.0, 56.0, 40.0),  # curved
}
# Sign: fingers from index to pinky, then the action of the thumb and its finger:
# "o" stands out, "a" lies across the palm, "f" holds a folded finger down, "t" touches a tip.
POSES = {
    "0": ("OOOO", "t", 0),
    "1": ("UFFF", "f", 1),
    "2": ("UUFF", "f", 2),
    "3": ("UUFF", "o", 0),
    "4": ("UUUU", "a", 0),
    "5": ("UUUU", "o", 0),
    "6": ("UUUT", "t", 3),
    "7": ("UUTU", "t", 2),
    "8": ("UTUU", "t", 1),
    "9": ("TUUU", "t", 0),
}


@dataclass(frozen=True)
class Build:
    """Properties of one signer's hand, equal in all images."""

    tone: tuple[float, float, float]  # albedo of the back of the hand, RGB in 0..1
    palm_tone: tuple[float, float, float]
    lengths: tuple[float, float, float, float]  # factors on the fingers' lengths
    thumb: float  # factor on the thumb's length
    breadth: float  # factor on all radii
    palm_width: float
    spread: float  # how far the fingers are held apart, 1 is usual
    stiffness: float  # degrees by which a folded finger stays open
    sleeve: tuple[float, float, float] | None
    sleeve_end: float  # y at which the sleeve ends, below the wrist
    mirrored: bool
    palm_inwards: bool


def _unit(vector: Floats) -> Floats:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def _finger(index: int, flexion: Floats, spread: float, build: Build) -> list[Floats]:
    """Joints of a finger from knuckle to tip."""
    x, y, _, length, _, _ = FINGERS[index]
    angle = np.radians(spread)
    along = np.array([np.sin(angle), np.cos(angle), 0.0])
    joints = [np.array([x * build.palm_width, y, 0.0])]
    for share, bend in zip(PHALANGES, np.radians(np.cumsum(flexion)), strict=True):
        direction = np.cos(bend) * along + np.array([0.0, 0.0, np.sin(bend)])
        joints.append(joints[-1] + share * length * build.lengths[index] * direction)
    return joints


def _thumb(target: Floats, build: Build) -> list[Floats]:
    """Joints of a thumb whose tip is at a target: two-bone inverse kinematics."""
    first, second, third = (length * build.thumb for length in THUMB)
    root = THUMB_ROOT * np.array([build.palm_width, 1.0, 1.0])
    rest = _unit(np.array([0.75, 0.55, 0.45]))
    knuckle = root + first * _unit(0.9 * _unit(target - root) + rest)
    reach = target - knuckle
    distance = float(np.clip(np.linalg.norm(reach), abs(second - third) + 0.02, second + third))
    forward = _unit(reach)
    cosine = (second**2 + distance**2 - third**2) / (2 * second * distance)
    outwards = np.array([0.9, 0.3, 0.4])
    sideways = _unit(outwards - (outwards @ forward) * forward)
    sine = np.sqrt(max(0.0, 1 - cosine**2))
    joint = knuckle + second * (min(cosine, 1.0) * forward + sine * sideways)
    return [root, knuckle, joint, knuckle + distance * forward]


def _thumb_target(
    action: str, finger: int, fingers: list[list[Floats]], build: Build, rng: np.random.Generator
) -> Floats:
    jitter = rng.normal(0.0, 0.025, 3)
    if action == "t":
        tip = fingers[finger][-1]
        return tip + 0.15 * build.breadth * _unit(THUMB_ROOT - tip) + 0.6 * jitter
    if action == "f":
        jitter += np.array([0.03, 0.02, 0.19 * build.breadth])
        return fingers[finger][2] + jitter
    if action == "a":
        return np.array([-0.08, 0.66, 0.28]) + 1.6 * jitter
    angle = np.radians(rng.normal(47.0, 7.0))  # the less it stands out, the more a 3 is like a 2
    return THUMB_ROOT + 1.2 * np.array([np.sin(angle), np.cos(angle), 0.18]) + jitter


def skeleton(sign: str, build: Build, rng: np.random.Generator) -> dict[str, list[Bone]]:
    """The bones of one hand: `palm`, `digits` and `sleeve`, in units of the palm."""
    finger_poses, action, target_finger = POSES[sign]
    spread = build.spread * rng.uniform(0.6, 1.25)
    fingers = []
    for index, pose in enumerate(finger_poses):
        flexion = np.array(FLEXION[pose]) + rng.normal(0.0, 4.0, 3)
        if pose == "F":
            flexion -= build.stiffness * np.array([0.6, 1.0, 0.3])
        rest = FINGERS[index][5] * spread * (1.0 if pose == "U" else 0.3)
        if action == "t" and pose == "T":
            rest += 6.0 * index  # a bent finger leans towards the thumb
        fingers.append(_finger(index, flexion, rest + rng.normal(0.0, 2.0), build))
    thumb = _thumb(_thumb_target(action, target_finger, fingers, build, rng), build)

    palm: list[Bone] = []
    digits: list[Bone] = []
    for index, joints in enumerate(fingers):
        foot = np.array([FINGERS[index][2] * build.palm_width, 0.05, 0.0])
        radius = FINGERS[index][4] * build.breadth
        web = joints[0] + np.array([0.0, 0.06, 0.0])
        palm.append((foot, web, (0.17 * build.breadth, 0.125 * build.breadth)))
        for link, (a, b) in enumerate(pairwise(joints)):
            taper = (1.06, 0.97, 0.92, 0.78)
            digits.append((a, b, (radius * taper[link], radius * taper[link + 1])))
    heel = np.array([-0.17 * build.palm_width, 0.12, 0.03])
    palm.append((heel, np.array([-0.25 * build.palm_width, 0.55, 0.02]), (0.16, 0.15)))
    for link, (a, b) in enumerate(pairwise(thumb)):
        radii = (THUMB_RADII[link] * build.breadth, THUMB_RADII[link + 1] * build.breadth)
        (palm if link == 0 else digits).append((a, b, radii))
    sleeve: list[Bone] = []
    for offset in (-0.13, 0.0, 0.13):
        wrist, elbow = np.array([offset, 0.12, -0.02]), np.array([offset * 1.5, -2.6, -0.1])
        cuff = np.array([offset, build.sleeve_end, -0.02])
        if build.sleeve:
            sleeve.append((cuff, elbow, (0.26, 0.42)))
            elbow = cuff + 0.1 * (elbow - cuff)
        palm.append((wrist, elbow, (0.17 * build.breadth, 0.22 if build.sleeve else 0.3)))
    return {"palm": palm, "digits": digits, "sleeve": sleeve}


SUPERSAMPLING = 2  # pixels drawn per pixel and edge
CREASES = (((0.40, 0.66), (0.12, 0.60), (-0.20, 0.42)), ((-0.38, 0.66), (-0.10, 0.72), (0.2, 0.9)))
TINT = (0.18, 0.0, -0.08)  # light that enters skin leaves it redder, which shows in the shade
SIDEWAYS = {"0": -58.0}  # the O is shown from the thumb's side, as signers do
SIGNS_FROM_BACK = frozenset("12345")  # the signs that some signers show with the palm inwards


def draw_capsule(depth: Floats32, start: Floats, end: Floats, radii: tuple[float, float]) -> None:
    """Raise a depth image, in place, to the front of a tapered capsule; everything in pixels."""
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
    position = along  # where along the axis the sight line of a pixel meets the surface
    if abs(rise) > 0.08:
        position = along + rise * np.sqrt(np.maximum(np.square(ra + dr / 2) - across, 0.0))
    t = position * np.float32(1.0 / length)
    t = np.minimum(np.maximum(t, 0.0), 1.0)
    height_squared = np.square(ra + dr * t) - np.square(along - t * np.float32(length)) - across
    height = np.float32(az) + t * np.float32(dz) + np.sqrt(np.maximum(height_squared, 0.0))
    np.copyto(window, height, where=(height_squared > 0.0) & (height > window))


@dataclass(frozen=True)
class View:
    """Camera and light of one image: lengths are shares of the image's edge."""

    centre: tuple[float, float]
    scale: float  # the palm's length
    roll: float
    yaw: float
    pitch: float
    light: Floats  # unit vector towards the light: x right, y down, z to the viewer
    colour: tuple[float, float, float]
    ambient: float


def _projection(sign: str, build: Build, view: View, edge: int) -> tuple[Floats, Floats]:
    """The 3x3 matrix and the shift that take hand coordinates to pixels (y down, z in pixels)."""
    back = build.palm_inwards and sign in SIGNS_FROM_BACK
    yaw = np.radians(view.yaw + SIDEWAYS.get(sign, 0.0) + (180.0 if back else 0.0))
    pitch, roll = np.radians(view.pitch), np.radians(view.roll)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    sin, cos = np.sin(pitch), np.cos(pitch)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    sin, cos = np.sin(roll), np.cos(roll)
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    flip = np.diag([-1.0 if build.mirrored else 1.0, -1.0, 1.0])
    matrix = view.scale * edge * (about_z @ flip @ about_x @ about_y)
    middle = matrix @ np.array([0.0, 0.85, 0.0])  # the point that lies on the image's centre
    return matrix, np.array([*view.centre, 0.0]) * edge - middle


def _shade(depth: Floats32, view: View, unit: float) -> Floats32:
    """Brightness (height, width) of a depth image: light, contact shade and cast shadow."""
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
    bright: Floats32 = (view.ambient + (1.0 - view.ambient) * direct) * (1.0 - 0.6 * hollow)
    return bright


def _even_out(depth: Floats32, sigma: float) -> Floats32:
    """Fill the valleys between the bones of the palm."""
    inside = np.isfinite(depth)
    weight = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), sigma)
    filled = cv2.GaussianBlur(np.where(inside, depth, 0), (0, 0), sigma)
    return np.where(inside, 0.8 * filled / np.maximum(weight, 1e-3) + 0.2 * depth, depth)


def draw_hand(
    sign: str, build: Build, view: View, size: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw one hand: (size, size, 4) RGB times cover, and cover, which is 1 on hand and arm."""
    bones = skeleton(sign, build, rng)
    matrix, shift = _projection(sign, build, view, size * SUPERSAMPLING)
    unit = view.scale * size * SUPERSAMPLING
    ends = (
        np.array([p for group in bones.values() for b in group for p in b[:2]]) @ matrix.T + shift
    )
    low, high = ends.min(0)[:2] - 0.3 * unit, ends.max(0)[:2] + 0.3 * unit
    left, top = (np.clip(low / SUPERSAMPLING, 0, size - 1)).astype(int)
    right, bottom = (np.clip(high / SUPERSAMPLING, 0, size - 1)).astype(int) + 1
    shift = shift - SUPERSAMPLING * np.array([left, top, 0])  # from here on inside that window
    shape = (SUPERSAMPLING * (bottom - top), SUPERSAMPLING * (right - left))

    def paint(depth: Floats32, group: str) -> Floats32:
        for start, end, (first, last) in bones[group]:
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
