"""The link over real sockets, in one event loop."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from segue.controller.ports import LinkClosed
from segue.wire import link as link_module
from segue.wire.framing import frame, frames
from segue.wire.link import Address, Link, connect, serve, unix_listener
from segue.wire.messages import (
    AgentMessage,
    ControllerMessage,
    Lease,
    LeaseRequest,
    decode_from_agent,
    decode_from_controller,
    encode,
)

Pair = tuple[Link[ControllerMessage], Link[AgentMessage]]


def with_pair(address: str, body: Callable[[Pair], Awaitable[None]]) -> None:
    """Run `body` with both ends of a fresh link; `address` is where it listens."""

    async def run() -> None:
        made: asyncio.Future[Link[AgentMessage]] = asyncio.get_running_loop().create_future()
        server = await serve(Address.parse(address), decode_from_agent, made.set_result)
        if not address.startswith("tcp"):
            there = Address.parse(address)
        else:
            there = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        agent = await connect(there, decode_from_controller)
        controller = await made
        try:
            async with asyncio.timeout(30):
                await body((agent, controller))
        finally:
            agent.close()
            controller.close()
            server.close()

    asyncio.run(run())


def test_messages_arrive_in_order_both_ways(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        agent, controller = pair
        for i in range(10_000):
            agent.send(LeaseRequest(i))
            controller.send(Lease(i, 1, 2))
        for i in range(10_000):
            assert await controller.receive() == LeaseRequest(i)
            assert await agent.receive() == Lease(i, 1, 2)

    with_pair(str(tmp_path / "s"), body)
    with_pair("tcp://127.0.0.1:0", body)


def test_messages_of_one_turn_leave_in_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[list[bytes]] = []

    def recorded(parts: list[bytes]) -> bytes:
        writes.append(parts)
        return frames(parts)

    monkeypatch.setattr(link_module, "frames", recorded)

    async def body(pair: Pair) -> None:
        agent, controller = pair
        for i in range(5):
            agent.send(LeaseRequest(i))
        got: list[AgentMessage] = []
        while len(got) < 5:
            got += await controller.receive_batch()
        assert got == [LeaseRequest(i) for i in range(5)]
        assert [len(parts) for parts in writes] == [5]

    with_pair(str(tmp_path / "s"), body)


def test_what_arrived_before_the_end_is_still_received(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        agent, controller = pair
        agent.send(LeaseRequest(1))
        agent.close()
        assert await controller.receive() == LeaseRequest(1)
        with pytest.raises(LinkClosed):
            await controller.receive()
        controller.send(Lease(1, 1, 1))
        with pytest.raises(LinkClosed, match="closed by this side"):
            await agent.receive()

    with_pair(str(tmp_path / "s"), body)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak the protocol"),
        (frame(b"\xc1"), "no message of its side"),
        (frame(encode(Lease(1, 2, 3))), "no message of its side"),
        (frame(encode(LeaseRequest(1)) + b"\x00"), "no message of its side"),
    ],
)
def test_what_is_no_message_ends_that_link_with_a_reason(
    tmp_path: Path, sent: bytes, reason: str
) -> None:
    async def body(pair: Pair) -> None:
        agent, controller = pair
        assert agent._transport is not None
        agent._transport.write(frame(encode(LeaseRequest(7))) + sent)
        assert await controller.receive() == LeaseRequest(7)
        with pytest.raises(LinkClosed, match=reason):
            await controller.receive()

    with_pair(str(tmp_path / "s"), body)


def test_a_slow_receiver_stops_the_reading_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "MAX_WAITING", 8)

    async def body(pair: Pair) -> None:
        agent, controller = pair
        for i in range(100_000):
            agent.send(LeaseRequest(i))
        assert await controller.receive() == LeaseRequest(0)
        assert controller._paused
        for i in range(1, 100_000):
            assert await controller.receive() == LeaseRequest(i)

    with_pair(str(tmp_path / "s"), body)


def test_a_peer_that_never_reads_loses_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "MAX_UNSENT_BYTES", 1 << 20)

    async def body(pair: Pair) -> None:
        agent, controller = pair
        assert controller._transport is not None
        controller._transport.pause_reading()
        while not agent.closed:
            for i in range(1000):
                agent.send(LeaseRequest(2**40 + i))
            await asyncio.sleep(0)
        assert agent.reason == "the peer left 1 MiB unread"

    with_pair(str(tmp_path / "s"), body)


def test_the_socket_is_the_owners_alone_and_a_dead_ones_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = unix_listener(path)
    first.listen()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(OSError, match="in use"):
        unix_listener(path)
    first.close()
    unix_listener(path).close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        unix_listener(str(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/s", Address(path="/run/s")),
        ("./s", Address(path="./s")),
        ("tcp://127.0.0.1:70", Address(host="127.0.0.1", port=70)),
        ("tcp://[::1]:70", Address(host="::1", port=70)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address
    assert address.local


@pytest.mark.parametrize(
    "text", ["", "x", ":x", "tcp://a", "tcp://:5", "tcp://a:99999", "http://a:1"]
)
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tcp://HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:7001", "far:7001", "[::1]:7001"])
def test_an_address_without_its_scheme_is_told_which(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"write tcp://{text}")):
        Address.parse(text)


def test_another_machines_address_is_not_local() -> None:
    assert not Address.parse("tcp://10.0.0.1:70").local
