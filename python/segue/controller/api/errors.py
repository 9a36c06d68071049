"""Errors as answers: one clear sentence and the HTTP status that fits."""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from segue.api.errors import ErrorBody
from segue.controller.commits import TermEnded
from segue.controller.procedures.verbs import Refusal

log = logging.getLogger("segue.controller.api")

_NO_BODY = "data: 'data'"
"""What Litestar says of one."""


def _refused(_: Request[Any, Any, Any], error: Refusal) -> Response[ErrorBody]:
    return Response(ErrorBody(str(error)), status_code=404 if error.missing else 409)


def _term_ended(_: Request[Any, Any, Any], error: TermEnded) -> Response[ErrorBody]:
    return Response(
        ErrorBody("the controller's term has ended; whether this was done is unknown"),
        status_code=503,
    )


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorBody]:
    """Litestar's own: no such route, a body that is not what the verb takes."""
    details = error.extra if isinstance(error.extra, list) else []
    said = [
        f"{item['key']}: {item['message']}" if item.get("key") else str(item.get("message"))
        for item in details
        if isinstance(item, dict)
    ]
    if error.status_code == 404 and not said:
        said = [f"there is nothing at {request.url.path}"]
    if said == [_NO_BODY]:
        said = ["the request has no body: a JSON object is expected"]
    return Response(ErrorBody("; ".join(said) or error.detail), status_code=error.status_code)


def _too_deep(_: Request[Any, Any, Any], error: RecursionError) -> Response[ErrorBody]:
    return Response(ErrorBody("the body is nested too deeply"), status_code=400)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """Our own mistake: that request fails, nothing else."""
    log.error(
        "event=request_failed method=%s path=%s", request.method, request.url.path, exc_info=error
    )
    return Response(ErrorBody("the controller failed at this, its log says why"), status_code=500)


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    Refusal: _refused,
    TermEnded: _term_ended,
    HTTPException: _http_error,
    RecursionError: _too_deep,
    Exception: _unexpected,
}

_MEANINGS = {
    400: "The request is malformed",
    401: "Over TCP: the request carries no valid token",
    404: "There is nothing of that name",
    409: "Refused: nothing was changed",
    500: "The controller failed at this",
    503: "The term has ended; whether it was done is unknown",
}


def error_responses(handler: HTTPRouteHandler) -> dict[int, ResponseSpec]:
    """What the OpenAPI document says of a route's errors."""
    statuses = {401, 500}
    if any("{" in path for path in handler.paths):
        statuses |= {400, 404}
    if handler.http_methods != {"GET"}:
        statuses |= {400, 409, 503}
    return {
        status: ResponseSpec(ErrorBody, generate_examples=False, description=_MEANINGS[status])
        for status in sorted(statuses)
    }
