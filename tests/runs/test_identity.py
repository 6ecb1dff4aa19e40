"""What makes a run that run: choices, not the places of Python modules."""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from signlang import hydra_app
from signlang.errors import RunError
from signlang.runs.folder import RunFolder
from signlang.runs.identity import (
    as_recorded,
    chosen_settings,
    component_name,
    differences,
    fingerprint,
    former_name,
    name_of,
    record,
    settings_of,
)


def test_a_moved_module_leaves_the_settings_as_they_are() -> None:
    def settings(module: str) -> dict[str, object]:
        one_cycle = {"_target_": f"signlang.{module}.OneCycle", "warm_up": 0.3}
        cfg = {"model": {"weights": None}, "augment": {"backgrounds": None}}
        return settings_of(OmegaConf.create({**cfg, "callbacks": {"one_cycle": one_cycle}}))

    assert settings("callbacks.one_cycle") == settings("elsewhere.schedule")
    assert settings("callbacks.one_cycle")["callbacks.one_cycle"] == "signlang OneCycle"
    assert settings("callbacks.one_cycle")["callbacks.one_cycle.warm_up"] == 0.3


def chosen(**more: object) -> dict[str, object]:
    cfg = {"model": {"name": "squeezenet", "weights": None}, "augment": {"backgrounds": None}}
    return settings_of(OmegaConf.create({**cfg, "label_smoothing": 0.0, "seed": 0, **more}))


def test_label_smoothing_and_seed_are_part_of_a_run() -> None:
    plain = fingerprint(chosen(), "data")
    assert fingerprint(chosen(), "data") == plain
    assert fingerprint(chosen(label_smoothing=0.1), "data") != plain
    assert fingerprint(chosen(seed=1), "data") != plain
    assert fingerprint(chosen(), "other data") != plain
    assert differences(chosen(), chosen(label_smoothing=0.1)) == [
        "label_smoothing: 0.0 there, 0.1 now"
    ]
    assert "label_smoothing=0.1" in name_of("squeezenet", {"label_smoothing": 0.1})


@pytest.mark.parametrize(
    ("key", "before"), [("dropout", 0.5), ("dimensions", 3), ("tensorflow", 0)]
)
def test_networks_with_new_settings_leave_runs_of_before_as_they_are(key: str, before: int) -> None:
    def settings(network: dict[str, object]) -> dict[str, object]:
        return chosen(model={"name": "squeezenet", "weights": None, "network": network})

    assert settings({key: before}) == settings({})
    assert settings({key: before + 1}) != settings({})


def test_a_gap_of_none_leaves_runs_of_before_as_they_are() -> None:
    before = chosen(split={"name": "blocks", "blocks": 10})
    assert chosen(split={"name": "blocks", "blocks": 10, "gap": 0}) == before
    assert chosen(split={"name": "blocks", "blocks": 10, "gap": 1}) != before


def test_the_run_folder_is_no_part_of_a_run() -> None:
    def settings(run_folder: str | None) -> dict[str, object]:
        last = {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint",
                "dirpath": "${run_folder}/checkpoints"}  # fmt: skip
        return chosen(run_folder=run_folder, callbacks={"own": last})

    assert settings("runs/s/squeezenet/fold=0") == settings("runs/s/squeezenet/fold=1")
    assert settings("runs/s/squeezenet/fold=0") == settings(None)


def test_weights_are_part_of_a_run_by_their_content(tmp_path: Path) -> None:
    for name, content in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.pt").write_bytes(content)

    def weights(folder: str) -> str:
        model = {"name": "squeezenet", "weights": str(tmp_path / folder / "w.pt")}
        return fingerprint(chosen(model=model), "data")

    assert weights("one") == weights("same") != weights("other")
    assert weights("one") != fingerprint(chosen(), "data")
    named = [name_of("m", {"model.weights": f"w/{file}"}) for file in ("one.pt", "other.pt")]
    assert named == ["m+weights=one.pt", "m+weights=other.pt"]


def test_own_code_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "first_networks.py").write_text("class Net: width = 8\n")
    (tmp_path / "same_networks.py").write_text("class Net: width = 8\n")
    (tmp_path / "other_networks.py").write_text("class Net: width = 9\n")
    first = component_name("first_networks.Net")
    assert component_name("same_networks.Net") == first
    assert component_name("other_networks.Net") != first


def test_a_network_of_the_same_name_elsewhere_is_another_choice() -> None:
    def run(target: str) -> str:
        network = {"_target_": target, "width": 8}
        return fingerprint(
            chosen(model={"name": "custom", "weights": None, "network": network}), "data"
        )

    names = ("torchvision.models.resnet18", "torchvision.models.quantization.resnet18",
             "signlang.models.networks.resnet18")  # fmt: skip
    assert len({run(name) for name in names}) == 3
    assert run("signlang.models.networks.resnet18") == run("signlang.networks.resnet18")


def test_a_record_of_an_older_format_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"signlang": "0.1.0", "fingerprint": "f"}))
    with pytest.raises(RunError, match=r"is of format 1, .* study=NAME, .* overwrite=true"):
        RunFolder(tmp_path).record()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "net"),
        (["seed=3", "batch_size=8"], "net,batch_size=8,seed=3"),
        (["+b=1", "a=2"], "net,a=2,b=1"),
        (["seed=3", "seed=4"], "net,seed=4"),
        (["model=net", "model.width=2", "fold=1", "hydra.verbose=true"], "net,model.width=2"),
        (["data=digits", "experiment=study"], "net,data=digits"),
        (["data=study", "data.root=/x/y", "workers=2", "runs_dir=/r"], "net"),
        (["data=folder", "data.root=/x/y", "data.pattern={label}{n}"], "net"),
        (["data=folder", "data.root=/x/y", "study=study"], "net,data=folder"),
        (["augment.backgrounds='/a b/scenes'"], "net,augment.backgrounds=scenes"),
        (["data.source.size=32", "model.weights=/w/x.pt"],
         "net,data.source.size=32,model.weights=x.pt"),
        (["trainer.max_epochs=5", "trainer=cpu"], "net,trainer=cpu,trainer.max_epochs=5"),
        (["callbacks.images=null", "callbacks.one_cycle=null"], "net,callbacks.one_cycle=null"),
        (["key=a=b"], "net,key=a=b"),
    ],
)  # fmt: skip
def test_former_names_hold_what_was_typed(overrides: list[str], name: str) -> None:
    assert former_name("net", "study", overrides) == name


@pytest.mark.parametrize("verb", ["train", "describe", "evaluate"])
def test_a_folder_gives_its_data_set_the_name(verb: str) -> None:
    def composed(*words: str) -> Any:
        with initialize_config_dir(str(hydra_app.CONF), version_base="1.3"):
            return compose(verb, overrides=hydra_app.override_words(verb, ["data=folder", *words]))

    first, second = composed("data.root=/a/hands"), composed("data.root=/a/people.csv")
    assert (first.data.name, second.data.name) == ("hands", "people")
    assert composed("data.root=/a/hands", "data.name=mine").data.name == "mine"
    if verb == "train":
        assert (first.study, second.study) == ("hands", "people")
        moved = composed("data.root=/b/renamed")
        assert settings_of(moved) == settings_of(first), "images may be moved and renamed"
        assert settings_of(first)["data.name"] == "folder", "as runs of before"
    if verb == "describe":
        assert (first.out, second.out) == ("cards/hands", "cards/people")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "net"),
        (["optimizer.lr=1e-3", "seed=3"], "net+lr=0.001+seed=3"),
        (["seed=3", "optimizer.lr=0.001"], "net+lr=0.001+seed=3"),
        (["seed=3", "seed=4"], "net+seed=4"),
        # what is the default anyway, of the groups that are chosen
        (["optimizer=adamw", "optimizer.lr=6e-4", "folds=5", "augment=none", "seed=0"], "net"),
        (["optimizer=adam", "optimizer.lr=6e-4"], "net+lr=0.0006+optimizer=adam"),
        (["optimizer=adam", "optimizer.lr=0.001"], "net+optimizer=adam"),
        (["optimizer.weight_decay=0.0"], "net+weight_decay=0"),
        (["optimizer.weight_decay=0"], "net+weight_decay=0"),
        (["experiment=digits_simple_cnn", "batch_size=32"], "net+experiment=digits_simple_cnn"),
        (["data=study", "data.root=/x/y", "workers=2", "runs_dir=/r", "fold=1"], "net"),
        (["data=folder"], "net"),  # after which the study is named by way of data.name
        (["augment.backgrounds='/a b/scenes'"], "net+augment.backgrounds=scenes"),
        (["model=timm", "model.architecture=resnet10t"], "net+architecture=resnet10t"),
        (["model=custom", "+model.network.width=2"], "net+model.network.width=2"),
        (["trainer=cpu", "trainer.max_epochs=5"], "net+epochs=5+trainer=cpu"),
        (["callbacks.images=null", "callbacks.one_cycle=null"], "net+callbacks.one_cycle=null"),
        (["~callbacks.one_cycle"], "net+~callbacks.one_cycle=null"),
        (["debug=fast"], "net+debug=fast"),
    ],
)  # fmt: skip
def test_names_hold_the_settings_that_are_not_the_default(overrides: list[str], name: str) -> None:
    known = [word for word in overrides if word != "data=study"]
    assert name_of("net", chosen_settings(known, "study", "study")) == name


def test_names_need_no_quotes_and_long_ones_are_cut_and_stay_apart() -> None:
    values = ["a, b's", "[1,2]", "{a: 1}", "$x (1)", "ß" * 30, "c" * 25, "", "d" * 200, "-", "e+f"]
    names = [name_of("net", {"x": value}) for value in [*values, [1, 2], {"a": 1}, None, True]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"net\+x=[\w.-]+", name) and len(name) < 40 for name in names)
    many = {f"key{number}": number for number in range(40)}
    one, other = name_of("net", many), name_of("net", {**many, "key39": 0})
    assert one != other
    assert max(len(one), len(other)) <= 120


def test_numbers_that_are_equal_are_one_choice_of_a_run() -> None:
    recorded = {"settings": {"optimizer.weight_decay": 0, "seed": 1, "flag": True}}
    now = {"optimizer.weight_decay": 0.0, "seed": 1, "flag": 1, "new": 2.0}
    kept = as_recorded(now, recorded)
    assert json.dumps(kept) == json.dumps({**now, "optimizer.weight_decay": 0})
    assert as_recorded(now, None) == now


def test_long_former_names_are_cut_and_stay_apart() -> None:
    limit = ["x=" + "a" * 154]
    assert len(former_name("net", "s", limit)) == 160
    one, other = (former_name("net", "s", ["x=" + "a" * 200 + end]) for end in "bc")
    assert one != other
    assert len(one) == len(other) == 131
    assert one.startswith("net,x=aaa")
    assert one[120:123] == "..."
    assert len(former_name("net", "s", ["x=" + "ß" * 78]).encode()) <= 255
    assert "..." in former_name("net", "s", ["x=" + "ß" * 78])  # bytes count, not letters


def test_places_and_comforts_are_no_part_of_a_run() -> None:
    plain = chosen()
    for key in ("study", "runs_dir", "cache_dir", "overwrite", "verbose", "workers", "logger",
                "wanted_precision"):  # fmt: skip
        assert chosen(**{key: "x"}) == plain
    assert chosen(callbacks={"images": "x", "progress": {"a": 1}}) == plain
    assert chosen(data={"root": "/x", "signers": "auto", "source": {"_target_": "a.b"}}) == plain
    assert chosen(data={"stored_size": 32}) == {**plain, "data.stored_size": 32}
    partial = {"_target_": "signlang.x.digits", "_partial_": True, "_convert_": "all"}
    assert chosen(augment={"transforms": partial, "backgrounds": None}) == {
        **plain, "augment.transforms": "signlang digits",
    }  # fmt: skip


def test_backgrounds_are_part_of_a_run_by_their_content(tmp_path: Path) -> None:
    for name, content in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(content)
    one, same, other = (
        chosen(augment={"backgrounds": str(tmp_path / name)}) for name in ("one", "same", "other")
    )
    assert one == same != other


def test_a_package_of_ones_own_is_known_by_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for package, inner in (("first_package", "1"), ("second_package", "1"), ("third_package", "2")):
        (tmp_path / package / "deep").mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "deep" / "net.py").write_text(f"width = {inner}\n")
        names.append(component_name(f"{package}.deep.net.Net"))
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("Net (")
    assert component_name("no_such_package.Net") == "no_such_package.Net"
    assert component_name("json.JSONDecoder") == "json.JSONDecoder"


def test_a_record_holds_versions_settings_and_data() -> None:
    data = {"fingerprint": "d", "images": 3}
    made = record({"seed": 0}, data, seed=7)
    assert made["fingerprint"] == fingerprint({"seed": 0}, "d") != fingerprint({"seed": 0}, "e")
    assert len(made["fingerprint"]) == 32
    assert (made["format"], made["data"], made["settings"], made["seed"]) == (
        2, data, {"seed": 0}, 7,
    )  # fmt: skip
    assert made["packages"]["torch"] == version("torch")
    assert made["started"].endswith("+00:00")
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 there, not set now", "b: not set there, 2 now"]
    assert fingerprint({"a": 1, "b": 2}, "d") == fingerprint({"b": 2, "a": 1}, "d")


def test_a_split_of_ones_own_is_another_choice_and_ours_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "day_splits.py").write_text("class ByDay: hours = 24\n")
    (tmp_path / "hour_splits.py").write_text("class ByDay: hours = 1\n")

    def settings(target: str) -> dict[str, object]:
        return chosen(split={"name": "stratified", "_target_": target, "seed": 0})

    ours = settings("signlang.data.splits.Stratified")
    assert ours == settings("signlang.elsewhere.Stratified")
    assert {key for key in ours if key.startswith("split")} == {"split.name", "split.seed"}
    assert ours["split.name"] == "stratified"
    day, hour = settings("day_splits.ByDay"), settings("hour_splits.ByDay")
    assert str(day["split.name"]).startswith("ByDay (")
    assert len({str(one["split.name"]) for one in (ours, day, hour)}) == 3


def test_no_setting_of_a_run_names_a_module_of_signlang() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = settings_of(compose("train", ["callbacks=default", "split=blocks"]))
    assert settings["split.name"] == "blocks"
    assert settings["augment.transforms"] == "signlang none"
    assert not [key for key, value in settings.items() if "signlang." in str(value)]
    assert not [key for key in settings if key.startswith(("launcher", "sweep", "hydra"))]


def test_the_order_of_settings_is_no_part_of_a_run() -> None:
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert fingerprint(one, "data") == fingerprint(other, "data")
    assert differences(one, other) == []
    assert differences({"a": 1, "c": None}, {"b": 2, "c": "x"}) == [
        "a: 1 there, not set now", "b: not set there, 2 now", "c: None there, x now",
    ]  # fmt: skip


def test_a_module_of_ones_own_is_not_known_by_the_files_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lone_network.py").write_text("class Net: width = 8\n")
    before = component_name("lone_network.Net")
    (tmp_path / "another.py").write_text("x = 1\n")
    assert component_name("lone_network.Net") == before
