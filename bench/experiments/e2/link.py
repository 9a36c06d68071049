"""E2: messages and the length-prefixed link, as small as they can be and still be real."""

import asyncio
import struct
from typing import Any

import msgspec


class Msg(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Every message is an array whose first element names it."""


class MapFault(Msg, tag=1):
    """Agent to controller: this I/O cannot proceed."""

    request: int
    disk: int
    segment: int
    operation: int
    block: int
    blocks: int
    state: int


class Retry(Msg, tag=2):
    """Controller to agent: replacement entries as (segment, word) pairs."""

    request: int
    disk: int
    entries: list[tuple[int, int]]


class DoWrite(Msg, tag=3):
    """Controller to agent: carry out the faulted write at this location."""

    command: int
    request: int
    container: int
    location: int
    block: int


class Done(Msg, tag=4):
    """Agent to controller: the do_write is durable."""

    command: int


class CompleteToHost(Msg, tag=5):
    """Controller to agent: reply to the host."""

    request: int


class Stop(Msg, tag=6):
    """Agent to controller: the run is over."""


Any_ = MapFault | Retry | DoWrite | Done | CompleteToHost | Stop
LENGTH = struct.Struct("<I")


class Link(asyncio.Protocol):
    """One stream; messages sent within one turn of the loop leave in one write."""

    def __init__(self, on_messages: Any) -> None:
        self.on_messages = on_messages
        self.encoder = msgspec.msgpack.Encoder()
        self.decoder: msgspec.msgpack.Decoder[Any_] = msgspec.msgpack.Decoder(Any_)
        self.inbound = bytearray()
        self.outbound = bytearray()
        self.scheduled = False

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport
        self.loop = asyncio.get_running_loop()

    def send(self, message: Msg) -> None:
        """Queue one message."""
        at = len(self.outbound)
        self.outbound += b"\0\0\0\0"
        self.encoder.encode_into(message, self.outbound, -1)
        LENGTH.pack_into(self.outbound, at, len(self.outbound) - at - 4)
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hand everything queued to the socket."""
        self.scheduled = False
        self.transport.write(bytes(self.outbound))
        self.outbound.clear()

    def data_received(self, data: bytes) -> None:
        """Cut frames and decode."""
        self.inbound += data
        at, end, messages = 0, len(self.inbound), []
        view = memoryview(self.inbound)
        while end - at >= 4:
            (length,) = LENGTH.unpack_from(view, at)
            if end - at - 4 < length:
                break
            messages.append(self.decoder.decode(view[at + 4 : at + 4 + length]))
            at += 4 + length
        view.release()
        del self.inbound[:at]
        if messages:
            self.on_messages(messages)
