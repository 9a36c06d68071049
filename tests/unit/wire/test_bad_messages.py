"""Whatever bytes a peer sends: a message of its side within its bounds, or `BadMessage`."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect as types

from segue import _native
from segue.wire import messages
from segue.wire.messages import (
    PROTOCOL_VERSION,
    BadMessage,
    DoSplitRead,
    EntryRun,
    ExportOpened,
    FaultStatus,
    Hello,
    Lease,
    MapFault,
    Message,
    Operation,
    PendingFault,
    Retry,
    Welcome,
    decode_from_agent,
    decode_from_controller,
    encode,
)

KINDS = [
    kind
    for kind in vars(messages).values()
    if inspect.isclass(kind) and issubclass(kind, Message) and kind is not Message
]
NESTED = b"\x91" * 200_000
FAULT = MapFault(7, 1, 5, 1, Operation.WRITE, 0, 1, 2**63)
HELLO = Hello(
    PROTOCOL_VERSION,
    "one",
    99,
    1,
    2,
    b"i" * 16,
    [1, 2],
    [PendingFault(FAULT, FaultStatus.RUNNING, 9)],
    lease_lost=False,
    listens=["nbd://[::1]:10809", "nbd+unix:///?socket=/run/a%20b"],
)


def unbounded(kind: types.Type, path: str) -> Iterator[str]:
    """The integers and lists in a type that any sender may make as large as it likes."""
    match kind:
        case types.StructType():
            for field in kind.fields:
                yield from unbounded(field.type, f"{path}.{field.name}")
        case types.ListType():
            if kind.max_length is None:
                yield path
            yield from unbounded(kind.item_type, f"{path}[]")
        case types.IntType() if kind.ge is None:
            yield path


def test_every_number_has_bounds() -> None:
    found = [path for kind in KINDS for path in unbounded(types.type_info(kind), kind.__name__)]
    # As long as the frame allows; 64-bit words are never negative.
    assert found == ["Exports.names"]


@pytest.mark.parametrize(
    "message",
    [
        Lease(2**63, 1, 1),
        Lease(1, 2**64 - 1, 1),
        Lease(-1, 1, 1),
        ExportOpened(1, 0, 2**32),
        ExportOpened(1, 0, 1, 2**63),
        ExportOpened(1, -5),
        ExportOpened(1, 4096),
        Welcome(-1, 1, 1, b"", lost=False),
        Retry(1, 2**32, []),
        Retry(1, 1, [EntryRun(-1, 1, 1)]),
        DoSplitRead(1, -1, []),
    ],
)
def test_a_controllers_number_out_of_range_is_refused_by_the_decoder(message: Message) -> None:
    with pytest.raises(BadMessage, match="Expected `int`"):
        decode_from_controller(encode(message))


@pytest.mark.parametrize(
    "change",
    [
        {"installation": b"i" * 17},
        {"listens": ["http://x"]},
        {"listens": ["nbd://\x1b[2J"]},
        {"listens": ["nbd://x"] * 65},
        {"tables": [2**32]},
        {"incarnation": -1},
    ],
)
def test_a_hello_with_what_no_agent_has_is_refused(change: dict[str, Any]) -> None:
    assert decode_from_agent(encode(HELLO)) == HELLO
    with pytest.raises(BadMessage):
        decode_from_agent(encode(msgspec.structs.replace(HELLO, **change)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x94\x02\x05\x01" + NESTED,
        b"\x93\x07\x05\xa2\xff\xfe",
        b"\xdd\xff\xff\xff\xff\x02",
        b"\xc1",
        b"",
    ],
    ids=["deep", "not UTF-8", "long array", "reserved", "empty"],
)
@pytest.mark.parametrize("decode", [decode_from_agent, decode_from_controller])
def test_bytes_that_msgpack_or_msgspec_trip_over(
    decode: Callable[[bytes], Any], data: bytes
) -> None:
    with pytest.raises(BadMessage):
        decode(data)


def test_a_hello_of_another_version_is_told_by_its_version_alone() -> None:
    greeting = msgspec.msgpack.encode([1, PROTOCOL_VERSION + 1, {"all": "else"}, None])
    decoded = decode_from_agent(greeting)
    assert isinstance(decoded, Hello)
    assert decoded.version == PROTOCOL_VERSION + 1
    with pytest.raises(BadMessage):
        decode_from_agent(msgspec.msgpack.encode([1, PROTOCOL_VERSION, {"all": "else"}]))


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out, repeated or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                del changed[at : at + rng.randint(1, 8)]
            case 2:
                changed[at:at] = changed[at : at + rng.randint(1, 64)]
            case _:
                changed[at:at] = rng.choice([b"\xcf", b"\xd3", b"\xc0", b"\xdd", b"\xff" * 8])
    return bytes(changed)


def test_mutated_messages_are_refused_or_are_messages() -> None:
    rng = random.Random(3)
    agents = [encode(HELLO), encode(FAULT)]
    controllers = [
        encode(Retry(1, 1, [EntryRun(0, 4, _native.entry_pack(1, 5), 1)])),
        encode(Lease(10**18, 10**10, 12)),
    ]
    for samples, decode in ((agents, decode_from_agent), (controllers, decode_from_controller)):
        refused = 0
        for _ in range(20_000):
            data = mutated(rng, rng.choice(samples))
            try:
                encode(decode(data))
            except BadMessage:
                refused += 1
        assert 0 < refused < 20_000
