"""Patterns of file names: what a path says about label, signer, group and subset of an image.

A template is written like the paths themselves: `{signer}/{label}{n}.jpg`. `{n}` is a number, any
other field some text without a slash; `*` is anything within a name, `**` any folders. It describes
the end of a path, so folders above need no mention; letters outside fields match in any case, and
a template without an ending fits every ending. A regular expression with named groups is written
behind `re:`. The fields `label`, `signer`, `group` and `subset` are used, others are passed over.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from typing import Final

from signlang.errors import SettingError

REGULAR: Final = "re:"
KEPT: Final = ("label", "signer", "group", "subset")
NUMBER: Final = "n"
_TOKEN: Final = re.compile(r"\{([^{}]*)\}|(\*\*/?)|(\*)|([^{}*]+)|(.)")


@dataclass(frozen=True)
class Pattern:
    """What the names of files mean.

    Attributes:
        text: As the user wrote it.
        tokens: Source and regular expression of each field, wildcard and text in between.
        folded: Whether letters match in any case.
    """

    text: str
    tokens: tuple[tuple[str, str], ...]
    folded: bool

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """For a whole path; compiled once."""
        return self._compiled("".join(source for _, source in self.tokens))

    @property
    def fields(self) -> list[str]:
        """The fields that it has and that are used."""
        return [name for name in KEPT if name in self.regex.groupindex]

    def fields_of(self, path: str) -> dict[str, str] | None:
        """The fields of a path; None if it does not match.

        >>> parsed("{signer}/{label}{n}.jpg").fields_of("images/user_3/A17.JPG")
        {'label': 'A', 'signer': 'user_3'}
        >>> parsed("{signer}_{label}_*").fields_of("hand1_a_bot_seg_1_cropped.jpeg")
        {'label': 'a', 'signer': 'hand1'}
        >>> parsed("re:(?P<label>[A-Z])[0-9]+[.]png").fields_of("B/7.png") is None
        True
        """
        match = self.regex.fullmatch(path)
        if match is None or not match["label"]:
            return None
        values = {name: match[name] or "" for name in self.fields}
        return {name: unicodedata.normalize("NFC", value) for name, value in values.items()}

    def mismatch(self, paths: Sequence[str]) -> str:
        """Describe how far the nearest path matches.

        >>> parsed("{signer}/{label}{n}.jpg").mismatch(["A.jpg", "user_3/A.jpg"])
        'The nearest is user_3/A.jpg: it fits {signer}/{label}, but not {n} (a number) behind it.'
        """
        if self.text.startswith(REGULAR):
            return f"An example is {paths[0]}."
        most_tokens, nearest = -1, paths[0]
        depth = self.text.count("/")
        for path in paths[:1000]:
            tail = "/".join(path.split("/")[-depth - 1 :])
            fits = self._count_matched(tail)
            if fits > most_tokens:
                most_tokens, nearest = fits, path
        matched = "".join(source for source, _ in self.tokens[:most_tokens])
        source = self.tokens[most_tokens][0] if most_tokens < len(self.tokens) else "the end"
        unmatched = f"{source} (a number)" if source == f"{{{NUMBER}}}" else source
        reason = (
            f"it fits {matched}, but not {unmatched} behind it"
            if matched
            else f"{unmatched} does not fit"
        )
        return f"The nearest is {nearest}: {reason}."

    def _count_matched(self, tail: str) -> int:
        """How many of its tokens the start of a text matches."""
        for count in range(len(self.tokens), 0, -1):
            if self._compiled("".join(source for _, source in self.tokens[:count]), "").match(tail):
                return count
        return 0

    def _compiled(self, source: str, prefix: str = "(?:.*/)?") -> re.Pattern[str]:
        return re.compile(prefix + source, re.IGNORECASE if self.folded else 0)


@lru_cache(maxsize=16)
def parsed(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        SettingError: If it is none, or has no field `label`.
    """
    if text.startswith(REGULAR):
        pattern = Pattern(text, ((text, f"(?:{text.removeprefix(REGULAR)})"),), folded=False)
    else:
        pattern = Pattern(text, tuple(_tokens(text)), folded=True)
    try:
        fields = pattern.regex.groupindex
    except re.error as error:
        raise SettingError(f"data.pattern={text}: it is no regular expression ({error}).") from None
    if "label" not in fields:
        wanted = "(?P<label>...)" if text.startswith(REGULAR) else "{label}"
        raise SettingError(
            f"data.pattern={text}: it must hold {wanted}, the place of the sign in a path."
        )
    return pattern


def _tokens(text: str) -> Iterable[tuple[str, str]]:
    """Each field, wildcard and text of a template, with its regular expression."""
    used_fields: set[str] = set()
    for match in _TOKEN.finditer(text):
        field, folders, wildcard, plain, stray = match.groups()
        if stray:
            raise SettingError(f"data.pattern={text}: a brace is open; fields are {{label}}.")
        if folders:
            yield folders, r"(?:.*/)?" if folders.endswith("/") else ".*"
        elif wildcard:
            yield wildcard, "[^/]*?"
        elif plain:
            yield plain, re.escape(plain)
        elif not field.isidentifier():
            raise SettingError(
                f"data.pattern={text}: {{{field}}} is no field, which is one word, e.g. {{label}}."
            )
        elif field in used_fields:
            yield match[0], f"(?P={field})"
        else:
            used_fields.add(field)
            yield match[0], rf"(?P<{field}>{r'[0-9]+' if field == NUMBER else '[^/]+?'})"
    if "." not in text.rpartition("/")[2] and not text.endswith("*"):
        yield "", r"\.[^./]+"


def several(names: Iterable[str], most: int = 8) -> str:
    """List the first of some names, and how many more there are.

    >>> several(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    names = list(names)
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


_SUBSETS: Final = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
}  # fmt: skip
_PEOPLE: Final = re.compile(
    "(user|signer|subject|subj|person|people|participant|volunteer|student|speaker|actor|"
    "performer|patient|human|hand|group|session|sess|recording|take|trial|video|camera|cam|day|"
    r"batch|part)s?(?:[ _.-]*\d+|[ _.-][a-z]{1,2})",
    re.IGNORECASE,
)
_NUMBERED: Final = re.compile(r"([a-z])[ _.-]?\d+", re.IGNORECASE)
_MOST: Final = 200  # signs that a guess may give
_SHORT: Final = 2  # characters of most names of finger-spelled signs
# where the sign may stand in the files of a person's folder
_GUESSES: Final = (
    "{signer}/{label}/*", "{signer}/{label}{n}", "{signer}/{label}_*", "{signer}/{label}-*",
    "{signer}/{label} *", "{signer}/{signer}_{label}_*", "{signer}/*_{label}",
    "{signer}/*_{label}_*",
)  # fmt: skip
_FLAT_GUESSES: Final = (
    "{label}{n}", "{label}_*", "{label}-*", "{signer}_{label}_*", "{signer}_{label}{n}",
    "*_{label}",
)  # fmt: skip


def subset_of(name: str) -> str | None:
    """The subset that a folder or a word of a table names: train, validation or test.

    >>> subset_of("asl_alphabet_train"), subset_of("Valid"), subset_of("trained")
    ('train', 'validation', None)
    """
    words = re.split(r"[ _.-]+", name.lower())
    return next((_SUBSETS[word] for word in words if word in _SUBSETS), None)


def are_people(names: Sequence[str]) -> bool:
    """Whether names of folders are those of people, hands or sessions, not of signs.

    >>> are_people(["user_3", "user_10"]), are_people(["man", "woman"]), are_people(["A1", "B1"])
    (True, False, False)
    """
    return len(names) > 1 and sum(_PEOPLE.fullmatch(name) is not None for name in names) >= (
        0.8 * len(names)
    )


def may_be_people(names: Sequence[str]) -> bool:
    """Whether names of folders are one letter and numbers: people, or signs.

    >>> may_be_people(["s1", "s2"]), may_be_people(["A1", "B1"])
    (True, False)
    """
    matches = [_NUMBERED.fullmatch(name) for name in names]
    return (
        len(names) > 1
        and len({match[1].lower() if match else None for match in matches}) == 1
        and (None not in matches)
    )


def guessed(paths: Sequence[str]) -> tuple[str, list[str]] | None:
    """Guess the template of folders of people, from what their files have in common.

    Args:
        paths: Of images below the folders.

    Returns:
        The template and the labels that it gives, each found below most of the folders; None if
        there is none.

    >>> guessed(["ann/A0.jpg", "ann/B0.jpg", "bob/A0.jpg", "bob/B1.jpg"])
    ('{signer}/{label}{n}', ['A', 'B'])
    >>> guessed(["A/A0.jpg", "A/A1.jpg", "B/B0.jpg", "B/B1.jpg"]) is None
    True
    """
    folders = {path.partition("/")[0] for path in paths}
    for text in _GUESSES:
        people: dict[str, set[str]] = defaultdict(set)
        for label, signer in (labels := _match_template(text, paths)):
            people[label].add(signer)
        shared = sum(map(len, people.values())) > 0.5 * len(folders) * max(len(people), 1)
        if labels and shared and {signer for _, signer in labels} <= folders:
            return text, sorted(people)
    return None


def guessed_flat(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """Guess the template of files without folders, if it gives signs of one or two characters.

    >>> guessed_flat(["hand1_a_bot_1.png", "hand1_b_bot_1.png", "hand2_a_1.png", "hand2_b_1.png"])
    ('{signer}_{label}_*', ['a', 'b'])
    """
    for text in _FLAT_GUESSES:
        labels = sorted({label for label, _ in _match_template(text, names)})
        if labels and are_signs(labels):
            return text, labels
    return None


def _match_template(text: str, paths: Sequence[str]) -> list[tuple[str, str]]:
    """Label and signer of each path by a template; none if it fits few, or gives no signs."""
    pattern = parsed(text)
    matches = [fields for path in paths if (fields := pattern.fields_of(path))]
    labels = {fields["label"] for fields in matches}
    if len(matches) < 0.9 * len(paths) or not 2 <= len(labels) <= min(_MOST, len(paths) / 2):
        return []
    if f"{{label}}{{{NUMBER}}}" in text and not all(map(str.isalpha, labels)):
        return []  # the first digits of numbers, or more than the sign
    return [(fields["label"], fields.get("signer", "")) for fields in matches]


def are_signs(labels: Iterable[str]) -> bool:
    """Whether names are as short as those of finger-spelled letters and digits."""
    return all(len(label) <= _SHORT for label in labels)


# names that tools give to augmented copies: A0_jpg.rf.1f0c....jpg, A_original_A0.jpg_<uuid>.jpg
_COPIES: Final = (
    re.compile(r"(.+?)[._-](?:jpe?g|png|bmp|webp|tiff?)\.rf\.[0-9A-Za-z]{8,}", re.IGNORECASE),
    re.compile(
        r".+_original_(.+)\.(?:jpe?g|png|bmp|webp|tiff?)_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        re.IGNORECASE,
    ),
)


def source_of_copy(path: str) -> str | None:
    """The image that an augmented copy was made of, by the name that a tool gave it.

    >>> source_of_copy("train/A/A0_jpg.rf.1f0c3a4b5c6d7e8f.jpg"), source_of_copy("A/A0.jpg")
    ('A0', None)
    """
    if ".rf." not in path and "_original_" not in path:  # of most data sets all
        return None
    name = PurePosixPath(path).stem
    for copies in _COPIES:
        if match := copies.fullmatch(name):
            return match[1]
    return None


def sources_of_copies(paths: Sequence[str], labels: Sequence[str]) -> list[str | None]:
    """The image that each one is an augmented copy of; None for what is no copy by its name."""
    sources = map(source_of_copy, paths)
    return [f"{n}/{s}" if s else None for n, s in zip(labels, sources, strict=True)]
