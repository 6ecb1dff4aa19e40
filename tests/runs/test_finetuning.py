"""`callbacks=finetune`: the head first, then all layers, with any network and when resumed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import QUICK
from safetensors.torch import load_file, save_file
from torch import nn

from signlang import api
from signlang.callbacks.finetuning import Finetuning
from signlang.errors import SettingError
from signlang.models.classifier import Classifier
from signlang.models.networks import backbone_modules, build_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of a small network."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    return file


def words(tiny: Path, place: Path, *more: str) -> list[str]:
    return [
        *QUICK, f"data.root={tiny}", "study=s", "model=timm", "model.architecture=test_resnet",
        "callbacks=finetune", "callbacks.finetuning.unfreeze_backbone_at_epoch=2",
        "trainer.max_epochs=4", "callbacks.early_stopping=null", "callbacks.checkpoint=null",
        "callbacks.cost=null", "logger=none", "verbose=false", "trainer.precision=32-true",
        f"runs_dir={place}", *more,
    ]  # fmt: skip


def last(run: Any) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def changed(run: Any, weights: Path) -> set[str]:
    """Layers of a run that are not as in the file: stem, head and so on."""
    state = {k.removeprefix("network."): v for k, v in last(run)["state_dict"].items()}
    return {
        key for key, value in load_file(weights).items()
        if value.dtype == torch.float32 and "running" not in key
        and (value.shape != state[key].shape or not torch.equal(value, state[key]))
    }  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_head_learns_first_and_then_all_layers_more_slowly(
    tiny: Path, tmp_path: Path, weights: Path, optimizer: str
) -> None:
    given = [f"model.weights={weights}", f"optimizer={optimizer}"]
    frozen = api.train(words(tiny, tmp_path, *given, "trainer.max_epochs=2"))
    normalization = {
        f"{name}.{kind}"
        for name, layer in timm.create_model("test_resnet").named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    learned = changed(frozen, weights)
    assert {"fc.weight", "fc.bias"} <= learned
    assert learned - {"fc.weight", "fc.bias"} <= normalization
    no_bn = ["trainer.max_epochs=2", "callbacks.finetuning.train_bn=false"]
    assert changed(api.train(words(tiny, tmp_path, *given, *no_bn)), weights) == {
        "fc.weight", "fc.bias",
    }  # fmt: skip
    thawed = api.train(words(tiny, tmp_path, *given))
    assert "conv1.0.weight" in changed(thawed, weights)
    head, backbone = last(thawed)["optimizer_states"][0]["param_groups"]
    assert backbone["lr"] == pytest.approx(0.1 * head["lr"])
    assert backbone["max_lr"] == pytest.approx(0.1 * head["max_lr"])  # of the one-cycle schedule


@pytest.mark.parametrize(
    "epoch", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_run_that_is_resumed_frozen_or_thawed_ends_as_if_it_was_not(
    tiny: Path, tmp_path: Path, weights: Path, epoch: int
) -> None:
    keep = "+callbacks.keep={_target_: pytorch_lightning.callbacks.ModelCheckpoint"
    keep += f", dirpath: '{tmp_path / 'all'}', filename: '{{epoch}}', save_top_k: -1"
    keep += ", monitor: train/loss, save_on_train_epoch_end: true}"
    command = words(tiny, tmp_path, f"model.weights={weights}", "augment=digits", keep)
    whole = api.train(command)
    (whole.path / "metrics.json").unlink()
    shutil.copy(tmp_path / "all" / f"epoch={epoch}.ckpt", whole.path / "checkpoints" / "last.ckpt")
    before = whole.metrics
    resumed = api.train(command)
    assert resumed.metrics["test"] == before["test"]
    assert resumed.metrics["validation"] == before["validation"]


@pytest.mark.parametrize(
    ("node", "head"),
    [
        ("squeezenet", {"classifier.1"}),
        ("resnet18", {"fc"}),
        ("mobilenetv2", {"classifier"}),
        ("mobilenetv2_dense", {"dense.0", "dense.3", "classifier"}),
        ({"_target_": "signlang.models.networks.timm", "architecture": "test_vit"}, {"head"}),
        ({"_target_": "torchvision.models.mobilenet_v2"}, {"classifier.1"}),
    ],
)
def test_all_but_the_head_is_frozen_in_any_network(node: Any, head: set[str]) -> None:
    size = 160 if isinstance(node, dict) else 64
    network = build_network(node, 7, size)
    for layer in backbone_modules(network, 7):
        Finetuning.freeze_module(layer)
    left = {
        name.rpartition(".")[0] for name, one in network.named_parameters() if one.requires_grad
    }
    assert left == head


def test_a_network_without_a_head_is_one_sentence() -> None:
    with pytest.raises(SettingError, match="Sequential has no layer of 5 outputs after others"):
        backbone_modules(nn.Sequential(nn.Conv2d(3, 4, 1)), 5)
    with pytest.raises(SettingError, match="has no layer of 4 outputs after others"):
        backbone_modules(nn.Sequential(nn.Conv2d(3, 4, 1)), 4)


def test_a_network_from_scratch_is_not_frozen_and_says_so(
    tiny: Path, tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = api.train(words(tiny, tmp_path, "model.pretrained=false", "trainer.max_epochs=1"))
    assert "nothing is frozen, as the network starts from scratch" in caplog.text
    assert "conv1.0.weight" in changed(run, weights)
    assert len(last(run)["optimizer_states"][0]["param_groups"]) == 1


class OnlyTheHead(Classifier):
    """A module that forgets the frozen parameters."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def test_what_cannot_work_is_one_sentence(
    tiny: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [f"model.weights={weights}", "callbacks.one_cycle=null"]
    for value, told in (("unfreeze_backbone_at_epoch=0", "at least 1"),
                        ("backbone_initial_ratio_lr=-1", "above 0")):  # fmt: skip
        with pytest.raises(SettingError, match=f"callbacks.finetuning.{value}.* must be {told}"):
            api.train(words(tiny, tmp_path, *given, f"callbacks.finetuning.{value}"))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    own = "model._target_=test_finetuning.OnlyTheHead"
    with pytest.raises(SettingError, match="of OnlyTheHead leaves frozen parameters out"):
        api.train(words(tiny, tmp_path, *given, own))
    run = api.train(words(tiny, tmp_path, *given, "trainer.max_epochs=1"))
    file = run.path / "checkpoints" / "last.ckpt"
    with pytest.raises(SettingError, match="was trained with callbacks=finetune, and this run is"):
        api.train(words(tiny, tmp_path, *given, "callbacks.finetuning=null", f"ckpt_path={file}"))
