"""Where `model.pretrained=auto` finds weights, what it does without, and what a run remembers."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import QUICK, run_command
from safetensors.torch import load_file, save_file

from signlang import api
from signlang.errors import RunError, SettingError, WeightsError
from signlang.files import file_digest
from signlang.models import weights
from signlang.models.networks import build_network, pretrained_weights
from signlang.validation import check_train_config

TIMM = {"_target_": "signlang.models.networks.timm", "architecture": "test_resnet"}
HUB_NAME = "timm/test_resnet.r160_in1k"


@pytest.fixture
def hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Empty caches of both hubs, below a folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """Let this process look again, as a new one does."""
    for function in (weights.timm_weights, weights.torchvision_weights, weights._no_response):
        function.cache_clear()
    file_digest.cache_clear()


FUSION = {"_target_": "signlang.models.networks.fusion", "image": "test_resnet"}


def put_in_cache(hubs: Path, seed: int = 1) -> Path:
    """Weights of a small network of timm, where its hub's library would have stored them."""
    torch.manual_seed(seed)
    folder = hubs / "huggingface" / f"models--{HUB_NAME.replace('/', '--')}"
    file = folder / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("abc")
    save_file(timm.create_model("test_resnet").state_dict(), file)
    forget()
    return file


def test_the_crops_of_a_fusion_start_from_the_weights_of_its_image_network(hubs: Path) -> None:
    file = put_in_cache(hubs)
    hub_weights = pretrained_weights(FUSION)
    assert hub_weights is not None
    assert hub_weights.file == file.resolve()
    wanted = timm.create_model("test_resnet", num_classes=0).state_dict().keys()
    state = load_file(file)
    for options in ({"pretrained": True}, {"weights": str(file)}):
        network = build_network(FUSION, 3, 64, **options)
        backbone = network.get_submodule("backbone").state_dict()
        assert backbone.keys() == wanted
        assert all(torch.equal(backbone[key], state[key]) for key in wanted)


def test_weights_come_from_the_cache_of_the_hub(hubs: Path) -> None:
    file = put_in_cache(hubs)
    hub_weights = pretrained_weights(TIMM)
    assert hub_weights is not None
    assert hub_weights.text == f"{HUB_NAME} {file_digest(str(file)).split()[1]}"
    state = weights.read_state(str(file))
    direct = {"_target_": "timm.create_model", "model_name": "test_resnet"}
    for node in (TIMM, direct):
        built = build_network(node, 3, 64, pretrained=True).state_dict()
        assert built["fc.weight"].shape[0] == 3
        assert all(torch.equal(built[k], v) for k, v in state.items() if not k.startswith("fc."))


def test_weights_come_from_the_cache_of_torch(hubs: Path) -> None:
    folder = hubs / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = build_network("squeezenet", 1000, 64).state_dict()
    torch.save(state, folder / "squeezenet1_0-b66bff10.pth")
    own = pretrained_weights({"_target_": "signlang.models.networks.squeezenet"})
    assert own is not None
    assert own.name == "torchvision/squeezenet1_0-b66bff10.pth"
    built = build_network("squeezenet", 3, 64, pretrained=True).state_dict()
    assert all(torch.equal(built[k], v) for k, v in state.items() if k.startswith("features."))
    # timm's own address, from before it moved to its hub
    file = folder / "mobilenetv2_100_ra-b33bc2c4.pth"
    plain = timm.create_model("mobilenetv2_100").state_dict()
    torch.save(plain, file)
    node = {"_target_": "signlang.models.networks.mobilenetv2_dense"}
    of_timm = pretrained_weights(node)
    assert of_timm is not None
    assert of_timm.file == file
    built = build_network("mobilenetv2", 3, 64, pretrained=True).state_dict()
    assert torch.equal(built["conv_stem.weight"], plain["conv_stem.weight"])
    assert float(built["classifier.weight"].std()) == pytest.approx(0.01, rel=0.05)
    whole = build_network("mobilenetv2", 1000, 64, pretrained=True).state_dict()
    assert torch.equal(whole["classifier.weight"], plain["classifier.weight"])


def test_a_hub_that_never_responds_holds_nothing_up(
    hubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "RESPONSE", 0.5)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        started = time.monotonic()
        for _ in range(3):  # asked once
            with pytest.raises(WeightsError, match=r"\(no response within 0.5 s\): give a file"):
                pretrained_weights(TIMM)
    assert time.monotonic() - started < 1.4


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "signlang.models.networks.simple_cnn"},
        {"_target_": "signlang.models.networks.timm", "architecture": "resnet200"},
        {"_target_": "torchvision.models.resnet18"},
        {"_target_": "timm.create_model", "model_name": "hf-hub:somebody/net"},
    ],
)
def test_networks_without_weights_to_know_of_ask_nobody(hubs: Path, node: dict[str, Any]) -> None:
    assert pretrained_weights(node) is None


def words(tiny: Path, place: Path, *more: str) -> list[str]:
    return [
        "data=folder", f"data.root={tiny}", "model=timm", "model.architecture=test_resnet",
        "study=s", "image_size=32", "folds=3", "batch_size=8", "trainer.max_epochs=1",
        "trainer.accelerator=cpu", "logger=none", "callbacks=none", "verbose=false",
        f"runs_dir={place / 'runs'}", *more,
    ]  # fmt: skip


def record_of(run: Any) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run.path / "record.json").read_text())
    return record


def test_folds_from_the_hub_and_from_scratch_are_never_averaged(
    tiny: Path, hubs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = put_in_cache(hubs)
    first = api.train(words(tiny, hubs))
    file.unlink()
    forget()
    caplog.clear()
    second = api.train(words(tiny, hubs, "fold=1"))
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    (warning,) = [text for text in told if "pretrained" in text]
    assert warning.startswith("model.pretrained=auto: training from scratch.")
    assert "HF_HUB_OFFLINE is set" in warning
    assert warning.endswith("model.weights=FILE, or train from scratch: model.pretrained=false.")
    name = record_of(first)["first_weights"]
    assert name.startswith(HUB_NAME)
    assert record_of(first)["settings"]["model.pretrained"] == name
    assert record_of(second)["first_weights"] == "scratch"
    with pytest.raises(RunError, match=f"model.pretrained: {name} there, False now"):
        api.compare(str(hubs / "runs" / "s"))
    # the finished run stays finished without its weights, and `false` is what came of auto
    assert api.train(words(tiny, hubs)).metrics == first.metrics
    api.train(words(tiny, hubs, "fold=1", "study=t", "model.pretrained=false"))
    (named,) = (hubs / "runs" / "t").glob("*/fold=1/record.json")
    assert json.loads(named.read_text())["fingerprint"] == record_of(second)["fingerprint"]
    # weights that come later do not change a run of before
    put_in_cache(hubs)
    assert api.train(words(tiny, hubs, "fold=1")).metrics == second.metrics


def test_a_run_goes_on_from_its_checkpoint_without_the_first_weights(
    tiny: Path, hubs: Path
) -> None:
    file = put_in_cache(hubs)
    more = ["trainer.max_epochs=2", "callbacks=default", "callbacks.cost=null"]
    run = api.train(words(tiny, hubs, *more))
    (run.path / "metrics.json").unlink()
    file.unlink()
    forget()
    again = api.train(words(tiny, hubs, *more))
    assert again.metrics["test"] == run.metrics["test"]
    (run.path / "metrics.json").unlink()
    (run.path / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(WeightsError, match=f"was started from {HUB_NAME} .* not there any more: "):
        api.train(words(tiny, hubs, *more))
    put_in_cache(hubs, seed=2)
    with pytest.raises(WeightsError, match=f"any more, but {HUB_NAME} .*: start it again"):
        api.train(words(tiny, hubs, *more))
    put_in_cache(hubs)
    assert api.train(words(tiny, hubs, *more)).metrics["test"] == run.metrics["test"]


@pytest.mark.slow
def test_a_sweep_says_once_that_it_trains_from_scratch(tiny: Path, tmp_path: Path) -> None:
    result = run_command(
        tmp_path, "-m", "hydra/launcher=local", "hydra.launcher.jobs=2", *QUICK[:1], *QUICK[2:],
        f"data.root={tiny}", "model=squeezenet", "trainer.max_epochs=1", "callbacks=none",
        "logger=none", "fold=0,1", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.err.count("training from scratch") == 1
    logs = list(tmp_path.glob("runs/*/*/fold=*/run.log"))
    assert [log.read_text().count("training from scratch") for log in logs] == [1, 1]


@pytest.mark.parametrize(
    ("data", "start"),
    [("folder", "auto"), ("custom", "auto"), ("synthetic", False), ("digits", False),
     ("asl_alphabet", False)],
)  # fmt: skip
def test_data_of_ones_own_start_from_imagenet_and_the_published_ones_do_not(
    data: str, start: object
) -> None:
    for model in ("squeezenet", "mobilenetv2", "resnet18", "simple_cnn", "custom", "timm"):
        with api.composed("train", [f"data={data}", f"model={model}"]) as cfg:
            assert cfg.model.pretrained == start
    with api.composed("train", [f"data={data}", "model.pretrained=true"]) as cfg:
        assert cfg.model.pretrained is True


def test_another_word_than_auto_is_refused(tiny: Path) -> None:
    with (
        api.composed(
            "train", ["data=folder", f"data.root={tiny}", "model.pretrained=maybe"]
        ) as cfg,
        pytest.raises(SettingError, match=r"model\.pretrained=maybe.*auto"),
    ):
        check_train_config(api.without_hydra(cfg))


def test_weights_that_timm_does_not_know_are_one_sentence(hubs: Path) -> None:
    node = {**TIMM, "architecture": "test_resnet.in99k"}
    with pytest.raises(SettingError, match=r"in99k.* test_resnet alone takes its usual weights\."):
        pretrained_weights(node)
