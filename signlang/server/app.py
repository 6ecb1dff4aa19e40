"""HTTP inference server: FastAPI app, routes and the web page."""

import gzip
import hashlib
import mimetypes
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

import signlang
from signlang.hands.hand_input import HandInput
from signlang.inference.bundle import DrawnHand
from signlang.server import schemas, telemetry
from signlang.server.config import MIB, ServeConfig
from signlang.server.engine import Engine
from signlang.server.registry import ModelRegistry
from signlang.server.schemas import RequestError
from signlang.server.security import CARD_POLICY, HostCheck, KeyCheck, SecureHeaders
from signlang.server.telemetry import RequestLog

FOLDER: Final = Path(__file__).parent / "page"
RUNTIME: Final = "vendor/ort.wasm.min.mjs"  # comes by `make page`
MEDIA_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}


for _suffix, _type in MEDIA_TYPES.items():  # the table of the system may differ
    mimetypes.add_type(_type, _suffix)


class PageFiles(StaticFiles):
    """Files of the web page; a browser asks each time whether its copy is still the current one."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find a file of the page, or of `vendor`, that `MEDIA_TYPES` knows."""
        name = PurePosixPath(path)
        if name.suffix not in MEDIA_TYPES or str(name.parent) not in {".", "vendor"}:
            return "", None
        return super().lookup_path(path)

    def file_response(
        self, full_path: Any, stat_result: os.stat_result, scope: Any, status_code: int = 200
    ) -> Response:
        """Answer with the file, compressed where it is there so, or that the browser has it."""
        gzipped = Path(f"{full_path}.gz")
        is_gzipped = "gzip" in Headers(scope=scope).get("accept-encoding", "") and gzipped.is_file()
        if is_gzipped:
            full_path, stat_result = gzipped, gzipped.stat()
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Vary"] = "Accept-Encoding"
        if is_gzipped:
            response.headers["Content-Encoding"] = "gzip"
        return response


def onnx_response(data: bytes, request: Request, *, packed: bool = False) -> Response:
    """Answer with a network out of a bundle, or that the browser has it already.

    Args:
        data: The network.
        request: What is answered.
        packed: Whether to compress it, where the client reads that.
    """
    etag = _etag(data)
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    if packed and "gzip" in request.headers.get("accept-encoding", ""):
        data, headers["Content-Encoding"] = _gzipped(data), "gzip"
    return Response(data, media_type="application/octet-stream", headers=headers)


@lru_cache(maxsize=32)
def _etag(data: bytes) -> str:
    return f'W/"{hashlib.sha256(data).hexdigest()}"'


@lru_cache(maxsize=8)
def _gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": schemas.ErrorResponse, "description": text}
    for code, text in {
        401: "Without the key of the service",
        404: "No network of this name",
        408: "The body took too long to arrive",
        413: "Too many bytes, images or pixels",
        415: "Not a JPEG, PNG, WebP or BMP image",
        422: "A damaged image, or none",
        429: "Overloaded: wait for Retry-After",
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
                "required": ["images"],
                "properties": {
                    "images": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        },
    },
}


NOTHING_HERE: Final = "There is nothing at this address; /docs lists what there is."


def protected(options: ServeConfig, *codes: int) -> dict[str, Any]:
    """What a protected route asks for and may refuse; nothing is asked without a key.

    `APIKeyHeader` and `HTTPBearer` document the two ways to give the key in OpenAPI.

    Args:
        options: The settings.
        codes: Other refusals of the route.
    """
    key_checks = [
        Depends(APIKeyHeader(name="X-API-Key", auto_error=False)),
        Depends(HTTPBearer(auto_error=False)),
        Depends(KeyCheck(options.api_key)),
    ]
    statuses = [*([401] if options.api_key else []), *codes]
    return {
        "dependencies": key_checks if options.api_key else [],
        "responses": {code: REFUSED[code] for code in statuses},
    }


def prediction_routes(engine: Engine, options: ServeConfig) -> APIRouter:
    """Where images are recognised."""
    router = APIRouter(prefix="/v1", tags=["signs"])

    @router.post(
        "/predict", response_model=schemas.PredictResponse, openapi_extra={"requestBody": BODY},
        **protected(options, 404, 408, 413, 415, 422, 429, 503),
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
        answer = await engine.answer(request.headers, request.stream(), model, top)
        setattr(request.state, telemetry.LOG_FIELDS, answer.log_fields)
        return JSONResponse(answer.content)

    return router


def model_routes(models: ModelRegistry, options: ServeConfig) -> APIRouter:
    """The models, their files and their cards."""
    router = APIRouter(prefix="/v1/models", tags=["networks"])
    model_list = _model_list(models, options)

    @router.get("", response_model=schemas.ModelList, **protected(options))
    async def list_models() -> Response:
        """List the networks among which a request can choose, and the limits."""
        return JSONResponse(model_list)

    @router.get("/{name}/network.onnx", response_class=Response, **protected(options, 404))
    def network(name: str, request: Request) -> Response:
        """Load a network into the browser: uint8 images in, probabilities out."""
        return onnx_response(models[models.resolve(name)].onnx, request)

    @router.get("/{name}/hands/{part}.onnx", response_class=Response, **protected(options, 404))
    def hand_network(name: str, part: Literal["palm", "landmarks"], request: Request) -> Response:
        """Load a network that finds hands into the browser."""
        hands = models[models.resolve(name)].hands
        if hands is None:
            raise RequestError(404, "This network sees whole images: it finds no hands.")
        # weights of half precision become a quarter smaller, those of the others a fifteenth
        return onnx_response(getattr(hands.networks, part), request, packed=True)

    @router.get("/{name}/signs", response_model=dict[str, DrawnHand], **protected(options, 404))
    async def signs(name: str) -> Response:
        """Draw the signs: x and y of the 21 points of a mean right hand, in palms."""
        drawn = models[models.resolve(name)].signs
        if not drawn:
            raise RequestError(404, "The bundle of this network has no drawings of its signs.")
        return JSONResponse(drawn)

    @router.get("/{name}/card", response_class=Response, responses={404: REFUSED[404]})
    async def card(name: str) -> Response:
        """Read the model card; needs no key."""
        page = models[models.resolve(name)].card
        if not page:
            raise RequestError(404, "The bundle of this network has no card.")
        headers = {"Content-Security-Policy": CARD_POLICY}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return router


def _model_list(models: ModelRegistry, options: ServeConfig) -> dict[str, Any]:
    return {
        "models": [
            {
                "name": name,
                "default": name == models.default,
                "classes": list(model.bundle.classes),
                "image_size": model.bundle.image_size,
                "precision": options.precision,
                "device": options.device,
                "threshold": model.threshold,
                "threshold_source": model.threshold_source,
                "card": f"/v1/models/{name}/card" if model.card else None,
                "signs": f"/v1/models/{name}/signs" if model.signs else None,
                "hands": model.hands is not None,
                "browser": {
                    "precision": model.browser,
                    "url": f"/v1/models/{name}/network.onnx",
                    "bytes": len(model.onnx),
                    "hands": _hands(name, model.hands),
                },
            }
            for name, model in models.items()
        ],
        "max_images": options.max_images,
        "max_body_bytes": int(options.max_body_mb * MIB),
        "max_pixels": options.max_pixels,
        "browser_runtime": (FOLDER / RUNTIME).is_file(),
    }


def _hands(name: str, hands: HandInput | None) -> dict[str, Any] | None:
    """What a browser needs to find hands, in the form of `schemas.BrowserHands`."""
    if hands is None:
        return None
    folder = f"/v1/models/{name}/hands"
    return {
        "palm": f"{folder}/palm.onnx",
        "landmarks": f"{folder}/landmarks.onnx",
        "bytes": len(hands.networks.palm) + len(hands.networks.landmarks),
        "options": hands.options,
    }


ABOUT: Final = """Recognises static hand signs in images. Send one image as the body, or several
as `multipart/form-data`; images are neither stored nor logged."""


def create_app(models: ModelRegistry, options: ServeConfig) -> Any:
    """Make the ASGI application; it lives in one event loop, from start to shutdown."""
    engine = Engine(models, options)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(
        title="signlang", summary="Static hand signs", description=ABOUT,
        version=signlang.__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
    )  # fmt: skip
    app.include_router(prediction_routes(engine, options))
    app.include_router(model_routes(models, options))
    app.include_router(_monitoring_routes(engine, options))
    app.include_router(_page_routes())
    _add_error_handlers(app)
    _remove_default_errors(app)
    wrapped: Any = app
    if options.cors:
        wrapped = CORSMiddleware(
            wrapped, allow_origins=options.cors, allow_methods=["GET", "POST"],
            allow_headers=["content-type", "x-api-key", "authorization"],
        )  # fmt: skip
    checked = HostCheck(AnswerHead(wrapped), _names(options))
    return RequestLog(SecureHeaders(checked, shared=bool(options.cors)))


def _names(options: ServeConfig) -> Sequence[str] | None:
    """Names by which the service may be called, None for any: see `hosts` in conf/serve.yaml."""
    if options.hosts is not None:
        return None if "*" in options.hosts else options.hosts
    return None if options.api_key else (socket.gethostname(), socket.getfqdn())


class AnswerHead:
    """ASGI middleware that answers HEAD as GET; uvicorn leaves the body out.

    Args:
        app: The application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        await self.app({**scope, "method": "GET"} if is_head else scope, receive, send)


def _remove_default_errors(app: FastAPI) -> None:
    """Remove from the OpenAPI schema what FastAPI adds about errors in a form that is not ours."""
    schema = app.openapi()
    for methods in schema["paths"].values():
        for route in methods.values():
            if "HTTPValidationError" in str(route["responses"].get("422")):
                del route["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def _monitoring_routes(engine: Engine, options: ServeConfig) -> APIRouter:
    router = APIRouter(tags=["monitoring"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @router.get("/readyz", responses={503: {"model": schemas.ErrorResponse}})
    async def readyz() -> dict[str, str]:
        """Whether another image would be decoded and computed at once."""
        if engine.admission.is_full:
            raise RequestError(503, "The queue is full.", {"Retry-After": "1"})
        if not await engine.is_decoding():
            raise RequestError(503, "The decoders are busy.", {"Retry-After": "5"})
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, **protected(options))
    async def metrics() -> Response:
        """Metrics for Prometheus, of all processes."""
        return Response(telemetry.metrics_page(), media_type=telemetry.METRICS_TYPE)

    return router


def _page_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    files = PageFiles(directory=FOLDER)

    @router.get("/")
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return await files.get_response("docs.html", request.scope)

    @router.get("/page/{name:path}")
    async def file(name: str, request: Request) -> Response:
        return await files.get_response(name, request.scope)

    return router


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error with one sentence, in the form of `schemas.ErrorResponse`."""

    def error_response(status: int, sentence: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers=headers)

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return error_response(error.status, error.sentence, dict(error.headers))

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405 and request.method == "OPTIONS":
            allowed = (error.headers or {}).get("Allow", "").replace("GET", "GET, HEAD")
            return Response(status_code=204, headers={"Allow": f"{allowed}, OPTIONS"})
        sentence = {
            404: NOTHING_HERE,
            405: "This address takes other methods; /docs lists them.",
        }.get(error.status_code, "This request cannot be answered.")
        return error_response(error.status_code, sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        if all(issue["loc"][0] == "path" for issue in error.errors()):
            return error_response(404, NOTHING_HERE)
        names = ", ".join(sorted({str(issue["loc"][-1]) for issue in error.errors()}))
        return error_response(422, f"This setting of the request has no usable value: {names}.")

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return error_response(499, "The client closed the request.")

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return error_response(500, "The service failed at this request; see its log.")
