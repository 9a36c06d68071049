"""E2: the agent process: eventfd reader, link to the controller, ctypes to the Rust source."""

import asyncio
import ctypes
import json
import os
import random
import sys
import time

from link import Any_, CompleteToHost, Done, DoWrite, Link, MapFault, Retry, Stop

CAP = 1024


class Agent:
    """Carries faults from the Rust thread to the link and answers back."""

    def __init__(self, lib: ctypes.CDLL, source: int, total: int) -> None:
        self.lib, self.source, self.total = lib, source, total
        self.words = (ctypes.c_uint64 * CAP)()
        self.commands: dict[int, int] = {}
        self.link = Link(self.on_messages)
        self.finished = asyncio.Event()

    def on_eventfd(self) -> None:
        """Drain what the data thread raised."""
        while n := self.lib.source_take(self.source, self.words, CAP):
            for word in self.words[:n]:
                kind, request = word >> 56, word & (1 << 56) - 1
                if kind == 0:
                    segment = random.randrange(1 << 20)
                    self.link.send(MapFault(request, 1, segment, 1, segment & 0xFF, 1, 2))
                elif kind == 1:
                    self.link.send(Done(self.commands.pop(request)))
                else:
                    self.finished.set()

    def on_messages(self, messages: list[Any_]) -> None:
        """Answers and do_writes, each kind in one call to the data thread."""
        answered: list[int] = []
        writes: list[tuple[int, int]] = []
        for message in messages:
            if isinstance(message, Retry | CompleteToHost):
                answered.append(message.request)
            elif isinstance(message, DoWrite):
                self.commands[message.request] = message.command
                writes.append((message.request, message.location & 0xFFFF))
        if answered:
            self.give(0, answered, answered)
        if writes:
            self.give(1, [w[0] for w in writes], [w[1] for w in writes])

    def give(self, kind: int, requests: list[int], blocks: list[int]) -> None:
        """One call, one wake-up."""
        n = len(requests)
        array = ctypes.c_uint64 * n
        self.lib.source_give(self.source, kind, array(*requests), array(*blocks), n)


async def main(folder: str, library: str, total: int, outstanding: int, writers: int) -> None:
    """Run the source to its end; print one JSON line."""
    lib = ctypes.CDLL(library)
    lib.source_start.restype = ctypes.c_void_p
    lib.source_start.argtypes = [ctypes.c_uint64] * 3 + [ctypes.c_char_p]
    for name in ("source_fd", "source_take", "source_give", "source_latencies"):
        getattr(lib, name).argtypes = None
    lib.source_take.restype = ctypes.c_size_t
    lib.source_latencies.restype = ctypes.c_uint64
    loop = asyncio.get_running_loop()
    data = os.path.join(folder, "data")
    source = ctypes.c_void_p(lib.source_start(total, outstanding, writers, data.encode()))
    agent = Agent(lib, source, total)
    await loop.create_unix_connection(lambda: agent.link, os.path.join(folder, "e2.sock"))
    cpu = time.process_time()
    loop.add_reader(lib.source_fd(source), agent.on_eventfd)
    await agent.finished.wait()
    cpu = time.process_time() - cpu
    latencies = (ctypes.c_uint64 * total)()
    elapsed_ns = lib.source_latencies(source, latencies)
    agent.link.send(Stop())
    await asyncio.sleep(0.1)
    ordered = sorted(latencies)
    out = {
        "faults_per_s": round(total / elapsed_ns * 1e9),
        "p50_us": ordered[total // 2] // 1000,
        "p99_us": ordered[total * 99 // 100] // 1000,
        "agent_cpu_us": round(cpu / total * 1e6, 1),
    }
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    random.seed(1)
    if sys.argv[5] == "uvloop":
        import uvloop

        uvloop.install()
    asyncio.run(
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[6]))
    )
