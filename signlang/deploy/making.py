"""The steps of an export: models are written, quantised, measured and told of."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from omegaconf import DictConfig

from signlang.console import show_table
from signlang.data.pictures import Pixels, squeezed
from signlang.deploy import assembling, exporting, material, quantizing
from signlang.deploy.bundle import Network, load, session_options
from signlang.deploy.checks import GENERATED
from signlang.deploy.finished import Finished
from signlang.deploy.material import Material
from signlang.deploy.verifying import Agreement, check_unchanged
from signlang.errors import BundleError
from signlang.machine import cores
from signlang.studies.statistics import wilson

Floats = npt.NDArray[np.float32]
INT8: Final = "model.int8.onnx"
CHOOSING: Final = 500  # pictures that choose among ways to quantise
TIMED: Final = 50  # runs of one picture each


@dataclass(frozen=True, eq=False)
class Measured:
    """What the models of a bundle do on the test fold.

    Attributes:
        pictures: Of the test fold; 0 where they were not at hand.
        correct: How many of them each precision recognises.
        probabilities: (n, classes) of fp32, or None.
        latency_ms: Median time of each precision for one picture of the network's size.
        size_mb: Of each file, in millions of bytes.
        quantized: Which layers compute with 8 bits; empty without int8.
    """

    pictures: int
    correct: Mapping[str, int]
    probabilities: Floats | None
    latency_ms: Mapping[str, float]
    size_mb: Mapping[str, float]
    quantized: str

    def accuracy(self, precision: str) -> float:
        """Share of the test fold that is recognised."""
        return self.correct[precision] / self.pictures

    @property
    def int8_loss(self) -> float | None:
        """By how much the accuracy of int8 is below that of fp32."""
        known = self.pictures and "int8" in self.correct
        return (self.correct["fp32"] - self.correct["int8"]) / self.pictures if known else None


def pictures_of(cfg: DictConfig, run: Finished) -> Material | None:
    """Find the run's pictures; None if they are not to be used.

    Raises:
        DataError: If they are gone.
        RunError: If it is not known what the run said of them.
    """
    if cfg.verify == GENERATED:
        return None
    run.predictions()  # to be known before anything is made
    return material.of(run, cfg.pictures)


def write_models(
    cfg: DictConfig, run: Finished, folder: Path, info: Mapping[str, Any]
) -> onnx.ModelProto:
    """Write the graph, and what else was asked for, into the folder of a bundle.

    Returns:
        The part of the graph behind the squeezing.
    """
    network = exporting.network_graph(run)
    onnx.save(exporting.whole_graph(network, run.sides), folder / exporting.MODEL)
    if "torch_export" in cfg.formats:
        exporting.write_program(run, folder / exporting.PROGRAM)
    assembling.copy_tables(run, folder)
    assembling.seal(folder, info)
    return network


def quantize(
    cfg: DictConfig, run: Finished, found: Material, network: onnx.ModelProto, folder: Path
) -> str:
    """Write the quantised graph beside the other; say which layers it concerns."""
    training = material.evenly(run.part("train"), cfg.calibration_pictures)
    choosing = material.evenly(run.part("validation") or run.part("train"), CHOOSING)
    squares = np.concatenate(list(_network_squares(run, found, training)))
    labels = material.labels(choosing)
    judging = list(_network_squares(run, found, choosing))

    def accuracy(model: onnx.ModelProto) -> float:
        judge = _judge(model)
        said = np.concatenate([judge(squares) for squares in judging])
        return float((said.argmax(1) == labels).mean())

    whole = accuracy(network)
    made, way = quantizing.quantized(network, squares, lambda model: whole - accuracy(model))
    onnx.save(exporting.whole_graph(made, run.sides), folder / INT8)
    return way


def measured(
    cfg: DictConfig, run: Finished, found: Material | None, folder: Path, quantized: str
) -> Measured:
    """Measure all models of a bundle; `quantized` says which layers of int8 are.

    Raises:
        BundleError: If int8 loses more accuracy on the test fold than is allowed.
        DataError: If the pictures are not those that the run was tested on.
    """
    bundle = load(folder)
    networks = {precision: Network(bundle, precision) for precision in bundle.models}
    latency = {name: _latency(network, run.sides[0]) for name, network in networks.items()}
    size = {
        name: round((folder / file).stat().st_size / 1e6, 3) for name, file in bundle.models.items()
    }
    if found is None:
        return Measured(0, {}, None, latency, size, quantized)
    rows = run.part("test")
    said = found.judged(list(networks.values()), rows, "judging the test fold")
    labels = material.labels(rows)
    correct = {
        name: int((p.argmax(1) == labels).sum()) for name, p in zip(networks, said, strict=True)
    }
    check_unchanged(run, rows, said[0])
    result = Measured(len(rows), correct, said[0], latency, size, quantized)
    if result.int8_loss is not None and result.int8_loss > cfg.int8_loss:
        raise BundleError(
            f"int8 recognises {result.accuracy('int8'):.4f} of the test fold instead of "
            f"{result.accuracy('fp32'):.4f}: it loses {result.int8_loss:.4f}, more than "
            f"int8_loss={cfg.int8_loss}. No bundle was written. Leave quantize=true out, give more "
            "calibration_pictures, or allow a greater loss."
        )
    return result


def told(found: Measured, agreement: Agreement, run: Finished) -> dict[str, Any]:
    """What `bundle.json` says of the measurements."""
    accuracy: dict[str, Any] = {"run": run.metrics["test"]["accuracy"]}
    if found.pictures:
        accuracy |= {name: round(found.accuracy(name), 6) for name in found.correct}
        low, high = wilson(found.correct["fp32"], found.pictures)
        accuracy |= {"pictures": found.pictures, "interval": [round(low, 6), round(high, 6)]}
    if found.int8_loss is not None:
        accuracy |= {"int8_loss": round(found.int8_loss, 6), "int8_layers": found.quantized}
    return {
        "accuracy": accuracy,
        "latency_ms": dict(found.latency_ms),
        "size_mb": dict(found.size_mb),
        "verified": {
            "pictures": agreement.pictures,
            "drawn": agreement.drawn,
            "largest_difference": float(f"{agreement.largest_difference:.3g}"),
        },
    }


def report(out: Path, run: Finished, found: Measured, agreement: Agreement) -> None:
    """Tell the user what was written and how good it is."""
    rows = {
        "run and bundle agree on": f"{agreement.pictures} pictures of the test fold, "
        f"{agreement.drawn} drawn ones; probabilities differ by at most "
        f"{agreement.largest_difference:.1e}",
        "accuracy of the run": f"{run.metrics['test']['accuracy']:.4f}",
    }
    for name in found.latency_ms:
        share = f"accuracy {found.accuracy(name):.4f}, " if found.pictures else ""
        rows[name] = f"{share}{found.size_mb[name]:.1f} MB, {found.latency_ms[name]:.2f} ms"
    if found.quantized:
        rows["int8"] += f" ({found.quantized})"
    show_table(
        f"bundle of {run.metrics['model']} on {run.metrics['data']}",
        {**rows, "bundle": str(out), "use it": f"python -m signlang.predict bundle={out} PICTURES"},
    )


def _network_squares(run: Finished, found: Material, rows: material.Rows) -> Iterator[Pixels]:
    """Yield pictures of the network's size, (n, size, size, 3)."""
    for squares in found.squares(rows, "reading pictures for int8"):
        yield squeezed(squares, *run.sides[1:])


def _judge(model: onnx.ModelProto) -> Callable[[Pixels], Floats]:
    """Judge (n, size, size, 3) pictures by a graph without squeezing."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(cores()), providers=["CPUExecutionProvider"]
    )

    def judge(squares: Pixels) -> Floats:
        (said,) = session.run(None, {"squares": squares.transpose(0, 3, 1, 2)})
        return np.asarray(said, dtype=np.float32)

    return judge


def _latency(network: Network, size: int) -> float:
    picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    network(picture)
    times = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        network(picture)
        times.append(time.perf_counter() - begun)
    return round(1000 * float(np.median(times)), 3)
