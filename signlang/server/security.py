"""API key check and security headers."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request

from signlang.server.schemas import RequestError

# scripts and styles only from here, webassembly allowed (it runs the network in the browser),
# images also from memory: the page shows what was dropped on it
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# a model card is one file of text, styles and images; scripts in it, if any, do not run
CARD_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next one, webassembly may use threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class SecureHeaders:
    """ASGI middleware that adds to each answer the headers it does not set itself.

    Args:
        app: The application.
        shared: Whether pages of other origins may read answers, as far as CORS lets them.
    """

    def __init__(self, app: Any, shared: bool = False) -> None:
        self.app = app
        headers = {**HEADERS, "Cross-Origin-Resource-Policy": "cross-origin"} if shared else HEADERS
        self._headers = [(k.lower().encode(), v.encode()) for k, v in headers.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                added = [pair for pair in self._headers if pair[0] not in own]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, with_headers)


class KeyCheck:
    """Lets requests pass that carry the key, in `X-API-Key` or as a bearer token.

    Args:
        key: What they must carry; nothing if all may pass.
    """

    def __init__(self, key: str | None) -> None:
        self._digest = None if key is None else _digest(key.encode())

    async def __call__(self, request: Request) -> None:
        """Compare in a time that does not depend on what is given.

        Raises:
            RequestError: 401 without the key.
        """
        if self._digest is None:
            return
        given = request.headers.get("x-api-key", "")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not given and scheme.lower() == "bearer":
            given = token.strip()
        if not hmac.compare_digest(_digest(given.encode("utf-8", "surrogateescape")), self._digest):
            raise RequestError(
                401, "This needs the key of the service, in the header X-API-Key.",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def _digest(text: bytes) -> bytes:
    """Hash texts to equal length, so that the comparison does not leak their length."""
    return hashlib.sha256(text).digest()
