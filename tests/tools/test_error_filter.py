"""A container's server that answers with errors, as nbdkit's error filter does on demand (P5).

An error reaches the host for that request alone, or nobody at all: what is read is right or EIO.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from errno import EIO, ENOSPC
from pathlib import Path

import pytest

from segue import _native
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB
from tests.tools.test_nbd_container import SIZE_BYTES, Server, bare

__all__ = ["bare"]

DISK_BYTES = 4 * MIB
BLOCK = 4096


class Failing(Server):
    """nbdkit, whose requests fail with `errno` at that rate while a file is there."""

    def __init__(self, folder: Path, errno: str, rate: str) -> None:
        self._triggers = {
            what: folder / f"inject-{what}" for what in ("pread", "pwrite", "zero", "trim")
        }
        storage = folder / "far.storage"
        with open(storage, "wb") as made:
            made.truncate(SIZE_BYTES)
        words = [f"error={errno}"]
        for what, trigger in self._triggers.items():
            words += [f"error-{what}-rate={rate}", f"error-{what}-file={trigger}"]
        socket = folder / "far.sock"
        command = ["nbdkit", "-f", "-U", str(socket), "--filter=error", "file", str(storage)]
        super().__init__([*command, *words], socket, folder / "far.log")

    def fails(self, *whats: str) -> None:
        """From now on these do, and nothing else."""
        for what, trigger in self._triggers.items():
            if what in whats:
                trigger.touch()
            else:
                trigger.unlink(missing_ok=True)


@dataclass
class Doubting:
    """A host that knows what each block may hold: a write that failed may have been done."""

    host: _native.NbdClient
    rng: random.Random
    may_be: list[set[int]] = field(default_factory=lambda: [{0}] * (DISK_BYTES // BLOCK))
    errors: dict[int, int] = field(default_factory=dict)
    last: int = 0

    def go_on(self, count: int) -> None:
        """So many writes, zeroes and reads of a few blocks."""
        for _ in range(count):
            blocks = self.rng.choice((1, 3, 40))
            first = self.rng.randrange(len(self.may_be) - blocks)
            kind = self.rng.random()
            try:
                if kind < 0.5:
                    self._write(first, blocks, zero=kind < 0.1)
                else:
                    self.read(first, blocks)
            except OSError as error:
                assert error.errno is not None
                self.errors[error.errno] = self.errors.get(error.errno, 0) + 1

    def _write(self, first: int, blocks: int, zero: bool) -> None:
        self.last += 1
        token, run = 0 if zero else self.last, range(first, first + blocks)
        for block in run:
            self.may_be[block] = self.may_be[block] | {token}
        if zero:
            self.host.zero(blocks * BLOCK, first * BLOCK)
        else:
            self.host.pwrite(token.to_bytes(8, "little") * (blocks * BLOCK // 8), first * BLOCK)
        for block in run:
            self.may_be[block] = {token}

    def read(self, first: int, blocks: int) -> None:
        """Whether each block is one of what it may be; from now on it is that."""
        data = self.host.pread(blocks * BLOCK, first * BLOCK)
        for at, block in enumerate(range(first, first + blocks)):
            piece = data[at * BLOCK : (at + 1) * BLOCK]
            token = int.from_bytes(piece[:8], "little")
            assert piece == piece[:8] * (BLOCK // 8), f"block {block} is torn"
            assert token in self.may_be[block], f"block {block} holds {token}"
            self.may_be[block] = {token}


@pytest.fixture
def near(bare: Installation, folder: Path) -> Installation:
    """Disk *disk*, all of it written, in container *near*."""
    bare.client.add_container("near", f"file://{folder}/near", 16 * MIB)
    bare.client.create_disk("disk", DISK_BYTES)
    return bare


def doubting(made: Installation) -> Doubting:
    """A host of the disk that has written all of it."""
    found = Doubting(_native.NbdClient(made.uri("disk", "one"), "disk"), random.Random(7))
    found.host.pwrite((1 << 40).to_bytes(8, "little") * (DISK_BYTES // 8), 0)
    found.may_be = [{1 << 40}] * (DISK_BYTES // BLOCK)
    return found


@pytest.mark.parametrize(("name", "errno"), [("EIO", EIO), ("ENOSPC", ENOSPC)])
def test_every_request_is_right_or_an_error(
    bare: Installation, folder: Path, name: str, errno: int
) -> None:
    """First writes, overwrites, zeroes and reads, a quarter of what they need failing."""
    server = Failing(folder, name, "25%")
    bare.client.add_container("far", server.uri(), 0)
    bare.client.create_disk("disk", DISK_BYTES)
    host = Doubting(_native.NbdClient(bare.uri("disk", "one"), "disk"), random.Random(errno))
    host.go_on(40)
    assert host.errors == {}
    server.fails("pread", "pwrite", "zero", "trim")
    host.go_on(200)
    assert host.errors.keys() <= {EIO, errno}
    assert host.errors[errno] > 10
    host.host.flush()
    server.fails()
    before = dict(host.errors)
    host.go_on(100)
    host.read(0, DISK_BYTES // BLOCK)
    host.host.flush()
    assert host.errors == before
    assert bare.client.disk("disk").failed == {}
    server.kill()


def moving(made: Installation, to: str) -> int:
    """The job that moves the disk."""
    return made.client.move_disk("disk", to).job


def test_a_destination_that_fails(near: Installation, folder: Path) -> None:
    """Hosts go on, what cannot be done is named, and done when it can be."""
    server = Failing(folder, "ENOSPC", "100%")
    near.client.add_container("far", server.uri(), 0)
    host = doubting(near)
    server.fails("pwrite", "zero")
    job = moving(near, "far")
    wait_until("it is named", lambda: "cannot be copied" in near.client.job(job).reason)
    host.go_on(60)
    assert host.errors.keys() == {ENOSPC}
    server.fails()
    wait_until("the movement", lambda: near.client.job(job).state == "done")
    host.errors.clear()
    host.go_on(60)
    host.read(0, DISK_BYTES // BLOCK)
    assert host.errors == {}
    server.kill()


def test_a_source_that_cannot_be_read(near: Installation, folder: Path) -> None:
    """Its extents stay, named; a cancelled movement gives up those that no host has written to."""
    server = Failing(folder, "EIO", "100%")
    near.client.add_container("far", server.uri(), 0)
    host = doubting(near)
    away = moving(near, "far")
    wait_until("the movement", lambda: near.client.job(away).state == "done")
    server.fails("pread")
    job = moving(near, "near")
    wait_until("it is named", lambda: "cannot be copied" in near.client.job(job).reason)
    with pytest.raises(OSError):
        host.host.pread(BLOCK, 0)
    near.client.cancel_job(job)
    wait_until("the end", lambda: near.client.job(job).state == "cancelled")
    server.fails()
    assert near.client.container("near").used_segments == 0
    host.read(0, DISK_BYTES // BLOCK)
    again = moving(near, "near")
    wait_until("the movement", lambda: near.client.job(again).state == "done")
    host.go_on(20)
    host.read(0, DISK_BYTES // BLOCK)
    assert host.errors == {}
    server.kill()


def test_blocks_whose_new_location_fails_after_a_write(near: Installation, folder: Path) -> None:
    """They are EIO, never what they were before; the others are read where they are."""
    server = Failing(folder, "EIO", "100%")
    near.client.add_container("far", server.uri(), 0)
    host = doubting(near)
    # So that the movement has begun, and has copied nothing.
    server.fails("pwrite", "zero")
    job = moving(near, "far")
    wait_until("it is named", lambda: "cannot be copied" in near.client.job(job).reason)
    server.fails()
    host.host.pwrite(b"\7" * BLOCK, 8 * BLOCK)
    host.may_be[8] = {int.from_bytes(b"\7" * 8, "little")}
    server.fails("pread", "pwrite", "zero")
    with pytest.raises(OSError) as caught:
        host.host.pread(BLOCK, 8 * BLOCK)
    assert caught.value.errno == EIO
    server.fails()
    host.read(8, 1)
    wait_until("the movement", lambda: near.client.job(job).state == "done")
    host.read(0, DISK_BYTES // BLOCK)
    server.kill()
