"""Every shipped part of the configuration composes, and its parts can be made."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK, ROOT, run_command
from hydra import compose
from omegaconf import DictConfig, OmegaConf

import signlang
from signlang import api, validation
from signlang.runs import identity

CONF = ROOT / "conf"
EXTRA = {
    ("model", "custom"): ["model.network._target_=torch.nn.Identity"],
    ("data", "custom"): ["data.source._target_=my_sources.camera"],
    ("model", "timm"): ["model.architecture=resnet10t"],
    ("data", "folder"): ["data.root=."],
    ("data", "joined"): ["data.sets=[digits,synthetic]"],
    ("split", "dataset"): ["data=joined", "data.sets=[digits,synthetic]"],
    ("hands", "landmarks"): ["model=landmarks", "image_size=8"],
    ("model", "landmarks"): ["hands=landmarks", "image_size=8"],
    ("hands", "both"): ["model=fusion"],
    ("model", "fusion"): ["hands=both"],
    ("experiment", "strangers"): ["data.sets=[asl_alphabet,digits]"],
    ("experiment", "strangers_asl_only"): ["data.sets=[asl_alphabet,digits]", "fold=1"],
}
CHOICES = [
    (file.parent.relative_to(CONF).as_posix(), file.stem)
    for file in sorted(CONF.glob("*/**/*.yaml"))
    if file != CONF / "hydra" / "default.yaml" and file.parent.name != "local"
]
VERBS = sorted(file.stem for file in CONF.glob("*.yaml"))


pytestmark = pytest.mark.usefixtures("configuration")


def composed(*words: str) -> DictConfig:
    return compose("train", overrides=list(words))


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_and_passes_the_checks(group: str, name: str) -> None:
    cfg = composed(f"{group}={name}", *EXTRA.get((group, name), []))
    validation.check_train_config(cfg)
    assert OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "hands").iterdir()))
def test_a_data_card_finds_hands_by_each_choice(name: str) -> None:
    cfg = compose("describe", overrides=[f"hands={name}"])
    validation.check_describe_config(cfg)
    assert OmegaConf.to_container(cfg.hands, resolve=True)["name"] == name  # type: ignore[call-overload,index]


def test_every_group_is_looked_at() -> None:
    groups = {group for group, _ in CHOICES}
    assert groups >= {"augment", "callbacks", "data", "debug", "experiment", "hands",
                      "hydra/launcher", "hydra/sweeper", "logger", "loss", "model", "optimizer",
                      "split", "trainer"}  # fmt: skip
    assert len(CHOICES) > 35


@pytest.mark.parametrize("verb", VERBS)
def test_the_commands_share_what_they_want_of_hydra(verb: str) -> None:
    hydra = compose(verb, return_hydra_config=True, overrides=["hydra.job.num=0"]).hydra
    assert hydra.output_subdir is None
    assert hydra.job.chdir is False
    assert (hydra.run.dir, hydra.sweep.subdir) == (".", ".")
    assert hydra.job_logging is None or not hydra.job_logging.get("handlers")
    assert hydra.help.app_name == f"signlang.{verb}"
    own = OmegaConf.load(CONF / f"{verb}.yaml").hydra
    assert set(own) <= {"help", "sweep"}
    assert set(own.help) == {"app_name", "header"}


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.stem)
def test_parts_are_small_and_commented(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert "#" in file.read_text()
    assert all(len(line) <= 120 for line in lines)
    longest = {"model": 11, "experiment": 17}.get(file.parent.name, 60)
    assert len(lines) <= longest


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers_are_made_with_their_settings(name: str) -> None:
    from signlang.components import import_target
    from signlang.models.classifier import Classifier

    optimizer = OmegaConf.to_container(composed(f"optimizer={name}").optimizer, resolve=True)
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


def trained_with(place: Path, tiny: Path, *words: str) -> api.LoadedRun:
    """A run of one epoch in this process; what the words say has the last word."""
    return api.train([*QUICK, f"data.root={tiny}", f"runs_dir={place}/runs", "verbose=false",
                      "trainer.max_epochs=1", *words])  # fmt: skip


def test_debugging_is_fast_and_touches_no_real_run(tiny: Path, tmp_path: Path) -> None:
    real = trained_with(tmp_path, tiny)
    before = {file: file.read_bytes() for file in real.path.rglob("*") if file.is_file()}
    first = trained_with(tmp_path, tiny, "debug=fast")
    assert first.path.parent.parent == tmp_path / "runs" / "debug"
    assert len(first.predictions["path"]) == 12, "one batch of the test fold"
    written = (first.path / "metrics.json").stat().st_mtime_ns
    again = trained_with(tmp_path, tiny, "debug=fast")
    assert again.path == first.path
    assert (again.path / "metrics.json").stat().st_mtime_ns > written, "trained again at each call"
    assert before == {file: file.read_bytes() for file in real.path.rglob("*") if file.is_file()}


def test_csv_files_take_the_place_of_dashboards(tiny: Path, tmp_path: Path) -> None:
    run = trained_with(tmp_path, tiny, "callbacks=none", "logger=csv", "trainer=cpu")
    assert run.metrics["status"] == "finished"
    files = {f.relative_to(run.path).as_posix() for f in run.path.rglob("*") if f.is_file()}
    assert "csv/metrics.csv" in files
    assert not [file for file in files if "tfevents" in file]


def test_overfitting_and_profiling(tiny: Path, tmp_path: Path) -> None:
    run = trained_with(
        tmp_path, tiny, "debug=overfit", "trainer.max_epochs=30", "logger=many", "optimizer.lr=1e-3"
    )
    assert run.history["train/accuracy"][-1] == 1.0
    assert len(run.history["train/accuracy"]) == 30, "no early stopping"
    assert (run.path / "csv" / "metrics.csv").is_file()
    assert list(run.path.glob("events.out.tfevents.*"))
    run = trained_with(tmp_path, tiny, "debug=profile")
    assert "run_training_epoch" in (run.path / "fit-profile.txt").read_text()


def test_a_configuration_folder_of_ones_own_joins(tiny: Path, tmp_path: Path) -> None:
    own = tmp_path / "my conf"
    (own / "model").mkdir(parents=True)
    (own / "local").mkdir()
    (own / "model" / "mine.yaml").write_text(
        "defaults: [custom]\nname: mine\nnetwork: {_target_: my_nets.Tiny, width: 3}\n"
    )
    (own / "local" / "default.yaml").write_text("batch_size: 7\nseed: 5\n")
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n\n\ndef Tiny(num_classes, width):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(width, num_classes))\n"
    )
    words = [word for word in QUICK if not word.startswith(("model=", "batch_size="))]
    words += ["model=mine", f"data.root={tiny}", "trainer.max_epochs=1", "seed=6"]
    done = run_command(tmp_path, f"--config-dir={own}", *words)
    assert done.code == 0, done.err
    (record,) = tmp_path.glob("runs/Bilder_1/mine+*/fold=0/record.json")
    run = signlang.load_run(record.parent)
    assert run.metrics["cost"]["parameters"] == 3 * 3 * 9 + 3 + 3 * 3 + 3
    assert run.record["settings"]["batch_size"] == 7
    assert run.record["settings"]["seed"] == 6, "the command line has the last word"
    shown = run_command(tmp_path, f"--config-dir={own}", "--help")
    assert "mine, mobilenetv2" in shown.out
    assert "batch_size: 7" in shown.out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"batch_size: 7\n  a: b: c\n", r"default\.yaml, line 2 cannot be read: mapping values "),
        (b"batch_size: [7\n", r"default\.yaml, line 2 cannot be read: expected ',' or ']'"),
        (b"seed: \0\n", r"default\.yaml cannot be read: unacceptable character"),
        (b"seed: " + b"[" * 1200, r"default\.yaml cannot be read: it is nested too deeply"),
        (b"# @package a: b: c\nseed: 1\n", r"default\.yaml cannot be read: Too many "),
        (b"seed: " + b"9" * 5000, r"default\.yaml cannot be read: Exceeds the limit"),
        (b"study: h\xe4nde\n", r"default\.yaml cannot be read: 'utf-8' codec"),
        (
            b"defaults: [/model: " + b"a" * 5000 + b"]\n",
            r"aaa.yaml cannot be read: File name too long",
        ),
    ],
)
def test_a_settings_file_that_cannot_be_read_is_named(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "own" / "local").mkdir(parents=True)
    (tmp_path / "own" / "local" / "default.yaml").write_bytes(content)
    done = run_command(tmp_path, "--config-dir=own", "data=synthetic")
    assert (done.code, "Traceback" in done.err) == (2, False), done.err
    assert re.search(expected, " ".join(done.err.split())), done.err
    assert re.search(r"Fix it.*, or leave it out", " ".join(done.err.split()))


def test_an_error_of_a_task_is_not_taken_for_one_of_a_settings_file() -> None:
    code = "from signlang.hydra_app import run; run(lambda _: b'\\xff'.decode(), 'list')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "in <lambda>" in done.stderr, "with the place, for whoever wrote it"
    assert "file of settings" not in done.stderr


def test_the_help_of_a_verb_lists_the_groups_that_it_has(tmp_path: Path) -> None:
    shown = run_command(tmp_path, "--help", verb="describe").out
    assert "data: asl_alphabet, custom, digits" in shown
    assert "split: blocks, dataset, given, group, signer, stratified" in shown
    assert "model:" not in shown
    assert "hydra/launcher" not in shown
    train = run_command(tmp_path, "--help").out
    assert "hydra/launcher: basic, local, ray, serial, slurm" in train
    assert "debug: fast, overfit, profile" in train
    assert "Components" not in run_command(tmp_path, "--help", verb="serve").out


def test_each_network_brings_its_learning_rate_and_optimizer_lr_is_what_counts() -> None:
    assert composed("model=simple_cnn").optimizer.lr == 3e-3
    assert composed("model=squeezenet").optimizer.lr == 6e-4
    assert composed("model=timm", "model.architecture=resnet10t").optimizer.lr == 6e-4
    assert composed("model=resnet18", "optimizer.lr=2e-3").optimizer.lr == 2e-3
    assert composed("model=resnet18", "optimizer=adam").optimizer.lr == 1e-3
    own, given = (
        identity.settings_of(composed("model=simple_cnn", *words))
        for words in ((), ("optimizer.lr=3e-3", "model.learning_rate=1"))
    )
    assert own == given  # a run of the same rate stays the same run
    assert own["optimizer.lr"] == 3e-3


@pytest.mark.parametrize(
    ("experiment", "monitor", "mode"),
    [
        ("asl_alphabet", "validation/loss", "min"),
        ("digits_simple_cnn", "validation/accuracy", "max"),
        ("digits_mobilenetv2", "validation/accuracy", "max"),
    ],
)
def test_the_studies_stop_and_select_as_published(experiment: str, monitor: str, mode: str) -> None:
    callbacks = composed(f"experiment={experiment}").callbacks
    for callback in (callbacks.early_stopping, callbacks.checkpoint):
        assert (callback.monitor, callback.mode) == (monitor, mode)
    assert callbacks.checkpoint._target_ == "pytorch_lightning.callbacks.ModelCheckpoint"
    assert callbacks.early_stopping.standard_errors * (mode == "max") == 0
