"""Train many seeds of the landmark network at once, as layers of stacked matrices.

    python experiments/generalisation/many_seeds.py 'data.sets={...}' --pairs-without asl_alphabet \
      --only base "2 dimensions"
    python experiments/generalisation/many_seeds.py 'data.sets={...}' --report asl_alphabet \
      --only base "2 dimensions + 48 epochs + weight decay 0.3"

The network, its loss and its schedule are those of `leave_out.py`; the seeds share each step, so
that ten cost twice as much as one. `--crops` takes the points of several crops of each hand, see
`crops.py`: then each variant is tested by one crop, and by the mean of several.
It appends a line for each choice of sets to many_seeds.csv.
"""

import argparse
import math
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from leave_out import LETTERS, Points
from torch import nn
from torch.nn import functional as F

from signlang.callbacks.one_cycle import OneCycle
from signlang.data.datamodule import balanced
from signlang.files import read_csv, write_csv
from signlang.models.landmark_network import Movement, decode_points, moved

FILE: Final = Path(__file__).parent / "many_seeds.csv"
HEADER: Final = ("variant", "test", "trained", "tested", "seeds", "mean", "lowest", "highest",
                 "together")  # fmt: skip
FIRST, SECOND = torch.triu_indices(21, 21, 1)
REACH: Final = torch.tensor([0.25, 0.5, 0.75, 1.0])[:, None]  # of a finger's joints from the palm
BASE: Final[dict[str, Any]] = {
    "width": 48, "dropout": 0.1, "epochs": 24, "batch": 128, "rate": 1e-2, "decay": 0.01,
    "smoothing": 0.1, "dimensions": 3, "movement": {"mirrored": 0.1}, "fingers": 0.0, "crops": 1,
    "embedding": False,
}  # fmt: skip
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "base": {},
    "12 epochs": {"epochs": 12},
    "48 epochs": {"epochs": 48},
    "96 epochs": {"epochs": 96},
    "batches of 32, 8 epochs": {"batch": 32, "epochs": 8},
    "batches of 256": {"batch": 256},
    "width 128, dropout 0.3": {"width": 128, "dropout": 0.3},
    "dropout 0.3": {"dropout": 0.3},
    "label smoothing 0.2": {"smoothing": 0.2},
    "weight decay 0.3": {"decay": 0.3},
    "weight decay 1": {"decay": 1.0},
    "2 dimensions": {"dimensions": 2},
    "mirrored 0.2": {"movement": {"mirrored": 0.2}},
    "jitter 0": {"movement": {"jitter": 0.0}},
    "jitter 0.015": {"movement": {"jitter": 0.015}},
    "jitter 0.1": {"movement": {"jitter": 0.1}},
    "fingers 0.1": {"fingers": 0.1},
    "crops": {"crops": 6},
    "embedding": {"embedding": True, "decay": 0.1, "rate": 3e-3},
}
CROPS: Final = {"one": ((0,), True), "and mirror image": ((0, 5), True),
                "five crops": ((0, 1, 2, 3, 4), True), "six views": (tuple(range(6)), True),
                "six views, probabilities": (tuple(range(6)), False)}  # fmt: skip


def settings_of(variant: str) -> dict[str, Any]:
    """All settings of a variant, or of several joined by ` + `."""
    made: dict[str, Any] = dict(BASE)
    for name in variant.split(" + "):
        own = VARIANTS[name]
        made = {**made, **own, "movement": {**made["movement"], **own.get("movement", {})}}
    return made


class Data:
    """Points (N, views, 21, 3), whether there is a hand (N, 1), and labels."""

    def __init__(self, sets: str, crops: Path | None) -> None:
        table = Points(sets)
        self.labels, self.sets, self.levels = table.labels, table.sets, table.levels
        points, self.found = decode_points(table.images)
        self.points = (points * self.found[:, :, None])[:, None]
        self.embedding = torch.zeros(0)
        if crops is not None:
            stored = np.load(crops)
            rows = stored["rows"]
            self.labels, self.sets = self.labels[rows], self.sets[rows]
            self.levels, self.found = self.levels[rows], self.found[rows]
            self.points = torch.from_numpy(stored["points"])
            self.embedding = torch.from_numpy(stored["embedding"].astype(np.float32))


class Stack(nn.Module):
    """Two dense layers (none: of an embedding) and the classes, once for each seed."""

    def __init__(self, options: dict[str, Any], seeds: int, features: int) -> None:
        super().__init__()
        self.options, self.seeds = options, seeds
        self.weights, self.running = nn.ParameterDict(), dict[str, list[torch.Tensor]]()
        generator = torch.Generator().manual_seed(7)
        width, classes, hidden = options["width"], len(LETTERS), 0 if options["embedding"] else 2

        def linear(name: str, inputs: int, outputs: int) -> None:
            bound = 1 / math.sqrt(inputs)
            for key, shape in ((f"w{name}", (inputs, outputs)), (f"b{name}", (1, outputs))):
                drawn = torch.rand(seeds, *shape, generator=generator) * 2 - 1
                self.weights[key] = nn.Parameter(drawn * bound)

        def normalization(name: str, outputs: int) -> None:
            self.weights[f"g{name}"] = nn.Parameter(torch.ones(seeds, 1, outputs))
            self.weights[f"h{name}"] = nn.Parameter(torch.zeros(seeds, 1, outputs))
            self.running[name] = [torch.zeros(seeds, 1, outputs), torch.ones(seeds, 1, outputs)]

        normalization("in", features)
        self.layers = [str(layer) for layer in range(hidden)]
        for layer in self.layers:
            linear(layer, features, width)
            normalization(layer, width)
            features = width
        linear("out", features, classes)

    def normalized(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """BatchNorm1d of (seeds, B, n)."""
        if self.training:
            var, mean = torch.var_mean(values, 1, keepdim=True, correction=0)
            count = values.shape[1]
            self.running[name][0].lerp_(mean.detach(), 0.1)
            self.running[name][1].lerp_(var.detach() * count / (count - 1), 0.1)
        else:
            mean, var = self.running[name]
        factor: torch.Tensor = self.weights[f"g{name}"] * torch.rsqrt(var + 1e-5)
        made: torch.Tensor = (values - mean) * factor + self.weights[f"h{name}"]
        return made

    def forward(self, values: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Map (seeds, B, features) to (seeds, B, classes) logits; zeros without a hand."""
        if self.options["embedding"]:
            values = F.dropout(values, 0.5, self.training)
        values = self.normalized("in", values)
        for layer in self.layers:
            values = torch.baddbmm(self.weights[f"b{layer}"], values, self.weights[f"w{layer}"])
            values = F.relu(self.normalized(layer, values))
            values = F.dropout(values, self.options["dropout"], self.training)
        logits: torch.Tensor = torch.baddbmm(self.weights["bout"], values, self.weights["wout"])
        return logits * found

    def features(self, points: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """What is seen of points (seeds, B, 21, 3), moved at random in training."""
        if self.options["embedding"]:
            return points
        flat, there = points.reshape(-1, 21, 3), found.reshape(-1, 1)
        if self.training:
            flat = moved(flat, Movement(**self.options["movement"]))
            if self.options["fingers"]:
                bent = torch.randn(len(flat), 5, 1, 3) * self.options["fingers"] * REACH
                flat = flat + F.pad(bent.flatten(1, 2), (0, 0, 1, 0))
        seen = (flat * there[:, :, None])[:, :, : self.options["dimensions"]]
        squares = seen.square().sum(2)
        apart = squares[:, :, None] + squares[:, None] - 2 * seen @ seen.transpose(1, 2)
        distances = (apart.flatten(1)[:, FIRST * 21 + SECOND].clamp(min=0) + 1e-6).sqrt()
        return torch.cat([seen.flatten(1), distances, there], 1).view(*points.shape[:2], -1)


def train(data: Data, sets: tuple[str, ...], options: dict[str, Any], seeds: int) -> Stack:
    """Train on all images of some sets; the last epoch is what counts."""
    torch.manual_seed(0)
    rows = np.flatnonzero(np.isin(data.sets, sets))
    source = data.embedding if options["embedding"] else data.points
    features = 1152 if options["embedding"] else options["dimensions"] * 21 + 210 + 1
    network = Stack(options, seeds, features)
    optimizer = torch.optim.AdamW(
        network.parameters(), options["rate"], weight_decay=options["decay"], fused=True
    )
    batches = -(-len(rows) // options["batch"])
    schedule = OneCycle().scheduler(optimizer, options["epochs"] * batches)
    parameters = list(network.parameters())
    for epoch in range(options["epochs"]):
        orders = []
        for seed in range(seeds):
            rng = np.random.default_rng((seed, epoch, 0))
            orders.append(rng.permutation(balanced(rows, data.levels[rows], rng)))
        for batch in torch.tensor_split(torch.from_numpy(np.stack(orders)), batches, dim=1):
            views = torch.randint(options["crops"], batch.shape) if options["crops"] > 1 else 0
            found = data.found[batch]
            with torch.no_grad():
                seen = network.features(source[batch, views], found)
            loss = F.cross_entropy(
                network(seen, found).flatten(0, 1), data.labels[batch].flatten(),
                label_smoothing=options["smoothing"], reduction="sum",
            ) / batch.shape[1]  # fmt: skip
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [one.grad for one in parameters if one.grad is not None]
            norms = torch.stack([one.flatten(1).square().sum(1) for one in gradients]).sum(0).sqrt()
            for one in gradients:  # each seed's own norm is clipped
                one.mul_((1 / (norms + 1e-6)).clamp(max=1.0)[:, None, None])
            optimizer.step()
            schedule.step()
    return network.eval()


def probabilities(
    network: Stack, data: Data, rows: Any, views: tuple[int, ...], of_points: bool
) -> torch.Tensor:
    """(seeds, n, classes) of the mean of the views' points, or their mean."""
    source = data.embedding if network.options["embedding"] else data.points
    found = data.found[rows].expand(network.seeds, -1, -1)

    def of(values: torch.Tensor) -> torch.Tensor:
        values = values.expand(network.seeds, *values.shape)
        logits: torch.Tensor = network(network.features(values, found), found)
        return logits.softmax(2)

    with torch.no_grad():
        if of_points:
            return of(source[rows][:, list(views)].mean(1))
        return torch.stack([of(source[rows, view]) for view in views]).mean(0)


def choices(names: list[str], given: argparse.Namespace) -> list[tuple[tuple[str, ...], list[str]]]:
    """Sets that are trained on, with those that are tested."""
    if given.report:
        return [(tuple(one for one in names if one not in given.report), given.report)]
    rest = [one for one in names if one != given.pairs_without]
    return [(pair, [one for one in rest if one not in pair]) for pair in combinations(rest, 2)]


def main() -> None:
    """Train and test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help="variants, or A + B")
    parser.add_argument("--pairs-without", help="pairs of the other sets; default: all pairs")
    parser.add_argument("--report", nargs="*", help="test these sets, train on all others")
    parser.add_argument("--crops", type=Path, help="what crops.py wrote")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    data = Data(given.sets, given.crops)
    names = list(dict.fromkeys(data.sets.tolist()))
    tests = CROPS if given.crops else {"": ((0,), True)}
    for variant in given.only:
        for trained, tested in choices(names, given):
            network = train(data, trained, settings_of(variant), given.seeds)
            for one in tested:
                rows = np.flatnonzero(data.sets == one)
                labels = data.labels[rows]
                for test, (views, of_points) in tests.items():
                    outputs = probabilities(network, data, rows, views, of_points)
                    each = (outputs.argmax(2) == labels).float().mean(1)
                    together = (outputs.mean(0).argmax(1) == labels).float().mean()
                    figures = [each.mean(), each.min(), each.max(), together]
                    line = [variant, test, " ".join(trained), one, given.seeds,
                            *(f"{float(value):.4f}" for value in figures)]  # fmt: skip
                    earlier = [list(row.values()) for row in read_csv(FILE)]
                    write_csv(FILE, HEADER, [*earlier, line])
                    print(*line, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
