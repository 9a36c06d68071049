"""A container's flush failed: durable before the host hears of it (section 4, promise P5).

Every disk that may have been written on that container is marked, at all its agents: pages that a
kernel dropped after one failed flush must not be covered by a later flush that succeeds.  The mark
is an error of the disk until an operator clears it.

Marking takes no lock and waits for nothing but its commit: whoever holds a disk may be waiting for
this very flush (growing zeroes a segment's rest), or for an agent that counts as ended only when a
last flush was heard of.  A disk deleted meanwhile has nothing to mark; one that is about to let go
of the container does not while a mark is being made (`Controller.marking`).

Whoever is told of a failure leaves a note in the container before it tells anybody
(`crates/segue-io/src/container/note.rs`): it outlives the agent and all controllers that were told.
Who finds one marks the disks and takes it away, in that order.  After a crash in between the next
term finds the marks, and takes it away before an operator can clear them; only where that fails
(the storage does) is the error repeated, once, after it was cleared.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from errno import EIO, ENODEV
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import FlushFailed
from segue.controller.commits import TermEnded
from segue.controller.fences import is_remote
from segue.controller.peer import Peer, PeerLost, SessionLost
from segue.controller.restrict import extend_containers, set_containers
from segue.wire.messages import ContainerFailed, Failure

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.flush_failed")


async def container_failed(c: Controller, peer: Peer, message: ContainerFailed) -> None:
    """Commits the failure, answers the flush, and tells the other agents.

    The agent's sets say "failed" before the answer comes: from then on it goes by them alone.
    """
    session = peer.session
    number = message.container
    # Whatever became of the disk named: the container is shared by all, and an agent flushes it a
    # last time when it has let go of its last disk there.
    disks = await _mark(c, number, message.errno)
    c.spawn(_tidy(c, number))
    try:
        await peer.present_in(session)
        for disk in sorted(peer.tables):
            row = c.table.disks.get(disk)
            if row is not None and number in row.containers:
                await set_containers(c, peer, row)
    except (SessionLost, PeerLost):
        return
    if peer.session == session:
        peer.send(Failure(message.request, EIO))
    for disk in disks:
        await extend_containers(c, disk)


async def copier_flush(c: Controller, number: int, failures: int) -> None:
    """Flushes what the copier wrote to a container; raises `OSError` once a failure is durable.

    `failures` is what `Controller.copier_failures` said of the container before the first of those
    writes: a kernel tells a descriptor of a lost page once, so a failure that another flush was
    told of meanwhile may have been for these writes.

    Its pages and the hosts' are of one file, and a kernel tells of a lost page once: an agent that
    opens the container later would hear nothing, so a failure here counts as one of theirs.
    """
    await c.flushes.flush(number)
    if c.copier_failures.get(number, 0) != failures:
        raise OSError(EIO, "another flush of the container failed meanwhile")


async def take_notes(c: Controller) -> None:
    """A new term hears of what no older one did, before it lets anybody open a disk."""
    for number in sorted(c.open_containers):
        await take_note(c, number)


async def take_note(c: Controller, number: int) -> list[int]:
    """Makes what a note in the container says durable, then clears it; the disks newly marked.

    Read before the marks are looked at, and cleared only if still the same: the marks are of every
    failure it can stand for.  An older term's marks prove nothing, an operator may have ended them
    in a newer one.
    """
    disks: list[int] = []
    async with c.noting.setdefault(number, asyncio.Lock()):
        if number not in c.open_containers:
            return disks
        try:
            with c.waits.on("storage", c.name_of_container(number)):
                note = await c.storage.note(number)
            if note is None:
                return disks
            log.info("event=note container=%d holder=%x errno=%d", number, note.holder, note.errno)
            disks = await _mark(c, number, note.errno)
            if disks or await c.term_is_newest():
                failpoints.hit("note.marked")
                with c.waits.on("storage", c.name_of_container(number)):
                    await c.storage.clear_note(number, note)
        except OSError as error:
            # It stands: the next flush here hears of it.
            log.warning("event=note_stays container=%d error=%s", number, error)
    return disks


async def _tidy(c: Controller, number: int) -> None:
    for disk in await take_note(c, number):
        await extend_containers(c, disk)


async def last_flush(c: Controller) -> None:
    """The controller stops: flushes all it may have written, for with its descriptors goes the
    last chance to hear of a page that a kernel could not write.
    """
    for number in sorted(c.open_containers):
        try:
            await c.storage.flush(number)
        except OSError as error:
            await _mark(c, number, error.errno or EIO)


async def hear_of_lost_pages(c: Controller, containers: Iterable[int]) -> None:
    """Flushes what dead agents may have written, before their hosts go on elsewhere (promise P5).

    An agent's last flush may have failed with nobody left to tell.  The kernel tells each
    descriptor that was open then, ours among them; if ours is younger, the note that it left does.
    A failure is durable when this returns.
    """
    for number in sorted(c.open_containers.intersection(containers)):
        container = c.table.containers.get(number)  # it may have been removed meanwhile
        if container is not None and not is_remote(container.row.uri):
            with suppress(OSError):
                await c.flushes.flush(number)


class CopierFlushes:
    """One flush of a container at a time: who asks meanwhile shares the next one."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._running: set[int] = set()
        self.clearing: Counter[int] = Counter()
        """Disks whose failures are being cleared: what fails meanwhile is marked anew."""

    async def flush(self, number: int) -> None:
        """Returns when a flush begun after this call has succeeded; raises its `OSError`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(number, []).append(turn)
        if number not in self._running:
            self._running.add(number)
            self._c.spawn(self._run(number))
        await turn

    async def _run(self, number: int) -> None:
        while waiting := self._waiting.pop(number, []):
            error: OSError | TermEnded | None = None
            try:
                await self._flush(number)
            except (OSError, TermEnded) as failure:
                error = failure
            for turn in waiting:
                if turn.done():
                    continue
                if error is None:
                    turn.set_result(None)
                else:
                    turn.set_exception(error)
        self._running.discard(number)

    async def _flush(self, number: int) -> None:
        c = self._c
        if number not in c.open_containers:
            # Nothing was flushed, so nothing has failed: this term has written nothing there.
            raise OSError(ENODEV, f"{c.name_of_container(number)} has not been found yet")
        try:
            with c.waits.on("storage", c.name_of_container(number)):
                await c.storage.flush(number)
        except OSError as error:
            c.copier_failures[number] = c.copier_failures.get(number, 0) + 1
            for disk in await _mark(c, number, error.errno or EIO):
                c.spawn(extend_containers(c, disk))
            c.spawn(_tidy(c, number))
            raise


async def _mark(c: Controller, number: int, errno: int) -> list[int]:
    """Commits the failure for every disk with that container; the disks newly marked."""
    disks = sorted(
        d.disk
        for d in c.table.disks.values()
        if number in d.containers and (number not in d.failed or c.flushes.clearing[d.disk])
    )
    if disks:
        names = ",".join(c.table.disks[disk].name for disk in disks)
        where = c.table.containers[number].row.name
        log.warning("event=flush_failed container=%s errno=%d disks=%s", where, errno, names)
        c.marking[number] += 1
        try:
            await c.commit(*(FlushFailed(disk, number, errno) for disk in disks))
        finally:
            c.marking[number] -= 1
    return disks
