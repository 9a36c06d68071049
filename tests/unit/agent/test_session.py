"""The agent's session against a plane that only records."""

from __future__ import annotations

from typing import Any

import pytest

from segue.agent.session import FIRST_INTERVAL_NS, MAX_QUESTIONS, SILENCE_NS, Phase, Session
from segue.wire.messages import (
    Answer,
    AskLatency,
    Cause,
    CloseExport,
    CompleteToHost,
    ContainerFailed,
    DeleteTable,
    DoWrite,
    ExportOpened,
    Exports,
    Failure,
    FaultGone,
    FaultStatus,
    GetEntry,
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
    QuiesceExpired,
    Refused,
    Retry,
    Welcome,
)

S = 1_000_000_000
INSTALLATION = b"i" * 16
FAULT = (7, 1, 5, 1, 2, 0, 1, 0)
MAP_FAULT = MapFault(7, 1, 5, 1, Operation.WRITE, 0, 1, 0)


class RecordingPlane:
    """Writes down every call; refuses commands whose number is in `refuse`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuse: set[int] = set()

    def deliver(self, message: Any, /) -> None:
        if getattr(message, "command", None) in self.refuse:
            raise OverflowError("too large")
        self.calls.append(("deliver", message))

    def set_lease(self, until_ns: int, /) -> None:
        self.calls.append(("set_lease", until_ns))

    def end_lease(self) -> None:
        self.calls.append(("end_lease",))

    def list_faults(self) -> None:
        self.calls.append(("list_faults",))

    def ask_latency(self, request: int, disk: int) -> None:
        self.calls.append(("ask_latency", request, disk))

    def export_answer(self, *args: Any) -> None:
        self.calls.append(("export_answer", *args))

    def list_answer(self, *args: Any) -> None:
        self.calls.append(("list_answer", *args))

    def take(self) -> list[tuple[Any, ...]]:
        calls, self.calls = self.calls, []
        return calls


class World:
    """A session, its plane and a clock that the test moves."""

    def __init__(self) -> None:
        self.plane = RecordingPlane()
        self.session = Session(self.plane, "one", 99)
        self.now = 100 * S

    def connect(self, tables: list[int] | None = None, pending: list[Any] | None = None) -> Hello:
        self.session.connected(self.now)
        assert self.session.poll_messages() == []
        self.event("faults", tables or [], pending or [])
        [hello] = self.session.poll_messages()
        assert isinstance(hello, Hello)
        return hello

    def up(self, term: int = 3, lost: bool = False, **listed: Any) -> list[Message]:
        self.connect(**listed)
        self.handle(Welcome(term, 1, 4, INSTALLATION, lost))
        return self.said()

    def event(self, *event: Any) -> None:
        self.session.plane_event(event, self.now)

    def handle(self, message: Any) -> None:
        self.session.handle(message, self.now)

    def said(self) -> list[Message]:
        return self.session.poll_messages()

    def cut(self) -> None:
        self.session.disconnected(self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_hello_waits_for_the_list_of_faults(world: World) -> None:
    hello = world.connect([1, 2], [(FAULT, 1, None, None, None)])
    assert world.plane.take() == [("list_faults",)]
    assert (hello.name, hello.incarnation, hello.term, hello.commit) == ("one", 99, 0, 0)
    assert hello.tables == [1, 2]
    assert [(p.fault, p.status) for p in hello.faults] == [(MAP_FAULT, FaultStatus.WAITING)]
    assert not hello.lease_lost


def test_welcome_brings_a_lease_request_with_the_time_it_was_sent(world: World) -> None:
    world.connect()
    world.now += 5
    world.handle(Welcome(3, 1, 4, INSTALLATION, False))
    assert world.said() == [LeaseRequest(world.now)]
    assert (world.session.agent, world.session.phase) == (4, Phase.UP)


def test_a_lease_runs_from_the_request_and_is_asked_for_every_third(world: World) -> None:
    world.up()
    sent = world.now
    world.plane.take()
    world.now += S
    world.handle(Lease(sent, 30 * S, 12))
    assert world.plane.take() == [("set_lease", sent + 30 * S)]
    assert world.session.newest == (3, 12)
    for _ in range(3):
        deadline = world.session.deadline()
        assert deadline is not None
        world.now = deadline - 1
        world.session.tick(world.now)
        assert world.said() == []
        world.now = deadline
        world.session.tick(world.now)
        assert world.said() == [LeaseRequest(deadline)]
        world.handle(Lease(deadline, 30 * S, 12))
    assert world.now == sent + FIRST_INTERVAL_NS + 20 * S


def test_a_lease_that_answers_no_request_of_this_session_counts_for_nothing(world: World) -> None:
    world.up()
    old = world.now
    world.cut()
    world.now += S
    world.up()
    world.plane.take()
    world.handle(Lease(old, 30 * S, 12))
    world.handle(Lease(old + 17, 30 * S, 12))
    assert world.plane.take() == []


def test_a_lease_that_comes_after_its_end_is_not_taken(world: World) -> None:
    world.up()
    sent = world.now
    world.plane.take()
    world.now += 31 * S
    world.handle(Lease(sent, 30 * S, 12))
    assert world.plane.take() == []


def test_an_answered_request_voids_the_older_ones(world: World) -> None:
    world.up()
    first = world.now
    world.now += FIRST_INTERVAL_NS
    world.session.tick(world.now)
    world.handle(Lease(world.now, 30 * S, 0))
    world.plane.take()
    world.handle(Lease(first, 90 * S, 0))
    assert world.plane.take() == []


def test_welcome_that_says_lost_ends_the_lease_and_goes_on(world: World) -> None:
    world.up()
    world.handle(Lease(world.now, 30 * S, 0))
    world.cut()
    world.plane.take()
    assert world.up(lost=True) == [LeaseRequest(world.now)]
    assert world.plane.take() == [("list_faults",), ("end_lease",)]


def test_hello_says_that_the_lease_is_lost_only_while_none_was_taken_since(world: World) -> None:
    world.up()
    world.handle(Lease(world.now, 30 * S, 0))
    world.cut()
    assert not world.connect().lease_lost
    world.cut()
    world.now += 30 * S
    assert world.connect().lease_lost
    world.handle(Welcome(3, 2, 4, INSTALLATION, False))
    world.event("lease_ended")
    world.handle(Lease(world.now, 30 * S, 0))
    world.event("lease_ended")
    world.cut()
    assert not world.connect().lease_lost


def test_hello_carries_the_newest_term_and_commit_and_the_installation(world: World) -> None:
    world.up(term=3)
    world.handle(Lease(world.now, 30 * S, 41))
    world.cut()
    hello = world.connect()
    assert (hello.term, hello.commit, hello.installation) == (3, 41, INSTALLATION)
    world.handle(Welcome(4, 2, 4, INSTALLATION, False))
    world.cut()
    hello = world.connect()
    assert (hello.term, hello.commit) == (4, 0)


def test_a_controller_of_an_older_term_is_hung_up_on(world: World) -> None:
    world.up(term=5)
    world.cut()
    world.connect()
    world.handle(Welcome(4, 1, 4, INSTALLATION, False))
    assert world.session.hang_up == "the controller serves in term 4, but term 5 has begun"
    assert not world.session.final
    assert world.said() == []
    world.cut()
    world.up(term=5)
    assert world.session.hang_up is None


def test_another_installation_is_final(world: World) -> None:
    world.up()
    world.cut()
    world.connect()
    world.handle(Welcome(4, 1, 4, b"j" * 16, False))
    assert world.session.final
    assert world.session.hang_up == "the controller belongs to another installation"


@pytest.mark.parametrize("final", [False, True])
def test_refused_closes_the_link(world: World, final: bool) -> None:
    world.connect()
    world.handle(Refused("name taken", final))
    assert world.session.hang_up == "the controller refuses this agent: name taken"
    assert world.session.final is final


def test_whatever_comes_before_welcome_breaks_the_protocol(world: World) -> None:
    world.connect()
    world.plane.take()
    world.handle(Retry(7, 1, []))
    assert world.session.hang_up == "Retry before Welcome"
    world.handle(Retry(7, 1, []))
    assert world.plane.take() == []


def test_faults_of_the_list_are_not_sent_again(world: World) -> None:
    world.event("fault", *FAULT)
    world.session.connected(world.now)
    world.event("fault", *FAULT)
    world.event("faults", [1], [(FAULT, 1, 0, 0, 0)])
    world.event("fault", 8, *FAULT[1:])
    [hello] = world.said()
    assert isinstance(hello, Hello)
    world.handle(Welcome(3, 1, 4, INSTALLATION, False))
    assert [m.request for m in world.said() if isinstance(m, MapFault)] == [8]
    world.event("fault", 9, *FAULT[1:])
    assert [m.request for m in world.said() if isinstance(m, MapFault)] == [9]


def test_a_list_asked_for_by_an_earlier_connection_opens_nothing(world: World) -> None:
    world.session.connected(world.now)
    world.cut()
    world.session.connected(world.now)
    world.event("faults", [1], [])
    assert world.said() == []
    world.event("faults", [2], [])
    [hello] = world.said()
    assert isinstance(hello, Hello)
    assert hello.tables == [2]


def test_latency_is_asked_of_the_plane_and_sent_in_the_session() -> None:
    world = World()
    world.up()
    world.handle(AskLatency(7, 3))
    assert world.plane.take()[-1] == ("ask_latency", 7, 3)
    world.event("latency", 7, [(2, 4, 30, 20, [5, 9], [1, 2])])
    assert world.said() == [Latency(7, [LatencyRow(2, Cause.DO_WRITE, 30, 20, [5, 9], [1, 2])])]


def test_commands_reach_the_plane_and_their_answers_the_controller(world: World) -> None:
    world.up()
    world.plane.take()
    command = GetEntry(17, 1, 0, 2)
    world.handle(command)
    assert world.plane.take() == [("deliver", command)]
    world.event("answer", 17, 0, 0, [5, 6], False)
    assert world.said() == [Answer(17, Outcome.DONE, 0, [5, 6], False)]
    world.event("answer", 17, 0, 0, [], False)
    assert world.said() == []


def test_a_command_the_plane_cannot_take_is_answered_einval(world: World) -> None:
    world.up()
    world.plane.refuse.add(17)
    world.handle(GetEntry(17, 1, -1, 2))
    assert world.said() == [Answer(17, Outcome.FAILED, 22)]
    assert world.session.hang_up is None


def test_answers_of_an_ended_session_are_dropped(world: World) -> None:
    world.up()
    world.handle(GetEntry(17, 1, 0, 2))
    world.cut()
    world.up()
    world.event("answer", 17, 0, 0, [1], False)
    assert world.said() == []
    assert world.session.ignored == 1


def test_a_do_write_listed_as_running_is_answered_in_the_new_session(world: World) -> None:
    world.up()
    world.handle(DoWrite(17, 7, 1, 0, 0))
    world.handle(DoWrite(18, 8, 1, 0, 0))
    world.cut()
    hello = world.connect([1], [(FAULT, 2, 17, 0, 0), ((8, *FAULT[1:]), 3, 18, 0, 0)])
    assert [(p.status, p.command) for p in hello.faults] == [
        (FaultStatus.RUNNING, 17),
        (FaultStatus.DONE, 18),
    ]
    world.event("answer", 17, 0, 0, [], False)
    world.event("answer", 18, 0, 0, [], False)
    assert world.said() == []
    world.handle(Welcome(3, 2, 4, INSTALLATION, False))
    assert world.said()[1:] == [Answer(17, Outcome.DONE)]


def test_a_command_number_still_out_from_an_older_session_is_refused(world: World) -> None:
    world.up()
    world.handle(GetEntry(17, 1, 0, 2))
    world.cut()
    world.up()
    world.plane.take()
    world.handle(GetEntry(17, 1, 0, 2))
    assert world.session.hang_up == "command number 17 used twice"
    assert world.plane.take() == []


def test_answers_to_faults_reach_the_plane(world: World) -> None:
    world.up()
    world.plane.take()
    answers = [Retry(7, 1, []), Failure(8, 5), CompleteToHost(9)]
    for answer in answers:
        world.handle(answer)
    assert world.plane.take() == [("deliver", answer) for answer in answers]


def test_an_export_asked_for_is_asked_again_in_the_next_session(world: World) -> None:
    world.event("want_export", 70, "disk")
    said = world.up()
    assert said[1:] == [OpenExport(1, "disk")]
    world.cut()
    said = world.up()
    assert said[1:] == [OpenExport(1, "disk")]
    world.plane.take()
    world.handle(ExportOpened(1, 0, 5, 1 << 30, 512, True))
    assert world.plane.take() == [("export_answer", 70, 0, 5, 1 << 30, 512, True)]
    world.cut()
    assert world.up()[1:] == []


def test_the_list_of_exports_is_asked_again_in_the_next_session(world: World) -> None:
    world.up()
    world.event("want_list", 71)
    assert world.said() == [ListExports(1)]
    world.cut()
    assert world.up()[1:] == [ListExports(1)]
    world.plane.take()
    world.handle(Exports(1, ["a", "b"]))
    assert world.plane.take() == [("list_answer", 71, ["a", "b"])]


def test_a_container_failure_is_said_in_every_session_until_answered(world: World) -> None:
    world.event("container_failed", 30, 1, 2, 5)
    failed = ContainerFailed(30, 1, 2, 5)
    assert world.up()[1:] == [failed]
    world.cut()
    assert world.up()[1:] == [failed]
    world.handle(Failure(30, 5))
    world.cut()
    assert world.up()[1:] == []


def test_a_discard_given_up_is_said_in_the_session_that_knows_of_it(world: World) -> None:
    world.event("fault_gone", 7)
    assert world.up()[1:] == []
    world.event("fault_gone", 8)
    assert world.said() == [FaultGone(8)]


def test_an_unused_disk_is_said_once_a_session_until_its_table_goes(world: World) -> None:
    world.up()
    world.event("unused", 5)
    assert world.said() == [CloseExport(5)]
    world.event("quiesce_expired", 5, 2)
    assert world.said() == [QuiesceExpired(5, 2)]
    world.cut()
    assert world.up()[1:] == [CloseExport(5)]
    world.handle(DeleteTable(1, 5))
    world.cut()
    assert world.up()[1:] == []


def test_a_disk_is_not_given_up_while_a_host_waits_for_an_export(world: World) -> None:
    world.up()
    world.event("want_export", 70, "five")
    world.event("unused", 5)
    world.event("unused", 6)
    assert world.said() == [OpenExport(1, "five")]
    world.handle(ExportOpened(1, 0, 5, 1 << 30))
    assert world.said() == [CloseExport(6)]


def test_a_disk_given_to_a_host_meanwhile_is_not_given_up(world: World) -> None:
    world.up()
    for request in (1, 2):
        world.event("want_export", 70, "five")
        world.handle(ExportOpened(request, 0, 5, 1 << 30))
    world.said()
    world.event("unused", 5, 1)
    assert world.said() == []
    world.event("unused", 5, 2)
    assert world.said() == [CloseExport(5)]


def test_a_silent_controller_is_hung_up_on_after_a_lease(world: World) -> None:
    world.up()
    world.handle(Lease(world.now, 9 * S, 0))
    while world.session.hang_up is None:
        deadline = world.session.deadline()
        assert deadline is not None
        assert deadline > world.now
        world.now = deadline
        world.session.tick(world.now)
    assert world.session.hang_up == "no word from the controller for 9 s"
    world.cut()
    assert world.session.deadline() is None


def test_a_controller_that_does_not_welcome_is_hung_up_on(world: World) -> None:
    world.connect()
    assert world.session.deadline() == world.now + SILENCE_NS
    world.session.tick(world.now + SILENCE_NS)
    assert world.session.hang_up == "no word from the controller for 30 s"


def test_a_question_whose_host_has_gone_is_not_asked_in_the_next_session(world: World) -> None:
    for token in range(3):
        world.event("want_export", token, f"disk{token}")
    world.event("want_list", 3)
    world.event("question_gone", 0)
    world.event("question_gone", 3)
    assert world.up()[1:] == [OpenExport(2, "disk1"), OpenExport(3, "disk2")]
    # Asked in this session: answered, so that the plane hears of a table nobody wants.
    world.event("question_gone", 1)
    world.plane.take()
    world.handle(ExportOpened(2, 0, 5, 1 << 30))
    assert world.plane.take() == [("export_answer", 1, 0, 5, 1 << 30, 4096, False)]
    world.event("question_gone", 2)
    world.cut()
    assert world.up()[1:] == []


def test_hosts_that_ask_and_leave_take_no_memory(world: World) -> None:
    for token in range(10 * MAX_QUESTIONS):
        world.event("want_export", token, "disk")
        world.event("question_gone", token)
    assert (world.session._opens, world.session._requests) == ({}, {})


def test_beyond_so_many_questions_hosts_are_refused_at_once(world: World) -> None:
    for token in range(MAX_QUESTIONS):
        world.event("want_export", token, "disk")
    assert world.plane.take() == []
    world.event("want_export", MAX_QUESTIONS, "disk")
    world.event("want_list", MAX_QUESTIONS + 1)
    assert world.plane.take() == [
        ("export_answer", MAX_QUESTIONS, 16, 0, 0, 0, False),
        ("list_answer", MAX_QUESTIONS + 1, []),
    ]
    assert len(world.up()[1:]) == MAX_QUESTIONS
