"""Says which package is missing before anything else fails because of it."""

import importlib.util
from typing import Final

from signlang.errors import ServiceError

NEEDED: Final = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "onnxruntime")


def check() -> None:
    """Look for what `pip install "signlang[serve]"` brings.

    Raises:
        ServiceError: If a part of it is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServiceError(
            f'A service needs {", ".join(missing)}: pip install "signlang[serve]" brings it.'
        )
