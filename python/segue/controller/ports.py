"""What a controller is given: its clock, its links, its storage (design, section 7a, 7b).

The simulator and the server hand in different objects of these shapes; everything else of
`segue.controller` is the same code in both.  The store's contract is `segue.store.contract`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import msgspec

from segue.wire.messages import AgentMessage, ContainerSpec, ControllerMessage


class LinkClosed(Exception):
    """The link has ended; nothing more arrives and nothing more is sent."""


class Clock(Protocol):
    """CLOCK_BOOTTIME, or a simulated one."""

    def now_ns(self) -> int:
        """Nanoseconds; never goes back within a process."""
        ...


class Link(Protocol):
    """One agent's connection: an ordered stream each way."""

    async def receive(self) -> AgentMessage:
        """The next message; raises `LinkClosed` at its end.

        A frame that is no AgentMessage ends the link (rule 10).
        """
        ...

    def send(self, message: ControllerMessage) -> None:
        """Queues a message; never blocks, never raises: a message to a closed link is dropped."""
        ...

    def close(self) -> None:
        """Ends the link both ways, now."""
        ...


class CreatedContainer(msgspec.Struct, frozen=True):
    """What creating or opening storage for a container found.

    `clean`: every segment is known to read as zeroes (rule 11: only files Segue made empty).
    """

    segments: int
    write_unit_bytes: int
    clean: bool


class Stamp(msgspec.Struct, frozen=True):
    """The newest (term, commit number) a container's header has seen."""

    term: int
    commit: int


class Room(msgspec.Struct, frozen=True):
    """What the file system under a file container has for it, and what the file has of that."""

    file_system: int
    """The same for files of one file system."""
    total_bytes: int
    free_bytes: int
    file_bytes: int
    """The size of the container's file, holes included."""
    allocated_bytes: int
    """What the file has: the rest are holes, which only the file system can fill."""


class Note(msgspec.Struct, frozen=True):
    """That a flush or durable write of a container failed, left there by who was told."""

    errno: int
    holder: int
    """An incarnation, or a controller's fence."""
    serial: int
    """Unlike that of any other note of its holder."""


class Ending(IntEnum):
    """What may be done to a holder to find out that its I/O has ended."""

    ASK = 0
    """Nothing: its lease may still run."""
    SESSIONS = 1
    """End its sessions: its lease is over, so it begins nothing on those it makes after that."""
    FOREVER = 2
    """End its sessions and let it make no more: it was replaced."""


class Storage(Protocol):
    """The controller's own hands on containers: copier, zeroing, headers, fences.

    Offsets are bytes in the container's data area (segment n starts at n x segment size).  All
    raise `OSError`.  I/O carries the controller's own fence lock (rule 11).
    """

    async def create(
        self,
        uri: str,
        size_bytes: int,
        segment_bytes: int,
        identity: bytes,
        installation: bytes,
        term: int,
        cache: str,
        erase: bool,
    ) -> CreatedContainer:
        """Makes a new container and its header; refuses storage that holds or is in use.

        With `erase`, a device or export is taken whatever it holds.

        `size_bytes` 0: all of a device.  May be repeated after a crash, by the same term or a newer
        one: what a newer term than `term` has made is left alone, the store may name it.
        """
        ...

    async def remove(self, spec: ContainerSpec) -> None:
        """Closes a container and gives its storage back: a file that Segue made is deleted.

        May be repeated, in a later term as well.
        """
        ...

    async def open(self, spec: ContainerSpec, installation: bytes, fence: int) -> Stamp:
        """Opens a known container, checks its identity, takes the lock of `fence` (61 bits).

        One that is open takes over what its URI says by now.
        """
        ...

    def forget(self, container: int) -> None:
        """Closes a container whose storage is gone for good, without waiting for anything there."""
        ...

    async def zero(self, container: int, offset_bytes: int, length_bytes: int) -> None:
        """Makes a range read as zeroes; durable after `flush`.

        Its ends need not fit the write unit, if nobody else writes to the units there.
        """
        ...

    async def copy(
        self, source: int, source_bytes: int, target: int, target_bytes: int, length_bytes: int
    ) -> None:
        """Copies a range; durable at the target after `flush`."""
        ...

    async def flush(self, container: int) -> None:
        """Makes durable all that this process wrote to the container.

        Fails with EIO too while a note stands there: whoever left it may be dead.
        """
        ...

    async def note(self, container: int) -> Note | None:
        """The note of a failed sync that stands there; never one across the network."""
        ...

    async def clear_note(self, container: int, note: Note) -> None:
        """Takes it away, durably, if it is still that one."""
        ...

    async def fence_ended(self, container: int, holder: int, ending: Ending) -> bool:
        """Whether no I/O of `holder` (an incarnation, or a controller's fence) can be under way.

        True only on proof: the lock that rode on the descriptor of its I/O is gone, or the server
        has ended its sessions.  `ending` says what may be done to find out.
        """
        ...

    def is_away(self, container: int) -> bool:
        """Whether there is no connection to the container's server, or it is not open."""
        ...

    def extend(self, until_ns: int) -> None:
        """This term was seen to be the newest: its I/O across the network may begin until then.

        CLOCK_BOOTTIME.  Elsewhere I/O is held back by nothing but its own process's end.
        """
        ...

    async def stamp(self, container: int, stamp: Stamp) -> None:
        """Writes the newest (term, commit) into the container's header, durably."""
        ...

    def away_s(self, container: int) -> float | None:
        """For how long the server of an open container has been away; None: it is there."""
        ...

    async def room(self, uri: str) -> Room | None:
        """What the file system under a container has left; None: it has none, or cannot be told.

        Only for people who ask: nothing is decided by it.
        """
        ...

    def has_fence(self, container: int) -> bool | None:
        """Whether others' I/O can be proven to have ended there; None: it is not open."""
        ...
