"""Settings of a service: what is refused, and what is taken in more than one form."""

from typing import Any

import pytest

from signlang.errors import SettingError
from signlang.server.config import checked_config

KEY = "a-key-of-sixteen"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"bundle": []}, "bundle=[]: name what to serve: bundle=B, which signlang.export wrote."),
        ({"precision": "fp16"}, "precision=fp16: it must be fp32 or int8."),
        ({"reject_threshold": 1.1}, "reject_threshold=1.1: it must be a number from 0 to 1 or"),
        ({"host": ""}, "host=: it must be an address, e.g. 127.0.0.1."),
        ({"port": 65536}, "port=65536: it must be a whole number from 0 to 65535."),
        ({"workers": 0}, "workers=0: it must be a whole number from 1 to 256."),
        ({"runners": 257}, "runners=257: it must be a whole number from 1 to 256 or null."),
        ({"max_batch": 0}, "max_batch=0: it must be a whole number of at least 1 or null."),
        ({"wait_ms": -1}, "wait_ms=-1: it must be a number of at least 0."),
        ({"timeout_s": 0}, "timeout_s=0: it must be a number above 0."),
        ({"max_pixels": 100_000_001}, "max_pixels=100000001: it must be a whole number from 1 to"),
        ({"queue": 8}, "max_images=64 of one request do not fit into queue=8"),
        ({"queue_mb": 8}, "max_body_mb=16 of one request does not fit into queue_mb=8"),
        ({"quee": 8}, "There is no setting quee. Did you mean queue?"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        checked_config({"bundle": "b", **values})
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("given", "taken"), [("b", ("b",)), (["b", "c"], ("b", "c")), (2026, ("2026",))]
)
def test_one_bundle_or_several(given: object, taken: tuple[str, ...]) -> None:
    assert checked_config({"bundle": given}).bundle == taken


@pytest.mark.parametrize(
    ("given", "taken"), [(KEY, KEY), (1234567890123456, "1234567890123456"), ("", None)]
)
def test_a_key_is_a_text_of_any_characters(given: object, taken: str | None) -> None:
    assert checked_config({"bundle": "b", "api_key": given}).api_key == taken


def test_a_key_is_shown_nowhere() -> None:
    with pytest.raises(SettingError) as refused:
        checked_config({"bundle": "b", "api_key": KEY[:15]})
    assert str(refused.value).startswith("api_key: it must be a text of at least 16 characters")
    assert KEY[:15] not in str(refused.value)
    assert KEY not in repr(checked_config({"bundle": "b", "api_key": KEY}))
