"""How fast networks learn from scratch, by the way in which they start and by their optimizer.

    python experiments/from_scratch/ablation.py --data digits=digits/Dataset --networks resnet18 \
      --starts library,ones,ones+0.3 --rates 6e-4,1e-3 --optimizers default,beta99_eps5

Every line of results.csv is one training of a bare loop: bf16, AdamW with weight decay 0.01, one
cycle, gradients clipped at 1, no augmentation, one thread. The test images of fold 0 of the
stratified split are left out: of the others a quarter is judged, and the rest is learnt.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import SqueezeNet

from signlang.arrays import Flags
from signlang.callbacks.one_cycle import OneCycle
from signlang.data.image_cache import decode_images
from signlang.data.index import read_index
from signlang.data.splits import Stratified
from signlang.files import read_csv, write_csv
from signlang.models import networks

HERE: Final = Path(__file__).parent
NETWORKS: Final = ("simple_cnn", "squeezenet", "resnet18", "mobilenetv2", "mobilenetv2_dense")
NORMALIZATION: Final = {"simple_cnn": (0.0, 1.0), "mobilenetv2_dense": (0.5, 0.5)}
OPTIMIZERS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "beta99": {"betas": (0.9, 0.99)},
    "eps5": {"eps": 1e-5},
    "beta99_eps5": {"betas": (0.9, 0.99), "eps": 1e-5},
    "warm_up_0.1": {"warm_up": 0.1},  # of the schedule
    "warm_up_0.5": {"warm_up": 0.5},
}
BUDGETS: Final = {"digits": (64, 4), "hand_reader": (32, 10), "asl": (64, 3)}  # batch, epochs
HEADER: Final = (
    "data", "size", "network", "start", "optimizer", "rate", "batch", "epochs", "seed", "steps",
    "accuracy", "loss", "accuracy_halfway", "seconds",
)  # fmt: skip
Images = tuple[torch.Tensor, torch.Tensor]


def library(name: str, classes: int, size: int) -> nn.Module:
    """A network as its library starts it."""
    import timm

    if name == "resnet18":
        return timm.create_model("resnet18", num_classes=classes)
    if name == "mobilenetv2":
        return timm.create_model("mobilenetv2_100", num_classes=classes)
    if name == "mobilenetv2_dense":
        backbone = timm.create_model("mobilenetv2_100", num_classes=0, global_pool="max")
        return networks.DenseHead(backbone, 1280, classes)
    return networks.build_network(name, classes, size)


def start(network: nn.Module, how: str, images: torch.Tensor) -> None:
    """Start a network as `how` says, its words joined by `+`.

    `library` changes nothing; `ones` starts the last normalization of each residual block at one
    instead of zero; a number is a factor of the weights of all convolutions; `small_head` draws
    linear layers from N(0, 0.01), and `fan_out` convolutions too, as torchvision's MobileNetV2;
    `kaiming_normal` and `orthogonal` draw all convolutions but the last, `head_0.05` that one;
    `dropout_0` sets the share that is dropped, `momentum_0.3` that of a batch in the statistics of
    normalizations; `signed_logits` takes out SqueezeNet's last ReLU; `images_0.1` fits weights and
    biases to normalized images (N, 3, size, size), see `_fit_to_images`.

    Raises:
        ValueError: If there is no such way.
    """
    for word in how.split("+"):
        kind, _, value = word.partition("_")
        if word in WAYS:
            for layer in network.modules():
                WAYS[word](layer)
        elif word in DRAWS or kind == "head":
            _draw(network, word)
        elif kind == "images":
            _fit_to_images(network, images, float(value))
        elif kind in ("dropout", "momentum"):
            _set_option(network, kind, float(value))
        else:
            with torch.no_grad():
                for layer in _convolutions(network):
                    layer.weight.mul_(float(word))


def _set_option(network: nn.Module, name: str, value: float) -> None:
    for layer in network.modules():
        if name == "dropout" and isinstance(layer, nn.Dropout):
            layer.p = value
        elif name == "momentum" and isinstance(layer, nn.BatchNorm2d):
            layer.momentum = value


def _ones(layer: nn.Module) -> None:
    if hasattr(layer, "zero_init_last"):
        nn.init.ones_(layer.bn2.weight)  # type: ignore[union-attr, arg-type]


def _small_head(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, 0, 0.01)


def _fan_out(layer: nn.Module) -> None:
    _small_head(layer)
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")


def _signed_logits(layer: nn.Module) -> None:
    if isinstance(layer, SqueezeNet):
        layer.classifier[2] = nn.Identity()


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def _draw(network: nn.Module, word: str) -> None:
    *before, last = _convolutions(network)
    if word.startswith("head_"):
        nn.init.normal_(last.weight, 0, float(word.removeprefix("head_")))
    else:
        for layer in before:
            DRAWS[word](layer.weight)


def _keep_output(outputs: list[torch.Tensor]) -> Callable[..., None]:
    """A hook that copies what a layer returns, which an activation may change in place."""
    return lambda _layer, _inputs, output: outputs.append(output.clone())


@torch.no_grad()
def _fit_to_images(network: nn.Module, images: torch.Tensor, deviation: float) -> None:
    """Give each convolution's outputs mean 0 and standard deviation 1 on images.

    One factor for a layer and one bias for a channel, from the first layer to the last, whose
    outputs get mean 1 and the given deviation (after Mishkin and Matas 2016, arXiv 1511.06422).
    """
    layers = _convolutions(network)
    for layer in layers:
        outputs: list[torch.Tensor] = []
        hook = layer.register_forward_hook(_keep_output(outputs))
        network(images)
        hook.remove()
        factor = (deviation if layer is layers[-1] else 1.0) / outputs[0].std()
        layer.weight.mul_(factor)
        assert layer.bias is not None
        layer.bias.sub_(outputs[0].mean((0, 2, 3))).mul_(factor)
        if layer is layers[-1]:
            layer.bias.add_(1.0)


WAYS: Final[dict[str, Callable[[nn.Module], None]]] = {
    "library": lambda _: None, "ones": _ones, "small_head": _small_head, "fan_out": _fan_out,
    "signed_logits": _signed_logits,
}  # fmt: skip
DRAWS: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "kaiming_normal": nn.init.kaiming_normal_,
    "orthogonal": lambda weight: nn.init.orthogonal_(weight, 2**0.5),
}


def images_of(root: Path, size: int, cache: str) -> tuple[Images, Images, int]:
    """Images (N, size, size, 3) with labels, learnt and judged, and the number of classes."""
    index = read_index(root, cache_dir=cache)
    folds = np.asarray(Stratified().folds(index, 5, 0))
    quarters = np.asarray(Stratified().folds(index, 20, 1)) % 4
    pixels, labels = decode_images(index, size, cache), torch.as_tensor(index.labels)

    def rows_of(mask: Flags) -> Images:
        rows = np.flatnonzero(mask)
        return torch.as_tensor(np.array(pixels[rows])), labels[torch.as_tensor(rows)]

    learnt, judged = ((folds != 0) & (quarters != 0)), ((folds != 0) & (quarters == 0))
    return rows_of(learnt), rows_of(judged), len(index.classes)


def train(case: dict[str, Any], learnt: Images, judged: Images, classes: int) -> list[str]:
    """Train one network; the last six columns of its line."""
    torch.manual_seed(case["seed"])
    mean, std = NORMALIZATION.get(case["network"], (0.45, 0.225))
    network = library(case["network"], classes, case["size"])
    first = torch.as_tensor(np.random.default_rng(7).permutation(len(learnt[0]))[:256])
    start(network, case["start"], _normalized(learnt[0][first], mean, std))
    network = networks.optimize_for_cpu(network).to(memory_format=torch.channels_last)
    options = dict(OPTIMIZERS[case["optimizer"]])
    warm_up = options.pop("warm_up", 0.3)
    rate, size, epochs = float(case["rate"]), int(case["batch"]), int(case["epochs"])
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=rate, weight_decay=0.01, fused=True, **options
    )
    images, labels = learnt
    steps = -(-len(images) // size) * epochs
    schedule = OneCycle(warm_up).scheduler(optimizer, steps)
    rng, halfway, started = np.random.default_rng(case["seed"]), 0.0, time.perf_counter()
    for epoch in range(epochs):
        network.train()
        order = torch.as_tensor(rng.permutation(len(images)))
        for rows in torch.split(order, size):
            logits = _logits(network, images[rows], mean, std)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits, labels[rows]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch == epochs // 2:
            halfway = judge(network, judged, mean, std)[0]
    seconds = time.perf_counter() - started
    accuracy, loss = judge(network, judged, mean, std)
    return [
        str(steps), f"{accuracy:.4f}", f"{loss:.4f}", f"{halfway:.4f}", f"{seconds:.0f}",
    ]  # fmt: skip


@torch.no_grad()
def judge(network: nn.Module, judged: Images, mean: float, std: float) -> tuple[float, float]:
    """Accuracy and mean loss."""
    network.eval()
    images, labels = judged
    logits = torch.cat([_logits(network, batch, mean, std) for batch in torch.split(images, 128)])
    accuracy = float((logits.argmax(1) == labels).float().mean())
    return accuracy, float(F.cross_entropy(logits, labels))


def _logits(network: nn.Module, images: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits: torch.Tensor = network(_normalized(images, mean, std))
    return logits.float()


def _normalized(images: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    return (images.permute(0, 3, 1, 2).float().div_(255) - mean) / std


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Train from scratch in several ways.")
    parser.add_argument("--data", nargs="+", required=True, help="NAME=FOLDER, of " + str(BUDGETS))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--starts", default="library")
    parser.add_argument("--optimizers", default="default")
    parser.add_argument("--rates", default="1e-3")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, help="default: see BUDGETS")
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    parser.add_argument("--cache", default="cache")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [[row[name] for name in HEADER] for row in read_csv(arguments.out)]
    done = {tuple(line[:9]) for line in lines}
    choices = (arguments.networks, arguments.starts, arguments.optimizers, arguments.rates,
               arguments.seeds)  # fmt: skip
    for word in arguments.data:
        name, _, root = word.partition("=")
        batch, epochs = BUDGETS[name]
        batch = arguments.batch or batch
        learnt, judged, classes = images_of(Path(root), arguments.size, arguments.cache)
        for values in itertools.product(*(choice.split(",") for choice in choices)):
            network, how, optimizer, rate, seed = values
            key = (name, str(arguments.size), network, how, optimizer, rate, str(batch),
                   str(epochs), seed)  # fmt: skip
            if key in done:
                continue
            case = dict(zip(HEADER, key, strict=False)) | {
                "size": arguments.size, "seed": int(seed)
            }  # fmt: skip
            lines.append([*key, *train(case, learnt, judged, classes)])
            print(*lines[-1], flush=True)
            write_csv(arguments.out, HEADER, lines)


if __name__ == "__main__":
    main()
