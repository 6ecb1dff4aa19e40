"""Steps of an export: build, quantize, measure and report the models."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from omegaconf import DictConfig
from rich.markup import escape

from signlang.arrays import Floats32, Pixels
from signlang.console import log, show_table
from signlang.data.image_io import resize_batch
from signlang.deploy import bundle_writer, onnx_export, quantization
from signlang.deploy.ensemble import Ensemble
from signlang.deploy.parity import Parity, check_unchanged
from signlang.deploy.quantization import Deviation
from signlang.errors import BundleError, DataError, RunError
from signlang.hands.hand_input import GRID, HandInput, HandPoints, encoded_points
from signlang.inference.onnx_model import OnnxModel, session_options
from signlang.metrics.significance import Interval, clustered_interval
from signlang.runs import trained_run
from signlang.runs.trained_run import RunImages, TrainedRun, evenly_spaced, label_array
from signlang.studies.study import read_setting
from signlang.system import cpu_count
from signlang.validation import GENERATED

HANDS_DRAWN: Final = 20  # of each class, whose mean is drawn
ADAPTATION_IMAGES: Final = 2000  # training images of training for int8
SELECTION_IMAGES: Final = 500  # images that choose among ways to quantize
SMALLEST: Final = 1e-8  # of a probability whose logarithm is taken
TIMED: Final = 50  # runs of one image each


@dataclass(frozen=True, eq=False)
class ExportMeasurements:
    """What the models of a bundle do on the test fold.

    Attributes:
        images: Of the test fold; 0 where they were not at hand.
        known: Whether members of an ensemble were trained on them: its accuracy on them says
            nothing of other images.
        correct: How many of them each precision recognises.
        probabilities: (n, classes) of fp32, or None.
        latency_ms: Median time of each precision for one image of the network's size.
        size_mb: Of each file, in millions of bytes.
        quantized: Which layers compute with 8 bits; empty without int8.
        interval: 95 % interval of the accuracy of fp32, by signer or block of film; None if it is
            not known.
    """

    images: int
    correct: Mapping[str, int]
    probabilities: Floats32 | None
    latency_ms: Mapping[str, float]
    size_mb: Mapping[str, float]
    quantized: str
    interval: Interval | None
    known: bool = False

    def accuracy(self, precision: str) -> float:
        """Share of the test fold that is recognised."""
        return self.correct[precision] / self.images

    @property
    def int8_loss(self) -> float | None:
        """By how much the accuracy of int8 is below that of fp32."""
        is_measured = self.images and "int8" in self.correct
        return (self.correct["fp32"] - self.correct["int8"]) / self.images if is_measured else None


def run_images(cfg: DictConfig, run: TrainedRun) -> RunImages | None:
    """Find the run's images; None if they are not to be used.

    Raises:
        DataError: If they are gone.
        RunError: If the run's predictions of them cannot be read.
    """
    if cfg.verify == GENERATED:
        return None
    _ = run.predictions  # read before anything is computed: the test fold is compared with them
    return trained_run.find_images(run, cfg.images, str(cfg.cache_dir))


def choose_calibration(run: TrainedRun, wanted: str) -> TrainedRun:
    """Give a run the calibration that its bundle is to have.

    Args:
        run: The run.
        wanted: `run`: as it was fitted on its validation subset; `study`: fitted on the test folds
            of all runs that differ from it in the fold alone; `auto`: the latter where every fold
            is finished.

    Raises:
        RunError: If the study is asked for and cannot calibrate.
    """
    if wanted == "run":
        return run
    try:
        setting = read_setting(run)
        if setting is not None and setting.cross_fit is not None:
            return replace(run, stored=setting.cross_fit.of_fold(run.fold))
        reason = "it is in no study" if setting is None else setting.not_calibrated
    except RunError as error:
        reason = str(error)
    if wanted == "study":
        raise RunError(
            f"calibration=study cannot be for {run.path}: {reason.rstrip('.')}. calibration=run "
            "takes its own."
        )
    log.info("calibration: that of the run, for %s", reason.rstrip("."))
    return run


def onnx_model(run: TrainedRun, network: onnx.ModelProto) -> bytes:
    """The ONNX file of a network graph, with the resizing in front."""
    return bytes(onnx_export.whole_graph(network, run.image_sizes).SerializeToString())


def quantize(
    cfg: DictConfig, run: TrainedRun, images: RunImages, network: onnx.ModelProto
) -> tuple[bytes, str]:
    """Quantize a network graph, and where that changes a guess, one that is trained for 8 bits.

    Returns:
        The ONNX file, with the resizing in front, and which layers compute with 8 bits.
    """
    training = run.subset("train")

    def pixels(rows: trained_run.Rows, count: int) -> Pixels:
        return np.concatenate(list(_network_images(run, images, evenly_spaced(rows, count))))

    ranges = pixels(training, cfg.calibration_images)
    selection = pixels(run.subset("validation") or training, SELECTION_IMAGES)
    expected = _network_session(network)(selection)

    def deviation(model: onnx.ModelProto) -> Deviation:
        return _deviation(expected, _network_session(model)(selection))

    best = quantization.quantize_model(network, ranges, deviation)
    if best.deviation.changed and cfg.int8_training:
        adapted = quantization.adapt_to_int8(
            onnx_export.inference_module(run),
            pixels(training, ADAPTATION_IMAGES),
            cfg.int8_training,
            images.hands.coded_rows if images.hands else 0,
        )
        graph = onnx_export.network_graph(run, adapted)
        adapted_best = quantization.quantize_model(graph, ranges, deviation)
        if adapted_best.deviation < best.deviation:
            best = replace(adapted_best, layers=f"{adapted_best.layers}, trained for 8 bits")
    return onnx_model(run, best.graph), best.layers


def _deviation(expected: Floats32, quantized: Floats32) -> Deviation:
    """Compare (n, classes) probabilities of a quantized network with those of the float one."""
    p, q = np.maximum(expected, SMALLEST), np.maximum(quantized, SMALLEST)
    return Deviation(
        divergence=float((p * np.log(p / q)).sum(1).mean()),
        changed=float((expected.argmax(1) != quantized.argmax(1)).mean()),
    )


def measure(
    cfg: DictConfig,
    run: TrainedRun,
    images: RunImages | None,
    models: Mapping[str, bytes],
    int8_layers: str = "",
) -> ExportMeasurements:
    """Measure speed, size, and accuracy on the test fold.

    Args:
        cfg: The configuration.
        run: The run.
        images: The run's images, if they are to be used.
        models: ONNX file of each precision.
        int8_layers: Which layers of int8 compute with 8 bits.

    Raises:
        BundleError: If int8 loses more accuracy on the test fold than is allowed.
        DataError: If the images are not those that the run was tested on.
    """
    networks = {
        precision: OnnxModel(data, run.classes, bundle_writer.MODEL_FILES[precision])
        for precision, data in models.items()
    }
    latency = {name: _latency(network, run.image_sizes[0]) for name, network in networks.items()}
    size = {name: round(len(data) / 1e6, 3) for name, data in models.items()}
    if images is None:
        return ExportMeasurements(0, {}, None, latency, size, int8_layers, None)
    rows = run.unseen or run.subset("test")
    known = not run.unseen
    outputs = images.probabilities(list(networks.values()), rows, "predicting the test fold")
    labels = trained_run.label_array(rows)
    correct = {
        name: int((p.argmax(1) == labels).sum()) for name, p in zip(networks, outputs, strict=True)
    }
    interval = None
    if not known:
        check_unchanged(run, rows, outputs[0])
        clusters = run.folder.image_table.clusters_of([path for path, _ in rows])
        interval = clustered_interval(outputs[0].argmax(1) == labels, clusters.names)
    result = ExportMeasurements(
        len(rows), correct, outputs[0], latency, size, int8_layers, interval, known
    )
    if result.int8_loss is not None and result.int8_loss > cfg.int8_loss:
        raise BundleError(
            f"int8 recognises {result.accuracy('int8'):.4f} of {tested_on(result)} instead of "
            f"{result.accuracy('fp32'):.4f}: it loses {result.int8_loss:.4f}, more than "
            f"int8_loss={cfg.int8_loss}. No bundle was written. Leave quantize=true out, give more "
            "calibration_images, or allow a greater loss."
        )
    return result


def tested_on(measured: ExportMeasurements) -> str:
    """Which images the measurements are of, in words."""
    note = ", on which most members were trained" if measured.known else ""
    return f"the test fold{note}"


def mean_hands(
    cfg: DictConfig, run: TrainedRun, images: RunImages | None, hands: HandInput | None
) -> dict[str, list[list[float]]]:
    """The mean hand of each class, to be drawn for people who want to copy the sign.

    Args:
        cfg: The configuration.
        run: The run.
        images: Its images, if they are to be used; else they are looked for.
        hands: What its network sees of an image; None: the whole image.

    Returns:
        (21, 2) x and y in palms from the wrist, left hands mirrored; nothing for a network of whole
        images, where the images are gone, and for a class without a hand.
    """
    if hands is None:
        return {}
    try:
        images = images or trained_run.find_images(run, cfg.images, str(cfg.cache_dir))
        points = replace(images, size=GRID, hands=HandPoints(hands.networks))
        training = run.subset("train")
        rows = [
            row
            for label in range(len(run.classes))
            for row in evenly_spaced([r for r in training if r[1] == label], HANDS_DRAWN)
        ]
        pixels = np.concatenate(list(points.batches(rows, "drawing the signs")))
    except DataError as error:
        log.info("no drawings of the signs: %s", error)
        return {}
    has_hand, labels = pixels[:, -1, -1, 0] > 0, label_array(rows)
    drawn = {}
    for label, name in enumerate(run.classes):
        class_points = [encoded_points(one)[:, :2] for one in pixels[has_hand & (labels == label)]]
        if class_points:
            drawn[name] = np.mean(class_points, axis=0).round(3).tolist()
    return drawn


def describe_models(
    measured: ExportMeasurements, agreement: Parity, run: TrainedRun
) -> dict[str, Any]:
    """Measurements for `bundle.json`."""
    accuracy: dict[str, Any] = {"run": run.metrics["test"]["accuracy"]}
    if isinstance(run, Ensemble):
        accuracy |= {"of": run.evidence, **({"per_set": run.per_set} if run.per_set else {})}
    if measured.images and not measured.known:
        accuracy |= {name: round(measured.accuracy(name), 6) for name in measured.correct}
        ends = [round(end, 6) for end in measured.interval] if measured.interval else None
        accuracy |= {"images": measured.images, "interval": ends}
    if measured.int8_loss is not None:
        accuracy |= {"int8_loss": round(measured.int8_loss, 6), "int8_layers": measured.quantized}
    return {
        "accuracy": accuracy,
        "latency_ms": dict(measured.latency_ms),
        "size_mb": dict(measured.size_mb),
        "verified": {
            "images": agreement.images,
            "drawn": agreement.drawn,
            "largest_difference": float(f"{agreement.largest_difference:.3g}"),
        },
    }


def report(out: Path, run: TrainedRun, measured: ExportMeasurements, agreement: Parity) -> None:
    """Show what was written and how good it is."""
    rows = {
        "run and bundle agree on": f"{agreement.images} images of the test fold, "
        f"{agreement.drawn} drawn ones; probabilities differ by at most "
        f"{agreement.largest_difference:.1e}",
        "accuracy of the run": f"{run.metrics['test']['accuracy']:.4f}",
    }
    if isinstance(run, Ensemble):
        rows["members"] = ", ".join(_short_name(one) for one in run.members)
        rows["accuracy of each"] = ", ".join(f"{one:.4f}" for one in run.accuracies)
        if run.per_set:
            rows["of each set"] = ", ".join(f"{k} {v:.4f}" for k, v in run.per_set.items())
        rows["accuracy of the mean"] = f"{rows.pop('accuracy of the run')} of {run.evidence}"
    for name in measured.latency_ms:
        is_measured = measured.images and not measured.known
        share = f"accuracy {measured.accuracy(name):.4f}, " if is_measured else ""
        rows[name] = f"{share}{measured.size_mb[name]:.1f} MB, {measured.latency_ms[name]:.2f} ms"
    if measured.quantized:
        rows["int8"] += f" ({measured.quantized})"
    if run.predictions.chance_warning:
        rows["warning"] = escape(run.predictions.chance_warning)
    rows["temperature"] = f"{run.calibration.temperature:.4g}, {run.calibration.reason or 'kept'}"
    rows["threshold"] = (
        f"{run.calibration.threshold:.4g}"
        + f", in want of a fitted one ({run.calibration.no_threshold})"
        * bool(run.calibration.no_threshold)
    )
    rows["both fitted on"] = run.calibration.source
    show_table(
        f"bundle of {run.metrics['model']} on {run.metrics['data']}",
        rows,
        {
            "bundle": str(out),
            "use it": f"python -m signlang.predict bundle={shlex.quote(str(out))} IMAGES",
        },
    )


def _short_name(run: TrainedRun) -> str:
    folder = run.path.resolve()
    return f"{folder.parent.name}/{folder.name}"


def _network_images(run: TrainedRun, images: RunImages, rows: trained_run.Rows) -> Iterator[Pixels]:
    """Yield batches of images of the network's size, (n, size, size, 3)."""
    for batch in images.batches(rows, "reading images for int8"):
        yield resize_batch(batch, *run.image_sizes[1:])


def _network_session(model: onnx.ModelProto) -> Callable[[Pixels], Floats32]:
    """Run a network graph, without the resizing, on (n, size, size, 3) images, in batches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(cpu_count()), providers=["CPUExecutionProvider"]
    )

    def predict(images: Pixels) -> Floats32:
        batches = np.split(
            images.transpose(0, 3, 1, 2), range(trained_run.BATCH, len(images), trained_run.BATCH)
        )
        return np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])

    return predict


def _latency(network: OnnxModel, size: int) -> float:
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    network(image)
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - started)
    return round(1000 * float(np.median(times)), 3)
