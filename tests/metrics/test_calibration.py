"""Temperatures and thresholds, against torch, scikit-learn, torchmetrics, and by hand."""

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import optimize  # type: ignore[import-untyped,unused-ignore]
from sklearn.metrics import log_loss
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from signlang.errors import RunError
from signlang.metrics import calibration
from signlang.metrics.calibration import (
    BOUNDS,
    Calibration,
    accepted,
    apply_temperature,
    bounded_minima,
    calibration_effects,
    effects,
    expected_gain,
    fit_calibration,
    fit_calibrations,
    fit_temperature,
    fit_temperatures,
    leave_one_out_gains,
    logits_of,
    reject_threshold,
)
from signlang.metrics.classification import classification_metrics, risk_coverage
from signlang.metrics.significance import wilson_interval
from signlang.runs.trained_run import read_calibration

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def drawn(temperature: float, n: int = 2000, seed: int = 0) -> tuple[Floats, Ints]:
    """Logits whose softmax at that temperature is the truth: labels are drawn from it."""
    rng = np.random.default_rng(seed)
    logits = 6 * rng.normal(size=(n, 7)) * temperature
    shares = torch.from_numpy(logits / temperature).softmax(1).numpy()
    labels = np.array([rng.choice(7, p=row) for row in shares])
    return logits, labels


def best_of_torch(logits: Floats, labels: Ints) -> float:
    """The temperature that torch's own loss and optimizer find."""
    scores, true = torch.from_numpy(logits), torch.from_numpy(labels)
    log_t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_t], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(scores / log_t.exp(), true)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(log_t.detach().exp())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
def test_the_temperature_is_that_of_torch_and_near_the_truth(temperature: float) -> None:
    logits, labels = drawn(temperature)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(best_of_torch(logits, labels), rel=1e-4)
    assert fitted == pytest.approx(temperature, rel=0.1)


def test_no_other_temperature_has_a_lower_loss() -> None:
    logits, labels = drawn(3.0, n=300)
    fitted = fit_temperature(logits, labels)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    losses = {
        t: log_loss(labels, apply_temperature(shares, t), labels=range(7))
        for t in fitted * np.array([0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0])
    }
    assert min(losses, key=lambda t: losses[t]) == pytest.approx(fitted)


def test_what_is_added_to_a_row_makes_no_difference() -> None:
    logits, labels = drawn(2.0, n=200)
    moved = logits + np.random.default_rng(1).normal(size=(200, 1)) * 100
    assert fit_temperature(moved, labels) == pytest.approx(fit_temperature(logits, labels))


@pytest.mark.parametrize("margin", [1e-6, 0.1, 3.0, 50.0, 1e4])
def test_without_a_mistake_confidence_is_not_more_than_images_warrant(margin: float) -> None:
    labels = np.arange(60) % 3
    logits = margin * np.eye(3)[labels]
    temperature = fit_temperature(logits, labels)
    assert BOUNDS[0] <= temperature <= 1
    before, after = (
        float(torch.from_numpy(logits / t).softmax(1).max(1).values.mean())
        for t in (1.0, temperature)
    )
    warranted = 61 / 62
    assert after <= max(before, warranted + 1e-9)
    if before < warranted and temperature > 1.01 * BOUNDS[0]:
        assert after == pytest.approx(warranted)


def test_a_network_that_knows_nothing_becomes_unsure() -> None:
    rng = np.random.default_rng(0)
    logits, labels = 30 * rng.normal(size=(500, 5)), rng.integers(0, 5, 500)
    temperature = fit_temperature(logits, labels)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    assert temperature > 20
    assert apply_temperature(shares, temperature).max(1).mean() < 0.5


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((0, 3)), []),
        (np.zeros((2, 3)), [0]),
        (np.zeros(3), [0]),
        ([[0.0, np.nan]], [0]),
    ],
)
def test_a_temperature_needs_images_and_numbers(logits: Floats, labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"needs images|not a finite number"):
        fit_temperature(logits, labels)


def test_probabilities_are_those_of_scaled_logits() -> None:
    logits, _ = drawn(1.0, n=50)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    for temperature in (0.2, 1.0, 4.0):
        expected = torch.from_numpy(logits / temperature).softmax(1).numpy()
        np.testing.assert_allclose(apply_temperature(shares, temperature), expected, atol=1e-12)
    back = apply_temperature(apply_temperature(shares, 3.0), 1 / 3.0)
    np.testing.assert_allclose(back, shares, atol=1e-9)
    assert np.isfinite(logits_of([[1.0, 0.0]])).all()
    np.testing.assert_allclose(apply_temperature([[1.0, 0.0]], 0.5), [[1.0, 0.0]])


def test_errors_are_those_of_torchmetrics() -> None:
    logits, labels = drawn(3.0, n=600)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    fitted = fit_calibration(shares, labels, 0.9)
    errors = calibration_effects(fitted, shares, labels)["calibration_error"]
    for name, table in (
        ("before", shares),
        ("after", apply_temperature(shares, fitted.temperature)),
    ):
        expected = multiclass_calibration_error(
            torch.from_numpy(table), torch.from_numpy(labels), num_classes=7, n_bins=15
        )
        assert errors[name] == pytest.approx(float(expected), abs=2e-6)
    assert errors["after"] < errors["before"] / 2


def test_risk_and_coverage_by_hand() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.choice(np.linspace(0.3, 1.0, 15), size=200)  # many are equal
    correct = rng.random(200) < confidence
    curve = risk_coverage(confidence, correct)
    assert (np.diff(curve.threshold) < 0).all()
    for threshold, count, coverage, risk in zip(
        curve.threshold, curve.accepted, curve.coverage, curve.risk, strict=True
    ):
        kept = confidence >= threshold
        assert count == kept.sum()
        assert coverage == pytest.approx(kept.mean())
        assert risk == pytest.approx(1 - correct[kept].mean())
    assert curve.coverage[-1] == 1


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_threshold_is_the_lowest_that_is_precise_enough(wanted: float) -> None:
    rng = np.random.default_rng(3)
    confidence = rng.random(500).round(2)
    correct = rng.random(500) < confidence**0.3
    good = [
        t
        for t in np.unique(confidence)
        if (kept := confidence >= t).sum() >= round(1 / (1 - wanted), 6)
        and correct[kept].mean() >= wanted - 1e-12
    ]
    expected = min(good, default=None)
    assert reject_threshold(confidence, correct, wanted) == expected
    assert (expected is None) == (wanted == 0.99)


def test_few_images_prove_nothing_and_99_of_100_are_99_percent() -> None:
    confidence = np.linspace(0.5, 1.0, 100)
    correct = np.ones(100, dtype=np.bool_)
    assert reject_threshold(confidence, correct, 0.99) == 0.5
    assert reject_threshold(confidence[1:], correct[1:], 0.99) is None
    correct[50] = False
    assert reject_threshold(confidence, correct, 0.99) == 0.5
    correct[51] = False
    assert reject_threshold(confidence, correct, 0.99) is None
    # the figure that the documentation gives for a bound instead of an estimate
    assert wilson_interval(380, 380)[0] < 0.99 <= wilson_interval(381, 381)[0]


def test_a_threshold_survives_the_rounding_of_a_softmax_in_32_bits() -> None:
    sure = np.tile([1.0, 0.0, 0.0], (150, 1))
    fitted = fit_calibration(sure, np.zeros(150, dtype=np.int64), 0.99)
    assert fitted.reject_threshold is not None
    assert fitted.reject_threshold <= 1 - 1e-6
    logits, labels = drawn(0.2, n=400)
    fitted = fit_calibration(torch.from_numpy(logits).softmax(1).numpy(), labels, 0.9)
    shares = (torch.from_numpy(logits).float() / fitted.temperature).softmax(1).numpy()
    double = apply_temperature(torch.from_numpy(logits).softmax(1).numpy(), fitted.temperature)
    np.testing.assert_array_equal(
        accepted(shares.max(1).astype(np.float64), fitted.threshold),
        accepted(double.max(1), fitted.threshold),
    )


def test_the_threshold_is_one_of_confidences_after_the_temperature() -> None:
    logits, labels = drawn(4.0, n=400)  # far too sure: the temperature lowers all confidences
    shares = torch.from_numpy(logits).softmax(1).numpy()
    fitted = fit_calibration(shares, labels, 0.8)
    now = apply_temperature(shares, fitted.temperature)
    expected = reject_threshold(now.max(1), now.argmax(1) == labels, 0.8)
    before = reject_threshold(shares.max(1), shares.argmax(1) == labels, 0.8)
    assert expected is not None
    assert before is not None
    assert fitted.reject_threshold == pytest.approx(expected, abs=2e-6)
    assert abs(before - expected) > 0.01


def test_an_image_at_the_threshold_is_accepted() -> None:
    confidence = np.array([0.4, 0.5, 0.6])
    assert accepted(confidence, 0.5).tolist() == [False, True, True]


def test_the_file_says_what_was_fitted_and_reads_back(tmp_path: Path) -> None:
    shares = {
        subset: torch.from_numpy(drawn(4.0, n=400, seed=seed)[0]).softmax(1).numpy()
        for seed, subset in enumerate(("validation", "test"))
    }
    labels = {"validation": drawn(4.0, n=400)[1], "test": drawn(4.0, n=400, seed=1)[1]}
    outputs = {subset: (shares[subset], labels[subset]) for subset in shares}
    calibration.write_calibration(tmp_path, outputs, 0.9)
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert set(content) == {
        "temperature", "kept", "reason", "wanted_precision", "reject_threshold", "no_threshold",
        "images", "calibration_error", "loss", "coverage", "precision",
    }  # fmt: skip
    assert content["kept"] is True
    assert content["reason"].startswith("kept, because a temperature of ")
    assert content["no_threshold"] is None
    assert content["calibration_error"]["test"].keys() == {"before", "after"}
    assert content["images"] == 400
    for subset in shares:
        now = apply_temperature(shares[subset], content["temperature"])
        kept = now.max(1) >= content["reject_threshold"]
        right = now.argmax(1) == labels[subset]
        assert content["coverage"][subset] == pytest.approx(kept.mean(), abs=1e-6)
        assert content["precision"][subset] == pytest.approx(right[kept].mean(), abs=1e-6)
        losses = {"before": shares[subset], "after": now}
        assert content["loss"][subset] == pytest.approx(
            {when: log_loss(labels[subset], p, labels=range(7)) for when, p in losses.items()},
            abs=1e-5,
        )
    assert content["precision"]["validation"] >= 0.9
    assert read_calibration(tmp_path) == Calibration(
        content["temperature"], 0.9, content["reject_threshold"], 400, True, content["reason"]
    )
    # a file of before there was a rule
    for name in ("kept", "reason", "no_threshold", "loss"):
        del content[name]
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    assert read_calibration(tmp_path) == Calibration(
        content["temperature"], 0.9, content["reject_threshold"], 400
    )


def test_a_test_fold_that_was_fitted_on_is_not_measured(tmp_path: Path) -> None:
    logits, labels = drawn(4.0, n=200)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    calibration.write_calibration(tmp_path, {"validation": (shares, labels)}, 0.9)
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content["calibration_error"].keys() == {"validation"}
    assert content["remark"] == calibration.IN_SAMPLE
    fitted = read_calibration(tmp_path)
    assert fitted is not None
    assert fitted.test_error == {}


@pytest.mark.parametrize(("n", "classes", "scale"), [(30, 4, 3.0), (200, 10, 5.0), (60, 3, 1.0)])
def test_gains_are_those_of_as_many_fits_without_one_image(
    n: int, classes: int, scale: float
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    logits = scale * (rng.normal(size=(n, classes)) + np.eye(classes)[labels])
    table = torch.from_numpy(logits)
    expected = []
    for image in range(n):
        others = np.arange(n) != image
        temperature = fit_temperature(logits[others], labels[others])
        one = torch.tensor([labels[image]])
        before, after = (
            float(F.cross_entropy(table[image : image + 1] / t, one)) for t in (1.0, temperature)
        )
        expected.append(before - after)
    np.testing.assert_allclose(leave_one_out_gains(logits, labels), expected, atol=0.01)


def sure(n: int, mistakes: int, margin: float) -> tuple[Floats, Ints]:
    """Logits of equal margins in three classes, of which some are wrong."""
    labels = np.arange(n) % 3
    predicted = np.where(np.arange(n) < mistakes, (labels + 1) % 3, labels)
    return margin * np.eye(3)[predicted] + 0.01 * np.eye(3)[(predicted + 1) % 3], labels


@pytest.mark.parametrize(
    ("n", "mistakes", "margin", "kept"),
    [
        (166, 1, 12.0, False),  # one mistake in 166 asks for 3 and more
        (166, 0, 8.0, False),  # all right: any temperature below 1 is as good
        (33, 0, 3.0, False),  # too few to tell
        (465, 0, 3.0, True),  # an unsure network that is always right
        (166, 20, 12.0, True),  # far too sure
        (166, 20, 2.6, False),  # as sure as it should be
        (1, 0, 3.0, False),
        (2, 1, 3.0, False),
    ],
)
def test_a_temperature_is_kept_where_it_helps_other_images(
    n: int, mistakes: int, margin: float, kept: bool
) -> None:
    logits, labels = sure(n, mistakes, margin)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    fitted = fit_calibration(shares, labels, 0.9)
    assert fitted.kept is kept
    assert (fitted.temperature != 1) is kept
    gain, error = expected_gain(logits, labels, fit_temperature(logits, labels))
    assert bool(gain > 2 * error) is kept
    wanted = "kept, because a temperature of " if kept else "not kept, because a temperature of "
    assert fitted.reason.startswith(wanted)
    assert f"{gain:.4f} +- {error:.4f}" in fitted.reason


@pytest.mark.parametrize("size", [33, 166])
@pytest.mark.parametrize("mistakes", [1, 5])
def test_calibrated_is_no_worse_than_uncalibrated(size: int, mistakes: int) -> None:
    """Of a network whose mistakes are no less sure than its other predictions, as real ones are."""
    rng = np.random.default_rng(mistakes)
    labels = rng.integers(0, 10, 600)
    predicted = np.where(np.arange(600) < mistakes, (labels + 1) % 10, labels)
    logits = rng.gamma(4, 3, size=(600, 1)) * np.eye(10)[predicted] + rng.normal(size=(600, 10))
    shares = torch.from_numpy(logits).softmax(1).numpy()
    worse, always = 0, 0
    for _ in range(40):
        order = rng.permutation(600)
        fitted_rows, rest = order[:size], order[size:]
        before = classification_metrics(shares[rest], labels[rest])["loss"]
        fitted = fit_calibration(shares[fitted_rows], labels[fitted_rows], 0.99).temperature
        forced = fit_temperature(logits[fitted_rows], labels[fitted_rows])
        losses = [
            classification_metrics(apply_temperature(shares[rest], t), labels[rest])["loss"]
            for t in (fitted, forced)
        ]
        worse += losses[0] > before + 1e-3
        always += losses[1] > before + 1e-3
    assert worse <= 2
    assert always > 2  # what the rule is for


def test_a_missing_threshold_has_its_reason_and_its_stand_in() -> None:
    right = np.tile([0.9, 0.1], (99, 1))
    few = fit_calibration(right, np.zeros(99, dtype=np.int64), 0.99)
    assert few.reject_threshold is None
    assert few.no_threshold == (
        "too few images: 99, and at least 100 are needed for a precision of 99 %"
    )
    enough = fit_calibration(np.tile([0.9, 0.1], (100, 1)), np.zeros(100, dtype=np.int64), 0.99)
    assert enough.reject_threshold == enough.threshold == pytest.approx(0.9, abs=0.1)
    assert enough.no_threshold == ""
    wrong = np.r_[np.zeros(90, dtype=np.int64), np.ones(10, dtype=np.int64)]
    none = fit_calibration(np.tile([0.9, 0.1], (100, 1)), wrong, 0.99)
    assert none.reject_threshold is None
    assert none.no_threshold == "none makes 99 % of the accepted images right (100 images)"
    assert few.threshold == none.threshold == Calibration().threshold == 0.5


def test_a_network_that_diverged_gets_no_file(tmp_path: Path) -> None:
    shares = np.full((4, 2), np.nan)
    outputs = (shares, np.zeros(4, dtype=np.int64))
    calibration.write_calibration(tmp_path, {"validation": outputs, "test": outputs}, 0.99)
    assert list(tmp_path.iterdir()) == []
    assert read_calibration(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"calibration\.json cannot be read"),
        ("{", r"calibration\.json cannot be read"),
        ("[]", r"calibration\.json: \[\]: it must be a mapping"),
        ('{"temperature": 1}', r"wanted_precision is missing: it must be a number from 0 to 1\."),
    ],
)
def test_a_damaged_file_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(RunError, match=sentence):
        read_calibration(tmp_path)


def test_a_senseless_temperature_is_refused(tmp_path: Path) -> None:
    content = {"wanted_precision": 0.9, "reject_threshold": None, "images": 3}
    for temperature in (0, -1, math.nan, math.inf):
        text = json.dumps({**content, "temperature": temperature})
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(RunError, match=r"temperature=.*: it must be a number above 0\. De"):
            read_calibration(tmp_path)


def test_temperatures_stay_within_bounds() -> None:
    wrong = np.tile([[5.0, 0.0]], (4, 1))
    assert fit_temperature(wrong, [1, 1, 1, 1]) == pytest.approx(100, rel=1e-4)
    timid = np.tile([[0.001, 0.0]], (1000, 1))
    assert fit_temperature(timid, [0] * 1000) == pytest.approx(0.01, rel=1e-4)


def test_a_damaged_run_folder_says_what_to_do(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    (tmp_path / "calibration.json").mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        read_calibration(tmp_path)


def test_logits_without_a_difference_leave_the_temperature_alone() -> None:
    assert fit_temperature([[3.0, 3.0, 3.0]] * 6, [0, 1, 2, 0, 1, 2]) == 1.0


def test_many_networks_at_once_have_the_calibrations_that_each_has_alone() -> None:
    """To the last digit, whatever stops the search of one of them."""
    rng, labels = np.random.default_rng(0), np.arange(120) % 4
    right = np.eye(4)[labels]
    logits = np.stack([
        scale * (margin * right + rng.normal(size=right.shape))
        for scale, margin in ((5, 1), (0.3, 2), (1, 9), (0.01, 0), (1, 1.5), (40, 0))
    ])  # fmt: skip
    shares = torch.from_numpy(logits).softmax(2).numpy()
    precisions = [0.9, 0.99, 0.9, 0.5, 0.7, 0.9]
    alone = [fit_calibration(one, labels, of) for one, of in zip(shares, precisions, strict=True)]
    assert fit_calibrations(shares, labels, precisions) == alone
    assert len({one.temperature for one in alone}) > 3
    assert {one.kept for one in alone} == {False, True}
    now = apply_temperature(shares, np.array([one.temperature for one in alone]))
    is_accepted = now.max(2) >= np.array([[one.threshold] for one in alone])
    assert effects(shares, now, is_accepted, labels) == [
        calibration_effects(fitted, one, labels) for fitted, one in zip(alone, shares, strict=True)
    ]
    together = fit_temperatures(logits, labels)
    assert together.tolist() == [fit_temperature(one, labels) for one in logits]


def test_many_minima_at_once_are_those_of_scipy_to_the_last_digit() -> None:
    rng = np.random.default_rng(0)
    middle, waves = rng.normal(scale=3, size=300), rng.normal(size=(300, 2))

    def function(x: Floats, which: Ints) -> Floats:
        """Smooth ones and broken ones, with minima inside and at the bounds."""
        smooth = np.abs(x - middle[which]) ** 1.5 + waves[which, 0] * np.sin(3 * x)
        return np.asarray(smooth + np.round(waves[which, 1] * x, 3))

    low, high = -5 * rng.random(300), 5 * rng.random(300)
    places, values = bounded_minima(function, low, high, 1e-7)
    for number in range(300):
        alone = optimize.minimize_scalar(
            lambda x, which: float(function(np.array([x]), np.array([which]))[0]),
            args=(number,),
            bounds=(low[number], high[number]),
            method="bounded",
            options={"xatol": 1e-7},
        )
        assert (alone.x, alone.fun) == (places[number], values[number])


def test_a_function_that_is_no_number_ends_the_search() -> None:
    places, values = bounded_minima(
        lambda x, which: np.where(which == 0, np.nan, (x - 1) ** 2),
        np.zeros(2), np.full(2, 3.0), 1e-7,
    )  # fmt: skip
    assert np.isnan(values[0])
    assert abs(places[1] - 1) < 1e-6
