"""One incarnation of an agent, as the controller sees it.

    ABSENT ----hello----> RETURNING ---> PRESENT ---link ends---> ABSENT
       |                     ^   (what it may hold is known)         |
       +--lease ends--> LOST-+ <--------------lease ends-------------+
                         |
                         +--fence proves that no I/O is under way--> ENDED   (from ABSENT as well)

ABSENT, RETURNING and PRESENT may hold grants and have I/O under way.  LOST holds no grant any more
(rule 8 at the agent, with drift and margin here) but may have I/O under way; ENDED has neither and
never comes back.  A wait for an answer ends when the session does (`SessionLost`) or the lease does
(`PeerLost`), so every wait here has an owner that is alive, or a deadline (rule 7).
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TypeVar

from segue.controller.grants import Grants
from segue.controller.ports import Link
from segue.controller.waits import Waits, current_work
from segue.wire.messages import (
    Answer,
    AskLatency,
    Command,
    ControllerMessage,
    FaultStatus,
    Latency,
    LatencyRow,
    MapFault,
    PendingFault,
)

log = logging.getLogger("segue.controller.peer")
T = TypeVar("T")


class SessionLost(Exception):
    """The session ended before the command was answered; whether it was carried out is unknown.

    For a `do_*`: it is not under way and its fault is listed anew.
    """


class PeerLost(Exception):
    """The incarnation's lease has ended: it holds no grant, but may have I/O under way."""


class PeerState(Enum):
    """See the module's diagram."""

    ABSENT = "absent"
    RETURNING = "returning"
    PRESENT = "present"
    LOST = "lost"
    ENDED = "ended"


class Fault:
    """One unanswered fault: answered exactly once, in the session it belongs to (rule 7)."""

    __slots__ = ("answered", "begun_ns", "message", "peer", "session")

    def __init__(self, peer: Peer, message: MapFault, now_ns: int) -> None:
        self.peer = peer
        self.session = peer.session
        self.message = message
        self.begun_ns = now_ns
        self.answered = False

    def __str__(self) -> str:
        message = self.message
        return (
            f"fault {message.request} of agent {self.peer.name}: {message.operation.name.lower()} "
            f"of disk #{message.disk} segment {message.segment}"
        )

    @property
    def ids(self) -> str:
        """What names it in the log, here and at its agent."""
        return (
            f"agent={self.peer.name} incarnation={self.peer.incarnation:x} "
            f"request={self.message.request} disk={self.message.disk}"
        )

    @property
    def current(self) -> bool:
        """Whether an answer would still reach its I/O."""
        return not self.answered and self.peer.faults.get(self.message.request) is self

    @property
    def still_asked(self) -> bool:
        """Whether its agent may still want it; of a session that has ended, the next one says."""
        return self.current and self.peer.link is not None and self.peer.session == self.session

    def answer(self, message: ControllerMessage) -> None:
        """Sends the answer, unless the fault was taken over by a later session's list."""
        assert not self.answered, "a fault is answered once"
        current = self.current
        self.answered = True
        if current:
            del self.peer.faults[self.message.request]
            self.peer.send(message)
        if log.isEnabledFor(logging.DEBUG):
            what = type(message).__name__
            log.debug("event=fault_answered %s answer=%s sent=%s", self.ids, what, current)


class Asked:
    """One command on its way: what waits for its answer shows it (`segue status`)."""

    __slots__ = ("command", "message", "peer")

    def __init__(self, peer: Peer, command: int, message: str) -> None:
        self.peer = peer
        self.command = command
        self.message = message

    def __str__(self) -> str:
        return f"agent {self.peer.name} to answer {self.message} (command {self.command:x})"

    def log(self) -> None:
        """Joins the command to the work that it belongs to."""
        work = current_work()
        if work is not None:
            work.command = self.command
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "event=command command=%x message=%s to=%s incarnation=%x %s",
                self.command,
                self.message,
                self.peer.name,
                self.peer.incarnation,
                f"for=({work.ids})" if work is not None else "",
            )


class Peer:
    """State of one incarnation."""

    def __init__(
        self, agent: int, name: str, incarnation: int, *, known: bool, waits: Waits
    ) -> None:
        self.agent = agent
        self.name = name
        self.incarnation = incarnation
        self.listens: list[str] = []
        """NBD addresses of its hello, for `disk uri`."""
        self.state = PeerState.ABSENT
        self.lease_until_ns = 0
        self.link: Link | None = None
        self.session = 0
        self.leased = False
        """A lease was granted in this session: its faults may be answered."""
        self.deferred: list[Fault] = []
        """Faults of this session that wait for its first lease."""
        self.faults: dict[int, Fault] = {}
        self.work = 0
        """Procedures under way that it has asked for, in whatever session."""
        self.tables: set[int] = set()
        """Disks that it has a table of, as far as this session knows."""
        self.ending = False
        """Its end is being committed: a hello of it waits, and is a newcomer's then."""
        self.hearing: asyncio.Task[None] | None = None
        """Flushes what it wrote, once its I/O has ended: see `flush_failed.hear_of_lost_pages`."""
        self.proven: set[int] = set()
        """Containers where its I/O has ended, since its last session."""
        self.parting: set[int] = set()
        """Disks that are about to be taken from it while it is lost."""
        self.taking: set[int] = set()
        """Of these, those whose commit is under way: a hello of it waits for that."""
        self.apart: set[int] = set()
        """Those that were: it has nothing under way there."""
        self.attaching: set[int] = set()
        """Disks whose attachment is being made: the peer must not be forgotten meanwhile."""
        self.listed = not known
        """Has told this term what it has under way."""
        self._waits = waits
        self._assume_everything = known
        self._grants: dict[int, Grants] = {}
        self._commands: dict[int, asyncio.Future[Answer]] = {}
        self._dos: dict[int, asyncio.Future[Answer]] = {}
        self._questions: dict[int, asyncio.Future[list[LatencyRow]]] = {}
        self._changed: dict[asyncio.Future[None], None] = {}

    def __str__(self) -> str:
        return f"agent {self.name}, which is {self.state.value}"

    # State --------------------------------------------------------------------------------------

    def become(self, state: PeerState) -> None:
        """Changes the state and wakes whoever waits for that."""
        assert self.state is not PeerState.ENDED, "an ended incarnation does not come back"
        self.state = state
        if state in (PeerState.LOST, PeerState.ENDED):
            self._fail(self._commands, PeerLost())
            self._fail(self._dos, PeerLost())
            self._fail(self._questions, PeerLost())
            # If it comes back it lists what it still wants.
            self.faults.clear()
        self.wake()

    def wake(self) -> None:
        """Lets all waiters of `changed` look again."""
        waiting, self._changed = self._changed, {}
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    async def changed(self) -> None:
        """Returns at the next change of state."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed[turn] = None
        try:
            with self._waits.on("agent", self):
                await turn
        finally:
            self._changed.pop(turn, None)

    async def either_changes(self, other: Peer) -> None:
        """Returns at the next change of state of this one or the other."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed[turn] = other._changed[turn] = None
        try:
            with self._waits.on("agent", other):
                await turn
        finally:
            self._changed.pop(turn, None)
            other._changed.pop(turn, None)

    def work_done(self) -> None:
        """A procedure that it has asked for is over."""
        self.work -= 1

    @property
    def gone(self) -> bool:
        """Holds no grant any more."""
        return self.state in (PeerState.LOST, PeerState.ENDED)

    async def present_or_gone(self) -> bool:
        """True when it can be commanded, False when its lease has ended."""
        while self.state is not PeerState.PRESENT:
            if self.gone:
                return False
            await self.changed()
        return True

    async def present_in(self, session: int) -> None:
        """Returns when this session is established; raises `SessionLost` if it ends before."""
        while self.state is not PeerState.PRESENT or self.session != session:
            if self.session != session or self.link is None:
                raise SessionLost
            await self.changed()

    async def drained(self, disk: int) -> None:
        """Returns when a lost incarnation has provably no I/O under way any more on that disk.

        It has ended by its fence, there or everywhere, or is back and has answered a blocking
        command.
        """
        while self.state not in (PeerState.ENDED, PeerState.PRESENT) and disk not in self.apart:
            await self.changed()

    # Grants -------------------------------------------------------------------------------------

    def grants(self, disk: int) -> Grants:
        """What this incarnation may hold of the disk's table."""
        grants = self._grants.get(disk)
        if grants is None:
            grants = self._grants[disk] = Grants(everything=self._assume_everything)
        return grants

    def table_gone(self, disk: int) -> None:
        """The table is gone at the agent; a new one will be empty."""
        self._grants[disk] = Grants(everything=False)
        self.tables.discard(disk)

    # Sessions -----------------------------------------------------------------------------------

    def open_session(self, link: Link, session: int) -> None:
        """A hello was accepted: older sessions' faults and commands are void."""
        self.close_session()
        self.hearing = None
        self.proven.clear()
        self.link = link
        self.session = session
        self.leased = False

    def close_session(self) -> None:
        """The link has ended: plain commands are lost, `do_*` may still be under way."""
        if self.link is not None:
            self.link.close()
            self.link = None
        if self.state in (PeerState.PRESENT, PeerState.RETURNING):
            self.state = PeerState.ABSENT
        self.deferred.clear()
        if self.gone:
            # One that was back, and not yet present: what it listed as running may never be told.
            self._fail(self._dos, PeerLost())
        self._fail(self._commands, SessionLost())
        self._fail(self._questions, SessionLost())
        self.wake()

    def take_list(
        self, pending: list[PendingFault], now_ns: int
    ) -> list[tuple[Fault, PendingFault]]:
        """Takes in a hello's list; returns the faults that need a procedure of their own.

        A fault whose `do_*` this controller is waiting for stays with that procedure: RUNNING
        waits on, DONE gets its answer now.  Every other `do_*` was lost in the cut.
        """
        dos, self._dos = self._dos, {}
        old_faults, self.faults = self.faults, {}
        fresh = []
        for item in pending:
            request = item.fault.request
            waiting = dos.pop(item.command, None) if item.status != FaultStatus.WAITING else None
            if waiting is None:
                fault = Fault(self, item.fault, now_ns)
                fresh.append((fault, item))
                self.faults[request] = fault
                continue
            if request in old_faults:
                self.faults[request] = old_faults[request]
            if item.status == FaultStatus.RUNNING:
                self._dos[item.command] = waiting
            elif not waiting.done():
                waiting.set_result(Answer(item.command, item.outcome, item.errno))
        self._fail(dos, SessionLost())
        return fresh

    def gave_up(self, fault: Fault) -> None:
        """The agent knows nothing of the fault any more: its I/O is over or faults anew."""
        if fault.current:
            del self.faults[fault.message.request]

    def adopt_running(self, command: int) -> asyncio.Future[Answer]:
        """The answer of a `do_*` that an older term sent and that is still under way."""
        return self._dos.setdefault(command, asyncio.get_running_loop().create_future())

    # Messages -----------------------------------------------------------------------------------

    def send(self, message: ControllerMessage) -> None:
        """Queues a message on the link, if there is one."""
        if self.link is not None:
            self.link.send(message)

    async def command(self, command: int, message: Command, returning: int | None = None) -> Answer:
        """Sends a command and waits for its answer; raises `SessionLost`, `PeerLost`.

        `returning` is the session being established: the only one that may command an
        incarnation that is still counted lost.
        """
        if returning is None and self.gone:
            raise PeerLost
        if returning is not None and returning != self.session:
            raise SessionLost
        return await self._ask(self._commands, command, message)

    async def do(self, command: int, message: Command) -> Answer:
        """Like `command`, for `do_write` and `do_split_read`: survives a change of session."""
        if self.gone:
            raise PeerLost
        return await self._ask(self._dos, command, message)

    async def _ask(
        self, table: dict[int, asyncio.Future[Answer]], command: int, message: Command
    ) -> Answer:
        if self.link is None:
            raise SessionLost
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        table[command] = answer
        self.link.send(message)
        asked = Asked(self, command, type(message).__name__)
        asked.log()
        try:
            with self._waits.on("answer", asked):
                return await answer
        finally:
            # Not `table`: a new session's list may have moved it.
            self._commands.pop(command, None)
            self._dos.pop(command, None)

    async def latency(self, request: int, disk: int) -> list[LatencyRow]:
        """How long the host I/O of a disk took here; raises `SessionLost`, `PeerLost`."""
        if self.link is None:
            raise SessionLost
        answer: asyncio.Future[list[LatencyRow]] = asyncio.get_running_loop().create_future()
        self._questions[request] = answer
        self.link.send(AskLatency(request, disk))
        try:
            with self._waits.on("answer", Asked(self, request, "AskLatency")):
                return await answer
        finally:
            self._questions.pop(request, None)

    def latency_told(self, message: Latency) -> None:
        """Takes in the answer."""
        waiting = self._questions.get(message.request)
        if waiting is not None and not waiting.done():
            waiting.set_result(message.rows)

    def answered(self, answer: Answer) -> None:
        """Takes in an answer; one that nobody waits for is dropped (an older session's)."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "event=command_answered command=%x agent=%s outcome=%s errno=%d",
                answer.command,
                self.name,
                answer.outcome.name,
                answer.errno,
            )
        for table in (self._commands, self._dos):
            waiting = table.get(answer.command)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    @staticmethod
    def _fail(table: dict[int, asyncio.Future[T]], error: Exception) -> None:
        for waiting in table.values():
            if not waiting.done():
                waiting.set_exception(error)
        table.clear()
