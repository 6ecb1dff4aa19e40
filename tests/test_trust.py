"""Hostile run folders, checkpoints and bundles: nothing they name runs, is fetched or written."""

import inspect
import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import bundles
import pytest
import torch
from conftest import QUICK, run_command

import signlang
from signlang import api
from signlang.callbacks.checkpointing import AtomicCheckpointIO
from signlang.components import check_listed_arguments, import_target, is_listed
from signlang.data.sources import images_root, read_thumbnails
from signlang.errors import BundleError, DataError, RunError, SettingError, WeightsError
from signlang.inference.bundle import load_bundle
from signlang.models import networks
from signlang.models.classifier import load_classifier
from signlang.models.weights import read_state
from signlang.runs.folder import RunFolder
from signlang.runs.trained_run import RunImages

OUTWARD: Final = ("os.system", "os.exec", "os.posix_spawn", "socket.connect", "pty.spawn")
MODULE: Final = (
    "open({canary!r}, 'w').close()\nfrom signlang.models.networks import squeezenet as Net"
)
heard: list[str] | None = None


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what leaves the process; commands of our own, git for one, do not name the canary."""
    if heard is None:
        return
    if event.startswith(OUTWARD) or (event == "subprocess.Popen" and "CANARY" in str(arguments)):
        heard.append(f"{event} {arguments}")


sys.addaudithook(hear)


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, to which every hostile file wants to write; it stays as it is."""
    global heard
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "diary.txt").write_text("a secret")
    (folder / "best.ckpt").write_bytes(b"another")
    monkeypatch.chdir(folder)
    before = {file.name: file.read_bytes() for file in folder.rglob("*")}
    heard = []
    try:
        yield folder
        assert not heard
    finally:
        heard = None
    assert {file.name: file.read_bytes() for file in folder.rglob("*")} == before


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, as if it came from elsewhere."""
    place = tmp_path / "study" / "simple_cnn" / "fold=0"
    return Path(shutil.copytree(trained, place))


def poison(run: Path, **settings: Any) -> None:
    """Replace hyper-parameters of the best checkpoint."""
    file = run / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"] |= settings
    torch.save(content, file)


def configure(run: Path, **settings: Any) -> None:
    """Replace nodes of the saved configuration."""
    file = run / ".hydra" / "config.yaml"
    content = import_target("yaml.safe_load")(file.read_text("utf-8"))
    file.write_text(json.dumps(content | settings), "utf-8")


class Payload:
    """A pickle that touches a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


NODES: dict[str, dict[str, Any]] = {
    "shell": {"_target_": "os.system", "command": "touch CANARY"},
    "process": {"_target_": "subprocess.run", "args": ["touch", "CANARY"]},
    "eval": {"_target_": "builtins.eval", "source": "open('CANARY', 'w')"},
    "hub": {"_target_": "torch.hub.load", "repo_or_dir": "a/b", "model": "c"},
    "pickle": {"_target_": "torch.load", "f": "payload.pt", "weights_only": False},
    "instantiate": {"_target_": "hydra.utils.instantiate",
                    "config": {"_target_": "os.system", "command": "touch CANARY"}},
    "own function": {"_target_": "signlang.files.write_json", "file": "CANARY", "content": 1},
    "private": {"_target_": "signlang.models.networks.build_network", "network": "squeezenet"},
    "registry": {"_target_": "torchvision.models.get_model", "name": "resnet18",
                 "weights": "DEFAULT"},
    "torchvision": {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"},
    "timm hub": {"_target_": "timm.create_model", "model_name": "hf-hub:a/b"},
    "timm folder": {"_target_": "timm.create_model", "model_name": "local-dir:victim"},
    "timm file": {"_target_": "timm.create_model", "model_name": "resnet10t",
                  "checkpoint_path": "payload.pt"},
    "timm weights": {"_target_": "timm.create_model", "model_name": "resnet10t",
                     "pretrained": True},
    "timm address": {"_target_": "timm.create_model", "model_name": "resnet10t",
                     "pretrained_cfg": {"url": "http://127.0.0.1:9/x"}},
    "own hub": {"_target_": "signlang.models.networks.timm", "architecture": "hf-hub:a/b"},
    "own weights": {"_target_": "signlang.models.networks.resnet18", "pretrained": 1},
    "nested": {"_target_": "signlang.models.networks.squeezenet",
               "head": {"_target_": "os.system", "command": "touch CANARY"}},
    "nested in a list": {"_target_": "timm.create_model", "model_name": "resnet10t",
                         "blocks": [[{"_target_": "os.system", "command": "touch CANARY"}]]},
    "positional": {"_target_": "timm.create_model", "_args_": ["hf-hub:a/b"]},
    "partial": {"_target_": "os.system", "_partial_": True},
    "module beside": {"_target_": "hostile_parts.Net"},
    "folder": {"_target_": "../victim/hostile.Net"},
    "nothing": {"_target_": ""},
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_a_network_that_is_not_known_to_be_harmless(
    name: str, run: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(Payload(victim / "CANARY"), run.parent / "payload.pt")
    (victim.parent / "hostile_parts.py").write_text(MODULE.format(canary=str(victim / "CANARY")))
    monkeypatch.syspath_prepend(str(victim.parent))
    poison(run, network=NODES[name])
    with pytest.raises(RunError, match=r"trust=true\.$") as refused:
        signlang.load_run(run).network  # noqa: B018
    assert "\n" not in str(refused.value)


def test_a_network_is_followed_with_trust(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary sings when something runs."""
    (tmp_path / "trusted_parts.py").write_text(MODULE.format(canary=str(tmp_path / "CANARY")))
    monkeypatch.syspath_prepend(str(tmp_path))
    poison(run, network={"_target_": "trusted_parts.Net"})
    with pytest.raises(RunError, match="does not hold the weights"):  # it is another network
        signlang.load_run(run, trust=True).network  # noqa: B018
    assert (tmp_path / "CANARY").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": NODES["shell"]},
        {"optimizer": NODES["timm hub"]},
        {"optimizer": {"_target_": "torch.optim.AdamW", "foreach": NODES["shell"]}},
    ],
)
def test_an_optimizer_of_a_checkpoint(settings: dict[str, Any], run: Path, victim: Path) -> None:
    poison(run, loss=NODES["shell"], resolve="signlang.components.import_target",
           start={"weights": str(victim / "best.ckpt")}, **settings)  # fmt: skip
    network = signlang.load_run(run).network
    with pytest.raises(RunError, match="trust=true"):
        network.configure_optimizers()


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        ("os.system", {}),
        ("timm.create_model", {"model_name": "hf-hub:a/b", "pretrained": True}),
        ("torchvision.models.resnet18", {"weights": "DEFAULT"}),
        ("signlang.runs.trained_run.load_trained_run", {"path": "x", "trust": True}),
        ("signlang.models.networks.squeezenet", {"pretrained": True}),
    ],
)
def test_a_module_of_a_configuration(
    module: str, settings: dict[str, Any], run: Path, victim: Path
) -> None:
    configure(run, model={"_target_": module})
    file = run / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    torch.save(content | {"hyper_parameters": settings}, file)
    with pytest.raises(RunError, match=rf"{module}.*trust=true"):
        signlang.load_run(run).network  # noqa: B018


def test_what_is_listed_takes_nothing_that_fetches() -> None:
    import timm
    from torchvision import models

    harmless = {"model_name", "architecture", "num_classes", "image_size", "scriptable",
                "exportable", "no_jit", "progress", "kwargs", "transform_input",
                "quantize", "width", "dropout", "movement", "image", "normalization",
                "points_rate", "reject_empty", "dimensions", "tensorflow"}  # fmt: skip
    factories = {f"signlang.models.networks.{name}": getattr(networks, name)
                 for name in networks.FACTORIES}  # fmt: skip
    factories |= {f"torchvision.models.{name}": getattr(models, name)
                  for name in models.list_models(models)}  # fmt: skip
    factories["timm.create_model"] = timm.create_model
    assert len(factories) > 50
    for target, factory in factories.items():
        assert is_listed(target)
        for name in set(inspect.signature(factory).parameters) - harmless:
            with pytest.raises(RunError, match=name):
                check_listed_arguments(target, {name: "x"})
    with pytest.raises(RunError, match="image=hf-hub"):
        check_listed_arguments("signlang.models.networks.fusion", {"image": "hf-hub:a/b"})
    for target in ("torch.optim.lr_scheduler", "torch.nn.Module", "torchvision.models.get_weight",
                   "timm.create_model.__globals__", "signlang.models.networks.FACTORIES",
                   "signlang.models.classifier.Classifier"):  # fmt: skip
        assert not is_listed(target)


@pytest.mark.parametrize("kind", ["pickle", "no checkpoint", "odd settings", "odd weights"])
def test_a_checkpoint_that_is_more_than_data(kind: str, run: Path, victim: Path) -> None:
    file = run / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    torch.save(
        {
            "pickle": content | {"hyper_parameters": Payload(victim / "CANARY")},
            "no checkpoint": [1, 2],
            "odd settings": content | {"hyper_parameters": {"mean": "x", "image_size": {}}},
            "odd weights": content | {"state_dict": {3: "x"}},
        }[kind],
        file,
    )
    with pytest.raises(RunError, match=r"best\.ckpt"):
        signlang.load_run(run).network  # noqa: B018


def test_a_file_of_weights_is_no_pickle(victim: Path, tmp_path: Path) -> None:
    torch.save(Payload(victim / "CANARY"), tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Payload(victim / "CANARY")))
    (tmp_path / "c.safetensors").write_bytes(pickle.dumps(Payload(victim / "CANARY")))
    for name in ("a.pt", "b.pt", "c.safetensors"):
        with pytest.raises(WeightsError, match=name):
            read_state(str(tmp_path / name))


def test_every_verb_over_a_hostile_run(run: Path, tiny: Path, victim: Path, tmp_path: Path) -> None:
    """The network is our own, so the verbs do their work; all else in the folder is hostile."""
    shell = NODES["shell"] | {"_partial_": False}
    configure(
        run,
        data={"name": "tiny", "root": str(tiny), "source": shell, "cache": str(victim)},
        datamodule={"images": shell, "loaders": shell}, split=shell, augment={"transforms": shell},
        optimizer=shell, loss=shell, callbacks={"a": shell}, logger={"a": shell}, trainer=shell,
        cache_dir=str(victim), run_folder=str(victim), runs_dir=str(victim), out=str(victim),
        hydra={"run": {"dir": str(victim)}, "launcher": shell, "searchpath": [f"file://{victim}"]},
    )  # fmt: skip
    poison(run, loss=shell, optimizer=shell)
    record = json.loads((run / "record.json").read_text("utf-8"))
    record["overrides"] += ["x=$(touch CANARY)", "model.network._target_=os.system; touch CANARY"]
    (run / "record.json").write_text(json.dumps(record), "utf-8")
    own = [f"cache_dir={tmp_path / 'own cache'}", "verbose=false"]

    words = [f"run={run}", f"data.root={tiny}", f"out={tmp_path / 'evaluation'}", "calibrate=true"]
    found = api.evaluate([*words, *own])
    assert (found / "metrics.json").is_file()
    assert (run / "calibration.json").is_file()
    bundle = api.export([f"run={run}", f"out={tmp_path / 'bundle'}", "verify=4", *own])
    assert signlang.load_bundle(bundle).predict(tiny / "A" / "A0.png")
    study = api.compare(run.parent.parent, allow_incomplete=True)
    assert [one.path.name for one in study.runs] == ["fold=0"]
    assert "'x=$(touch CANARY)'" in study.incomplete[0]  # whoever copies the command is safe
    words = [f"data.root={tiny}", "data=folder", f"predictions={run}", f"out={tmp_path / 'card'}"]
    assert (api.describe([*words, *own]) / "card.html").is_file()


@pytest.mark.parametrize(
    "text",
    [
        "data: {root: '${oc.env:SIGNLANG_SECRET}'}",
        "data: {source: {_target_: signlang.data.sources.digits}}\n"
        "cache_dir: '${oc.env:SIGNLANG_SECRET}'",
        "data: {root: '${oc.create:{a: 1}}'}",
        "data: !!python/object/apply:os.system ['touch CANARY']",
        "data: {root: null, source: {_target_: os.mkdir, path: CANARY}}",
        "data: {root: '~nobody_of_that_name/x'}",
        "data: [1, 2]\ncache_dir: {a: b}",
        "- a list",
        "a: &a [*a]",
    ],
)
def test_a_configuration_is_read_as_plain_data(
    text: str, run: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNLANG_SECRET", str(victim))  # it is there: it would be found
    (run / ".hydra" / "config.yaml").write_text(text, "utf-8")
    with pytest.raises(DataError) as refused:
        images_root(run, str(victim.parent / "own cache"))
    assert str(victim) not in str(refused.value)


def test_images_of_a_run_are_drawn_into_the_callers_cache_only(
    run: Path, victim: Path, tmp_path: Path
) -> None:
    source = {"_target_": "signlang.data.sources.synthetic", "signers": 1, "takes": 1, "size": 16,
              "seed": 0}  # fmt: skip
    configure(run, data={"root": None, "source": source}, cache_dir=str(victim))
    with pytest.raises(DataError, match="not there any more"):
        images_root(run)
    assert Path(str(images_root(run, str(tmp_path / "own")))).is_relative_to(tmp_path / "own")
    configure(run, data={"root": None, "source": source | {"takes": 10**9}}, cache_dir=str(victim))
    with pytest.raises(DataError, match="too large"):
        images_root(run, str(tmp_path / "own"))


@pytest.mark.parametrize("path", ["../victim/diary.txt", "/dev/zero", "{victim}/diary.txt", "A"])
def test_paths_of_a_run_are_read_as_images_or_not_at_all(
    path: str, tiny: Path, victim: Path
) -> None:
    path = path.format(victim=victim)
    with pytest.raises(DataError) as refused:
        RunImages(victim.parent / "study", 32).resized_image(path)
    assert "a secret" not in str(refused.value)
    assert read_thumbnails(tiny, [path]) == [None]


LINKS: Final = (".lock", "checkpoints", ".hydra/config.yaml", "calibration.json", "metrics.json")


@pytest.mark.parametrize("name", LINKS)
def test_links_out_of_a_run_folder_are_not_written_through(
    name: str, run: Path, tiny: Path, victim: Path
) -> None:
    entry = run / name
    if entry.is_dir():
        shutil.rmtree(entry)
    entry.unlink(missing_ok=True)
    entry.symlink_to(victim if name == "checkpoints" else victim / "diary.txt")
    refusal = pytest.raises(RunError, match=r"a link to .*victim.* delete the link")
    with refusal, RunFolder(run).locked():
        raise AssertionError


def test_links_inside_a_run_folder_are_fine(run: Path) -> None:
    (run / "wandb").mkdir()
    (run / "wandb" / "latest").symlink_to("../checkpoints")
    with RunFolder(run).locked():
        assert (run / ".lock").is_file()


@pytest.mark.parametrize("name", ["figures", "cross_validated"])
def test_links_out_of_a_study_are_not_written_through(name: str, run: Path, victim: Path) -> None:
    study = run.parent.parent
    (study / name).symlink_to(victim)
    with pytest.raises(SettingError, match=rf"{name} is a link to .*victim"):
        api.compare(study, allow_incomplete=True)


@pytest.fixture(scope="module")
def words(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run of one epoch."""
    place = tmp_path_factory.mktemp("resumed")
    return [*QUICK, f"data.root={tiny}", f"runs_dir={place}", "study=resumed", "verbose=false",
            "trainer.max_epochs=1"]  # fmt: skip


@pytest.fixture(scope="module")
def resumable(words: list[str]) -> Path:
    """A finished run of these; read it, never change it."""
    return api.train(words).path


@pytest.mark.parametrize("kind", ["pickle", "names code"])
def test_a_run_folder_from_elsewhere_is_resumed_as_data(
    kind: str, words: list[str], resumable: Path, victim: Path, tmp_path: Path
) -> None:
    own = [word for word in words if not word.startswith("runs_dir=")]
    run = tmp_path / "runs" / resumable.relative_to(resumable.parents[2])
    shutil.copytree(resumable, run)
    (run / "metrics.json").unlink()
    last = run / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    if kind == "pickle":
        content["hyper_parameters"] = Payload(victim / "CANARY")
    else:
        shell = NODES["shell"]
        content["hyper_parameters"] |= {"network": shell, "loss": shell, "optimizer": shell}
        torch.save(content, run / "checkpoints" / "best.ckpt")
    torch.save(content, last)
    done = api.train([*own, f"runs_dir={tmp_path / 'runs'}"])
    assert done.path == run
    assert done.metrics["epochs"] == 1
    assert done.network.classes  # of the user's own configuration, not of the folder


def test_a_checkpoint_removes_only_checkpoints(victim: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.ckpt"
    old.write_bytes(b"")
    plugin = AtomicCheckpointIO()
    hostile = (victim / "diary.txt", victim, f"{tmp_path}/x/../victim/best.ckpt", "s3://a/b.ckpt")
    for path in (old, *hostile):
        plugin.remove_checkpoint(str(path))
    assert not old.exists()


def test_modules_that_lie_beside_a_run_are_not_imported(
    run: Path, tiny: Path, victim: Path
) -> None:
    place = run.parent.parent.parent
    canary = f"open({str(victim / 'CANARY')!r}, 'w').close()\n"
    for name in ("torch", "timm", "yaml", "omegaconf", "numpy", "my_networks"):
        (place / f"{name}.py").write_text(canary)
        (run / f"{name}.py").write_text(canary)
    poison(run, network={"_target_": "my_networks.Net"})
    done = run_command(place, f"run={run}", f"data.root={tiny}", verb="evaluate")
    assert done.code == 1, done.err
    assert "my_networks.Net" in done.err
    assert "trust=true" in done.err


HOSTILE_MANIFESTS: tuple[dict[str, Any], ...] = (
    {"models": {"fp32": "../victim/diary.txt"}, "files": {"../victim/diary.txt": ""}},
    {"models": {"fp32": "{victim}/diary.txt"}, "files": {"{victim}/diary.txt": ""}},
    {"models": {"fp32": "link.onnx"}, "files": {"link.onnx": "0" * 64}},
    {"models": {"fp32": "pipe.onnx"}, "files": {"pipe.onnx": "0" * 64}},
)


@pytest.mark.parametrize("manifest", HOSTILE_MANIFESTS)
def test_a_bundle_stays_inside_itself(
    manifest: dict[str, Any], victim: Path, tmp_path: Path
) -> None:
    place = bundles.write(tmp_path / "bundle")
    (place / "link.onnx").symlink_to(victim / "diary.txt")
    os.mkfifo(place / "pipe.onnx")
    info = json.loads((place / "bundle.json").read_text("utf-8"))
    changed = json.dumps(info | manifest).replace("{victim}", str(victim))
    (place / "bundle.json").write_text(changed, "utf-8")
    with pytest.raises(BundleError) as refused:
        load_bundle(place)
    assert "a secret" not in str(refused.value)


def test_a_bundle_names_no_code(victim: Path, tmp_path: Path) -> None:
    place = bundles.write(tmp_path / "bundle")
    info = json.loads((place / "bundle.json").read_text("utf-8"))
    info |= {"_target_": "os.system", "model": NODES["shell"], "resize": NODES["shell"],
             "signlang": NODES["shell"]}  # fmt: skip
    (place / "bundle.json").write_text(json.dumps(info), "utf-8")
    (prediction,) = signlang.load_bundle(place).predict(bundles.image("B"))
    assert prediction.label == "B"


def test_a_checkpoint_cannot_choose_who_is_trusted(run: Path, victim: Path) -> None:
    file = run / "checkpoints" / "best.ckpt"
    poison(run, network=NODES["shell"])
    nodes = {"network": {"_target_": "signlang.models.networks.simple_cnn"}}
    assert load_classifier(file, resolve=import_target, nodes=nodes).classes
