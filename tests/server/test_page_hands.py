"""Hands in the page: found and read in the browser as Python does, drawn, and spelled."""

import base64
import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
from conftest import run_command
from pages import (
    AXE,
    WAYS,
    browser_page,
    drop,
    encoded,
    needs_browser,
    needs_npm,
    violations,
)
from PIL import Image, ImageOps
from playwright.sync_api import Page, expect
from services import Service, service
from webcams import room, with_hand, write_frames

from signlang.hands import finder, hand_input
from signlang.hands.finder import Hand
from signlang.hands.hand_input import HandBoth, HandCrop, HandInput, HandPoints
from signlang.hands.hand_networks import (
    LANDMARKS,
    LICENSE,
    PALM,
    HandNetworks,
    network_folder,
)
from signlang.inference.predictor import Predictor

pytestmark = [needs_browser, needs_npm]

# Both add numbers of 32 bits in another order; where that moves the cut by next to nothing, some of
# its bytes differ by 1. Measured on these scenes: 0.04 pixels, 0.0006 of handedness and 0.0001 of
# another probability.
PIXELS = 0.1  # of a point
SHARE = 2e-3  # of a probability
DRAWN = [[0.1 * place, -0.1 * place] for place in range(21)]
ASK = """async ([name, png, isFilm]) => {
  const { Browser } = await import("/page/browser.js");
  const { networks } = await import("/page/service.js");
  window.asked ??= new Browser();
  const network = (await networks()).models.find((one) => one.name === name);
  const image = Object.assign(new Image(), { src: png });
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return window.asked.recognise(network, canvas, isFilm);
}"""


def in_browser(page: Page, name: str, image: Image.Image, is_film: bool = False) -> dict[str, Any]:
    """What the browser itself makes of an image, or of the next one of a film: pairs and hand."""
    png = f"data:image/png;base64,{base64.b64encode(encoded(image)).decode()}"
    answer: dict[str, Any] = page.evaluate(ASK, [name, png, is_film])
    return answer


def write_bundles(place: Path, real: HandNetworks, made: HandNetworks) -> list[Path]:
    """One bundle for each thing that a network may see of a hand."""
    # half of the image, so that it matters where it is cut and whether it is mirrored
    half = bundles.resizing(bundles.network(sharpness=8, columns=16))
    kinds: dict[str, tuple[HandInput, bytes]] = {
        "points": (HandPoints(real), bundles.points_network()),
        "crop": (HandCrop(real, margin=0.6, mirror=True, not_found="blank"), half),
        "whole": (HandCrop(made), half),
        "both": (
            HandBoth(real, image_size=64),
            bundles.resizing(bundles.points_network(in_row=True), 64),
        ),
        "both-crop": (HandBoth(real, margin=0.6, image_size=64), half),
    }
    signs = {"points": {"A": DRAWN, "space": DRAWN}}
    return [
        bundles.write(place / name, name, model=model, hands=hands, signs=signs.get(name))
        for name, (hands, model) in kinds.items()
    ]


@pytest.fixture(scope="module")
def scenes(shared: Path) -> dict[str, Image.Image]:
    """Frames with a hand, small and off the middle or at the edge, and one without."""
    folder = shared / "data" / "hand_reader" / "images"
    hand = Image.open(sorted((folder / "L").glob("*.jpg"))[1]).convert("RGB")
    other = Image.open(sorted((folder / "Y").glob("*.jpg"))[1]).convert("RGB")
    small = with_hand(room(), hand, 160, 470, 180)
    return {
        "small": small,
        "left": ImageOps.mirror(small),
        "tall": with_hand(room(300, 500), other, 170, 120, 330),
        "edge": with_hand(room(), other, 300, 600, 240),
        "large": hand.resize((640, 480)),
        "none": room(),
        "dark": room().point(lambda value: value // 16),
    }


@pytest.fixture(scope="module")
def running(
    real_networks: HandNetworks, made_networks: HandNetworks,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:  # fmt: skip
    place = tmp_path_factory.mktemp("hands")
    words = [f"bundle={path}" for path in write_bundles(place, real_networks, made_networks)]
    with service(place, *words) as started:
        yield started


def test_the_constants_are_those_of_python(running: Service) -> None:
    with browser_page(running.url) as page:
        numbers = page.evaluate(
            """async () => Object.fromEntries(Object.entries(await import("/page/hands.js"))
              .filter(([name]) => name === name.toUpperCase()))"""
        )
    assert numbers.pop("VIEWS") == [view.border for view in finder.VIEWS]
    assert all(view.quarters == 0 for view in finder.VIEWS)
    assert (numbers.pop("GREY"),) * 3 == hand_input.GREY
    assert len(numbers) > 10
    for name, number in numbers.items():
        home = finder if hasattr(finder, name) else hand_input
        wanted = getattr(home, name)
        assert number == (list(wanted) if isinstance(wanted, tuple) else wanted), name


def check_agreement(page: Page, predictor: Predictor, image: Image.Image) -> Hand | None:
    """Browser and Python see the same hand in an image, and take it for the same sign."""
    assert predictor.hands
    hand = predictor.hands(image)[1]
    answer = in_browser(page, predictor.bundle.name, image)
    if hand is None:
        assert answer["hand"] is None
    else:
        points = np.array(answer["hand"]["points"])
        assert points == pytest.approx(hand.points, abs=PIXELS)
        assert answer["hand"]["box"] == pytest.approx(hand.box, abs=PIXELS)
        assert answer["hand"]["right"] == pytest.approx(hand.right, abs=SHARE)
    (wanted,) = predictor.predict(image)
    assert dict(answer["pairs"]) == pytest.approx(dict(wanted.top_k), abs=SHARE)
    return hand


# scenes that are looked at through each bundle
SEEN = {
    "whole": ["tall", "dark"],
    "crop": ["small", "left", "edge", "none"],
    "both": ["left", "none"],
    "both-crop": ["left", "edge", "none"],
    "points": ["small", "left", "tall", "edge", "large", "none"],
}


def test_browser_and_python_agree(running: Service, scenes: dict[str, Image.Image]) -> None:
    with browser_page(running.url) as page:
        for name, chosen in SEEN.items():
            predictor = Predictor.from_bundle(running.log.parent / name, top=len(bundles.COLOURS))
            hands = {scene: check_agreement(page, predictor, scenes[scene]) for scene in chosen}
            assert [scene for scene, hand in hands.items() if hand is None] == chosen[-1:]
            if {"small", "left"} <= hands.keys():
                right, left = hands["small"], hands["left"]
                assert right
                assert left
                assert left.right < 0.5 < right.right  # so that both ways of mirroring are compared
        check_film(page, predictor, scenes)


def check_film(page: Page, predictor: Predictor, scenes: dict[str, Image.Image]) -> None:
    """A hand is followed when it moves, missed when it is gone, and found again elsewhere."""
    moved = Image.new("RGB", (640, 480))
    moved.paste(scenes["small"], (-20, 10))
    drift = []
    for scene, times in {"none": 1, "small": 3, "moved": 2, "dark": 1, "left": 3}.items():
        image = {**scenes, "moved": moved}[scene]
        for _ in range(times):
            answer = in_browser(page, predictor.bundle.name, image, is_film=True)
        assert predictor.hands
        hand = predictor.hands(image)[1]
        assert (answer["hand"] is None) is (hand is None)
        if hand is not None:
            apart = np.array(answer["hand"]["points"]) - hand.points
            drift.append(np.abs(apart[:, :2]).mean() / hand.size)
    # what is cut out by the points before is not what is cut out by the palm
    assert [share < 0.03 for share in drift] == [True] * 3, drift
    assert drift[1] > 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_a_small_hand_off_the_middle_is_drawn(
    running: Service,
    real_networks: HandNetworks,
    scenes: dict[str, Image.Image],
    tmp_path: Path,
    way: str,
) -> None:
    film = write_frames(tmp_path / "hand.y4m", [(scenes["small"], 20), (scenes["none"], 15)], 10)
    hand = real_networks.finder()(np.asarray(scenes["small"]))
    assert hand
    left, top, right, bottom = hand.box
    assert hand.size < 480 / 3
    with browser_page(running.url, film) as page:
        page.get_by_label(way).check()
        ready = "read the hand" if "browser" in way else "sent"
        expect(page.locator("#where")).to_contain_text(ready, timeout=30_000)
        expect(page.get_by_label("Left hand")).to_be_hidden()  # which are mirrored by themselves
        expect(page.locator("#hint")).to_contain_text("anywhere")
        page.get_by_role("button", name="Start the camera").click()
        drawing, letter = page.locator("#hand"), page.locator("#letter")
        expect(drawing).to_be_visible(timeout=15_000)
        expect(page.locator("#guide")).to_be_hidden()
        x, y, width, height = corners(page, "#hand rect")
        start, above, wide, _ = corners(page, "#video")
        scale = wide / 640
        # films have coarser colours, and what follows the first frame is cut otherwise
        near = partial(pytest.approx, abs=0.1 * hand.size * scale)
        assert x - start == near((640 - right) * scale)  # the page shows a mirror
        assert y - above == near(top * scale)
        assert (width, height) == near(((right - left) * scale, (bottom - top) * scale))
        joints = page.locator("#hand .joints").get_attribute("d") or ""
        assert joints.count("M") == finder.POINTS
        expect(letter).to_have_text("no hand")
        expect(drawing).to_be_hidden()
        expect(page.locator("#verdict")).to_have_text("No hand is found")
        expect(page.locator("#guesses li")).to_have_count(0)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_signs_to_copy_are_drawn(running: Service, scheme: Any, width: int) -> None:
    look: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with browser_page(running.url, **look) as page:
        signs = page.get_by_role("region", name="Signs to copy")
        expect(signs.get_by_role("listitem")).to_have_text(["A", "space"])
        bones = signs.locator(".bones").first.get_attribute("d") or ""
        assert bones.startswith("M0,0L-0.1,-0.1")  # as in a mirror
        x, _, wide, _ = corners(page, "#drawings .joints >> nth=0")
        left, _, room_for_it, _ = corners(page, "#drawings svg >> nth=0")
        assert left <= x < x + wide <= left + room_for_it
        drop(page, ("hand.png", encoded(room(32, 24))))
        expect(page.locator("#results li")).to_have_text("no hand")
        if AXE.is_file():
            assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_label("Network").select_option("crop")
        expect(signs).to_be_hidden()


def corners(page: Page, place: str) -> tuple[float, float, float, float]:
    """x, y, width and height of an element, in pixels of the page."""
    box = page.locator(place).bounding_box()
    assert box
    return box["x"], box["y"], box["width"], box["height"]


WORD = "HIGVLAD"
LEFT_HANDED = "IVD"  # letters of it that the other hand shows


@pytest.fixture(scope="module")
def letters(
    shared: Path, real_networks: HandNetworks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Image.Image]]:
    """A bundle that reads points of real hands, and one image of each letter that it never saw."""
    place = tmp_path_factory.mktemp("letters")
    cache = str(place / "cache")  # not the session's, in which made networks may lie
    folder = network_folder(cache, real_networks.key)
    folder.mkdir(parents=True)
    (folder / PALM).write_bytes(real_networks.palm)
    (folder / LANDMARKS).write_bytes(real_networks.landmarks)
    (folder / LICENSE).write_text(real_networks.license, "utf-8")
    images = shared / "data" / "hand_reader" / "images"
    words = ("data=folder", f"data.root={images}", "model=landmarks", "hands=landmarks")
    trained = run_command(
        place, *words, "trainer.max_epochs=25", "study=s", "trainer.accelerator=cpu",
        SIGNLANG_CACHE=cache,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    (run,) = place.glob("runs/s/*/fold=0")
    exported = run_command(place, f"run={run}", "out=bundle", verb="export", SIGNLANG_CACHE=cache)
    assert exported.code == 0, exported.err
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        tested = {row["label"]: images / row["path"] for row in csv.DictReader(stream)}
    return place / "bundle", {
        letter: Image.open(file).convert("RGB") for letter, file in tested.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_small_hands_off_the_middle_spell(
    letters: tuple[Path, dict[str, Image.Image]], tmp_path: Path, way: str
) -> None:
    """Real hands of 20 pixels of palm or so, here and there in a room, of both sides."""
    bundle, images = letters
    frames = [(room(), 10)]
    for place, letter in enumerate(WORD):
        scene = with_hand(
            room(), images[letter], 150, 150 + 60 * (place % 6), 170 + 20 * (place % 4)
        )
        frames.append((ImageOps.mirror(scene) if letter in LEFT_HANDED else scene, 20))
    film = write_frames(tmp_path / "word.y4m", [*frames, (room(), 300)], 10)
    with service(tmp_path, f"bundle={bundle}") as started, browser_page(started.url, film) as page:
        page.get_by_label(way).check()
        ready = "read the hand" if "browser" in way else "sent"
        expect(page.locator("#where")).to_contain_text(ready, timeout=30_000)
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#line")).to_have_value(WORD, timeout=60_000)
        expect(page.locator("#letter")).to_have_text("no hand", timeout=15_000)
        page.wait_for_timeout(1000)
        expect(page.locator("#line")).to_have_value(WORD)  # an empty room writes nothing
