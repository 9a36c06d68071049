"""The link: one ordered stream of messages each way, over a unix socket or TCP.

`Link` is the asyncio end of it for both sides; it has the shape of `segue.controller.ports.Link`.
Messages sent in one turn of the event loop leave in one write (E2, docs/decisions/0002: what a
system call costs is what a fault costs).  Whatever is not a frame, or not a message of the other
side, ends the link with a reason (rule 10); nothing here raises into the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from segue.controller.ports import LinkClosed
from segue.wire.framing import FrameDecoder, FrameError, frames
from segue.wire.messages import BadMessage, Message, encode

MAX_UNSENT_BYTES = 64 << 20
"""A peer that leaves so much unread is as good as gone: the link is closed."""
MAX_WAITING = 4096
MAX_WAITING_BYTES = 4 << 20
"""Received and not taken: beyond so many messages, or bytes, the socket is not read."""

LONGEST_SOCKET_PATH = 107
LINGER_S = 5.0
"""How long a closed link may take to send what was queued."""

M = TypeVar("M")


class Link(asyncio.Protocol, Generic[M]):
    """One end of a link; `M` is what the other side says.

    Made by `connect` and `serve`.  `receive` and `receive_batch` are for one task.
    """

    def __init__(
        self,
        decode: Callable[[bytes], M],
        on_made: Callable[[Link[M]], None] | None = None,
    ) -> None:
        self.reason = ""
        """Why the link ended, in one sentence; empty while it stands."""
        self._decode = decode
        self._on_made = on_made
        self._frames = FrameDecoder()
        self._received: deque[M] = deque()
        self._received_bytes = 0
        """Of all since none was waiting."""
        self._waiter: asyncio.Future[None] | None = None
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._paused = False

    # ports.Link -------------------------------------------------------------------------------

    async def receive(self) -> M:
        """The next message; raises `LinkClosed` when the link has ended and all were taken."""
        await self._arrival()
        message = self._received.popleft()
        if not self._received:
            self._received_bytes = 0
        self._let_read()
        return message

    async def receive_batch(self) -> list[M]:
        """All messages that have arrived, one at least; raises as `receive` does."""
        await self._arrival()
        batch = list(self._received)
        self._received.clear()
        self._received_bytes = 0
        self._let_read()
        return batch

    def send(self, message: Message) -> None:
        """Queue a message; it leaves at the end of this turn of the loop.

        A message to a link that has ended is dropped.  Raises msgspec's errors for a message that
        cannot be encoded: our own mistake.
        """
        if self.reason:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(encode(message))

    def close(self, reason: str = "closed by this side") -> None:
        """End the link both ways: nothing more is received, what was sent before still leaves."""
        if self.reason:
            return
        self._flush()
        self._end(reason)
        if self._transport is not None:
            self._transport.close()
            # A peer that does not read would keep the socket for ever.
            asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)

    def _abort(self, reason: str) -> None:
        self._end(reason)
        assert self._transport is not None
        self._transport.abort()

    @property
    def closed(self) -> bool:
        """Whether the link has ended (messages that arrived before may still be taken)."""
        return bool(self.reason)

    # asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is connected."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have arrived."""
        if self.reason:
            return
        try:
            for payload in self._frames.feed(data):
                self._received.append(self._decode(payload))
                self._received_bytes += len(payload)
        except FrameError as error:
            self._abort(f"the peer does not speak the protocol: {error}")
        except BadMessage as error:
            self._abort(f"the peer sent what is no message of its side: {error}")
        waiting = len(self._received), self._received_bytes
        too_many = waiting[0] > MAX_WAITING or waiting[1] > MAX_WAITING_BYTES
        if too_many and not self.reason and not self._paused:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is closed."""
        self._end(f"the connection broke: {exc}" if exc else "closed by the other side")

    # Within -----------------------------------------------------------------------------------

    async def _arrival(self) -> None:
        while not self._received:
            if self.reason:
                raise LinkClosed(self.reason)
            assert self._waiter is None, "two tasks receive from one link"
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _let_read(self) -> None:
        few = len(self._received) <= MAX_WAITING // 2 and self._received_bytes <= MAX_WAITING_BYTES
        if self._paused and few and not self.reason:
            self._paused = False
            assert self._transport is not None
            self._transport.resume_reading()

    def _flush(self) -> None:
        payloads, self._unsent = self._unsent, []
        if self.reason or not payloads:
            return
        assert self._transport is not None
        try:
            self._transport.write(frames(payloads))
        except FrameError as error:
            self._abort(f"a message is too long to send: {error}")
            return
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._abort(f"the peer left {MAX_UNSENT_BYTES >> 20} MiB unread")

    def _end(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            self._unsent.clear()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a link is: a unix socket's path, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """From ``unix:///run/x.sock``, ``tcp://127.0.0.1:7000`` or a bare path; else ValueError."""
        if text.startswith("unix://"):
            text = text.removeprefix("unix://")
        elif text.startswith("tcp://"):
            host, colon, port = text.removeprefix("tcp://").rpartition(":")
            if not colon or not host or not port.isdecimal() or int(port) > 65535:
                raise ValueError(f"{text!r} is not tcp://HOST:PORT")
            return cls(host=host.strip("[]"), port=int(port))
        if not text.startswith(("/", ".")):
            bare = re.fullmatch(r"[^/]+:[0-9]+", text)
            want = f"tcp://{text}" if bare else "unix:///PATH or tcp://HOST:PORT"
            raise ValueError(f"{text!r} is no address: write {want}")
        return cls(path=text)

    def __str__(self) -> str:
        """The text that `parse` takes."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it (design, section 10)."""
        return bool(self.path) or self.host in ("127.0.0.1", "::1", "localhost")


async def connect(address: Address, decode: Callable[[bytes], M]) -> Link[M]:
    """Open a link to `address`; raises OSError."""
    loop = asyncio.get_running_loop()
    link = Link(decode)
    if address.path:
        await loop.create_unix_connection(lambda: link, address.path)
    else:
        await loop.create_connection(lambda: link, address.host, address.port)
    return link


async def serve(
    address: Address,
    decode: Callable[[bytes], M],
    on_link: Callable[[Link[M]], None],
    *,
    start_serving: bool = True,
) -> asyncio.Server:
    """Listen at `address` and call `on_link` with every link; raises OSError.

    Without `start_serving` the address is taken, and nobody let in before the server is started.

    A unix socket's file is made for its owner only (mode 0600); one that a dead process left
    behind is replaced, one that somebody listens on is not.
    """
    loop = asyncio.get_running_loop()

    def factory() -> Link[M]:
        return Link(decode, on_link)

    if address.path:
        listener = unix_listener(address.path)
        return await loop.create_unix_server(factory, sock=listener, start_serving=start_serving)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        # Listens at once: of two that have only bound it, neither hears of the other.
        listener = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise OSError(error.errno, f"{address}: {error.strerror}") from None
    return await loop.create_server(factory, sock=listener, start_serving=start_serving)


def unix_listener(path: str) -> socket.socket:
    """A listening unix stream socket at `path`, mode 0600.

    Raises OSError, if another process has it too.  It listens at once: a socket that nobody listens
    on is taken for a dead process's.
    """
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise OSError(
            errno.ENAMETOOLONG, f"{path}: a socket's path has {LONGEST_SOCKET_PATH} bytes at most"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                _remove_if_dead(path)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{path}: {error.strerror}") from None
    return listener


def _remove_if_dead(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
