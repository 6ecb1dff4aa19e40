"""A sweep is trained once by the public command; its study is compared, broken, and completed."""

import csv
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import CHROMIUM, browser_page, events_of, hparams_page
from conftest import QUICK, ROOT, run_command
from playwright.sync_api import expect
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from sklearn.metrics import accuracy_score, f1_score, log_loss

from signlang.errors import RunError, SettingError
from signlang.metrics.significance import clustered_interval, paired_difference
from signlang.reporting.formatting import percent
from signlang.studies import comparison, leaderboard_columns, verdicts
from signlang.studies.ranking import rank_settings
from signlang.studies.study import read_study

FOLDS = range(3)
RATES = ("0.01", "0.001")
SWEEP = [word for word in QUICK if not word.startswith("trainer.max_epochs")]
OUTPUTS = {
    "leaderboard.csv", "leaderboard.md", "predictions.csv", "report.html", "cross_validated",
    "figures", "calibration.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two learning rates by two splits by three folds; read them, copy them."""
    place = tmp_path_factory.mktemp("trained")
    result = run_command(
        place, "-m", *SWEEP, f"data.root='{tiny}'", "trainer.max_epochs=2", "fold=0,1,2",
        "optimizer.lr=1e-3,1e-2", "split=stratified,signer",
    )  # fmt: skip
    assert result.code == 0, result.err
    return place / "runs" / "Bilder_1"


@pytest.fixture
def study(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the random folds, seen from where its user is."""
    monkeypatch.chdir(tmp_path)
    copy_settings(trained, Path("runs/folder"), "split=stratified")
    return Path("runs/folder")


@pytest.fixture
def unseen_signers(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folds that keep signers apart, which are harder."""
    monkeypatch.chdir(tmp_path)
    copy_settings(trained, Path("runs/strangers"), "split=signer")
    return Path("runs/strangers")


def copy_settings(trained: Path, study: Path, word: str) -> None:
    for folder in trained.iterdir():  # names leave out the default, split=stratified
        is_signer = "split=signer" in folder.name
        if is_signer == (word == "split=signer") and list(folder.glob("fold=*/record.json")):
            shutil.copytree(folder, study / folder.name)


def setting_of(study: Path, rate: str = RATES[0]) -> Path:
    (folder,) = study.glob(f"*+lr={rate}*")
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def change(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text("utf-8"))
    edit(content)
    file.write_text(json.dumps(content))


def state_of(study: Path) -> dict[str, tuple[int, str]]:
    """Time and content of every file of every run."""
    return {
        str(file): (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in study.glob("*/fold=*/**/*")
        if file.is_file()
    }


def refused(study: Path, **options: Any) -> str:
    with pytest.raises(RunError) as caught:
        comparison.compare_study(study, **options)
    assert not (study / "leaderboard.csv").exists()
    return str(caught.value)


def test_the_command_writes_everything_and_touches_no_run(study: Path) -> None:
    before = state_of(study)
    result = run_command(Path.cwd(), "runs/folder", verb="compare")
    assert result.code == 0, result.err
    assert {path.name for path in study.iterdir() if path.name not in before} >= OUTPUTS
    assert state_of(study) == before
    assert not list(study.glob(".*"))  # no temporary files
    for words in ("accuracy", "macro", "Best of 2 settings", "leaderboard.md", "tensorboard"):
        assert words in result.out
    assert "split=signer would measure" in result.out
    assert "cross_validated" not in result.out  # the dashboards are those of the folds as well


def test_figures_are_those_of_the_predictions(unseen_signers: Path) -> None:
    comparison.compare_study(unseen_signers)
    lines = {line["setting"]: line for line in rows_of(unseen_signers / "leaderboard.csv")}
    for folder in map(setting_of, [unseen_signers] * 2, RATES):
        line = lines[folder.name]
        found: dict[str, list[float]] = {"accuracy": [], "macro_f1": [], "loss": []}
        correct, signers = [], []
        for fold in FOLDS:
            rows = rows_of(folder / f"fold={fold}" / "predictions.csv")
            labels, said = zip(*((r["label"], r["predicted"]) for r in rows), strict=True)
            p = np.array([[float(r[f"p_{c}"]) for c in ("A", "B", "ß")] for r in rows])
            found["accuracy"].append(accuracy_score(labels, said))
            found["macro_f1"].append(f1_score(labels, said, average="macro"))
            found["loss"].append(log_loss(labels, p / p.sum(1, keepdims=True)))
            correct += [a == b for a, b in zip(labels, said, strict=True)]
            signers += [int(re.findall(r"\d+", r["path"])[-1]) % 6 for r in rows]
            assert float(line[f"accuracy_fold_{fold}"]) == pytest.approx(found["accuracy"][-1])
        for name, values in found.items():
            assert float(line[name]) == pytest.approx(np.mean(values), abs=1e-3)
        deviation = np.std(found["accuracy"], ddof=1)
        assert float(line["accuracy_2sd"]) == pytest.approx(2 * deviation, abs=1e-6)
        interval = [float(line["accuracy_low"]), float(line["accuracy_high"])]
        expected = clustered_interval(correct, [f"s{n}" for n in signers])
        assert interval == pytest.approx(expected, abs=1e-6)
        assert line["clusters"] == "6 signers"


def test_tests_are_those_of_the_predictions(unseen_signers: Path) -> None:
    best, other = comparison.compare_study(unseen_signers).rows
    assert best.p is None
    differences = best.setting.values("accuracy") - other.setting.values("accuracy")
    assert differences.any()
    trained = [run.record["data"]["train"] for run in best.setting.runs]
    assert max(trained) < 24  # some are held back for validation
    share = np.mean([12 / count for count in trained])
    error = np.sqrt((1 / 3 + share) * differences.var(ddof=1))  # Nadeau and Bengio
    assert other.p == pytest.approx(2 * stats.t.sf(differences.mean() / error, 2))
    said = {
        row.setting.name: {
            r["path"]: r["label"] == r["predicted"]
            for r in rows_of(unseen_signers / "predictions.csv")
            if r["setting"] == row.setting.name
        }
        for row in (best, other)
    }
    a, b = said[best.setting.name], said[other.setting.name]
    signers = [int(re.findall(r"\d+", path)[-1]) % 6 for path in a]
    by_signer = paired_difference(list(a.values()), [b[path] for path in a], signers)
    assert other.p_mcnemar is None
    assert other.difference is not None
    assert other.difference.value == pytest.approx(by_signer.value)
    assert other.difference.interval == pytest.approx(by_signer.interval)
    verdict = verdicts.row_verdict(other)
    assert verdict
    text = verdicts.sentences(rank_settings(read_study(unseen_signers)))
    assert any(verdict in sentence for sentence in text)


def test_an_experiment_keeps_what_it_knows_of_other_studies(study: Path) -> None:
    place = Path("experiment")
    place.mkdir()
    text = "# E\n\n<!-- folder: begin -->old<!-- folder: end -->\n\nother\n"
    (place / "README.md").write_text(text, "utf-8")
    (place / "published.csv").write_text("study,setting,published\n", "utf-8")
    lines = "study,rank,a factor\nfolder,1,gone\nelsewhere,1,kept\nfolder,2,gone\n"
    (place / "results.csv").write_text(lines, "utf-8")
    words = [sys.executable, str(ROOT / "experiments" / "results.py"), "experiment", str(study)]
    subprocess.run(words, check=True, timeout=600)
    rows = rows_of(place / "results.csv")
    assert [(row["study"], row["rank"], row["a factor"]) for row in rows] == [
        ("folder", "1", ""), ("folder", "2", ""), ("elsewhere", "1", "kept"),
    ]  # fmt: skip
    assert {row["optimizer.lr"] for row in rows[:2]} == set(RATES)
    text = (place / "README.md").read_text("utf-8")
    assert text.startswith("# E\n\n<!-- folder: begin -->\n\n### `folder`")
    assert text.endswith("<!-- folder: end -->\n\nother\n")
    assert "Best of 2 settings" in text
    assert {figure.name for figure in (place / "figures").iterdir()} >= {"folder-confusion.png"}


def test_an_experiment_tells_how_far_from_learnt_frames_accuracy_lasts(study: Path) -> None:
    Path("README.md").write_text("<!-- distance: begin --><!-- distance: end -->", "utf-8")
    words = [sys.executable, str(ROOT / "experiments" / "distance.py"), ".", str(study)]
    subprocess.run(words, check=True, timeout=600)
    text = Path("README.md").read_text("utf-8")
    for rate in RATES:
        (line,) = (line for line in text.splitlines() if f"lr {rate} " in line)
        columns: dict[str, list[bool]] = {"1": [], "2": [], "3 to 5": []}
        for fold in setting_of(study, rate).glob("fold=*"):
            said = {row["path"]: row["predicted"] for row in rows_of(fold / "predictions.csv")}
            rows = {row["path"]: row for row in rows_of(fold / "data.csv")}
            for path, predicted in said.items():
                name, number = path.split("/")[0], int(re.findall(r"\d+", path)[-1])
                known = [
                    abs(number - int(re.findall(r"\d+", other)[-1]))
                    for other, row in rows.items()
                    if row["subset"] == "train" and row["label"] == name
                ]
                column = "1" if min(known) == 1 else "2" if min(known) == 2 else "3 to 5"
                columns[column].append(predicted == name)
        cells = [f"{np.mean(c):.4f} ({len(c)})" if c else "" for c in columns.values()]
        assert sum(map(len, columns.values())) == 36
        assert line.endswith(f"| {' | '.join([*cells, '', ''])} |")


def test_every_image_is_predicted_once_by_each_setting(study: Path) -> None:
    comparison.compare_study(study)
    rows = rows_of(study / "predictions.csv")
    for rate in RATES:
        paths = [r["path"] for r in rows if r["setting"] == setting_of(study, rate).name]
        assert len(paths) == len(set(paths)) == 36
    assert list(rows[0])[:4] == ["setting", "fold", "path", "label"]


def test_tensorboard_shows_the_means_and_the_folds(study: Path) -> None:
    for _ in range(2):  # the second comparison replaces the first
        comparison.compare_study(study)
    (study / "cross_validated" / "gone").mkdir()
    (study / "cross_validated" / "gone" / "events.out.tfevents.1.signlang").write_bytes(b"")
    rows = comparison.compare_study(study).rows
    assert {p.name for p in (study / "cross_validated").iterdir()} == {
        row.setting.name for row in rows
    }
    for row in rows:
        folder = study / "cross_validated" / row.setting.name
        assert len(list(folder.iterdir())) == 1
        events = events_of(folder)
        (mean,) = events.Scalars("test/accuracy")
        assert mean.value == pytest.approx(row.setting.mean("accuracy"))
        folds = events.Scalars("test/each fold/accuracy")
        assert [point.step for point in folds] == [0, 1, 2]
        assert [p.value for p in folds] == pytest.approx(row.setting.values("accuracy").tolist())


def test_hparams_has_one_schema_and_every_cell_for_folds_and_means(study: Path) -> None:
    for _ in range(2):  # the second comparison doubles no row
        ranking = comparison.compare_study(study)
    schemas, rows = hparams_page(study)
    assert len(schemas) == len(rows) == 2 * (3 + 1)
    (hparams, metrics), *others = schemas
    assert all(schema == (hparams, metrics) for schema in others)  # any one may be taken
    needed = {"model", "split", "protocol", "fold", "optimizer.lr", "batch_size", "image_size"}
    assert needed <= set(hparams)
    assert metrics == [f"test/{m}" for m in ("accuracy", "macro_f1", "loss", "calibration_error")]
    for name, cells in rows.items():
        assert list(cells) == [*hparams, *metrics], name  # no blank cell
    for setting in ranking.study.settings:
        name = setting.name
        cells = rows[f"cross_validated/{name}"]
        assert cells["fold"] == "all"
        assert cells["optimizer.lr"] == float(setting.choice("optimizer.lr"))
        folds = [rows[f"{name}/fold={fold}"] for fold in FOLDS]
        assert [fold["fold"] for fold in folds] == ["0", "1", "2"]
        unlike = {"fold", *metrics}
        for fold in folds:
            assert {k: v for k, v in fold.items() if k not in unlike} == {
                k: v for k, v in cells.items() if k not in unlike
            }
        for metric in metrics:
            mean = np.mean([fold[metric] for fold in folds])
            assert cells[metric] == pytest.approx(mean, abs=1e-6)


@pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"no browser at {CHROMIUM}")
def test_a_browser_shows_every_row_and_the_curves_first(study: Path) -> None:
    comparison.compare_study(study)
    with browser_page(study) as (page, address):
        page.goto(f"{address}#hparams")
        cells = page.locator("tf-hparams-table-view vaadin-grid-cell-content")
        of_split = cells.get_by_text("stratified", exact=True)
        expect(of_split).to_have_count(8, timeout=30_000)
        words = [word for word in cells.all_inner_texts() if word.strip()]
        folds = Counter(word for word in words if word in {"all", "0", "1", "2"})
        assert folds == dict.fromkeys(("all", "0", "1", "2"), 2)
        titles = ["batch size", "fold", "model", "learning rate", "split", "test accuracy"]
        assert words[2:8] == titles
        page.goto(f"{address}#scalars")
        groups = page.locator("tf-category-paginated-view .category-name")
        expect(groups.first).to_have_text("accuracy", timeout=30_000)
        expect(groups.nth(1)).to_have_text("loss")
        page.goto(f"{address}#custom_scalars")
        page.reload()
        charts = page.locator("tf-custom-scalar-multi-line-chart-card")
        expect(charts).to_have_count(4, timeout=30_000)


def test_a_missing_fold_is_named_with_the_command_that_completes_it(study: Path) -> None:
    shutil.rmtree(setting_of(study) / "fold=1")
    result = run_command(Path.cwd(), "runs/folder", verb="compare")
    assert result.code == 1
    assert "has 2 of 3 folds: fold 1 was not started" in result.err
    assert "Traceback" not in result.err
    assert result.err.endswith("look at what there is with allow_incomplete=true.\n")
    (command,) = re.findall(r"^ +(python -m signlang.train .*)$", result.err, re.MULTILINE)
    assert "study=folder" in command  # which is not the name of its data set
    done = run_command(Path.cwd(), *shlex.split(command)[3:])
    assert done.code == 0, done.err
    assert all(row.setting.is_complete for row in comparison.compare_study(study).rows)


def test_incomplete_settings_are_marked_and_come_last(study: Path) -> None:
    best, _ = rank_settings(read_study(study)).rows
    shutil.rmtree(best.setting.path / "fold=0")
    rows = comparison.compare_study(study, allow_incomplete=True).rows
    assert [row.setting.is_complete for row in rows] == [True, False]
    assert rows[1].setting.name == best.setting.name
    assert rows[1].p is not None  # over the two folds that both finished
    lines = rows_of(study / "leaderboard.csv")
    assert [(line["complete"], line["accuracy_fold_0"] == "") for line in lines] == [
        ("true", False), ("false", True),
    ]  # fmt: skip
    text = (study / "leaderboard.md").read_text("utf-8")
    assert "2\\*" in text
    assert "1 setting of 2 is not complete" in text
    assert "    python -m signlang.train -m " in text


def test_one_common_fold_has_no_test_over_folds(study: Path) -> None:
    for fold in (1, 2):
        shutil.rmtree(setting_of(study) / f"fold={fold}")
    ranking = comparison.compare_study(study, allow_incomplete=True)
    assert ranking.rows[1].p is None
    assert ranking.rows[1].difference is not None
    text = verdicts.sentences(ranking)
    assert any("fewer than two finished folds" in sentence for sentence in text)


def failed(run: Path) -> None:
    (run / "metrics.json").unlink()
    with (run / "run.log").open("a") as stream:
        stream.write("2026-01-01 00:00:00,000 ERROR signlang: the run failed\n")


def cut_metrics(run: Path) -> None:
    file = run / "metrics.json"
    file.write_bytes(file.read_bytes()[:200])


def of_another_version(run: Path) -> None:
    change(run / "metrics.json", lambda content: content["test"].pop("macro_f1"))
    change(run / "record.json", lambda content: content.update(signlang="0.0.1"))


def diverged(run: Path) -> None:
    change(run / "metrics.json", lambda content: content["test"].update(loss=float("nan")))


def diverged_wholly(run: Path) -> None:
    nothing = dict.fromkeys(("loss", "calibration_error"), float("nan"))
    change(run / "metrics.json", lambda content: content["test"].update(nothing))


def more_than_all(run: Path) -> None:
    change(run / "metrics.json", lambda content: content["test"].update(accuracy=97.1))


def of_another_run(run: Path) -> None:
    change(run / "metrics.json", lambda content: content.update(fingerprint="0" * 32))


def spoilt_history(run: Path) -> None:
    file = run / "history.csv"
    file.write_text(file.read_text("utf-8").replace("\n0,", "\n0,much"), "utf-8")


def without_data(run: Path) -> None:
    change(run / "record.json", lambda content: content["data"].pop("test"))


def copied(run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(run.with_name("fold=0"), run)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (failed, r"fold 1 failed \(see .*fold=1/run\.log\)"),
        (lambda run: (run / "metrics.json").unlink(), r"fold 1 is not finished \(2 epochs done\)"),
        (cut_metrics, r"fold=1/metrics\.json cannot be read"),
        (
            of_another_version,
            r"metrics\.json, written by signlang 0\.0\.1: test\.macro_f1 is miss",
        ),
        (diverged, r"fold 1 diverged \(its loss is nan"),
        (diverged_wholly, r"fold 1 diverged \(its loss is nan"),
        (more_than_all, r"metrics\.json, written by .*: test\.accuracy=97\.1: it must be a numb"),
        (of_another_run, r"metrics\.json and record\.json beside it are of different runs"),
        (spoilt_history, r"fold=1/history\.csv is damaged \(could not convert .*'much"),
        (without_data, r"record\.json, written by .*: data\.test is missing: it must be a whole"),
        (copied, r"fold=1/metrics\.json is of fold 0: the folder was moved or copied here"),
    ],
)
def test_a_spoilt_run_is_a_missing_fold(
    study: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(setting_of(study) / "fold=1")
    text = refused(study)
    assert re.search(words, text), text
    assert ("overwrite=true fold=1" in text) == ("cannot be used" in text)
    assert comparison.compare_study(study, allow_incomplete=True).rows[
        1
    ].setting.missing.keys() == {1}


def other_data(run: Path) -> None:
    change(run / "record.json", lambda content: content["data"].update(fingerprint="0" * 32))


def cut_predictions(run: Path) -> None:
    file = run / "predictions.csv"
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:6]), "utf-8")


def torn_predictions(run: Path) -> None:
    file = run / "predictions.csv"
    file.write_bytes(file.read_bytes()[:300])


def other_accuracy(run: Path) -> None:
    change(run / "metrics.json", lambda content: content["test"].update(accuracy=0.123))


def improbable(run: Path) -> None:
    file = run / "predictions.csv"
    head, first, *rest = file.read_text("utf-8").splitlines()
    file.write_text("\n".join([head, first.rpartition(",")[0] + ",9", *rest]), "utf-8")


def without_column(run: Path) -> None:
    file = run / "data.csv"
    file.write_text(file.read_text("utf-8").replace("signer,", "", 1), "utf-8")


def renamed_class(run: Path) -> None:
    (run / "classes.json").write_text('["A", "B", "C"]')


def renamed_everywhere(run: Path) -> None:
    renamed_class(run)
    for name in ("predictions.csv", "data.csv"):
        text = (run / name).read_text("utf-8")
        text = text.replace("p_ß", "p_C").replace(",ß,", ",C,").replace(",ß,", ",C,")  # beside too
        (run / name).write_text(text, "utf-8")


def same_images(run: Path) -> None:
    for name in ("predictions.csv", "data.csv"):
        shutil.copy(run.with_name("fold=0") / name, run / name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            other_data,
            r"fold=1 and fold=0 beside it differ in settings or data.*00000000 now|data: 36 ima",
        ),
        (cut_predictions, r"fold=1/predictions\.csv holds 5 images, but the test fold .* has 12"),
        (
            torn_predictions,
            r"fold=1/predictions\.csv is damaged in line \d+\. Train this run again",
        ),
        (
            other_accuracy,
            r"fold=1/predictions\.csv has \d+ of 12 images right, .* of 0\.1230: they",
        ),
        (improbable, r"fold=1/predictions\.csv is empty, or holds probabilities that are none"),
        (without_column, r"fold=1/data\.csv is missing or damaged\. Train this run again"),
        (renamed_class, r"fold=1/predictions\.csv does not fit classes\.json .* p_C, p_ß"),
        (renamed_everywhere, r"fold=\d/classes\.json and .*fold=1/classes\.json hold different"),
        (same_images, r"fold=1/predictions\.csv and .*fold=0/predictions\.csv hold the same ima"),
    ],
)
def test_runs_that_contradict_each_other_are_refused(
    study: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(setting_of(study) / "fold=1")
    for allow in (False, True):
        text = refused(study, allow_incomplete=allow)
        assert re.search(words, text), text
        assert "\n" not in text


def test_settings_tested_on_other_images_are_refused(study: Path) -> None:
    for name in ("predictions.csv", "data.csv"):
        file = setting_of(study) / "fold=1" / name
        file.write_text(file.read_text("utf-8").replace("A/A", "A/X"), "utf-8")
    text = refused(study)
    assert "hold different images" in text
    assert text.count("fold=1/predictions.csv") == 2
    assert "\n  A/A" in text


def test_folders_without_runs_are_explained(study: Path) -> None:
    Path("runs/nothing").mkdir()
    assert "holds no run" in refused(Path("runs/nothing"))
    assert "Did you mean folder?" in refused(Path("runs/foldr"))
    assert "Name one of them: folder" in refused(Path("runs"))
    for file in study.glob("*/*/metrics.json"):
        file.unlink()
    text = refused(study, allow_incomplete=True)
    assert "holds no finished run" in text
    assert text.count("fold=0,1,2") == len(RATES)


def test_sorting_keeps_the_ranks(study: Path) -> None:
    with pytest.raises(SettingError, match=r"acuracy: there is no such column. Did you mean accu"):
        comparison.compare_study(study, sort="acuracy")
    ranking = comparison.compare_study(study, sort="optimizer.lr")
    lines = rows_of(study / "leaderboard.csv")
    assert list(lines[0]) == list(leaderboard_columns.csv_columns(ranking.study))
    assert [float(line["optimizer.lr"]) for line in lines] == [0.001, 0.01]
    by_rank = sorted(lines, key=lambda line: int(line["rank"]))
    assert [line["setting"] for line in by_rank] == [row.setting.name for row in ranking.rows]


def test_splits_stand_side_by_side(trained: Path, study: Path) -> None:
    copy_settings(trained, study, "split=signer")
    ranking = comparison.compare_study(study)
    assert [row.setting.split for row in ranking.rows[:2]] != ["stratified", "signer"]
    assert {(row.setting.split, row.best.split) for row in ranking.rows} == {
        ("stratified", "stratified"), ("signer", "signer"),
    }  # fmt: skip
    assert [line["rank"] for line in rows_of(study / "leaderboard.csv")] == ["1", "2", "1", "2"]
    assert len(ranking.pairs) == 2
    for pair in ranking.pairs:
        assert (pair.random.split, pair.apart.split) == ("stratified", "signer")
        difference = pair.random.predictions.correct.mean() - pair.apart.predictions.correct.mean()
        assert pair.difference.value == pytest.approx(difference)
        low, high = pair.difference.interval or (1, 1)
        assert low <= pair.difference.value <= high
        assert "split" not in pair.label
    text = "\n".join(verdicts.sentences(ranking))
    assert text.count("Random folds hide") + text.count("No bias of random folds") == 2
    assert "not ranked against each other" in text
    assert "would measure" not in text


def test_the_published_protocol_makes_a_table(tiny: Path, tmp_path: Path) -> None:
    result = run_command(
        tmp_path, "-m", *SWEEP, f"data.root='{tiny}'", "trainer.max_epochs=1", "fold=0,1,2",
        "split.validation=fold",
    )  # fmt: skip
    assert result.code == 0, result.err
    (line,) = rows_of(tmp_path / "runs" / "Bilder_1" / "leaderboard.csv")
    assert (line["protocol"], line["complete"]) == ("validation=fold", "true")
    assert line["accuracy"] == line["validation_accuracy"]
    assert "The figures are optimistic" in result.out
    assert "validation=fold: the test folds selected the checkpoints; accuracy" in result.out
    assert "(in-sample: the test fold selected the checkpoint)" in result.out
    for run in (tmp_path / "runs" / "Bilder_1").glob("*/fold=*"):
        calibration = json.loads((run / "calibration.json").read_text("utf-8"))
        assert calibration["calibration_error"].keys() == {"validation"}
        assert "split.validation=fold" in calibration["remark"]
    study = json.loads((tmp_path / "runs" / "Bilder_1" / "calibration.json").read_text("utf-8"))
    (setting,) = study["settings"].values()
    assert setting == {
        "not_calibrated": "the test folds selected the checkpoints (split.validation=fold)"
    }
    done = run_command(tmp_path, f"run='{run}'", "verify=generated", "calibration=study",
                       verb="export")  # fmt: skip
    assert done.code == 1
    assert "the test folds selected the checkpoints" in done.err
    assert "Traceback" not in done.err
    done = run_command(tmp_path, f"run='{run}'", "verify=generated", verb="export")
    assert done.code == 0, done.err
    (bundle,) = (tmp_path / "bundles").iterdir()
    assert "there are no figures of other images" in (bundle / "card.md").read_text("utf-8")


def test_the_folds_of_a_study_calibrate_what_is_exported(study: Path) -> None:
    setting = setting_of(study)
    change(setting / "fold=0" / "calibration.json", lambda c: c.update(wanted_precision=0.9))
    comparison.compare_study(study)
    content = json.loads((study / "calibration.json").read_text("utf-8"))
    fitted = content["settings"][setting.name]
    assert fitted["images"] == 36  # one run has 3 validation images, too few for a threshold
    assert {f["images"] for f in fitted["folds"].values()} == {24}
    exported = {}
    for kind in ("auto", "run"):
        done = run_command(
            Path(), f"run='{setting / 'fold=1'}'", "verify=generated", f"calibration={kind}",
            f"out={kind}", verb="export",
        )  # fmt: skip
        assert done.code == 0, done.err
        exported[kind] = json.loads(Path(kind, "bundle.json").read_text("utf-8"))
    keys = ("temperature", "reject_threshold", "wanted_precision")
    assert {key: exported["auto"][key] for key in keys} == {key: fitted[key] for key in keys}
    assert exported["auto"]["calibration"] == {
        "source": "the test folds of the study, each predicted by its own network",
        **{key: fitted[key] for key in ("images", "kept", "reason", "no_threshold")},
    }
    own = json.loads((setting / "fold=1" / "calibration.json").read_text("utf-8"))
    assert exported["run"]["calibration"]["images"] == own["images"] == 3
    assert exported["run"]["calibration"]["source"] == "the validation subset of the run"
    error = fitted["folds"]["1"]["calibration_error"]
    card = Path("auto", "card.md").read_text("utf-8")
    assert "fitted on 36 images of the test folds of the study" in card
    assert f"{error['before']:.4f} before and {error['after']:.4f} after it. Figures of" in card
    reached = f"{percent(fitted['cross_fitted']['coverage'])} of the images are accepted"
    assert (reached in card) is (fitted["reject_threshold"] is not None)
    assert "too few images: 3, and at least 100 are needed" in Path("run", "card.md").read_text()

    shutil.rmtree(setting / "fold=2")
    words = [f"run='{setting / 'fold=1'}'", "verify=generated", "out=less"]
    done = run_command(Path(), *words, "calibration=study", verb="export")
    assert done.code == 1
    assert "not all folds are finished (fold 2). calibration=run takes its own." in done.err
    done = run_command(Path(), *words, verb="export")
    assert done.code == 0, done.err
    less = json.loads(Path("less", "bundle.json").read_text("utf-8"))
    assert less["calibration"]["source"] == "the validation subset of the run"


def test_what_cannot_be_compared_is_said(study: Path) -> None:
    for file in setting_of(study).glob("*/record.json"):
        change(file, lambda content: content.update(signlang="0.0.9", device="a faster one"))
    for file in study.glob("*/*/metrics.json"):
        change(file, lambda content: content.update(protocol="validation=fold"))
    text = "\n".join(verdicts.sentences(rank_settings(read_study(study))))
    assert "different versions of signlang: 0.0.9, " in text
    assert "times and speeds do not compare" in text
    assert "The figures are optimistic" in text


def test_a_grid_is_summed_up(study: Path) -> None:
    for number in range(6):  # the same runs as if made by other learning rates
        setting = study / f"simple_cnn+lr=0.{number}"
        shutil.copytree(setting_of(study), setting)
        for file in setting.glob("*/record.json"):
            change(file, lambda content, lr=number / 10: (  # type: ignore[misc]
                content["settings"].update({"optimizer.lr": lr})
            ))  # fmt: skip
    text = verdicts.sentences(rank_settings(read_study(study)))
    assert any("Do the settings differ at all? Friedman" in sentence for sentence in text)
    (summary,) = [sentence for sentence in text if sentence.startswith(("Of 7 other", "All 7"))]
    assert "corrected resampled t-test, Holm over all pairs, 5 %" in summary


def test_other_places_and_several_studies(study: Path) -> None:
    before = state_of(study)
    with pytest.raises(SettingError, match="belongs to a run"):
        comparison.compare_study(study, setting_of(study) / "fold=0")
    Path("taken").write_text("")
    with pytest.raises(SettingError, match=r"taken cannot be written \(File exists\)"):
        comparison.compare_study(study, Path("taken"))
    result = run_command(
        Path.cwd(), "runs/folder", "runs/none", "out=out", "verbose=false", verb="compare"
    )
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines() == [
        "runs/none: there is no such folder. There are: folder.",
        "1 of 2 studies could not be compared, see above.",
    ]
    assert {path.name for path in Path("out/folder").iterdir()} == OUTPUTS
    assert not OUTPUTS & {path.name for path in study.iterdir()}
    assert state_of(study) == before


def test_the_help_shows_examples() -> None:
    result = run_command(Path.cwd(), "-h", verb="compare")
    assert result.code == 0
    assert "python -m signlang.compare runs/digits" in result.out
    for key in ("studies", "allow_incomplete", "sort", "out", "verbose"):
        assert f"{key}:" in result.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "studies=[]: name what to compare"),
        (["a", "--allow-incomplete"], "as key=value, allow_incomplete=true"),
        (["a", "--quiet"], "as key=value, verbose=false"),
        (["a", "--sort", "latency_ms"], "as key=value, sort=COLUMN"),
        (["a", "--out=b"], "as key=value, out=DIR"),
        (["a", "allow_incomplete=1"], "allow_incomplete=1: it must be true or false."),
        (["x/a", "y/a", "out=z"], "out=z would get two studies of one name"),
    ],
)
def test_words_that_cannot_work_get_a_sentence(words: list[str], sentence: str) -> None:
    result = run_command(Path.cwd(), *words, verb="compare")
    assert (result.code, sentence in result.err, result.out) == (2, True, ""), result.err


def test_names_of_studies_are_taken_as_they_are(tmp_path: Path) -> None:
    places = [tmp_path / name / "s" for name in ("a, b", "[c]='d'", "fold=0")]
    for place in places:
        place.mkdir(parents=True)
    result = run_command(tmp_path, *(str(p) for p in places), "verbose=false", verb="compare")
    assert result.code == 1
    for place in places:
        assert f"{place}" in result.err
