"""Weights of a file fit a network, or every misfit is named."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from signlang.errors import WeightsError
from signlang.models.weights import load, load_full_state, read_state


class Net(nn.Module):
    """Two layers and a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, classes)


def saved(content: Any, file: Path) -> str:
    torch.save(content, file)
    return str(file)


def clone(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(network: nn.Module, state: dict[str, torch.Tensor], *but: str) -> bool:
    """Whether the entries of a network are those of a state, and those named are not."""
    equal = {key: torch.equal(value, state[key]) for key, value in network.state_dict().items()
             if key in state and value.shape == state[key].shape}  # fmt: skip
    return all(value == (key not in but) for key, value in equal.items())


def theirs(classes: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(9)
    state = clone(Net(classes))
    return {key: torch.rand_like(value) if value.dtype == torch.float32 else value + 7
            for key, value in state.items()}  # fmt: skip


@pytest.mark.parametrize("around", ["", "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "network."])
def test_a_state_is_found_where_others_put_it(tmp_path: Path, around: str, prefix: str) -> None:
    state = {prefix + key: value for key, value in theirs().items()}
    content = {around: state, "epoch": 3} if around else state
    loaded = read_state(saved(content, tmp_path / "w.pt"))
    assert loaded.keys() == theirs().keys()
    assert all(torch.equal(loaded[key], value) for key, value in theirs().items())


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    for content in ({}, {"a": 1}, {"a": torch.zeros(1), "b": 2}, [torch.zeros(1)], torch.zeros(1)):
        with pytest.raises(WeightsError, match=r"holds no state dict"):
            read_state(saved(content, tmp_path / "w.pt"))
    with pytest.raises(WeightsError, match=r"nowhere\.pt: there is no such file"):
        read_state(str(tmp_path / "nowhere.pt"))


def test_everything_is_copied(tmp_path: Path) -> None:
    save_file(theirs(), tmp_path / "w.safetensors")
    network = Net()
    load(network, str(tmp_path / "w.safetensors"), "head")
    assert same(network, theirs())


def test_a_head_of_other_classes_or_none_stays_as_it_was_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    headless = {key: value for key, value in theirs().items() if not key.startswith("head.")}
    for state in (theirs(5), headless):
        network = Net()
        head = clone(network.head)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            load(network, saved(state, tmp_path / "w.pt"), "head")
        assert same(network, {k: v for k, v in state.items() if not k.startswith("head.")})
        assert same(network.head, head)
        assert "at random: head.weight, head.bias" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load(Net(), saved(theirs(), tmp_path / "w.pt"), "head")
    assert "at random" not in caplog.text


def test_misfits_are_counted_and_named(tmp_path: Path) -> None:
    state = theirs()
    del state["body.0.bias"]
    state["more"] = torch.zeros(1)
    state["body.1.weight"] = torch.zeros(9)
    before = clone(network := Net())
    with pytest.raises(WeightsError, match="3 of its 9 entries differ") as caught:
        load(network, saved(state, tmp_path / "w.pt"), "head")
    for words in ("body.0.bias: not in the file", "more: not in the network",
                  "body.1.weight: (9,) in the file, (4,) in the network"):  # fmt: skip
        assert words in str(caught.value)
    assert same(network, before)  # nothing was copied


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    state = theirs()
    counter = state.pop("body.1.num_batches_tracked")
    assert counter == 7
    network = Net()
    load(network, saved(state, tmp_path / "w.pt"), "head")
    load_full_state(other := Net(), saved(state, tmp_path / "w.pt"), 3)
    for one in (network, other):
        assert same(one, state)
        assert one.body[1].num_batches_tracked == 0


def test_a_backbone_alone_fits_and_its_own_head_is_dropped(tmp_path: Path) -> None:
    outer = nn.ModuleDict({"backbone": Net().body, "head": nn.Linear(4, 3)})
    before = clone(outer)
    body = {k.removeprefix("body."): v for k, v in theirs().items() if k.startswith("body.")}
    alone = {**body, "classifier.weight": torch.zeros(5, 4), "fc.bias": torch.zeros(5)}
    load(outer, saved(alone, tmp_path / "w.pt"), "head", "backbone")
    assert same(outer["backbone"], body)
    assert same(outer["head"], {k[5:]: v for k, v in before.items() if k.startswith("head.")})
    with pytest.raises(WeightsError, match=r"backbone\.conv\.weight: not in the network"):
        load(outer, saved({**alone, "conv.weight": torch.zeros(1)}, tmp_path / "w.pt"), "head",
             "backbone")  # fmt: skip
    # a file of the whole network keeps its head
    whole = {**{f"backbone.{k}": v for k, v in body.items()},
             "head.weight": torch.ones(3, 4), "head.bias": torch.ones(3)}  # fmt: skip
    load(outer, saved(whole, tmp_path / "w.pt"), "head", "backbone")
    assert same(outer, whole)


@pytest.mark.parametrize("prefix", ["", "module.", "net.module."])
def test_full_weights_fit_with_any_prefix(tmp_path: Path, prefix: str) -> None:
    state = {prefix + key: value for key, value in theirs().items()}
    network = Net()
    load_full_state(network, saved(state, tmp_path / "w.pt"), 3)
    assert same(network, theirs())


def test_full_weights_need_every_entry(tmp_path: Path) -> None:
    state = theirs(5)
    del state["body.0.bias"]
    state["more"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="a Net of 3 classes: 4 of its 9 entries") as caught:
        load_full_state(Net(), saved(state, tmp_path / "w.pt"), 3)
    for words in ("body.0.bias: not in the file", "more: not in the network",
                  "head.weight: (5, 4) in the file, (3, 4) in the network"):  # fmt: skip
        assert words in str(caught.value)
    foreign_state = {"x.a": torch.zeros(1), "y.b": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"x\.a: not in the network"):
        load_full_state(Net(), saved(foreign_state, tmp_path / "w.pt"), 3)
