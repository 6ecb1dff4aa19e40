"""Frames a second of the page, with a small moving hand in a pretended webcam of 30 a second."""

import argparse
import base64
import csv
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import expect

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))
from pages import browser_page, encoded  # noqa: E402  # of the tests, as the next ones
from services import service  # noqa: E402
from webcams import room, with_hand, write_frames  # noqa: E402

RATE = 30
FRAMES = """async (png) => {
  const { Browser } = await import("/page/browser.js");
  const { networks } = await import("/page/service.js");
  const [browser, network] = [new Browser(), (await networks()).models[0]];
  const image = Object.assign(new Image(), { src: png });
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  let least = Infinity;
  for (let frame = 0; frame < 250; frame++) {
    const start = performance.now();
    pen.drawImage(image, 0, 0);
    await browser.recognise(network, canvas, true);
    least = Math.min(least, performance.now() - start);
  }
  return least;
}"""
WAYS = {"in the browser": "In this browser", "by the service": "By the service"}
FIELDS = ["where", "hand", "frames_a_second", "ms_a_frame", "processor_ms_a_frame", "load"]


def parse() -> argparse.Namespace:
    """What is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="of hands=landmarks")
    parser.add_argument("--image", type=Path, required=True, help="a hand on black cloth")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("page.csv"))
    return parser.parse_args()


def moving(hand: Image.Image) -> Iterator[tuple[Image.Image, int]]:
    """Frames of 640 x 480: a hand of a third of the height, off the middle, that moves a little."""
    place = room()
    for frame in range(3 * RATE):
        turn = 2 * np.pi * frame / (3 * RATE)
        x, y = 470 + 15 * np.sin(2 * turn), 180 + 10 * np.cos(3 * turn)
        yield with_hand(place, hand, 160, round(x), round(y)), 1


def processor_seconds() -> float:
    """Of all processes that this one started, those that run."""
    total, parents = 0, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(file.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    for process, (parent, ticks) in parents.items():
        while process != os.getpid() and parent in parents:
            process, parent = parent, parents[parent][0]
        total += ticks if process == os.getpid() else 0
    return total / os.sysconf("SC_CLK_TCK")


def measure(url: str, film: Path, way: str, seconds: float) -> dict[str, object]:
    """Let the page look at a film; medians of what it says about itself."""
    with browser_page(url, film) as page:
        page.get_by_label(WAYS[way]).check()
        ready = "read the hand" if "browser" in way else "sent"
        expect(page.locator("#where")).to_contain_text(ready, timeout=60_000)
        page.get_by_role("button", name="Start the camera").click()
        page.wait_for_timeout(3000)
        before, rates, times = processor_seconds(), [], []
        for _ in range(round(2 * seconds)):
            page.wait_for_timeout(500)
            rates.append(float(page.locator("#rate").inner_text()))
            times.append(float(page.locator("#latency").inner_text()))
        spent = (processor_seconds() - before) / seconds
        found = page.locator("#hand").is_visible()
    rate = statistics.median(rates)
    numbers = (way, found, round(rate, 1), statistics.median(times), round(1000 * spent / rate))
    return dict(zip(FIELDS, (*numbers, round(os.getloadavg()[0], 1)), strict=True))


def fastest(url: str, scene: Image.Image) -> float:
    """Milliseconds of the fastest of 250 frames in the browser, without a camera."""
    png = f"data:image/png;base64,{base64.b64encode(encoded(scene)).decode()}"
    with browser_page(url) as page:
        return float(page.evaluate(FRAMES, png))


def main() -> None:
    """Measure both ways, with a hand and without one, in turn."""
    args = parse()
    with tempfile.TemporaryDirectory() as place:
        hand = Image.open(args.image).convert("RGB")
        films = [
            write_frames(Path(place) / "hand.y4m", moving(hand), RATE),
            write_frames(Path(place) / "none.y4m", [(room(), RATE)], RATE),
        ]
        with (
            service(Path(place), f"bundle={args.bundle.resolve()}") as started,
            args.out.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
            writer.writeheader()
            scene, _ = next(moving(hand))
            print(f"fastest of 250 frames in the browser: {fastest(started.url, scene):.0f} ms")
            for _ in range(args.rounds):
                for film in films:
                    for way in WAYS:
                        row = measure(started.url, film, way, args.seconds)
                        print(row, flush=True)
                        writer.writerow(row)


if __name__ == "__main__":
    main()
