"""One process of a service: settings and a listening socket come in, requests are answered.

The supervisor imports this module as well, so the heavy parts are imported where they are used.
"""

import os
import signal
import threading
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from socket import socket
from typing import Any, Final

from signlang.deploy.service import journal
from signlang.deploy.service.options import Options
from signlang.errors import SignlangError

READY: Final = "ready"
IDLE_S: Final = 30  # of a connection that is kept open; longer than browsers wait between frames


def run(options: Options, listening: socket, told: Connection) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests that have begun.

    Args:
        options: The settings.
        listening: Shared with the other processes.
        told: Gets `READY`, or the sentence of the error why not.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; before the start it is early
    journal.start()
    _end_with_parent()
    from signlang.deploy.service import measuring, shelf
    from signlang.deploy.service.app import create

    try:
        application = create(shelf.loaded(options), options)
    except SignlangError as error:
        told.send(str(error))
        return
    measuring.STARTS.inc()
    _serve(application, options, listening, told)


def _serve(application: Any, options: Options, listening: socket, told: Connection) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """Tells when it answers."""

        async def startup(self, sockets: list[socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                told.send(READY)

    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        limit_concurrency=options.connections,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=max(1, round(options.grace_s)),
    )
    Server(config).run(sockets=[listening])


def _end_with_parent() -> None:
    """Finish when the supervisor is gone, even if it was killed: no process stays behind."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()
