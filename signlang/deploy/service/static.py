"""The folder of the page comes in; its files go out of memory, by names fixed at the start.

What a request asks for is looked up in a table, never on the disk.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import Request, Response

FOLDER: Final = Path(__file__).parent.parent / "page"
RUNTIME: Final = "vendor/ort.wasm.min.mjs"  # comes by `make page`
KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}


@dataclass(frozen=True, eq=False)
class File:
    """What is served under a name."""

    data: bytes
    kind: str
    tag: str

    def answer(self, request: Request) -> Response:
        """The file, or that the browser has it already."""
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.data, media_type=self.kind, headers=headers)


def file(data: bytes, kind: str) -> File:
    """Make a file of its content."""
    return File(data, kind, f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"')


def files(folder: Path = FOLDER) -> dict[str, File]:
    """Read the page: its own files, and what npm brought, if it did."""
    own = [path for path in folder.iterdir() if path.suffix in KINDS]
    brought = [path for path in (folder / "vendor").glob("*") if path.suffix in KINDS]
    return {
        path.relative_to(folder).as_posix(): file(path.read_bytes(), KINDS[path.suffix])
        for path in sorted(own + brought)
    }
