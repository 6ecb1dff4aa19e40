"""The documentation site: generated pages, files and errors as they are, links, the build."""

import csv
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hooks
import pytest
import reference
import yaml
from conftest import QUICK, ROOT, Result, run_command, write_tiny
from documents import PAGES, Page
from typist import Typist

import signlang
from signlang import hydra_app
from signlang.command_line import VERBS

MADE: Final = reference.pages()
FILES: Final = Page(ROOT / "docs" / "reference" / "files.md")
TROUBLE: Final = Page(ROOT / "docs" / "troubleshooting.md")
MOST_BYTES: Final = 1_500_000  # of all pictures
with_hydra: Final = sorted(set(VERBS) - {"predict"})


# --- generated pages ----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", with_hydra)
def test_every_key_of_a_verb_is_on_its_page(verb: str) -> None:
    page = MADE[f"reference/settings/{verb}.md"] + MADE["reference/settings/train.md"]
    shown = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    keys = [key for key in hydra_app._all_keys(verb) if not key.startswith("hydra")]
    inner = {key.rpartition(".")[0] for key in keys}  # nodes, which need no line of their own
    groups = {"model"}  # null by default where it is a group of evaluate
    assert len(keys) >= 5
    assert [key for key in keys if key not in shown | inner | groups] == []


@pytest.mark.parametrize("file", sorted(hydra_app.CONF.glob("*/**/*.yaml")), ids=lambda f: f.stem)
def test_every_comment_is_on_the_page(file: Path) -> None:
    if file.parent.name in {"local", "hydra"}:
        return
    page = MADE["reference/settings/train.md"]
    for comment in hydra_app._comments(file, "").values():
        assert reference.table(["a"], [[reference.plain(comment)]]).split("\n")[2][2:-2] in page


def test_what_help_says_is_on_the_page(tmp_path: Path) -> None:
    help_ = run_command(tmp_path, "--help", verb="train", COLUMNS="300").out
    page = MADE["reference/settings/train.md"].replace("&lt;", "<").replace("&gt;", ">")
    comments = re.findall(r"^[\w.]+:.*  # (.+)$", help_, re.MULTILINE)
    assert len(comments) > 10
    assert [comment for comment in comments if comment not in page] == []


def test_a_comment_of_two_lines_is_one(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        'one: "#1"   # first\n            # and more\n# above\ntwo: {a: 1, b: null}  # <n>\n'
    )
    keys = [(key.name, key.value, key.comment) for key in reference.read_keys(file, "g.")]
    assert keys == [
        ("g.one", "#1", "first and more"),
        ("g.two", "", "<n>"),
        ("g.two.a", "1", ""),
        ("g.two.b", "null", ""),
    ]


def test_every_route_of_the_service_is_on_the_page() -> None:
    page = MADE["reference/http.md"]
    for path, methods in reference._openapi()["paths"].items():
        for method in methods:
            assert f"## {method.upper()} {path}" in page
    assert "| 429 | Overloaded" in page


def test_every_column_of_a_leaderboard_is_on_the_page(compared: Path) -> None:
    with (compared / "leaderboard.csv").open(encoding="utf-8") as file:
        columns = next(csv.reader(file))
    of_study = {"augment", "accuracy_fold_0", "accuracy_fold_1", "augment.name"}
    page = MADE["reference/metrics.md"]
    assert len(columns) > 30
    assert [c for c in columns if f"| `{c}` |" not in page and c not in of_study] == []


# --- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command has written once."""
    return tmp_path_factory.mktemp("everything")


@pytest.fixture(scope="module")
def compared(place: Path, tiny: Path, typist: Typist) -> Path:
    """The folder of a study of two runs."""
    words = [f"data.root={tiny}", "study=all", "trainer.max_epochs=1", "folds=2", "fold=0,1"]
    result = typist.type(place, "train", "-m", *QUICK, *words)
    assert result.code == 0, result.err
    return place / "runs" / "all"


@pytest.fixture(scope="module")
def described(place: Path, tiny: Path, compared: Path, typist: Typist) -> Path:
    """Two data cards with all that there can be: suspicious labels, and images that are alike."""
    image = write_tiny(place / "copies") / "A" / "A0.png"
    shutil.copy(image, image.with_name("A1.png"))
    run = next(compared.glob("*/fold=0"))
    for words in ([str(tiny), "data.name=tiny", f"predictions={run}", "folds=2"], ["copies"]):
        result = typist.type(place, "describe", *words)
        assert result.code == 0, result.err
    return place / "cards"


@pytest.fixture(scope="module")
def evaluated(place: Path, tiny: Path, exported: tuple[Path, Result], typist: Typist) -> Path:
    """An evaluation."""
    words = [f"bundle={exported[0]}", f"data.root={tiny}", "out=evaluation"]
    result = typist.type(place, "evaluate", *words)
    assert result.code == 0, result.err
    return place / "evaluation"


def section(title: str) -> str:
    """A part of the page about files."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", FILES.text, re.MULTILINE | re.DOTALL)
    return str(text)


def undescribed(folder: Path, text: str, inner: bool = True) -> list[str]:
    """What lies in a folder and is not in a part of the page: files, columns and keys."""
    names = re.findall(r"`([^`\n]+)`", text)
    patterns = [re.escape(name).replace(r"\*", ".*").replace("<class>", ".*") for name in names]
    known = re.compile("|".join(patterns))
    missing = []
    for file in sorted(folder.rglob("*") if inner else folder.glob("*")):
        path = file.relative_to(folder).as_posix()
        folders = any(name.endswith("/") and path.startswith(name) for name in names)
        if file.is_dir() or folders:
            continue
        if not known.fullmatch(path):
            missing.append(path)
        words = keys(file) if file.suffix == ".json" else columns(file)
        missing += [f"{path}: {word}" for word in words if not known.fullmatch(word)]
    return missing


def columns(file: Path) -> list[str]:
    """Of a CSV file."""
    if file.suffix != ".csv":
        return []
    with file.open(encoding="utf-8") as stream:
        return next(csv.reader(stream))


def keys(file: Path) -> Iterator[str]:
    """Of a JSON object, those of inner objects in dotted form where the page has it so."""
    content = json.loads(file.read_text("utf-8"))
    for key, value in content.items() if isinstance(content, dict) else ():
        dotted = isinstance(value, dict) and any(f"`{key}.{n}`" in FILES.text for n in value)
        yield from [f"{key}.{name}" for name in value] if dotted else [key]


def test_files_of_a_run_are_described(trained: Path) -> None:
    assert undescribed(trained, section("A run")) == []


def test_files_of_a_study_are_described(compared: Path) -> None:
    text = section("A study") + MADE["reference/metrics.md"] + "`accuracy_fold_*`"
    text += "".join(f"`{folder.parent.name}/`" for folder in compared.glob("*/fold=0"))
    (compared / "calibration.json").unlink()  # its keys are the names of settings
    assert undescribed(compared, text) == []


def test_files_of_a_card_are_described(described: Path) -> None:
    assert (described / "tiny" / "suspicious.csv").is_file()
    assert (described / "copies" / "groups.csv").is_file()
    for card in described.iterdir():
        assert undescribed(card, section("A data card")) == []


def test_files_of_an_evaluation_are_described(evaluated: Path) -> None:
    text = section("An evaluation") + section("A run")
    assert undescribed(evaluated, text) == []


def test_files_of_a_bundle_are_described(exported: tuple[Path, Result]) -> None:
    text = section("A bundle") + section("A run")
    assert undescribed(exported[0], text) == []


# --- errors -------------------------------------------------------------------------------------

ERRORS: Final = re.findall(r"^```console\n\$ signlang (\w+) ([^\n]*)\n(.*?)^```$", TROUBLE.text,
                           re.MULTILINE | re.DOTALL)  # fmt: skip


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, exported: tuple[Path, Result]) -> Path:
    """A folder in which what the page types goes wrong."""
    folder = tmp_path_factory.mktemp("troubled")
    write_tiny(folder / "my_signs")
    write_tiny(folder / "broken")
    (folder / "broken" / "A" / "A0.png").write_bytes(b"\x89PNG")
    (folder / "broken" / "B" / "B1.png").write_bytes(b"")
    for name in ("user_1", "user_2"):
        write_tiny(folder / "people" / name)
    shutil.copytree(exported[0], folder / "changed")
    with (folder / "changed" / "model.onnx").open("ab") as file:
        file.write(b"x")
    return folder


@pytest.mark.parametrize(
    ("verb", "line", "message"), ERRORS, ids=[f"{verb} {line}" for verb, line, _ in ERRORS]
)
def test_an_error_is_as_the_page_has_it(
    verb: str, line: str, message: str, troubled: Path, typist: Typist
) -> None:
    result = typist.type(troubled, verb, *line.split())
    assert result.code in {1, 2}
    pattern = re.escape(message.strip()).replace(r"\.\.\.", ".*?")
    assert re.search(rf"^{pattern}\s*$", result.err, re.MULTILINE), result.err


def test_many_errors_are_shown() -> None:
    assert len(ERRORS) > 20


# --- links, pictures, the build -----------------------------------------------------------------

LINKS: Final = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for link in LINKS.findall(re.sub(r"```.*?```", "", file.read_text("utf-8"), flags=re.DOTALL)):
        path = link.partition("#")[0]
        if not path or link.startswith(("http:", "https:")):
            continue
        made = (file.parent / path).resolve()
        assert made.is_file() or made.relative_to(ROOT / "docs").as_posix() in MADE, link


def test_pages_show_pictures_that_are_small() -> None:
    pictures = [p for p in (ROOT / "docs" / "images").iterdir() if p.suffix in {".webp", ".png"}]
    text = "".join(file.read_text("utf-8") for file in PAGES)
    assert [p.name for p in pictures if f"images/{p.name}" not in text] == []
    assert sum(p.stat().st_size for p in pictures) < MOST_BYTES


def test_every_study_is_on_the_site() -> None:
    text = (ROOT / "docs" / "studies.md").read_text("utf-8")
    studies = [file.parent.name for file in (ROOT / "experiments").glob("*/README.md")]
    assert [name for name in studies if f"experiments/{name}/README.md" not in text] == []
    assert {f"experiments/{name}.md" for name in studies} <= set(hooks.OUTSIDE.values())


@pytest.mark.parametrize("page", MADE)
def test_a_generated_page_has_no_empty_table_or_open_fence(page: str) -> None:
    text = MADE[page]
    assert text.startswith("# ")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0
    assert not re.search(r"^\|(?:---\|)+\n(?!\|)", text, re.MULTILINE), "a table without rows"


MKDOCS: Final = importlib.util.find_spec("mkdocs") is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if not MKDOCS:
        pytest.skip("mkdocs is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_without_a_warning(site: Path) -> None:
    names = {page.relative_to(site).with_suffix("").as_posix() for page in site.rglob("*.html")}
    sources = {file.relative_to(ROOT / "docs").with_suffix("").as_posix() for file in PAGES}
    made = {Path(name).with_suffix("").as_posix() for name in [*MADE, *hooks.OUTSIDE.values()]}
    assert names == sources | made | {"404"}


def test_the_site_asks_no_other_address(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]* href=\"([^\"]+)\"[^>]*>", text)
        assert [one for one in loaded if re.match("[a-z]+:|//", one)] == [], page


def test_the_citation_is_that_of_this_version() -> None:
    text = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert set(text) >= {"cff-version", "message", "title", "authors", "version", "license"}
    assert (text["title"], text["version"]) == ("signlang", signlang.__version__)
    assert all("name" in author for author in text["authors"])
