"""Where a network looks: Grad-CAM of images, or the weight of each point of a hand.

Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), by the package grad-cam: what of the last layer
with places speaks for the predicted class. For points: how much less probable the right class
becomes when one point is exchanged among the images (permutation importance, Breiman 2001).
"""

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from torch import nn

from signlang.arrays import Floats, Ints, Pixels
from signlang.callbacks.predictions import PredictionCollector, show
from signlang.console import log
from signlang.files import atomic_write
from signlang.hands.hand_input import encoded_points
from signlang.models.classifier import Classifier
from signlang.models.landmark_network import POINTS, LandmarkNetwork
from signlang.reporting.plots import BLUE, INK, contact_sheet, new_figure, one_line, png_bytes

FINEST: Final = 7  # rows and columns that a map needs to be worth a look
NAMED: Final = 0.005  # least weight that is written beside its point
REPEATS: Final = 5  # exchanges of each point
BONES: Final = tuple((0 if n % 4 == 1 else n - 1, n) for n in range(1, POINTS))


class Explanations(pl.Callback):
    """Shows after the test where the network looks, on TensorBoard and in a file of the run.

    Args:
        file: The image.
        images: How many wrong images, the most confident first, and how many right ones.
    """

    def __init__(self, file: str, images: int = 12) -> None:
        self.file, self.images = Path(file), images

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain predictions for the test fold; a network without a map of places has none."""
        assert isinstance(pl_module, Classifier)
        collector = next(c for c in trainer.callbacks if isinstance(c, PredictionCollector))  # type: ignore[attr-defined]
        labels, probabilities = collector.labels("test"), collector.probabilities("test")
        data = trainer.datamodule  # type: ignore[attr-defined]
        rows = data.subsets.test[: len(labels)]
        with torch.inference_mode(False), torch.enable_grad():
            if isinstance(pl_module.network, LandmarkNetwork):
                images = data.array[rows]
                weights = point_weights(pl_module, images, labels)
                png = png_bytes(skeleton_figure(images, weights))
                sheet = Image.open(io.BytesIO(png)).convert("RGB")
            else:
                layer = finest_layer(pl_module)
                if layer is None:
                    log.info("no explanations: no layer of the network has a map of places")
                    return
                chosen = chosen_rows(labels, probabilities, self.images)
                sheet = _map_sheet(pl_module, layer, data, rows, labels, probabilities, chosen)
        show(trainer, "test/where it looks", sheet)
        with atomic_write(self.file) as temporary:
            sheet.save(temporary, "PNG")


def chosen_rows(labels: Ints, probabilities: Floats, most: int) -> list[int]:
    """The most confident mistakes, then right images of all classes in turn, `most` of each."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    right = np.flatnonzero(predicted == labels)
    turn = np.zeros(len(right), dtype=np.int64)  # the first of each class, then the second
    for label in np.unique(labels[right]):
        members = labels[right] == label
        turn[members] = np.arange(members.sum())
    return [*wrong.tolist(), *right[np.lexsort((labels[right], turn))][:most].tolist()]


def finest_layer(model: Classifier) -> nn.Module | None:
    """The last layer whose map has `FINEST` rows and columns, else the last one with a map."""
    sizes: list[tuple[nn.Module, int]] = []

    def record_size(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 3:  # tokens: places before are mixed
            sizes.clear()
        elif isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            sizes.append((layer, min(output.shape[2:])))

    leaves = [one for one in model.network.modules() if not list(one.children())]
    handles = [one.register_forward_hook(record_size) for one in leaves]
    image_size = model.image_size
    with torch.no_grad():
        model(torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8, device=model.device))
    for handle in handles:
        handle.remove()
    fine = [layer for layer, size in sizes if size >= FINEST]
    return fine[-1] if fine else sizes[-1][0] if sizes else None


def grad_cam(model: Classifier, layer: nn.Module, images: Pixels) -> Floats:
    """(n, size, size) from 0 to 1: what speaks for the predicted class, of (n, size, size, 3)."""
    planes = model.normalized(torch.tensor(images, device=model.device))
    planes.requires_grad_()  # all layers before may be frozen
    with GradCAM(model=model.network, target_layers=[layer]) as cam:
        maps = cam(planes, targets=None)  # None: the predicted class
    model.zero_grad(set_to_none=True)
    return np.asarray(maps, dtype=np.float64)


def _map_sheet(
    model: Classifier, layer: nn.Module, data: Any, rows: Ints, labels: Ints,
    probabilities: Floats, chosen: list[int],
) -> Image.Image:  # fmt: skip
    images = data.array[rows[chosen]]
    panels: list[Pixels] = []
    titles: list[list[str]] = []
    for row, image, heat in zip(chosen, images, grad_cam(model, layer, images), strict=True):
        overlay = show_cam_on_image(image / np.float32(255), heat, use_rgb=True, image_weight=0.6)
        panels += [image, overlay]
        name, best = (one_line(data.index.classes[n], 10)
                      for n in (labels[row], probabilities[row].argmax()))  # fmt: skip
        verdict = "right" if name == best else f"taken for {best}"
        titles += [[f"is {name}", verdict], ["", f"{probabilities[row].max():.2f} sure"]]
    heading = "what speaks for the predicted sign (red); the most confident mistakes first"
    return contact_sheet(heading, panels, titles)


def point_weights(model: Classifier, images: Pixels, labels: Ints, seed: int = 0) -> Floats:
    """(21,) how much less probable the right class is when a point is that of another image.

    Args:
        model: Reads points.
        images: (n, 8, 8, 3) of `HandPoints`.
        labels: (n,).
        seed: Of the exchanges.
    """
    rng, rows = np.random.default_rng(seed), np.arange(len(labels))

    @torch.no_grad()
    def of_truth(pixels: Pixels) -> float:
        logits = model(torch.tensor(pixels, device=model.device))
        return float(logits.double().softmax(1).cpu().numpy()[rows, labels].mean())

    baseline = of_truth(images)
    weights = np.zeros(POINTS)
    for point in range(POINTS):
        columns = slice(3 * point, 3 * point + 3)  # x, y and depth, two bytes of a pixel each
        for _ in range(REPEATS):
            pixels = images.reshape(len(images), -1, 3).copy()
            pixels[:, columns] = pixels[rng.permutation(len(images)), columns]
            weights[point] += (baseline - of_truth(pixels.reshape(images.shape))) / REPEATS
    return weights


def skeleton_figure(images: Pixels, weights: Floats) -> Figure:
    """Draw the median hand; the area of each of its 21 points is its weight."""
    has_hand = images.reshape(len(images), -1, 3)[:, -1, 0] > 0
    points = np.median([encoded_points(one) for one in images[has_hand]] or np.zeros((1, 21, 3)), 0)
    figure = new_figure(5.4, 5.4)
    panel = figure.add_subplot()
    for one, other in BONES:
        panel.plot(*points[[one, other], :2].T, color=INK, linewidth=1, zorder=1)
    areas = 12 + 900 * np.maximum(weights, 0) / max(float(weights.max()), 1e-9)
    panel.scatter(points[:, 0], points[:, 1], s=areas, color=BLUE, alpha=0.7, zorder=2)
    for point in np.flatnonzero(weights >= NAMED):
        panel.annotate(f"{weights[point]:.2f}", tuple(points[point, :2]), xytext=(9, 4), fontsize=8,
                       color=INK, textcoords="offset points")  # fmt: skip
    panel.set_title("loss of probability of the right sign\nwhen a point is that of another image",
                    color=INK, fontsize=11)  # fmt: skip
    panel.invert_yaxis()
    panel.set_aspect("equal")
    panel.set_axis_off()
    return figure
