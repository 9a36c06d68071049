"""Peers that do not keep the protocol of the link: all they do is drawn from a seed.

`attack_controller` is many agents one after another, `attack_agent` a controller that the agent
comes to again and again.  They send what is no frame, frames cut off, messages changed by a few
bytes, and messages right in form whose numbers stand at the edges of their ranges.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import inspect as types

from segue.wire.framing import FrameDecoder, FrameError, frame
from segue.wire.messages import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    AgentMessage,
    Answer,
    BadMessage,
    Command,
    ControllerMessage,
    Hello,
    Lease,
    LeaseRequest,
    Message,
    NewTable,
    Outcome,
    Refused,
    Welcome,
    decode_from_agent,
    decode_from_controller,
    encode,
)

EDGES = [0, 1, 2, 3, 7, 4095, 4096, (1 << 16) - 1, 1 << 20, (1 << 32) - 1, 1 << 44, 1 << 62]
EDGES += [1 << 63, (1 << 64) - 1]
LEAST_SESSIONS = 6
"""What a campaign must come to, however slow the machine is..."""
LONGEST_S = 60.0
"""...within so long."""
PATIENCE_S = 0.05
"""How long an answer is waited for before the next thing is done."""


class Maker:
    """Makes values of the messages' types."""

    def __init__(self, rng: random.Random, texts: Sequence[str], identity: bytes) -> None:
        self.rng = rng
        self.texts = texts
        self.identity = identity
        self.counter = 1 << 40

    def message(self, kinds: Sequence[type[Message]]) -> Message:
        """One of these kinds, its fields within their bounds."""
        made: Message = self.value(types.type_info(self.rng.choice(kinds)))
        if "command" in made.__struct_fields__ and self.rng.random() < 0.9:
            self.counter += 1
            made = msgspec.structs.replace(made, command=self.counter)
        return made

    def value(self, kind: types.Type) -> Any:
        """A value of a type, often at the edge of its range."""
        rng = self.rng
        match kind:
            case types.StructType():
                return kind.cls(*(self.value(field.type) for field in kind.fields))
            case types.ListType():
                count = rng.choice((0, 1, 1, 2, 3, 200))
                return [self.value(kind.item_type) for _ in range(count)]
            case types.EnumType():
                return rng.choice(list(kind.cls))
            case types.IntType():
                return self._number(kind)
            case types.BoolType():
                return rng.random() < 0.5
            case types.BytesType():
                return rng.choice((self.identity, self.identity, b"", rng.randbytes(16)))
            case types.StrType() if kind.pattern is not None:
                return rng.choice(("nbd://h:1", "nbd+unix:///?socket=/s"))
            case types.StrType():
                return rng.choice(self.texts)
        raise AssertionError(kind)

    def _number(self, kind: types.IntType) -> int:
        top = (1 << 64) - 1
        if kind.lt is not None:
            top = kind.lt - 1
        elif kind.le is not None:
            top = kind.le
        number = self.rng.choice((*EDGES, self.rng.randrange(64), self.rng.getrandbits(64)))
        return min(number, top)

    def mutated(self, data: bytes) -> bytes:
        """A few bytes changed, cut out, repeated or put in."""
        rng, changed = self.rng, bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(changed) + 1)
            match rng.randrange(5):
                case 0:
                    changed[at : at + 1] = rng.randbytes(1)
                case 1:
                    del changed[at : at + rng.randint(1, 8)]
                case 2:
                    changed[at:at] = changed[at : at + rng.randint(1, 64)]
                case 3:
                    changed[at:at] = b"\x91" * rng.choice((1, 100_000))
                case _:
                    changed[at:at] = rng.choice([b"\xcf", b"\xd3", b"\xc0", b"\xdd", b"\xa2\xff"])
        return bytes(changed)

    def bytes_for(self, message: Message) -> bytes:
        """The message as it is, or spoilt on the way."""
        data = encode(message)
        match self.rng.randrange(40):
            case 0:
                return self.rng.randbytes(self.rng.randrange(1, 5000))
            case 1:
                return frame(data)[: self.rng.randrange(1, len(data) + 4)]
            case 2:
                return (MAX_FRAME_BYTES + self.rng.choice((0, 1))).to_bytes(4, "little") + data
            case 3:
                return frame(self.mutated(data) or b"\xc0")
        return frame(data)


class Peer:
    """One connection, and the messages that have come on it."""

    def __init__(self, sock: socket.socket, decode: Callable[[bytes], Message]) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE_S)
        self._decode = decode
        self._frames = FrameDecoder()

    def send(self, data: bytes) -> bool:
        """False if the other side has ended the connection, or takes nothing more."""
        try:
            self.sock.sendall(data)
        except OSError:
            return False
        return True

    def heard(self) -> list[Message] | None:
        """What has come by now; None: the other side has ended the connection."""
        try:
            data = self.sock.recv(1 << 20)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not data:
            return None
        with suppress(FrameError, BadMessage):
            return [self._decode(payload) for payload in self._frames.feed(data)]
        return None


def _goes_on(begun: float, seconds: float, sessions: int) -> bool:
    spent = time.monotonic() - begun
    return spent < seconds or (sessions < LEAST_SESSIONS and spent < LONGEST_S)


def attack_controller(path: str, rng: random.Random, seconds: float, installation: bytes) -> int:
    """Comes to the controller at `path` as hostile agents; how many sessions it was welcomed to."""
    maker = Maker(rng, ["evil", "disk", "", "x" * 4096, "\x1b[31m\n"], installation)
    kinds = [kind for kind in AgentMessage.__args__ if kind is not Hello]
    welcomed = 0
    begun = time.monotonic()
    while _goes_on(begun, seconds, welcomed):
        end = time.monotonic() + max(seconds, LONGEST_S / 10)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            peer = Peer(sock, decode_from_controller)
            hello = maker.message([Hello])
            if rng.random() < 0.8:
                hello = Hello(
                    PROTOCOL_VERSION,
                    f"evil{rng.randrange(20)}",
                    rng.getrandbits(60) or 1,
                    0,
                    0,
                    b"",
                    rng.sample(range(5), rng.randrange(3)),
                    [],
                    lease_lost=False,
                )
            if not peer.send(maker.bytes_for(hello)):
                continue
            welcomed += _talk_as_agent(peer, maker, kinds, end)
    return welcomed


def _talk_as_agent(peer: Peer, maker: Maker, kinds: Sequence[type[Message]], end: float) -> bool:
    """A session to its end; whether it was one."""
    rng, up = maker.rng, False
    for _ in range(rng.choice((1, 5, 50))):
        heard = peer.heard()
        if heard is None or time.monotonic() > end:
            break
        up = up or any(isinstance(message, Welcome) for message in heard)
        out: list[Message] = [LeaseRequest(1)] if up and rng.random() < 0.3 else []
        out += [maker.message(kinds) for _ in range(rng.choice((0, 1, 3, 1000)))]
        for message in heard:
            if isinstance(message, Command) and rng.random() < 0.7:
                outcome = rng.choice(list(Outcome))
                out.append(Answer(message.command, outcome, rng.choice((0, 5, 22))))
        rng.shuffle(out)
        if not peer.send(b"".join(map(maker.bytes_for, out))):
            break
    return up


def attack_agent(
    listener: socket.socket, rng: random.Random, seconds: float, texts: Sequence[str]
) -> int:
    """Is the controller that an agent comes to; how many sessions got beyond the welcome."""
    identity = b"i" * 16
    maker = Maker(rng, texts, identity)
    kinds = [k for k in ControllerMessage.__args__ if k not in (Refused, Welcome)]
    sessions = 0
    begun = time.monotonic()
    listener.settimeout(LONGEST_S)
    while _goes_on(begun, seconds, sessions):
        end = time.monotonic() + max(seconds, LONGEST_S / 10)
        sock, _ = listener.accept()
        with sock:
            peer = Peer(sock, decode_from_agent)
            hello = peer.heard()
            term = rng.choice((1, 1, 1, (1 << 64) - 1)) if sessions > 100 else 1
            welcome = Welcome(term, rng.getrandbits(32), 1, identity, rng.random() < 0.2)
            # As it is: one of another installation is told, in words, to end for good.
            if hello and peer.send(frame(encode(welcome))):
                sessions += _talk_as_controller(peer, maker, kinds, end)
    return sessions


def _talk_as_controller(
    peer: Peer, maker: Maker, kinds: Sequence[type[Message]], end: float
) -> bool:
    """A session to its end; whether the agent answered in it."""
    rng, answered = maker.rng, False
    for _ in range(rng.choice((1, 5, 30))):
        heard = peer.heard()
        if heard is None or time.monotonic() > end:
            break
        out: list[Message] = []
        for message in heard:
            answered = True
            if isinstance(message, LeaseRequest) and rng.random() < 0.8:
                out.append(Lease(message.sent_ns, rng.choice((10**9, 1, 1 << 62, 0)), 3))
        for _ in range(rng.choice((1, 5, 100))):
            message = maker.message(kinds)
            if isinstance(message, NewTable) and rng.random() < 0.8:
                message = msgspec.structs.replace(
                    message,
                    disk=rng.randrange(4),
                    size_bytes=rng.choice((1 << 20, 1 << 23, 1 << 40)),
                    segment_bytes=1 << 20,
                    block_bytes=4096,
                    containers=message.containers[: rng.randrange(2)],
                )
            out.append(message)
        if not peer.send(b"".join(map(maker.bytes_for, out))):
            break
    return answered
