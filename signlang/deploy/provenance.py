"""A run and its bundle come in; what its card says of data, cost and origin goes out."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from signlang.deploy.finished import Finished
from signlang.deploy.making import Measured
from signlang.pages.page import Cell, Number, Section, Table, Text

LICENCES: Final = {
    "digits": "Apache-2.0",
    "asl_alphabet": "GPL-2, as its author states",
    "synthetic": "drawn by signlang, free to use",
}
Rows = list[Sequence[Cell]]


def data(run: Finished) -> Section:
    """What it was trained and tested on."""
    data, settings = run.record["data"], run.record["settings"]
    counts = f"{data['train']:,} training, {data['validation']:,} validation, {data['test']:,} test"
    rows: Rows = [
        ["data set", str(data["name"])],
        ["licence of the data", LICENCES.get(str(data["name"]), "not stated")],
        ["pictures", f"{data['pictures']:,} of {data['classes']} classes: {counts}"],
        ["people in them", f"{run.signers:,}" if run.signers else "not known"],
        ["left out", f"{data['excluded']:,}"],
        ["fold", f"{run.metrics['fold']} of {run.metrics['folds']}, split {run.metrics['split']}"],
        ["protocol", str(run.metrics["protocol"])],
        ["augmentation", str(settings.get("augment.name", "none"))],
        ["first weights", _first_weights(settings)],
        ["fingerprint of the pictures", str(data["fingerprint"])],
    ]
    return Section("Data", [Table("What it was trained and tested on", ["", ""], rows)])


def _first_weights(settings: Mapping[str, Any]) -> str:
    if settings.get("model.weights"):
        return str(settings["model.weights"]).split()[0]
    return "ImageNet" if settings.get("model.pretrained") else "random"


def cost(run: Finished, found: Measured) -> Section:
    """What it takes to run it."""
    cost = run.metrics["cost"]
    rows: Rows = [
        [name, Number(f"{found.size_mb[name]:.2f}"), Number(f"{found.latency_ms[name]:.2f}")]
        for name in found.size_mb
    ]
    text = (
        f"{cost['parameters']:,} parameters; {cost['flops'] / 1e6:,.1f} million FLOPs for a "
        "picture, as fvcore counts them (a multiply-add is 1)."
    )
    caption = "Files, and the median time for one picture of its size on one thread of the exporter"
    return Section("Cost", [Text(text), Table(caption, ["model", "MB", "ms"], rows)])


def interface(run: Finished, info: Mapping[str, Any]) -> Section:
    """What goes in and what comes out."""
    made = info["preprocessing"]
    sides = ", then ".join(f"{side} x {side}" for side in made["sides"])
    return Section(
        "Input and output",
        [
            Text(
                "Input pictures: uint8 (N, H, W, 3), RGB, upright, of any size; transparent parts "
                f"on white. The graph squeezes them to {sides}, subtracts {made['mean']} and "
                f"divides by {made['std']} (of values 0 to 1). Output probabilities: float32 "
                f"(N, {len(run.classes)}), in the order of classes.json."
            )
        ],
    )


def origin(run: Finished) -> Section:
    """How to make it again."""
    record = run.record
    settings: Rows = [
        [key, str(record["settings"][key])]
        for key in ("model.name", "optimizer.name", "optimizer.lr", "batch_size", "seed",
                    "trainer.max_epochs", "label_smoothing")
        if key in record["settings"]
    ]  # fmt: skip
    rows: Rows = [
        ["signlang", str(record["signlang"])],
        ["commit", str(record.get("git") or "not known")],
        ["begun", str(record.get("started"))],
        ["device", str(record.get("device"))],
        ["fingerprint of the run", str(record["fingerprint"])],
        *settings,
    ]
    return Section("Origin", [Table("All settings are in record.json", ["", ""], rows)])
