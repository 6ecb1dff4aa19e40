"""Data sets are found, downloaded (from this machine), or refused with the way by hand."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from signlang import files
from signlang.data import sources
from signlang.errors import DataError, SettingError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that is served on this machine, and its address."""
    place = tmp_path / "served"
    place.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(place))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield place, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_digits_are_downloaded_once_and_known_by_content(
    shared: Path, tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, address = server
    packed = tmp_path / "Sign-Language-Digits-Dataset-4b09433"
    shutil.copytree(shared / "data" / "digits" / "Dataset", packed / "Dataset")
    shutil.make_archive(str(place / "digits"), "zip", tmp_path, packed.name)
    monkeypatch.setattr(sources, "DIGITS_URL", f"{address}/digits.zip")
    cache_dir = str(tmp_path / "cache")
    root = sources.digits(None, cache_dir)
    assert files.content_digest(root) == sources.DIGITS_CONTENT
    assert len(list(root.rglob("*.JPG"))) == 2062
    (place / "digits.zip").unlink()
    assert sources.digits(None, cache_dir) == root  # no second download


def test_another_archive_is_refused(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, address = server
    (tmp_path / "x" / "Dataset" / "0").mkdir(parents=True)
    (tmp_path / "x" / "Dataset" / "0" / "a.JPG").write_bytes(b"not theirs")
    shutil.make_archive(str(place / "digits"), "zip", tmp_path / "x")
    monkeypatch.setattr(sources, "DIGITS_URL", f"{address}/digits.zip")
    with pytest.raises(DataError, match="known by checksum"):
        sources.digits(None, str(tmp_path / "cache"))
    (place / "digits.zip").write_bytes(b"half an archive")
    with pytest.raises(DataError, match="is damaged"):
        sources.digits(None, str(tmp_path / "cache"))
    (place / "digits.zip").unlink()
    with pytest.raises(DataError, match=r"cannot be downloaded .*By hand"):
        sources.digits(None, str(tmp_path / "cache"))


def test_no_network_is_one_sentence_with_the_way_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "DIGITS_URL", "http://127.0.0.1:9/digits.zip")
    with pytest.raises(DataError, match=r"cannot be downloaded .*By hand: unpack") as caught:
        sources.digits(None, str(tmp_path))
    assert "\n" not in str(caught.value)


def test_kaggles_own_layout_is_understood(tmp_path: Path) -> None:
    classes = tmp_path / "asl_alphabet_train" / "asl_alphabet_train"
    (classes / "A").mkdir(parents=True)
    (tmp_path / "asl_alphabet_test" / "asl_alphabet_test").mkdir(parents=True)
    assert sources.asl_alphabet(str(tmp_path), "") == classes
    assert sources.asl_alphabet(str(tmp_path / "asl_alphabet_train"), "") == classes
    (classes / "B").mkdir()
    assert sources.asl_alphabet(str(classes), "") == classes


def test_a_folder_inside_a_folder_is_stepped_into(tmp_path: Path) -> None:
    (tmp_path / "Dataset" / "A").mkdir(parents=True)
    (tmp_path / "Dataset" / "B").mkdir()
    assert sources.folder(str(tmp_path), "") == tmp_path / "Dataset"
    assert sources.folder(str(tmp_path / "Dataset"), "") == tmp_path / "Dataset"
    with pytest.raises(DataError, match="no such folder"):
        sources.folder(str(tmp_path / "nowhere"), "")
    with pytest.raises(SettingError, match=r"data\.root=DIR"):
        sources.folder(None, "")


def test_the_drawn_data_refuse_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data=folder data\.root=x"):
        sources.synthetic("x", str(tmp_path), signers=1, takes=1, size=32, seed=0)


@pytest.mark.parametrize("few", [{"signers": 0}, {"takes": 0}, {"size": 15}])
def test_the_drawn_data_are_drawn_once_and_need_something_to_draw(
    tmp_path: Path, few: dict[str, int]
) -> None:
    options = {"signers": 1, "takes": 1, "size": 16, "seed": 3}
    with pytest.raises(SettingError, match=r"must be at least 1, size=.* at least 16 pixels"):
        sources.synthetic(None, str(tmp_path), **(options | few))
    drawn = sources.synthetic(None, str(tmp_path), **options)
    images = sorted(path for path in drawn.rglob("*") if path.suffix == ".png")
    assert len(images) == 10
    assert drawn.name.endswith("signers1-takes1-size16-seed3")
    images[0].unlink()
    assert sources.synthetic(None, str(tmp_path), **options) == drawn
    assert not images[0].exists()  # it was not drawn again
    assert sources.synthetic(None, str(tmp_path), **(options | {"seed": 4})) != drawn


def test_a_folder_of_digits_is_taken_as_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "Dataset" / "0").mkdir(parents=True)
    (tmp_path / "Examples").mkdir()
    assert sources.digits(str(tmp_path), "") == tmp_path / "Dataset"
    assert sources.digits(str(tmp_path / "Dataset"), "") == tmp_path / "Dataset"


def test_folders_are_not_stepped_into_without_need(tmp_path: Path) -> None:
    assert sources.folder(str(tmp_path), "") == tmp_path  # empty
    (tmp_path / "A").mkdir()
    (tmp_path / ".hidden").mkdir()
    assert sources.folder(str(tmp_path), "") == tmp_path  # a class of images
    (tmp_path / "A" / "inner").mkdir()
    assert sources.folder(str(tmp_path), "") == tmp_path / "A"
    (tmp_path / "table.csv").write_text("path,label")
    assert sources.folder(str(tmp_path), "") == tmp_path
    assert sources.folder(str(tmp_path / "table.csv"), "") == tmp_path / "table.csv"


def test_thumbnails_keep_their_proportions(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "wide.png")
    wide, gone = sources.read_thumbnails(tmp_path, ["wide.png", "gone.png"])
    assert gone is None
    assert wide is not None
    assert wide.size == (180, 180)
    assert wide.getpixel((90, 90)) == (255, 0, 0)
    assert wide.getpixel((90, 46)) == (255, 0, 0)
    assert wide.getpixel((90, 43)) == wide.getpixel((0, 179)) == (240, 241, 243)
