"""The page in a real browser: opened, given images, and checked for accessibility."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from signlang.server import app

CHROMIUM = Path("/usr/bin/chromium")
PAGE = app.FOLDER
AXE = PAGE / "node_modules" / "axe-core" / "axe.min.js"
RUNTIME = PAGE / "vendor" / "ort.wasm.min.mjs"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
needs_browser = pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"no browser at {CHROMIUM}")
needs_npm = pytest.mark.skipif(not RUNTIME.is_file(), reason="npm brought nothing: make page")
WAYS = ["By the service", pytest.param("In this browser", marks=needs_npm)]


@contextmanager
def browser_page(
    url: str, film: Path | None = None, is_allowed: bool = True, **context: Any
) -> Iterator[Page]:
    """Open the page; fail if it asks any other address, or writes an error to the console."""
    flags = [*FLAGS]
    if film:
        flags += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}"]
    if is_allowed:
        flags += ["--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        page = browser.new_context(**context).new_page()
        problems: list[str] = []
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console", lambda said: problems.append(said.text) if said.type == "error" else None
        )
        page.goto(url)
        yield page
        browser.close()
    outside = [one for one in asked if not one.startswith((url, "blob:", "data:"))]
    assert outside == []
    tolerated = ("Failed to load resource",)  # refusals, which the page tells in words
    assert [one for one in problems if not one.startswith(tolerated)] == []


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def drop(page: Page, *images: tuple[str, bytes]) -> None:
    """Drag files over the page and let them go."""
    files = [(name, base64.b64encode(data).decode()) for name, data in images]
    page.evaluate(
        """files => {
          const carried = new DataTransfer();
          for (const [name, data] of files) {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            carried.items.add(new File([bytes], name, { type: "image/png" }));
          }
          for (const kind of ["dragenter", "dragover", "drop"])
            document.body.dispatchEvent(
              new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
        }""",
        files,
    )


def violations(page: Page) -> list[str]:
    """What axe-core finds, with the places."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]
