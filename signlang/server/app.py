"""HTTP inference server: FastAPI app, routes and the web page.

What a request asks for is looked up in a table, never on the disk.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

import signlang
from signlang.server import schemas, telemetry
from signlang.server.config import MIB, ServeConfig
from signlang.server.engine import Engine
from signlang.server.registry import ModelRegistry
from signlang.server.schemas import RequestError
from signlang.server.security import CARD_POLICY, KeyCheck, SecureHeaders
from signlang.server.telemetry import RequestLog

FOLDER: Final = Path(__file__).parent / "page"
RUNTIME: Final = "vendor/ort.wasm.min.mjs"  # comes by `make page`
KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}


@dataclass(frozen=True, eq=False)
class StaticFile:
    """What is served under a name."""

    data: bytes
    kind: str
    tag: str

    def answer(self, request: Request) -> Response:
        """The file, or that the browser has it already."""
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.data, media_type=self.kind, headers=headers)


def static_file(data: bytes, kind: str) -> StaticFile:
    """Make a file of its content."""
    return StaticFile(data, kind, f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"')


def static_files(folder: Path = FOLDER) -> dict[str, StaticFile]:
    """Read the page: its own files, and what npm brought, if it did."""
    own = [path for path in folder.iterdir() if path.suffix in KINDS]
    brought = [path for path in (folder / "vendor").glob("*") if path.suffix in KINDS]
    return {
        path.relative_to(folder).as_posix(): static_file(path.read_bytes(), KINDS[path.suffix])
        for path in sorted(own + brought)
    }


REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": schemas.ErrorResponse, "description": text}
    for code, text in {
        401: "Without the key of the service",
        404: "No network of this name",
        408: "The body took too long to arrive",
        413: "Too many bytes, images or pixels",
        415: "Not a JPEG, PNG, WebP or BMP image",
        422: "A damaged image, or none",
        429: "Too much to do: wait as Retry-After says",
        503: "No answer in time",
    }.items()
}
BODY: Final = {
    "required": True,
    "content": {
        "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
        "image/png": {"schema": {"type": "string", "format": "binary"}},
        "image/webp": {"schema": {"type": "string", "format": "binary"}},
        "image/bmp": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "images": {"type": "array", "items": {"type": "string", "format": "binary"}}
                },
            }
        },
    },
}


def protected(options: ServeConfig) -> list[Any]:
    """What a route depends on if it asks for the key; the first only describes it."""
    return [
        Depends(APIKeyHeader(name="X-API-Key", auto_error=False)),
        Depends(KeyCheck(options.api_key)),
    ]


def prediction_routes(engine: Engine, options: ServeConfig) -> APIRouter:
    """Where images are recognised."""
    router = APIRouter(prefix="/v1", tags=["signs"], dependencies=protected(options))

    @router.post(
        "/predict", response_model=schemas.PredictResponse, responses=REFUSED,
        openapi_extra={"requestBody": BODY},
    )  # fmt: skip
    async def predict(
        request: Request,
        model: Annotated[
            str | None, Query(description="Name of a network; left out: the default")
        ] = None,
        top: Annotated[
            int | None, Query(ge=1, description="How many signs to name; left out: all")
        ] = None,
    ) -> Response:
        """Recognise the signs in one or many images."""
        notes = request.scope["state"]["notes"]
        found = await engine.answer(request.headers, request.stream(), model, top, notes)
        return JSONResponse(found)

    return router


def model_routes(shelf: ModelRegistry, options: ServeConfig) -> APIRouter:
    """Where the networks, their files and their cards are found."""
    router = APIRouter(prefix="/v1/models", tags=["networks"])
    listed = _listed(shelf, options)
    onnx = {
        name: static_file(served.onnx, "application/octet-stream") for name, served in shelf.items()
    }

    @router.get("", response_model=schemas.ModelList, dependencies=protected(options))
    async def models() -> Response:
        """List the networks among which a request can choose, and the limits."""
        return JSONResponse(listed)

    @router.get("/{name}/network.onnx", response_class=Response, dependencies=protected(options))
    async def network(name: str, request: Request) -> Response:
        """Load a network into the browser: uint8 images in, probabilities out."""
        return onnx[shelf.chosen(name)].answer(request)

    @router.get("/{name}/card", response_class=Response)
    async def card(name: str) -> Response:
        """Read what a network was made of and what it is good for; needs no key."""
        page = shelf[shelf.chosen(name)].card
        if not page:
            raise RequestError(404, "The bundle of this network has no card.")
        headers = {"Content-Security-Policy": CARD_POLICY}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return router


def _listed(shelf: ModelRegistry, options: ServeConfig) -> dict[str, Any]:
    return {
        "models": [
            {
                "name": name,
                "default": name == shelf.default,
                "classes": list(served.bundle.classes),
                "image_size": served.bundle.image_size,
                "precision": options.precision,
                "device": options.device,
                "threshold": served.threshold,
                "card": f"/v1/models/{name}/card" if served.card else None,
                "browser": {
                    "precision": served.browser,
                    "url": f"/v1/models/{name}/network.onnx",
                    "bytes": len(served.onnx),
                },
            }
            for name, served in shelf.items()
        ],
        "max_images": options.max_images,
        "max_body_bytes": int(options.max_body_mb * MIB),
        "max_pixels": options.max_pixels,
        "browser_runtime": (FOLDER / RUNTIME).is_file(),
    }


ABOUT: Final = """Recognises static hand signs in images. Send one image as the body, or several
as `multipart/form-data`; images are neither stored nor logged."""


def create_app(shelf: ModelRegistry, options: ServeConfig) -> Any:
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
    app.include_router(prediction_routes(engine, options))
    app.include_router(model_routes(shelf, options))
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
    return RequestLog(SecureHeaders(wrapped, shared=bool(options.cors)))


def _describe(app: FastAPI) -> None:
    """Take out of the description what FastAPI adds about errors in a form that is not ours."""
    described = app.openapi()
    for methods in described["paths"].values():
        for route in methods.values():
            if "HTTPValidationError" in str(route["responses"].get("422")):
                del route["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)


def _watching(engine: Engine, options: ServeConfig) -> APIRouter:
    router = APIRouter(tags=["watching"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @router.get("/readyz", responses={503: {"model": schemas.ErrorResponse}})
    async def readyz() -> dict[str, str]:
        """Whether there is room for another image; the networks are loaded before the start."""
        if engine.admission.is_full:
            raise RequestError(503, "The queue is full.", {"Retry-After": "1"})
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, dependencies=protected(options))
    async def metrics() -> Response:
        """Figures for Prometheus, of all processes."""
        return Response(telemetry.metrics_page(), media_type=telemetry.KIND)

    return router


def _page(shelf: ModelRegistry) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    files = static_files()

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

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
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
