"""Steps of an export: write, quantize, measure and report the models."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from omegaconf import DictConfig

from signlang.arrays import Floats32, Pixels
from signlang.console import show_table
from signlang.data.image_io import resize_batch
from signlang.deploy import bundle_writer, onnx_export, quantization
from signlang.deploy.parity import Parity, check_unchanged
from signlang.errors import BundleError
from signlang.inference.bundle import load_bundle
from signlang.inference.onnx_model import OnnxModel, session_options
from signlang.metrics.significance import wilson_interval
from signlang.runs import trained_run
from signlang.runs.trained_run import RunImages, TrainedRun
from signlang.system import cpu_count
from signlang.validation import GENERATED

INT8: Final = "model.int8.onnx"
SELECTION_IMAGES: Final = 500  # images that choose among ways to quantize
TIMED: Final = 50  # runs of one image each


@dataclass(frozen=True, eq=False)
class ExportMeasurements:
    """What the models of a bundle do on the test fold.

    Attributes:
        images: Of the test fold; 0 where they were not at hand.
        correct: How many of them each precision recognises.
        probabilities: (n, classes) of fp32, or None.
        latency_ms: Median time of each precision for one image of the network's size.
        size_mb: Of each file, in millions of bytes.
        quantized: Which layers compute with 8 bits; empty without int8.
    """

    images: int
    correct: Mapping[str, int]
    probabilities: Floats32 | None
    latency_ms: Mapping[str, float]
    size_mb: Mapping[str, float]
    quantized: str

    def accuracy(self, precision: str) -> float:
        """Share of the test fold that is recognised."""
        return self.correct[precision] / self.images

    @property
    def int8_loss(self) -> float | None:
        """By how much the accuracy of int8 is below that of fp32."""
        known = self.images and "int8" in self.correct
        return (self.correct["fp32"] - self.correct["int8"]) / self.images if known else None


def run_images(cfg: DictConfig, run: TrainedRun) -> RunImages | None:
    """Find the run's images; None if they are not to be used.

    Raises:
        DataError: If they are gone.
        RunError: If it is not known what the run said of them.
    """
    if cfg.verify == GENERATED:
        return None
    run.predictions()  # to be known before anything is made
    return trained_run.find_images(run, cfg.images, str(cfg.cache_dir))


def write_models(
    cfg: DictConfig, run: TrainedRun, folder: Path, info: Mapping[str, Any]
) -> onnx.ModelProto:
    """Write the graph, and what else was asked for, into the folder of a bundle.

    Returns:
        The part of the graph behind the squeezing.
    """
    network = onnx_export.network_graph(run)
    onnx.save(onnx_export.whole_graph(network, run.sides), folder / onnx_export.MODEL)
    if "torch_export" in cfg.formats:
        onnx_export.write_program(run, folder / onnx_export.PROGRAM)
    bundle_writer.copy_tables(run, folder)
    bundle_writer.write_manifest(folder, info)
    return network


def quantize(
    cfg: DictConfig, run: TrainedRun, found: RunImages, network: onnx.ModelProto, folder: Path
) -> str:
    """Write the quantized graph beside the other; say which layers it concerns."""
    training = trained_run.evenly_spaced(run.part("train"), cfg.calibration_images)
    choosing = trained_run.evenly_spaced(
        run.part("validation") or run.part("train"), SELECTION_IMAGES
    )
    squares = np.concatenate(list(_network_squares(run, found, training)))
    labels = trained_run.label_array(choosing)
    judging = list(_network_squares(run, found, choosing))

    def accuracy(model: onnx.ModelProto) -> float:
        judge = _judge(model)
        said = np.concatenate([judge(squares) for squares in judging])
        return float((said.argmax(1) == labels).mean())

    whole = accuracy(network)
    made, way = quantization.quantize_model(network, squares, lambda model: whole - accuracy(model))
    onnx.save(onnx_export.whole_graph(made, run.sides), folder / INT8)
    return way


def measure(
    cfg: DictConfig, run: TrainedRun, found: RunImages | None, folder: Path, quantized: str
) -> ExportMeasurements:
    """Measure all models of a bundle; `quantized` says which layers of int8 are.

    Raises:
        BundleError: If int8 loses more accuracy on the test fold than is allowed.
        DataError: If the images are not those that the run was tested on.
    """
    bundle = load_bundle(folder)
    networks = {precision: OnnxModel(bundle, precision) for precision in bundle.models}
    latency = {name: _latency(network, run.sides[0]) for name, network in networks.items()}
    size = {
        name: round((folder / file).stat().st_size / 1e6, 3) for name, file in bundle.models.items()
    }
    if found is None:
        return ExportMeasurements(0, {}, None, latency, size, quantized)
    rows = run.part("test")
    said = found.judged(list(networks.values()), rows, "judging the test fold")
    labels = trained_run.label_array(rows)
    correct = {
        name: int((p.argmax(1) == labels).sum()) for name, p in zip(networks, said, strict=True)
    }
    check_unchanged(run, rows, said[0])
    result = ExportMeasurements(len(rows), correct, said[0], latency, size, quantized)
    if result.int8_loss is not None and result.int8_loss > cfg.int8_loss:
        raise BundleError(
            f"int8 recognises {result.accuracy('int8'):.4f} of the test fold instead of "
            f"{result.accuracy('fp32'):.4f}: it loses {result.int8_loss:.4f}, more than "
            f"int8_loss={cfg.int8_loss}. No bundle was written. Leave quantize=true out, give more "
            "calibration_images, or allow a greater loss."
        )
    return result


def describe_models(
    found: ExportMeasurements, agreement: Parity, run: TrainedRun
) -> dict[str, Any]:
    """What `bundle.json` says of the measurements."""
    accuracy: dict[str, Any] = {"run": run.metrics["test"]["accuracy"]}
    if found.images:
        accuracy |= {name: round(found.accuracy(name), 6) for name in found.correct}
        low, high = wilson_interval(found.correct["fp32"], found.images)
        accuracy |= {"images": found.images, "interval": [round(low, 6), round(high, 6)]}
    if found.int8_loss is not None:
        accuracy |= {"int8_loss": round(found.int8_loss, 6), "int8_layers": found.quantized}
    return {
        "accuracy": accuracy,
        "latency_ms": dict(found.latency_ms),
        "size_mb": dict(found.size_mb),
        "verified": {
            "images": agreement.images,
            "drawn": agreement.drawn,
            "largest_difference": float(f"{agreement.largest_difference:.3g}"),
        },
    }


def report(out: Path, run: TrainedRun, found: ExportMeasurements, agreement: Parity) -> None:
    """Tell the user what was written and how good it is."""
    rows = {
        "run and bundle agree on": f"{agreement.images} images of the test fold, "
        f"{agreement.drawn} drawn ones; probabilities differ by at most "
        f"{agreement.largest_difference:.1e}",
        "accuracy of the run": f"{run.metrics['test']['accuracy']:.4f}",
    }
    for name in found.latency_ms:
        share = f"accuracy {found.accuracy(name):.4f}, " if found.images else ""
        rows[name] = f"{share}{found.size_mb[name]:.1f} MB, {found.latency_ms[name]:.2f} ms"
    if found.quantized:
        rows["int8"] += f" ({found.quantized})"
    show_table(
        f"bundle of {run.metrics['model']} on {run.metrics['data']}",
        {**rows, "bundle": str(out), "use it": f"python -m signlang.predict bundle={out} IMAGES"},
    )


def _network_squares(run: TrainedRun, found: RunImages, rows: trained_run.Rows) -> Iterator[Pixels]:
    """Yield images of the network's size, (n, size, size, 3)."""
    for squares in found.squares(rows, "reading images for int8"):
        yield resize_batch(squares, *run.sides[1:])


def _judge(model: onnx.ModelProto) -> Callable[[Pixels], Floats32]:
    """Judge (n, size, size, 3) images by a graph without squeezing."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(cpu_count()), providers=["CPUExecutionProvider"]
    )

    def judge(squares: Pixels) -> Floats32:
        (said,) = session.run(None, {"squares": squares.transpose(0, 3, 1, 2)})
        return np.asarray(said, dtype=np.float32)

    return judge


def _latency(network: OnnxModel, size: int) -> float:
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    network(image)
    times = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - begun)
    return round(1000 * float(np.median(times)), 3)
