"""Which agent serves which disk: attachments, made on demand and durable.

A host opens an export at an agent; the agent asks; the attachment is committed; only then is the
table made at the agent, so every agent that can hold a grant stands in the durable table.

Interleavings.  `attach` and `detach` of one disk at one agent exclude each other by a lock of their
own; they hold the disk shared, so a delete waits for them or they find it gone.  Before a second
agent is attached the tables of the others are made invalid once (see `restrict.invalidate`): the
answer to a fault that replaced their entry may have been lost.  A crash after the commit leaves an
attachment without a table: the new term assumes it holds everything until the agent's hello lists
its tables, and then ends it.  So does an attach that found a lost agent on its way and waits for it
without the locks; that attachment holds nothing yet.  An older term that does not know of its end
may find a name in its table that is another disk's by now: what it says is said only when a read of
the store, or a commit, behind that has shown that it is the newest.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from errno import EBUSY, EEXIST, EIO, ENODEV, ENOENT
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import Attached, Detached, TableMade
from segue.controller.peer import Peer, PeerLost, PeerState, SessionLost
from segue.controller.placement import may_share
from segue.controller.restrict import delete_table, invalidate_table
from segue.controller.table import Disk
from segue.wire.messages import (
    CloseExport,
    ExportOpened,
    Exports,
    ListExports,
    NewTable,
    OpenExport,
    Outcome,
    QuiesceExpired,
)

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.attach")


class StillOut(Exception):
    """An incarnation that may have I/O under way on the disk has neither returned nor ended."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.peer = peer


async def open_export(c: Controller, peer: Peer, session: int, request: OpenExport) -> None:
    """Answers `OpenExport`, in the session it came in."""
    try:
        # Before the lock: establishing a session may need it.
        await peer.present_in(session)
        errno, disk = await _open(c, peer, session, request.name)
    except (SessionLost, PeerLost):
        return  # the agent asks again
    if peer.session != session:
        return
    if errno or disk is None:
        peer.send(ExportOpened(request.request, errno))
        return
    peer.send(
        ExportOpened(
            request.request, 0, disk.disk, disk.size_bytes, disk.block_bytes, read_only=False
        )
    )


async def _open(c: Controller, peer: Peer, session: int, name: str) -> tuple[int, Disk | None]:
    """Attaches the disk of that name: errno and disk.  Raises `SessionLost`, `PeerLost`."""
    while True:
        number = c.table.disk_names.get(name)
        if number is None:
            await _must_be_newest(c)
            return ENOENT, None
        try:
            async with (
                c.locks.hold(("attach", number, peer.incarnation), exclusive=True),
                c.locks.hold(("disk", number), exclusive=False),
            ):
                disk = c.table.disks.get(number)
                return (await _attach(c, peer, session, disk), disk) if disk else (ENOENT, None)
        except StillOut as still:
            # Without the locks: it may take as long as an operator takes.
            log.warning(
                "event=attach_waits agent=%s disk=%s for=%s", peer.name, name, still.peer.name
            )
            await peer.either_changes(still.peer)
        await peer.present_in(session)


async def _attach(c: Controller, peer: Peer, session: int, disk: Disk) -> int:
    """Errno; raises `SessionLost`, `PeerLost`, after which the agent asks again; `StillOut`."""
    await peer.present_in(session)
    if disk.disk in peer.tables:
        await _must_be_newest(c)
        return 0
    for number in filter(c.missing, disk.containers):
        log.warning(
            "event=attach_refused agent=%s disk=%s missing=%s",
            peer.name,
            disk.name,
            c.table.containers[number].row.name,
        )
        return ENODEV
    for other in c.peers_of(disk.disk):
        _must_be_over(other, peer)
    peer.attaching.add(disk.disk)
    try:
        async with c.locks.hold(("containers", disk.disk), exclusive=True):
            holders = c.table.attached.get(disk.disk, {})
            others = [holder for holder in holders if holder != peer.incarnation]
            if others and not all(may_share(c, disk, number) for number in disk.containers):
                return EBUSY
            peer.table_gone(disk.disk)
            peer.apart.discard(disk.disk)
            if peer.incarnation not in holders:
                await c.commit(Attached(disk.disk, peer.agent, peer.incarnation))
        failpoints.hit("attach.committed")
        for other in c.peers_of(disk.disk):
            await _forget_answers(c, other, peer, disk.disk)
        return await _new_table(c, peer, session, disk)
    finally:
        peer.attaching.discard(disk.disk)


async def _must_be_newest(c: Controller) -> None:
    """Raises `SessionLost` if a newer term has begun; for answers that no commit comes before.

    There the name may be another disk's by now, or this one's, which renaming tells no agent of.
    """
    if not await c.term_is_newest():
        raise SessionLost


def _must_be_over(other: Peer, peer: Peer) -> None:
    """Raises `StillOut` if a write of `other` may land when `peer` serves the disk already.

    Hosts that have lost one agent come to another and send their writes again: an old attempt that
    lands late would undo what was written since (rule 1).  They come to the same agent's next
    incarnation at once, to another agent when the first is lost; one that is only away is waited
    for where it is asked (docs/decisions/0007).
    """
    earlier = other.agent == peer.agent and other.state is not PeerState.ENDED
    if other is not peer and (earlier or other.state is PeerState.LOST):
        raise StillOut(other)


async def _forget_answers(c: Controller, other: Peer, peer: Peer, disk: int) -> None:
    """Before `peer` gets its table: nothing that `other` holds or has under way may mislead.

    Raises `StillOut`.
    """
    _must_be_over(other, peer)
    while other is not peer and await other.present_or_gone():
        with suppress(SessionLost, PeerLost):
            await invalidate_table(c, other, disk)
            return
    _must_be_over(other, peer)


async def _new_table(c: Controller, peer: Peer, session: int, disk: Disk) -> int:
    await peer.present_in(session)
    command = c.next_command()
    message = NewTable(
        command=command,
        disk=disk.disk,
        size_bytes=disk.size_bytes,
        segment_bytes=disk.segment_bytes,
        block_bytes=disk.block_bytes,
        read_only=False,
        containers=c.specs(disk),
    )
    answer = await peer.command(command, message)
    if answer.outcome == Outcome.DONE:
        peer.tables.add(disk.disk)
        await c.commit(TableMade(disk.disk, peer.incarnation))
        return 0
    if answer.errno == EEXIST and await delete_table(c, peer, disk.disk) is None:
        # Left over from an older session's command that was carried out late.
        return await _new_table(c, peer, session, disk)
    log.warning("event=table_refused agent=%s disk=%s errno=%d", peer.name, disk.name, answer.errno)
    await c.commit(Detached(disk.disk, peer.incarnation))
    # Of a container's file, or device: a host would take it for the disk.
    return ENODEV if answer.errno == ENOENT else answer.errno or EIO


async def close_export(c: Controller, peer: Peer, request: CloseExport) -> None:
    """No host of this agent uses the disk any more: takes its table away."""
    disk = request.disk
    async with (
        c.locks.hold(("attach", disk, peer.incarnation), exclusive=True),
        c.locks.hold(("disk", disk), exclusive=False),
    ):
        if peer.incarnation not in c.table.attached.get(disk, {}):
            return
        if await delete_table(c, peer, disk) is None:
            failpoints.hit("detach.deleted")
            await c.commit(Detached(disk, peer.incarnation))
            peer.wake()


def list_exports(c: Controller, peer: Peer, request: ListExports) -> None:
    """Answers `ListExports` from the table."""
    peer.send(Exports(request.request, sorted(c.table.disk_names)))


def quiesce_expired(c: Controller, peer: Peer, message: QuiesceExpired) -> None:
    """A quiesce ended at its `hold` deadline: whoever relied on it learns that by `activate`."""
    log.warning(
        "event=quiesce_expired agent=%s disk=%d quiesce=%d",
        peer.name,
        message.disk,
        message.quiesce,
    )
