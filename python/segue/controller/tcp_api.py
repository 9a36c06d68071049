"""The HTTP API for other machines: a TCP door beside the unix socket, with a token and TLS.

Whoever reaches the unix socket may do everything, for its file's mode says who may.  Over TCP a
request carries the token of ``DATA/api.token`` (mode 0600), made here when it is missing.  Without
TLS the door is for this machine, or for whoever says ``--insecure`` (docs/decisions/0011).

Nothing here is begun before `check` has found it right: a controller that cannot serve as it was
told to changes nothing.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import ssl
import stat
from dataclasses import dataclass
from errno import EPERM
from typing import TYPE_CHECKING

import msgspec

from segue.api.errors import ErrorBody
from segue.controller.config import ConfigError, ControllerConfig
from segue.wire.link import Address

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

TOKEN_BYTES = 32
SHORTEST_TOKEN = 32
"""Characters: less is not believed to be one."""
REFUSED = (
    "this request carries no valid token: over TCP it takes the one in the installation's "
    "api.token (SEGUE_API_TOKEN)"
)


@dataclass(slots=True)
class TcpDoor:
    """Where the API is served besides the unix socket."""

    listeners: list[socket.socket]
    token: str
    certificate: str
    """Files of a certificate (with its chain) and its key; empty: no TLS."""
    key: str


def check(config: ControllerConfig) -> list[Address]:
    """The addresses; raises `ConfigError` for what may not be, or cannot."""
    try:
        addresses = [Address.parse(text) for text in config.api_listen]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if bool(config.api_certificate) != bool(config.api_key):
        raise ConfigError("--api-cert and --api-key go together")
    if config.api_certificate and not addresses:
        raise ConfigError("--api-cert is for --api-listen")
    for address in addresses:
        if address.path:
            raise ConfigError(
                f"{address}: the API has its unix socket; this is for tcp://HOST:PORT"
            )
        if not address.local and not config.api_certificate and not config.insecure:
            raise ConfigError(
                f"{address} can be reached from other machines: give --api-cert and --api-key "
                "(TLS); --insecure allows it without"
            )
    if config.api_certificate:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                config.api_certificate, config.api_key
            )
        except OSError as error:
            files = f"{config.api_certificate} and {config.api_key}"
            raise ConfigError(f"{files} are no certificate and its key: {error}") from None
    return addresses


def open_door(config: ControllerConfig, addresses: list[Address]) -> TcpDoor:
    """Takes the addresses; raises `OSError`."""
    listeners: list[socket.socket] = []
    try:
        for address in addresses:
            listeners.append(_listener(address))
        token = load_token(config.token_path)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return TcpDoor(listeners, token, config.api_certificate, config.api_key)


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise OSError(error.errno, f"{address}: {error.strerror or error}") from None


def load_token(path: str) -> str:
    """The token in that file, made if there is none; raises `OSError` for one others may know."""
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        pass
    else:
        with open(made, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(TOKEN_BYTES)}\n")
    with open(path, encoding="ascii", errors="replace") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PermissionError(EPERM, f"{path} is not its owner's alone: chmod 600 {path}")
        token = file.read().strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise OSError(EPERM, f"{path} holds no token: remove it, and one is made")
    return token


def with_token(app: ASGIApp, token: str) -> ASGIApp:
    """The same application for whoever knows the token."""
    wanted = f"Bearer {token}".encode()

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1 and hmac.compare_digest(given[0], wanted):
            await app(scope, receive, send)
            return
        body = msgspec.json.encode(ErrorBody(REFUSED))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"www-authenticate", b"Bearer"),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return call
