"""What answers and what is served come in; the addresses for pictures and networks go out."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader

from signlang.deploy.service import schema, static
from signlang.deploy.service.answering import Engine
from signlang.deploy.service.options import MIB, Options
from signlang.deploy.service.refusals import Refusal
from signlang.deploy.service.security import CARD_POLICY, KeyCheck
from signlang.deploy.service.shelf import Shelf

REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": schema.Trouble, "description": text}
    for code, text in {
        401: "Without the key of the service",
        404: "No network of this name",
        408: "The body took too long to arrive",
        413: "Too many bytes, pictures or pixels",
        415: "Not a JPEG, PNG, WebP or BMP picture",
        422: "A damaged picture, or none",
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
                    "pictures": {"type": "array", "items": {"type": "string", "format": "binary"}}
                },
            }
        },
    },
}


def locked(options: Options) -> list[Any]:
    """What a route depends on if it asks for the key; the first only describes it."""
    return [
        Depends(APIKeyHeader(name="X-API-Key", auto_error=False)),
        Depends(KeyCheck(options.api_key)),
    ]


def signs(engine: Engine, options: Options) -> APIRouter:
    """Where pictures are recognised."""
    router = APIRouter(prefix="/v1", tags=["signs"], dependencies=locked(options))

    @router.post(
        "/predict", response_model=schema.Answer, responses=REFUSED,
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
        """Recognise the signs in one or many pictures."""
        notes = request.scope["state"]["notes"]
        found = await engine.answer(request.headers, request.stream(), model, top, notes)
        return JSONResponse(found)

    return router


def networks(shelf: Shelf, options: Options) -> APIRouter:
    """Where the networks, their files and their cards are found."""
    router = APIRouter(prefix="/v1/models", tags=["networks"])
    listed = _listed(shelf, options)
    onnx = {
        name: static.file(served.onnx, "application/octet-stream") for name, served in shelf.items()
    }

    @router.get("", response_model=schema.Models, dependencies=locked(options))
    async def models() -> Response:
        """List the networks among which a request can choose, and the limits."""
        return JSONResponse(listed)

    @router.get("/{name}/network.onnx", response_class=Response, dependencies=locked(options))
    async def network(name: str, request: Request) -> Response:
        """Load a network into the browser: uint8 pictures in, probabilities out."""
        return onnx[shelf.chosen(name)].answer(request)

    @router.get("/{name}/card", response_class=Response)
    async def card(name: str) -> Response:
        """Read what a network was made of and what it is good for; needs no key."""
        page = shelf[shelf.chosen(name)].card
        if not page:
            raise Refusal(404, "The bundle of this network has no card.")
        headers = {"Content-Security-Policy": CARD_POLICY}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return router


def _listed(shelf: Shelf, options: Options) -> dict[str, Any]:
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
        "max_pictures": options.max_pictures,
        "max_body_bytes": int(options.max_body_mb * MIB),
        "max_pixels": options.max_pixels,
        "browser_runtime": (static.FOLDER / static.RUNTIME).is_file(),
    }
