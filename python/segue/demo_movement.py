"""The demo's second half: a disk moves between containers while hosts write and check it.

Two hosts, at two agents, write and read blocks of one disk all the time.  The disk is moved to
another container and back; then its container is drained and removed.  Every read is compared with
what was written; the latency of the hosts' requests is printed for each part.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from segue.host import MIB, Host, Tally
from segue.installation import Installation, wait_until

DISK = "moved"
DISK_BYTES = 64 * MIB
CONTAINER_BYTES = DISK_BYTES + 2 * MIB
BLOCK_BYTES = 4096
BY_ITSELF_S = 1.5
OVER = ("done", "cancelled", "failed")


class Movement:
    """Moves a disk to and fro; `say` prints a line."""

    def __init__(
        self,
        installation: Installation,
        folder: Path,
        tally: Tally,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self._installation = installation
        self._folder = folder
        self._tally = tally
        self._seed = seed
        self._say = say
        self._image = bytearray(DISK_BYTES)
        self._stopped = threading.Event()
        self._latencies: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:
        """All of it; what went wrong is in `errors` and the tally."""
        self._set_up()
        hosts = [self._host(name) for name in self._installation.agents]
        threads = [
            threading.Thread(target=self._work, args=(host, number), daemon=True)
            for number, host in enumerate(hosts)
        ]
        for thread in threads:
            thread.start()
        client = self._installation.client
        self._part("before", lambda: time.sleep(BY_ITSELF_S))
        self._part("old to new", lambda: self._wait(client.move_disk(DISK, "new").job))
        self._part("new to old", lambda: self._wait(client.move_disk(DISK, "old").job))
        self._part("old drained", lambda: self._wait(client.drain_container("old").job))
        self._remove_drained()
        self._part("after", lambda: time.sleep(BY_ITSELF_S))
        self._stopped.set()
        for thread in threads:
            thread.join()
        for host in hosts:
            host.compare_all()
            host.close()

    def _set_up(self) -> None:
        client = self._installation.client
        for name in ("old", "new"):
            client.add_container(name, f"file://{self._folder}/{name}", CONTAINER_BYTES)
        client.create_disk(DISK, DISK_BYTES)
        host = self._host("one")
        for offset in range(0, DISK_BYTES, MIB):
            host.write(offset, random.Random(f"{self._seed}/{offset}").randbytes(MIB))
        host.flush()
        host.close()
        self._wait(client.move_disk(DISK, "old").job)
        self._say(f"disk {DISK}: {DISK_BYTES // MIB} MiB, written; hosts at two agents go on")

    def _host(self, agent: str) -> Host:
        return Host(self._installation.uri(DISK, agent), DISK, self._image, self._tally)

    def _work(self, host: Host, number: int) -> None:
        rng = random.Random(f"{self._seed}/moved/{number}")
        blocks = DISK_BYTES // BLOCK_BYTES
        try:
            while not self._stopped.is_set():
                offset = rng.randrange(number, blocks, len(self._installation.agents)) * BLOCK_BYTES
                begun = time.monotonic()
                if rng.random() < 0.5:
                    host.compare(offset, BLOCK_BYTES)
                else:
                    host.write(offset, rng.randbytes(BLOCK_BYTES))
                self._latencies.append(time.monotonic() - begun)
        except OSError as error:
            self.errors.append(f"{DISK}: {error}")

    def _part(self, what: str, action: Callable[[], None]) -> None:
        first, begun = len(self._latencies), time.monotonic()
        action()
        took, seen = time.monotonic() - begun, sorted(self._latencies[first:])
        if not seen:
            self.errors.append(f"{what}: no host got an answer")
            return
        p50, p99 = (1000 * seen[int(len(seen) * share)] for share in (0.5, 0.99))
        self._say(
            f"{what:12} {took:5.1f} s, {len(seen)} requests of {BLOCK_BYTES} bytes: "
            f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {1000 * seen[-1]:.1f} ms"
        )

    def _wait(self, job: int) -> None:
        client = self._installation.client
        wait_until(f"job {job}", lambda: client.job(job).state in OVER, 600)
        info = client.job(job)
        if info.state != "done":
            self.errors.append(f"job {job} {info.state}: {info.reason}")

    def _remove_drained(self) -> None:
        client = self._installation.client
        info, disk = client.container("old"), client.disk(DISK)
        if info.used_segments or "old" in disk.containers:
            self.errors.append(f"container old was drained and holds {info.used_segments} segments")
            return
        wait_until("what is held to be free", lambda: not client.container("old").held_segments)
        client.remove_container("old")
        if (self._folder / "old").exists():
            self.errors.append("container old was removed, its file is there")
        self._say("container old is removed, its file deleted, while the hosts go on")
