"""``make demo``: a whole installation, real data, processes killed while hosts write.

Starts a controller and two agents as processes over SQLite and two file containers in a temporary
folder, makes three disks, and lets four hosts write data drawn from a seed through NBD: one disk at
agent *one*, one at agent *two*, one at both.  Meanwhile each agent and the controller are killed
with SIGKILL and started again.  Then everything is read through the agent that did not write it
and compared with what the hosts remember.  Exit status 0 only if every byte was right.

No root, no test tools: the NBD client is Segue's own (`segue._native.NbdClient`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import TypeVar

from segue import _native
from segue.controller.config import STORE_NAME
from segue.installation import Installation, wait_until
from segue.store.check import check

T = TypeVar("T")
MIB = 1 << 20
DISK_BYTES = 96 * MIB
CONTAINER_BYTES = 176 * MIB
"""Two of them hold the three disks: the first one fills up on the way."""
STRIPE_BYTES = 256 << 10
"""On the shared disk the hosts own alternate stripes: blocks of one host are no other's."""
LONGEST_BYTES = STRIPE_BYTES
RETRY_S = 60.0


def say(text: str) -> None:
    """One line of what happens, with the time since the start."""
    print(f"[{time.monotonic() - _BEGUN:6.2f} s] {text}", flush=True)


_BEGUN = time.monotonic()


@dataclass
class Tally:
    """What the hosts did and saw."""

    writes: int = 0
    zeroes: int = 0
    flushes: int = 0
    reads: int = 0
    written_bytes: int = 0
    read_bytes: int = 0
    wrong_bytes: int = 0
    broken_connections: int = 0
    slowest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Host:
    """One host: a connection to a disk at an agent, and its own stripes of that disk.

    When the connection breaks it connects again and repeats the request, as QEMU and nbdkit's
    `retry` filter do; whether the first attempt took effect does not matter, the bytes are the
    same.
    """

    def __init__(
        self, installation: Installation, disk: str, agent: str, stripes: tuple[int, int]
    ) -> None:
        self.disk = disk
        self.agent = agent
        self.first, self.step = stripes
        self.steps_done = 0
        self._installation = installation
        self._client: _native.NbdClient | None = None

    def __str__(self) -> str:
        """``disk at agent``."""
        return f"{self.disk} at {self.agent}"

    def write(self, image: bytearray, steps: int, rng: random.Random, tally: Tally) -> None:
        """Do `steps` random requests within this host's stripes, and the same to `image`."""
        stripes = range(self.first, DISK_BYTES // STRIPE_BYTES, self.step)
        for _ in range(steps):
            start = rng.randrange(STRIPE_BYTES)
            length = min(rng.choice((512, 4096, 5000, 65536, LONGEST_BYTES)), STRIPE_BYTES - start)
            offset = rng.choice(stripes) * STRIPE_BYTES + start
            if rng.random() < 0.1:
                self._retried(methodcaller("zero", length, offset), tally)
                image[offset : offset + length] = bytes(length)
                tally.zeroes += 1
            else:
                data = rng.randbytes(length)
                fua = rng.random() < 0.05
                self._retried(methodcaller("pwrite", data, offset, fua=fua), tally)
                image[offset : offset + length] = data
                tally.writes += 1
                tally.written_bytes += length
            if rng.random() < 0.02:
                self._retried(methodcaller("flush"), tally)
                tally.flushes += 1
            self.steps_done += 1
        self._retried(methodcaller("flush"), tally)

    def verify(self, image: bytearray, tally: Tally) -> None:
        """Read the whole disk and count the bytes that differ from `image`."""
        for offset in range(0, DISK_BYTES, MIB):
            got: bytes = self._retried(methodcaller("pread", MIB, offset), tally)
            want = image[offset : offset + MIB]
            tally.reads += 1
            tally.read_bytes += len(got)
            if got != want:
                wrong = [i for i in range(MIB) if got[i] != want[i]]
                tally.wrong_bytes += len(wrong)
                say(f"WRONG: {self}: {len(wrong)} bytes from offset {offset + wrong[0]}")

    def close(self) -> None:
        """Disconnect; the other end may be dead already."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError):
                client.close()

    def _retried(self, request: Callable[[_native.NbdClient], T], tally: Tally) -> T:
        begun = time.monotonic()
        while True:
            try:
                if self._client is None:
                    uri = self._installation.uri(self.disk, self.agent)
                    self._client = _native.NbdClient(uri, self.disk)
                result = request(self._client)
            except OSError:
                if time.monotonic() - begun > RETRY_S:
                    raise
                if self._client is not None:
                    self._client = None
                    with tally.lock:
                        tally.broken_connections += 1
                time.sleep(0.01)
            else:
                tally.slowest_s = max(tally.slowest_s, time.monotonic() - begun)
                return result


class Demo:
    """The script: `run` is the whole of it."""

    def __init__(self, folder: Path, seed: int, steps: int) -> None:
        self.installation = Installation(folder / "data", ["--segment-size", "64K"])
        self.tally = Tally()
        self._folder = folder
        self._seed = seed
        self._steps = steps
        self._errors: list[str] = []
        self._images = {name: bytearray(DISK_BYTES) for name in ("red", "green", "shared")}
        self._writers = [
            Host(self.installation, "red", "one", (0, 1)),
            Host(self.installation, "green", "two", (0, 1)),
            Host(self.installation, "shared", "one", (0, 2)),
            Host(self.installation, "shared", "two", (1, 2)),
        ]

    def run(self) -> bool:
        """True if every byte was right."""
        with self.installation:
            self._set_up()
            self._write_through_kills()
            self._verify()
            self._restart_everything()
            self._verify()
            self._space()
            self.installation.stop()
        problems = check(str(self.installation.data / STORE_NAME))
        say(f"all stopped; segue check: {'; '.join(problems) or 'no problem found'}")
        self._summary()
        return not (self._errors or problems or self.tally.wrong_bytes)

    def _set_up(self) -> None:
        took = self.installation.start_controller()
        say(f"controller serves ({took:.2f} s after its start)")
        for name in ("one", "two"):
            took = self.installation.start_agent(name)
            say(f"agent {name} serves ({took:.2f} s)")
        client = self.installation.client
        for name in ("left", "right"):
            info = client.add_container(name, f"file://{self._folder}/{name}", CONTAINER_BYTES)
            say(f"container {name}: {info.segments} segments of {info.segment_bytes >> 10} KiB")
        for name in self._images:
            info_disk = client.create_disk(name, DISK_BYTES)
            say(f"disk {name}: {DISK_BYTES // MIB} MiB on {', '.join(info_disk.containers)}")

    def _write_through_kills(self) -> None:
        say(f"4 hosts write {self._steps} requests each, of 512 bytes to 256 KiB")
        threads = [
            threading.Thread(target=self._guarded, args=(host, number), daemon=True)
            for number, host in enumerate(self._writers)
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        self._at(0.2, "agent one", lambda: self._restart_agent("one"))
        self._at(0.4, "the controller", self._restart_controller)
        self._at(0.6, "agent two", lambda: self._restart_agent("two"))
        self._at(0.8, "the controller", self._restart_controller)
        for thread in threads:
            thread.join()
        took = time.monotonic() - begun
        mib = self.tally.written_bytes / MIB
        say(
            f"hosts are done: {mib:.0f} MiB in {took:.1f} s, {mib / took:.0f} MiB/s, kills included"
        )

    def _guarded(self, host: Host, number: int) -> None:
        try:
            rng = random.Random(f"{self._seed}/{number}")
            host.write(self._images[host.disk], self._steps, rng, self.tally)
        except OSError as error:
            self._errors.append(f"{host}: {error}")
        finally:
            host.steps_done = self._steps

    def _at(self, share: float, victim: str, kill: Callable[[], float]) -> None:
        """When the hosts have done `share` of their work: kill, restart."""
        goal = int(share * self._steps) * len(self._writers)
        wait_until(f"{share:.0%}", lambda: sum(h.steps_done for h in self._writers) >= goal, 600)
        took = kill()
        say(f"{victim} killed with SIGKILL at {share:.0%}; back after {took:.2f} s")

    def _restart_agent(self, name: str) -> float:
        self.installation.agents[name].kill()
        begun = time.monotonic()
        self.installation.start_agent(name)
        return time.monotonic() - begun

    def _restart_controller(self) -> float:
        self.installation.controller.kill()
        begun = time.monotonic()
        self.installation.start_controller()
        for name in self.installation.agents:
            self.installation.wait_for_agent(name)
        return time.monotonic() - begun

    def _restart_everything(self) -> None:
        for host in self._writers:
            host.close()
        for process in (*self.installation.agents.values(), self.installation.controller):
            process.kill()
        begun = time.monotonic()
        self.installation.start_controller()
        for name in self.installation.agents:
            self.installation.start_agent(name)
        say(f"all three processes killed and started again: {time.monotonic() - begun:.2f} s")

    def _verify(self) -> None:
        begun = time.monotonic()
        before = self.tally.read_bytes
        for disk, agent in (("red", "two"), ("green", "one"), ("shared", "one"), ("shared", "two")):
            host = Host(self.installation, disk, agent, (0, 1))
            host.verify(self._images[disk], self.tally)
            host.close()
        took = time.monotonic() - begun
        mib = (self.tally.read_bytes - before) / MIB
        say(
            f"every disk read back, red and green through the other agent: {mib:.0f} MiB in "
            f"{took:.1f} s, {self.tally.wrong_bytes} bytes wrong"
        )

    def _space(self) -> None:
        for info in self.installation.client.containers():
            say(
                f"container {info.name}: {info.used_segments} of {info.segments} segments used, "
                f"{info.free_segments} free ({info.clean_segments} clean), "
                f"{info.held_segments} held"
            )

    def _summary(self) -> None:
        tally = self.tally
        say(
            f"{tally.writes} writes, {tally.zeroes} write-zeroes, {tally.flushes} flushes, "
            f"{tally.reads} reads; {tally.broken_connections} connections broken by kills; "
            f"slowest request {tally.slowest_s:.2f} s"
        )
        for error in self._errors:
            say(f"ERROR: {error}")


def main() -> None:
    """Run the demo; exit status 0 only if every byte was right."""
    parser = argparse.ArgumentParser(prog="python -m segue.demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--steps", type=int, default=1500, help="requests of each host")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="segue-demo-"))
    say(f"seed {args.seed}, folder {folder}")
    right = False
    try:
        right = Demo(folder, args.seed, args.steps).run()
    finally:
        say("every byte was right" if right else "FAILED")
        if right and not args.keep:
            shutil.rmtree(folder)
        else:
            say(f"logs and data are in {folder}")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
