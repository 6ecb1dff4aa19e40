"""Latency of one image in milliseconds, by network and runtime.

    python experiments/speed/inference.py

One thread, one image at a time, from bytes to probabilities; the runtimes take turns. It writes
`inference.csv` and the section of `README.md` between its markers.
"""

import argparse
import copy
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from cases import CASES, Case
from ours import classifier

from signlang.deploy.onnx_export import ProgramModule, network_graph
from signlang.deploy.quantization import Deviation, quantize_model
from signlang.files import write_between, write_csv
from signlang.inference.onnx_model import session_options
from signlang.runs.trained_run import TrainedRun
from signlang.system import cpu_count, cpu_name

HERE: Final = Path(__file__).parent
NETWORKS: Final = ("model_a", "model_b", "squeezenet", "mobilenetv2", "resnet18")
RUNTIMES: Final = (
    "torch",
    "torch, channels last",
    "torch.compile",
    "onnxruntime",
    "onnxruntime, int8",
)
Pixels = npt.NDArray[np.uint8]
Times = Mapping[str, Sequence[float]]  # runtime -> milliseconds


def trained_run(case: Case) -> TrainedRun:
    """A run with a network of random weights, which do not affect latency."""
    torch.manual_seed(0)
    network = classifier(case).eval()
    return TrainedRun(Path(), {"model": case.network}, {"settings": {}}, {}, network, None)


def runtimes(run: TrainedRun, image: Pixels) -> dict[str, Callable[[], Any]]:
    """Functions that predict an image, (1, size, size, 3), by runtime."""
    import onnxruntime

    graph = network_graph(run)
    int8 = quantize_model(graph, image, lambda _: Deviation(0.0, 0.0)).graph
    plain = ProgramModule(run).eval()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    compiled = torch.compile(copy.deepcopy(last))
    bytes_, planes = torch.from_numpy(image), image.transpose(0, 3, 1, 2).copy()
    sessions = [
        onnxruntime.InferenceSession(
            model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
        )
        for model in (graph, int8)
    ]
    torch_runs = [lambda network=network: network(bytes_) for network in (plain, last, compiled)]
    onnx_runs = [lambda one=one: one.run(None, {"images": planes}) for one in sessions]
    return dict(zip(RUNTIMES, [*torch_runs, *onnx_runs], strict=True))


def measure(functions: Mapping[str, Callable[[], Any]], rounds: int, each: int) -> Times:
    """Time all runtimes in turn: `each` images by one, then by the next."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    with torch.inference_mode():
        for number in range(rounds + 1):  # the first round warms up
            for name, predict in functions.items():
                for _ in range(each):
                    started = time.perf_counter()
                    predict()
                    if number:
                        times[name].append(1e3 * (time.perf_counter() - started))
    return times


def lines(latencies: Mapping[str, Times]) -> Iterator[str]:
    """Write the results in Markdown."""
    count = len(next(iter(next(iter(latencies.values())).values())))
    yield (
        f"{cpu_name()}, one thread, torch {torch.__version__}; medians of {count} images and "
        "quartiles, in ms:\n"
    )
    yield f"| network | {' | '.join(RUNTIMES)} |"
    yield f"|---|{'---:|' * len(RUNTIMES)}"
    for name, times in latencies.items():
        case = CASES[name]
        cells = []
        for runtime in RUNTIMES:
            first, middle, third = statistics.quantiles(times[runtime], n=4)
            cells.append(f"{middle:.2f} ({first:.2f} to {third:.2f})")
        yield f"| {case.network}, {case.size} px | {' | '.join(cells)} |"


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Time single images, each runtime in turn.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--each", type=int, default=20, help="images of a runtime in a round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    latencies: dict[str, Times] = {}
    for name in NETWORKS:
        case = CASES[name]
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (1, case.size, case.size, 3), dtype=np.uint8)
        latencies[name] = measure(
            runtimes(trained_run(case), image), arguments.rounds, arguments.each
        )
        sys.stderr.write(f"{name}: done\n")
    table = "\n".join(lines(latencies))
    print(table)
    rows = [
        (
            cpu_name(), cpu_count(), name, runtime,
            *(f"{quartile:.3f}" for quartile in statistics.quantiles(values, n=4)),
        )
        for name, times in latencies.items() for runtime, values in times.items()
    ]  # fmt: skip
    header = (
        "machine",
        "cores",
        "network",
        "runtime",
        "first quartile",
        "median",
        "third quartile",
    )
    write_csv(HERE / "inference.csv", header, rows)
    write_between(HERE / "README.md", "inference", table)


if __name__ == "__main__":
    main()
