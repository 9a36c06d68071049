"""Removing an empty container while hosts run (design, section 3, "Containers").

1. From here on nothing is allocated or zeroed there (volatile).  It must be empty: no extent, no
   quarantine, nothing being zeroed.  So no agent holds an entry for it (rule 3), and none has I/O
   under way there (rule 5).
2. Flush it, by the controller's own hands, without error.
3. Commit that it is leaving: in the same commit it goes from every flush set.
4. Tell every agent of those disks its set; each closes the container.
5. Give the storage back: a file that Segue made is deleted, else the header goes.
6. Commit that it is gone.  Its number is never used again: an agent may still know it.

A crash before 3 changes nothing.  After 3 the next term goes on from 4, whatever has been done of
it; it does not open the container any more.  An agent that is away is not waited for beyond its
lease: it has nothing under way there, and hears of its sets when it comes back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import ContainerGone, ContainerLeaving
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.procedures.verbs import Refusal, container_called
from segue.controller.restrict import extend_containers
from segue.controller.table import Container, container_spec

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.remove_container")


async def remove_container(c: Controller, name: str) -> None:
    """Takes an empty container out of the pool; one that is leaving already goes on leaving."""
    async with c.locks.hold(("containers",), exclusive=True):
        container = container_called(c, name)
        number = container.row.container
        if not container.leaving:
            c.leaving.add(number)
            try:
                await _leave(c, container)
            finally:
                c.leaving.discard(number)
    failpoints.hit("remove.committed")
    try:
        await _give_back(c, number)
    except OSError as error:
        raise Refusal(
            f"container {name} is out of use, but its storage cannot be given back: "
            f"{error.strerror or error}; once it can, remove it again"
        ) from error


async def go_on_leaving(c: Controller, number: int) -> None:
    """A container that an older term left half removed."""
    try:
        await _give_back(c, number)
    except OSError as error:
        log.warning("event=container_stays container=%d error=%s", number, error)


async def _leave(c: Controller, container: Container) -> None:
    """Steps 1 to 3; the caller has seen to it that nothing new begins there."""
    row = container.row
    if row.container in c.background.cleaning():
        await c.background.batch_cleaned()
    _must_be_empty(c, container)
    try:
        await copier_flush(c, row.container, c.copier_failures.get(row.container, 0))
    except OSError as error:
        raise Refusal(
            f"container {row.name} cannot be flushed: {error.strerror or error}"
        ) from error
    failpoints.hit("remove.flushed")
    disks = sorted(d.disk for d in c.table.disks.values() if row.container in d.containers)
    async with c.locks.hold(*(("containers", disk) for disk in disks), exclusive=True):
        _must_be_empty(c, container)
        await c.commit(ContainerLeaving(row.container))


def _must_be_empty(c: Controller, container: Container) -> None:
    row, space = container.row, container.space
    if space.used:
        raise Refusal(f"container {row.name} holds {space.used} segments of data")
    if space.free != space.segments:
        held = space.segments - space.free
        raise Refusal(
            f"container {row.name}: {held} segments are being zeroed, or a lost agent may still "
            f"write there (segue status); try again later"
        )
    if any(row.container in being_added for being_added in c.extending.values()):
        raise Refusal(f"container {row.name}: a disk is about to be put there")
    failed = [d.name for d in c.table.disks.values() if row.container in d.failed]
    if failed:
        raise Refusal(
            f"a flush failed at container {row.name}: take note of it first "
            f"(segue disk clear-error {' '.join(sorted(failed))})"
        )


async def _give_back(c: Controller, number: int) -> None:
    """Steps 4 to 6."""
    async with c.locks.hold(("leaving", number), exclusive=True):
        container = c.table.containers.get(number)
        if container is None:
            return
        for disk in sorted(c.table.disks):
            await extend_containers(c, disk)
        c.open_containers.discard(number)
        await c.copier_may_write()
        await c.storage.remove(container_spec(container.row))
        failpoints.hit("remove.given_back")
        await c.commit(ContainerGone(number))
        log.info("event=container_removed container=%s", container.row.name)
