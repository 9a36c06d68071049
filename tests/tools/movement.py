"""What the tests of movement share: two containers, agents, hosts that write, who moves a disk."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from segue.client import ApiError
from segue.host import Host, Tally
from segue.installation import Installation, wait_until

SEGMENT_BYTES = 64 << 10
DISK_BYTES = 4 << 20
CONTAINER_BYTES = 6 << 20
ARGS = ("--segment-size", "64K", "--checkpoint-log", "1K", "--lease", "3")


@dataclass
class Load:
    """Hosts that write and read all the time, one at each agent, each in segments of its own."""

    installation: Installation
    agents: Sequence[str]
    image: bytearray = field(default_factory=lambda: bytearray(DISK_BYTES))
    tally: Tally = field(default_factory=Tally)
    stopped: threading.Event = field(default_factory=threading.Event)
    failures: list[OSError] = field(default_factory=list)

    def host(self, agent: str) -> Host:
        """A host at that agent."""
        return Host(self.installation.uri("disk", agent), "disk", self.image, self.tally)

    def fill(self) -> None:
        """Gives every segment data."""
        host, rng = self.host(self.agents[0]), random.Random(0)
        host.write(0, rng.randbytes(DISK_BYTES))
        host.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """The load, and at its end every byte compared at every agent."""
        threads = [
            threading.Thread(target=self._work, args=(self.host(agent), number))
            for number, agent in enumerate(self.agents)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()
        assert self.failures == []
        for agent in self.agents:
            host = self.host(agent)
            host.compare_all()
            host.close()
        assert self.tally.wrong == []
        assert self.tally.writes > 20

    def _work(self, host: Host, number: int) -> None:
        rng, count = random.Random(number), DISK_BYTES // SEGMENT_BYTES
        try:
            while not self.stopped.is_set():
                segment = rng.randrange(number, count, len(self.agents))
                start, kind = rng.randrange(SEGMENT_BYTES), rng.random()
                length = min(rng.choice((700, 4096, 20_000, SEGMENT_BYTES)), SEGMENT_BYTES - start)
                at = segment * SEGMENT_BYTES
                if kind < 0.03:
                    host.zero(at, SEGMENT_BYTES)
                elif kind < 0.5:
                    host.compare(at + start, length)
                else:
                    host.write(at + start, rng.randbytes(length), fua=rng.random() < 0.1)
                if kind > 0.95:
                    host.flush()
        except OSError as error:
            self.failures.append(error)
        finally:
            host.close()


@contextmanager
def two_containers(
    folder: Path, agents: Sequence[str] = ("one", "two"), faulty: str = "", cache: str = "direct"
) -> Iterator[Load]:
    """An installation with containers *left* (page cache) and *right* (`cache`), and a load."""
    with Installation(folder / "data", ARGS) as installation:
        installation.start_controller()
        for name in agents:
            installation.start_agent(name)
        client = installation.client
        client.add_container("left", f"file://{folder}/left", CONTAINER_BYTES)
        right = f"{faulty}file://{folder}/right"
        client.add_container("right", right, CONTAINER_BYTES, cache=cache)
        client.create_disk("disk", DISK_BYTES)
        load = Load(installation, agents)
        load.fill()
        yield load
        installation.stop()


def lies_in(installation: Installation, container: str) -> bool:
    """Whether all of the disk lies in that container, and no job is running."""
    try:
        jobs = installation.client.jobs()
        return installation.client.disk("disk").containers == [container] and all(
            job.state in ("done", "cancelled", "failed") for job in jobs
        )
    except ApiError:
        return False


class Mover:
    """Moves a disk from *left* to *right* and back for as long as it is asked to."""

    def __init__(self, installation: Installation, disk: str = "disk") -> None:
        self.installation = installation
        self.disk = disk
        self.moves = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Mover:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            to = ("right", "left")[self.moves % 2]
            try:
                self.installation.client.move_disk(self.disk, to)
            except ApiError as error:
                if not error.status:
                    time.sleep(0.02)  # the controller is dead: somebody starts it
                    continue
            if self._until_over():
                self.moves += 1

    def _until_over(self) -> bool:
        def over() -> bool:
            try:
                jobs = self.installation.client.jobs()
            except ApiError:
                return False
            return all(job.state in ("done", "cancelled", "failed") for job in jobs)

        wait_until("the job", over)
        return not self._stopped.is_set()
