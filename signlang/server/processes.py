"""Process supervision: listening socket, workers, restarts with back-off, logs as JSON lines.

The supervisor imports this module as well, so heavy packages are imported where they are used.
"""

import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TextIO

from signlang.errors import ServiceError, SignlangError
from signlang.server.config import METRICS_VARIABLE, ServeConfig, log

BACKLOG: Final = 2048  # connections that wait to be accepted


@contextmanager
def open_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at an address while the block runs.

    Raises:
        ServiceError: If it is taken, not allowed, or not of this machine.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ServiceError(f"host={host}: there is no such address.") from None
    family, kind, _, _, address = addresses[0]
    # the protocol is named: asyncio sends small answers at once only where it stands in the socket
    with socket.socket(family, kind, socket.IPPROTO_TCP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            raise ServiceError(
                f"Cannot listen at {host}, port {port} ({error.strerror}): set port=N to another "
                "one, or port=0 for any that is free."
            ) from None
        yield sock


def socket_address(sock: socket.socket) -> str:
    """Where a browser finds the service.

    >>> with open_socket("127.0.0.1", 0) as sock:
    ...     socket_address(sock).startswith("http://127.0.0.1:")
    True
    """
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """Make a folder in which processes that are started now add up their metrics."""
    with tempfile.TemporaryDirectory(prefix="signlang-") as folder:
        previous = os.environ.get(METRICS_VARIABLE)
        os.environ[METRICS_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            if previous is None:
                del os.environ[METRICS_VARIABLE]
            else:
                os.environ[METRICS_VARIABLE] = previous


READY: Final = "ready"
ALIVE: Final = "alive"  # the question of the supervisor, and the answer
IDLE_S: Final = 30  # of a connection that is kept open; longer than browsers wait between frames


def run(
    options: ServeConfig, fingerprints: Mapping[str, str], listening: socket.socket,
    status: Connection,
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT, then finish the requests in progress.

    Args:
        options: The settings.
        fingerprints: Of the bundles by name, as all processes must have them.
        listening: Shared with the other processes.
        status: Gets `READY`, or the sentence of the error why not, and then `ALIVE` when asked.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; before the start it is early
    start_json_log()
    _end_with_parent()
    from signlang.server import registry, telemetry
    from signlang.server.app import create_app

    try:
        application = create_app(registry.load_models(options, fingerprints), options)
    except SignlangError as error:
        status.send(str(error))
        return
    telemetry.STARTS.inc()
    _serve(application, options, listening, status)


def _serve(
    application: Any, options: ServeConfig, listening: socket.socket, status: Connection
) -> None:
    import uvicorn

    from signlang.server.http_protocol import protocol_factory

    class Server(uvicorn.Server):
        """Tells when it answers, and from then on that its event loop runs."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                status.send(READY)
                _answer_supervisor(status)

    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        http=protocol_factory(options),  # type: ignore[arg-type]  # called like a class
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=max(1, round(options.grace_s)),
    )
    Server(config).run(sockets=[listening])


def _answer_supervisor(status: Connection) -> None:
    """Answer each question of the supervisor in the running event loop: one that hangs does not."""
    import asyncio

    loop = asyncio.get_running_loop()

    def answer() -> None:
        try:
            status.send(status.recv())
        except (EOFError, OSError):  # the supervisor has ended
            loop.remove_reader(status.fileno())

    loop.add_reader(status.fileno(), answer)


def _end_with_parent() -> None:
    """Finish when the supervisor has ended, even if it was killed: no process stays behind."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()


MAX_PAUSE_S: Final = 30.0  # seconds at most between attempts to start a process again
MARGIN: Final = 5.0  # seconds beyond the time that requests get to finish
CHECKS: Final = 10  # in `worker_timeout_s`, after which a worker is killed


@dataclass(eq=False)
class _Worker:
    process: Any
    status: Connection
    is_connected: bool = True
    is_ready: bool = False
    unanswered: int = 0  # checks since it was asked whether it is alive


class Supervisor:
    """Keeps the processes of a service running until it is stopped.

    Args:
        options: The settings.
        fingerprints: Of the bundles by name.
    """

    def __init__(self, options: ServeConfig, fingerprints: Mapping[str, str]) -> None:
        self._options = options
        self._fingerprints = fingerprints
        self._address = ""
        self._workers: list[_Worker] = []
        self._failures = 0
        self._not_before = 0.0
        self._next_check = 0.0
        self._is_stopping = False
        self._was_ready = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then wait for the requests in progress.

        Raises:
            ServiceError: If the address is taken, or a process cannot be started at all.
        """
        with (
            open_socket(self._options.host, self._options.port) as sock,
            metrics_folder() as folder,
            self._signal_pipe() as signal_pipe,
        ):
            self._address = socket_address(sock)
            try:
                while not self._is_stopping:
                    self._start_missing(sock)
                    self._wait(signal_pipe, folder)
                    self._check_workers()
            finally:
                self._is_stopping = True
                sock.close()  # new connections are refused instead of kept waiting
                self._stop()

    @contextmanager
    def _signal_pipe(self) -> Iterator[int]:
        """Let SIGTERM and SIGINT end the waiting; yields the pipe to which they write."""
        reader, writer = os.pipe()

        def on_signal(number: int, frame: Any) -> None:
            self._is_stopping = True
            os.write(writer, b"!")

        previous = {
            number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield reader
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)

    def _start_missing(self, sock: socket.socket) -> None:
        """Start as many processes as are missing, unless the last ones failed a moment ago."""
        if self._was_ready and not self._workers:
            self._reload_replaced_bundles()
        context = multiprocessing.get_context("spawn")  # a fork would share threads and sessions
        while len(self._workers) < self._options.workers and time.monotonic() >= self._not_before:
            status, sender = context.Pipe()
            process = context.Process(
                target=run, args=(self._options, self._fingerprints, sock, sender),
                name="signlang-worker",
            )  # fmt: skip
            process.start()
            sender.close()
            self._workers.append(_Worker(process, status))

    def _reload_replaced_bundles(self) -> None:
        """Use bundles that were replaced, now that no process has the earlier ones."""
        from signlang.server.registry import fingerprints_of, read_bundles

        with suppress(SignlangError):  # the process that is started next says why
            bundles, _ = read_bundles(self._options.paths, self._options.default)
            fingerprints = fingerprints_of(bundles)
            if fingerprints != self._fingerprints:
                self._fingerprints, self._failures, self._not_before = fingerprints, 0, 0.0
                log.warning("a bundle was replaced, it is used from now on")

    def _wait(self, signal_pipe: int, folder: Path) -> None:
        """Wait for a message, the end of a process, a signal, or the time of the next check."""
        senders: dict[Any, _Worker] = {w.status: w for w in self._workers if w.is_connected}
        sentinels: dict[Any, _Worker] = {w.process.sentinel: w for w in self._workers}
        is_complete = len(self._workers) == self._options.workers
        until = self._next_check if is_complete else min(self._next_check, self._not_before)
        pause = max(0.0, until - time.monotonic())
        ready = connection.wait([*senders, *sentinels, signal_pipe], pause)
        for source in ready:  # messages first: they contain the reason
            if source in senders:
                self._on_message(senders[source])
        for source in ready:
            if source in sentinels:
                self._on_exit(sentinels[source], folder)

    def _on_message(self, worker: _Worker) -> None:
        try:
            message = worker.status.recv()
        except (EOFError, OSError):
            worker.is_connected = False
            return
        if message == ALIVE:
            worker.unanswered = 0
        elif message == READY:
            worker.is_ready = self._was_ready = True
            self._failures = 0
            facts = {"address": self._address, "worker": worker.process.pid}
            log.info("ready", extra=facts)
        elif self._was_ready:
            log.error("a worker cannot start", extra={"reason": message})
        else:
            raise ServiceError(message)

    def _check_workers(self) -> None:
        """Ask the workers from time to time whether they are alive; kill one that does not answer.

        Checks are counted instead of seconds: when the whole service was stopped for a while, or
        the computer slept, nobody could answer.
        """
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + self._options.worker_timeout_s / CHECKS
        for worker in self._workers:
            if not worker.is_ready:
                continue
            if worker.unanswered == 0:
                with suppress(OSError):  # it has just ended
                    worker.status.send(ALIVE)
            elif worker.unanswered == CHECKS:
                facts = {"worker": worker.process.pid, "seconds": self._options.worker_timeout_s}
                log.error("a worker hangs", extra=facts)
                worker.process.kill()
            worker.unanswered += 1

    def _on_exit(self, worker: _Worker, folder: Path) -> None:
        """Reap a process; pause longer each time before the next if it never became ready."""
        worker.process.join()
        worker.status.close()
        self._workers.remove(worker)
        for file in folder.glob(f"gauge_live*_{worker.process.pid}.db"):
            file.unlink(missing_ok=True)  # its present state; what it counted stays
        if self._is_stopping:
            return
        if not self._was_ready:
            raise ServiceError(
                f"The service ended before it was ready (exit code {worker.process.exitcode}). If "
                "there is no message above, it may have been killed for lack of memory."
            )
        if not worker.is_ready:
            self._failures += 1
            self._not_before = time.monotonic() + min(MAX_PAUSE_S, 2.0**self._failures)
        facts = {"worker": worker.process.pid, "exit_code": worker.process.exitcode}
        log.error("a worker ended, another takes its place", extra=facts)

    def _stop(self) -> None:
        """Let all processes finish requests in progress; kill those that take too long."""
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + self._options.grace_s + MARGIN
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        if self._was_ready:
            log.info("stopped")


_RECORD_FIELDS: Final = set(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
}


class JsonFormatter(logging.Formatter):
    """Writes a record and its `extra` as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Turn a record into a line."""
        created = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": created.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "process": record.process,
        }
        line |= {key: value for key, value in vars(record).items() if key not in _RECORD_FIELDS}
        if record.exc_info and record.exc_info[0] is not None:
            # the place of the error, not its text, which may quote the request
            line["error"] = record.exc_info[0].__name__
            line["trace"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return json.dumps(line, ensure_ascii=False, default=str)


class JsonHandler(logging.StreamHandler[TextIO]):
    """Writes to the standard output; where that is gone or full, reports it once and continues."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        super().__init__(sys.stdout)
        self._has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Report the first line that cannot be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            with suppress(OSError):
                sys.stderr.write(
                    f"Process {os.getpid()} cannot write its log ({error.strerror}); it goes on.\n"
                )


def start_json_log() -> None:
    """Send all logs of this process to the standard output, as lines of JSON."""
    handler = JsonHandler()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
