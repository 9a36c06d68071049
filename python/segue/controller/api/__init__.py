"""The HTTP API of the controller: operator verbs in, JSON out (design, section 10).

One file a resource: its handlers, and how rows of the table become the structs of `segue.api`.
Handlers turn a request into one verb and decide nothing.  Litestar validates bodies against those
structs and derives the OpenAPI document from them, served at ``/v1/schema/openapi.json``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from litestar import Litestar, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Reference, RequestBody
from litestar.types import ASGIApp, Receive, Scope, Send

import segue
from segue.controller.api.agents import agent_routes
from segue.controller.api.containers import container_routes
from segue.controller.api.disks import disk_routes
from segue.controller.api.errors import EXCEPTION_HANDLERS, error_responses
from segue.controller.api.jobs import job_routes
from segue.controller.api.latency import latency_routes
from segue.controller.api.status import status_routes
from segue.controller.controller import Controller
from segue.controller.procedures.verbs import ASKER, Asker

ROUTES = (status_routes, container_routes, disk_routes, agent_routes, job_routes, latency_routes)
"""A resource's function: the controller in, its route handlers out."""


def _asked(c: Controller) -> Callable[[ASGIApp], ASGIApp]:
    """For requests that change something: `segue status` shows what they wait for, and verbs learn
    whether their asker still does (`verbs.still_asked`).
    """

    def around(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            method = scope.get("method", "GET")
            if method == "GET":
                await app(scope, receive, send)
                return
            asker = Asker()
            ASKER.set(asker)
            heard: asyncio.Queue[Any] = asyncio.Queue(1)
            hearing = asyncio.ensure_future(_hear(receive, heard, asker))
            try:
                with c.waits.work(f"request {method} {scope['path']}"):
                    await app(scope, heard.get, send)
            finally:
                hearing.cancel()

        return call

    return around


async def _hear(receive: Receive, heard: asyncio.Queue[Any], asker: Asker) -> None:
    """Passes on what the client sends, one message ahead, and notes that it has gone."""
    while not asker.gone:
        message = await receive()
        asker.gone = message["type"] == "http.disconnect"
        await heard.put(message)


def make_api(c: Controller) -> Litestar:
    """The ASGI application over one controller."""
    handlers = [handler for routes in ROUTES for handler in routes(c)]
    for handler in handlers:
        handler.responses = error_responses(handler)
    app = Litestar(
        route_handlers=[Router("/v1", route_handlers=handlers)],
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[_asked(c)],
        openapi_config=OpenAPIConfig(
            title="Segue",
            version=segue.__version__,
            path="/v1/schema",
            use_handler_docstrings=True,
            operation_id_creator=lambda handler, _method, _path: handler.handler_name,
        ),
        logging_config=None,
    )
    _forbid_unknown_fields(app)
    return app


def _forbid_unknown_fields(app: Litestar) -> None:
    """Says in the document what the structs of requests do: a field they do not know is refused."""
    document = app.openapi_schema
    for item in (document.paths or {}).values():
        body = item.post.request_body if item.post else None
        for content in body.content.values() if isinstance(body, RequestBody) else ():
            assert isinstance(content.schema, Reference)
            name = content.schema.ref.rpartition("/")[2]
            document.components.schemas[name].additional_properties = False
