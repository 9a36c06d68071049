"""A disk's flush set grows before anything is put there, shrinks when nothing is (section 3).

Growing: every agent is told first, then the larger set is committed, then a location there may be
granted.  Shrinking:

1. Nothing of the disk lies there, neither an extent nor a source: so no agent holds an entry for it
   (whatever took the last of them away has made it invalid, blocking), and nobody writes there.
2. Flush the container without error: whatever hosts once wrote there and was not told as lost.
3. Take the disk exclusively, if nobody has it: no fault is about to put something there.
4. Commit the smaller set, then tell the agents: one that flushes more than it must does no harm.

A crash after the commit leaves agents with the larger set, which the next hello mends.  A container
whose flush has failed stays until the error is cleared (promise P5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import DiskContainers
from segue.controller.placement import NoPlace, may_share
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.restrict import extend_containers
from segue.controller.table import Disk

if TYPE_CHECKING:
    from segue.controller.controller import Controller


async def extend_set(c: Controller, disk: Disk, container: int) -> None:
    """Takes the container into the disk's flush set; raises `NoPlace`."""
    async with c.locks.hold(("containers", disk.disk), exclusive=True):
        if container in disk.containers:
            return
        if c.is_leaving(container):
            # Or is about to: whoever takes it out of use has looked at `extending` already.
            raise NoPlace
        if not may_share(c, disk, container) and len(c.peers_of(disk.disk)) > 1:
            raise NoPlace
        # Durable means told: a new term grants there at once (every commit is all it knows).
        c.extending[disk.disk] = [container]
        try:
            await extend_containers(c, disk.disk)
            await c.commit(DiskContainers(disk.disk, [*disk.containers, container]))
        finally:
            del c.extending[disk.disk]


async def shrink_set(c: Controller, number: int, container: int) -> bool:
    """Takes the container out of the disk's flush set; False if that cannot be done now.

    Raises `OSError` if its flush fails.
    """
    disk = c.table.disks.get(number)
    if disk is None or container not in disk.containers:
        return True
    if not _may_leave(c, disk, container):
        return False
    await copier_flush(c, container, c.copier_failures.get(container, 0))
    key = ("disk", number)
    if not c.locks.try_acquire(key, exclusive=True):
        return False
    try:
        async with c.locks.hold(("containers", number), exclusive=True):
            if c.table.disks.get(number) is not disk or not _may_leave(c, disk, container):
                return False
            await c.commit(DiskContainers(number, [n for n in disk.containers if n != container]))
        failpoints.hit("flush_set.shrunk")
    finally:
        c.locks.release(key, exclusive=True)
    await extend_containers(c, number)
    return True


def _may_leave(c: Controller, disk: Disk, container: int) -> bool:
    """Whether nothing of the disk is there, nothing has failed there, and it has another one."""
    if container in disk.failed or c.marking[container] or disk.containers == [container]:
        return False
    if disk.disk in c.extending:
        return False
    return (disk.disk, container) not in c.table.lying
