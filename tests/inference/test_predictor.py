"""The reject threshold: an image at it is accepted, as in the calibration that chose it."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from signlang.inference.predictor import Predictor


@pytest.mark.parametrize(("threshold", "unknown"), [(0.0, False), (0.75, False), (0.7500001, True)])
def test_an_image_at_the_threshold_is_no_unknown(threshold: float, unknown: bool) -> None:
    def model(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.tile(np.array([0.25, 0.75], dtype=np.float32), (len(images), 1))

    bundle = SimpleNamespace(classes=("A", "B"), image_sizes=(8,))
    predictor = Predictor(cast(Any, bundle), cast(Any, model), threshold, 1, 4, 1)
    (prediction,) = predictor.predict(np.zeros((1, 8, 8, 3), dtype=np.uint8))
    assert prediction.unknown == unknown
    assert prediction.label == ("unknown" if unknown else "B")
