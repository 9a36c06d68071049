"""Removing an empty container while hosts run (design, section 3, "Containers").

1. From here on nothing is allocated or zeroed there (volatile).  It must be empty: no extent, no
   quarantine, nothing being zeroed.  So no agent holds an entry for it (rule 3), and none has I/O
   under way there (rule 5).
2. Flush it, by the controller's own hands, without error.
3. Commit that it is leaving: in the same commit it goes from every flush set.
4. Tell every agent of those disks its set; each closes the container.
5. Give the storage back: a file that Segue made is deleted, else the header goes.
6. Commit that it is gone.  Its number is never used again: an agent may still know it.

Of a container whose storage is *lost*, which an operator says and the controller sees to be away,
nothing is flushed, nothing is given back, and what lost agents and the cleaner may still do there
matters to nobody: no byte of it is ever read again.  It must hold no data all the same.  The commit
that it is gone takes its quarantine and what was being zeroed there with it.

A crash before 3 changes nothing.  After 3 the next term goes on from 4, whatever has been done of
it; it does not open the container any more.  An agent that is away is not waited for beyond its
lease: it has nothing under way there, and hears of its sets when it comes back.
"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import ContainerGone, ContainerLeaving
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.procedures.verbs import Refusal, container_called, still_asked
from segue.controller.record import container_of
from segue.controller.restrict import extend_containers
from segue.controller.table import Container, container_spec

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.remove_container")


async def remove_container(c: Controller, name: str, *, lost: bool = False) -> None:
    """Takes an empty container out of the pool; one that is leaving already goes on leaving.

    `lost`: its storage is away, and gone for good.
    """
    async with c.locks.hold(("containers",), exclusive=True):
        still_asked()
        container = container_called(c, name)
        number = container.row.container
        if not container.leaving:
            c.leaving.add(number)
            try:
                async with c.locks.hold(("reach", number), exclusive=True):
                    await (_give_up if lost else _leave)(c, container)
            finally:
                c.leaving.discard(number)
    failpoints.hit("remove.committed")
    try:
        await _give_back(c, number, lost)
    except OSError as error:
        raise Refusal(
            f"container {name} is out of use, but its storage cannot be given back: "
            f"{error.strerror or error}; once it can, remove it again"
        ) from error


async def go_on_leaving(c: Controller, number: int) -> None:
    """A container that an older term left half removed."""
    try:
        await _give_back(c, number, lost=False)
    except OSError as error:
        log.warning("event=container_stays container=%d error=%s", number, error)


async def _leave(c: Controller, container: Container) -> None:
    """Steps 1 to 3; the caller has seen to it that nothing new begins there."""
    row = container.row
    if c.storage.is_away(row.container):
        raise Refusal(
            f"the storage of container {row.name} is away; if it is gone for good, --lost removes "
            f"the container all the same"
        )
    if row.container in c.background.cleaning():
        await c.background.batch_cleaned()
    _must_be_unused(c, container)
    _must_be_free(container)
    try:
        await copier_flush(c, row.container, c.copier_failures.get(row.container, 0))
    except OSError as error:
        raise Refusal(
            f"container {row.name} cannot be flushed: {error.strerror or error}"
        ) from error
    failpoints.hit("remove.flushed")
    async with _sets_of(c, container):
        _must_be_unused(c, container)
        _must_be_free(container)
        await c.commit(ContainerLeaving(row.container))


async def _give_up(c: Controller, container: Container) -> None:
    """Steps 1 and 3, where the storage is lost."""
    row = container.row
    if not (c.storage.is_away(row.container) or c.missing(row.container)):
        raise Refusal(f"the storage of container {row.name} is there: it is not lost")
    async with _sets_of(c, container):
        _must_be_unused(c, container)
        given_up = [*c.table.quarantine, *c.table.cleaning]
        _must_be_free(container, sum(container_of(at) == row.container for at in given_up))
        await c.commit(ContainerLeaving(row.container))
        c.unreached.pop(row.container, None)


def _sets_of(c: Controller, container: Container) -> AbstractAsyncContextManager[None]:
    """Holds the flush sets of the disks that have the container in theirs."""
    number = container.row.container
    disks = sorted(d.disk for d in c.table.disks.values() if number in d.containers)
    return c.locks.hold(*(("containers", disk) for disk in disks), exclusive=True)


def _must_be_free(container: Container, given_up: int = 0) -> None:
    """No lost agent, and no copier, may still write there, but at what is `given_up`."""
    row, space = container.row, container.space
    held = space.segments - space.free - given_up
    if held:
        raise Refusal(
            f"container {row.name}: {held} segments are being zeroed, or a lost agent may still "
            f"write there (segue status); try again later"
        )


def _must_be_unused(c: Controller, container: Container) -> None:
    """Nothing lies there, or is about to."""
    row, space = container.row, container.space
    if space.used:
        raise Refusal(f"container {row.name} holds {space.used} segments of data")
    if any(row.container in being_added for being_added in c.extending.values()):
        raise Refusal(f"container {row.name}: a disk is about to be put there")
    failed = [d.name for d in c.table.disks.values() if row.container in d.failed]
    if failed:
        raise Refusal(
            f"a flush failed at container {row.name}: take note of it first "
            f"(segue disk clear-error {' '.join(sorted(failed))})"
        )


async def _give_back(c: Controller, number: int, lost: bool) -> None:
    """Steps 4 to 6."""
    async with c.locks.hold(("leaving", number), exclusive=True):
        container = c.table.containers.get(number)
        if container is None:
            return
        for disk in sorted(c.table.disks):
            await extend_containers(c, disk)
        c.open_containers.discard(number)
        await c.copier_may_write()
        if lost:
            c.storage.forget(number)
        else:
            await c.storage.remove(container_spec(container.row))
        failpoints.hit("remove.given_back")
        await c.commit(ContainerGone(number))
        log.info("event=container_removed container=%s", container.row.name)
