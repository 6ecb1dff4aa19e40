"""Hooks of mkdocs: the generated pages, pages from outside of `docs/`, and a check of images.

A page links to a file of the repository as that file lies, `../experiments/digits/README.md`, so
that the link works where the sources are read too. Some of these files are pages of the site.
"""

import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import reference  # noqa: E402

# files outside of docs/ that are pages of the site
OUTSIDE: Final = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    **{
        file.relative_to(ROOT).as_posix(): f"experiments/{file.parent.name}.md"
        for file in sorted((ROOT / "experiments").glob("*/README.md"))
    },
}
LIST_BELOW_FENCE: Final = re.compile(r"(?<=```)\n(?=- )", re.MULTILINE)  # not a list without this
LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and those from outside of `docs/` with their images."""
    from mkdocs.structure.files import File

    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    for source, path in OUTSIDE.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, path, content=text))
        for image in (ROOT / source).parent.glob("*.png") if "experiments" in source else ():
            uri = f"{PurePosixPath(path).parent}/{image.name}"
            files.append(File.generated(config, uri, abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files of the repository lead to their pages, if these have one."""
    uri = page.file.src_uri
    source = next((key for key, value in OUTSIDE.items() if value == uri), f"docs/{uri}")
    markdown = LIST_BELOW_FENCE.sub("\n\n", markdown)
    return LINK.sub(lambda parts: resolved(parts, source, uri), markdown)


def resolved(parts: re.Match[str], source: str, uri: str) -> str:
    """A link as the site needs it: to a page, or a path of the repository as text.

    Args:
        parts: Of `LINK`.
        source: The file that holds the link, below the repository.
        uri: Its page, below `docs/`.
    """
    mark, text, target, anchor = parts[1], parts[2], parts[3], parts[4] or ""
    place = os.path.normpath(PurePosixPath(source).parent / target)
    if place in OUTSIDE:
        page = OUTSIDE[place]
    elif place.startswith("docs/"):
        page = place.removeprefix("docs/")
    elif mark:
        page = f"{PurePosixPath(uri).parent}/{PurePosixPath(target).name}"
    else:
        if not (ROOT / place).exists():
            raise FileNotFoundError(f"{source} links to {target}, which is not there.")
        return f"{text} (`{place}`)" if PurePosixPath(place).name not in text else f"`{place}`"
    there = os.path.relpath(page, PurePosixPath(uri).parent)
    return f"{mark}[{text}]({there}{anchor})"
