"""Histories of 8-byte registers, recorded while a disk moves and processes die, are linearizable.

Every attempt of a write carries a value of its own: sent again, it is another operation.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from pathlib import Path

import pytest

from segue import _native
from segue.installation import wait_until
from tests.registers import Operation, problems
from tests.tools.movement import DISK_BYTES, Load, Mover, two_containers

IN_BLOCKS = [segment * (64 << 10) + at for segment in (1, 2, 40) for at in (0, 8, 4088, 4096)]
"""Neighbours in a block, in two blocks, and in other segments."""
IN_BLOCKS_OF_THEIR_OWN = [segment * (64 << 10) + at for segment in (1, 2, 40) for at in (0, 4096)]
"""Past the page cache agents merge blocks, each for itself: hosts of several share none."""
CLIENTS_PER_AGENT = 3
KILLS = 4
OPERATIONS = 20_000


class Client(threading.Thread):
    """Reads and writes registers through one agent, one after another, and records it all."""

    def __init__(
        self,
        load: Load,
        agent: str,
        number: int,
        registers: list[int],
        values: itertools.count[int],
    ) -> None:
        super().__init__()
        self.history: list[Operation] = []
        self._uri = load.installation.uri("disk", agent)
        self._stopped = load.stopped
        self._rng = random.Random(number)
        self._registers = registers
        self._values = values

    def run(self) -> None:
        connection: _native.NbdClient | None = None
        while not self._stopped.is_set():
            register = self._rng.choice(self._registers)
            writes = self._rng.random() < 0.5
            value = next(self._values) if writes else 0
            begin = time.monotonic()
            try:
                if connection is None:
                    connection = _native.NbdClient(self._uri, "disk")
                    begin = time.monotonic()
                if writes:
                    connection.pwrite(value.to_bytes(8, "big"), register, fua=False)
                else:
                    value = int.from_bytes(connection.pread(8, register), "big")
            except OSError:
                if writes and connection is not None:
                    self.history.append(Operation(register, True, value, begin))
                connection = None
                time.sleep(0.01)
                continue
            self.history.append(Operation(register, writes, value, begin, time.monotonic()))


@pytest.mark.parametrize(
    ("cache", "registers"), [("page", IN_BLOCKS), ("direct", IN_BLOCKS_OF_THEIR_OWN)]
)
def test_registers_are_linearizable_while_their_disk_moves(
    folder: Path, cache: str, registers: list[int]
) -> None:
    rng = random.Random(3)
    with two_containers(folder, cache=cache) as load:
        installation = load.installation
        # The initial value of every register is 0.
        host = load.host("one")
        host.write(0, bytes(DISK_BYTES - 1) + b"\1")
        host.close()
        values = itertools.count(1)
        clients = [
            Client(load, agent, number, registers, values)
            for agent in load.agents
            for number in range(CLIENTS_PER_AGENT)
        ]
        for client in clients:
            client.start()

        def operations() -> int:
            return sum(len(client.history) for client in clients)

        try:
            with Mover(installation) as mover:
                for _ in range(KILLS):
                    most = operations() + OPERATIONS // KILLS
                    wait_until("some operations", lambda m=most: operations() > m)  # type: ignore[misc]
                    victim = rng.choice([installation.controller, *installation.agents.values()])
                    victim.kill()
                    victim.start()
                wait_until("a move after all", lambda m=mover.moves: mover.moves > m)  # type: ignore[misc]
        finally:
            load.stopped.set()
            for client in clients:
                client.join()
        history = [operation for client in clients for operation in client.history]
        assert problems(history) == []
        assert sum(o.writes for o in history) > OPERATIONS // 4
        assert mover.moves >= 1
