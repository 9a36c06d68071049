"""The OpenAPI document describes every route, and the Python client calls every one of them."""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from segue.client import Client
from segue.controller.api import make_api
from segue.controller.controller import Controller


def document() -> dict[str, Any]:
    """As it is served."""
    controller = cast(Controller, SimpleNamespace(clock=SimpleNamespace(now_ns=lambda: 0)))
    return make_api(controller).openapi_schema.to_schema()


DOCUMENT = document()
OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    (method.upper(), path): operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method in ("get", "post", "put", "patch", "delete")
}


@pytest.mark.parametrize("route", OPERATIONS, ids=" ".join)
def test_every_route_is_described(route: tuple[str, str]) -> None:
    """What it does, what it takes and gives, and that errors are one sentence."""
    method, path = route
    operation = OPERATIONS[route]
    assert re.fullmatch(r"[A-Z].*\.", operation["description"], re.DOTALL)
    assert re.fullmatch(r"[a-z_]+", operation["operationId"])
    for status, answer in operation["responses"].items():
        if status == "204":
            continue
        schema = answer["content"]["application/json"]["schema"]
        what = schema.get("items", schema)
        if int(status) >= 400:
            assert what == {"$ref": "#/components/schemas/ErrorBody"}
        else:
            assert "$ref" in what, f"{method} {path}: {schema}"
    assert "500" in operation["responses"]
    for name in re.findall(r"{(\w+)}", path):
        assert any(given["name"] == name for given in operation["parameters"])
        assert "404" in operation["responses"]
    if method != "GET":
        assert "409" in operation["responses"]


def test_requests_with_unknown_fields_are_refused() -> None:
    """So says the document; the structs do so (`forbid_unknown_fields`)."""
    bodies = [
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        for operation in OPERATIONS.values()
        if "requestBody" in operation
    ]
    assert bodies
    for reference in bodies:
        name = reference.rpartition("/")[2]
        assert DOCUMENT["components"]["schemas"][name]["additionalProperties"] is False
        [kind] = [kind for kind in msgspec.Struct.__subclasses__() if kind.__name__ == name]
        assert kind.__struct_config__.forbid_unknown_fields


def test_names_of_operations_are_unique() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(names) == len(set(names))


class _Called(Exception):
    pass


class _Recorder(Client):
    """Says which request a method makes."""

    def call(self, method: str, path: str, kind: Any, body: Any = None) -> Any:
        raise _Called(method, "/v1/" + path.partition("?")[0])


def _argument(parameter: inspect.Parameter) -> Any:
    kind = str(parameter.annotation)
    return 1 if kind.startswith("int") else True if kind == "bool" else "x"


def test_the_client_calls_every_route() -> None:
    """And none that is not there."""
    called = set()
    for name, method in inspect.getmembers(_Recorder("/nowhere"), inspect.ismethod):
        if name.startswith("_") or name == "call":
            continue
        wanted = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
        with pytest.raises(_Called) as call:
            method(*map(_argument, wanted))
        called.add((call.value.args[0], re.sub(r"/[x1](?=/|$)", "/{name}", call.value.args[1])))
    routes = {(method, re.sub(r"{\w+}", "{name}", path)) for method, path in OPERATIONS}
    assert called == routes
