"""Classification metrics by hand and by scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from signlang.data.index import Clusters
from signlang.metrics.classification import (
    Predictions,
    Proportion,
    accuracy_by_group,
    as_json,
    chance_warning,
    classification_metrics,
    confusion_counts,
    confusions,
    macro_f1,
    most_confident_mistakes,
    most_frequent,
    per_class_accuracy,
    recalls,
    restrict_to_classes,
)
from signlang.metrics.significance import clustered_interval, wilson_interval

CLASSES = ("A", "B", "C")


def predictions_of(labels: list[int], predicted: list[int], confidence: list[float]) -> Predictions:
    table = np.array([
        [sure if label == one else (1 - sure) / 2 for label in range(3)]
        for one, sure in zip(predicted, confidence, strict=True)
    ])  # fmt: skip
    paths = tuple(f"{number}.png" for number in range(len(labels)))
    return Predictions(
        CLASSES, paths, np.array(labels), table, np.zeros(len(labels), dtype=np.int64), None
    )


#                      A A A A B B B C C C
LABELS, PREDICTED = [0] * 4 + [1] * 3 + [2] * 3, [0, 1, 1, 2, 1, 1, 1, 2, 2, 1]
CONFIDENCE = [0.9, 0.8, 0.95, 0.6, 0.9, 0.9, 0.9, 0.7, 0.7, 0.8]


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    table = rng.dirichlet(np.ones(4), 60)  # no image is of the fourth class
    metrics = classification_metrics(table, labels)
    assert metrics["accuracy"] == (table.argmax(1) == labels).mean()
    assert metrics["loss"] == pytest.approx(log_loss(labels, table, labels=range(4)))
    expected = f1_score(labels, table.argmax(1), labels=range(3), average="macro")
    assert metrics["macro_f1"] == pytest.approx(expected)
    by_hand = (2 * 1 / (4 + 1) + 2 * 3 / (3 + 6) + 2 * 2 / (3 + 3)) / 3
    assert macro_f1(np.array(LABELS), np.array(PREDICTED)) == pytest.approx(by_hand)
    certain = classification_metrics(np.array([[1.0, 0.0]]), np.array([1]))
    assert certain["loss"] == pytest.approx(300 * math.log(10))  # finite, though p is 0
    assert certain["macro_f1"] == certain["accuracy"] == 0


def test_mistakes_come_by_their_number() -> None:
    predictions = predictions_of(LABELS, PREDICTED, CONFIDENCE)
    counts = confusion_counts(predictions.labels, predictions.predicted, 3)
    assert counts.tolist() == [[1, 2, 1], [0, 3, 0], [0, 1, 2]]
    rows = [(one.label, one.predicted, one.count, one.share) for one in confusions(predictions)]
    assert rows == [("A", "B", 2, 0.5), ("A", "C", 1, 0.25), ("C", "B", 1, pytest.approx(1 / 3))]
    assert len(confusions(predictions, most=2)) == 2


def test_recall_is_of_the_true_class_and_the_worst_comes_first() -> None:
    rows = recalls(predictions_of(LABELS, PREDICTED, CONFIDENCE))
    assert [(name, share.count, share.total) for name, share in rows.items()] == [
        ("A", 1, 4), ("C", 2, 3), ("B", 3, 3),
    ]  # fmt: skip
    assert rows["A"].interval == wilson_interval(1, 4)
    accuracy = per_class_accuracy(np.array(LABELS), np.array(PREDICTED), (*CLASSES, "no image"))
    assert accuracy == {"A": 0.25, "B": 1.0, "C": 0.666667}


def test_images_of_a_cluster_count_less() -> None:
    names = np.repeat([f"s{n}" for n in range(6)], 5)
    correct = np.repeat([True, True, True, True, True, False], 5)
    clusters = Clusters("signer", names)
    share = Proportion.of(correct, clusters)
    assert share.interval == clustered_interval(correct, names)
    assert share.interval != wilson_interval(25, 30)
    assert Proportion.of(correct[:10], clusters[:10]).interval is None  # two signers
    groups = accuracy_by_group(["a"] * 20 + ["b"] * 10, correct, clusters)
    assert (groups["a"].interval, groups["b"].interval) == (wilson_interval(4, 4), None)


def test_the_surest_mistakes_come_first() -> None:
    predictions = predictions_of(LABELS, PREDICTED, CONFIDENCE)
    assert most_confident_mistakes(predictions).tolist() == [2, 1, 9, 3]  # equal ones by their rows
    assert most_confident_mistakes(predictions, most=1).tolist() == [2]
    assert predictions.correct.sum() == 6
    assert predictions.confidence.tolist() == pytest.approx(CONFIDENCE)


def test_shares_of_groups_and_of_nothing() -> None:
    half, nothing = Proportion.of(np.array([True, False])), Proportion(0, 0)
    assert (half.value, half.interval) == (0.5, wilson_interval(1, 2))
    assert math.isnan(nothing.value)
    assert as_json(nothing) == {"share": None, "low": None, "high": None, "count": 0, "of": 0}
    content = as_json(Proportion.of(np.array([True, False, False])))
    assert (content["share"], content["count"], content["of"]) == (0.333333, 1, 3)
    assert (content["low"], content["high"]) == pytest.approx(wilson_interval(1, 3), abs=1e-6)
    names = ["few", "many", "many", "good", "b", "a"]
    correct = np.array([False, False, False, True, True, True])
    assert list(accuracy_by_group(names, correct)) == ["many", "few", "a", "b", "good"]
    assert most_frequent(np.array([], dtype=np.int64), CLASSES) == ("", 0)
    assert most_frequent(np.array([2, 1, 2]), CLASSES) == ("C", 2)


def test_probabilities_are_renormalized_over_the_kept_classes() -> None:
    table = np.array([[0.6, 0.3, 0.1], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(restrict_to_classes(table, [1, 2]), [[0.75, 0.25], [0.5, 0.5]])


def test_predictions_of_folds_are_concatenated() -> None:
    first = predictions_of([0, 1], [0, 1], [0.9, 0.8])
    second = Predictions(CLASSES, ("x.png",), np.array([2]), np.array([[0.1, 0.2, 0.7]]),
                         np.array([1]), ("s",))  # fmt: skip
    both = Predictions.concatenate([first, second])
    assert both.paths == ("0.png", "1.png", "x.png")
    assert both.labels.tolist() == both.predicted.tolist() == [0, 1, 2]
    assert both.folds.tolist() == [0, 0, 1]
    assert both.signers is None  # of some images it is not known
    assert Predictions.concatenate([second, second]).signers == ("s", "s")


@pytest.mark.parametrize(
    ("right", "is_chance"), [(0, True), (10, True), (15, True), (16, False), (30, False)]
)
def test_no_better_than_chance_is_said_where_the_interval_holds_it(
    right: int, is_chance: bool
) -> None:
    labels = np.arange(30) % 3
    predicted = np.where(np.arange(30) < right, labels, (labels + 1) % 3)
    low, high = wilson_interval(right, 30)
    assert is_chance == (low <= 1 / 3)  # below it as well
    text = chance_warning(labels, predicted, CLASSES)
    assert text.startswith("No better than chance") == is_chance
    if is_chance:
        assert (
            f"{right} of 30 images are recognised (95 % interval as of independent guesses "
            f"{low:.4f} to {high:.4f})" in text
        )


def test_a_network_that_predicts_one_class_is_told() -> None:
    labels = np.repeat(np.arange(10), 20)
    predicted = np.where(np.arange(200) % 20 < 9, labels, 7)  # 45 % right: better than chance
    classes = tuple("0123456789")
    assert chance_warning(labels, predicted, classes) == (
        "It predicts 7 for 119 of 200 images, of which 20 show it."
    )
    assert chance_warning(labels, np.where(np.arange(200) % 20 < 12, labels, 7), classes) == ""


def test_a_class_that_most_images_show_may_be_predicted_most_often() -> None:
    labels = np.array([0] * 60 + [1] * 20 + [2] * 20)
    assert chance_warning(labels, labels, CLASSES) == ""
    assert "It predicts A for 100 of 100 images, of which 60 show it." in chance_warning(
        labels, np.zeros(100, np.int64), CLASSES
    )
    assert chance_warning(np.array([0, 1] * 50), np.array([0, 1] * 49 + [0, 0]), CLASSES[:2]) == ""
    assert chance_warning(np.zeros(9, np.int64), np.zeros(9, np.int64), ("A",)) == ""
