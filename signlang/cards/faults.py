"""What is wrong with a data set comes in, the sections of its card that say so go out."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from signlang.cards import figures
from signlang.cards.findings import many
from signlang.cards.making import Material
from signlang.pages.page import Picture, Section, Table, Text

Rows = list[list[str | int | Picture]]
Blocks = list[Text | Picture | Table]

LISTED: Final = 20  # rows of a table of files; the CSV files have all
GROUPS: Final = 12
STRIP: Final = 5  # pictures of a group
SUSPECTS: Final = 30


def files(found: Material) -> Section:
    """List the files that cannot be used, and those that can but are unusual."""
    bad, odd = found.index.excluded, found.odd
    blocks: Blocks = [
        Text(
            f"{many(len(bad), 'file') + ' cannot' if bad else 'Every file can'} be used. "
            f"{many(len(odd), 'usable picture') if odd else 'No usable picture'} "
            f"{'is' if len(odd) < 2 else 'are'} odd: stored in an unusual way, or far from the "
            "usual size." + (" All are in files.csv." if bad or odd else "")
        )
    ]
    if bad:
        rows = [[file.path, file.reason] for file in bad[:LISTED]]
        caption = f"Files that cannot be used{some(len(rows), len(bad))}"
        blocks.append(Table(caption, ["file", "reason"], rows))
    if odd:
        rows = [[found.index.paths[row], why] for row, why in list(odd.items())[:LISTED]]
        blocks.append(Table(f"Odd files{some(len(rows), len(odd))}", ["file", "what"], rows))
    return Section("Unusable and odd files", blocks)


def duplicates(found: Material) -> Section:
    """Count duplicates and show the groups that need a look."""
    pairs = found.duplicates
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
            f"pictures, 32 x 32 pixels, correlate by {found.near:g} or more and differ by at most "
            f"{found.detail:g} standard deviations in every 4 x 4 of them: the same picture "
            "encoded again, scaled or a little brighter, or the next frame of a film; not one that "
            "was mirrored, or cut by more than about one hundredth."
        ),
        Table("Pairs of duplicates", header, rows),
    ]
    if found.folds is None:
        blocks.append(Text(f"Duplicates across folds were not counted. {found.unsplit}"))
    if pairs.groups:
        joined = int((pairs.group >= 0).sum())
        blocks.append(
            Text(
                f"{joined:,} pictures ({joined / len(found.index):.1%}) are in "
                f"{many(pairs.groups, 'group')}, joined directly or through others. Shown "
                f"{'is' if min(pairs.groups, GROUPS) == 1 else 'are'} "
                f"{min(pairs.groups, GROUPS)}, groups across classes and across folds first; all "
                "are in duplicates.csv."
            )
        )
        blocks += _groups(found)
    return Section("Duplicates", blocks)


def _groups(found: Material) -> Iterator[Picture]:
    for number, rows in enumerate(found.duplicates.shown_first()[:GROUPS], start=1):
        shown = rows[:STRIP].tolist()
        classes = sorted({found.label(row) for row in rows.tolist()})
        where = f"class{'es' * (len(classes) > 1)} {', '.join(classes)}"
        if found.folds is not None:
            numbers = np.unique(found.folds[rows])
            where += f"; fold{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        names = ", ".join(found.index.paths[row] for row in shown)
        more = f" and {len(rows) - len(shown):,} more" if len(rows) > len(shown) else ""
        yield Picture(
            f"duplicates-{number:03d}",
            f"Duplicates, group {number}: {len(shown)} pictures side by side",
            figures.sheet(found.index, shown, columns=STRIP),
            f"Group {number}: {len(rows):,} pictures; {where}: {names}{more}",
        )


def labels(found: Material) -> Section | None:
    """Show the pictures whose label is probably wrong, if there were predictions."""
    judged = found.judgement
    if judged is None:
        return None
    text = (
        f"Networks judged {len(judged.rows):,} of {len(found.index):,} pictures that they were not "
        f"trained on ({many(judged.files, 'file')} of predictions) and gave {found.agreement:.1%} "
        "of them their label. Confident learning (Northcutt et al., 2021, as cleanlab implements "
        f"it) holds {many(len(found.suspects), 'label')} for wrong. A person has to look: a rare "
        "way to show a sign, or a weak network, looks the same. All are in suspicious.csv."
    )
    if judged.relabelled:
        text += f" {many(judged.relabelled, 'picture')} got another label since the networks ran."
    rows: Rows = [
        [
            found.index.paths[s.row],
            Picture(
                f"suspicious-{number:03d}",
                f"Labelled {found.label(s.row)}, perhaps {found.index.classes[s.suggested]}",
                figures.small(found.index, s.row),
            ),
            found.label(s.row),
            found.index.classes[s.suggested],
            f"{s.given_probability:.1%}",
            f"{s.suggested_probability:.1%}",
        ]
        for number, s in enumerate(found.suspects[:SUSPECTS])
    ]
    header = ["file", "picture", "label", "perhaps", "p(label)", "p(perhaps)"]
    caption = f"Suspicious labels, the surest first{some(len(rows), len(found.suspects))}"
    table = [Table(caption, header, rows)] if rows else []
    return Section("Suspicious labels", [Text(text), *table])


def some(shown: int, total: int) -> str:
    """Say in a caption that a table shows a part only.

    >>> some(20, 31), some(3, 3)
    (', 20 of 31', '')
    """
    return f", {shown} of {total:,}" if shown < total else ""
