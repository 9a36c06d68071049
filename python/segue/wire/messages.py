"""The one table of messages between agent and controller (design, section 4).

Every message is a ``msgspec`` struct encoded as a MessagePack array whose first item is its tag;
``docs/protocol.md`` is the same table for readers.  Nothing here acts: framing lives in
``wire/framing.py``, meaning in ``agent/session.py`` and ``controller/``.

Units: ``*_ns`` are nanoseconds of the sender's CLOCK_BOOTTIME, ``*_bytes`` bytes, ``*_blocks``
blocks of the disk's block size, segments are indexes in a disk.  Table entries travel as the
64-bit words defined in ``crates/segue-map`` (constants in ``segue._native``).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 16 << 20
MAX_FAULTS = 1 << 18
"""Unanswered at one agent: twice what its engine keeps under way."""
_MAX_RUNS = 1 << 18
_MAX_TABLES = 1 << 16
_MAX_CONTAINERS = 1 << 16

# What a decoder refuses nobody behind it needs to (rule 10): numbers as wide as the engine's.
Count = Annotated[int, msgspec.Meta(ge=0)]
"""64 bits: a request, a command, a segment, an entry's word."""
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
"""32 bits: a disk, an agent, a size of a block."""
ContainerNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Errno = Annotated[int, msgspec.Meta(ge=0, lt=1 << 12)]
Flags = Annotated[int, msgspec.Meta(ge=0, lt=1 << 8)]
Identity = Annotated[bytes, msgspec.Meta(max_length=16)]
"""16 bytes; none: not known yet."""
ExportName = Annotated[str, msgspec.Meta(max_length=4096)]
Uri = Annotated[str, msgspec.Meta(max_length=8192)]
NbdAddress = Annotated[str, msgspec.Meta(max_length=512, pattern=r"^nbd(\+unix)?://[!-~]*$")]


class BadMessage(Exception):
    """Bytes that are no message of that side."""


class Operation(IntEnum):
    """What a faulted I/O wants of its entry (design, section 3, the truth table's columns)."""

    READ = 1
    WRITE = 2
    """A write, and every write-zeroes that must leave zeroes written (partial, or NO_HOLE)."""
    DISCARD = 3
    """Trim, or write-zeroes without NO_HOLE, of whole segments: may be made zero in the table."""


class Cause(IntEnum):
    """The dearest thing that a host I/O met on its way (histograms of latency)."""

    CLEAN = 0
    """Its entries let it go ahead."""
    PARKED = 1
    """It was parked by a quiesce, or for want of a lease."""
    FAULTED = 2
    """A fault; if none of the below: answered by `Retry`, or not before the host was."""
    SPLIT_READ = 3
    """A fault, carried out by `DoSplitRead`."""
    DO_WRITE = 4
    """A fault, carried out by `DoWrite`."""
    COMPLETED = 5
    """A fault, answered by `CompleteToHost` alone (a discard)."""
    FAILED = 6
    """A fault, answered by `Failure`."""


class FaultStatus(IntEnum):
    """How a fault listed in `Hello` stands at the agent."""

    WAITING = 1
    """Parked; no command is carrying it out."""
    RUNNING = 2
    """A `do_write` or `do_split_read` is carrying it out now; its answer comes in this session."""
    DONE = 3
    """A `do_*` carried it out, its answer may have been lost; the host has not been answered."""


class Outcome(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    """Refused or failed; `errno` says why, and nothing was changed by a refused command."""
    GONE = 2
    """`do_*` only: no such unanswered fault at this agent (any more)."""


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Whatever crosses the link."""


# Parts of messages -----------------------------------------------------------------------------


class ContainerSpec(Message, frozen=True):
    """A storage container as an agent must open it.

    `uri` is ``file:///path`` (later ``block://``, ``nbd://``); `cache` is "page" or "direct" and
    belongs to the container; `write_unit_bytes` is the smallest write it takes (1 for page cache,
    512 or 4096 for direct).  `identity` is the 16-byte container UUID its header must carry.
    `failed` says that a flush of it failed and was not cleared: every FLUSH and FUA of the disk
    gets EIO (promise P5).
    """

    container: ContainerNumber
    uri: Uri
    identity: Identity
    segment_bytes: Bytes
    segments: Count
    cache: str
    write_unit_bytes: Number
    failed: bool = False


class EntryRun(Message, frozen=True):
    """`count` entries from segment `first`: entry i is ``word + i * step`` (step 0 or 1)."""

    first: Count
    count: Count
    word: Count
    step: Count = 0


class BlockRun(Message, frozen=True):
    """Where a run of blocks of a faulted I/O lies.

    `first_block` and `count_blocks` are relative to the segment.  `location` is an entry word with
    no flags but VALID (container and segment; the blocks lie at the same offset in it), or 0:
    the blocks read as zeroes.
    """

    first_block: Count
    count_blocks: Count
    location: Count


class PendingFault(Message, frozen=True):
    """One unanswered fault, as `Hello` lists it; `command` is the `do_*` of status RUNNING/DONE.

    `outcome` and `errno` are those of a DONE one.
    """

    fault: MapFault
    status: FaultStatus
    command: Count = 0
    outcome: Outcome = Outcome.DONE
    errno: Errno = 0


ContainerSpecs = Annotated[list[ContainerSpec], msgspec.Meta(max_length=_MAX_CONTAINERS)]
EntryRuns = Annotated[list[EntryRun], msgspec.Meta(max_length=_MAX_RUNS)]
BlockRuns = Annotated[list[BlockRun], msgspec.Meta(max_length=_MAX_RUNS)]
PendingFaults = Annotated[list[PendingFault], msgspec.Meta(max_length=MAX_FAULTS)]
Tables = Annotated[list[Number], msgspec.Meta(max_length=_MAX_TABLES)]
Words = Annotated[list[Count], msgspec.Meta(max_length=_MAX_RUNS)]
Listens = Annotated[list[NbdAddress], msgspec.Meta(max_length=64)]


# Agent -> controller ---------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=1):
    """Opens a session: the first message on every link.

    `incarnation` is made at every start of the agent (`segue.wire.incarnation`).  `term` and
    `commit` are the newest the agent has seen (0: none).  `tables` are the disks it holds tables
    of, `faults` all its unanswered faults.  `lease_lost`: its lease has ended since its last
    session.  `listens`: where hosts reach it, as ``nbd://HOST:PORT`` or ``nbd+unix:///?socket=PATH``.
    """

    version: Count
    name: str
    incarnation: Count
    term: Count
    commit: Count
    installation: Identity
    tables: Tables
    faults: PendingFaults
    lease_lost: bool
    listens: Listens = []


class LeaseRequest(Message, frozen=True, tag=2):
    """Asks to extend the lease; `sent_ns` is read from the agent's clock before it is sent."""

    sent_ns: Nanoseconds


class MapFault(Message, frozen=True, tag=3):
    """This I/O cannot proceed on this entry (the source's "map fault").

    `request` is unique within the incarnation.  `segments` counts segments from `segment`; the
    block fields are relative to the first one and cover the whole I/O: ``count_blocks`` is rounded
    outward to blocks.  `word` is the entry met, with the table-wide states taken in.
    """

    request: Count
    disk: Number
    segment: Count
    segments: Count
    operation: Operation
    first_block: Count
    count_blocks: Count
    word: Count


class Answer(Message, frozen=True, tag=4):
    """Answers one command.  `entries` is filled by `get_entry` (words) only."""

    command: Count
    outcome: Outcome
    errno: Errno = 0
    entries: Words = []
    held: bool = False
    """`activate` only: the quiesce named was still held."""


class ContainerFailed(Message, frozen=True, tag=5):
    """A flush or FUA write of a container failed; answered by `Failure` once that is durable."""

    request: Count
    disk: Number
    container: ContainerNumber
    errno: Errno


class QuiesceExpired(Message, frozen=True, tag=6):
    """The quiesce `quiesce` of `disk` ended by itself at its `hold` deadline."""

    disk: Number
    quiesce: Count


class FaultGone(Message, frozen=True, tag=11):
    """Nobody waits for the discard of that fault any more: it must not be done behind what follows.

    Unanswered by rule; of other faults nothing is said, their I/O is the agent's own.
    """

    request: Count


class OpenExport(Message, frozen=True, tag=7):
    """A host asked the agent for the disk called `name`; answered by `ExportOpened`."""

    request: Count
    name: ExportName


class CloseExport(Message, frozen=True, tag=8):
    """No host uses `disk` any more; the controller may end the attachment (`delete_table`)."""

    disk: Number


class ListExports(Message, frozen=True, tag=9):
    """A host asked for the list of exports; answered by `Exports`."""

    request: Count


class LatencyRow(Message, frozen=True):
    """How long host I/O of one operation and cause took, since the agent's start.

    `operation`: 1 read, 2 write, 3 write-zeroes, 4 trim, 5 flush.  ``counts[i]`` I/Os lie in bucket
    ``buckets[i]`` (`segue._native.latency_bucket_ns`), ascending; empty buckets are left out.
    """

    operation: Number
    cause: Cause
    sum_ns: Count
    max_ns: Count
    buckets: Annotated[list[Number], msgspec.Meta(max_length=1024)]
    counts: Annotated[list[Count], msgspec.Meta(max_length=1024)]


class Latency(Message, frozen=True, tag=10):
    """Answers `AskLatency`; no rows if no I/O of the disk came."""

    request: Count
    rows: Annotated[list[LatencyRow], msgspec.Meta(max_length=64)]


# Controller -> agent: session ------------------------------------------------------------------


class Welcome(Message, frozen=True, tag=32):
    """Accepts a `Hello`.  Commands of an older (term, session) are refused from here on.

    `lost`: the controller has counted this incarnation as lost; the agent ends its lease at once.
    """

    term: Count
    session: Count
    agent: Number
    installation: Identity
    lost: bool


class Refused(Message, frozen=True, tag=33):
    """Refuses a `Hello` (one clear sentence); the link is closed.  `final`: do not try again."""

    reason: str
    final: bool


class Lease(Message, frozen=True, tag=34):
    """The lease runs `duration_ns` from the `sent_ns` of the request it answers.

    `commit` is the newest commit number, for stamps.
    """

    sent_ns: Nanoseconds
    duration_ns: Nanoseconds
    commit: Count


class ExportOpened(Message, frozen=True, tag=35):
    """Answers `OpenExport`; with `errno` 0 the table of `disk` exists at the agent by now."""

    request: Count
    errno: Errno
    disk: Number = 0
    size_bytes: Bytes = 0
    block_bytes: Number = 4096
    read_only: bool = False


class Exports(Message, frozen=True, tag=36):
    """Answers `ListExports`."""

    request: Count
    names: list[ExportName]


class AskLatency(Message, frozen=True, tag=37):
    """How long did the host I/O of `disk` take?  Answered by `Latency`; sent only when asked."""

    request: Count
    disk: Number


# Controller -> agent: answers to faults (each fault gets exactly one) --------------------------


class Retry(Message, frozen=True, tag=48):
    """Take these entries, then decide the I/O again."""

    request: Count
    disk: Number
    runs: EntryRuns


class Failure(Message, frozen=True, tag=49):
    """Give the host `errno` for this I/O alone; also answers `ContainerFailed`.

    With `set_error` the segment's entry takes the error state as well.
    """

    request: Count
    errno: Errno
    set_error: bool = False


class CompleteToHost(Message, frozen=True, tag=50):
    """Another command has done this I/O: reply to the host."""

    request: Count


# Controller -> agent: commands, each answered by `Answer` --------------------------------------


class NewTable(Message, frozen=True, tag=64):
    """Make a table of `disk`, all entries invalid."""

    command: Count
    disk: Number
    size_bytes: Bytes
    segment_bytes: Bytes
    block_bytes: Number
    read_only: bool
    containers: ContainerSpecs


class DeleteTable(Message, frozen=True, tag=65):
    """Forget the table, blocking; I/O parked on it gets ESHUTDOWN."""

    command: Count
    disk: Number


class ResizeTable(Message, frozen=True, tag=66):
    """Give the table another size; entries beyond it are gone, new ones invalid."""

    command: Count
    disk: Number
    size_bytes: Bytes
    blocking: bool


class GetEntry(Message, frozen=True, tag=67):
    """Read entries back, table-wide states taken in (the source's get_entry and get_status)."""

    command: Count
    disk: Number
    first: Count
    count: Count


class SetEntry(Message, frozen=True, tag=68):
    """Replace entries."""

    command: Count
    disk: Number
    runs: EntryRuns
    blocking: bool


class SetEntryState(Message, frozen=True, tag=69):
    """Set states over a run, or over the whole table (`whole_table`, invalid and no_write only).

    `flags`: STATE_* bits of `segue._native`.  `clear_no_write` clears that state instead.
    """

    command: Count
    disk: Number
    first: Count
    count: Count
    flags: Flags
    clear_no_write: bool
    whole_table: bool
    blocking: bool


class SetContainers(Message, frozen=True, tag=70):
    """The containers a FLUSH of `disk` goes to, and all its entries may name."""

    command: Count
    disk: Number
    containers: ContainerSpecs


class Quiesce(Message, frozen=True, tag=71):
    """Park new host I/O of `disk`; answer when started pieces are done.

    Fails (and the disk is active again) if that takes longer than `drain_ns`; ends by itself after
    `hold_ns`.  Quiesces nest.
    """

    command: Count
    disk: Number
    quiesce: Count
    drain_ns: Nanoseconds
    hold_ns: Nanoseconds


class Activate(Message, frozen=True, tag=72):
    """End the quiesce `quiesce` of `disk`; the answer's `held` says whether it still held."""

    command: Count
    disk: Number
    quiesce: Count


class DoWrite(Message, frozen=True, tag=73):
    """Carry out the faulted write `request` at `location`, durably (FUA).

    Where the I/O covers its first or last block only in part, the rest of that block is read
    from `head` or `tail` (a location word, or 0 for zeroes) and the whole block is written.
    """

    command: Count
    request: Count
    location: Count
    head: Count
    tail: Count


class DoSplitRead(Message, frozen=True, tag=74):
    """Carry out the faulted read `request` from `runs`, which cover all its blocks in order."""

    command: Count
    request: Count
    runs: BlockRuns


AgentMessage = (
    Hello
    | LeaseRequest
    | MapFault
    | Answer
    | ContainerFailed
    | QuiesceExpired
    | OpenExport
    | CloseExport
    | ListExports
    | Latency
    | FaultGone
)
FaultAnswer = Retry | Failure | CompleteToHost
Command = (
    NewTable
    | DeleteTable
    | ResizeTable
    | GetEntry
    | SetEntry
    | SetEntryState
    | SetContainers
    | Quiesce
    | Activate
    | DoWrite
    | DoSplitRead
)
ControllerMessage = (
    Welcome | Refused | Lease | ExportOpened | Exports | AskLatency | FaultAnswer | Command
)

# msgspec's own, and what it lets through: text that is no UTF-8, arrays nested thousands deep.
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
_agent_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_controller_decoder: msgspec.msgpack.Decoder[ControllerMessage] = msgspec.msgpack.Decoder(
    ControllerMessage
)


class _Greeting(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """What stays of `Hello` in every version."""

    version: Count


_greeting_decoder: msgspec.msgpack.Decoder[_Greeting] = msgspec.msgpack.Decoder(_Greeting)


def encode(message: Message) -> bytes:
    """One message as MessagePack."""
    return _encoder.encode(message)


def decode_from_agent(data: bytes | memoryview) -> AgentMessage:
    """Raises `BadMessage` on anything but an AgentMessage.

    Of a Hello of another version, whose fields may be others, nothing but the version is taken.
    """
    try:
        return _agent_decoder.decode(data)
    except _DECODE_ERRORS as error:
        version = _other_version(data)
        if version is None:
            raise BadMessage(str(error)) from None
        return Hello(version, "", 0, 0, 0, b"", [], [], lease_lost=False)


def _other_version(data: bytes | memoryview) -> int | None:
    try:
        version = _greeting_decoder.decode(data).version
    except _DECODE_ERRORS:
        return None
    return version if version != PROTOCOL_VERSION else None


def decode_from_controller(data: bytes | memoryview) -> ControllerMessage:
    """Raises `BadMessage` on anything else."""
    try:
        return _controller_decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise BadMessage(str(error)) from None
