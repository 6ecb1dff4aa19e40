"""Images of a run are read where they lie, in batches, and a gone one is named."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from signlang.data.boxes import Crop
from signlang.data.image_io import resize_image
from signlang.data.sources import read_thumbnails
from signlang.errors import DataError
from signlang.runs.trained_run import (
    BATCH,
    RunImages,
    evenly_spaced,
    find_images,
    label_array,
)


@pytest.fixture
def images(tmp_path: Path) -> RunImages:
    """More images than a batch holds, each of its own grey."""
    (tmp_path / "A").mkdir()
    for number in range(BATCH + 6):
        Image.new("RGB", (9, 5), (number, number, number)).save(tmp_path / "A" / f"{number}.png")
    (tmp_path / "A" / "text.png").write_text("no image")
    return RunImages(tmp_path, 4)


ROWS = [(f"A/{number}.png", number % 3) for number in range(BATCH + 6)]


def test_an_image_is_read_and_resized_as_for_training(images: RunImages) -> None:
    file = images.root / "A" / "7.png"
    assert images.read("A/7.png") == file.read_bytes()
    pixels = images.resized_image("A/7.png")
    assert pixels.shape == (4, 4, 3)
    assert np.array_equal(pixels, resize_image(Image.open(file), 4))


def test_an_image_that_is_gone_or_damaged_is_named(images: RunImages) -> None:
    for path, reason in (("A/gone.png", "no such file"), ("A/text.png", "not an image")):
        with pytest.raises(DataError) as caught:
            images.resized_image(path)
        text = str(caught.value)
        assert text.startswith(f"{images.root / path}: {reason}")
        assert text.endswith("with verify=generated.")
    with pytest.raises(DataError, match="no such file"):
        images.read("A/gone.png")


def test_an_image_with_a_crop_is_that_part_of_it(images: RunImages) -> None:
    scene = np.zeros((30, 40, 3), dtype=np.uint8)
    scene[10:20, 5:25] = 200
    Image.fromarray(scene).save(images.root / "A" / "scene.png")
    cut = RunImages(images.root, 4, {"A/scene.png": Crop(5, 10, 25, 20)})
    assert (cut.resized_image("A/scene.png") == 200).all()
    with Image.open(io.BytesIO(cut.read("A/scene.png"))) as image:  # what a bundle is compared on
        assert image.size == (20, 10)
        assert (np.asarray(image) == 200).all()
    assert cut.read("A/7.png") == images.read("A/7.png")
    thumbnails = read_thumbnails(images.root, ["A/scene.png", "A/gone.png"], cut.crops)
    assert thumbnails[1] is None
    assert thumbnails[0] is not None
    assert thumbnails[0].getpixel((2, 90)) == (200, 200, 200)
    beyond = RunImages(images.root, 4, {"A/7.png": Crop(0, 0, 90, 90)})
    with pytest.raises(DataError, match="9 x 5 pixels, so 0 0 90 90 is no part of it"):
        beyond.resized_image("A/7.png")


def test_batches_hold_all_images_in_order(images: RunImages) -> None:
    batches = list(images.batches(ROWS, "reading"))
    assert [batch.shape for batch in batches] == [(64, 4, 4, 3), (6, 4, 4, 3)]
    assert np.concatenate(batches)[:, 0, 0, 0].tolist() == list(range(70))


def test_each_network_sees_every_batch(images: RunImages) -> None:
    def network(factor: int) -> Any:
        return lambda batch: batch[:, 0, 0, :2].astype(np.float32) * factor

    one, other = images.probabilities([network(1), network(2)], ROWS, "comparing")
    assert one[:, 0].tolist() == list(range(70))
    assert other[:, 1].tolist() == [2 * number for number in range(70)]


def run_on(root: Path, path: Path) -> Any:
    """What `find_images` asks of a run."""
    source = {"_target_": "signlang.data.sources.folder", "_partial_": True}
    config = {"data": {"root": str(root), "source": source}, "cache_dir": "cache"}
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return SimpleNamespace(
        path=path, image_sizes=(40, 32), folder=SimpleNamespace(crops={}),
        hand_input=lambda cache_dir: None,
    )  # fmt: skip


def test_images_are_found_by_the_run_or_where_one_says(images: RunImages, tmp_path: Path) -> None:
    run = run_on(images.root / "A", tmp_path / "s")
    assert find_images(run, str(images.root)) == RunImages(images.root, 40)
    assert find_images(run, None) == RunImages(images.root / "A", 40)
    gone = run_on(tmp_path / "nowhere", tmp_path / "t")
    with pytest.raises(DataError) as caught:
        find_images(gone, None)
    text = str(caught.value)
    assert text.startswith(
        f"The images of {gone.path} are not found: data.root={tmp_path / 'nowhere'}: "
    )
    assert text.endswith("with verify=generated.")


def test_rows_are_spread_evenly_from_the_first_to_the_last() -> None:
    rows = [(str(number), number) for number in range(10)]
    assert evenly_spaced(rows, 10) == rows
    assert evenly_spaced(rows, 11) == rows
    assert [label for _, label in evenly_spaced(rows, 4)] == [0, 3, 6, 9]
    assert evenly_spaced(rows[:1], 3) == rows[:1]
    assert label_array(rows[3:6]).tolist() == [3, 4, 5]
    assert label_array(rows).dtype == np.int64
