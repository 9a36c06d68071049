"""The installation at a glance, and what waits for what, in the HTTP API."""

from __future__ import annotations

import msgspec


class WaitInfo(msgspec.Struct, frozen=True):
    """One thing that something waits for."""

    kind: str
    """lease, lock, blocks, commit, answer, agent, space, fence, storage or takeover."""
    what: str
    age_s: float


class WorkInfo(msgspec.Struct, frozen=True):
    """One thing the controller is at; without `waits` it is not waiting at this moment."""

    what: str
    age_s: float
    waits: list[WaitInfo]


class FaultInfo(msgspec.Struct, frozen=True):
    """A fault that is not answered yet."""

    agent: str
    incarnation: str
    request: int
    disk: str
    segment: int
    operation: str
    """read, write or discard."""
    age_s: float
    waits: list[WaitInfo]


class CommandInfo(msgspec.Struct, frozen=True):
    """A command that an agent has not answered yet."""

    agent: str
    incarnation: str
    command: str
    """Hexadecimal, as in the logs."""
    message: str
    """Its name in docs/protocol.md."""
    age_s: float


class QuarantineInfo(msgspec.Struct, frozen=True):
    """Segments of a container that wait for an agent which might still write there (rule 5)."""

    container: str
    agent: str
    """Its name; empty if only its incarnation is known."""
    incarnation: str
    state: str
    segments: int


class Waits(msgspec.Struct, frozen=True):
    """What is under way and what it waits for, the oldest first, so many of each at most."""

    faults: list[FaultInfo]
    faults_unanswered: int
    commands: list[CommandInfo]
    commands_unanswered: int
    quarantines: list[QuarantineInfo]
    work: list[WorkInfo]
    """Everything but faults: requests of operators, sessions, completing, cleaning, fences."""


class Status(msgspec.Struct, frozen=True):
    """The installation at a glance."""

    version: str
    installation: str
    term: int
    commit: int
    pid: int
    up_s: float
    containers: int
    disks: int
    agents: int
    incomplete_extents: int
    faults_answered: int
    problems: list[str]
    """What an operator should look at; empty: all is well."""
    waits: Waits = msgspec.field(default_factory=lambda: Waits([], 0, [], 0, [], []))
