"""One agent's conversation with its controller: what is said when, and nothing else.

No socket, no clock, no thread: a driver (``agent/daemon.py`` or the simulator) feeds `Session` the
messages of the link and the events of the data plane, gives it the time, and after every call
sends what `Session.poll_messages` returns and looks at `Session.hang_up`.  The data plane is the
only thing called from here.

Order of a session (docs/protocol.md)::

    connected -> plane lists its faults -> Hello -> Welcome | Refused
    Welcome   -> LeaseRequest, then what waited for a session: container failures not yet
                 answered, exports asked for, disks nobody uses
    then      -> commands and fault answers in, answers and faults out, a LeaseRequest every third
                 of a lease

What survives a session: the newest term and commit seen, exports that hosts wait for, container
failures without an answer, disks nobody uses.  Faults survive in the plane, whose list opens the
next session; a fault raised before that list is in it, so its own event is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from segue import failpoints
from segue.wire.messages import (
    PROTOCOL_VERSION,
    Answer,
    AskLatency,
    Cause,
    CloseExport,
    CompleteToHost,
    ContainerFailed,
    ControllerMessage,
    DeleteTable,
    ExportOpened,
    Exports,
    Failure,
    FaultGone,
    FaultStatus,
    Hello,
    Latency,
    LatencyRow,
    Lease,
    LeaseRequest,
    ListExports,
    MapFault,
    Message,
    OpenExport,
    Operation,
    Outcome,
    PendingFault,
    QuiesceExpired,
    Refused,
    Retry,
    Welcome,
)

EBUSY, EINVAL = 16, 22
FIRST_INTERVAL_NS = 5_000_000_000
"""Between lease requests until the first lease says how long leases are."""
SILENCE_NS = 30_000_000_000
"""A controller that owes an answer and says nothing for so long (or a whole lease): hang up."""

MAX_QUESTIONS = 4096
"""Exports and lists that hosts wait for; beyond it they are refused at once."""

PlaneEvent = tuple[Any, ...]
"""What `DataPlane.events` yields: a kind, then the fields listed in ``segue/_native.pyi``."""


class Plane(Protocol):
    """The data plane as the session uses it; ``segue._native.DataPlane`` is the real one."""

    def deliver(self, message: Message, /) -> None:
        """Hand over a command or a fault answer; ValueError, TypeError or OverflowError: bad."""

    def set_lease(self, until_ns: int, /) -> None:
        """The lease runs to `until_ns` of CLOCK_BOOTTIME."""

    def end_lease(self) -> None:
        """The lease ends now, whatever was set."""

    def list_faults(self) -> None:
        """Ask for one ("faults", tables, pending) event."""

    def ask_latency(self, request: int, disk: int) -> None:
        """Ask for one ("latency", request, rows) event."""

    def export_answer(
        self, token: int, errno: int, disk: int, size_bytes: int, block_bytes: int, read_only: bool
    ) -> None:
        """Answer a ("want_export", token, name) event."""

    def list_answer(self, token: int, names: list[str]) -> None:
        """Answer a ("want_list", token) event."""


class Phase(Enum):
    """How far the session has come."""

    DOWN = "down"
    LISTING = "listing"
    """Connected; the plane has been asked for its faults."""
    GREETING = "greeting"
    """Hello is sent."""
    UP = "up"


class Session:
    """The agent's half of the link, session after session, for one incarnation.

    The driver calls `connected` and `disconnected` alternately, `handle` for every message of the
    present link (never of an older one), `plane_event` for every event of the plane at any time,
    `tick` when `deadline` has come.  `now` is CLOCK_BOOTTIME in nanoseconds, read before the call.
    When `hang_up` is not None the driver closes the link and calls `disconnected`; when `final` is
    set as well it must not come back.
    """

    def __init__(
        self, plane: Plane, name: str, incarnation: int, listens: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.listens = list(listens)
        self.incarnation = incarnation
        self.phase = Phase.DOWN
        self.newest = (0, 0)
        """Newest (term, commit) seen from any controller."""
        self.installation = b""
        self.agent = 0
        self.session = 0
        self.hang_up: str | None = None
        """Why the link must be closed, in one sentence."""
        self.final = False
        self.ignored = 0
        """Events and answers that belonged to an ended session, or to nobody (for the log)."""
        self._plane = plane
        self._outbox: list[Message] = []
        self._early: list[Message] = []
        """What the plane said between Hello and Welcome."""
        self._listings = 0
        self._lease_until_ns: int | None = None
        self._interval_ns = FIRST_INTERVAL_NS
        self._lease_ns = SILENCE_NS
        self._asked: deque[int] = deque()
        self._next_request_ns = 0
        self._heard_ns = 0
        self._commands: set[int] = set()
        self._old_commands: set[int] = set()
        self._last_request = 0
        self._opens: dict[int, tuple[int, str]] = {}
        self._lists: dict[int, int] = {}
        self._requests: dict[int, int] = {}
        """Token of a host's question -> its request."""
        self._gone: set[int] = set()
        """Requests asked in this session whose host has gone since: only answered or forgotten."""
        self._failures: dict[int, ContainerFailed] = {}
        self._unused: dict[int, bool] = {}
        self._given: dict[int, int] = {}

    # Driver -----------------------------------------------------------------------------------

    def connected(self, now: int) -> None:
        """A new link stands: the plane is asked for its faults, and Hello follows its answer."""
        assert self.phase is Phase.DOWN
        self.phase = Phase.LISTING
        self.hang_up = None
        self._heard_ns = now
        self._listings += 1
        self._plane.list_faults()

    def disconnected(self, now: int) -> None:
        """The link is gone; whatever was queued for it is dropped (its session is over)."""
        self.phase = Phase.DOWN
        self._outbox.clear()
        self._early.clear()
        self._asked.clear()
        self._old_commands |= self._commands
        self._commands.clear()
        for request in self._gone:
            self._opens.pop(request, None)
            self._lists.pop(request, None)
        self._gone.clear()
        for disk in self._unused:
            self._unused[disk] = False

    def poll_messages(self) -> list[Message]:
        """What is to be sent, in order; empties the queue."""
        out, self._outbox = self._outbox, []
        return out

    def deadline(self) -> int | None:
        """When `tick` is wanted next, or None: only a link needs the time."""
        if self.phase is Phase.DOWN:
            return None
        if self.phase is Phase.UP:
            return self._next_request_ns
        return self._heard_ns + self._silence_ns

    def tick(self, now: int) -> None:
        """Asks for the lease again if it is time, and gives up on a silent controller."""
        if self.phase is Phase.DOWN or self.hang_up is not None:
            return
        owed = self.phase is not Phase.UP or bool(self._asked)
        if owed and now - self._heard_ns >= self._silence_ns:
            self._close(f"no word from the controller for {self._silence_ns / 1e9:g} s")
        elif self.phase is Phase.UP and now >= self._next_request_ns:
            self._request_lease(now)

    def lease_lost(self, now: int) -> bool:
        """Whether the agent had a lease, and has none at `now`: all its tables are invalid."""
        return self._lease_until_ns is not None and now >= self._lease_until_ns

    @property
    def _silence_ns(self) -> int:
        return max(self._lease_ns, FIRST_INTERVAL_NS) if self.phase is Phase.UP else SILENCE_NS

    # From the controller ----------------------------------------------------------------------

    def handle(self, message: ControllerMessage, now: int) -> None:
        """Take one message of the present link."""
        if self.hang_up is not None or self.phase is Phase.DOWN:
            self.ignored += 1
            return
        self._heard_ns = now
        if isinstance(message, Refused):
            self.final = message.final
            self._close(f"the controller refuses this agent: {message.reason}")
        elif isinstance(message, Welcome):
            self._welcome(message, now)
        elif self.phase is not Phase.UP:
            self._close(f"{type(message).__name__} before Welcome")
        elif isinstance(message, Lease):
            self._lease(message, now)
        elif isinstance(message, ExportOpened):
            self._export_opened(message)
        elif isinstance(message, Exports):
            token = self._lists.pop(message.request, None)
            if token is not None:
                self._answered(message.request, token)
                self._plane.list_answer(token, message.names)
        elif isinstance(message, Retry | Failure | CompleteToHost):
            self._fault_answer(message)
        elif isinstance(message, AskLatency):
            self._plane.ask_latency(message.request, message.disk)
        else:
            self._command(message)

    def _welcome(self, message: Welcome, now: int) -> None:
        if self.phase is not Phase.GREETING:
            return self._close("Welcome without Hello")
        if message.term < self.newest[0]:
            return self._close(
                f"the controller serves in term {message.term}, but term {self.newest[0]} has begun"
            )
        if self.installation and message.installation != self.installation:
            self.final = True
            return self._close("the controller belongs to another installation")
        self.phase = Phase.UP
        self.installation = message.installation
        self.agent, self.session = message.agent, message.session
        self.newest = max(self.newest, (message.term, 0))
        if message.lost:
            self._plane.end_lease()
            self._lease_until_ns = now
        self._request_lease(now)
        self._outbox += self._early
        self._early.clear()
        self._outbox += self._failures.values()
        self._outbox += [OpenExport(request, name) for request, (_, name) in self._opens.items()]
        self._outbox += [ListExports(request) for request in self._lists]
        self._close_unused()

    def _request_lease(self, now: int) -> None:
        self._asked.append(now)
        self._outbox.append(LeaseRequest(sent_ns=now))
        self._next_request_ns = now + self._interval_ns

    def _lease(self, message: Lease, now: int) -> None:
        """Only an answer to a request of this session counts, and from when that was sent."""
        if message.sent_ns not in self._asked:
            self.ignored += 1
            return
        while self._asked.popleft() != message.sent_ns:
            pass
        self.newest = max(self.newest, (self.newest[0], message.commit))
        self._lease_ns = message.duration_ns
        self._interval_ns = max(1, message.duration_ns // 3)
        self._next_request_ns = min(self._next_request_ns, message.sent_ns + self._interval_ns)
        until_ns = message.sent_ns + message.duration_ns
        if until_ns > now and until_ns > (self._lease_until_ns or 0):
            self._lease_until_ns = until_ns
            self._plane.set_lease(until_ns)

    def _export_opened(self, message: ExportOpened) -> None:
        token, _ = self._opens.pop(message.request, (None, ""))
        if token is None:
            self.ignored += 1
        else:
            self._answered(message.request, token)
            if message.errno == 0:
                self._unused.pop(message.disk, None)
                self._given[message.disk] = self._given.get(message.disk, 0) + 1
            self._plane.export_answer(
                token,
                message.errno,
                message.disk,
                message.size_bytes,
                message.block_bytes,
                message.read_only,
            )
        self._close_unused()

    def _answered(self, request: int, token: int) -> None:
        self._requests.pop(token, None)
        self._gone.discard(request)

    def _fault_answer(self, message: Retry | Failure | CompleteToHost) -> None:
        self._failures.pop(message.request, None)
        try:
            self._plane.deliver(message)
            failpoints.hit("agent.answer_taken")
        except (ValueError, TypeError, OverflowError) as error:
            self._close(f"bad {type(message).__name__} from the controller: {error}")

    def _command(self, message: Any) -> None:
        command: int = message.command
        if command in self._commands or command in self._old_commands:
            return self._close(f"command number {command} used twice")
        try:
            self._plane.deliver(message)
        except (ValueError, TypeError, OverflowError):
            self._outbox.append(Answer(command, Outcome.FAILED, EINVAL))
            return
        self._commands.add(command)
        failpoints.hit("agent.command_taken")
        if isinstance(message, DeleteTable):
            self._unused.pop(message.disk, None)

    # From the data plane ----------------------------------------------------------------------

    def plane_event(self, event: PlaneEvent, now: int) -> None:
        """Take one event of the plane; it may come in any phase."""
        react = self._REACTIONS.get(event[0])
        if react is not None:
            react(self, event, now)

    def _on_faults(self, event: PlaneEvent, now: int) -> None:
        """The list that opens a session; one asked for by an earlier connection is passed over."""
        self._listings -= 1
        if self._listings or self.phase is not Phase.LISTING:
            return
        _, tables, pending = event
        faults = [_pending_fault(*item) for item in pending]
        running = {f.command for f in faults if f.status is FaultStatus.RUNNING}
        self._commands = running & self._old_commands
        self._old_commands -= running
        self.phase = Phase.GREETING
        self._outbox.append(
            Hello(
                version=PROTOCOL_VERSION,
                name=self.name,
                incarnation=self.incarnation,
                term=self.newest[0],
                commit=self.newest[1],
                installation=self.installation,
                tables=list(tables),
                faults=faults,
                lease_lost=self.lease_lost(now),
                listens=self.listens,
            )
        )

    def _on_fault(self, event: PlaneEvent, now: int) -> None:
        failpoints.hit("agent.fault_raised")
        if self.phase in (Phase.GREETING, Phase.UP):
            self._say(_map_fault(event[1:]))

    def _on_fault_gone(self, event: PlaneEvent, now: int) -> None:
        if self.phase in (Phase.GREETING, Phase.UP):
            self._say(FaultGone(event[1]))

    def _on_answer(self, event: PlaneEvent, now: int) -> None:
        """Answers of ended sessions are dropped, but for `do_*`s that Hello listed as running."""
        _, command, outcome, errno, entries, held = event
        if command in self._commands:
            self._commands.discard(command)
            self._say(Answer(command, Outcome(outcome), errno, list(entries), held))
        else:
            self._old_commands.discard(command)
            self.ignored += 1

    def _on_container_failed(self, event: PlaneEvent, now: int) -> None:
        """Kept until it is answered: the host waits for that, whatever becomes of the link."""
        message = ContainerFailed(*event[1:])
        self._failures[message.request] = message
        if self.phase is Phase.UP:
            self._outbox.append(message)

    def _on_quiesce_expired(self, event: PlaneEvent, now: int) -> None:
        if self.phase is Phase.UP:
            self._outbox.append(QuiesceExpired(*event[1:]))

    def _on_want_export(self, event: PlaneEvent, now: int) -> None:
        _, token, name = event
        if len(self._opens) + len(self._lists) >= MAX_QUESTIONS:
            return self._plane.export_answer(token, EBUSY, 0, 0, 0, False)
        request = self._ask(token)
        self._opens[request] = (token, name)
        if self.phase is Phase.UP:
            self._outbox.append(OpenExport(request, name))

    def _on_want_list(self, event: PlaneEvent, now: int) -> None:
        token = event[1]
        if len(self._opens) + len(self._lists) >= MAX_QUESTIONS:
            return self._plane.list_answer(token, [])
        request = self._ask(token)
        self._lists[request] = token
        if self.phase is Phase.UP:
            self._outbox.append(ListExports(request))

    def _ask(self, token: int) -> int:
        self._last_request += 1
        self._requests[token] = self._last_request
        return self._last_request

    def _on_question_gone(self, event: PlaneEvent, now: int) -> None:
        """Not asked any more; one that this session has asked is answered, and must be known."""
        request = self._requests.pop(event[1], None)
        if request is None:
            return
        if self.phase is Phase.UP:
            self._gone.add(request)
        else:
            self._opens.pop(request, None)
            self._lists.pop(request, None)

    def _on_latency(self, event: PlaneEvent, now: int) -> None:
        """Nobody waits for it any more in another session."""
        _, request, rows = event
        if self.phase is Phase.UP:
            self._outbox.append(Latency(request, [_latency_row(*row) for row in rows]))

    def _on_unused(self, event: PlaneEvent, now: int) -> None:
        """Out of date if the disk was given to another host that the plane did not know of yet."""
        disk = event[1]
        if event[2:] in ((), (self._given.get(disk, 0),)):
            self._unused[disk] = False
            self._close_unused()

    def _close_unused(self) -> None:
        """Say once a session which disks nobody uses.

        Not while an OpenExport is out: it may be for the same disk, whose table would be taken
        away from under the host that waits for it.
        """
        if self.phase is not Phase.UP or self._opens:
            return
        for disk, said in self._unused.items():
            if not said:
                self._unused[disk] = True
                self._outbox.append(CloseExport(disk))

    def _say(self, message: Message) -> None:
        """Send it, after Welcome at the earliest."""
        (self._outbox if self.phase is Phase.UP else self._early).append(message)

    def _close(self, reason: str) -> None:
        self.hang_up = reason
        self._outbox.clear()

    _REACTIONS: dict[str, Callable[[Session, PlaneEvent, int], None]] = {  # noqa: RUF012
        "faults": _on_faults,
        "fault": _on_fault,
        "fault_gone": _on_fault_gone,
        "answer": _on_answer,
        "container_failed": _on_container_failed,
        "quiesce_expired": _on_quiesce_expired,
        "want_export": _on_want_export,
        "want_list": _on_want_list,
        "question_gone": _on_question_gone,
        "unused": _on_unused,
        "latency": _on_latency,
    }


def _latency_row(
    operation: int, cause: int, sum_ns: int, max_ns: int, buckets: list[int], counts: list[int]
) -> LatencyRow:
    return LatencyRow(operation, Cause(cause), sum_ns, max_ns, buckets, counts)


def _map_fault(fields: PlaneEvent) -> MapFault:
    request, disk, segment, segments, operation, first_block, count_blocks, word = fields
    return MapFault(
        request, disk, segment, segments, Operation(operation), first_block, count_blocks, word
    )


def _pending_fault(
    fault: PlaneEvent, status: int, command: int, outcome: int, errno: int
) -> PendingFault:
    return PendingFault(
        _map_fault(fault), FaultStatus(status), command or 0, Outcome(outcome or 0), errno or 0
    )


__all__ = ["Phase", "Plane", "PlaneEvent", "Session"]
