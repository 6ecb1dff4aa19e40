"""Components of a user's own, and what a folder from elsewhere may not name."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, run_command, write_tiny

import signlang
from signlang import api
from signlang.components import build, import_listed, import_target
from signlang.errors import RunError, SettingError, SignlangError
from signlang.models.classifier import load_classifier
from signlang.runs import lifecycle
from signlang.runs.folder import RunFolder

MODULE = """
import torch
from torch import nn


class TinyNet(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, num_classes),
        )

    def forward(self, images):
        return self.layers(images)


class Wide(TinyNet):
    def forward(self, images):
        return super().forward(images)[:, :2]


class Focal(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, labels):
        loss = nn.functional.cross_entropy(logits, labels, reduction="none")
        return ((1 - torch.exp(-loss)) ** self.gamma * loss).mean()


class Each(nn.Module):
    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels, reduction="none")


def brighter():
    import albumentations as A
    return [A.RandomBrightnessContrast(p=1.0)]


from pytorch_lightning import Callback


class Counter(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        with open("epochs.txt", "a") as stream:
            stream.write(f"{trainer.current_epoch}\\n")


from signlang.models.classifier import Classifier


class Halved(Classifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) / 2


import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger


class Quiet(pl.Trainer):
    def fit(self, *args, **kwargs):
        open("fitted.txt", "a").write("fit\\n")
        super().fit(*args, **kwargs)


class Lines(CSVLogger):
    def __init__(self, file):
        super().__init__("csv", name="", version="")
        self.file = file

    def log_metrics(self, metrics, step=None):
        with open(self.file, "a") as stream:
            stream.write(f"{sorted(metrics)}\\n")


class Elsewhere:
    def __init__(self, **options):
        pass
"""
SPLITS = """
import re

from signlang.data.splits import Split


class ByDay(Split):
    def __init__(self, days=6):
        self.days = days

    def groups(self, index):
        return [f"day {int(re.findall(r'[0-9]+', path)[-1]) % self.days}" for path in index.paths]


class Alternating(Split):
    def folds(self, index, count, seed):
        return [n % count for n in range(len(index))]


class Short(Split):
    def groups(self, index):
        return [0, 1]


class Failing(Split):
    def groups(self, index):
        return {}["day"]


class Plain:
    pass
"""
SOURCES = """
def camera(root, inner="camera"):
    return f"{root}/{inner}"


def nothing(root):
    return None


def missing(cache_dir):
    return cache_dir + "/is/not/there"
"""
OWN = (
    "model=custom", "model.network._target_=my_parts.TinyNet", "+model.network.width=6",
    "model._target_=my_parts.Halved", "optimizer._target_=torch.optim.RMSprop",
    "optimizer.lr=0.01", "loss._target_=my_parts.Focal", "+loss.gamma=1.5",
    "augment.transforms._target_=my_parts.brighter",
    "+callbacks.counter._target_=my_parts.Counter",
    "split._target_=my_splits.ByDay", "+split.days=4",
    "data=custom", "data.source._target_=my_sources.camera", "+data.source.inner=frames",
    "logger=none", "+logger.lines._target_=my_parts.Lines", "+logger.lines.file=lines.txt",
    "trainer._target_=my_parts.Quiet",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a module of the user's own."""
    folder = tmp_path_factory.mktemp("own components")
    (folder / "my_parts.py").write_text(MODULE)
    (folder / "my_splits.py").write_text(SPLITS)
    (folder / "my_sources.py").write_text(SOURCES)
    write_tiny(folder / "recorded" / "frames")
    return folder


@pytest.fixture(scope="module")
def own_run(place: Path) -> Path:
    """A run in which every component is the user's own; both of its folds are trained."""
    quick = [word for word in QUICK if word not in {"model=simple_cnn", "data=folder"}]
    words = [*quick, *OWN, "data.root=recorded", "study=own", "folds=2", "fold=0,1"]
    done = run_command(place, "-m", *words)
    assert done.code == 0, done.err
    (run,) = place.glob("runs/own/*/fold=0")
    return run


def test_own_components_train(own_run: Path, place: Path) -> None:
    metrics = json.loads((own_run / "metrics.json").read_text("utf-8"))
    assert metrics["model"] == "TinyNet"
    assert metrics["cost"]["parameters"] == 3 * 6 * 9 + 6 + 6 * 3 + 3
    settings = json.loads((own_run / "record.json").read_text("utf-8"))["settings"]
    assert settings["optimizer"] == "torch.optim.RMSprop"
    assert settings["model.network"].startswith("TinyNet (")
    assert settings["loss"].startswith("Focal (")
    assert settings["split.name"].startswith("ByDay (")
    assert "split" not in settings
    assert metrics["split"] == "ByDay"
    assert (place / "fitted.txt").read_text().split() == ["fit", "fit"]
    assert "validation/accuracy" in (place / "lines.txt").read_text()
    assert (place / "epochs.txt").read_text().split()[:3] == ["0", "1", "2"]
    # the loss trains: focal, 0.6 with three classes before anything is learnt; else 1.1
    rows = (own_run / "history.csv").read_text("utf-8").splitlines()
    first = dict(zip(rows[0].split(","), map(float, rows[1].split(",")), strict=True))
    assert first["train/loss"] < 0.7


def test_the_folds_are_those_of_the_own_split(own_run: Path) -> None:
    tested = [signlang.load_run(own_run.with_name(f"fold={k}")).predictions["path"] for k in (0, 1)]
    days = [{int(re.findall(r"\d+", path)[-1]) % 4 for path in paths} for paths in tested]
    assert not days[0] & days[1]
    assert sum(map(len, tested)) == 36


def test_own_components_compare_evaluate_and_export(own_run: Path, place: Path) -> None:
    done = run_command(place, "runs/own", verb="compare")
    assert done.code == 0, done.err
    board = (place / "runs" / "own" / "leaderboard.md").read_text("utf-8")
    assert "TinyNet" in board
    assert "split=ByDay" in board
    words = [f"run={own_run}", "trust=true", "data=custom", "data.root=recorded",
             "data.source._target_=my_sources.camera", "+data.source.inner=frames",
             "split._target_=my_splits.ByDay", "+split.days=4", "folds=2", "fold=0",
             "out=out"]  # fmt: skip
    done = run_command(place, *words, verb="evaluate")
    assert done.code == 0, done.err
    evaluated = json.loads((place / "out" / "metrics.json").read_text("utf-8"))
    trained = signlang.load_run(own_run)
    rows = (place / "out" / "predictions.csv").read_text("utf-8").splitlines()
    assert len(rows) - 1 == len(trained.predictions["path"]) == 18
    assert evaluated["test"]["accuracy"] == pytest.approx(trained.metrics["test"]["accuracy"])
    done = run_command(
        place, f"run={own_run}", "trust=true", "images=recorded/frames", verb="export"
    )
    assert done.code == 0, done.err


def test_trained_runs_are_looked_up_without_importing_code_of_the_user(
    own_run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it may import torch, and the workers of a sweep are forked after this
    monkeypatch.syspath_prepend(place)
    monkeypatch.chdir(place)
    monkeypatch.delitem(sys.modules, "my_sources", raising=False)
    words = list(signlang.load_run(own_run).record["overrides"])
    with api.composed("train", words) as cfg:
        assert lifecycle.metrics_of_trained_run(api.without_hydra(cfg), words) is None
    assert "my_sources" not in sys.modules


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_own_components_of_a_folder_want_trust(
    verb: str, own_run: Path, place: Path, tiny: Path
) -> None:
    words = [f"data.root={tiny}"] if verb == "evaluate" else []
    done = run_command(place, f"run={own_run}", *words, verb=verb)
    assert done.code == 1
    assert "my_parts.Halved" in done.err
    assert "trust=true" in done.err
    assert "Traceback" not in done.err
    with pytest.raises(RunError, match="trust=true"):
        signlang.load_run(own_run).network  # noqa: B018


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (["torchvision.models.squeezenet1_1", "dropout=0.2"], "squeezenet1_1"),
        pytest.param(
            ["timm.create_model", "model_name=resnet10t", "drop_rate=0.1"],
            "resnet10t",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_networks_of_other_packages_with_their_own_arguments(
    network: list[str], name: str, tiny: Path, tmp_path: Path
) -> None:
    words = [word for word in QUICK if not word.startswith("model=")]
    words += ["model=custom", f"model.network._target_={network[0]}", "trainer.max_epochs=1"]
    words += [f"+model.network.{argument}" for argument in network[1:]]
    words += [f"data.root={tiny}", f"runs_dir={tmp_path}/runs", "study=s", "verbose=false"]
    run = api.train(words)
    assert run.metrics["model"] == name
    study = api.compare(tmp_path / "runs" / "s", allow_incomplete=True)
    assert study.leaderboard["model"] == [name]
    words = [f"run={run.path}", f"data.root={tiny}", f"out={tmp_path}/out", "verbose=false"]
    assert (api.evaluate(words) / "report.html").is_file()  # no trust needed
    words = [f"run={run.path}", "verify=4", f"out={tmp_path}/bundle", "verbose=false"]
    bundle = signlang.load_bundle(api.export(words))
    assert bundle.predict(next((tiny / "A").iterdir()))[0].top_k[0][0] in {"A", "B", "ß"}


BROKEN = [
    (["model=custom"], r"model\.network\._target_ is missing"),
    (["model=custom", "model.network._target_=my_part.TinyNet"], "there is no module my_part"),
    (["model=custom", "model.network._target_=my_parts.TinyNets"], "Did you mean TinyNet"),
    (["model=custom", "model.network._target_=my_parts.Wide"], r"returns a tensor of \(2, 2\)"),
    (["model=custom", "model.network._target_=my_parts.brighter"], "num_classes|Module"),
    (["loss._target_=my_parts.Each"], "must return one number"),
    (["loss._target_=my_parts.Focal", "label_smoothing=0.1"], "takes none"),
    (["optimizer._target_=my_parts.Focal"], "lr"),
    (["optimizer._target_=torch.optim.Adamm"], "torch.optim has no Adamm"),
    (["model._target_=my_parts.TinyNet"], "derives from it"),
    (["split._target_=my_splits.Short"], r"Short\.groups must return one value per image.*\(36,\)"),
    (
        ["split._target_=my_splits.Plain"],
        "my_splits.Plain returns Plain; it must be a class",
    ),
    (["split._target_=my_splits.Failing"], r"split: Failing\.groups fails: KeyError: 'day'"),
    (["split._target_=my_splits.ByNight"], "my_splits has no ByNight"),
    (["data=custom"], r"data\.source\._target_ is missing"),
    (["data.source._target_=my_sources.nothing"], "returns NoneType; it must return the path"),
    (["data.source._target_=my_sources.missing"], "is/not/there, which is not there"),
    (["+data.source.far=1", "data.source._target_=my_sources.camera"], r"data\.source: .* fails"),
    (["augment.transforms._target_=my_parts.TinyNet"], r"augment\.transforms: .* fails"),
    (["augment.transforms._target_=collections.Counter"], "must return a list of albumentations"),
    (
        ["+callbacks.own._target_=my_parts.Focal"],
        "callbacks.own: .* Focal, not a .*Callback",
    ),
    (["+callbacks.own._target_=my_parts.Missing"], "my_parts has no Missing"),
    (["+logger.own._target_=my_parts.Focal"], "logger.own: .* returns Focal, not a .*Logger"),
    (["trainer._target_=my_parts.Elsewhere"], "trainer: .* returns Elsewhere, not a .*Trainer"),
]


@pytest.mark.parametrize(("words", "sentence"), BROKEN)
def test_a_broken_contract_is_said_before_training(
    words: list[str], sentence: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(place)
    monkeypatch.chdir(tmp_path)
    quick = [w for w in QUICK if w != "model=simple_cnn" or "model=custom" not in words]
    quick = [w for w in quick if w != "data=folder" or "data=custom" not in words]
    with pytest.raises(SignlangError, match=f"(?s){sentence}"):
        api.train([*quick, *words, f"data.root={place}/recorded/frames", "verbose=false"])
    assert not list(tmp_path.rglob("history.csv")), "no epoch was trained"


def test_a_broken_contract_is_one_sentence_on_the_command_line(place: Path) -> None:
    done = run_command(place, *QUICK, "data.root=recorded", "split._target_=my_splits.Short",
                       "study=broken")  # fmt: skip
    assert done.code == 2
    assert "Short.groups must return one value per image" in done.err
    assert "Traceback" not in done.err
    assert done.err.strip().endswith("it returns (2,).")


def test_folds_may_be_named_image_by_image(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(place)
    run = api.train([*QUICK, f"data.root={place}/recorded/frames", "trainer.max_epochs=1",
                     f"runs_dir={tmp_path}/runs", "split._target_=my_splits.Alternating", "fold=1",
                     "verbose=false"])  # fmt: skip
    assert run.metrics["split"] == "Alternating"
    paths = [row["path"] for row in RunFolder(run.path).images]
    assert run.predictions["path"] == paths[1::3]


HOSTILE: tuple[dict[str, Any], ...] = (
    {"_target_": "os.system", "command": "touch CANARY"},
    {"_target_": "builtins.eval", "source": "1"},
    {"_target_": "torch.hub.load", "repo_or_dir": "x/y", "model": "z"},
    {"_target_": "torchvision.models.get_model", "name": "resnet18"},
    {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"},
    {"_target_": "timm.create_model", "model_name": "hf-hub:somebody/network"},
    {"_target_": "timm.create_model", "model_name": "resnet10t", "checkpoint_path": "x.pt"},
    {"_target_": "timm.create_model", "model_name": "resnet10t", "pretrained_cfg": {"url": "x"}},
    {"_target_": "signlang.models.networks.build_network", "network": "squeezenet"},
    {"_target_": "signlang.files.atomic_write", "file": "CANARY"},
)


@pytest.mark.parametrize("node", HOSTILE, ids=lambda node: str(node["_target_"]))
def test_a_hostile_checkpoint_executes_nothing(
    node: dict[str, Any], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(trained, tmp_path / "run" / "fold=0"))
    file = run / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"]["network"] = node
    torch.save(content, file)
    with pytest.raises(RunError, match="trust=true"):
        signlang.load_run(run).network  # noqa: B018
    assert not (tmp_path / "CANARY").exists()


def test_a_checkpoint_cannot_choose_who_is_trusted(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["hyper_parameters"] |= {
        "resolve": "signlang.components.import_target",
        "start": {"weights": "/etc/passwd", "pretrained": True},
        "loss": {"_target_": "os.system", "command": f"touch {tmp_path / 'CANARY'}"},
        "optimizer": {"_target_": "os.system", "command": f"touch {tmp_path / 'CANARY'}"},
    }
    torch.save(content, tmp_path / "best.ckpt")
    model = load_classifier(tmp_path / "best.ckpt")
    assert model.resolve is import_listed
    with pytest.raises(RunError, match=r"os\.system.*trust=true"):
        model.configure_optimizers()
    assert not (tmp_path / "CANARY").exists()


def test_a_component_that_refuses_is_named_with_its_arguments() -> None:
    with pytest.raises(SettingError, match="dotted path"):
        import_target("TinyNet")
    with pytest.raises(SettingError, match=r"model: fractions\.Fraction\(numerator=x\) fails"):
        build({"_target_": "fractions.Fraction", "numerator": "x"}, {}, key="model")
