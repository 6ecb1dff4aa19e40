"""One dialect for all verbs, the umbrella `signlang`, and errors that come before torch."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import bundles
import pytest
from conftest import QUICK, Result, run_command
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import signlang
from signlang import components, hydra_app, system
from signlang.command_line import HYDRA_FLAGS, VERBS, hydra_words, sort_words
from signlang.errors import SettingError

# what takes long to import, by when it may be there
TORCH = ("torch", "torchvision", "timm", "pytorch_lightning", "torchmetrics")
HEAVY = (*TORCH, "hydra", "omegaconf", "numpy", "pydantic", "rich", "matplotlib")
WATCHED = """
import sys
from runpy import run_module

barred, missing, module = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
sys.argv[1:] = sys.argv[4:]
sys.modules |= {missing: None} if missing else {}
try:
    run_module(module, run_name="__main__", alter_sys=True)
finally:
    there = [name for name in barred if name in sys.modules]
    assert not there, f"imported: {there}"
"""


def watched(
    place: Path, module: str, *words: str, barred: Sequence[str] = TORCH, missing: str = "",
    columns: int = 200,
) -> Result:  # fmt: skip
    """Run `python -m module words`.

    Args:
        place: Where.
        module: What.
        words: Of the command.
        barred: Modules that must not have been imported at the end.
        missing: A module that is as if it were not installed.
        columns: Of the terminal.
    """
    command = [sys.executable, "-c", WATCHED, ",".join(barred), missing, module, *words]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": str(columns)},
    )  # fmt: skip
    assert "imported: " not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


STREAMS = {
    "stdout closed": ("{} >&-", 0, ""),
    "stdin closed": ("{} <&-", 0, ""),
    "stderr closed": ("{} 2>&-", 0, ""),
    "nothing reads": ("exec 3> >(exec true); wait $!; {} >&3", 0, ""),
    "a full disk": ("{} > /dev/full", 1, "the output was not written. Free some space"),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("words", "case"),
    [
        *((words, case) for words in ("signlang", "signlang.predict {} {}") for case in STREAMS),
        *((f"signlang.{verb} --help", "a full disk") for verb in ("list", "predict", "hands")),
    ],
)
def test_any_standard_streams_will_do(words: str, case: str, tmp_path: Path) -> None:
    bundle, image = bundles.write(tmp_path / "bundle"), tmp_path / "a.png"
    bundles.image("A").save(image)
    redirected, code, expected = STREAMS[case]
    command = f"{sys.executable} -m {words.format(f'bundle={bundle}', image)}"
    line = f"set -o pipefail; {redirected.format(command)}"
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, env=buffered
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert "Exception ignored" not in done.stderr
    assert expected in done.stderr


def umbrella(place: Path, *words: str) -> Result:
    return watched(place, "signlang", *words, barred=HEAVY)


# --- the umbrella ---


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_the_umbrella_lists_every_verb_with_a_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    shown = umbrella(tmp_path, *words)
    assert shown.code == 0
    for name, verb in VERBS.items():
        assert f"  {name} {verb.usage}  " in shown.out
        assert f"  {verb.summary}\n" in shown.out


def test_the_verbs_are_the_modules_with_a_command() -> None:
    package = Path(signlang.__file__).parent
    modules = {f.stem for f in package.glob("*.py") if "def main(" in f.read_text("utf-8")}
    assert modules - {"__main__"} == set(VERBS)


@pytest.mark.parametrize(
    "words", [("--version",), ("train", "--version"), ("predict", "--version")]
)
def test_the_version_is_that_of_signlang(tmp_path: Path, words: tuple[str, ...]) -> None:
    shown = umbrella(tmp_path, *words)
    assert (shown.code, shown.out, shown.err) == (0, f"signlang {signlang.__version__}\n", "")


@pytest.mark.parametrize("verb", ["train", "predict"])
def test_a_verb_alone_says_the_same_version(tmp_path: Path, verb: str) -> None:
    shown = run_command(tmp_path, "--version", verb=verb)
    assert (shown.code, shown.out) == (0, f"signlang {signlang.__version__}\n")


def test_a_mistyped_verb_gets_a_suggestion(tmp_path: Path) -> None:
    shown = umbrella(tmp_path, "tran", "model=squeezenet")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("There is no verb tran. Did you mean train? There are: compare,")


@pytest.mark.parametrize("words", [("train", "fold=7"), ("predict", "x.png"), ("compare", "none")])
def test_the_umbrella_and_the_verb_say_the_same(tmp_path: Path, words: tuple[str, ...]) -> None:
    verb, *rest = words
    ours = watched(tmp_path, "signlang", verb, *rest)
    assert ours == run_command(tmp_path, *rest, verb=verb)
    assert ours.code
    assert ours.err


def test_the_umbrella_sweeps_with_worker_processes(tiny: Path, tmp_path: Path) -> None:
    words = [str(tiny), *QUICK[1:], "-m", "launcher=local", "launcher.jobs=2", "fold=0,1"]
    done = watched(tmp_path, "signlang", "train", *words, "batch_size=1000")
    assert done.code == 1
    for fold in (0, 1):  # a job of each worker, which fails before it trains
        assert f"fold={fold} failed after" in done.err
    assert "2 of 2 jobs of the sweep failed" in done.err


def test_help_that_nobody_reads_to_its_end_ends_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "signlang.train", "--help"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_fits_80_columns(verb: str, tmp_path: Path) -> None:
    shown = watched(tmp_path, f"signlang.{verb}", "--help", columns=80)
    assert shown.code == 0
    assert [line for line in shown.out.splitlines() if len(line) > 80] == []


def test_help_shows_the_comment_of_each_setting(tmp_path: Path) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text(
        "defaults: [squeezenet]\nname: mine  # of somebody's own\n"
    )
    lines = watched(tmp_path, "signlang.train", "--help", "--config-dir=own", "model=mine").out
    for line in (
        "batch_size: 32  # images of each step, of all devices together",
        "  max_epochs: 24",
        "fold: 0  # which fold is the test set, from 0",
        "  lr: ${oc.select:model.learning_rate,6e-4}  # of the network; with one-cycle the peak",
        "    patience: 10  # epochs without improvement",
        "  name: mine  # of somebody's own",
        "run_folder: null  # set by train: runs_dir/study/what was chosen/fold=k",
        "study: ${data.name}  # runs that are to be compared belong to one study",
    ):
        assert line in lines.splitlines()
    narrow = watched(tmp_path, "signlang.train", "--help", columns=80).out
    assert (
        "  # share of the training folds; fold = the test fold also picks the checkpoint\n"
        "  validation: 0.1\n"
    ) in narrow


# --- tab completion ---


def completed(place: Path, line: str, program: str = "signlang") -> list[str]:
    """What the shell is told for a line."""
    script = f"import sys; sys.argv[0] = '{program}'; from {program}.__main__ import main; main()"
    if program != "signlang":
        script = script.replace(f"{program}.__main__", program.replace("-", "."))
    done = subprocess.run(
        [sys.executable, "-c", script, "-sc", "query=bash"],
        cwd=place, capture_output=True, text=True, env={**os.environ, "COMP_LINE": line},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_tab_completes_verbs_and_their_settings(tmp_path: Path) -> None:
    assert completed(tmp_path, "signlang tr") == list(VERBS)
    models = completed(tmp_path, "signlang train fold=0 model=s")
    assert models == ["model=simple_cnn", "model=squeezenet"]
    assert completed(tmp_path, "signlang-train model=s", "signlang-train") == models
    assert completed(tmp_path, "signlang compare so") == ["sort="]
    assert completed(tmp_path, "signlang predict x") == []  # the shell offers files


def test_tab_completes_runs_and_studies(tmp_path: Path) -> None:
    for setting in ("digits/cnn+lr=0.001", "digits/cnn", "signs/net"):
        (tmp_path / "runs" / setting / "fold=0").mkdir(parents=True)
        (tmp_path / "runs" / setting / "fold=0" / "record.json").touch()
    assert completed(tmp_path, "signlang list study=d") == ["study=digits", "study=signs"]
    assert completed(tmp_path, "signlang export run=") == [
        "run=latest", "run=digits", "run=signs", "run=digits/cnn", "run=digits/cnn+lr=0.001",
        "run=signs/net",
    ]  # fmt: skip


def test_the_shell_installs_completion_under_the_name_that_is_typed(tmp_path: Path) -> None:
    script = "import sys; sys.argv[0] = '/bin/signlang'; from signlang.__main__ import main; main()"
    command = [sys.executable, "-c", script, "-sc", "install=bash"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("-F hydra_bash_completion signlang")


# --- words ---


@pytest.mark.parametrize(
    ("verb", "words", "setting", "value"),
    [
        (
            "export",
            ["runs/digits/a,split=signer/fold=0"],
            "run",
            ["runs/digits/a,split=signer/fold=0"],
        ),
        ("export", ["--", "a=b, [c] {d} 'e' $f\\"], "run", ["a=b, [c] {d} 'e' $f\\"]),
        ("export", ["a/x=1/fold=0", "b, c"], "run", ["a/x=1/fold=0", "b, c"]),
        ("export", ["run=[a/x=1/fold=0, b/y=2/fold=0]"], "run", ["a/x=1/fold=0", "b/y=2/fold=0"]),
        ("evaluate", ["x y", "data.root=."], "run", "x y"),
        ("evaluate", ["x y", "a b"], "data.root", "a b"),
        ("evaluate", ["a b", "bundle=x"], "data.root", "a b"),
        ("describe", ["x"], "data.root", "x"),
        ("train", ["x, y", "model=simple_cnn"], "data.root", "x, y"),
        ("compare", ["a", "b, c"], "studies", ["a", "b, c"]),
        ("compare", ["studies=a"], "studies", "a"),
        ("serve", ["a", "bundle=b", "bundle=c"], "bundle", ["a", "b", "c"]),
        ("serve", ["bundle=[a,b]"], "bundle", ["a", "b"]),
    ],
)
def test_a_path_needs_no_key(verb: str, words: list[str], setting: str, value: object) -> None:
    with initialize_config_dir(str(hydra_app.CONF), version_base="1.3"):
        cfg = compose(verb, overrides=hydra_app.override_words(verb, words))
    found = OmegaConf.select(cfg, setting)
    assert (list(found) if isinstance(value, list) else found) == value
    if setting == "data.root":
        assert cfg.data.source._target_ == "signlang.data.sources.folder"


def test_a_bundle_needs_no_key(exported: tuple[Path, Result]) -> None:
    bundle = str(exported[0])
    words = hydra_words("evaluate", [bundle, "IMAGES", "fold=0"])
    assert words == ["fold=0", f"bundle='{bundle}'", "data.root='IMAGES'"]
    for network in ("run=R", "bundle=B", "model=M"):  # it is images then, whatever is in it
        assert hydra_words("evaluate", [network, bundle]) == [network, f"data.root='{bundle}'"]
    assert hydra_words("evaluate", ["a" * 5000]) == [f"run='{'a' * 5000}'"]


def test_what_is_chosen_wins_over_what_a_path_implies() -> None:
    assert hydra_words("describe", ["x", "data=digits"]) == ["data=digits", "data.root='x'"]


@pytest.mark.parametrize(
    ("verb", "words", "sentence"),
    [
        (
            "evaluate",
            ["a", "b", "c"],
            "evaluate takes one RUN and one IMAGES, but there are a and b and c;",
        ),
        ("describe", ["a", "b"], "describe takes one IMAGES, but there are a and b;"),
        ("list", ["a", "study=b"], "list takes one STUDY, but there are a and study=b;"),
        ("train", ["fold", "0"], "settings are written as key=value"),
        ("serve", ["a", "bundle=[b]"], "bundle=[b]: give one list, or bundle path by path."),
        ("train", ["--hlep"], "--hlep: there is no such flag. Did you mean --help?"),
        ("train", ["--fold=0"], "--fold=0: settings are written as key=value, fold=VALUE"),
        ("compare", ["--sort", "x"], "--sort: settings are written as key=value, sort=COLUMN"),
    ],
)
def test_words_that_cannot_be_told_apart_are_refused(
    verb: str, words: list[str], sentence: str
) -> None:
    with pytest.raises(SettingError) as refused:
        hydra_words(verb, words)
    assert sentence in str(refused.value)


def test_flags_of_hydra_keep_their_values() -> None:
    words = ["-m", "--config-dir", "mine", "a", "-c", "job", "~callbacks.x", "-i"]
    settings, paths, flags = sort_words(words, HYDRA_FLAGS)
    assert (settings, paths) == (["~callbacks.x"], ["a"])
    assert flags == ["-m", "--config-dir", "mine", "-c", "job", "-i"]
    # Hydra itself takes settings only side by side
    assert hydra_words("train", ["a=1", "-m", "b=2"]) == ["a=1", "b=2", "-m"]


# --- errors that are known before torch is imported ---


@pytest.fixture
def begun(tmp_path: Path, trained: Path) -> Path:
    """A run that has not been finished."""
    folder = tmp_path / "begun" / "fold=0"
    shutil.copytree(trained, folder)
    (folder / "metrics.json").unlink()
    return folder


def test_runs_that_cannot_be_used_are_refused_before_torch(
    begun: Path, tiny: Path, exported: tuple[Path, Result], tmp_path: Path
) -> None:
    for run, code, sentence in (
        (tmp_path / "none", 2, "there is no such"),
        (tmp_path, 1, "holds no finished run"),
        (tiny, 1, "is no run folder"),
        (begun, 1, "is a run that is not finished"),
        (begun.parent, 1, f"no fold of {begun.parent} is finished: fold=0 is not finished (12"),
        (exported[0], 1, f"if it is a bundle, say bundle={exported[0]}"),
    ):
        refused = watched(tmp_path, "signlang.evaluate", f"run={run}", str(tiny))
        assert (refused.code, sentence in refused.err) == (code, True), refused.err
        if code == 2 or run == begun:
            refused = watched(tmp_path, "signlang.export", str(run))
            assert (refused.code, sentence in refused.err) == (code, True), refused.err


def test_a_mistyped_run_study_or_path_gets_a_suggestion(trained: Path, tmp_path: Path) -> None:
    runs = f"runs_dir={trained.parents[2]}"
    study = trained.parents[1].name
    for verb, words, sentence in (
        ("export", [f"{study}s"], f"nothing in {trained.parents[2]} has that name. Did you mean "),
        ("export", ["latst"], "Did you mean latest?"),
        ("export", ["a (b, c"], "run=a (b, c: there is no such folder"),
        ("compare", [f"{study}s"], f"Did you mean {study}?"),
    ):
        refused = watched(tmp_path, f"signlang.{verb}", *words, runs)
        assert (refused.code, sentence in refused.err) == (2 - (verb == "compare"), True), refused
        assert len(refused.err.splitlines()) == 1
    (tmp_path / "images").mkdir()
    for verb, words in (("describe", ["imags"]), ("train", ["imags"]), ("serve", ["imags"])):
        refused = watched(tmp_path, f"signlang.{verb}", *words)
        assert "Did you mean images?" in refused.err, refused
    refused = watched(tmp_path, "signlang.predict", "bundle=imags", "x.png")
    assert "Did you mean images?" in refused.err


def test_values_of_no_sweep_are_explained(tmp_path: Path) -> None:
    refused = watched(tmp_path, "signlang.train", "model=squeezenet,resnet18")
    assert refused.code == 2
    assert refused.err.startswith("model=squeezenet,resnet18: several values are a sweep, which ")


def test_a_path_that_hydra_reads_as_it_is_gets_no_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "my-set.v2", ".5", "a=b"):
        (tmp_path / name).mkdir()
    words = [hydra_app.quoted(f"data.root={name}") for name in ("digits", "./my-set.v2")]
    assert words == ["data.root=digits", "data.root=./my-set.v2"]  # as they were typed
    assert hydra_app.quoted("data.root=.5") == "data.root='.5'"  # no number
    assert hydra_app.quoted("data.root=a=b") == "data.root='a=b'"


@pytest.mark.parametrize("root", ["a, b", "(a", "a[1", "{x", "a=b", "x'y", "100 %, #1", "Hände"])
def test_a_path_that_is_not_there_is_told_as_it_was_typed(tmp_path: Path, root: str) -> None:
    refused = watched(tmp_path, "signlang.train", "data=folder", f"data.root={root}")
    sentence = f"data.root={root}: there is no such file or folder.\n"
    assert (refused.code, refused.err) == (2, sentence)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("study=../up", "study=../up: it must do as the name of a folder"),
        ("study=", "study=: it must do as the name of a folder"),
        ("study=a/b", "study=a/b: it must do as the name of a folder"),
        ("model.name=../x", "model.name=../x: it must do as the name of a folder"),
        ("runs_dir=file", "runs_dir=file: file is a file: choose a folder"),
        ("runs_dir=file/deep/er", "runs_dir=file/deep/er: file is a file: choose a folder"),
        ("runs_dir=", "runs_dir=: it is empty: give a path"),
        ("cache_dir=", "cache_dir=: it is empty: give a path"),
        ("data.root=", "data.root=: it is empty: give a path"),
    ],
)
def test_places_that_cannot_be_are_refused_at_once(
    tmp_path: Path, word: str, sentence: str
) -> None:
    (tmp_path / "file").touch()
    refused = watched(tmp_path, "signlang.train", word)
    assert (refused.code, refused.err.startswith(sentence)) == (2, True), refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_images_without_a_shared_class_are_refused_before_torch(
    trained: Path, exported: tuple[Path, Result], tiny: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    for name in ("X", "Y"):
        shutil.copytree(tiny / "A", strange / name)
        (strange / name / "broken.png").write_bytes(b"")  # is not even opened
    weights, names = tmp_path / "w.safetensors", tmp_path / "names.txt"
    weights.write_bytes(b"")
    names.write_text("A\nB\n")
    table = strange / "images.csv"
    table.write_text("path,label\nX/A0.png,X\nY/A0.png,Y\n")
    for network, root in (
        ([f"run={trained}"], strange),
        ([f"bundle={exported[0]}"], table),
        (["model=simple_cnn", f"model.weights={weights}", f"classes={names}"], strange),
    ):
        words = [*network, f"data.root={root}"]
        refused = watched(tmp_path, "signlang.evaluate", *words, barred=(*TORCH, "matplotlib"))
        assert refused.code == 1
        assert "share no class" in refused.err, refused.err


def test_missing_packages_are_named_before_torch(
    trained: Path, exported: tuple[Path, Result], tiny: Path, tmp_path: Path
) -> None:
    for verb, words, extra in (
        ("export", [f"run={trained}"], "signlang[export]"),
        ("evaluate", [f"bundle={exported[0]}", f"data.root={tiny}"], "pip install signlang"),
    ):
        refused = watched(tmp_path, f"signlang.{verb}", *words, missing="onnxruntime")
        assert (refused.code, extra in refused.err) == (2, True), refused.err


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_an_unknown_network_of_timm_is_refused_before_torch(verb: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_text("A\nB\n")
    words = ["model=timm", "model.architecture=resnet19"]
    words += ["model.weights=w", "classes=w", "data.root=."] if verb == "evaluate" else []
    refused = watched(tmp_path, f"signlang.{verb}", *words)
    assert refused.code == 2
    assert "model.architecture=resnet19: timm has no such network; did you mean resnet18" in (
        refused.err
    )


def test_timm_knows_the_names_that_its_files_hold() -> None:
    import timm
    from timm.models import _registry

    assert {*timm.list_models(), *_registry._deprecated_models} == set(components.timm_names())
    components.check_timm_name("resnet18.a1_in1k")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "GPU_DEVICES", ("/dev/null",))
    system.check_accelerator("gpu")
    monkeypatch.setattr(system, "GPU_DEVICES", ("/dev/none",))
    system.check_accelerator("auto")
    with pytest.raises(SettingError, match="accelerator=gpu: this machine shows no GPU"):
        system.check_accelerator("gpu")
