"""Durable allocating faults and reloads a second of one core's controller CPU (design, section 9).

One process: the real controller on the real SQLite store; the agent is a loop that keeps so many
faults outstanding over an in-memory link (with the messages' coding both ways, without a socket).

    python bench/controller_faults.py [--faults N] [--outstanding 256] [--loop asyncio|uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import deque
from pathlib import Path

from segue import _native
from segue.controller.controller import Controller
from segue.controller.ports import CreatedContainer, Stamp
from segue.controller.procedures import verbs
from segue.controller.settings import Settings
from segue.store.sqlite import SqliteStore
from segue.wire import messages as wire

DISK_BYTES = 1 << 40
LEASE_S = 3600.0
"""The client asks once."""


class NoStorage:
    """Containers are not touched by clean allocations; stamps are not what is measured."""

    async def create(self, *_: object) -> CreatedContainer:
        """The pool's only container: 1 TiB of clean segments."""
        return CreatedContainer(segments=1 << 20, write_unit_bytes=1, clean=True)

    async def open(self, *_: object) -> Stamp:
        """Never stamped."""
        return Stamp(0, 0)

    async def stamp(self, *_: object) -> None:
        """Nothing."""
        return None

    async def flush(self, *_: object) -> None:
        """Nothing."""
        return None

    async def zero(self, *_: object) -> None:
        """Nothing."""
        return None

    def extend(self, until_ns: int) -> None:
        """Nothing."""

    def is_away(self, _: int) -> bool:
        """It is here."""
        return False

    async def fence_ended(self, *_: object) -> bool:
        """Nobody else is here."""
        return True


class BootClock:
    """CLOCK_BOOTTIME."""

    def now_ns(self) -> int:
        """Nanoseconds."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Client:
    """An agent of one table that answers every command and keeps faults outstanding."""

    def __init__(self) -> None:
        self.inbox: deque[wire.AgentMessage] = deque()
        self.arrived = asyncio.Event()
        self.on_answer: asyncio.Queue[int] = asyncio.Queue()

    async def receive(self) -> wire.AgentMessage:
        """What the agent says next."""
        while not self.inbox:
            self.arrived.clear()
            await self.arrived.wait()
        return self.inbox.popleft()

    def say(self, message: wire.AgentMessage) -> None:
        """Says something, coded as on a link."""
        self.inbox.append(wire.decode_from_agent(wire.encode(message)))
        self.arrived.set()

    def send(self, message: wire.ControllerMessage) -> None:
        """Hears something; commands are answered at once."""
        wire.encode(message)
        if isinstance(message, wire.Retry):
            self.on_answer.put_nowait(message.request)
        elif isinstance(message, wire.Failure):
            raise SystemExit(f"a fault failed: errno {message.errno}")
        elif isinstance(message, wire.Refused):
            raise SystemExit(message.reason)
        elif isinstance(message, wire.Welcome):
            self.say(wire.LeaseRequest(time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
        elif hasattr(message, "command"):
            self.say(wire.Answer(message.command, wire.Outcome.DONE))
        elif isinstance(message, wire.Lease | wire.ExportOpened):
            self.on_answer.put_nowait(0)

    def close(self) -> None:
        """The bench ends the run itself."""


async def run(faults: int, outstanding: int) -> dict[str, object]:
    """All kinds of faults, one after the other, over the same segments."""
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "segue.db")
        c = Controller(
            store,
            NoStorage(),
            BootClock(),
            Settings(prefetch_segments=0, lease_s=LEASE_S),
            random.Random(1),
        )
        await c.start()
        await verbs.add_container(c, "c", "file:///c", 1 << 40)
        await verbs.create_disk(c, "d", DISK_BYTES)
        client = Client()
        serving = asyncio.create_task(c.serve(client))
        client.say(wire.Hello(wire.PROTOCOL_VERSION, "a", 7, 0, 0, b"", [], [], False))
        await client.on_answer.get()
        client.say(wire.OpenExport(1, "d"))
        await client.on_answer.get()
        segments = random.Random(2).sample(range(1 << 20), faults)
        result: dict[str, object] = {"faults": faults, "outstanding": outstanding}
        for kind, operation in (
            ("allocate_fresh", wire.Operation.WRITE),
            ("reload", wire.Operation.READ),
            ("discard", wire.Operation.DISCARD),
            ("allocate_reused", wire.Operation.WRITE),
        ):
            if kind == "allocate_reused":
                while c.table.containers[1].space.unclean_free() or c.table.cleaning:
                    await c.background.batch_cleaned()
            result[kind] = await measure(client, segments, operation, outstanding)
        result["groups"] = c.commits.groups
        serving.cancel()
        await store.close()
        return result


async def measure(
    client: Client, segments: list[int], operation: wire.Operation, outstanding: int
) -> dict[str, float]:
    """One kind: rate, CPU, latency from fault to answer."""
    begun: dict[int, float] = {}
    took: list[float] = []
    requests = iter(range(1, len(segments) + 1))

    def fault() -> None:
        request = next(requests, None)
        if request is not None:
            begun[request] = time.perf_counter()
            at = segments[request - 1]
            client.say(wire.MapFault(request, 1, at, 1, operation, 0, 256, 0))

    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(outstanding):
        fault()
    for _ in segments:
        request = await client.on_answer.get()
        took.append(time.perf_counter() - begun.pop(request))
        fault()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    took.sort()
    return {
        "per_second": round(len(segments) / wall),
        "per_cpu_second": round(len(segments) / cpu),
        "cpu_us": round(cpu / len(segments) * 1e6, 1),
        "p50_ms": round(took[len(took) // 2] * 1e3, 2),
        "p99_ms": round(took[len(took) * 99 // 100] * 1e3, 2),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=100_000)
    parser.add_argument("--outstanding", type=int, default=256)
    args = parser.parse_args()
    assert _native.ENTRY_VALID
    print(json.dumps(asyncio.run(run(args.faults, args.outstanding)), indent=1))


if __name__ == "__main__":
    main()
