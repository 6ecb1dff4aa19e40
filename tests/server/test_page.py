"""The page in a real browser, with a pretended webcam that plays signs."""

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bundles
import pytest
from conftest import ROOT, run_command
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
from PIL import Image
from playwright.sync_api import Page, expect
from services import Service, service
from webcams import write_film

SIGNS = ["nothing", "A", "B", "L", "nothing", "L", "space", "C", "del", "C", "A", "nothing"]
SPELLED = "ABLL CA"
NONE = "\N{EN DASH}"
pytestmark = needs_browser


def spelling(signs: Sequence[str], seconds: float = 0.8) -> list[tuple[Any, float]]:
    scenes = [(bundles.image(sign), seconds) for sign in signs]
    return [*scenes, (bundles.image("nothing"), 30)]  # films begin again at their end


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "word.y4m", spelling(SIGNS))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    place = tmp_path_factory.mktemp("bundles")
    few = {name: bundles.COLOURS[name] for name in ("A", "B")}
    words = [
        f"bundle={bundles.write(place / 'all')}",
        f"bundle={bundles.write(place / 'few', 'few', few, card=b'')}",
    ]
    with service(tmp_path_factory.mktemp("service"), *words) as started:
        yield started


def hold(page: Page, seconds: float) -> None:
    page.locator("#hold").fill(str(seconds))


def predictions(running: Service) -> int:
    return sum(line["route"] == "/v1/predict" for line in running.events("request"))


def test_a_held_sign_is_written_through_the_service(running: Service, film: Path) -> None:
    with browser_page(running.url, film) as page:
        expect(page.locator("#where")).to_contain_text("sent to the service")
        hold(page, 0.4)
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#line")).to_have_value(SPELLED, timeout=30_000)
        expect(page.locator("#rate")).not_to_have_text(NONE)
        expect(page.locator("#latency")).not_to_have_text(NONE)
        expect(page.locator("#guesses li")).to_have_count(4)
        page.get_by_role("button", name="Stop the camera").click()
        expect(page.locator("#letter")).to_have_text(NONE)
    assert predictions(running) > 20


@needs_npm
def test_a_held_sign_is_written_inside_the_browser(running: Service, film: Path) -> None:
    with browser_page(running.url, film) as page:
        page.get_by_label("In this browser").check()
        expect(page.locator("#where")).to_contain_text(
            "Nothing leaves this computer", timeout=30_000
        )
        before = predictions(running)
        hold(page, 0.4)
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#line")).to_have_value(SPELLED, timeout=30_000)
    assert predictions(running) == before


UNSURE = Image.new("RGB", (40, 30), (170, 80, 80))  # between A and nothing


@pytest.mark.parametrize("way", WAYS)
def test_dropped_images_are_read(running: Service, way: str) -> None:
    with browser_page(running.url) as page:
        page.get_by_label(way).check()
        drop(
            page, ("a.png", encoded(bundles.image("A"))), ("unsure.png", encoded(UNSURE)),
            ("bad.png", b"no image"),
        )  # fmt: skip
        results = page.locator("#results li")
        expect(results).to_have_count(3, timeout=30_000)  # the last one is the first
        expect(results.nth(2)).to_contain_text("A 9")
        expect(results.nth(1)).to_contain_text("not sure")
        expect(results.nth(0)).to_contain_text("bad.png: ")
        page.locator("#files").set_input_files(
            {"name": "b.png", "mimeType": "image/png", "buffer": encoded(bundles.image("B"))}
        )
        expect(results).to_have_count(4)
        expect(results.first).to_contain_text("B")


def test_below_the_threshold_nothing_is_written(running: Service, tmp_path: Path) -> None:
    film = write_film(tmp_path / "unsure.y4m", [(UNSURE, 5)])
    with browser_page(running.url, film) as page:
        hold(page, 0.3)
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#letter")).to_have_text("not sure")
        page.wait_for_timeout(1500)
        expect(page.locator("#line")).to_have_value("")
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="What this network was made of").click()
        expect(opened.value.locator("p")).to_have_text("A card")
        page.get_by_label("Network").select_option("few")
        expect(page.locator("#no-card")).to_be_visible()


def test_the_last_third_of_a_second_is_averaged(running: Service) -> None:
    with browser_page(running.url) as page:
        means = page.evaluate(
            """async () => {
              const { Average } = await import("/page/speller.js");
              const average = new Average();
              const frames = [[0.9, 0.1, 7.0], [0.3, 0.7, 7.1], [0.6, 0.4, 7.35]];
              const means = frames.map(([a, b, time]) => average.of([["A", a], ["B", b]], time));
              average.forget();
              return [...means, average.of([["B", 0.8], ["A", 0.2]], 7.4)];
            }"""
        )
    assert [dict(pairs)["A"] for pairs in means] == pytest.approx([0.9, 0.6, 0.45, 0.2])


def test_threshold_and_hold_are_kept(running: Service) -> None:
    with browser_page(running.url) as page:
        least, own = page.get_by_label("Sure of a sign"), page.get_by_role("button", name="own")
        expect(least).to_have_value("0.6")
        expect(own).to_be_hidden()
        least.fill("0.3")
        page.get_by_label("Hold a sign").fill("1.5")
        drop(page, ("unsure.png", encoded(UNSURE)))
        expect(page.locator("#results li")).not_to_contain_text("not sure")
        page.get_by_label("Network").select_option("few")
        expect(least).to_have_value("0.6")  # each network has its own
        page.reload()
        expect(page.locator("#least-shown")).to_have_text("30 %")
        expect(page.locator("#hold-shown")).to_have_text("1.5 s")
        own.click()
        expect(least).to_have_value("0.6")
        expect(least).to_be_focused()
        page.reload()
        expect(page.locator("#least-shown")).to_have_text("60 %")


def test_the_text_can_be_changed_copied_and_spoken(running: Service) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    with browser_page(running.url, permissions=allowed) as page:
        line, said = page.get_by_role("textbox", name="Text"), page.locator("#said")
        for button in ("Undo", "Copy", "Speak", "Clear"):
            expect(page.get_by_role("button", name=button)).to_be_disabled()
        line.press_sequentially("HI")
        page.get_by_role("button", name="Copy").click()
        expect(said).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == "HI"
        page.get_by_role("button", name="Clear").click()
        expect(line).to_have_value("")
        page.get_by_role("button", name="Undo").click()
        expect(line).to_have_value("HI")
        page.get_by_role("button", name="Undo").click()
        expect(line).to_have_value("H")
        page.get_by_role("button", name="Speak").click()
        expect(said).to_contain_text("Sp") if page.evaluate(
            "speechSynthesis.getVoices().length"
        ) else expect(said).to_contain_text("no voice")


def test_the_mirror_turns_the_image(tmp_path: Path) -> None:
    halves = Image.new("RGB", (40, 40), bundles.COLOURS["A"])
    halves.paste(bundles.COLOURS["C"], (20, 0, 40, 40))
    film = write_film(tmp_path / "halves.y4m", [(halves, 5)])
    left = bundles.write(tmp_path / "b", model=bundles.network(columns=16))  # of 32
    with service(tmp_path, f"bundle={left}") as started, browser_page(started.url, film) as page:
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#letter")).to_have_text("A")
        page.get_by_label("Left hand").check()
        expect(page.locator("#letter")).to_have_text("C")


@pytest.mark.parametrize("height", [667])
def test_what_is_written_is_in_sight_on_a_telephone(
    running: Service, film: Path, height: int
) -> None:
    with browser_page(running.url, film, viewport={"width": 375, "height": height}) as page:
        hold(page, 0.4)
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#line")).to_have_value(SPELLED, timeout=30_000)
        page.evaluate("scrollTo(0, 0)")
        for part in ("#line", "#letter", "#video"):
            expect(page.locator(part)).to_be_in_viewport(ratio=1 if part == "#line" else 0.3)
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        letter, text = (page.locator(part).bounding_box() for part in ("#letter", ".text"))
        assert letter
        assert text
        assert letter["y"] + letter["height"] <= text["y"]  # which does not cover it


def test_a_refused_camera_is_explained(running: Service, film: Path) -> None:
    with browser_page(running.url, film, is_allowed=False) as page:
        page.get_by_role("button", name="Start the camera").click()
        expect(page.get_by_role("alert")).to_contain_text("The camera was refused.")
        expect(page.get_by_role("button", name="Start the camera")).to_be_enabled()
        if AXE.is_file():
            assert violations(page) == []


def test_a_missing_camera_is_explained(running: Service) -> None:
    with browser_page(running.url) as page:
        page.get_by_role("button", name="Start the camera").click()
        expect(page.get_by_role("alert")).to_contain_text("There is no camera.")


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_service_is_told_and_found_again(film: Path, tmp_path: Path, way: str) -> None:
    bundle = bundles.write(tmp_path / "bundle")
    with service(tmp_path, f"bundle={bundle}") as first, browser_page(first.url, film) as page:
        page.get_by_label(way).check()
        expect(page.locator("#where")).to_contain_text("puter" if "browser" in way else "sent")
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#guesses li")).to_have_count(4)
        first.process.send_signal(signal.SIGTERM)
        first.process.wait(30)
        if "browser" in way:
            page.wait_for_timeout(1500)
            expect(page.get_by_role("alert")).to_be_hidden()  # it needs no service any more
            return
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        expect(page.locator("#letter")).to_have_text(NONE)  # what was seen last is seen no more
        port = first.url.rpartition(":")[2]
        (tmp_path / "again").mkdir()
        with service(tmp_path / "again", f"bundle={bundle}", f"port={port}"):
            expect(page.get_by_role("alert")).to_be_hidden(timeout=15_000)


def test_the_key_is_asked_for_once(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "bundle")
    key = "a key of the service"
    with (
        service(tmp_path, f"bundle={bundle}", SIGNLANG_API_KEY=key) as locked,
        browser_page(locked.url) as page,
    ):
        dialog = page.get_by_role("dialog")
        page.get_by_role("textbox", name="Key").fill("not this one")
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        page.get_by_role("textbox", name="Key").fill(key)
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        expect(page.get_by_label("Network")).to_be_enabled()
        drop(page, ("a.png", encoded(bundles.image("A"))))
        expect(page.locator("#results li")).to_contain_text("A")
        page.reload()
        expect(page.get_by_label("Network")).to_be_enabled()


def test_without_npm_the_page_works_through_the_service(tmp_path: Path) -> None:
    copy = shutil.ignore_patterns("vendor", "node_modules", "__pycache__")
    shutil.copytree(ROOT / "signlang", tmp_path / "signlang", ignore=copy)
    shutil.copytree(ROOT / "conf", tmp_path / "signlang" / "conf")
    bundle = bundles.write(tmp_path / "bundle")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with (
        service(tmp_path, f"bundle={bundle}", PYTHONPATH=path) as bare,
        browser_page(bare.url) as page,
    ):
        expect(page.locator("#where")).to_contain_text("make page")
        expect(page.get_by_label("In this browser")).to_be_disabled()
        drop(page, ("a.png", encoded(bundles.image("A"))))
        expect(page.locator("#results li")).to_contain_text("A")


def test_everything_is_reached_by_keyboard(running: Service) -> None:
    with browser_page(running.url) as page:
        expect(page.get_by_label("Network")).to_be_enabled()
        page.get_by_role("textbox", name="Text").fill("X")
        page.locator(".skip").focus()
        reached = []
        for _ in range(24):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.id || document.activeElement.name")
            )
        wanted = ["model", "start", "mirror", "card", "line", "undo", "copy", "speak", "clear",
                  "where", "hold", "least", "files"]  # fmt: skip
        assert [one for one in reached if one in wanted][: len(wanted)] == wanted


@pytest.mark.skipif(not AXE.is_file(), reason="npm brought no axe-core: make page")
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_axe_finds_nothing_in_any_state(
    running: Service, film: Path, scheme: str, width: int
) -> None:
    look: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with browser_page(running.url, film, **look) as page:

        def check(state: str) -> None:
            assert violations(page) == [], state
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{state}: scrolls sideways"

        expect(page.get_by_label("Network")).to_be_enabled()
        check("begin")
        hold(page, 0.3)
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#line")).not_to_have_value("", timeout=15_000)
        page.locator("summary").click()
        drop(page, ("a.png", encoded(bundles.image("A"))), ("u.png", encoded(UNSURE)), ("b", b""))
        expect(page.locator("#results li")).to_have_count(3)
        check("spelling")
        page.evaluate("document.querySelector('#key-dialog').showModal()")
        check("key")
        page.goto(running.url + "/docs")
        expect(page.get_by_role("heading", name="POST /v1/predict")).to_be_visible()
        check("docs")


LETTERS = ["E", "H", "L", "O", "del", "nothing", "space"]
HELLO = ["nothing", "H", "E", "O", "del", "L", "nothing", "L", "O", "space", "H", "E", "nothing"]


@pytest.fixture(scope="module")
def letters(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images of a few signs, without the middle frame of each."""
    alphabet = shared / "data" / "asl_alphabet" / "asl_alphabet_train" / "asl_alphabet_train"
    folder = tmp_path_factory.mktemp("letters")
    for sign in LETTERS:
        (folder / sign).mkdir()
        for frame in set(filmed(alphabet / sign)) - {middle(alphabet / sign)}:
            (folder / sign / frame.name).symlink_to(frame)
    return folder


def filmed(folder: Path) -> list[Path]:
    """The frames of a sign in the order in which they were filmed."""
    return sorted(folder.glob("*.jpg"), key=lambda file: (len(file.name), file.name))


def middle(folder: Path) -> Path:
    frames = filmed(folder)
    return frames[len(frames) // 2]


def official(shared: Path, sign: str) -> Image.Image:
    """An image that no training has seen: the official one; of `del`, which has none, a frame."""
    alphabet = shared / "data" / "asl_alphabet"
    file = alphabet / "asl_alphabet_test" / "asl_alphabet_test" / f"{sign}_test.jpg"
    if not file.is_file():
        file = middle(alphabet / "asl_alphabet_train" / "asl_alphabet_train" / sign)
    return Image.open(file).convert("RGB")


@pytest.fixture(scope="module")
def real(letters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a network that was trained on real letters."""
    place = tmp_path_factory.mktemp("real")
    trained = run_command(
        place, "data=folder", f"data.root={letters}", "model=simple_cnn", "image_size=64",
        "data.stored_size=64", "batch_size=32", "trainer.max_epochs=10", "augment=none",
        "optimizer=adamw", "optimizer.lr=2e-3", "study=s", "trainer.accelerator=cpu",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    (run,) = place.glob("runs/s/*/fold=0")
    words = (f"run={run}", "quantize=true", "int8_loss=0.05", "name=letters", "out=bundle")
    exported = run_command(place, *words, verb="export")
    assert exported.code == 0, exported.err
    return place / "bundle"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_real_letters_are_spelled(shared: Path, real: Path, tmp_path: Path, way: str) -> None:
    scenes = [(official(shared, sign), 1.2) for sign in HELLO]
    film = write_film(tmp_path / "hello.y4m", [*scenes, (official(shared, "nothing"), 30)])
    with service(tmp_path, f"bundle={real}") as started, browser_page(started.url, film) as page:
        page.get_by_label(way).check()
        expect(page.locator("#where")).to_contain_text("puter" if "browser" in way else "sent")
        hold(page, 0.6)
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#line")).to_have_value("HELLO HE", timeout=40_000)
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="What this network was made of").click()
        expect(opened.value.get_by_role("heading").first).to_be_visible()
