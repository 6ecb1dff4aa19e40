"""`python -m signlang.predict`: images in, one row each out, whatever is among them."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Result, run_command
from PIL import Image

from signlang.errors import SettingError
from signlang.inference.bundle import load_bundle
from signlang.predict import PredictConfig, parse_arguments


@pytest.fixture(scope="module")
def bundle(exported: tuple[Path, Result]) -> Path:
    return exported[0]


@pytest.fixture(scope="module")
def mixed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images of several kinds among bad ones; read it, never change it."""
    place = tmp_path_factory.mktemp("mixed, with = and [brackets]")
    for name in ("A/A0.png", "B/B1.png", "ß/ß2.png"):
        (place / name).parent.mkdir()
        shutil.copy(tiny / name, place / name)
    Image.open(tiny / "A" / "A3.png").resize((200, 90)).save(place / "A" / "wide.jpg")
    Image.open(tiny / "B" / "B3.png").convert("RGBA").save(place / "B" / "alpha.PNG")
    (place / "A" / "cut.png").write_bytes((tiny / "A" / "A1.png").read_bytes()[:200])
    (place / "A" / "empty.jpg").write_bytes(b"")
    (place / "notes.txt").write_text("no image")
    (place / ".hidden.png").write_bytes(b"")
    return place


def predict(place: Path, *words: str) -> Result:
    return run_command(place, *words, verb="predict")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_with_bad_files_is_answered_row_by_row(bundle: Path, mixed: Path) -> None:
    result = predict(mixed, f"bundle={bundle}", ".", "format=csv", "batch_size=2")
    assert result.code == 1, result.err
    rows = {row["path"]: row for row in rows_of(result.out)}
    assert list(rows) == [
        "A/A0.png", "A/cut.png", "A/empty.jpg", "A/wide.jpg", "B/B1.png", "B/alpha.PNG", "ß/ß2.png",
    ]  # fmt: skip
    for path, row in rows.items():
        if path in {"A/cut.png", "A/empty.jpg"}:
            assert row["label"] == row["guess"] == row["confidence"] == ""
        else:
            assert row["guess"] == path[0]
            assert 1 / 3 < float(row["confidence"]) <= 1
            assert float(row["confidence"]) >= float(row["confidence_2"])
            assert row["error"] == ""
    assert "damaged or cut off" in rows["A/cut.png"]["error"]
    assert "empty" in rows["A/empty.jpg"]["error"]
    assert "7 images" in result.err
    assert "2 could not be used" in result.err


def test_lines_of_json_and_patterns_and_a_file(bundle: Path, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "signs.jsonl"
    words = [f"bundle={bundle}", "?/[AB]?.png", "nix.png", f"out={out}", "--", "A/wide.jpg"]
    result = predict(mixed, "top=2", *words)
    assert result.code == 1, result.err
    assert result.out == ""
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["path"] for row in rows] == ["A/A0.png", "B/B1.png", "nix.png", "A/wide.jpg"]
    assert rows[2]["error"] == "no such file"
    assert rows[2]["label"] is None
    good = rows[0]
    assert good["label"] == good["guess"] == good["top"][0]["class"] == "A"
    assert good["confidence"] == good["top"][0]["probability"]
    assert len(good["top"]) == 2
    assert good["error"] is None


def test_int8_and_zip_files_answer_alike(bundle: Path, mixed: Path, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", bundle.parent, bundle.name)
    words = [f"bundle={packed}", "ß", "A/A0.png", "format=csv"]
    plain = predict(mixed, *words)
    small = predict(mixed, *words, "precision=int8", "workers=1")
    assert (plain.code, small.code) == (0, 0), plain.err + small.err
    guesses = [[row["guess"] for row in rows_of(result.out)] for result in (plain, small)]
    assert guesses == [["ß", "A"], ["ß", "A"]]


def stdin(place: Path, data: bytes, *words: str) -> Result:
    command = [sys.executable, "-m", "signlang.predict", *words, "-"]
    done = subprocess.run(command, cwd=place, input=data, capture_output=True, timeout=60)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_standard_input_holds_paths_or_a_image(bundle: Path, mixed: Path) -> None:
    words = [f"bundle={bundle}", "format=csv", "verbose=false"]
    listed = stdin(mixed, "A/A0.png\n\nß/ß2.png\n".encode(), *words)
    assert listed.code == 0, listed.err
    assert [row["guess"] for row in rows_of(listed.out)] == ["A", "ß"]
    assert listed.err == ""
    piped = stdin(mixed, (mixed / "B" / "B1.png").read_bytes(), *words)
    assert [(row["path"], row["guess"]) for row in rows_of(piped.out)] == [("-", "B")]
    rubbish = stdin(mixed, b"\0\1\2", *words)
    assert rubbish.code == 1
    assert "not an image" in rows_of(rubbish.out)[0]["error"]
    assert stdin(mixed, b"", *words).code == 2


def test_improbable_guesses_are_called_unknown(bundle: Path, mixed: Path, tmp_path: Path) -> None:
    words = ["A/A0.png", "format=csv"]
    (row,) = rows_of(predict(mixed, f"bundle={bundle}", *words, "threshold=1").out)
    assert (row["label"], row["guess"]) == ("unknown", "A")
    # the bundle's own threshold, if it has one
    strict = Path(shutil.copytree(bundle, tmp_path / "strict"))
    info = json.loads((strict / "bundle.json").read_text("utf-8")) | {"reject_threshold": 1.0}
    (strict / "bundle.json").write_text(json.dumps(info), "utf-8")
    assert load_bundle(strict).reject_threshold == 1.0
    table = predict(mixed, f"bundle={strict}", "A/A0.png", "A/cut.png")
    assert table.out.splitlines()[0].split() == ["path", "label", "confidence", "2.", "3."]
    assert "unknown (A?)" in table.out
    assert "A/cut.png  -" in table.out
    (row,) = rows_of(predict(mixed, f"bundle={strict}", *words, "threshold=none").out)
    assert row["label"] == "A"


def test_torch_is_not_imported(bundle: Path, mixed: Path) -> None:
    script = (
        "import sys, runpy\n"
        "class Refusing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in BARRED: raise AssertionError(f'{name} is imported')\n"
        "BARRED = {'torch', 'torchvision', 'pytorch_lightning', 'torchmetrics', 'timm', 'hydra',\n"
        "          'omegaconf', 'matplotlib', 'scipy', 'sklearn', 'albumentations', 'onnx'}\n"
        "sys.meta_path.insert(0, Refusing())\n"
        "runpy.run_module('signlang.predict', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"bundle={bundle}", str(mixed / "A" / "A0.png")],
        capture_output=True, text=True, timeout=60, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x.png"], "bundle is missing: it must be the folder or ZIP file that signlang.export"),
        (["bundle=nix", "x"], "bundle=nix: there is no such file or folder."),
        (["bundle=."], "nothing to recognise"),
        (["bundle=.", "x", "top=0"], "top=0: it must be a whole number of at least 1."),
        (["bundle=.", "x", "threshold=2"], "threshold=2: it must be auto or none or a number"),
        (["bundle=.", "x", "format=xml"], "format=xml: it must be table, csv or jsonl"),
        (["bundle=.", "x", "precison=int8"], "Did you mean precision?"),
        (["bundle=.", "x", "--top"], "settings are written as key=value, top=VALUE"),
        (["bundle=", "x"], "bundle=: its value is missing"),
        (["bundle=.", "x", "workers=many"], "workers=many"),
        (["bundle=.", "x", "paths=y"], "There is no setting paths."),
    ],
)
def test_wrong_words_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        parse_arguments(words)
    assert sentence in str(refused.value)


def test_words_become_settings_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.png", "top=2"):
        Path(name).write_bytes(b"")
    words = ["bundle=.", "a=b.png", "x/[1], {2}=y z.png", "-", "threshold=none", "workers=2",
             "out=null", "verbose=false", "top=5", "--", "top=2", "--top"]  # fmt: skip
    config, paths = parse_arguments(words)
    assert paths == ["a=b.png", "x/[1], {2}=y z.png", "-", "top=2", "--top"]
    assert (config.top, config.least, config.workers, config.out) == (5, 0.0, 2, None)
    assert config.verbose is False
    assert parse_arguments(["bundle=.", "x"])[0].least is None
    assert parse_arguments(["bundle=.", "x", "threshold=0.25"])[0].least == 0.25
    with pytest.raises(SettingError, match="There is no setting c"):  # no such file either
        parse_arguments(["bundle=.", "c=d.png"])


def test_the_first_path_may_be_the_bundle(bundle: Path, tmp_path: Path) -> None:
    config, paths = parse_arguments([str(bundle), "x.png", "top=1"])
    assert (config.bundle, paths) == (bundle, ["x.png"])
    config, paths = parse_arguments(["x.png", f"bundle={bundle}", str(bundle)])  # it has images
    assert (config.bundle, paths) == (bundle, ["x.png", str(bundle)])
    (tmp_path / "images").mkdir()
    for path in (str(tmp_path / "images"), "a" * 5000):
        with pytest.raises(SettingError, match="bundle is missing"):
            parse_arguments([path, "x.png"])


def test_commands_that_cannot_work_end_with_2(bundle: Path, tmp_path: Path) -> None:
    for words in (["bundle=nix", "x.png"], [f"bundle={bundle}", "."],
                  [f"bundle={bundle}", "x.png", "out=nix/a.csv"], ["x.png"],
                  [f"bundle={bundle}", "x.png", f"out={'a' * 250}.csv"]):  # fmt: skip
        result = predict(tmp_path, *words)
        assert result.code == 2
        assert result.err.strip()
        assert "Traceback" not in result.err
    shown = predict(tmp_path, "--help")
    assert shown.code == 0
    assert all(f"  {key}=" in shown.out for key in PredictConfig.model_fields)
