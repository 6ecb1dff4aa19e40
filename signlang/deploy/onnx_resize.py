"""Pillow's resize as an ONNX graph, exact to the last bit.

ONNX's own Resize rounds ties otherwise than PIL: a twentieth of a per cent of the bytes differ by
1, and probabilities in the third digit. So the graph does what PIL does (Resample.c of Pillow):
weights of a tent function, as wide as the shrinking asks for, are rounded to 22 bits; sums of
whole numbers are rounded to bytes; first along the rows, then along the columns.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import parser

BITS: Final = 22  # of PIL's weights
# Weights of one axis, 3 x size of them for each pixel: their low, middle and high bytes one after
# another, because MatMulInteger, which is fast and exact, multiplies bytes. {p} is w or h.
WEIGHTS: Final = """
  {p}pixel_count = Cast <to = 11> ({p}count)
  {p}scale = Div ({p}pixel_count, size)
  {p}reach = Max ({p}scale, one)
  {p}centres = Mul ({p}places, {p}scale)
  {p}range = Range (zero, {p}pixel_count, one)
  {p}pixels = Reshape ({p}range, {p}shape)
  {p}from_centre = Sub ({p}pixels, {p}centres)
  {p}offset = Add ({p}from_centre, half)
  {p}per_reach = Div (one, {p}reach)
  {p}signed = Mul ({p}offset, {p}per_reach)
  {p}distance = Abs ({p}signed)
  {p}slope = Sub (one, {p}distance)
  {p}tent = Max ({p}slope, zero)
  {p}total = ReduceSum ({p}tent, {p}axis)
  {p}share = Div ({p}tent, {p}total)
  {p}scaled = Mul ({p}share, unit)
  {p}to_round = Add ({p}scaled, half)
  {p}fixed = Floor ({p}to_round)
  {p}over_high = Div ({p}fixed, k65536)
  {p}high = Floor ({p}over_high)
  {p}of_high = Mul ({p}high, k65536)
  {p}rest = Sub ({p}fixed, {p}of_high)
  {p}over_middle = Div ({p}rest, k256)
  {p}middle = Floor ({p}over_middle)
  {p}of_middle = Mul ({p}middle, k256)
  {p}low = Sub ({p}rest, {p}of_middle)
  {p}bytes = Concat <axis = {along}> ({p}low, {p}middle, {p}high)
  {p}weights = Cast <to = 2> ({p}bytes)
"""
# Sums of the low, middle and high bytes become one. All of it stays below 2^31: the weights of a
# pixel add up to 2^22.
SUMMED: Final = """
  {p}low_sums, {p}middle_sums, {p}high_sums = Split <axis = {along}, num_outputs = 3> ({p}sums)
  {p}middle_part = Mul ({p}middle_sums, i256)
  {p}high_part = Mul ({p}high_sums, i65536)
  {p}lower = Add ({p}low_sums, {p}middle_part)
  {p}whole = Add ({p}lower, {p}high_part)
"""
ROUNDED: Final = """
  {p}raised = Add ({p}whole, ihalf)
  {p}unsigned = Cast <to = 12> ({p}raised)
  {p}shifted = BitShift <direction = "RIGHT"> ({p}unsigned, bits)
  {out} = Cast <to = 2> ({p}shifted)
"""
ROUNDING: Final = f"""
  ihalf = Constant <value = int32 {{{1 << (BITS - 1)}}}> ()
  bits = Constant <value = uint32 {{{BITS}}}> ()
"""
BOTH: Final = """
  zero = Constant <value = double {{0.0}}> ()
  half = Constant <value = double {{0.5}}> ()
  one = Constant <value = double {{1.0}}> ()
  unit = Constant <value = double {{{unit}.0}}> ()
  k256 = Constant <value = double {{256.0}}> ()
  k65536 = Constant <value = double {{65536.0}}> ()
  i256 = Constant <value = int32 {{256}}> ()
  i65536 = Constant <value = int32 {{65536}}> ()
  {rounding}
  size = Constant <value = double {{{size}.0}}> ()
  h_length = Shape <start = 2, end = 3> (planes)
  w_length = Shape <start = 3, end = 4> (planes)
  scalar = Constant <value = int64[0] {{}}> ()
  h_count = Reshape (h_length, scalar)
  w_count = Reshape (w_length, scalar)
  w_places = Constant <value = double[1, {size}] {{{places}}}> ()
  h_places = Constant <value = double[{size}, 1] {{{places}}}> ()
  w_shape = Constant <value = int64[2] {{-1, 1}}> ()
  h_shape = Constant <value = int64[2] {{1, -1}}> ()
  w_axis = Constant <value = int64[1] {{0}}> ()
  h_axis = Constant <value = int64[1] {{1}}> ()
  {w_weights}
  w_sums = MatMulInteger (planes, w_weights)
  {w_rounded}
  {h_weights}
  h_sums = MatMulInteger (h_weights, narrow)
  {h_rounded}
"""
# An image that has the size already is left alone: the most frequent case costs nothing.
FIRST: Final = """
first (uint8[N, H, W, 3] images) => (uint8[N, 3, {size}, {size}] resized)
{{
  planes = Transpose <perm = [0, 3, 1, 2]> (images)
  shape = Shape <start = 2, end = 4> (planes)
  wanted = Constant <value = int64[2] {{{size}, {size}}}> ()
  equal = Equal (shape, wanted)
  equals = Cast <to = 6> (equal)
  least = ReduceMin <keepdims = 0> (equals)
  same = Cast <to = 9> (least)
  resized = If (same) <
    then_branch = keep () => (uint8[N, 3, {size}, {size}] kept) {{
      kept = Identity (planes)
    }},
    else_branch = resize () => (uint8[N, 3, {size}, {size}] fitted) {{
      {both}
    }}
  >
}}
"""
# From one known size to another, the few weights that are not zero are known too: for each of
# them, rows are gathered and added. Columns are made rows for that, which copies whole rows.
NEXT: Final = """
next (uint8[N, 3, {before}, {before}] planes) => (uint8[N, 3, {size}, {size}] fitted)
{{
  {rounding}
  columns = Transpose <perm = [0, 1, 3, 2]> (planes)
  {w_taps}
  {w_rounded}
  rows = Transpose <perm = [0, 1, 3, 2]> (w_fitted)
  {h_taps}
  {h_rounded}
}}
"""
TAP: Final = """
  {p}place{k} = Constant <value = int64[{size}] {{{places}}}> ()
  {p}weight{k} = Constant <value = int32[{size}, 1] {{{weights}}}> ()
  {p}bytes{k} = Gather <axis = 2> ({source}, {p}place{k})
  {p}wide{k} = Cast <to = 6> ({p}bytes{k})
  {p}part{k} = Mul ({p}wide{k}, {p}weight{k})
  {p}sum{k} = Add ({before}, {p}part{k})
"""


def resize_graph(image_sizes: Sequence[int], opset: int, ir_version: int) -> onnx.ModelProto:
    """Make the graph from `images` (N, H, W, 3) to `resized` (N, 3, size, size), all uint8.

    Args:
        image_sizes: One or more, no two neighbours equal; images are resized to each in turn, as
            `data.image_io.resize_batch` does.
        opset: Version of ONNX's operators, 18 or newer.
        ir_version: Of the file format.
    """
    model = _model(FIRST.format(size=image_sizes[0], both=_both(image_sizes[0])), opset, ir_version)
    for before, size in pairwise(image_sizes):
        text = _next(before, size)
        following = onnx.compose.add_prefix(_model(text, opset, ir_version), f"to_{size}/")
        (output,) = model.graph.output
        model = onnx.compose.merge_models(
            model, following, io_map=[(output.name, f"to_{size}/planes")]
        )
    return model


def resize_weights(before: int, size: int) -> npt.NDArray[np.int64]:
    """(size, before) PIL's weights, in units of 2^-22.

    >>> (resize_weights(4, 2) / 2**22).round(3).tolist()
    [[0.429, 0.429, 0.143, 0.0], [0.0, 0.143, 0.429, 0.429]]
    """
    scale = before / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    tent = np.maximum(1 - np.abs((np.arange(before) - centres + 0.5) * (1 / max(scale, 1.0))), 0)
    shares = tent / tent.sum(1, keepdims=True)
    fixed: npt.NDArray[np.int64] = np.floor(shares * (1 << BITS) + 0.5).astype(np.int64)
    return fixed


def _next(before: int, size: int) -> str:
    weights = resize_weights(before, size)
    first = (weights > 0).argmax(1)
    tap_count = int((weights > 0).sum(1).max())
    places = np.minimum(first[:, None] + np.arange(tap_count), before - 1)
    # a place that the edge repeats has been counted already
    is_repeated = first[:, None] + np.arange(tap_count) > before - 1
    tap_weights = np.where(is_repeated, 0, np.take_along_axis(weights, places, 1))

    def taps(p: str, source: str) -> str:
        lines = [f"  {p}sum = Constant <value = int32 {{0}}> ()"]
        for k in range(tap_count):
            lines.append(
                TAP.format(
                    p=p, k=k, size=size, source=source, before=f"{p}sum{k - 1}" if k else f"{p}sum",
                    places=_listed(places[:, k]), weights=_listed(tap_weights[:, k]),
                )
            )  # fmt: skip
        lines.append(f"  {p}whole = Identity ({p}sum{tap_count - 1})")
        return "".join(lines)

    return NEXT.format(
        before=before,
        size=size,
        rounding=ROUNDING,
        w_taps=taps("w_", "columns"),
        w_rounded=ROUNDED.format(p="w_", out="w_fitted"),
        h_taps=taps("h_", "rows"),
        h_rounded=ROUNDED.format(p="h_", out="fitted"),
    )


def _listed(values: npt.NDArray[np.int64]) -> str:
    return ", ".join(map(str, values.tolist()))


def _both(size: int) -> str:
    """Both passes, from `planes` to `fitted`."""
    return BOTH.format(
        size=size,
        places=", ".join(f"{place}.5" for place in range(size)),
        unit=1 << BITS,
        rounding=ROUNDING,
        w_weights=WEIGHTS.format(p="w_", along=1),
        h_weights=WEIGHTS.format(p="h_", along=0),
        w_rounded=SUMMED.format(p="w_", along=3) + ROUNDED.format(p="w_", out="narrow"),
        h_rounded=SUMMED.format(p="h_", along=2) + ROUNDED.format(p="h_", out="fitted"),
    )


def _model(graph: str, opset: int, ir_version: int) -> onnx.ModelProto:
    return parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{graph.strip()}'
    )
