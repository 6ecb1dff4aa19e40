"""What names of files and folders say, by the public commands and the functions that list them."""

from pathlib import Path

import pytest
from conftest import run_command
from PIL import Image

from signlang.data.image_folder import ImageEntry, list_folder, list_matching
from signlang.data.index import read_index
from signlang.errors import DataError, SettingError


def image(file: Path, shade: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (shade % 256, 40, 80)).save(file)


def write(root: Path, names: list[str]) -> Path:
    for shade, name in enumerate(names):
        image(root / name, shade)
    return root


def people(root: Path, folders: list[str], labels: str = "ABC", takes: int = 2) -> Path:
    names = [f"{f}/{label}{n}.png" for f in folders for label in labels for n in range(takes)]
    return write(root, names)


@pytest.mark.parametrize(
    "folders",
    [["user_3", "user_10"], ["subject3", "subject4"], ["person A", "person B"], ["s1", "s2", "s7"]],
)
def test_folders_of_people_are_refused_with_the_pattern_to_type(
    tmp_path: Path, folders: list[str]
) -> None:
    root = people(tmp_path / "signs", folders)
    with pytest.raises(DataError, match="look like people or sessions, not like signs") as caught:
        list_folder(root)
    assert "look like 3 signs (A, B, C): type data.pattern='{signer}/{label}{n}'" in str(
        caught.value
    )
    typed = list_matching(root, "{signer}/{label}{n}")
    assert {entry.label for entry in typed} == {"A", "B", "C"}
    assert {entry.signer for entry in typed} == set(folders)
    assert {e.label for e in list_matching(root, "{label}/**")} == set(folders)  # signs after all


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ("{}/{}/1.png", "{signer}/{label}/*"),
        ("{}/{}_left_1.png", "{signer}/{label}_*"),
        ("{}/{}-1.png", "{signer}/{label}-*"),
        ("{0}/{0}_{1}_bot.png", "{signer}/{signer}_{label}_*"),
        ("{}/take_{}.png", "{signer}/*_{label}"),
        ("train/{}/{}7.png", "{signer}/{label}{n}"),
    ],
)
def test_the_pattern_is_guessed_from_the_files(tmp_path: Path, names: str, pattern: str) -> None:
    files = [names.format(f"user_{n}", label) for n in range(3) for label in "AB"]
    if names.startswith("train"):
        files += [name.replace("train", "test") for name in files]
    with pytest.raises(DataError, match="look like people") as caught:
        list_folder(write(tmp_path, files))
    assert f"data.pattern='{pattern}'" in str(caught.value)
    assert {entry.label for entry in list_matching(tmp_path, pattern)} == {"A", "B"}


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (["s1/1.png", "s1/2.png", "s2/1.png", "s2/2.png"], "taken for signs: s1, s2"),
        (["ann/A/1.png", "ann/B/1.png", "bob/A/1.png", "bob/B/1.png"], "'{signer}/{label}/*'"),
        (["A/A1.png", "A/A2.png", "B/B1.png", "B/B2.png"], ""),
        (["A/ann/1.png", "A/bob/1.png", "B/ann/1.png", "B/bob/1.png"], ""),  # signs, then people
        (["man/1.png", "man/2.png", "woman/1.png", "woman/2.png"], ""),  # two signs
        (["0/hand1_0_top.png", "0/hand2_0_top.png", "1/hand1_1_top.png", "1/hand2_1.png"], ""),
        (["A1/1.png", "B1/1.png"], ""),
    ],
)
def test_folders_that_may_be_people_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], warned: str
) -> None:
    entries = list_folder(write(tmp_path, names))
    assert {entry.label for entry in entries} == {name.partition("/")[0] for name in names}
    assert warned in caplog.text
    assert bool(warned) == bool(caplog.records)


def test_files_without_folders_are_refused_with_the_pattern_to_type(tmp_path: Path) -> None:
    names = [f"hand{h}_{label}_bot_seg_{n}_cropped.jpeg" for h in (1, 2) for label in "ab01"
             for n in (1, 2)]  # fmt: skip
    with pytest.raises(DataError, match="has no folders in it") as caught:
        list_folder(write(tmp_path, names))
    assert "data.pattern='{signer}_{label}_*'. They look like 4 signs: 0, 1, a, b." in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("pattern", "entry"),
    [
        ("{signer}/{label}{n}.jpg", ImageEntry("in/user_3/A17.JPG", "A", "user_3")),
        ("{signer}/{label}{n}", ImageEntry("in/user_3/A17.JPG", "A", "user_3")),
        ("user_{signer}/{label}*", ImageEntry("in/user_3/A17.JPG", "A", "3")),
        (
            "{subset}/{signer}/{label}{n}.*",
            ImageEntry("in/user_3/A17.JPG", "A", "user_3", "", "in"),
        ),
        ("**/{group}/{label}{take}7.jpg", ImageEntry("in/user_3/A17.JPG", "A", "", "user_3")),
        (
            "re:(?P<signer>user_.)/(?P<label>[A-Z]).*",
            ImageEntry("in/user_3/A17.JPG", "A", "user_3"),
        ),
    ],
)
def test_a_pattern_gives_the_fields(tmp_path: Path, pattern: str, entry: ImageEntry) -> None:
    image(tmp_path / "in" / "user_3" / "A17.png")
    (tmp_path / "in" / "user_3" / "A17.png").rename(tmp_path / "in" / "user_3" / "A17.JPG")
    assert list_matching(tmp_path, pattern) == [entry]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("{signer}/{n}.jpg", r"it must hold \{label\}"),
        ("re:(?P<signer>.)", r"it must hold \(\?P<label>"),
        ("re:(?P<label>", "it is no regular expression"),
        ("{label", "a brace is open"),
        ("{the label}", "is no field"),
    ],
)
def test_what_is_no_pattern_is_refused(tmp_path: Path, pattern: str, sentence: str) -> None:
    image(tmp_path / "A.png")
    with pytest.raises(SettingError, match=sentence):
        list_matching(tmp_path, pattern)


def test_what_was_matched_is_shown_and_the_rest_is_told(tmp_path: Path) -> None:
    root = people(tmp_path / "signs", ["user_1", "user_2"], takes=3)
    image(root / "user_1" / "screenshot.png")
    words = ["data=folder", f"data.root={root}", "folds=2", "split=signer"]
    result = run_command(tmp_path, *words, "data.pattern={signer}/{label}{n}.png", verb="describe")
    assert result.code == 0, result.err
    for line in (
        "data.pattern={signer}/{label}{n}.png matches 18 of 19 images",
        "  3 classes: A, B, C",
        "  2 signers: user_1, user_2",
        "  user_1/A0.png: label A, signer user_1",
        "  user_2/C2.png: label C, signer user_2",
        "1 image does not match data.pattern and is left out:",
        "  user_1/screenshot.png",
    ):
        assert line in result.err.splitlines()
    assert result.err.count(": label ") == 5
    result = run_command(tmp_path, *words, "data.pattern={signer}/{label}_{n}", verb="describe")
    assert result.code == 1
    assert "matches none of the 19 images" in result.err
    assert "it fits {signer}/{label}, but not _ behind it" in result.err


def test_signers_of_a_pattern_come_before_a_file_that_is_only_found(
    tmp_path: Path, cache_dir: Path
) -> None:
    root = people(tmp_path / "signs", ["ann", "bob"])
    rows = "".join(f"{p.relative_to(root)},eve\n" for p in sorted(root.rglob("*.png")))
    (root / "signers.csv").write_text(f"path,signer\n{rows}")
    options = {"cache_dir": str(cache_dir), "pattern": "{signer}/{label}{n}"}
    assert set(read_index(root, **options).signers or ()) == {"ann", "bob"}
    named = read_index(root, **options, signers=str(root / "signers.csv"))
    assert set(named.signers or ()) == {"eve"}
