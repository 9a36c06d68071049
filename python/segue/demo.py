"""``make demo``: a whole installation, real data, processes killed while hosts write.

Starts a controller and two agents as processes over SQLite and two file containers in a temporary
folder, makes three disks, and lets four hosts write data drawn from a seed through NBD: one disk at
agent *one*, one at agent *two*, one at both.  Meanwhile each agent and the controller are killed
with SIGKILL and started again.  Then everything is read through the agent that did not write it
and compared with what the hosts remember.  Last, a disk is moved between containers while hosts
write it (`demo_movement.py`).  Exit status 0 only if every byte was right.

No root, no test tools: the NBD client is Segue's own (`segue._native.NbdClient`).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from segue.controller.config import STORE_NAME
from segue.demo_movement import Movement
from segue.host import MIB, Host, Tally
from segue.installation import Installation, wait_until
from segue.store.check import check

DISK_BYTES = 96 * MIB
CONTAINER_BYTES = 176 * MIB
"""Two of them hold the three disks: the first one fills up on the way."""
STRIPE_BYTES = 256 << 10
"""On the shared disk the hosts own alternate stripes: blocks of one host are no other's."""


def say(text: str) -> None:
    """One line of what happens, with the time since the start."""
    print(f"[{time.monotonic() - _BEGUN:6.2f} s] {text}", flush=True)


_BEGUN = time.monotonic()


class Writer:
    """One host of the demo: random requests within its own stripes of a disk."""

    def __init__(self, host: Host, agent: str, stripes: tuple[int, int]) -> None:
        self.host = host
        self.agent = agent
        self.steps_done = 0
        first, step = stripes
        self._stripes = range(first, DISK_BYTES // STRIPE_BYTES, step)

    def run(self, steps: int, rng: random.Random) -> None:
        """Do `steps` requests; raises OSError when an error lasts."""
        for _ in range(steps):
            start = rng.randrange(STRIPE_BYTES)
            length = min(rng.choice((512, 4096, 5000, 65536, STRIPE_BYTES)), STRIPE_BYTES - start)
            offset = rng.choice(self._stripes) * STRIPE_BYTES + start
            kind = rng.random()
            if kind < 0.1:
                self.host.compare(offset, length)
            elif kind < 0.2:
                self.host.zero(offset, length)
            else:
                self.host.write(offset, rng.randbytes(length), fua=rng.random() < 0.05)
            if rng.random() < 0.02:
                self.host.flush()
            self.steps_done += 1
        self.host.flush()


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
            Writer(self._host("red", "one"), "one", (0, 1)),
            Writer(self._host("green", "two"), "two", (0, 1)),
            Writer(self._host("shared", "one"), "one", (0, 2)),
            Writer(self._host("shared", "two"), "two", (1, 2)),
        ]

    def _host(self, disk: str, agent: str) -> Host:
        uri = self.installation.uri(disk, agent)
        return Host(uri, disk, self._images[disk], self.tally)

    def run(self) -> bool:
        """True if every byte was right."""
        with self.installation:
            self._set_up()
            self._write_through_kills()
            self._verify()
            self._restart_everything()
            self._verify()
            self._space()
            self._move()
            self.installation.stop()
        problems = check(str(self.installation.data / STORE_NAME))
        say(f"all stopped; segue check: {'; '.join(problems) or 'no problem found'}")
        self._summary()
        return not (self._errors or problems or self.tally.wrong)

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
            threading.Thread(target=self._guarded, args=(writer, number), daemon=True)
            for number, writer in enumerate(self._writers)
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

    def _guarded(self, writer: Writer, number: int) -> None:
        try:
            writer.run(self._steps, random.Random(f"{self._seed}/{number}"))
        except OSError as error:
            self._errors.append(f"{writer.host.disk} at {writer.agent}: {error}")
        finally:
            writer.steps_done = self._steps

    def _at(self, share: float, victim: str, kill: Callable[[], float]) -> None:
        """When the hosts have done `share` of their work: kill, restart."""
        goal = int(share * self._steps) * len(self._writers)
        wait_until(f"{share:.0%}", lambda: sum(w.steps_done for w in self._writers) >= goal, 600)
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
        for writer in self._writers:
            writer.host.close()
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
            host = self._host(disk, agent)
            host.compare_all()
            host.close()
        took = time.monotonic() - begun
        mib = (self.tally.read_bytes - before) / MIB
        say(
            f"every disk read back, red and green through the other agent: {mib:.0f} MiB in "
            f"{took:.1f} s, {len(self.tally.wrong)} reads wrong"
        )

    def _move(self) -> None:
        movement = Movement(self.installation, self._folder, self.tally, self._seed, say)
        movement.run()
        self._errors += movement.errors

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
        for error in (*self._errors, *self.tally.wrong):
            say(f"WRONG: {error}")


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
