"""Networks and settings come in; a web application that answers about pictures goes out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

import signlang
from signlang.deploy.service import measuring, routes, schema, static
from signlang.deploy.service.answering import Engine
from signlang.deploy.service.options import Options
from signlang.deploy.service.refusals import Refusal
from signlang.deploy.service.security import SecureHeaders
from signlang.deploy.service.shelf import Shelf
from signlang.deploy.service.watching import Watch

ABOUT: Final = """Recognises static hand signs in pictures. Send one picture as the body, or several
as `multipart/form-data`; pictures are neither stored nor logged."""


def create(shelf: Shelf, options: Options) -> Any:
    """Make the ASGI application; it lives in one event loop, from start to shutdown."""
    engine = Engine(shelf, options)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(
        title="signlang", summary="Static hand signs", description=ABOUT,
        version=signlang.__version__, docs_url=None, redoc_url=None, lifespan=life,
    )  # fmt: skip
    app.include_router(routes.signs(engine, options))
    app.include_router(routes.networks(shelf, options))
    app.include_router(_watching(engine, options))
    app.include_router(_page(shelf))
    _explain_errors(app)
    _describe(app)
    wrapped: Any = app
    if options.cors:
        wrapped = CORSMiddleware(
            wrapped, allow_origins=options.cors, allow_methods=["GET", "POST"],
            allow_headers=["content-type", "x-api-key", "authorization"],
        )  # fmt: skip
    return Watch(SecureHeaders(wrapped, shared=bool(options.cors)))


def _describe(app: FastAPI) -> None:
    """Take out of the description what FastAPI adds about errors in a form that is not ours."""
    described = app.openapi()
    for methods in described["paths"].values():
        for route in methods.values():
            if "HTTPValidationError" in str(route["responses"].get("422")):
                del route["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)


def _watching(engine: Engine, options: Options) -> APIRouter:
    router = APIRouter(tags=["watching"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @router.get("/readyz", responses={503: {"model": schema.Trouble}})
    async def readyz() -> dict[str, str]:
        """Whether there is room for another picture; the networks are loaded before the start."""
        if engine.admission.is_full:
            raise Refusal(503, "The queue is full.", {"Retry-After": "1"})
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, dependencies=routes.locked(options))
    async def metrics() -> Response:
        """Figures for Prometheus, of all processes."""
        return Response(measuring.page(), media_type=measuring.KIND)

    return router


def _page(shelf: Shelf) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    files = static.files()

    @router.get("/")
    async def page(request: Request) -> Response:
        return files["index.html"].answer(request)

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return files["docs.html"].answer(request)

    @router.get("/page/{name:path}")
    async def part(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return files[name].answer(request)

    return router


def _explain_errors(app: FastAPI) -> None:
    """Answer every error with one sentence, in the form of `schema.Trouble`."""

    def said(status: int, sentence: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers=headers)

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return said(error.status, error.sentence, dict(error.headers))

    @app.exception_handler(HTTPException)
    async def missing(_: Request, error: HTTPException) -> Response:
        sentence = {
            404: "There is nothing at this address; /docs lists what there is.",
            405: "This address takes other methods; /docs lists them.",
        }.get(error.status_code, "This request cannot be served.")
        return said(error.status_code, sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        names = ", ".join(sorted({str(found["loc"][-1]) for found in error.errors()}))
        return said(422, f"This setting of the request has no usable value: {names}.")

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return said(499, "Nobody waits for the answer.")

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return said(500, "The service failed at this request; its log says where.")
