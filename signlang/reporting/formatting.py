"""Formatting of numbers, p values, counts and names for reports and messages."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # for types alone
    from signlang.data.index import Clusters


def p_text(p: float) -> str:
    """Write a p value.

    >>> p_text(0.0462), p_text(0.6), p_text(1e-9)
    ('p = 0.046', 'p = 0.60', 'p < 0.001')
    """
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def p_cell(p: float | None) -> str:
    """Write a p value for a table.

    >>> p_cell(None), p_cell(0.0004), p_cell(0.21)
    ('-', '< 0.001', '0.210')
    """
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(share: float) -> str:
    """Write a share rounded down, so that only what is certain is 100 %.

    >>> percent(0.99996), percent(1.0), percent(0.57)
    ('99.9 %', '100.0 %', '57.0 %')
    """
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f} %"


def seven_digits(probability: float) -> str:
    """Write a probability for a file: as exact as float32, so that a loss follows from it.

    >>> seven_digits(0.98765432), seven_digits(1.23456789e-12), seven_digits(1.0)
    ('0.9876543', '1.234568e-12', '1')
    """
    return f"{probability:.7g}"


def seven_digits_each(probabilities: Iterable[float]) -> list[str]:
    """Write probabilities as `seven_digits` does, all of an image at once.

    >>> seven_digits_each([0.98765432, 1.23456789e-12, 1.0])
    ['0.9876543', '1.234568e-12', '1']
    """
    values = tuple(probabilities)
    return (",".join(["%.7g"] * len(values)) % values).split(",") if values else []


def with_spread(mean: float, spread: float) -> str:
    """Write a mean with its spread, if it has one.

    >>> with_spread(0.98, 0.012), with_spread(0.98, float("nan"))
    ('0.9800 ± 0.0120', '0.9800')
    """
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Write the ends of an interval, or a dash where it is not known.

    >>> interval_text((0.25534, 0.36622)), interval_text(None)
    ('0.2553 to 0.3662', '-')
    """
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def intervals_sentence(clusters: "Clusters") -> str:
    """What the intervals of a table are by, and whom they hold for."""
    if not clusters.is_enough:
        return f"There are no intervals: {clusters} are too few to tell how much they differ."
    if clusters.kind == "signer":
        return (
            f"The intervals are by signer ({clusters}): images of one signer are alike, and say "
            "less than as many of several people."
        )
    if clusters.kind == "source":
        return (
            f"The intervals are by source image ({clusters}): augmented copies of one image are "
            "alike. It is not known who is in them, so they do not hold for other people."
        )
    if clusters.kind == "block":
        return (
            f"The intervals are by block of film ({clusters}, each a tenth of the frames of a "
            "class): neighbouring frames are alike. One signer is in them, or it is not known who, "
            "so they do not hold for other people."
        )
    return (
        f"The intervals are of {clusters}: it is not known which are alike. Where the images show "
        "few people, or are frames of a film, they are too narrow."
    )


PREFIXES: Final = {1e9: " G", 1e6: " M", 1e3: " k"}


def short_number(value: float) -> str:
    """Format a large number with its unit.

    >>> short_number(11191389), short_number(332.98e6), short_number(750), short_number(math.nan)
    ('11.2 M', '333 M', '750', '-')
    """
    if not math.isfinite(value):
        return "-"
    for size, letter in PREFIXES.items():
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


NAMED: Final = 12  # classes in a sentence


def counted(count: int, noun: str) -> str:
    """Write a number with its noun.

    >>> counted(1, "class"), counted(1200, "image")
    ('1 class', '1,200 images')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def named(names: Sequence[str]) -> str:
    """List names, many shortened.

    >>> named(["a", "b"])
    'a, b'
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def printable(text: str) -> str:
    """Replace bytes of file names that are no text, which terminals and JSON do not take."""
    return text.encode("utf-8", errors="replace").decode()
