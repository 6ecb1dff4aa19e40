"""Wrong settings are refused at once, in one sentence, and nothing is written."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run_command

WRONG = {
    "model=sqeezenet": "model=sqeezenet: there is no such choice. Did you mean squeezenet?",
    "augment=heavy": "augment=heavy: there is no such choice. There are: asl_alphabet",
    "data=asl_alphabeth": "Did you mean asl_alphabet?",
    "fold=7": "fold=7: there are 5 folds, counted from 0 to 4.",
    "fold=-1": "fold=-1: it must be a whole number of at least 0.",
    "fold=first": "fold=first: it must be a whole number",
    "folds=1": "folds=1: it must be a whole number of at least 2.",
    "optimizer.lr=0": "optimizer.lr=0: it must be a number above 0.",
    "optimizer.lr=nan": "optimizer.lr=nan: it must be a number above 0.",
    "optimzer.lr=1": "There is no setting optimzer.lr; did you mean optimizer.lr?",
    "trainer.max_epoch=3": "did you mean trainer.max_epochs?",
    "trainer.max_epochs=0": "trainer.max_epochs=0: it must be a whole number of at least 1, or -1",
    "trainer.precision=8": "trainer.precision=8: it must be auto, 32-true or bf16-mixed.",
    "image_size=20": "image_size=20 is too small for squeezenet: it needs at least 32.",
    "batch_size=0": "batch_size=0: it must be a whole number of at least 1.",
    "split.validation=0.9": "split.validation=0.9: it must be a share",
    "label_smoothing=1": "label_smoothing=1: it must be a number from 0 to below 1.",
    "data=folder": "data=folder needs data.root=DIR",
    "data.root=/nowhere": "data.root=/nowhere: there is no such file or folder.",
    "model.weights=w.pt": "model.weights=w.pt: there is no such file or folder.",
    "data.root=~not-a-user/A": "data.root=~not-a-user/A: there is no such file or folder.",
    "model.weights=.": "model.weights=.: it is a folder: name a file.",
    "callbacks.one_cycle=5": "callbacks.one_cycle=5: null switches it off",
    "callbacks.one_cycle._target_=5": "callbacks.one_cycle._target_=5: it must be the dotted path",
    "logger.tensorboard._target_=null": "logger.tensorboard._target_=null: it must be the dotted",
    "study=true": "study=true: it must be a text.",
    "model=timm": "model.architecture is missing",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1: it must be a number of at least",
    "trainer.devices=0": "trainer.devices=0: it must be a whole number of at least 1",
    "+trainer.gradient_clip_algorithm=median": "it must be norm or value",
    "workers=1000": "workers=1000: it must be a whole number from 0 to ",
    "image_size=100000": "image_size=100000: it must be a whole number from 1 to 2048",
    "augment.transforms._target_=mine": "augment.transforms._target_=mine: it must be the dotted",
    "nonsense": "data.root=nonsense: there is no such file or folder",
}


@pytest.mark.parametrize(("word", "sentence"), WRONG.items())
def test_a_wrong_setting_is_one_sentence(word: str, sentence: str, tmp_path: Path) -> None:
    begun = time.process_time()
    result = run_command(tmp_path, word)
    assert result.code == 2
    assert sentence in result.err
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert time.process_time() - begun < 3


def test_a_split_by_signer_needs_signers(tmp_path: Path) -> None:
    result = run_command(tmp_path, "split=signer", "data.signers=null")
    assert "split=signer needs data.signers=FILE" in result.err


def test_a_batch_larger_than_the_data_is_refused(tiny: Path, tmp_path: Path) -> None:
    result = run_command(tmp_path, "data=folder", f"data.root={tiny}", "batch_size=1000")
    assert result.code == 1
    assert "batch_size=1000 is more than the 24 training images" in result.err
    assert not (tmp_path / "runs").exists()


def test_help_and_refusals_do_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['train', sys.argv[1]]\n"
        "from signlang.train import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'timm', 'albumentations', 'pytorch_lightning', 'matplotlib'}\n"
        "sys.exit(bool(heavy & sys.modules.keys()))"
    )
    for word in ("--help", "fold=7", "model=sqeezenet"):
        command = [sys.executable, "-c", code, word]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_help_shows_the_components_and_the_settings(tmp_path: Path) -> None:
    result = run_command(tmp_path, "--help")
    assert result.code == 0
    for words in (
        "model=squeezenet fold=0",
        "model: custom, fusion, landmarks, mobilenetv2",
        "early_stopping",
        "lr: ${oc.select:model.learning_rate,6e-4}",
        "learning_rate: 0.0006",
    ):
        assert words in result.out


@pytest.mark.parametrize("gap", ["-1", "1.5", "near", "true"])
def test_a_gap_is_a_number_of_frames(gap: str, tmp_path: Path) -> None:
    result = run_command(tmp_path, "split=blocks", f"split.gap={gap}")
    assert result.code == 2
    assert f"split.gap={gap}: it must be a whole number of at least 0" in result.err
