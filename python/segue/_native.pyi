"""The native half: mapping engine, data plane, containers, NBD client (crates/segue-native).

Units: bytes, nanoseconds of CLOCK_BOOTTIME, segments and blocks of a disk; errnos are positive.
Tokens, pieces, requests and commands are unsigned 64-bit numbers.
"""

from typing import Any, TypeAlias, TypedDict, final, type_check_only

from segue.wire.messages import Message

__all__ = [
    "CONTAINER_DATA_AT",
    "ENTRY_CONTAINER_SHIFT",
    "ENTRY_ERROR",
    "ENTRY_NO_WRITE",
    "ENTRY_SEGMENT_MASK",
    "ENTRY_VALID",
    "ENTRY_ZERO",
    "FLAG_FAST_ZERO",
    "FLAG_FUA",
    "FLAG_NO_HOLE",
    "FLAG_REQ_ONE",
    "LATENCY_BUCKETS",
    "STATE_ERROR",
    "STATE_INVALID",
    "STATE_NO_WRITE",
    "STATE_ZERO",
    "STATUS_HOLE",
    "STATUS_ZERO",
    "DataPlane",
    "Engine",
    "NbdClient",
    "StorageHandle",
    "StorageServer",
    "boottime_ns",
    "container_policy",
    "container_power_loss",
    "crc32c",
    "create_container",
    "entry_decisions",
    "entry_pack",
    "inspect_container",
    "latency_bucket",
    "latency_bucket_ns",
    "name_log",
    "nbd_list_exports",
    "remove_container",
]

# The entry word (design, section 3): 0 is invalid -------------------------------------------------

ENTRY_VALID: int
ENTRY_ERROR: int
ENTRY_ZERO: int
ENTRY_NO_WRITE: int
ENTRY_CONTAINER_SHIFT: int
ENTRY_SEGMENT_MASK: int

# `SetEntryState.flags`
STATE_INVALID: int
STATE_ERROR: int
STATE_ZERO: int
STATE_NO_WRITE: int

# Flags of a host I/O (NBD's command flags), and what block status says (NBD's base:allocation)
FLAG_FUA: int
FLAG_NO_HOLE: int
FLAG_REQ_ONE: int
FLAG_FAST_ZERO: int
STATUS_HOLE: int
STATUS_ZERO: int

def entry_pack(container: int, segment: int, no_write: bool = False) -> int:
    """The word of a location; `ValueError` or `OverflowError` where a number does not fit."""

def entry_decisions(word: int) -> tuple[str, list[tuple[str, str]]]:
    """The state of an entry, and the truth table's line for it: (kind of I/O, what it does).

    In the words of docs/mapping.md.
    """

# The mapping engine ---------------------------------------------------------------------------

_Effect: TypeAlias = tuple[Any, ...]
"""What the driver has to do, in order; the first item names it.

    ("io", piece, token, kind, container, offset, len, buf_off, fua, no_hole, fast)
        kind: "read", "write", "zero" or "trim"; answered by `piece_done`
    ("rmw", piece, token, container, offset, len, buf_off, skip, data_len, zeroes, head, tail, fua,
     unit)
        read the missing edges, merge, one write; head, tail: None (zeroes) or (container, offset)
        of the unit that holds them; answered by `piece_done`
    ("flush", piece, token, container)      answered by `piece_done`
    ("fill", token, buf_off, len)           zeroes into the host's read buffer
    ("reply", token, errno, in_use)         in_use: "release" follows
    ("release", token)                      nothing runs on the buffer any more
    ("status", token, [(len, flags)])       the answer to a block status request
"""

_Event: TypeAlias = tuple[Any, ...]
"""What the session is told; the first item names it.

    ("fault", request, disk, segment, segments, operation, first_block, count_blocks, word)
    ("answer", command, outcome, errno, entries, held)
    ("container_failed", request, disk, container, errno)
    ("quiesce_expired", disk, quiesce)
    ("fault_gone", request)
    ("faults", [disk], [(fault without its name, status, command, outcome, errno)])
    ("lease_ended",)

and from a `DataPlane` alone:

    ("want_export", token, name)
    ("want_list", token)
    ("question_gone", token)                the host that asked has gone
    ("unused", disk, given)                 its last connection has closed
    ("latency", request, rows)              answers `ask_latency`
    ("io_faulted", io, request), ("io_answered", io, cause, errno, took_ns)     see `trace_io`
"""

@final
class Engine:
    """The mapping engine without I/O, as the simulator drives it (docs/mapping.md).

    Every call that takes `now` first lets time pass.  Take notes, effects and events after every
    call.
    """

    def __new__(
        cls,
        *,
        park_limit_bytes: int,
        host_timeout_ns: int | None = None,
        pieces_at_once: int = 64,
    ) -> Engine: ...
    def host_io(
        self, now: int, token: int, disk: int, op: str, offset: int, len: int, flags: int = 0
    ) -> None:
        """A host's request; op: "read", "write", "zero", "trim", "flush" or "status"."""

    def host_gone(self, token: int) -> None:
        """The host's connection is gone; "release" follows."""

    def piece_done(self, now: int, piece: int, errno: int) -> None:
        """An "io", "rmw" or "flush" has ended."""

    def piece_refused(self, now: int, piece: int, errno: int) -> None:
        """It ended before its write or flush was begun: no failure of the container."""

    def piece_not_begun(self, now: int, piece: int) -> None:
        """Nothing of it was begun, nor will be: it is decided again, or dropped."""

    def deliver(self, now: int, message: Message) -> None:
        """A command or a fault answer of `segue.wire.messages`; `TypeError` for others."""

    def set_lease(self, now: int, until_ns: int) -> None:
        """There is a lease until then."""

    def end_lease(self, now: int) -> None:
        """The lease ends now."""

    def list_faults(self) -> None:
        """Asks for one "faults" event."""

    def tick(self, now: int) -> None:
        """Lets time pass; to be called at `deadline`."""

    def deadline(self) -> int | None:
        """When `tick` must be called next; None: not before something else happens."""

    def accepts(self, disk: int) -> bool:
        """False: over the park limit, do not read the disk's connections."""

    def effects(self) -> list[_Effect]:
        """Takes all effects."""

    def events(self) -> list[_Event]:
        """Takes all events."""

    def notes(self) -> list[tuple[int, int]]:
        """Takes all notes: (token, `Cause`) of host I/Os not answered yet; before the effects."""

    def self_check(self) -> None:
        """Asserts the engine's invariants: a `BaseException` (a panic) if one is broken."""

    def digest(self) -> int:
        """A hash of the engine's state, without queues, time and counters."""

    def stats(self) -> dict[str, int]:
        """disks, hosts, pieces, faults, blockers, parked_bytes, table_pages, ignored_answers."""

# The data plane ---------------------------------------------------------------------------------

@final
class DataPlane:
    """The data threads of an agent: NBD server, mapping engine, containers.

    Nothing blocks but `shutdown`; messages go to the data thread through a queue and an eventfd.
    """

    def __new__(
        cls,
        *,
        incarnation: int,
        park_limit_bytes: int,
        host_timeout_ns: int | None = None,
        handshake_timeout_ns: int = ...,
        connections_max: int = ...,
        disk_connections_max: int = ...,
    ) -> DataPlane: ...
    def fileno(self) -> int:
        """An eventfd, readable while there are events."""

    def events(self) -> list[_Event]:
        """Takes all events."""

    def deliver(self, message: Message) -> None:
        """A command or a fault answer."""

    def set_lease(self, until_ns: int) -> None:
        """There is a lease until then."""

    def end_lease(self) -> None:
        """The lease ends now."""

    def list_faults(self) -> None:
        """Asks for one "faults" event."""

    def ask_latency(self, request: int, disk: int) -> None:
        """Asks for one ("latency", request, rows) event: how long the disk's host I/O took.

        A row: operation (1 read, 2 write, 3 write-zeroes, 4 trim, 5 flush), cause (`Cause` of
        `segue.wire.messages`), sum of times and longest in ns, buckets, their counts.
        """

    def trace_io(self) -> None:
        """Tells from now on of each host I/O that raises a fault, and how it ended, in events

            ("io_faulted", io, request)
            ("io_answered", io, cause, errno, took_ns)      of what met anything on its way

        io: connection, cookie, disk, operation, offset, length.
        """

    def export_answer(
        self, token: int, errno: int, disk: int, size_bytes: int, block_bytes: int, read_only: bool
    ) -> None:
        """Answers a "want_export"."""

    def list_answer(self, token: int, names: list[str]) -> None:
        """Answers a "want_list"."""

    def listen_unix(self, path: str) -> None:
        """Serves NBD on a unix socket; `OSError`."""

    def listen_tcp(self, host: str, port: int) -> int:
        """Serves NBD on TCP; returns the port (asked 0: chosen); `OSError`."""

    def shutdown(self, drain_ns: int) -> None:
        """Takes no new connections, waits so long for I/O under way, ends the threads."""

    def stats(self) -> dict[str, int]:
        """Counters."""

def boottime_ns() -> int:
    """CLOCK_BOOTTIME."""

def name_log(process: str) -> None:
    """Gives native threads' lines of log time, level and this name of the process, for good."""

LATENCY_BUCKETS: int

def latency_bucket(ns: int) -> int:
    """The bucket of latency histograms that a time is counted in."""

def latency_bucket_ns(bucket: int) -> int:
    """The shortest time of a bucket; of number LATENCY_BUCKETS: where the last one ends."""

# Containers -----------------------------------------------------------------------------------

CONTAINER_DATA_AT: int
"""Byte of a container's storage where its segment 0 begins."""

@type_check_only
class ContainerHeader(TypedDict):
    """What a container's header says."""

    installation: bytes
    identity: bytes
    segment_bytes: int
    segments: int
    write_unit_bytes: int
    clean: bool
    created: bool
    """Segue made the file, and deletes it with the container."""
    term: int
    commit: int

@type_check_only
class NewContainer(TypedDict):
    """What creating a container made."""

    segments: int
    write_unit_bytes: int
    clean: bool
    created: bool

@type_check_only
class ContainerPolicy(TypedDict):
    """What an operator has set, in its URI, for a container across the network."""

    fail_after_s: float | None
    """I/O that has waited so long for a server that is away gets EIO; None: it waits."""
    linger_s: float | None
    timeout_s: float
    connections: int

@final
class StorageHandle:
    """The controller's side of an open container; calls block without the GIL, raise `OSError`."""

    def __new__(
        cls, uri: str, cache: str, identity: bytes, installation: bytes, fence: int
    ) -> StorageHandle: ...
    def zero(self, offset: int, length: int) -> None:
        """Makes the range read as zeroes; durable after `flush`."""

    def copy_from(self, src: StorageHandle, src_offset: int, dst_offset: int, length: int) -> None:
        """Copies a range; durable after `flush`."""

    def read(self, offset: int, length: int) -> bytes:
        """Reads a range."""

    def flush(self) -> None:
        """Makes all that was written durable; EIO too while a note stands there."""

    def note(self) -> tuple[int, int, int] | None:
        """The note of a failed sync: (errno, holder, serial)."""

    def clear_note(self, errno: int, holder: int, serial: int) -> None:
        """Takes that note away, durably, if it is still there."""

    def fence_ended(self, incarnation: int, ending: int = 0) -> bool:
        """Whether no I/O of that holder can be under way, or begin.

        `ending`: 0 asks only, 1 ends its sessions at a server (its lease is over), 2 for ever.
        """

    def set_lease(self, until_ns: int) -> None:
        """Writes across the network may begin until then, CLOCK_BOOTTIME."""

    def set_policy(self, uri: str) -> None:
        """What the operator has set for storage across the network, by its URI's parameters."""

    def away_s(self) -> float | None:
        """For how long its server has been away, in seconds."""

    def has_fence(self) -> bool:
        """Whether I/O of others here can be proven to have ended."""

    def stamp(self, term: int, commit: int) -> None:
        """Writes the newest (term, commit) into the header, durably."""

    def header(self) -> ContainerHeader:
        """Reads the header."""

    def close(self) -> None:
        """Lets go of it, and of its fence."""

def create_container(
    uri: str,
    size_bytes: int,
    segment_bytes: int,
    identity: bytes,
    installation: bytes,
    term: int,
    cache: str,
    *,
    erase: bool = False,
) -> NewContainer:
    """Makes a container of a file, or of a device (`size_bytes` 0: all of it).

    Refuses what holds anything, with `erase` no device; may be repeated after a crash, by no older
    `term`.
    """

def remove_container(uri: str, identity: bytes, cache: str) -> None:
    """Gives the storage back: the header goes, a file that Segue made is deleted; `OSError`.

    May be repeated.
    """

def inspect_container(uri: str) -> ContainerHeader | None:
    """The header of what lies there; None: not a container."""

def container_policy(uri: str) -> ContainerPolicy | None:
    """What its URI sets for a container across the network; None: it is none; `OSError`."""

def container_power_loss(uri: str, seed: int) -> tuple[int, int]:
    """Loses power, for a ``forgetful+file://`` container that nobody has open.

    Of what was not flushed each sector is kept or lost as `seed` decides.  Returns (blocks not
    flushed, sectors lost); `OSError`.
    """

# NBD ------------------------------------------------------------------------------------------

@final
class NbdClient:
    """A blocking NBD client: one connection; calls of several threads wait for each other.

    `address`: the path of a unix socket, ``nbd://HOST[:PORT]``, or ``nbd+unix:///?socket=PATH``.
    All raise `OSError` with the errno the server gave.
    """

    def __new__(cls, address: str, export: str = "") -> NbdClient: ...
    @property
    def size(self) -> int:
        """Bytes of the export."""

    @property
    def block_sizes(self) -> tuple[int, int, int]:
        """Minimum, preferred, maximum, in bytes."""

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""

    def pread(self, length: int, offset: int) -> bytes:
        """Reads."""

    def pwrite(self, data: bytes, offset: int, fua: bool = False) -> None:
        """Writes; with `fua`, durable before it returns."""

    def zero(
        self, length: int, offset: int, fua: bool = False, no_hole: bool = False, fast: bool = False
    ) -> None:
        """Makes a range read as zeroes."""

    def trim(self, length: int, offset: int, fua: bool = False) -> None:
        """Says that a range is no longer needed."""

    def flush(self) -> None:
        """Makes durable whatever was acknowledged."""

    def block_status(self, length: int, offset: int) -> list[tuple[int, int]]:
        """Extents from `offset`: (length in bytes, STATUS_* bits)."""

    def close(self) -> None:
        """Ends the session in order; further calls raise `OSError`."""

def nbd_list_exports(address: str) -> list[str]:
    """The names of a server's exports; `OSError`."""

@final
class StorageServer:
    """Exports storage over NBD with a fence, until it is closed or its process ends."""

    def __new__(
        cls,
        storage: str,
        cache: str,
        name: str,
        state: str,
        *,
        handshake_timeout_ns: int = ...,
        connections_max: int = ...,
    ) -> StorageServer: ...
    @property
    def size_bytes(self) -> int:
        """Size of the export."""

    def listen_unix(self, path: str) -> None:
        """Serve on a unix socket."""

    def listen_tcp(self, host: str, port: int) -> int:
        """Serve on a TCP port (0: any); gives the port."""

    def close(self) -> None:
        """Let nobody in any more."""

def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, going on from `crc`."""
