"""API key check and security headers."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import Request
from fastapi.responses import JSONResponse

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

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [pair for pair in self._headers if pair[0] not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _name_of(host: str) -> str:
    """The name in a Host header, in lower case, without its port.

    >>> _name_of("Localhost:8000"), _name_of("[::1]:80"), _name_of("192.0.2.1")
    ('localhost', '::1', '192.0.2.1')
    """
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class HostCheck:
    """ASGI middleware that refuses names by which the service is not called.

    A page of anybody can give its own name the address of this machine (DNS rebinding), and then
    read what a service without a key answers; its browser still sends that name.

    Args:
        app: The application.
        names: By which it may be called, beside addresses and localhost; None: any.
    """

    def __init__(self, app: Any, names: Sequence[str] | None) -> None:
        self.app = app
        self._names = None if names is None else {"localhost", *map(str.lower, names)}

    def _allows(self, hosts: Sequence[bytes]) -> bool:
        if self._names is None:
            return True
        if len(hosts) != 1:
            return not hosts  # HTTP/1.0 sends none, browsers always one
        name = _name_of(hosts[0].decode("latin-1"))
        return name in self._names or name.endswith(".localhost") or _is_address(name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and not self._allows(
            [value for name, value in scope["headers"] if name == b"host"]
        ):
            sentence = "The service has another name: start it with hosts=[NAME] to allow this one."
            await JSONResponse({"error": sentence}, 421)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class KeyCheck:
    """Lets requests pass that carry the key, in `X-API-Key` or as a bearer token.

    Args:
        key: What they must carry; nothing if all may pass.
    """

    def __init__(self, key: str | None) -> None:
        self._digest = None if key is None else _digest(key.encode())

    async def __call__(self, request: Request) -> None:
        """Compare in a time that does not depend on the key of the request.

        Raises:
            RequestError: 401 without the key.
        """
        if self._digest is None:
            return
        key = request.headers.get("x-api-key", "")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not key and scheme.lower() == "bearer":
            key = token.strip()
        if not hmac.compare_digest(_digest(key.encode("utf-8", "surrogateescape")), self._digest):
            raise RequestError(
                401, "This needs the key of the service, in the header X-API-Key.",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def _digest(text: bytes) -> bytes:
    """Hash texts to equal length, so that the comparison does not leak their length."""
    return hashlib.sha256(text).digest()
