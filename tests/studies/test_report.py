"""Small run folders are written; the report of their study is read, and its parts are checked."""

import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK, run_command
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix

from signlang.data import sources
from signlang.errors import DataError, SettingError
from signlang.files import write_between, write_csv
from signlang.metrics import classification
from signlang.metrics.classification import Predictions, reliability_diagram
from signlang.metrics.factor_effects import Effect
from signlang.metrics.significance import Difference
from signlang.reporting import plots
from signlang.runs.folder import RunFolder
from signlang.runs.results import Run, read_history, read_predictions
from signlang.studies import comparison, sections
from signlang.studies import plots as study_plots
from signlang.studies.ranking import Pair, Ranking, Row
from signlang.studies.study import Setting, read_study

HOSTILE = ('<b>&"', "US$1$", "ß")
COST = {"parameters": 1_000_000, "flops": 2e8, "size_mb": 4.1, "latency_ms": 3.0}


class Reader(HTMLParser):
    """What a browser and a screen reader would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def write_run(
    study: Path,
    overrides: Mapping[str, str],
    fold: int = 0,
    folds: int = 2,
    accuracy: float = 0.75,
    classes: Sequence[str] = ("A", "B"),
    root: object = "/nowhere",
    source: str = "signlang.data.sources.folder",
    cost: Mapping[str, float] = COST,
    epochs: int = 3,
    each: int = 8,
) -> Path:
    """Write what a finished run leaves; of every class the first images are recognised."""
    model = overrides["model"]
    name = ",".join([model, *(f"{k}={v}" for k, v in overrides.items() if k != "model")])
    run = study / name / f"fold={fold}"
    (run / ".hydra").mkdir(parents=True)
    split = overrides.get("split", "stratified")
    settings = {"model.name": model, "split.name": split, "fold": fold, "folds": folds}
    settings |= {key: value for key, value in overrides.items() if "." in key}
    size = len(classes)
    predictions, table, shares, labels = [], [], [], []
    for label, name in enumerate(classes):
        for number in range(each):
            right = number * size + label < round(accuracy * each * size)
            said = label if right else (label + 1) % size
            p = np.full(size, (0.1 + 0.01 * number) / (size - 1))
            p[said] = 0.9 - 0.01 * number
            path = f"{label}/{fold}-{number}.png"
            predictions.append([path, name, classes[said], p.max(), *p])
            table.append([path, name, f"s{number}", "test"])
            shares.append(p)
            labels.append(label)
    scores = classification.classification_metrics(np.array(shares), np.array(labels))
    metrics: dict[str, Any] = {
        "status": "finished", "model": model, "data": "signs", "split": split,
        "protocol": "test fold untouched", "fold": fold, "folds": folds, "seed": 0,
        "fingerprint": "f", "test": scores, "validation": scores, "cost": cost, "epochs": epochs,
        "seconds": 75.0, "images_per_second": 500.0,
    }  # fmt: skip
    data = {"name": "signs", "fingerprint": "d", "images": 40, "classes": size, "test": 20}
    data |= {"train": 18, "validation": 2}
    record = {
        "format": 2, "signlang": "0.1.0", "fingerprint": "f", "git": "abc123", "device": "CPU",
        "started": "2026-01-02T03:04:05",
        "python": "3.11", "packages": {"torch": "2.6"}, "data": data, "settings": settings,
        "overrides": [f"fold={fold}", *(f"{key}={value}" for key, value in overrides.items())],
    }  # fmt: skip
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "record.json").write_text(json.dumps(record))
    (run / "classes.json").write_text(json.dumps(list(classes)))
    names = [f"p_{name}" for name in classes]
    write_csv(
        run / "predictions.csv", ["path", "label", "predicted", "confidence", *names], predictions
    )
    write_csv(run / "data.csv", ["path", "label", "signer", "subset"], table)
    curves = ["train/loss", "train/accuracy", "validation/loss", "validation/accuracy"]
    history = [[epoch, 1 / (epoch + 1), 0.8, 1 / (epoch + 1), 0.7] for epoch in range(epochs)]
    write_csv(run / "history.csv", ["epoch", *curves], history)
    config = {
        "data": {"root": root and str(root), "source": {"_target_": source, "_partial_": True}},
        "cache_dir": str(study / "cache"), "run_folder": run.relative_to(study.parent).as_posix(),
    }  # fmt: skip
    (run / ".hydra" / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return run


TWO_MODELS = {"one": (1.0, 0.5), "two": (0.75, 0.875)}  # means 0.75 and 0.8125


def write_two_models(study: Path) -> Path:
    """Write a study of two models by two folds, with the accuracies of `TWO_MODELS`."""
    for model, accuracies in TWO_MODELS.items():
        for fold, accuracy in enumerate(accuracies):
            write_run(study, {"model": model}, fold, accuracy=accuracy)
    return study


def ranking_of(study: Path) -> Ranking:
    """What `rank_settings` returns, without its tests."""
    found = read_study(study)
    best: dict[object, Setting] = {}
    rows: list[Row] = []
    for setting in found.settings:
        first = best.setdefault(setting.fold_assignment, setting)
        accuracy, label = setting.predictions.accuracy, found.label(setting)
        p = None if setting is first else 0.0123
        behind = None if setting is first else Difference(0.05, (-0.01, 0.11))
        rows.append(
            Row(setting, label, len(rows) + 1, first, accuracy, p, p, None, behind, "first")
        )
    leaders = list(best.values())
    hidden = Difference(0.1, (-0.02, 0.22))
    pairs = [Pair(leaders[0], leaders[1], "cnn", hidden)] if len(leaders) > 1 else []
    return Ranking(found, rows, pairs)


def read(out: Path) -> Reader:
    return Reader((out / "report.html").read_text())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of small images, as the runs of the grid name them."""
    root = tmp_path_factory.mktemp("images") / "signs"
    rng = np.random.default_rng(0)
    for label in range(len(HOSTILE)):
        (root / str(label)).mkdir(parents=True)
        for fold in range(2):
            for number in range(8):
                pixels = rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / str(label) / f"{fold}-{number}.png")
    return root


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The report of two networks x two rates x two splits, with names from hell."""
    study = tmp_path_factory.mktemp("grid") / "<i>$study$"
    for model, accuracy in (("cnn", 0.75), ("$big$net", 0.875)):
        for rate, more in (("0.001", 0.0), ("0.0001", -0.25)):
            for split, less in (("stratified", 0.0), ("signer", -0.125)):
                for fold in range(2):
                    write_run(
                        study, {"model": model, "optimizer.lr": rate, "split": split}, fold,
                        accuracy=accuracy + more + less, classes=HOSTILE, root=images,
                        epochs=3 + fold, cost=COST | {"flops": 1e8 * len(model)},
                    )  # fmt: skip
    out = study.parent / "out"
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "curves-9.png").write_bytes(b"")
    (out / "figures" / "mine.png").write_bytes(b"")
    comparison.report_page(ranking_of(study)).write(out)
    return out


def test_the_page_needs_nothing_else(grid: Path) -> None:
    text, page = (grid / "report.html").read_text(), read(grid)
    assert "url(" not in text
    assert "@import" not in text
    assert not page.all("script")
    images = page.all("img")
    assert all(image["alt"] and (image["src"] or "").startswith("data:image/") for image in images)
    links = [link["href"] or "" for name in ("a", "link") for link in page.all(name)]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert {link for link in links if link[0] == "#"} <= {
        f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes
    }
    assert all(cell.get("scope") in {"row", "col"} for cell in page.all("th"))
    assert "prefers-color-scheme: dark" in text
    assert page.all("meta")[1]["content"] == "width=device-width, initial-scale=1"


def test_the_page_shows_every_setting_and_figure(grid: Path) -> None:
    page = read(grid)
    for label in ("cnn, lr 0.001, split stratified", "$big$net, lr 0.0001, split signer"):
        assert label in page.text
    assert "0.8750 ± 0.0000" in page.text
    assert "+0.1000" in page.text
    assert "-0.0200 to +0.2200" in page.text
    for title in ("What was compared", "Leaderboard", "Verdicts", "Comparison of splits",
                  "Cost against accuracy", "Effect of each factor", "Learning curves", "Confusion",
                  "Worst mistakes", "Reliability", "Environment", "How to read it"):  # fmt: skip
        assert title in page.text
    shown = {"cost", "factors", *(f"{kind}{n}" for n in ("", "-2") for kind in (
        "confusion", "reliability", "mistakes"))}  # fmt: skip
    shown |= {"curves", *(f"curves-{n}" for n in range(2, 7))}
    files = {file.stem: file for file in (grid / "figures").iterdir()}
    assert set(files) == shown | {"mine"}  # not curves-9, which an earlier report left
    assert len(page.all("img")) == len(shown)
    for name in shown:
        with Image.open(files[name]) as opened:
            assert 300 < opened.width < 2000
            assert 200 < opened.height < 2000
            assert len(opened.convert("L").getcolors() or ()) > 3


def test_names_cannot_break_out_of_the_report(grid: Path) -> None:
    page = read(grid)
    assert not page.all("b")
    assert not page.all("i")
    assert '<b>&"' in page.text
    assert "US$1$" in page.text


def test_one_run_without_images_or_history_is_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", {"model": "cnn"}, folds=1)
    (run / "history.csv").unlink()
    comparison.report_page(ranking_of(tmp_path / "one")).write(tmp_path)
    text = read(tmp_path).text
    assert "cannot be shown. data.root=/nowhere: there is no such folder or file." in text
    assert "No history was written by cnn." in text
    assert "0.7500" in text
    assert "±" in text  # in the heading alone: one fold has no spread
    assert "0.7500 ±" not in text
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {
        "cost", "confusion", "reliability"
    }  # fmt: skip


def test_a_network_without_mistakes_is_told_so(tmp_path: Path) -> None:
    write_run(tmp_path / "one", {"model": "cnn"}, folds=1, accuracy=1.0)
    comparison.report_page(ranking_of(tmp_path / "one")).write(tmp_path)
    text = read(tmp_path).text
    assert "cnn made no mistake." in text
    assert "cnn recognises every image." in text


def test_missing_folds_are_marked(tmp_path: Path) -> None:
    for fold in range(2):
        write_run(tmp_path / "study", {"model": "whole"}, fold)
    write_run(tmp_path / "study", {"model": "half"}, 1)
    comparison.report_page(ranking_of(tmp_path / "study")).write(tmp_path)
    text = read(tmp_path).text
    assert "half (1 of 2 folds)" in text
    assert "What is missing" in text
    assert "fold 0 was not started" in text
    assert "whole (" not in text


def test_a_folder_that_cannot_be_created_gets_one_sentence(tmp_path: Path) -> None:
    write_run(tmp_path / "one", {"model": "cnn"}, folds=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="cannot be created"):
        comparison.report_page(ranking_of(tmp_path / "one")).write(tmp_path / "file" / "out")


def test_what_the_public_command_trains_is_reported(tmp_path: Path, tiny: Path) -> None:
    words = [*QUICK, f"data.root='{tiny}'", "study=real", "trainer.max_epochs=1"]
    done = run_command(tmp_path, *words)
    assert done.code == 0, done.err
    found = ranking_of(tmp_path / "runs" / "real")
    (run,) = found.study.settings[0].runs
    root = sources.images_root(run.path)
    assert None not in sources.read_thumbnails(root, run.predictions.paths)
    comparison.report_page(found).write(tmp_path / "out")
    assert "simple_cnn (1 of 3 folds)" in read(tmp_path / "out").text


def test_a_image_that_is_gone_leaves_a_hole(tmp_path: Path, images: Path) -> None:
    some = sources.read_thumbnails(images, ["0/0-0.png", "0/gone.png"])
    assert some[0] is not None
    assert some[0].size == (sources.THUMBNAIL_SIZE, sources.THUMBNAIL_SIZE)
    assert some[1] is None
    found = read_predictions(RunFolder(write_run(tmp_path / "one", {"model": "cnn"})), 0)
    sheet = plots.mistakes_figure(found, [0, 1], some)
    assert isinstance(sheet, Figure)


def test_images_are_found_where_the_run_found_them(tmp_path: Path, images: Path) -> None:
    study = tmp_path / "study"
    relative = write_run(study, {"model": "a"}, root="signs/digits")
    for inner in ("Dataset/1", "Examples"):
        (tmp_path / "signs" / "digits" / inner).mkdir(parents=True)
    assert sources.images_root(relative) == tmp_path / "signs" / "digits"
    digits = "signlang.data.sources.digits"
    run = write_run(study, {"model": "b"}, root=tmp_path / "signs" / "digits", source=digits)
    assert sources.images_root(run) == tmp_path / "signs" / "digits" / "Dataset"
    table = tmp_path / "table.csv"
    table.write_text("path,label\n")
    assert sources.images_root(write_run(study, {"model": "c"}, root=table)) == tmp_path
    own = write_run(study, {"model": "d"}, root=images, source="os.system")
    assert sources.images_root(own) == images  # without calling it


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_download_digits", lambda *_: pytest.fail("network"))
    monkeypatch.setattr(sources, "_download_asl_alphabet", lambda *_: pytest.fail("network"))
    study = tmp_path / "study"
    asl = write_run(
        study, {"model": "a"}, root=None, source="signlang.data.sources.asl_alphabet"
    )  # fmt: skip
    digits = write_run(study, {"model": "b"}, root=None, source="signlang.data.sources.digits")
    for run in (asl, digits):
        with pytest.raises(DataError, match="not in the cache"):
            sources.images_root(run)
    kaggle = study / "cache/downloads/kaggle/datasets/grassknoted/asl-alphabet/versions"
    for version in ("9", "10"):
        inner = kaggle / version / "asl_alphabet_train" / "asl_alphabet_train"
        inner.mkdir(parents=True)
    assert sources.images_root(asl) == inner
    (study / "cache/downloads/sign-language-digits/0").mkdir(parents=True)
    assert sources.images_root(digits) == study / "cache/downloads/sign-language-digits"


@pytest.mark.parametrize("text", ["", "- 1", "data: {root: 1, source: [1]}", "data: ${x", "\0"])
def test_damaged_configurations_get_a_sentence(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "study", {"model": "a"})
    (run / ".hydra" / "config.yaml").write_text(text)
    with pytest.raises(DataError):
        sources.images_root(run)


def predictions(labels: Sequence[int], predicted: Sequence[int], classes: int) -> Predictions:
    sure = np.linspace(0.6, 0.9, len(labels))
    table = np.full((len(labels), classes), 0.01)
    table[np.arange(len(labels)), predicted] = sure
    names = tuple(f"class {n}" for n in range(classes))
    paths = tuple(map(str, range(len(labels))))
    return Predictions(names, paths, np.array(labels), table, np.zeros(len(labels), int), None)


def test_confusion_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    found = predictions(rng.integers(0, 5, 200).tolist(), rng.integers(0, 5, 200).tolist(), 6)
    counts = classification.confusion_matrix(found)
    assert (counts == confusion_matrix(found.labels, found.predicted, labels=range(6))).all()
    pairs = classification.confusions(found, most=3)
    assert [p.count for p in pairs] == sorted(counts[~np.eye(6, dtype=bool)])[:-4:-1]
    assert pairs[0].share == pairs[0].count / counts.sum(1)[int(pairs[0].label[-1])]
    shares = [share.value for share in classification.recalls(found).values() if share.total]
    assert shares == sorted(shares)
    empty = [name for name, share in classification.recalls(found).items() if not share.total]
    assert empty == ["class 5"]


def test_worst_mistakes_are_the_surest() -> None:
    assert classification.most_confident_mistakes(
        predictions([0, 0, 1, 1], [1, 0, 0, 1], 2)
    ).tolist() == [2, 0]
    assert not len(classification.most_confident_mistakes(predictions([0], [0], 2)))


def test_charts_of_many_classes_and_of_none_in_a_bin() -> None:
    many = predictions(list(range(80)) * 2, [0, *range(79)] * 2, 80)
    chart = plots.confusion_figure(many)
    assert not chart.axes[0].texts
    assert plots.reliability_figure(reliability_diagram([1.0], [True])).axes


def point(name: str, cost: float, accuracy: float, group: int = 0) -> study_plots.Point:
    return study_plots.Point(
        name, f"{name}, lr 1", group, accuracy, 0.01, dict.fromkeys(study_plots.COSTS, cost)
    )


@pytest.mark.parametrize("count", [1, 18])
def test_points_of_the_chart_of_costs_have_numbers_and_a_key(count: int) -> None:
    found = [point(f"net{n}", 10.0 ** (n + 1), 0.9 - n / 100, group=n % 2) for n in range(count)]
    chart = study_plots.cost_chart(found, ["one", "other"])
    columns = -(-count // study_plots.KEY_LINES)
    assert len(chart.axes) == 3 + columns
    for panel in chart.axes[:3]:
        numbers = {text.get_text(): text.xy for text in panel.texts}  # type: ignore[attr-defined]
        assert numbers == {str(n): (10.0**n, 0.9 - (n - 1) / 100) for n in range(1, count + 1)}
    key = [text.get_text() for column in chart.axes[3:] for text in column.texts]
    assert key == [f"{n:2}  net{n - 1}" for n in range(1, count + 1)]
    assert study_plots.ticks(1e-3, 1e3)


def test_the_chart_of_costs_takes_the_best_of_each_network(grid: Path) -> None:
    found = ranking_of(grid.parent / "<i>$study$")
    settings = [row.setting for row in found.rows]
    points = study_plots.points(settings, found.study.labels)
    assert [(p.name, p.group, p.accuracy) for p in points] == [
        ("$big$net", 0, 0.875), ("$big$net", 1, 0.75), ("cnn", 0, 0.75), ("cnn", 1, 0.625),
    ]  # fmt: skip
    assert len(sections.bests(found)) == 2
    chosen = sections.selected(found)
    assert len(chosen) == sections.CURVES
    assert {(s.model, s.fold_assignment) for s in chosen} == {
        (s.model, s.fold_assignment) for s in settings
    }


def test_effects_are_shown_in_the_order_of_size_with_their_p_value() -> None:
    one = Effect(0.9, float("nan"), 1)
    chart = study_plots.effects_chart(
        {"lr": {"0.1": one, "1": one}, "$aug$": {"no": one}}, {"lr": 0.0004, "$aug$": None}
    )
    assert [panel.get_title() for panel in chart.axes] == ["lr\np < 0.001", r"\$aug\$"]
    chart.draw_without_rendering()
    assert sorted(["64", "none", "128"], key=comparison._size) == ["64", "128", "none"]


def test_factors_of_an_incomplete_grid_are_not_averaged(tmp_path: Path) -> None:
    study = tmp_path / "study"
    for model, rate in (("a", "0.1"), ("a", "0.2"), ("b", "0.1")):
        for fold in range(2):
            write_run(study, {"model": model, "optimizer.lr": rate}, fold)
    section = comparison.effects(ranking_of(study))
    assert section is not None
    assert [type(block).__name__ for block in section.blocks] == ["Text"]
    assert re.search("the merit of another", str(section.blocks[0]))
    write_run(study, {"model": "b", "optimizer.lr": "0.2"}, 0)  # now but a run is missing
    section = comparison.effects(ranking_of(study))
    assert section is not None
    assert re.search("There are no p values", str(section.blocks[0]))
    assert [type(block).__name__ for block in section.blocks] == ["Text", "ImageBlock", "Table"]


def test_curves_of_a_single_epoch_are_visible(tmp_path: Path) -> None:
    run = write_run(tmp_path / "study", {"model": "a"}, epochs=1)
    chart = study_plots.learning_curves([Run(run, {}, {}, read_history(run))])
    assert chart is not None
    assert [line.get_marker() for line in chart.axes[0].lines] == ["o", "o"]


def test_text_between_marks_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    before, after = "# é\n\n<!-- a: begin -->", "<!-- a: end -->\n<!-- b: begin -->\n"
    readme.write_text(f"{before}old\\1{after}", "utf-8")
    for _ in range(2):
        write_between(readme, "a", r"new \1")
        assert readme.read_text("utf-8") == f"{before}\n\nnew \\1\n\n{after}"
    for name in ("b", "c"):
        with pytest.raises(DataError, match=f"lacks the lines <!-- {name}: begin"):
            write_between(readme, name, "x")


def guessing(panel: Any) -> list[str]:
    """Lines of a chart that show the accuracy of guessing."""
    return [text.get_text() for text in panel.texts if text.get_text().startswith("guessing")]


def test_the_accuracy_of_guessing_is_a_line_where_it_is_in_sight(tmp_path: Path) -> None:
    run = write_run(tmp_path / "study", {"model": "a"}, epochs=3)
    record = {"data": {"classes": 4}}
    chart = study_plots.learning_curves([Run(run, {}, record, read_history(run))])
    assert chart is not None
    loss, accuracy = chart.axes
    assert (guessing(loss), guessing(accuracy)) == ([], ["guessing 0.25"])
    dotted = [np.asarray(one.get_ydata()) for one in accuracy.lines if one.get_linestyle() == ":"]
    assert [values.tolist() for values in dotted] == [[0.25, 0.25]]
    for best, seen in ((0.9, []), (0.13, ["guessing 0.1"])):
        costs = study_plots.cost_chart([point("a", 10, best), point("b", 99, best)], ["one"], 10)
        assert guessing(costs.axes[0]) == []  # 0.02 below the lowest bar is out of sight
        levels = {"lr": {"1": Effect(best, 0.05, 2), "2": Effect(best - 0.06, 0.05, 2)}}
        effects = study_plots.effects_chart(levels, {"lr": None}, 10)
        assert guessing(effects.axes[0]) == seen
    low = study_plots.cost_chart([point("a", 10, 0.3), point("b", 99, 0.1)], ["one"], 10)
    assert guessing(low.axes[0]) == ["guessing 0.1"]


def test_a_large_confusion_matrix_has_lines_to_follow_and_names_at_both_ends() -> None:
    for classes, large in ((10, False), (36, True)):
        panel = plots.matrix_figure(np.eye(classes, dtype=np.int64), [*map(str, range(classes))])
        (axes,) = panel.axes
        assert (len(axes.xaxis.get_minorticklocs()) == classes + 1) == large
        panel.draw_without_rendering()
        ticks = [*axes.xaxis.get_major_ticks(), *axes.yaxis.get_major_ticks()]
        both = {tick.label1.get_visible() and tick.label2.get_visible() for tick in ticks}
        assert both == {large}
