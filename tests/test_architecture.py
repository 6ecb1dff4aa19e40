"""The plan of the house: rooms, layers, names and what may be imported where."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from conftest import ROOT

PACKAGE: Final = ROOT / "signlang"
VERBS: Final = (
    "train", "compare", "list", "describe", "evaluate", "export", "predict", "serve",
)  # fmt: skip
# imports run downwards: a room imports only rooms to its right, and the modules below them all
ROOMS: Final = (
    "sweeps", "evaluation", "deploy", "studies", "datacard", "runs", "server", "callbacks",
    "inference", "models", "reporting", "hands", "metrics", "data",
)  # fmt: skip
ABOVE: Final = ("__main__", "api")  # they import verbs
MOST_MODULES: Final = 121
# the same kind of thing in two rooms
SHARED_NAMES: Final = {
    "__main__": "commands of a package, python -m signlang and python -m signlang.hands",
    "plots": "charts of a study, and those that any report has",
    "results": "of a finished run, read back, and of an evaluation",
}
HEAVY: Final = {"torch", "torchvision", "timm", "pytorch_lightning", "matplotlib", "scipy"}


@cache
def modules() -> Mapping[str, Path]:
    """Every module, by its dotted name; a package is the module of its `__init__`."""
    names = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = file
    return names


@cache
def imports(name: str) -> frozenset[str]:
    """Modules of signlang that a module imports, inside functions too, but not for types only."""
    found = set()
    for node in _running(ast.parse(modules()[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports by dots: name the module in full"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in modules() else str(node.module) for full in inner}
    return frozenset(found & modules().keys())


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _running(node)


def room(name: str) -> str:
    """The folder in which a module lies, or the module itself if it lies in none."""
    return name.split(".")[1] if "." in name else name


def level(name: str) -> int:
    """Height: verbs above rooms, rooms in order, and the modules that serve them all."""
    place = room(name)
    if place in ROOMS:
        return ROOMS.index(place)
    if place in ABOVE:
        return ABOVE.index(place) - len(ABOVE) - 1
    return -1 if place in VERBS else len(ROOMS)


def test_every_folder_is_a_room_of_the_plan() -> None:
    folders = {file.parent.name for file in PACKAGE.rglob("__init__.py")}
    assert folders - {"signlang", "synthetic"} <= set(ROOMS)


@pytest.mark.parametrize("name", modules())
def test_imports_run_downwards(name: str) -> None:
    for other in imports(name) - {"signlang"}:
        if room(other) != room(name):
            down = level(other) > level(name) or level(other) == level(name) == len(ROOMS)
            assert down, f"{name} imports {other}, which stands above it or beside it"


def test_no_module_imports_itself_by_way_of_others() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(imports(name) - {"signlang"}):
                visit(other, (*way, name))
            done.add(name)

    for name in modules():
        visit(name, ())


def test_modules_are_few_and_no_two_have_one_name() -> None:
    files = [file for file in modules().values() if file.name != "__init__.py"]
    assert len(files) <= MOST_MODULES
    names = [file.stem for file in files]
    assert {name for name in names if names.count(name) > 1} <= SHARED_NAMES.keys()
    assert not {file.name for file in PACKAGE.iterdir() if file.is_dir()} & set(names)


def imported(*names: str) -> set[str]:
    """Everything that is loaded, at the top, once these modules are."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_package_itself_loads_nothing() -> None:
    own = {name for name in imported("signlang") if name.startswith("signlang")}
    assert own == {"signlang"}
    assert not imported("signlang") & (HEAVY | {"numpy", "PIL", "hydra", "omegaconf", "pydantic"})


def of_room(*places: str) -> list[str]:
    return [name for name in modules() if room(name) in places and name != "signlang"]


def test_inference_and_server_need_nothing_that_trains() -> None:
    assert not imported(*of_room("inference", "server")) & (HEAVY | {"sklearn", "filelock", "cv2"})
    for name in of_room("inference", "server"):
        assert not imports_of_packages(name) & HEAVY, name  # not inside a function either


def imports_of_packages(name: str) -> set[str]:
    found = set()
    for node in _running(ast.parse(modules()[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found


def test_torch_waits_until_there_is_work_for_it() -> None:
    """Verbs answer --help and wrong settings first; sweeps fork, which a loaded torch forbids."""
    verbs = [f"signlang.{verb}" for verb in VERBS]
    below = [name for name in modules() if level(name) == len(ROOMS)]
    assert not imported(*verbs, *below, *of_room("sweeps"), "signlang.api") & HEAVY


def test_tests_mirror_the_rooms() -> None:
    folders = {file.parent.name for file in (ROOT / "tests").rglob("test_*.py")} - {"tests"}
    assert folders - {"cluster"} <= set(ROOMS)  # sweeps that need the daemons of a cluster
