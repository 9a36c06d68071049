"""One request of the HTTP API: connection, JSON, errors.

HTTP is the standard library's; no connection is kept between calls.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from segue.api.errors import ErrorBody

T = TypeVar("T")
SOCKET_NAME = "api.sock"
TIMEOUT_S = 60.0
RESTART_S = 5.0
"""A controller that is being started again is tried for so long; mostly it takes one or two."""
_RETRY_S = 0.05
_NOBODY = (FileNotFoundError, ConnectionRefusedError)


class ApiError(Exception):
    """The request failed; its text is one clear sentence.

    `status` is the HTTP status, 0 if the controller was not reached.
    """

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float, restarts: Callable[[], bool]) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._restarts = restarts

    def connect(self) -> None:
        deadline = time.monotonic() + RESTART_S
        while True:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            try:
                self.sock.connect(self._path)
            except _NOBODY:
                self.sock.close()
                if time.monotonic() > deadline or not self._restarts():
                    raise
                time.sleep(_RETRY_S)
            else:
                return


class Connection:
    """Where the API of an installation is: its data folder, or a URL (``https://HOST:PORT``).

    `token`: what the installation's ``api.token`` holds; needed with a URL.  `ca`: a file (PEM) of
    certificates to trust besides the system's.  `timeout_s`: how long an answer is waited for
    [`TIMEOUT_S`].  `restarts`: asked where no controller of a folder is there, whether to wait for
    one (`RESTART_S`).  Raises `ApiError` for what is no URL.
    """

    def __init__(
        self,
        where: str,
        *,
        token: str = "",
        ca: str | None = None,
        timeout_s: float | None = None,
        restarts: Callable[[], bool] = lambda: False,
    ) -> None:
        self.where = where
        self.is_url = "://" in where
        """Whether it may be another machine's."""
        self._timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        self._restarts = restarts
        self._token = token
        self._ca = ca
        self._socket = os.path.join(where, SOCKET_NAME)
        self._prefix = ""
        if self.is_url:
            self._check_url()

    def _check_url(self) -> None:
        wrong = ApiError(f"{self.where!r} is no URL of an API: http(s)://HOST:PORT")
        try:
            url = urlsplit(self.where)
            self._host, self._port = url.hostname or "", url.port
        except ValueError:
            raise wrong from None
        if url.scheme not in ("http", "https") or not self._host or url.query or url.username:
            raise wrong
        self._tls = url.scheme == "https"
        self._prefix = url.path.rstrip("/")
        if not self._token.isascii() or not self._token.isprintable():
            raise ApiError("the token has characters that no token has")

    def _connection(self) -> http.client.HTTPConnection:
        if not self.is_url:
            return _UnixConnection(self._socket, self._timeout_s, self._restarts)
        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            context = ssl.create_default_context()
            if self._ca:
                context.load_verify_locations(self._ca)
        except OSError as error:
            raise ApiError(f"{self._ca}: {error.strerror or error}") from error
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=context
        )

    def call(self, method: str, path: str, kind: type[T], body: Any = None) -> T:
        """The answer to one request, as `kind`; raises `ApiError`."""
        connection = self._connection()
        try:
            data = None if body is None else msgspec.json.encode(body)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            connection.request(method, f"{self._prefix}/v1/{path}", data, headers)
            response = connection.getresponse()
            status, answer = response.status, response.read()
        except TimeoutError as error:
            raise ApiError(
                f"no answer within {self._timeout_s:g} s: the controller may still be at it "
                "(`segue status` says what it waits for)"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            where = self.where if self.is_url else self._socket
            raise ApiError(f"cannot reach the controller at {where}: {_reason(error)}") from error
        finally:
            connection.close()
        if status >= 300:
            raise ApiError(_sentence(answer, status), status)
        try:
            return msgspec.json.decode(answer or b"null", type=kind)
        except msgspec.MsgspecError as error:
            raise ApiError(f"the controller's answer makes no sense: {error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        return f"its certificate is not trusted: {said} (SEGUE_API_CA names one that is)"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{reason} (does `segue up` run?)" if isinstance(error, _NOBODY) else reason


def _sentence(answer: bytes, status: int) -> str:
    try:
        return msgspec.json.decode(answer, type=ErrorBody).error
    except msgspec.MsgspecError:
        return f"the controller answered with HTTP status {status}"
