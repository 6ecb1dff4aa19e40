"""Points and embedding of each hand in several crops, for `many_seeds.py --crops`.

    python experiments/generalisation/crops.py 'data.sets={...}' --out FILE.npz [--skip SET ...]

The crop of the hand as it is found; four that are zoomed, moved and turned a little; and its mirror
image. The embedding is what the network of landmarks computes its points from: 1,152 numbers.
"""

import argparse
import math
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import yaml
from leave_out import LETTERS
from PIL import Image

from signlang.data.collection import read_data_set
from signlang.data.image_io import read_unchanged
from signlang.hands import finder
from signlang.hands.finder import Region
from signlang.hands.hand_input import normalized_points
from signlang.hands.hand_networks import find_networks

EMBEDDING: Final = "t160"  # a tensor of MediaPipe's network, of 1,152 numbers
OUTPUTS: Final = ("points", "handedness", EMBEDDING)
TURN: Final = math.radians(10)
# scale, and shift to the right and downwards in sides of the crop, and angle
CROPS: Final = ((1.0, 0.0, 0.0, 0.0), (0.9, 0.03, 0.0, TURN), (1.15, -0.03, 0.0, -TURN),
                (1.0, 0.0, 0.05, -TURN), (1.15, 0.0, -0.03, TURN))  # fmt: skip


def with_embedding(landmarks: bytes) -> Any:
    """The network of landmarks with one more output."""
    model = onnx.load_from_string(landmarks)
    kind = onnx.TensorProto.FLOAT
    model.graph.output.append(onnx.helper.make_tensor_value_info(EMBEDDING, kind, ["N", 1152]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def region_of(image: Any, find: finder.HandFinder) -> tuple[Any, Region | None]:
    """The image, smaller if it is large, and the crop in which `HandFinder` finds its hand."""
    factor = -(-max(image.shape[:2]) // finder.LARGEST)
    if factor > 1:
        image = np.asarray(Image.fromarray(image).reduce(factor))
    for view in finder.VIEWS:
        for palm in find.palms(image, view)[: finder.CANDIDATES]:
            region = finder.hand_region(palm)
            if find.hand(image, region).score >= finder.PRESENCE:
                return image, region
    return image, None


def changed(region: Region, crop: tuple[float, float, float, float]) -> Region:
    """A crop beside another one."""
    scale, right, down, angle = crop
    cosine, sine = math.cos(region.angle), math.sin(region.angle)
    return Region(
        region.x + (cosine * right - sine * down) * region.side,
        region.y + (sine * right + cosine * down) * region.side,
        region.side * scale, region.angle + angle,
    )  # fmt: skip


def main() -> None:
    """Search each image, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--skip", nargs="*", default=[], help="sets that are left out")
    given = parser.parse_args()
    cache = os.environ.get("SIGNLANG_CACHE", "~/.cache/signlang")
    index = read_data_set(
        {"source": {"_target_": "signlang.data.sources.joined"}, "root": None,
         "sets": yaml.safe_load(given.sets.partition("=")[2]), "classes": LETTERS,
         "on_bad_image": "error"}, cache,
    )  # fmt: skip
    networks = find_networks(None, cache)
    find, landmarks = networks.finder(), with_embedding(networks.landmarks)
    rows = np.flatnonzero(~np.isin(np.array(index.sets), given.skip))
    points = np.zeros((len(rows), len(CROPS) + 1, 21, 3), np.float32)
    embedding = np.zeros((len(rows), len(CROPS) + 1, 1152), np.float16)
    for place, row in enumerate(rows.tolist()):
        file = index.root / index.paths[row]
        decoded = read_unchanged(file, index.facts[row].digest, index.crop(row))
        image, region = region_of(np.asarray(decoded, dtype=np.uint8), find)
        if region is None:
            continue
        regions = [changed(region, crop) for crop in CROPS]
        crops = [finder.cut(image, one, finder.CROP) for one in regions]
        crops.append(np.ascontiguousarray(crops[0][:, ::-1]))
        seen, right, embedding[place] = landmarks.run(OUTPUTS, {"images": np.stack(crops)})
        own = seen.reshape(-1, 21, 3) / finder.CROP
        own[-1, :, 0] = 1 - own[-1, :, 0]
        there = [one.to_image(its) for one, its in zip([*regions, region], own, strict=True)]
        hands = [finder.Hand(its, float(right[0, 0]), score=1.0) for its in there]
        points[place] = [normalized_points(hand, mirror=True) for hand in hands]
    np.savez(given.out, rows=rows, points=points, embedding=embedding)


if __name__ == "__main__":
    main()
