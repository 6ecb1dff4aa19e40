"""Networks against the published tables, and loading of weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm import create_model
from torch import nn
from torch.nn import functional as F

from signlang.callbacks.cost import flops, parameters, size_mb
from signlang.errors import SettingError, WeightsError
from signlang.models.networks import (
    FACTORIES,
    StridedDepthwise,
    build_network,
    head_of,
    optimize_for_cpu,
)
from signlang.validation import MINIMUM_SIZES


# DESIGN and the two studies: parameters and, with 29 classes at 224 x 224, FLOPs and size
@pytest.mark.parametrize(
    ("name", "classes", "size", "count"),
    [
        ("resnet18", 29, 224, 11_191_389),
        ("mobilenetv2", 29, 224, 2_261_021),
        ("squeezenet", 29, 224, 750_301),
        ("simple_cnn", 10, 100, 457_226),
        ("mobilenetv2_dense", 10, 128, 2_620_170),
    ],
)
def test_parameters_are_the_published_ones(name: str, classes: int, size: int, count: int) -> None:
    assert parameters(build_network(name, classes, size)) == count


def timm(architecture: str) -> dict[str, str]:
    """The node of a network of timm."""
    return {"_target_": "signlang.models.networks.timm", "architecture": architecture}


@pytest.mark.parametrize(
    ("name", "operations", "megabytes"),
    [
        ("resnet18", 1_826.02e6, 44.8),
        ("mobilenetv2", 332.98e6, 9.3),
        ("squeezenet", 734.91e6, 3.0),
    ],
)
def test_flops_and_size_are_the_published_ones(
    name: str, operations: float, megabytes: float
) -> None:
    network = build_network(name, 29, 224)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert flops(network, 224) == pytest.approx(operations, rel=1e-4)
    assert size_mb(network) == pytest.approx(megabytes, abs=0.15)
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", [name for name in FACTORIES if name != "timm"])
def test_every_network_takes_images_of_its_minimum_size(name: str) -> None:
    size = MINIMUM_SIZES[name]
    network = build_network(name, 4, size).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 4)
    with pytest.raises(SettingError, match=f"at least {size}"):
        build_network(name, 4, size - 1)


def test_any_timm_network_by_name() -> None:
    network = build_network(timm("resnet10t"), 5, 64).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(SettingError, match="did you mean resnet10t"):
        build_network(timm("resnet10tt"), 5, 64)
    with pytest.raises(SettingError, match="Did you mean resnet18"):
        build_network("resnet81", 5, 64)


def test_pooling_before_elu_is_the_same_function_with_the_same_gradients() -> None:
    torch.manual_seed(0)
    ours = build_network("simple_cnn", 10, 100).double().eval()
    images = torch.rand(2, 3, 100, 100, dtype=torch.double)

    def as_published(x: torch.Tensor) -> torch.Tensor:
        layers = list(ours.backbone)  # type: ignore[arg-type]
        for start in (0, 4, 8):
            convolution, pool, _, norm = layers[start : start + 4]
            x = norm(pool(F.elu(convolution(x))))
        return ours.classifier(ours.dense(x.flatten(1)))  # type: ignore[operator,no-any-return]

    gradients = []
    for function in (ours, as_published):
        ours.zero_grad()
        function(images).square().sum().backward()
        gradients.append([weight.grad.clone() for weight in ours.parameters()])  # type: ignore[union-attr]
    assert torch.allclose(ours(images), as_published(images), atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*gradients, strict=True))


def test_model_a_begins_with_the_weights_of_keras() -> None:
    torch.manual_seed(0)
    network = build_network("simple_cnn", 10, 100)
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6
    for layer in layers:
        weight = layer.weight.detach()
        fan_in, fan_out = (weight.shape[i] * weight[0, 0].numel() for i in (1, 0))
        largest = (6 / (fan_in + fan_out)) ** 0.5  # Glorot and Bengio 2010, equation 16
        assert 0.95 * largest < weight.abs().max() <= largest
        assert weight.std().item() == pytest.approx(largest / 3**0.5, rel=0.1)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_model_b_takes_the_maximum_over_all_places() -> None:
    torch.manual_seed(0)
    network = build_network("mobilenetv2_dense", 10, 64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.backbone.forward_features(images)  # type: ignore[operator,union-attr]
        pooled = network.backbone(images)  # type: ignore[operator]
    assert features.shape == (2, 1280, 2, 2)
    torch.testing.assert_close(pooled, features.amax((2, 3)))
    assert not torch.allclose(pooled, features.mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "library", "options", "factor"),
    [
        ("resnet18", "resnet18", {"num_classes": 5, "zero_init_last": False}, 0.3),
        ("mobilenetv2", "mobilenetv2_100", {"num_classes": 5}, 0.1),
        ("mobilenetv2_dense", "mobilenetv2_100", {"num_classes": 0, "global_pool": "max"}, 0.1),
    ],
)
def test_networks_from_scratch_begin_with_small_convolutions_and_no_dead_block(
    name: str, library: str, options: dict[str, Any], factor: float
) -> None:
    torch.manual_seed(0)
    network = build_network(name, 5, 32)
    backbone = network.backbone if name == "mobilenetv2_dense" else network
    torch.manual_seed(0)
    plain = create_model(library, **options)
    assert isinstance(backbone, nn.Module)
    state, images = backbone.state_dict(), torch.rand(8, 3, 64, 64)
    for key, value in plain.state_dict().items():
        if name == "mobilenetv2" and key == "classifier.weight":
            assert float(state[key].std()) == pytest.approx(0.01, rel=0.05)
            value.copy_(state[key])  # in the network: its function is compared below
        is_convolution, is_variance = value.ndim == 4, key.endswith("running_var")
        scale = factor if is_convolution else factor**2 if is_variance else None
        torch.testing.assert_close(state[key], value if scale is None else scale * value)
    assert all(
        bool((layer.weight == 1).all())
        for layer in backbone.modules()
        if isinstance(layer, nn.BatchNorm2d)
    )
    # normalization follows each convolution: the function is the same but for its epsilon
    for mode in (True, False):
        plain.train(mode), backbone.train(mode)
        outputs = []
        for one in (plain, backbone):
            torch.manual_seed(1)  # of dropout
            with torch.no_grad():
                outputs.append(one(images).flatten())
        assert F.cosine_similarity(outputs[0], outputs[1], dim=0) > 0.98


def test_no_class_of_squeezenet_begins_below_zero() -> None:
    torch.manual_seed(0)
    network = build_network("squeezenet", 10, 64)
    assert torch.equal(network.classifier[1].bias, torch.ones(10))  # type: ignore[index,union-attr]


def saved(network: nn.Module, file: Path, **changes: torch.Tensor | None) -> str:
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for key, value in changes.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return str(file)


def test_strided_depthwise_convolutions_stay_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
    ours = optimize_for_cpu(copy.deepcopy(plain))
    assert isinstance(ours, StridedDepthwise)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 8, 9, 9)
    assert torch.equal(ours(images), plain(images))
    wanted = plain(images)
    wanted.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(images)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, wanted.to(torch.bfloat16))  # rounded once, at the end
    out.float().sum().backward()
    assert ours.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.allclose(ours.weight.grad, plain.weight.grad, rtol=1e-5)
    depthwise = [layer for layer in build_network("mobilenetv2", 10, 64).modules()
             if isinstance(layer, StridedDepthwise)]  # fmt: skip
    assert len(depthwise) == 4


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6])
def test_activations_keep_their_input_on_a_processor(kind: type[nn.ReLU]) -> None:
    ours = optimize_for_cpu(nn.Sequential(kind(inplace=True)))
    images = torch.linspace(-3, 9, 13)
    before = images.clone()
    assert torch.equal(ours(images), kind()(before))
    assert torch.equal(images, before)
    elsewhere = torch.empty(2, device="meta")
    assert ours(elsewhere) is elsewhere


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_weights_of_other_classes_keep_all_but_the_head(tmp_path: Path, ending: str) -> None:
    theirs = build_network("squeezenet", 7, 64)
    ours = build_network("squeezenet", 3, 64, weights=saved(theirs, tmp_path / f"w{ending}"))
    for key, value in theirs.state_dict().items():
        if not key.startswith("classifier"):
            assert torch.equal(ours.state_dict()[key], value)
    assert ours.state_dict()["classifier.1.weight"].shape[0] == 3


def test_equal_classes_keep_the_head_too(tmp_path: Path) -> None:
    theirs = build_network("simple_cnn", 3, 32)
    ours = build_network("simple_cnn", 3, 32, weights=saved(theirs, tmp_path / "w.pt"))
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in theirs.state_dict().items())


def test_every_misfit_is_named(tmp_path: Path) -> None:
    changes = {"extra.weight": torch.zeros(1), "conv1.weight": torch.zeros(64, 3, 3, 3)}
    file = saved(
        build_network("resnet18", 3, 32), tmp_path / "w.pt", **changes, **{"bn1.bias": None}
    )
    with pytest.raises(WeightsError, match="3 of its") as caught:
        build_network("resnet18", 3, 32, weights=file)
    assert "extra.weight: not in the network" in str(caught.value)
    assert "bn1.bias: not in the file" in str(caught.value)
    assert "conv1.weight: (64, 3, 3, 3) in the file, (64, 3, 7, 7)" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x04."])
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_files_that_are_no_weights_are_one_sentence(
    tmp_path: Path, content: bytes, ending: str
) -> None:
    file = tmp_path / f"w{ending}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.weights=") as caught:
        build_network("squeezenet", 3, 64, weights=str(file))
    assert str(caught.value).count("\n") == 0


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no plain state dict") as caught:
        build_network("squeezenet", 3, 64, weights=str(tmp_path / "w.pt"))
    assert "weights_only" not in str(caught.value)  # torch advises to switch the guard off
    assert "Save the weights alone, with torch.save(model.state_dict(), FILE)" in str(caught.value)


def test_no_network_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"cannot be downloaded .* model\.weights=FILE"):
        build_network("squeezenet", 3, 64, pretrained=True)
    with pytest.raises(WeightsError, match=r"weights of resnet18 .* cannot be downloaded"):
        build_network("resnet18", 3, 64, pretrained=True)
    with pytest.raises(WeightsError, match="has no pretrained weights"):
        build_network("simple_cnn", 3, 64, pretrained=True)


@pytest.mark.parametrize(
    ("name", "file", "head"),
    [
        ("squeezenet", "squeezenet1_0.in1k.safetensors", "classifier"),
        ("mobilenetv2", "mobilenetv2_100.tf_in1k.safetensors", "classifier"),
        ("mobilenetv2_dense", "mobilenetv2_100.tf_in1k.safetensors", "classifier"),
    ],
)
def test_real_pretrained_weights_load(shared: Path, name: str, file: str, head: str) -> None:
    from safetensors.torch import load_file

    weights = shared / "weights" / file
    state = build_network(name, 10, 64, weights=str(weights)).state_dict()
    for key, value in load_file(weights).items():
        if not key.startswith(head):
            place = f"backbone.{key}" if name == "mobilenetv2_dense" else key
            assert torch.equal(state[place], value.to(state[place].dtype))


@pytest.mark.parametrize("size", [64, 65])
def test_strided_convolutions_pad_as_those_of_timm_for_tensorflow(size: int) -> None:
    torch.manual_seed(0)
    theirs = create_model("mobilenetv2_100", num_classes=5, pad_type="same", bn_eps=1e-3).eval()
    node = {"_target_": "signlang.models.networks.mobilenetv2", "tensorflow": True}
    ours = build_network(node, 5, size).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)
    plain = build_network("mobilenetv2", 5, size).eval()
    plain.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert not torch.allclose(plain(images), theirs(images), rtol=1e-3)
    kinds = [type(layer).__name__ for layer in ours.modules()]
    assert kinds.count("StridedTensorFlowDepthwise") == 4
    assert kinds.count("TensorFlowConv2d") == 1


@pytest.mark.parametrize("name", ["mobilenetv2", "timm"])
def test_a_new_head_begins_small_and_one_of_the_file_is_kept(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = create_model("mobilenetv2_100", num_classes=7)
    file = saved(plain, tmp_path / "plain.safetensors")
    node = {"_target_": f"signlang.models.networks.{name}"}
    if name == "timm":
        node["architecture"] = "mobilenetv2_100"
    deviation = {}
    for classes in (5, 7):
        network = build_network(node, classes, 64, weights=file)
        deviation[classes] = float(network.state_dict()["classifier.weight"].std())
    assert deviation[5] == pytest.approx(0.01, rel=0.05)
    assert deviation[7] == float(plain.state_dict()["classifier.weight"].std()) > 0.1


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_dropout_of_squeezenet_is_a_setting(share: float) -> None:
    node = {"_target_": "signlang.models.networks.squeezenet", "dropout": share}
    layers = build_network(node, 10, 64).modules()
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [share]


def test_dense_heads_are_those_of_the_study() -> None:
    for name in ("simple_cnn", "mobilenetv2_dense"):
        network: Any = build_network(name, 7, 64)
        dropouts = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]
        assert [share for share in dropouts if share] == [0.3]
        layers = [*network.dense, network.classifier]
        kinds = [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Linear]
        assert all(isinstance(one, kind) for one, kind in zip(layers, kinds, strict=True))
        sizes = [
            (one.in_features, one.out_features) for one in layers if isinstance(one, nn.Linear)
        ]
        assert sizes[1:] == [(256, 256), (256, 7)]
        assert sizes[0][1] == 256


@pytest.mark.parametrize(
    ("channels", "groups", "stride", "strided"),
    [
        (8, 8, 2, True), (8, 8, (1, 2), True), (8, 8, 1, False), (8, 4, 2, False),
        (8, 1, 2, False), (1, 1, 2, False), (2, 2, 2, True),
    ],
)  # fmt: skip
def test_only_depthwise_convolutions_with_a_stride_are_replaced(
    channels: int, groups: int, stride: int | tuple[int, int], strided: bool
) -> None:
    layer = nn.Conv2d(channels, 8, 3, stride=stride, groups=groups)
    assert isinstance(optimize_for_cpu(nn.Sequential(layer))[0], StridedDepthwise) == strided  # type: ignore[index]


def test_timm_networks_are_built_for_the_size_of_the_images() -> None:
    network = build_network(timm("vit_tiny_patch16_224"), 5, 32).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert network.pos_embed.shape == (1, 5, 192)


@pytest.mark.parametrize(
    ("layers", "head"),
    [
        ([nn.Linear(4, 8), nn.Linear(8, 3), nn.ReLU()], "1"),
        ([nn.Linear(4, 3), nn.Linear(3, 3)], "1"),
        ([nn.Conv2d(4, 3, 1), nn.Flatten()], "0"),
        ([nn.Linear(4, 8)], ""),
    ],
)
def test_the_head_is_the_last_layer_with_an_output_for_each_class(
    layers: list[nn.Module], head: str
) -> None:
    assert head_of(nn.Sequential(*layers), 3) == head


def test_the_head_of_a_timm_network_is_what_timm_says() -> None:
    assert head_of(build_network(timm("resnet10t"), 512, 64), 512) == "fc"


class Constant(nn.Module):
    """Answers with whatever it was made for."""

    def __init__(self, answer: object, num_classes: int = 0) -> None:
        super().__init__()
        self.answer, self.asked = answer, torch.zeros(1)

    def forward(self, images: torch.Tensor) -> object:
        self.asked = images
        return self.answer(images) if callable(self.answer) else self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            torch.zeros(2, 4),
            r"\(2, 3, 32, 32\) to \(2, 3\) logits; it returns a tensor of \(2, 4\)",
        ),
        (torch.zeros(1, 3), r"returns a tensor of \(1, 3\)"),
        ([1, 2], "returns list"),
        (lambda images: 1 / 0, "it fails: ZeroDivisionError: division by zero"),
    ],
)
def test_a_network_that_breaks_the_contract_is_told_what_is_wanted(
    answer: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn, "Own", lambda num_classes: Constant(answer), raising=False)
    with pytest.raises(SettingError, match=words):
        build_network({"_target_": "torch.nn.Own"}, 3, 32)
    monkeypatch.setattr(nn, "Own", lambda num_classes: 7)
    with pytest.raises(SettingError, match=r"torch\.nn\.Own returns int, not a torch\.nn\.Module"):
        build_network({"_target_": "torch.nn.Own"}, 3, 32)


def test_a_network_of_ones_own_is_tried_once_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(images: torch.Tensor) -> torch.Tensor:
        torch.rand(1)  # as a dropout would
        assert not torch.is_grad_enabled()
        return torch.zeros(len(images), 3)

    own = Constant(answer)
    monkeypatch.setattr(nn, "Own", lambda num_classes: own, raising=False)
    for training in (True, False):
        own.train(training)
        torch.manual_seed(5)
        assert build_network({"_target_": "torch.nn.Own"}, 3, 40) is own
        assert own.asked.shape == (2, 3, 40, 40)
        assert own.training == training
        after = torch.rand(1)
        torch.manual_seed(5)
        assert torch.equal(after, torch.rand(1))
    with pytest.raises(SettingError, match=r"pretrained=true: torch\.nn\.Own has no argument"):
        build_network({"_target_": "torch.nn.Own"}, 3, 40, pretrained=True)
