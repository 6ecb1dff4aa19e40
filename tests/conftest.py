"""What the tests share: real data where it is, tiny generated data, and the commands."""

import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import made_hands
import numpy as np
import pytest
from hydra import initialize_config_dir
from PIL import Image
from typist import Result as Result
from typist import Typist

from signlang import hydra_app
from signlang.errors import SettingError
from signlang.hands.hand_networks import HandNetworks, find_networks

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("SIGNLANG_SHARED", ROOT.parent / "shared"))
COLOURS = {"A": (200, 60, 60), "B": (60, 200, 60), "ß": (60, 60, 200)}  # classes of the tiny data

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: threads would only spin
os.environ["HF_HUB_OFFLINE"] = (
    "1"  # before the hub's library is imported: no test downloads weights
)
NO_HUB = str(
    Path(tempfile.gettempdir()) / "signlang-tests-without-hubs"
)  # no cache of this machine
os.environ |= {"HF_HOME": NO_HUB, "TORCH_HOME": NO_HUB}
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # what a shell starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # would never hear the Ctrl-C of tests


@pytest.fixture
def configuration() -> Iterator[None]:
    """Let `hydra.compose` find the configuration of the program."""
    with initialize_config_dir(str(hydra_app.CONF), version_base="1.3"):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights, read in place."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}: set SIGNLANG_SHARED")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the test session's own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SIGNLANG_CACHE"] = str(folder)
    yield folder
    del os.environ["SIGNLANG_CACHE"]


@pytest.fixture(scope="session", autouse=True)
def resolvers() -> None:
    """What the configurations interpolate, for tests that compose them in this process."""
    hydra_app.register_resolvers()


def write_tiny(folder: Path, per_class: int = 12, size: int = 32) -> Path:
    """Write three classes of noisy colours, with signers: easy to learn, impossible to guess."""
    rng = np.random.default_rng(0)
    rows = ["path,signer"]
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            noise = rng.integers(-40, 40, size=(size, size, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}{number}.png")
            rows.append(f"{name}/{name}{number}.png,s{number % 6}")
    (folder / "signers.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three class folders; read it, never change it."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "Bilder, (1)")


def run_command(place: Path, *words: str, verb: str = "train", **environment: str) -> Result:
    """Run `python -m signlang.<verb> ...` in a folder, as a user does."""
    return the_typist().type(place, verb, *words, **environment)


@lru_cache(maxsize=1)
def the_typist() -> Typist:
    """Runs the commands of the session."""
    return Typist(Path(tempfile.mkdtemp(prefix="signlang-typist-")))


# a run of seconds; the folder's name has a comma, blanks and brackets on purpose
QUICK = (
    "data=folder", "model=simple_cnn", "image_size=32", "data.image_size=32", "folds=3",
    "batch_size=8", "trainer.max_epochs=3", "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.fixture(scope="session")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on the tiny images; read it, never change it."""
    place = tmp_path_factory.mktemp("trained")
    words = [f"data.root={tiny}", "split=signer", "verbose=false", "trainer.max_epochs=12"]
    words += ["callbacks.checkpoint.monitor=null", "callbacks.early_stopping=null"]  # the last one
    result = run_command(place, *QUICK, *words)
    assert result.code == 0, result.err
    (record,) = place.glob("runs/*/*/*/record.json")
    return record.parent


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A bundle of that run, with all that can be in one, and what its command said."""
    place = tmp_path_factory.mktemp("exported")
    result = run_command(
        place, f"run={trained}", "quantize=true", "formats=[onnx,torch_export]", verb="export"
    )
    assert result.code == 0, result.err
    (bundle,) = (place / "bundles").iterdir()
    return bundle, result


@pytest.fixture(scope="session", autouse=True)
def typist() -> Iterator[Typist]:
    """Runs commands, see `run_command`."""
    yield the_typist()
    the_typist().close()
    shutil.rmtree(the_typist().folder)


@pytest.fixture(scope="session")
def opened() -> Counter[str]:
    """How often each file was opened for reading; an audit hook stays until the process ends."""
    counts: Counter[str] = Counter()

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and "w" not in str(arguments[1]):
            counts[arguments[0]] += 1

    sys.addaudithook(count)
    return counts


@pytest.fixture(scope="session")
def real_networks() -> HandNetworks:
    """MediaPipe's networks; no test fetches them."""
    cache = os.environ.get("SIGNLANG_HANDS_CACHE", "~/.cache/signlang")
    try:
        return find_networks(None, cache)
    except SettingError:
        pytest.skip(f"no hand networks in {cache}: type make hands, or set SIGNLANG_HANDS_CACHE")


@pytest.fixture(scope="session")
def made_cache(cache_dir: Path) -> Path:
    """The session's cache, with made networks."""
    made_hands.write_networks(cache_dir)
    return cache_dir


@pytest.fixture(scope="session")
def made_networks(made_cache: Path) -> HandNetworks:
    """Networks of a dozen numbers."""
    return find_networks(None, str(made_cache))


@pytest.fixture(scope="session")
def some_without(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny images, one of each class darkened so that no hand is found in it."""
    place = tmp_path_factory.mktemp("some") / "hands"
    for file in tiny.rglob("*.png"):
        image: Image.Image = Image.open(file)
        if file.stem.endswith("4"):
            image = image.point(lambda value: value // 12)
        target = place / file.relative_to(tiny)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    (place / "signers.csv").write_bytes((tiny / "signers.csv").read_bytes())
    return place
