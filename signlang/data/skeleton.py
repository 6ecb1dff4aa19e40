"""A sign and a signer's build come in, the bones of a hand that shows it go out.

Bones are tapered capsules. Lengths are in units of the palm (wrist to middle knuckle); +x is the
thumb side of a right hand whose palm faces the viewer, +y runs along the fingers, +z out of the
palm; angles are in degrees.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Bone = tuple[Vector, Vector, tuple[float, float]]  # a tapered capsule: its ends and radii

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

# How a finger may be held: flexion at knuckle, middle and end joint.
FLEXION = {
    "U": (5.0, 8.0, 5.0),  # up
    "F": (84.0, 100.0, 55.0),  # folded into the palm
    "T": (56.0, 58.0, 26.0),  # bent towards the thumb
    "O": (52.0, 56.0, 40.0),  # curved
}
# Sign: fingers from index to pinky, then what the thumb does and with which finger:
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
    """What stays the same in all pictures of one signer's hand."""

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


def _unit(vector: Vector) -> Vector:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def _finger(index: int, flexion: Vector, spread: float, build: Build) -> list[Vector]:
    """Joints of a finger from knuckle to tip."""
    x, y, _, length, _, _ = FINGERS[index]
    angle = np.radians(spread)
    along = np.array([np.sin(angle), np.cos(angle), 0.0])
    joints = [np.array([x * build.palm_width, y, 0.0])]
    for share, bend in zip(PHALANGES, np.radians(np.cumsum(flexion)), strict=True):
        direction = np.cos(bend) * along + np.array([0.0, 0.0, np.sin(bend)])
        joints.append(joints[-1] + share * length * build.lengths[index] * direction)
    return joints


def _thumb(target: Vector, build: Build) -> list[Vector]:
    """Joints of a thumb whose tip reaches for a target: two-bone inverse kinematics."""
    first, second, third = (length * build.thumb for length in THUMB)
    root = THUMB_ROOT * np.array([build.palm_width, 1.0, 1.0])
    rest = _unit(np.array([0.75, 0.55, 0.45]))
    knuckle = root + first * _unit(0.9 * _unit(target - root) + rest)
    reach = target - knuckle
    distance = float(np.clip(np.linalg.norm(reach), abs(second - third) + 0.02, second + third))
    ahead = _unit(reach)
    cosine = (second**2 + distance**2 - third**2) / (2 * second * distance)
    outwards = np.array([0.9, 0.3, 0.4])
    aside = _unit(outwards - (outwards @ ahead) * ahead)
    sine = np.sqrt(max(0.0, 1 - cosine**2))
    joint = knuckle + second * (min(cosine, 1.0) * ahead + sine * aside)
    return [root, knuckle, joint, knuckle + distance * ahead]


def _thumb_target(
    does: str, finger: int, fingers: list[list[Vector]], build: Build, rng: np.random.Generator
) -> Vector:
    jitter = rng.normal(0.0, 0.025, 3)
    if does == "t":
        tip = fingers[finger][-1]
        return tip + 0.15 * build.breadth * _unit(THUMB_ROOT - tip) + 0.6 * jitter
    if does == "f":
        jitter += np.array([0.03, 0.02, 0.19 * build.breadth])
        return fingers[finger][2] + jitter
    if does == "a":
        return np.array([-0.08, 0.66, 0.28]) + 1.6 * jitter
    out = np.radians(rng.normal(47.0, 7.0))  # the less it stands out, the more a 3 is like a 2
    return THUMB_ROOT + 1.2 * np.array([np.sin(out), np.cos(out), 0.18]) + jitter


def skeleton(sign: str, build: Build, rng: np.random.Generator) -> dict[str, list[Bone]]:
    """The bones of one hand: `palm`, `digits` and `sleeve`, in units of the palm."""
    holds, does, with_finger = POSES[sign]
    spread = build.spread * rng.uniform(0.6, 1.25)
    fingers = []
    for index, hold in enumerate(holds):
        flexion = np.array(FLEXION[hold]) + rng.normal(0.0, 4.0, 3)
        if hold == "F":
            flexion -= build.stiffness * np.array([0.6, 1.0, 0.3])
        rest = FINGERS[index][5] * spread * (1.0 if hold == "U" else 0.3)
        if does == "t" and hold == "T":
            rest += 6.0 * index  # a bent finger leans towards the thumb
        fingers.append(_finger(index, flexion, rest + rng.normal(0.0, 2.0), build))
    thumb = _thumb(_thumb_target(does, with_finger, fingers, build, rng), build)

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
    for side in (-0.13, 0.0, 0.13):
        wrist, elbow = np.array([side, 0.12, -0.02]), np.array([side * 1.5, -2.6, -0.1])
        cuff = np.array([side, build.sleeve_end, -0.02])
        if build.sleeve:
            sleeve.append((cuff, elbow, (0.26, 0.42)))
            elbow = cuff + 0.1 * (elbow - cuff)
        palm.append((wrist, elbow, (0.17 * build.breadth, 0.22 if build.sleeve else 0.3)))
    return {"palm": palm, "digits": digits, "sleeve": sleeve}
