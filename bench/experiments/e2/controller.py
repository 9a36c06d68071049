"""E2: the controller: a Task per fault, a toy table, SQLite with grouped commits."""

import asyncio
import json
import os
import queue
import random
import sqlite3
import sys
import threading
import time
import zlib

import msgspec
from link import Any_, CompleteToHost, Done, DoWrite, Link, MapFault, Retry, Stop


class Log:
    """Changes are gathered while one commit runs; the next commit takes all that wait."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.loop = path, loop
        self.pending: list[tuple[int, ...]] = []
        self.waiters: list[asyncio.Future[None]] = []
        self.busy = False
        self.groups: list[int] = []
        self.commit_ns: list[int] = []
        self.thread_cpu_s = 0.0
        self.work: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._thread, daemon=True).start()

    def commit(self, change: tuple[int, ...]) -> asyncio.Future[None]:
        """Queue one change; the future is done when it is durable."""
        waiter = self.loop.create_future()
        self.pending.append(change)
        self.waiters.append(waiter)
        if not self.busy:
            self.busy = True
            # One turn of the loop later, so that faults decoded together commit together.
            self.loop.call_soon(self._start)
        return waiter

    def _start(self) -> None:
        batch, self.pending = self.pending, []
        waiters, self.waiters = self.waiters, []
        self.work.put((batch, waiters))

    def _finished(self, waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            waiter.set_result(None)
        self.busy = bool(self.pending)
        if self.busy:
            self._start()

    def _thread(self) -> None:
        db = sqlite3.connect(self.path, isolation_level=None)
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=full")
        db.execute("create table log(number integer primary key, sum integer, body blob)")
        db.execute("create table term(term integer)")
        db.execute("insert into term values (1)")
        encoder, number = msgspec.msgpack.Encoder(), 0
        while True:
            batch, waiters = self.work.get()
            cpu, start = time.thread_time(), time.perf_counter_ns()
            number += 1
            body = encoder.encode((1, number, batch))
            db.execute("begin immediate")
            assert db.execute("select term from term").fetchone()[0] == 1
            db.execute("insert into log values (?, ?, ?)", (number, zlib.crc32(body), body))
            db.execute("commit")
            self.commit_ns.append(time.perf_counter_ns() - start)
            self.groups.append(len(batch))
            self.thread_cpu_s += time.thread_time() - cpu
            self.loop.call_soon_threadsafe(self._finished, waiters)


class Controller:
    """Serves one agent: allocating faults (mode alloc), do_writes (dowrite) or reloads."""

    def __init__(self, mode: str, log: Log, link_to: dict[str, Link]) -> None:
        self.mode, self.log, self.links = mode, log, link_to
        self.extents: dict[int, tuple[int, int]] = {}
        self.location = self.command = self.faults = 0
        self.dones: dict[int, asyncio.Future[None]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopped = asyncio.Event()
        self.cpu0 = (0.0, 0.0)

    def on_messages(self, messages: list[Any_]) -> None:
        """A Task per fault; everything else is done at once."""
        for message in messages:
            if isinstance(message, MapFault):
                if not self.faults:
                    self.cpu0 = (time.process_time(), time.thread_time())
                self.faults += 1
                task = asyncio.create_task(self.fault(message))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            elif isinstance(message, Done):
                self.dones.pop(message.command).set_result(None)
            elif isinstance(message, Stop):
                self.cpu = (
                    time.process_time() - self.cpu0[0],
                    time.thread_time() - self.cpu0[1],
                )
                self.stopped.set()

    async def fault(self, fault: MapFault) -> None:
        """Allocate, commit, answer; or have it written, commit its bit, complete."""
        link = self.links["agent"]
        if self.mode == "reload":
            link.send(Retry(fault.request, fault.disk, [(fault.segment, 1 << 60)]))
            return
        if self.mode == "alloc":
            self.location += 1
            await self.log.commit((1, fault.disk, fault.segment, 1, self.location))
            self.extents[fault.segment] = (1, self.location)
            link.send(Retry(fault.request, fault.disk, [(fault.segment, self.location)]))
            return
        self.command += 1
        done = asyncio.get_running_loop().create_future()
        self.dones[self.command] = done
        link.send(DoWrite(self.command, fault.request, 1, fault.segment, fault.block))
        await done
        await self.log.commit((2, fault.segment, fault.block, 1))
        link.send(CompleteToHost(fault.request))


def percentile(values: list[int], share: float) -> float:
    """In microseconds, of nanoseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] / 1000


async def main(folder: str, mode: str) -> None:
    """Serve until the agent says stop; print one JSON line."""
    loop = asyncio.get_running_loop()
    log = Log(os.path.join(folder, "e2.db"), loop)
    links: dict[str, Link] = {}
    controller = Controller(mode, log, links)

    def accept() -> Link:
        links["agent"] = Link(controller.on_messages)
        return links["agent"]

    server = await loop.create_unix_server(accept, os.path.join(folder, "e2.sock"))
    print("ready", flush=True)
    await controller.stopped.wait()
    server.close()
    n = controller.faults
    out = {
        "cpu_us_per_fault": round(controller.cpu[0] / n * 1e6, 1),
        "loop_cpu_us": round(controller.cpu[1] / n * 1e6, 1),
        "sync_thread_cpu_us": round(log.thread_cpu_s / n * 1e6, 1),
    }
    if log.groups:
        out |= {
            "group_mean": round(sum(log.groups) / len(log.groups), 1),
            "commit_p50_us": round(percentile(log.commit_ns, 0.5)),
            "commit_p99_us": round(percentile(log.commit_ns, 0.99)),
        }
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    random.seed(1)
    if sys.argv[3] == "uvloop":
        import uvloop

        uvloop.install()
    asyncio.run(main(sys.argv[1], sys.argv[2]))
