"""Every shipped part of the configuration composes, and its parts can be made."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from signlang import validation

CONF = ROOT / "conf"
EXTRA = {
    "custom": ["model.network._target_=torch.nn.Identity"],
    "timm": ["model.architecture=resnet10t"],
    "folder": ["data.root=."],
}
CHOICES = [
    (group.name, file.stem)
    for group in sorted(CONF.iterdir())
    if group.is_dir()
    for file in sorted(group.glob("*.yaml"))
]


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*words: str) -> DictConfig:
    return compose("train", overrides=list(words))


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_and_passes_the_checks(group: str, name: str) -> None:
    cfg = composed(f"{group}={name}", *EXTRA.get(name, []))
    validation.check_train_config(cfg)
    assert OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.stem)
def test_parts_are_small_and_commented(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert "#" in file.read_text()
    assert all(len(line) <= 120 for line in lines)
    longest = {"model": 9, "experiment": 15}.get(file.parent.name, 60)
    assert len(lines) <= longest


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers_are_made_with_their_settings(name: str) -> None:
    from signlang.components import import_target
    from signlang.models.classifier import Classifier

    optimizer = OmegaConf.to_container(composed(f"optimizer={name}").optimizer)
    model = Classifier(
        {"_target_": "signlang.models.networks.simple_cnn"}, ["A", "B"], 32, [0, 0, 0], [1, 1, 1],
        optimizer,  # type: ignore[arg-type]
        resolve=import_target,
    )  # fmt: skip
    made = model.configure_optimizers()
    assert type(made).__name__.lower() == name
    assert made.defaults["lr"] == composed(f"optimizer={name}").optimizer.lr


@pytest.mark.parametrize("file", sorted((CONF / "experiment").iterdir()), ids=lambda f: f.stem)
def test_an_experiment_is_a_study_of_its_own(file: Path) -> None:
    assert composed(f"experiment={file.stem}").study == file.stem


def test_the_epochs_of_the_alphabet_study_follow_the_network() -> None:
    epochs = {name: composed("experiment=asl_alphabet", f"model={name}").trainer.max_epochs
              for name in ("resnet18", "mobilenetv2", "squeezenet")}  # fmt: skip
    assert epochs == {"resnet18": 10, "mobilenetv2": 10, "squeezenet": 20}


def test_the_published_settings_are_those_of_the_table() -> None:
    # DESIGN: sizes of the studies
    sizes = {name: composed(f"model={name}", "data=digits").image_size
             for name in ("simple_cnn", "mobilenetv2_dense", "squeezenet")}  # fmt: skip
    assert sizes == {"simple_cnn": 100, "mobilenetv2_dense": 128, "squeezenet": 224}
