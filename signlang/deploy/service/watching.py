"""Requests pass; each is counted and leaves one line in the log.

A line holds the route, the status and the times: no picture, no name of a file, no address, no
header and no text of the request.
"""

import logging
import time
from typing import Any, Final

from signlang.deploy.service import measuring
from signlang.deploy.service.journal import log

METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
QUIET: Final = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds by machines


class Watch:
    """ASGI middleware that counts requests and writes them down.

    Args:
        app: What answers.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 499  # 499: nobody waited for the answer
        notes: dict[str, Any] = scope.setdefault("state", {}).setdefault("notes", {})

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.perf_counter() - begin
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in METHODS else "other"
            measuring.REQUESTS.labels(route, method, str(status)).inc()
            measuring.LATENCY.labels(route).observe(seconds)
            if route not in QUIET or status >= 400:
                facts = {"route": route, "method": method, "status": status}
                facts |= {"milliseconds": round(seconds * 1000, 2), **notes}
                log.log(_level(status), "request", extra=facts)


def _level(status: int) -> int:
    return logging.ERROR if status >= 500 else logging.INFO
