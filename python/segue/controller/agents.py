"""Agents: hello, sessions, leases, and the watch over each incarnation (design, section 4).

Order of a session: hello, welcome; if the incarnation was counted lost, its tables are made
invalid, blocking; what it holds and should not is deleted, its flush sets are brought up to date;
then it is PRESENT, its lease requests are answered, and after the first answer its faults are.

A lost incarnation becomes PRESENT only after its blocking answers: from LOST on nobody asks it
before relying on its restriction, so its old I/O must have ended before it can hold grants again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from segue import failpoints
from segue.controller.changes import AgentKnown, Detached, Returned
from segue.controller.commits import TermEnded
from segue.controller.fences import is_remote
from segue.controller.peer import Fault, Peer, PeerLost, PeerState, SessionLost
from segue.controller.ports import Link, LinkClosed
from segue.controller.procedures.attach import (
    close_export,
    list_exports,
    open_export,
    quiesce_expired,
)
from segue.controller.procedures.declare_dead import end_incarnation
from segue.controller.procedures.fault import answer_fault, answer_running, claim_running
from segue.controller.procedures.flush_failed import container_failed, hear_of_lost_pages
from segue.controller.procedures.verbs import NAME
from segue.controller.restrict import (
    end_attachment,
    invalidate_table,
    resize_table,
    set_containers,
)
from segue.wire.incarnation import INCARNATION_BITS, same_place
from segue.wire.messages import (
    MAX_FAULTS,
    PROTOCOL_VERSION,
    AgentMessage,
    Answer,
    CloseExport,
    ContainerFailed,
    DeleteTable,
    FaultGone,
    FaultStatus,
    Hello,
    Latency,
    Lease,
    LeaseRequest,
    ListExports,
    MapFault,
    OpenExport,
    PendingFault,
    QuiesceExpired,
    Refused,
    Welcome,
)

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.agents")

MAX_GREETING = 64
"""Links whose hello has not come; each may hold one frame of up to 16 MiB."""
MAX_AGENTS = 4096
"""Names that are ever known; each is a durable row."""
MAX_WORK = MAX_FAULTS + 4096
"""Procedures under way for one agent: more than its engine can have asked for."""


async def serve_agent(c: Controller, link: Link) -> None:
    """One link, from hello to its end."""
    try:
        peer = await _accept(c, link, await _greeting(c, link))
    except (LinkClosed, TermEnded) as error:
        log.warning("event=link_refused reason=%r", str(error))
        link.close()
        return
    if peer is None:
        link.close()
        return
    session = peer.session
    try:
        while True:
            message = await link.receive()
            if peer.session != session:
                return
            _dispatch(c, peer, message)
    except LinkClosed as error:
        log.info("event=link_closed agent=%s reason=%r", peer.name, str(error))
    finally:
        _session_ended(c, peer, session)


async def _greeting(c: Controller, link: Link) -> Hello:
    """The first message of a link; raises `LinkClosed`."""
    if c.greeting >= MAX_GREETING:
        raise LinkClosed(f"{MAX_GREETING} others have yet to say hello")
    c.greeting += 1
    try:
        async with asyncio.timeout(c.settings.hello_timeout_s):
            hello = await link.receive()
    except TimeoutError:
        raise LinkClosed(f"no hello within {c.settings.hello_timeout_s:g} s") from None
    finally:
        c.greeting -= 1
    if not isinstance(hello, Hello):
        raise LinkClosed("the first message was no hello")
    return hello


async def _accept(c: Controller, link: Link, hello: Hello) -> Peer | None:
    """Decides on a hello; None if it was refused."""
    refusal = _refusal(c, hello)
    if refusal is not None:
        link.send(refusal)
        log.warning("event=hello_refused agent=%s reason=%r", hello.name, refusal.reason)
        return None
    agent = await _identify(c, hello.name)
    while (peer := c.peers.get(hello.incarnation)) is not None and (peer.ending or peer.taking):
        await peer.changed()
    refusal = _refusal(c, hello)  # asked again: much can have happened during the commit
    if refusal is not None:
        link.send(refusal)
        return None
    if peer is None:
        peer = Peer(agent, hello.name, hello.incarnation, known=False, waits=c.waits)
        c.adopt_peer(peer)
    c.sessions += 1
    # One that was ended comes back empty-handed: its attachments are gone, its tables go now.
    was_lost = peer.gone or hello.incarnation in c.ended
    c.ended.discard(hello.incarnation)
    peer.listens = hello.listens
    peer.open_session(link, c.sessions)
    peer.tables = set(hello.tables)
    link.send(Welcome(c.term, c.sessions, agent, c.table.installation, was_lost))
    if not peer.gone:
        peer.become(PeerState.RETURNING)
    log.info(
        "event=hello agent=%s incarnation=%x session=%d lost=%s tables=%d faults=%d",
        hello.name,
        hello.incarnation,
        c.sessions,
        was_lost,
        len(hello.tables),
        len(hello.faults),
    )
    for fault, item in peer.take_list(hello.faults, c.clock.now_ns()):
        _take_fault(c, peer, fault, item)
    peer.listed = True
    peer.wake()
    c.spawn(_establish(c, peer, hello, was_lost), f"a session of agent {peer.name}")
    return peer


def _refusal(c: Controller, hello: Hello) -> Refused | None:
    if hello.version != PROTOCOL_VERSION:
        return Refused(
            f"this controller speaks protocol {PROTOCOL_VERSION}, the agent {hello.version}", True
        )
    if not NAME.fullmatch(hello.name) or not 0 < hello.incarnation < 1 << INCARNATION_BITS:
        return Refused("an agent needs a name like a disk's and an incarnation of 61 bits", True)
    if hello.installation and hello.installation != c.table.installation:
        return Refused("the agent belongs to another installation", True)
    if hello.term > c.term or hello.commit > c.table.number:
        return Refused(
            f"the agent has seen term {hello.term} commit {hello.commit}, later than this "
            f"controller's store: an old copy of the store was put back, or a newer term has begun",
            False,
        )
    peer = c.peers.get(hello.incarnation)
    if peer is not None and peer.name != hello.name:
        return Refused(f"this incarnation is called {peer.name}", True)
    for other in c.peers.values():
        if other.name == hello.name and other is not peer and other.link is not None:
            # Replaced for good, if it is an earlier incarnation that comes back.
            return Refused(f"an agent called {hello.name} is connected already", peer is not None)
    return None


async def _identify(c: Controller, name: str) -> int:
    """The agent's number; its identity and longest lease are durable before its first grant.

    Raises `LinkClosed` for one name too many.
    """
    async with c.locks.hold(("agents",), exclusive=True):
        for row in c.table.agents.values():
            if row.name == name:
                if row.lease_ns < c.settings.lease_ns:
                    await c.commit(AgentKnown(row.agent, name, c.settings.lease_ns))
                return row.agent
        if len(c.table.agents) >= MAX_AGENTS:
            raise LinkClosed(f"{MAX_AGENTS} agents are known: no more names are taken")
        agent = max(c.table.agents, default=0) + 1
        await c.commit(AgentKnown(agent, name, c.settings.lease_ns))
        return agent


async def _establish(c: Controller, peer: Peer, hello: Hello, was_lost: bool) -> None:
    """Brings a session to PRESENT, or leaves it to the next one."""
    session = peer.session
    was_gone = peer.gone
    attached = c.table.disks_of(peer.incarnation)
    # An older term may have counted it lost: its quarantines still wait for blocking answers.
    waited_for = was_lost or bool(c.table.quarantined_at(peer.incarnation))
    try:
        for disk in hello.tables:
            if disk not in attached:
                command = c.next_command()
                await peer.command(command, DeleteTable(command, disk), session)
                peer.table_gone(disk)
            elif waited_for:
                await invalidate_table(c, peer, disk, session)
        for disk in attached:
            if disk not in hello.tables:
                peer.table_gone(disk)
                c.spawn(end_attachment(c, peer, disk), f"the end of disk #{disk} at {peer.name}")
        told: dict[int, object] = {}
        while behind := [d for d in attached if d in hello.tables and told.get(d) != _shape(c, d)]:
            # Whoever extends a set or resizes passes over an incarnation that is lost, as this one
            # may be until it is PRESENT: nothing may have changed since it was told.
            for disk in behind:
                told[disk] = _shape(c, disk)
                if disk in c.table.disks:
                    await resize_table(c, peer, c.table.disks[disk], session)
                if disk in c.table.disks:
                    await set_containers(c, peer, c.table.disks[disk], session)
    except (SessionLost, PeerLost):
        return
    if peer.session != session or peer.link is None or peer.gone is not was_gone:
        return
    peer.lease_until_ns = max(peer.lease_until_ns, c.clock.now_ns() + c.settings.lease_ns)
    peer.become(PeerState.PRESENT)
    if waited_for:
        # From here on no commit names it as a holder: this one ends all that did before.
        await c.commit(Returned(peer.incarnation))


def _shape(c: Controller, disk: int) -> object:
    """What an agent must know of a disk before hosts of it go on: its size and its flush set."""
    row = c.table.disks.get(disk)
    return (row.size_bytes, c.specs(row)) if row is not None else ()


def _session_ended(c: Controller, peer: Peer, session: int) -> None:
    if peer.session == session:
        peer.close_session()
        log.info("event=session_ended agent=%s session=%d", peer.name, session)


def _work(c: Controller, peer: Peer, work: Coroutine[Any, Any, None], what: object) -> None:
    """Runs a procedure that the agent has asked for; `what` names it (see `Controller.spawn`)."""
    peer.work += 1
    c.spawn(work, what, peer.work_done)


def _dispatch(c: Controller, peer: Peer, message: AgentMessage) -> None:
    if peer.work >= MAX_WORK or len(peer.faults) > MAX_FAULTS:
        log.warning("event=agent_floods agent=%s work=%d", peer.name, peer.work)
        return peer.close_session()
    match message:
        case MapFault():
            if message.request not in peer.faults:
                fault = Fault(peer, message, c.clock.now_ns())
                peer.faults[message.request] = fault
                _take_fault(c, peer, fault, None)
        case FaultGone():
            fault_gone(peer, message)
        case Answer():
            peer.answered(message)
        case Latency():
            peer.latency_told(message)
        case LeaseRequest():
            _work(
                c,
                peer,
                _grant_lease(c, peer, peer.session, message),
                f"a lease for agent {peer.name}",
            )
        case OpenExport():
            what = f"opening {message.name!r} at agent {peer.name}"
            _work(c, peer, open_export(c, peer, peer.session, message), what)
        case CloseExport():
            what = f"closing disk #{message.disk} at agent {peer.name}"
            _work(c, peer, close_export(c, peer, message), what)
        case ListExports():
            list_exports(c, peer, message)
        case ContainerFailed():
            what = f"a failed flush of {c.name_of_container(message.container)}"
            _work(c, peer, container_failed(c, peer, message), what)
        case QuiesceExpired():
            quiesce_expired(c, peer, message)
        case Hello():
            log.warning("event=second_hello agent=%s", peer.name)
            peer.close_session()


def fault_gone(peer: Peer, message: FaultGone) -> None:
    """A discard that nobody waits for is not done, unless its commit is under way."""
    gone = peer.faults.pop(message.request, None)
    if gone in peer.deferred:
        peer.deferred.remove(gone)


def _take_fault(c: Controller, peer: Peer, fault: Fault, listed: PendingFault | None) -> None:
    """Starts the fault's procedure, or keeps it for the session's first lease."""
    if log.isEnabledFor(logging.DEBUG):
        _log_fault(fault, listed)
    if listed is not None and listed.status == FaultStatus.RUNNING:
        # An older term's command: its blocks are taken at once, they must not go to anyone else.
        running, held = peer.adopt_running(listed.command), claim_running(c, fault)
        _work(c, peer, answer_running(c, fault, running, held), fault)
    elif peer.leased:
        _work(c, peer, answer_fault(c, fault), fault)
    else:
        peer.deferred.append(fault)


def _log_fault(fault: Fault, listed: PendingFault | None) -> None:
    message = fault.message
    log.debug(
        "event=fault %s segment=%d segments=%d operation=%s first_block=%d count_blocks=%d "
        "word=%x listed=%s",
        fault.ids,
        message.segment,
        message.segments,
        message.operation.name,
        message.first_block,
        message.count_blocks,
        message.word,
        listed.status.name if listed is not None else "no",
    )


async def _grant_lease(c: Controller, peer: Peer, session: int, request: LeaseRequest) -> None:
    """Answers a lease request, if this term is still the newest (section 4, Leases)."""
    try:
        await peer.present_in(session)
    except SessionLost:
        return
    newest = await c.term_is_newest()
    if not newest or peer.session != session or peer.state is not PeerState.PRESENT:
        return
    lease_ns = c.settings.lease_ns
    peer.lease_until_ns = c.clock.now_ns() + c.settings.lease_and_margin_ns(lease_ns)
    failpoints.hit("lease.granted")
    peer.send(Lease(request.sent_ns, lease_ns, c.table.number))
    if not peer.leased:
        peer.leased = True
        deferred, peer.deferred = peer.deferred, []
        for fault in deferred:
            _work(c, peer, answer_fault(c, fault), fault)


async def watch(c: Controller, peer: Peer) -> None:
    """Counts an incarnation lost when its lease has ended, ended when its fences say so.

    Returns when it has ended, here or because an operator said so.  An incarnation that is PRESENT
    is asked nothing; one that is away is proven dead by its locks, where the containers have them,
    before its lease is over.
    """
    pause_s = c.settings.fence_poll_s
    while peer.state is not PeerState.ENDED:
        now = c.clock.now_ns()
        if not peer.gone and now >= peer.lease_until_ns and peer.lease_until_ns:
            log.warning("event=agent_lost agent=%s incarnation=%x", peer.name, peer.incarnation)
            peer.close_session()
            peer.become(PeerState.LOST)
        if peer.state in (PeerState.PRESENT, PeerState.RETURNING) or peer.link is not None:
            pause_s = c.settings.fence_poll_s
            left_ns = max(peer.lease_until_ns - now, 0) if not peer.gone else 0
            await _pause(peer, c.seconds(left_ns) if left_ns else 1.0)
            continue
        if await _proven_dead(c, peer):
            return
        await _pause(peer, pause_s)
        pause_s = min(1.0, pause_s * 2)


async def _pause(peer: Peer, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await peer.changed()
    except TimeoutError:
        pass


async def _proven_dead(c: Controller, peer: Peer) -> bool:
    """Ends an incarnation that is away and whose I/O has provably ended everywhere.

    Locks that it once had and that are gone prove its death, lease or not.  Where it may never
    have had them (`TableMade`) its lease must end first: an older term's grants can still reach
    it.  One that holds no table has nothing to prove.

    While its lease runs that its I/O has ended is not enough: from entries that are zero it answers
    without any.  Its process must have ended.
    """
    if peer.attaching:
        return False
    numbers = c.table.disks_of(peer.incarnation)
    if not peer.gone and set(numbers) - set(c.table.locked.get(peer.incarnation, [])):
        return False
    disks = [c.table.disks[number] for number in numbers]
    if not peer.gone and not all(disk.containers for disk in disks):
        return False  # a disk that lies nowhere (its container was removed) has no locks to miss
    mapped = {number for disk in disks for number in disk.containers}
    containers = mapped | c.table.quarantined_at(peer.incarnation)
    was_gone, session = peer.gone, peer.session
    for number in sorted(containers - peer.proven):
        ended = await c.fence_ended_everywhere(peer.incarnation, [number])
        if ended and peer.session == session:
            peer.proven.add(number)
    if containers - peer.proven:
        if peer.gone and peer.session == session:
            _end_apart(c, peer)
        return False
    if not peer.gone and numbers and not _process_ended(c, peer, mapped):
        return False
    if peer.hearing is None:
        # By itself: what it waits for may wait for this incarnation's end.
        peer.hearing = c.spawn(_hear(c, peer, mapped))
    if not peer.hearing.done():
        return False
    if peer.link is not None or peer.attaching or peer.ending:
        return False
    if peer.gone is not was_gone or peer.session != session:
        # It has been back meanwhile: what was proven is out of date.
        return False
    await end_incarnation(c, peer, durably=bool(numbers or containers))
    return True


def _process_ended(c: Controller, peer: Peer, mapped: set[int]) -> bool:
    """Whether an incarnation whose I/O has ended, whatever showed that, has no process any more.

    `mapped` is where the disks lie that it has.
    """
    rows = (c.table.containers[number].row for number in mapped if number in c.table.containers)
    if any(not is_remote(row.uri) for row in rows):
        return True  # its lock there, which it kept while it had the disk, is gone
    return any(
        other.name == peer.name and same_place(other.incarnation, peer.incarnation)
        for other in c.peers.values()
        if other is not peer and other.link is not None
    )


def _end_apart(c: Controller, peer: Peer) -> None:
    """Of a lost incarnation whose I/O has ended at some containers: those disks go on elsewhere."""
    for number in c.table.disks_of(peer.incarnation):
        containers = set(c.table.disks[number].containers)
        if containers <= peer.proven and number not in peer.parting:
            peer.parting.add(number)
            part = _part(c, peer, number, containers)
            c.spawn(part, f"the end of disk #{number} at {peer.name}")


async def _part(c: Controller, peer: Peer, number: int, containers: set[int]) -> None:
    """Takes the disk from a lost incarnation whose I/O has ended wherever the disk lies.

    It begins none: its lease is over.  If it comes back it finds that its table goes, before it is
    granted another lease.  What it may have had under way elsewhere is waited for as before.
    """
    session = peer.session
    try:
        await hear_of_lost_pages(c, containers)
        async with c.locks.hold(("attach", number, peer.incarnation), exclusive=True):
            attached = peer.incarnation in c.table.attached.get(number, {})
            if not attached or peer.session != session or peer.state is not PeerState.LOST:
                return
            peer.taking.add(number)
            await c.commit(Detached(number, peer.incarnation))
            peer.apart.add(number)
            log.info("event=disk_taken_from_lost_agent agent=%s disk=%d", peer.name, number)
    finally:
        peer.taking.discard(number)
        peer.parting.discard(number)
        peer.wake()


async def _hear(c: Controller, peer: Peer, containers: set[int]) -> None:
    await hear_of_lost_pages(c, containers)
    peer.wake()
