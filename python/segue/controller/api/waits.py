"""What waits for what and since when, for `segue status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from segue.api.status import (
    CommandInfo,
    FaultInfo,
    QuarantineInfo,
    WaitInfo,
    Waits,
    WorkInfo,
)
from segue.controller.controller import Controller
from segue.controller.fences import OlderIO
from segue.controller.peer import Asked, Fault, Peer
from segue.controller.record import container_of
from segue.controller.waits import Wait, Work

SECOND_NS = 1_000_000_000
MOST = 50
"""So many of each are shown, the oldest: a burst of faults is thousands."""
STUCK_S = 10.0
"""A wait that has lasted so long is a problem of its own."""


def waits(c: Controller) -> Waits:
    """All that is under way."""
    now_ns = c.clock.now_ns()
    faults = unanswered(c)
    works = [work for work in c.waits.works if not isinstance(work.what, Fault)]
    commands = [wait for work in c.waits.works for wait in work.waits if wait.kind == "answer"]
    commands.sort(key=lambda wait: wait.since_ns)
    return Waits(
        faults=[fault_info(c, fault, work) for fault, work in faults[:MOST]],
        faults_unanswered=len(faults),
        commands=[_command(wait, now_ns) for wait in commands[:MOST]],
        commands_unanswered=len(commands),
        quarantines=_quarantines(c),
        work=[work_info(c, work) for work in works[:MOST]],
    )


def unanswered(c: Controller) -> list[tuple[Fault, Work | None]]:
    """Faults without an answer, the oldest first; no work: its session has no lease yet."""
    works = {work.what: work for work in c.waits.works if isinstance(work.what, Fault)}
    faults = [fault for peer in c.peers.values() for fault in peer.faults.values()]
    faults.sort(key=lambda fault: fault.begun_ns)
    return [(fault, works.get(fault)) for fault in faults]


def stuck(c: Controller) -> Iterator[str]:
    """One sentence for each kind of thing that has been waited for too long, with how many wait."""
    now_ns = c.clock.now_ns()
    found: dict[str, tuple[int, float]] = {}
    for work in c.waits.works:
        for wait in work.waits:
            age_s = _age_s(wait.since_ns, now_ns)
            if age_s >= STUCK_S:
                about = waited_for(c, wait) + _hint(c, wait)
                count, longest_s = found.get(about, (0, 0.0))
                found[about] = count + 1, max(longest_s, age_s)
    for about, (count, longest_s) in found.items():
        yield f"{count} thing{'s' * (count > 1)} waited {longest_s:.0f} s for {about}"


def _hint(c: Controller, wait: Wait) -> str:
    """What an operator can do about a wait, or what will end it."""
    if isinstance(wait.what, OlderIO):
        return f" ({wait.what.ends_when(c)})"
    if wait.kind == "agent":
        return " (`segue agent declare-dead` says that one which is lost has ended)"
    return ""


def waited_for(c: Controller, wait: Wait) -> str:
    """What a wait is for, in words."""
    what = wait.what
    if wait.kind == "lock":
        return f"a lock ({lock_name(c, what)})"
    if wait.kind == "blocks":
        assert isinstance(what, int)
        return f"blocks at {c.table.name_of(what)} that others hold"
    if wait.kind == "commit":
        return "a commit to the store" + " (no room there)" * (c.store.no_room() is not None)
    return str(what)


def _state_of(c: Controller, holder: int) -> str:
    return "older controller" if holder in c.table.fences else "unknown"


def _quarantines(c: Controller) -> list[QuarantineInfo]:
    counts = Counter(
        (container_of(location), holder)
        for location, holders in c.table.quarantine.items()
        for holder in holders
    )
    found = []
    for (number, holder), segments in sorted(counts.items()):
        peer = c.peers.get(holder)
        found.append(
            QuarantineInfo(
                container=c.table.containers[number].row.name,
                agent=peer.name if peer else "",
                incarnation=f"{holder:x}",
                state=peer.state.value if peer else _state_of(c, holder),
                segments=segments,
            )
        )
    return found


def lock_name(c: Controller, key: object) -> str:
    """A lock's key for people."""
    match key:
        case ("disk", int(number)):
            return f"disk {_disk(c, number)}"
        case (int(number), int(segment)):
            return f"disk {_disk(c, number)} segment {segment}"
        case ("extent", extent):
            return f"extent {extent}"
        case ("attach", int(number), int(incarnation)):
            peer = c.peers.get(incarnation)
            return f"attaching disk {_disk(c, number)} at {peer.name if peer else incarnation}"
        case ("containers", int(number)):
            return f"flush set of disk {_disk(c, number)}"
        case (str(only),):
            return only
    return str(key)


def _disk(c: Controller, number: int) -> str:
    disk = c.table.disks.get(number)
    return disk.name if disk else f"#{number}"


def _age_s(since_ns: int, now_ns: int) -> float:
    return max(0, now_ns - since_ns) / SECOND_NS


def _waits(c: Controller, work: Work, now_ns: int) -> list[WaitInfo]:
    return [
        WaitInfo(wait.kind, waited_for(c, wait), _age_s(wait.since_ns, now_ns))
        for wait in work.waits
    ]


def work_info(c: Controller, work: Work) -> WorkInfo:
    """One thing under way."""
    now_ns = c.clock.now_ns()
    return WorkInfo(str(work.what), _age_s(work.begun_ns, now_ns), _waits(c, work, now_ns))


def fault_info(c: Controller, fault: Fault, work: Work | None) -> FaultInfo:
    """One unanswered fault; `work` answers it."""
    now_ns = c.clock.now_ns()
    peer, message = fault.peer, fault.message
    age_s = _age_s(fault.begun_ns, now_ns)
    lease = WaitInfo("lease", f"the first lease of agent {peer.name}'s session", age_s)
    return FaultInfo(
        agent=peer.name,
        incarnation=f"{peer.incarnation:x}",
        request=message.request,
        disk=_disk(c, message.disk),
        segment=message.segment,
        operation=message.operation.name.lower(),
        age_s=age_s,
        waits=[lease] if work is None else _waits(c, work, now_ns),
    )


def _command(wait: Wait, now_ns: int) -> CommandInfo:
    asked = wait.what
    assert isinstance(asked, Asked), "only commands are waited for as answers"
    peer: Peer = asked.peer
    return CommandInfo(
        agent=peer.name,
        incarnation=f"{peer.incarnation:x}",
        command=f"{asked.command:x}",
        message=asked.message,
        age_s=_age_s(wait.since_ns, now_ns),
    )
