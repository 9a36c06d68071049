"""One request of the HTTP API: connection, JSON, errors.

HTTP is the standard library's; no connection is kept between calls.
"""

from __future__ import annotations

import http.client
import os
import socket
from typing import Any, TypeVar

import msgspec

from segue.api.errors import ErrorBody

T = TypeVar("T")
SOCKET_NAME = "api.sock"
TIMEOUT_S = 60.0
_NOBODY = (FileNotFoundError, ConnectionRefusedError)


class ApiError(Exception):
    """The request failed; its text is one clear sentence.

    `status` is the HTTP status, 0 if the controller was not reached.
    """

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Connection:
    """Where the API of an installation is, by its data folder."""

    def __init__(self, data: str) -> None:
        self._socket = os.path.join(data, SOCKET_NAME)

    def call(self, method: str, path: str, kind: type[T], body: Any = None) -> T:
        """The answer to one request, as `kind`; raises `ApiError`."""
        connection = _UnixConnection(self._socket)
        try:
            data = None if body is None else msgspec.json.encode(body)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, f"/v1/{path}", data, headers)
            response = connection.getresponse()
            status, answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            hint = " (does `segue up` run?)" if isinstance(error, _NOBODY) else ""
            raise ApiError(
                f"cannot reach the controller at {self._socket}: {reason}{hint}"
            ) from error
        finally:
            connection.close()
        if status >= 300:
            raise ApiError(_sentence(answer, status), status)
        try:
            return msgspec.json.decode(answer or b"null", type=kind)
        except msgspec.MsgspecError as error:
            raise ApiError(f"the controller's answer makes no sense: {error}") from error


def _sentence(answer: bytes, status: int) -> str:
    try:
        return msgspec.json.decode(answer, type=ErrorBody).error
    except msgspec.MsgspecError:
        return f"the controller answered with HTTP status {status}"
