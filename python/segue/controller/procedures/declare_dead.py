"""An operator's word where no fence gives proof (design, section 4, Fences).

Where a container has no fence, nothing proves that a lost incarnation's last I/O has ended, and
what it might still write stays in quarantine.  An operator who knows (the machine is off) says so.
The word counts for lost incarnations only: one that is present, or whose lease still runs, may
hold grants, and nobody's word ends those.  A container's linger time is the same word given in
advance: so long after the lease has ended, the storage has carried out or forgotten everything.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from segue.controller.changes import ContainerLinger, FenceEnded
from segue.controller.fences import is_remote
from segue.controller.peer import Peer, PeerState
from segue.controller.procedures.flush_failed import hear_of_lost_pages
from segue.controller.procedures.verbs import Refusal, container_called
from segue.controller.restrict import extend_containers

SHORTEST_LINGER_S = 1.0
LONGEST_LINGER_S = 7 * 24 * 3600.0

if TYPE_CHECKING:
    from segue.controller.controller import Controller
    from segue.controller.table import Container

log = logging.getLogger("segue.controller.declare_dead")


async def declare_dead(c: Controller, name: str) -> list[int]:
    """Ends, durably, all lost incarnations of the agent; returns them, ascending.

    `name` may be an incarnation instead, in hexadecimal, as status shows one that an older term
    has lost.  Raises `Refusal` if there is nothing lost by that name.
    """
    named = [peer for peer in c.peers.values() if name in (peer.name, f"{peer.incarnation:x}")]
    lost = [peer for peer in named if _lost(peer)]
    if lost:
        ended = await _end_all(c, lost)
        if not ended:
            raise _refusal(c, name, lost)
    elif not named and (orphan := _orphan(c, name)):
        await c.commit(FenceEnded(orphan))
        ended = [orphan]
    else:
        raise _refusal(c, name, named)
    for incarnation in ended:
        log.warning("event=declared_dead agent=%s incarnation=%x", name, incarnation)
    c.background.work_appeared()
    return ended


async def _end_all(c: Controller, lost: list[Peer]) -> list[int]:
    """Ends those that are not back meanwhile; returns them, ascending."""
    disks = {disk for peer in lost for disk in c.table.disks_of(peer.incarnation)}
    await hear_of_lost_pages(c, {n for disk in disks for n in c.table.disks[disk].containers})
    ended = []
    for peer in lost:
        if _lost(peer):
            await end_incarnation(c, peer, durably=True)
        if peer.ending or peer.state is PeerState.ENDED:
            ended.append(peer.incarnation)
    return sorted(ended)


async def set_linger(c: Controller, name: str, linger_s: float) -> Container:
    """Says how long after its lease an agent's I/O may still be under way there; 0: unknown."""
    if not (linger_s == 0 or SHORTEST_LINGER_S <= linger_s <= LONGEST_LINGER_S):
        raise Refusal(
            f"a linger time is {SHORTEST_LINGER_S:g} s to {LONGEST_LINGER_S:g} s, or 0 for none"
        )
    async with c.locks.hold(("containers",), exclusive=True):
        container = container_called(c, name)
        number = container.row.container
        if container.leaving:
            raise Refusal(f"container {name} is being removed")
        if container.linger_s != linger_s:
            await c.commit(ContainerLinger(number, linger_s))
            log.info("event=linger_set container=%s linger_s=%g", name, linger_s)
        if is_remote(container.row.uri):
            await _tell(c, number)
        return container


async def _tell(c: Controller, number: int) -> None:
    """Those that have the container open hear of it: writes of lost connections wait for that."""
    if number in c.open_containers:
        await c.storage.open(c.spec(number), c.table.installation, c.fence)
    for disk in sorted(d.disk for d in c.table.disks.values() if number in d.containers):
        c.spawn(_tell_agents(c, disk), f"telling agents of linger at container #{number}")


async def _tell_agents(c: Controller, disk: int) -> None:
    async with c.locks.hold(("disk", disk), exclusive=False):
        await extend_containers(c, disk)


async def end_incarnation(c: Controller, peer: Peer, *, durably: bool) -> None:
    """The incarnation has no I/O under way and never comes back as this one.

    `durably`: the table names it, as attached or as somebody whom a quarantine waits for.
    """
    if durably:
        c.ended.add(peer.incarnation)
        peer.ending = True
        # Its attachments go in this commit: until then it is a holder, and somebody's peer.
        await c.commit(FenceEnded(peer.incarnation))
    del c.peers[peer.incarnation]
    peer.close_session()
    peer.become(PeerState.ENDED)
    log.info("event=agent_ended agent=%s incarnation=%x", peer.name, peer.incarnation)


def _lost(peer: Peer) -> bool:
    return (
        peer.state is PeerState.LOST
        and peer.link is None
        and not peer.attaching
        and not peer.ending
    )


def _orphan(c: Controller, name: str) -> int | None:
    """The incarnation of that number that quarantines wait for and no disk is attached to."""
    return next((holder for holder in _orphans(c) if f"{holder:x}" == name), None)


def _orphans(c: Controller) -> list[int]:
    """Those that only quarantines wait for: whose they were is not known any more."""
    waited_for = {holder for holders in c.table.quarantine.values() for holder in holders}
    return sorted(waited_for - c.peers.keys() - c.table.fences.keys())


def _refusal(c: Controller, name: str, named: list[Peer]) -> Refusal:
    if not named:
        known = any(row.name == name for row in c.table.agents.values())
        why = f"agent {name} has ended already" if known else f"no agent is called {name}"
        return Refusal(why, missing=not known)
    away = [p for p in named if not (p.link is not None or p.ending or p.attaching)]
    if not away:
        orphans = ", ".join(f"{orphan:x}" for orphan in _orphans(c))
        lost = f"; what is lost is {orphans}: name that" if orphans else ""
        state = named[0].state.value
        return Refusal(f"agent {name} is {state} and connected: it is not dead{lost}")
    peer = max(away, key=lambda peer: peer.lease_until_ns)
    which = f"incarnation {peer.incarnation:x} of " if len(named) > 1 else ""
    left_s = max(0.0, c.seconds(peer.lease_until_ns - c.clock.now_ns()))
    return Refusal(
        f"the lease of {which}agent {name} runs for another {left_s:.1f} s: wait for its end"
    )
