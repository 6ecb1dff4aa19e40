"""The data card: sections, charts and thumbnails."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import Image, ImageOps

from signlang import __version__
from signlang.arrays import Ints
from signlang.data import image_io
from signlang.data.index import Index
from signlang.datacard import statistics
from signlang.datacard.analysis import Analysis, warnings
from signlang.reporting.formatting import counted
from signlang.reporting.page import (
    Blocks,
    ImageBlock,
    Notes,
    Number,
    Page,
    Rows,
    Section,
    Table,
    Text,
)
from signlang.reporting.plots import BLUE, INK, literal_text, new_axes

THUMBNAIL_SIZE: Final = 112  # pixels of one small image
GAP: Final = 4
BACKGROUND: Final = (240, 241, 243)


def counts_chart(names: Sequence[str], counts: Ints) -> Figure:
    """Draw one bar per class, (classes,) images long."""
    figure, panel = new_axes(height=1.0 + 0.24 * len(names))
    bars = panel.barh(range(len(names)), counts, color=BLUE, height=0.72)
    panel.set_yticks(range(len(names)), [literal_text(name) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.bar_label(bars, padding=3, color=INK, fontsize=10)
    panel.set_xlabel("images")
    panel.set_xlim(0, float(counts.max()) * 1.1)
    panel.grid(axis="y", visible=False)
    return figure


def signers_chart(per_signer: Ints) -> Figure:
    """Draw how many signers have how many images, from (S,) images per signer."""
    figure, panel = new_axes(height=3.2)
    low, high = int(per_signer.min()), int(per_signer.max())
    width = max(1, -(-(high - low + 1) // 30))
    edges = np.arange(low, high + width + 1, width) - 0.5
    panel.hist(per_signer, bins=edges.tolist(), color=BLUE, rwidth=0.9)
    panel.set_xlabel("images of one signer")
    panel.set_ylabel("signers")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def sizes_chart(common: Sequence[tuple[tuple[int, int], int]]) -> Figure:
    """Draw one bubble per size; its area grows with the number of images."""
    figure, panel = new_axes(height=4.6)
    size = np.array([size for size, _ in common], dtype=float)
    count = np.array([n for _, n in common], dtype=float)
    area = 30 + 600 * count / count.max()
    panel.scatter(size[:, 0], size[:, 1], s=area, color=BLUE, alpha=0.6, linewidths=0)
    if size.max() > 4 * size.min():
        panel.set_xscale("log")
        panel.set_yscale("log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_minor_formatter(NullFormatter())
    low, high = size.min() * 0.8, size.max() * 1.25
    panel.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=":", label="square")
    panel.legend(frameon=False, labelcolor=INK)
    panel.set_xlabel("width in pixels")
    panel.set_ylabel("height in pixels")
    return figure


def thumbnail_grid(index: Index, rows: Sequence[int], columns: int = 5) -> Image.Image:
    """Arrange thumbnails in a grid; aspect ratios are kept."""
    grid_rows = -(-len(rows) // columns)
    step = THUMBNAIL_SIZE + GAP
    width = min(len(rows), columns) * step - GAP
    canvas = Image.new("RGB", (width, grid_rows * step - GAP), "white")
    for position, row in enumerate(rows):
        grid_row, column = divmod(position, columns)
        canvas.paste(thumbnail(index, row), (column * step, grid_row * step))
    return canvas


def thumbnail(index: Index, row: int) -> Image.Image:
    """One image, padded to `THUMBNAIL_SIZE` x `THUMBNAIL_SIZE` pixels."""
    path, digest = index.root / index.paths[row], index.facts[row].digest
    image = image_io.read_unchanged(path, digest, index.crop(row))
    return ImageOps.pad(
        image, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BICUBIC, color=BACKGROUND
    )


def mean_image(pixels: npt.NDArray[np.uint8], rows: Ints) -> Image.Image:
    """Average images of (N, h, w, 3) pixel by pixel, which shows where hands are held."""
    total = np.zeros(pixels.shape[1:], dtype=np.float64)
    for start in range(0, len(rows), 1024):
        total += pixels[rows[start : start + 1024]].sum(0, dtype=np.float64)
    mean = Image.fromarray(np.round(total / len(rows)).astype(np.uint8))
    return mean.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BICUBIC)


LISTED_FILES: Final = 20  # rows of a table of files; the CSV files have all
GROUPS: Final = 12
GROUP_IMAGES: Final = 5  # shown of a group
SUSPECTS: Final = 30


def files_section(analysis: Analysis) -> Section:
    """List the files that cannot be used, and those that can but are unusual."""
    bad, odd = analysis.index.excluded, analysis.odd
    blocks: Blocks = [
        Text(
            f"{counted(len(bad), 'file') + ' cannot' if bad else 'Every file can'} be used. "
            f"{counted(len(odd), 'usable image') if odd else 'No usable image'} "
            f"{'is' if len(odd) < 2 else 'are'} odd: stored in an unusual way, or far from the "
            "usual size." + (" All are in files.csv." if bad or odd else "")
        )
    ]
    if bad:
        rows = [[file.path, file.reason] for file in bad[:LISTED_FILES]]
        caption = f"Files that cannot be used{first_of(len(rows), len(bad))}"
        blocks.append(Table(caption, ["file", "reason"], rows))
    if odd:
        rows = [[analysis.index.paths[row], why] for row, why in list(odd.items())[:LISTED_FILES]]
        blocks.append(Table(f"Odd files{first_of(len(rows), len(odd))}", ["file", "what"], rows))
    return Section("Unusable and odd files", blocks)


def duplicates_section(analysis: Analysis) -> Section:
    """Count duplicates and show the groups that need a look."""
    pairs = analysis.duplicates
    rows: Rows = []
    for name, kind in (("exact", pairs.exact), ("near", pairs.near)):
        across = "not known" if kind.across_folds is None else kind.across_folds
        rows.append(
            [name, kind.total, kind.total - kind.across_classes, kind.across_classes, across]
        )
    header = ["duplicates", "pairs", "in one class", "across classes", "across folds"]
    blocks: Blocks = [
        Text(
            "Exact duplicates are equal files. Near duplicates are different files whose grey "
            f"images, 32 x 32 pixels, correlate by {analysis.near:g} or more and differ by at most "
            f"{analysis.detail:g} standard deviations in every 4 x 4 of them: the same image "
            "encoded again, scaled or a little brighter, or the next frame of a video; not one "
            "that was mirrored, or cropped by more than about one hundredth."
        ),
        Table("Pairs of duplicates", header, rows),
    ]
    if analysis.copies:
        blocks.append(
            Text(
                f"{analysis.copies:,} images ({analysis.copies / len(analysis.index):.1%}) are "
                "augmented copies of one another by their names (A0_jpg.rf.1f0c....jpg and the "
                "like), which need not look alike."
            )
        )
    groups = int((np.bincount(analysis.families) > 1).sum())
    if groups:
        blocks.append(
            Text(
                f"groups.csv holds {counted(groups, 'group')} of images that belong "
                "together: duplicates, copies, and groups that the data set names. split=group "
                "data.groups=FILE keeps each in one fold."
            )
        )
    if analysis.folds is None:
        blocks.append(Text(f"Duplicates across folds were not counted. {analysis.no_folds_reason}"))
    if pairs.groups:
        joined = int((pairs.group >= 0).sum())
        blocks.append(
            Text(
                f"{joined:,} images ({joined / len(analysis.index):.1%}) are in "
                f"{counted(pairs.groups, 'group')}, joined directly or through others. Shown "
                f"{'is' if min(pairs.groups, GROUPS) == 1 else 'are'} "
                f"{min(pairs.groups, GROUPS)}, groups across classes and across folds first; all "
                "are in duplicates.csv."
            )
        )
        blocks += _groups(analysis)
    return Section("Duplicates", blocks)


def _groups(analysis: Analysis) -> Iterator[ImageBlock]:
    for number, rows in enumerate(analysis.duplicates.ordered_groups()[:GROUPS], start=1):
        examples = rows[:GROUP_IMAGES].tolist()
        classes = sorted({analysis.label(row) for row in rows.tolist()})
        where = f"class{'es' * (len(classes) > 1)} {', '.join(classes)}"
        if analysis.folds is not None:
            numbers = np.unique(analysis.folds[rows])
            where += f"; fold{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        names = ", ".join(analysis.index.paths[row] for row in examples)
        more = f" and {len(rows) - len(examples):,} more" if len(rows) > len(examples) else ""
        yield ImageBlock(
            f"duplicates-{number:03d}",
            f"Duplicates, group {number}: {len(examples)} images side by side",
            thumbnail_grid(analysis.index, examples, columns=GROUP_IMAGES),
            f"Group {number}: {len(rows):,} images; {where}: {names}{more}",
        )


def labels_section(analysis: Analysis) -> Section | None:
    """Show the images whose label is probably wrong, if there were predictions."""
    predictions = analysis.predictions
    if predictions is None:
        return None
    text = (
        f"There are out-of-fold predictions of {len(predictions.rows):,} of "
        f"{len(analysis.index):,} images ({counted(predictions.files, 'file')}); "
        f"{analysis.agreement:.1%} of them equal the label. According to confident learning "
        "(Northcutt et al., 2021, as cleanlab implements it) "
        f"{counted(len(analysis.suspects), 'label')} may be wrong. Check them by eye: a rare way "
        "to show a sign, or a weak network, has the same effect. All are in suspicious.csv."
    )
    if predictions.relabelled:
        changed = counted(predictions.relabelled, "image")
        text += f" The label of {changed} has changed since the predictions."
    rows: Rows = [
        [
            analysis.index.paths[s.row],
            ImageBlock(
                f"suspicious-{number:03d}",
                f"Label {analysis.label(s.row)}, suggested {analysis.index.classes[s.suggested]}",
                thumbnail(analysis.index, s.row),
            ),
            analysis.label(s.row),
            analysis.index.classes[s.suggested],
            Number(f"{s.given_probability:.1%}"),
            Number(f"{s.suggested_probability:.1%}"),
        ]
        for number, s in enumerate(analysis.suspects[:SUSPECTS])
    ]
    header = ["file", "image", "label", "suggested", "p(label)", "p(suggested)"]
    caption = f"Suspicious labels, the surest first{first_of(len(rows), len(analysis.suspects))}"
    table = [Table(caption, header, rows)] if rows else []
    return Section("Suspicious labels", [Text(text), *table])


NO_HAND: Final = 40  # images without a hand that the card shows


def hands_section(analysis: Analysis) -> Section | None:
    """In how many images of each class a hand is found, and some without; None: not searched."""
    if analysis.hands is None:
        return None
    index, missing = analysis.index, analysis.without_hand
    rows: Rows = []
    for label, name in enumerate(index.classes):
        of_class = analysis.hands[index.labels == label]
        rows.append([name, len(of_class), int(of_class.sum()), Number(f"{of_class.mean():.1%}")])
    text = (
        f"A hand is found in {int(analysis.hands.sum()):,} of {counted(len(index), 'image')} by "
        "MediaPipe's networks. hands.csv lists the others."
    )
    blocks: Blocks = [
        Text(text), Table("Hands found", ["class", "images", "hand found", "share"], rows),
    ]  # fmt: skip
    if missing:
        examples = missing[:NO_HAND]
        names = ", ".join(index.paths[row] for row in examples)
        blocks.append(
            ImageBlock(
                "hands",
                f"{counted(len(examples), 'image')} without a hand",
                thumbnail_grid(index, examples, columns=8),
                f"No hand is found in these{first_of(len(examples), len(missing))}: {names}",
            )
        )
    if analysis.turned:
        examples = list(analysis.turned)[:NO_HAND]
        names = ", ".join(f"{index.paths[row]} {analysis.turned[row]:+.0f}°" for row in examples)
        blocks.append(
            ImageBlock(
                "turned",
                f"{counted(len(examples), 'image')} of turned hands",
                thumbnail_grid(index, examples, columns=8),
                "Hands that point elsewhere than those of their class, with the angle, clockwise"
                f"{first_of(len(examples), len(analysis.turned))}: {names}. All are in turned.csv.",
            )
        )
    return Section("Hands", blocks)


def first_of(rows: int, total: int) -> str:
    """End of a caption of a table that shows only its first rows.

    >>> first_of(20, 31), first_of(3, 3)
    (', 20 of 31', '')
    """
    return f", {rows} of {total:,}" if rows < total else ""


FIGURES: Final = re.compile(
    r"(counts|signers|sizes|hands|turned|(samples|mean|duplicates|suspicious)-\d+)\.png"
)
FEW: Final = 3  # sizes that a table shows better than a chart
LISTED: Final = 20  # rows of a table of signers


def data_card(analysis: Analysis) -> Page:
    """Build the data card."""
    index = analysis.index
    signers = f"{len(set(index.signers) - {''}):,}" if index.signers else "unknown"
    tiles = {
        "images": f"{len(index):,}",
        "classes": f"{len(index.classes):,}",
        "signers": signers,
        "unusable files": f"{len(index.excluded):,}",
        "exact duplicates": f"{analysis.duplicates.exact.total:,}",
        "near duplicates": f"{analysis.duplicates.near.total:,}",
    }
    if index.cropped:
        tiles["boxes"] = f"{index.cropped:,}"
    if analysis.copies:
        tiles["augmented copies"] = f"{analysis.copies:,}"
    if analysis.predictions is not None:
        tiles["suspicious labels"] = f"{len(analysis.suspects):,}"
    builders = [
        _sets,
        _classes,
        _signers,
        _sizes,
        _boxes,
        files_section,
        duplicates_section,
        labels_section,
        hands_section,
        _samples,
    ]
    sections = [section for build in builders if (section := build(analysis)) is not None]
    return Page(
        name="card",
        title=f"Data card: {analysis.name}",
        lead=f"Written by signlang {__version__} for {analysis.split}. The images, names, labels "
        f"and signers have the fingerprint {index.fingerprint}.",
        tiles=tiles,
        notes=[Notes("Warnings", warnings(analysis), is_warning=True)],
        sections=sections,
        ours=FIGURES,
    )


def _sets(analysis: Analysis) -> Section | None:
    """What each of the joined data sets has."""
    index = analysis.index
    if index.sets is None:
        return None
    rows: Rows = []
    for name in dict.fromkeys(index.sets):
        set_rows = np.flatnonzero(np.array(index.sets) == name)
        signers = {index.signers[row] for row in set_rows} - {""} if index.signers else set()
        present = {index.classes[label] for label in index.labels[set_rows]}
        absent = [one for one in index.classes if one not in present]
        known = len(signers) if signers else "unknown"
        rows.append([name, len(set_rows), len(present), known, ", ".join(absent) or "none"])
    header = ["set", "images", "classes", "signers", "classes that it lacks"]
    text = "Data sets that are joined by the names of their classes."
    return Section("Data sets", [Text(text), Table("Joined data sets", header, rows)])


def _classes(analysis: Analysis) -> Section:
    index = analysis.index
    ratio = statistics.imbalance(index.counts)
    rows: Rows = []
    for label, name in enumerate(index.classes):
        class_rows = np.flatnonzero(index.labels == label)
        mean = mean_image(analysis.pixels, class_rows)
        signer_counts = (
            [len({index.signers[row] for row in class_rows} - {""})] if index.signers else []
        )
        share = Number(f"{len(class_rows) / len(index):.1%}")
        image = ImageBlock(f"mean-{label:03d}", f"Mean image of {name}", mean)
        rows.append([name, len(class_rows), share, *signer_counts, image])
    header = ["class", "images", "share", *(["signers"] if index.signers else []), "mean image"]
    chart = ImageBlock(
        "counts",
        f"Bar chart of the images of each class, from {index.counts.min():,} to "
        f"{index.counts.max():,}",
        counts_chart(index.classes, index.counts),
    )
    size = (
        f"The largest class has {ratio:.2f} times as many images as the smallest."
        if ratio > 1
        else "All classes have equally many images."
    )
    text = (
        f"{size} A mean image is sharp where the hands of a class are aligned, and shows a "
        "background that is always the same."
    )
    return Section("Classes", [Text(text), chart, Table("Images of each class", header, rows)])


def _signers(analysis: Analysis) -> Section:
    index = analysis.index
    if index.signers is None:
        text = (
            "The signers are unknown. Give a CSV file path,signer as data.signers=FILE, or place "
            "it as signers.csv beside the class folders; or, where a path holds the signer, say so "
            "with data.pattern."
        )
        return Section("Signers", [Text(text)])
    covered = statistics.coverage(index.signers, index.labels, len(index.classes))
    image_counts = covered.counts.sum(1)
    incomplete = covered.incomplete
    is_even = image_counts.min() == image_counts.max()
    count_range = f"{image_counts.min():,}" + ("" if is_even else f" to {image_counts.max():,}")
    text = (
        f"{counted(len(covered.names), 'signer')}, {count_range} images of each"
        f"{'' if is_even else f' (median {np.median(image_counts):g})'}; "
        f"{len(covered.names) - len(incomplete):,} of them show every class."
    )
    if covered.unknown:
        text += f" The signer of {counted(covered.unknown, 'image')} is unknown."
    blocks: Blocks = [Text(text)]
    if not is_even:  # a single bar shows nothing that the sentence does not
        alt = "Histogram of the number of images of a signer"
        blocks.append(ImageBlock("signers", alt, signers_chart(image_counts)))
    if len(incomplete):
        rows = [
            [
                covered.names[row],
                int(image_counts[row]),
                ", ".join(index.classes[c] for c in np.flatnonzero(covered.counts[row] == 0)),
            ]
            for row in incomplete[:LISTED]
        ]
        caption = f"Signers without images of some classes{first_of(len(rows), len(incomplete))}"
        blocks.append(Table(caption, ["signer", "images", "missing classes"], rows))
    return Section("Signers", blocks)


def _sizes(analysis: Analysis) -> Section:
    sizes = statistics.sizes(analysis.index.facts)
    low, middle, high = sizes.aspects
    total = len(analysis.index)
    common: Rows = [[_times(size), n, Number(f"{n / total:.1%}")] for size, n in sizes.common[:8]]
    kinds = statistics.kinds(analysis.index.facts)
    stored: Rows = [[kind, n, Number(f"{n / total:.1%}")] for kind, n in kinds]
    text = (
        f"{len(sizes.common):,} sizes, from {_times(sizes.smallest)} to {_times(sizes.largest)} "
        f"pixels; width to height {low:.2f} to {high:.2f}, median {middle:.2f}."
        if len(sizes.common) > 1
        else f"All images have {_times(sizes.smallest)} pixels."
    )
    blocks: Blocks = [Text(text)]
    if len(sizes.common) > FEW:
        alt = "Scatter chart of width and height; a larger bubble stands for more images"
        blocks.append(ImageBlock("sizes", alt, sizes_chart(sizes.common)))
    caption = f"Sizes in pixels{first_of(len(common), len(sizes.common))}"
    blocks.append(Table(caption, ["width x height", "images", "share"], common))
    blocks.append(Table("File formats and pixel modes", ["kind", "images", "share"], stored))
    return Section("Sizes and formats", blocks)


def _boxes(analysis: Analysis) -> Section | None:
    """How many images are cropped to a box, and how large the crops are."""
    index = analysis.index
    pairs = [(c, f) for c, f in zip(index.crops or (), index.facts, strict=False) if c is not None]
    if not pairs:
        return None
    sizes = [(crop.right - crop.left, crop.bottom - crop.top) for crop, _ in pairs]
    shares = [
        width * height / (fact.width * fact.height)
        for (width, height), (_, fact) in zip(sizes, pairs, strict=True)
    ]
    whole = len(index) - len(pairs)
    text = (
        f"{counted(len(pairs), 'image')} of {len(index):,} "
        f"{'is' if len(pairs) == 1 else 'are'} cropped to the box of an annotation, margin "
        f"included: all that this card shows and compares, and all that a network sees of them. "
        f"{counted(whole, 'image') + ' without a box' if whole else 'None'} "
        f"{'is' if whole < 2 else 'are'} used whole."
    )
    areas = np.array([width * height for width, height in sizes])
    rows: Rows = [
        [name, _times(sizes[place]), Number(f"{shares[place]:.1%}")]
        for name, place in (
            ("smallest", int(areas.argmin())),
            ("median", int(np.argsort(areas, kind="stable")[len(areas) // 2])),
            ("largest", int(areas.argmax())),
        )
    ]
    header = ["crop", "width x height", "share of its image"]
    return Section("Boxes", [Text(text), Table("Crops in pixels", header, rows)])


def _samples(analysis: Analysis) -> Section:
    index = analysis.index
    images = []
    for label, name in enumerate(index.classes):
        rows = statistics.samples(index.labels, label, index.signers, analysis.samples)
        alt = f"{len(rows)} sample images of {name}"
        grid = thumbnail_grid(index, rows)
        images.append(ImageBlock(f"samples-{label:03d}", alt, grid, f"Class {name}"))
    text = "Some images of each class" + (", of different signers." if index.signers else ".")
    return Section("Samples", [Text(text), *images])


def _times(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
