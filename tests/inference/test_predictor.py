"""The reject threshold: an image at it is accepted, as in the calibration that chose it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import bundles
import numpy as np
import pytest

from signlang.evaluation.predictors import bundle_predictor
from signlang.inference.predictor import Predictor
from signlang.metrics.calibration import Calibration
from signlang.server.config import checked_config
from signlang.server.registry import load_models


@pytest.mark.parametrize(("threshold", "unknown"), [(0.0, False), (0.75, False), (0.7500001, True)])
def test_an_image_at_the_threshold_is_no_unknown(threshold: float, unknown: bool) -> None:
    def model(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.tile(np.array([0.25, 0.75], dtype=np.float32), (len(images), 1))

    bundle = SimpleNamespace(classes=("A", "B"), image_sizes=(8,))
    predictor = Predictor(cast(Any, bundle), cast(Any, model), threshold, 1, 4, 1)
    (prediction,) = predictor.predict(np.zeros((1, 8, 8, 3), dtype=np.uint8))
    assert prediction.unknown == unknown
    assert prediction.label == ("unknown" if unknown else "B")


def test_predict_serve_and_evaluate_have_one_stand_in_for_a_missing_threshold(
    tmp_path: Path,
) -> None:
    folder = bundles.write(tmp_path / "b", threshold=None)
    options = checked_config({"bundle": [str(folder)]})
    models = load_models(options)
    thresholds = {
        "predict": Predictor.from_bundle(folder).threshold,
        "serve": models["colours"].threshold,
        "evaluate": cast(Calibration, bundle_predictor(folder).calibration).threshold,
    }
    assert thresholds == dict.fromkeys(thresholds, 0.5)
    assert models["colours"].threshold_source == "fallback"
    own = bundles.write(tmp_path / "c", "own", threshold=0.7)
    of = {"bundle": [str(own), str(folder)]}
    assert {m.threshold_source for m in load_models(checked_config(of)).values()} == {
        "bundle", "fallback",
    }  # fmt: skip
    given = load_models(checked_config(of | {"reject_threshold": 0.2}))
    assert {(m.threshold, m.threshold_source) for m in given.values()} == {(0.2, "setting")}
