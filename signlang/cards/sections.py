"""What was found in a data set comes in, the sections of its card go out, in plain sentences."""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from signlang import __version__
from signlang.cards import facts, faults, figures
from signlang.cards.faults import Blocks, Rows, some
from signlang.cards.findings import findings, many
from signlang.cards.making import Material
from signlang.pages.page import Notes, Page, Picture, Section, Table, Text

FIGURES: Final = re.compile(r"(counts|signers|sizes|(samples|mean|duplicates|suspicious)-\d+)\.png")
FEW: Final = 3  # sizes that a table shows better than a chart
LISTED: Final = 20  # rows of a table of signers


def card(found: Material) -> Page:
    """Put the card together."""
    index = found.index
    signers = f"{len(set(index.signers) - {''}):,}" if index.signers else "unknown"
    tiles = {
        "pictures": f"{len(index):,}",
        "classes": f"{len(index.classes):,}",
        "signers": signers,
        "unusable files": f"{len(index.excluded):,}",
        "exact duplicates": f"{found.duplicates.exact.total:,}",
        "near duplicates": f"{found.duplicates.near.total:,}",
    }
    if found.judgement is not None:
        tiles["suspicious labels"] = f"{len(found.suspects):,}"
    parts = [_classes, _signers, _sizes, faults.files, faults.duplicates, faults.labels, _samples]
    sections = [section for part in parts if (section := part(found)) is not None]
    return Page(
        name="card",
        title=f"Data card: {found.name}",
        lead=f"Written by signlang {__version__} for {found.split}. The pictures, names, labels "
        f"and signers have the fingerprint {index.fingerprint}.",
        tiles=tiles,
        notes=[Notes("What to know before using it", findings(found), is_warning=True)],
        sections=sections,
        ours=FIGURES,
    )


def _classes(found: Material) -> Section:
    index = found.index
    ratio = facts.imbalance(index.counts)
    rows: Rows = []
    for label, name in enumerate(index.classes):
        members = np.flatnonzero(index.labels == label)
        mean = figures.mean_picture(found.pixels, members)
        people = [len({index.signers[m] for m in members} - {""})] if index.signers else []
        share = f"{len(members) / len(index):.1%}"
        picture = Picture(f"mean-{label:03d}", f"Mean picture of {name}", mean)
        rows.append([name, len(members), share, *people, picture])
    header = ["class", "pictures", "share", *(["signers"] if index.signers else []), "mean picture"]
    chart = Picture(
        "counts",
        f"Bar chart of the pictures of each class, from {index.counts.min():,} to "
        f"{index.counts.max():,}",
        figures.counts_chart(index.classes, index.counts),
    )
    size = (
        f"The largest class has {ratio:.2f} times as many pictures as the smallest."
        if ratio > 1
        else "All classes have equally many pictures."
    )
    text = (
        f"{size} A mean picture is sharp where hands are held alike, and shows a background that "
        "is always the same."
    )
    return Section("Classes", [Text(text), chart, Table("Pictures of each class", header, rows)])


def _signers(found: Material) -> Section:
    index = found.index
    if index.signers is None:
        text = (
            "Who is in the pictures is not known. Give a CSV file path,signer as "
            "data.signers=FILE, or place it as signers.csv beside the class folders."
        )
        return Section("Signers", [Text(text)])
    covered = facts.coverage(index.signers, index.labels, len(index.classes))
    each = covered.counts.sum(1)
    lacking = covered.incomplete
    text = (
        f"{many(len(covered.names), 'signer')}, {each.min():,} to {each.max():,} pictures of each "
        f"(median {np.median(each):g}); {len(covered.names) - len(lacking):,} of them show every "
        "class."
    )
    if covered.unknown:
        text += f" The signer of {many(covered.unknown, 'picture')} is unknown."
    chart = Picture(
        "signers", "Histogram of the number of pictures of a signer", figures.signers_chart(each)
    )
    blocks: Blocks = [Text(text), chart]
    if len(lacking):
        rows = [
            [
                covered.names[row],
                int(each[row]),
                ", ".join(index.classes[c] for c in np.flatnonzero(covered.counts[row] == 0)),
            ]
            for row in lacking[:LISTED]
        ]
        caption = f"Signers who lack classes{some(len(rows), len(lacking))}"
        blocks.append(Table(caption, ["signer", "pictures", "lacks"], rows))
    return Section("Signers", blocks)


def _sizes(found: Material) -> Section:
    sizes = facts.sizes(found.index.facts)
    low, middle, high = sizes.aspects
    total = len(found.index)
    common: Rows = [[_times(size), n, f"{n / total:.1%}"] for size, n in sizes.common[:8]]
    kinds = facts.kinds(found.index.facts)
    stored: Rows = [[kind, n, f"{n / total:.1%}"] for kind, n in kinds]
    text = (
        f"{len(sizes.common):,} sizes, from {_times(sizes.smallest)} to {_times(sizes.largest)} "
        f"pixels; width to height {low:.2f} to {high:.2f}, median {middle:.2f}."
        if len(sizes.common) > 1
        else f"All pictures have {_times(sizes.smallest)} pixels."
    )
    blocks: Blocks = [Text(text)]
    if len(sizes.common) > FEW:
        alt = "Scatter chart of width and height; a larger bubble stands for more pictures"
        blocks.append(Picture("sizes", alt, figures.sizes_chart(sizes.common)))
    caption = f"Sizes in pixels{some(len(common), len(sizes.common))}"
    blocks.append(Table(caption, ["width x height", "pictures", "share"], common))
    blocks.append(Table("File formats and pixel modes", ["kind", "pictures", "share"], stored))
    return Section("Sizes and formats", blocks)


def _samples(found: Material) -> Section:
    index = found.index
    pictures = []
    for label, name in enumerate(index.classes):
        rows = facts.samples(index.labels, label, index.signers, found.samples)
        alt = f"{len(rows)} sample pictures of {name}"
        sheet = figures.sheet(index, rows)
        pictures.append(Picture(f"samples-{label:03d}", alt, sheet, f"Class {name}"))
    text = "Some pictures of each class" + (", of different signers." if index.signers else ".")
    return Section("Samples", [Text(text), *pictures])


def _times(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
