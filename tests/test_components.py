"""Components of a user's own, and what a folder from elsewhere may not name."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, run_command

import signlang
from signlang.components import build, import_listed, import_target
from signlang.errors import RunError, SettingError
from signlang.models.classifier import load_classifier

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
"""
OWN = (
    "model=custom", "model.network._target_=my_parts.TinyNet", "+model.network.width=6",
    "model._target_=my_parts.Halved", "optimizer._target_=torch.optim.RMSprop",
    "optimizer.lr=0.01", "loss._target_=my_parts.Focal", "+loss.gamma=1.5",
    "augment.transforms._target_=my_parts.brighter",
    "+callbacks.counter._target_=my_parts.Counter",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a module of the user's own."""
    folder = tmp_path_factory.mktemp("own components")
    (folder / "my_parts.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def own_run(place: Path, tiny: Path) -> Path:
    """A run in which every component is the user's own."""
    words = [*QUICK, *OWN, f"data.root={tiny}", "study=own", "folds=2"]
    for fold in (0, 1):
        done = run_command(place, *(w for w in words if w != "model=simple_cnn"), f"fold={fold}")
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
    assert (place / "epochs.txt").read_text().split()[:3] == ["0", "1", "2"]
    # the loss trains, the cross-entropy is reported: of halved focal losses and of plain ones
    rows = (own_run / "history.csv").read_text("utf-8").splitlines()
    first = dict(zip(rows[0].split(","), map(float, rows[1].split(",")), strict=True))
    assert first["train/loss"] < 0.9 * first["validation/loss"]


def test_own_components_compare_evaluate_and_export(own_run: Path, place: Path, tiny: Path) -> None:
    done = run_command(place, "runs/own", verb="compare")
    assert done.code == 0, done.err
    assert "TinyNet" in (place / "runs" / "own" / "leaderboard.md").read_text("utf-8")
    words = [f"run={own_run}", "trust=true"]
    done = run_command(place, *words, "data=folder", f"data.root={tiny}", verb="evaluate")
    assert done.code == 0, done.err
    done = run_command(place, *words, verb="export")
    assert done.code == 0, done.err


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


def test_a_network_of_torchvision_with_its_own_arguments(tiny: Path, tmp_path: Path) -> None:
    words = ["model.network._target_=torchvision.models.shufflenet_v2_x0_5", "model=custom"]
    words += [*(w for w in QUICK if not w.startswith("model=")), f"data.root={tiny}"]
    done = run_command(tmp_path, *words, "trainer.max_epochs=1")
    assert done.code == 0, done.err
    (run,) = tmp_path.glob("runs/*/*/fold=0")
    done = run_command(tmp_path, f"run={run}", "verify=generated", verb="export")  # no trust needed
    assert done.code == 0, done.err
    assert signlang.load_run(run).metrics["model"] == "shufflenet_v2_x0_5"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
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
    ],
)
def test_a_broken_contract_is_said_before_training(
    words: list[str], sentence: str, place: Path, tiny: Path
) -> None:
    quick = [w for w in QUICK if w != "model=simple_cnn" or "model=custom" not in words]
    done = run_command(place, *quick, *words, f"data.root={tiny}", "study=broken")
    assert done.code in {1, 2}
    assert "Traceback" not in done.err
    assert re.search(sentence, done.err), done.err
    assert "epoch 1/" not in done.out + done.err


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


def test_a_hostile_configuration_executes_and_writes_nothing(
    trained: Path, tiny: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run" / "fold=0"))
    canary = tmp_path / "canary"
    source = {"_target_": "signlang.data.sources.synthetic", "signers": 2, "takes": 1, "size": 32,
              "seed": 0}  # fmt: skip
    for config in (
        {"model": {"_target_": "os.system"}},
        {"data": {"root": None, "source": {"_target_": "os.mkdir", "path": str(canary)}},
         "cache_dir": str(canary)},
        {"data": {"root": None, "source": source}, "cache_dir": str(canary)},
    ):  # fmt: skip
        text = json.dumps({"model": {"_target_": ""}, **config})
        (run / ".hydra" / "config.yaml").write_text(text)
        for verb, words in (("evaluate", [f"data.root={tiny}"]), ("export", [])):
            done = run_command(tmp_path, f"run={run}", *words, verb=verb)
            assert "Traceback" not in done.err
            assert not canary.exists()
    with pytest.raises(SettingError, match="dotted path"):
        import_target("TinyNet")
    with pytest.raises(SettingError, match=r"model: fractions\.Fraction\(numerator=x\) fails"):
        build({"_target_": "fractions.Fraction", "numerator": "x"}, {}, key="model")
