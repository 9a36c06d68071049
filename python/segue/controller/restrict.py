"""Restrict before relying on it: blocking commands at every agent of a disk (rule 3, rule 5).

The caller holds, exclusively, the locks of the segments it restricts, so nothing can be granted
there while the answers are awaited, and what was not granted before need not be asked.

What comes back are *holders*: incarnations whose lease has ended (they hold no grant) but that may
still have I/O under way, for want of a fence.  What is taken from a disk while there are holders
goes into quarantine, in the same commit (rule 5).
"""

from __future__ import annotations

import asyncio
import logging
from errno import ENOENT
from typing import TYPE_CHECKING

from segue import _native
from segue.controller.changes import Detached
from segue.controller.peer import Peer, PeerLost, PeerState, SessionLost
from segue.wire.messages import (
    Answer,
    DeleteTable,
    Outcome,
    ResizeTable,
    SetContainers,
    SetEntryState,
)

if TYPE_CHECKING:
    from segue.controller.controller import Controller
    from segue.controller.table import Disk

log = logging.getLogger("segue.controller.restrict")

INVALID: int = _native.STATE_INVALID
NO_WRITE: int = _native.STATE_NO_WRITE


async def invalidate(
    c: Controller, disk: int, first: int, count: int, *, spare: Peer | None = None
) -> list[int]:
    """Makes a run of segments invalid, blocking, at every agent of the disk.

    `spare` need not be asked if it is the only agent of the disk: the answer to its fault replaces
    its entry.  With a second agent that would not do: the answer may be lost with the link, and
    the old entry (zero, say) would be served beside what the other one writes; so a second agent
    is attached only after `invalidate_table` at the first.  Returns holders, ascending.
    """
    peers = c.peers_of(disk)
    if not peers or peers == [spare]:
        return []
    return await _restrict(c, peers, disk, first, count, INVALID)


async def invalidate_last(c: Controller, peer: Peer, disk: int, first: int, count: int) -> None:
    """Makes the run invalid at one agent after all others, whatever it has been granted.

    So it has said before it answers what was over there when others still did I/O in the run.
    Nothing to do if it is the disk's only agent: then it was the last.  Raises `SessionLost` or
    `PeerLost` if it does not answer.
    """
    if c.peers_of(disk) != [peer]:
        await _restrict_now(c, peer, disk, first, count, INVALID)


async def forbid_writes(c: Controller, disk: int, first: int, count: int) -> list[int]:
    """Sets no_write over a run of segments, blocking, at every agent of the disk.

    No write that was started under an older entry is under way any more but those of the holders
    returned, ascending.
    """
    return await _restrict(c, c.peers_of(disk), disk, first, count, NO_WRITE)


async def agents_reached(c: Controller, disk: int) -> None:
    """Returns when every agent of the disk can be commanded, or its lease has ended.

    For work that can wait: what it holds while it restricts, others are kept from.
    """
    for peer in c.peers_of(disk):
        await peer.present_or_gone()


async def _restrict(
    c: Controller, peers: list[Peer], disk: int, first: int, count: int, states: int
) -> list[int]:
    if len(peers) == 1:
        holders = [await _restrict_at(c, peers[0], disk, first, count, states)]
    else:
        holders = await asyncio.gather(
            *(_restrict_at(c, peer, disk, first, count, states) for peer in peers)
        )
    return sorted(holder for holder in holders if holder is not None)


async def _restrict_at(
    c: Controller, peer: Peer, disk: int, first: int, count: int, states: int
) -> int | None:
    grants = peer.grants(disk)
    while grants.any(first, count):
        if peer.state is PeerState.ENDED:
            return None
        if peer.state is PeerState.LOST:
            return peer.incarnation
        if peer.state is not PeerState.PRESENT:
            await peer.changed()
            continue
        try:
            await _restrict_now(c, peer, disk, first, count, states)
        except (SessionLost, PeerLost):
            continue
        return None
    return None


async def _restrict_now(
    c: Controller, peer: Peer, disk: int, first: int, count: int, states: int
) -> None:
    """Asks one agent once; see `Peer.command`."""
    answer = await _set_states(c, peer, disk, first, count, states)
    if states & INVALID or answer.errno == ENOENT:
        peer.grants(disk).clear(first, count)


async def invalidate_table(
    c: Controller, peer: Peer, disk: int, returning: int | None = None
) -> None:
    """Makes the whole table of a disk invalid, blocking, at one agent; see `Peer.command`."""
    grants = peer.grants(disk)
    marked = grants.marked
    await _set_states(c, peer, disk, 0, 0, INVALID, whole_table=True, returning=returning)
    # What was granted behind the command is still there; then nothing is forgotten.
    if grants.marked == marked:
        grants.clear_all()


async def _set_states(
    c: Controller,
    peer: Peer,
    disk: int,
    first: int,
    count: int,
    states: int,
    *,
    whole_table: bool = False,
    returning: int | None = None,
) -> Answer:
    """Done, or there is no such table; an agent that refuses has to start over."""
    command = c.next_command()
    message = SetEntryState(
        command=command,
        disk=disk,
        first=first,
        count=count,
        flags=states,
        clear_no_write=False,
        whole_table=whole_table,
        blocking=True,
    )
    answer = await peer.command(command, message, returning)
    if answer.outcome != Outcome.DONE and answer.errno != ENOENT:
        c.refused(peer, message, answer)
        raise SessionLost
    return answer


async def delete_tables(c: Controller, disk: int) -> list[int]:
    """Deletes the disk's table, blocking, at every agent; returns holders, ascending."""
    holders = await asyncio.gather(*(delete_table(c, peer, disk) for peer in c.peers_of(disk)))
    return sorted(holder for holder in holders if holder is not None)


async def delete_table(c: Controller, peer: Peer, disk: int) -> int | None:
    """Deletes the disk's table, blocking, at one agent; returns its incarnation if it is lost."""
    while True:
        if not await peer.present_or_gone():
            return peer.incarnation if peer.state is PeerState.LOST else None
        command = c.next_command()
        try:
            await peer.command(command, DeleteTable(command, disk))
        except (SessionLost, PeerLost):
            continue
        peer.table_gone(disk)
        return None


async def delete_table_when_back(c: Controller, peer: Peer, disk: int) -> None:
    """Deletes the table of a disk that is gone at an agent that was lost, if it comes back.

    It may be coming back just now; a session that begins later finds the disk gone by itself.
    """
    while disk in peer.tables and peer.state is not PeerState.ENDED:
        if peer.state is PeerState.PRESENT:
            await delete_table(c, peer, disk)
        else:
            await peer.changed()


async def extend_containers(c: Controller, disk: int) -> None:
    """Tells every agent of the disk its flush set; all have answered, or are lost, on return."""
    await asyncio.gather(*(_tell_containers(c, peer, disk) for peer in c.peers_of(disk)))


async def _tell_containers(c: Controller, peer: Peer, disk: int) -> None:
    while await peer.present_or_gone():
        row = c.table.disks.get(disk)
        if row is None:
            return
        try:
            await set_containers(c, peer, row)
        except (SessionLost, PeerLost):
            continue
        return


async def resize_tables(c: Controller, disk: int) -> None:
    """Tells every agent of the disk its size; all have answered, or are lost, on return."""
    await asyncio.gather(*(_tell_size(c, peer, disk) for peer in c.peers_of(disk)))


async def _tell_size(c: Controller, peer: Peer, disk: int) -> None:
    while await peer.present_or_gone():
        try:
            await resize_table(c, peer, c.table.disks[disk])
        except (SessionLost, PeerLost):
            continue
        return


async def resize_table(c: Controller, peer: Peer, row: Disk, returning: int | None = None) -> None:
    """Tells one agent a disk's size; raises like `Peer.command`."""
    command = c.next_command()
    message = ResizeTable(command, row.disk, row.size_bytes, blocking=False)
    answer = await peer.command(command, message, returning)
    if answer.outcome != Outcome.DONE and answer.errno != ENOENT:
        c.refused(peer, message, answer)


async def set_containers(
    c: Controller, peer: Peer, row: Disk, returning: int | None = None
) -> None:
    """Tells one agent a disk's flush set; raises like `Peer.command`.

    An agent that cannot open one of the containers would answer flushes that do not cover it: the
    disk is taken away from it, and its hosts hear so.  One that has deleted the table, but has I/O
    under way there, is waited for likewise.  One that is just being attached has no table yet.
    """
    command = c.next_command()
    message = SetContainers(command, row.disk, c.specs(row))
    answer = await peer.command(command, message, returning)
    if answer.outcome == Outcome.DONE or row.disk in peer.attaching:
        return
    log.error(
        "event=container_refused agent=%s disk=%s errno=%d", peer.name, row.name, answer.errno
    )
    command = c.next_command()
    await peer.command(command, DeleteTable(command, row.disk), returning)
    peer.table_gone(row.disk)
    c.spawn(end_attachment(c, peer, row.disk), f"the end of disk {row.name} at {peer.name}")


async def end_attachment(c: Controller, peer: Peer, disk: int) -> None:
    """The agent has no table of the disk: makes that durable, unless it gets a new one first."""
    async with c.locks.hold(("attach", disk, peer.incarnation), exclusive=True):
        attached = peer.incarnation in c.table.attached.get(disk, {})
        if attached and disk not in peer.tables and peer.state is not PeerState.ENDED:
            await c.commit(Detached(disk, peer.incarnation))
            peer.wake()
