"""Named places where a process can be made to die: there from the first day, free when off.

``SEGUE_FAILPOINTS="commit.durable=kill"`` kills the process (SIGKILL, as a crash would) when it
comes to that place; ``commit.durable=kill:3`` at the third time; several are separated by commas.
A name or action that does not exist is refused at the start of the process.  `POINTS` lists the
names, each with what a crash there leaves behind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

VARIABLE = "SEGUE_FAILPOINTS"

POINTS: dict[str, str] = {
    "term.begun": "the term is claimed, its first commit is not made",
    "commit.before": "changes are decided, nothing is durable",
    "commit.durable": "a group is durable, nobody was told",
    "checkpoint.before": "the pages are encoded, the old checkpoint stands",
    "checkpoint.durable": "the new checkpoint stands, its writer does not know",
    "first_write.restricted": "other agents are invalid, the allocation is not committed",
    "first_write.committed": "the segment has an extent, no agent has its entry",
    "discard.restricted": "all agents are invalid, the segments are as they were",
    "discard.committed": "the segments are zero, the host has no answer",
    "do_write.done": "the data is durable at the location, no bit says so",
    "do_write.committed": "the bit is durable, the host has no answer",
    "split_read.done": "the read is done, the host has no answer",
    "do_write.closed": "no agent may read the source any more, no block is written",
    "complete.source_flushed": "the source of a movement is durable, nothing is copied",
    "complete.piece_copied": "a piece is at the new location, no bit of it is durable",
    "complete.hints_flushed": "copied blocks are durable, their bits are not",
    "complete.copied": "all blocks are durable at the extent's own location, the record stands",
    "complete.restricted": "all agents are invalid, the record stands",
    "complete.committed": "the extent is complete and its source free, no agent has its entry",
    "complete.abandoned": "an extent under movement stays where it was, nobody was told",
    "movement.restricted": "no agent may write at the old location, there is no record",
    "movement.begun": "the record is durable, nothing is copied",
    "flush_set.shrunk": "a container has left a disk's flush set, agents still flush it",
    "job.ending": "a job has nothing left to do and is not ended",
    "remove.flushed": "a container is empty and flushed, its removal is not committed",
    "remove.committed": "a container is in no flush set any more, agents may have it open",
    "remove.given_back": "a container's storage is given back, its row still stands",
    "resize.restricted": "all agents are invalid beyond a disk's new end, its old size stands",
    "resize.recorded": "a disk's last segment is incomplete, nothing behind its end is zeroed",
    "resize.zeroed": "the rest of a disk's last segment is durably zero, its old size stands",
    "resize.committed": "a disk's new size is durable, no agent knows it",
    "clean.begun": "locations are named as being cleaned, nothing is zeroed",
    "clean.zeroed": "locations are zero and flushed, not marked clean",
    "attach.committed": "the attachment is durable, the agent has no table",
    "detach.deleted": "the agent's table is gone, the attachment stands",
    "lease.granted": "a lease request is answered, the controller has noted it",
    "note.marked": "a failed flush that a note told of is durable, the note stands",
    "stamp.written": "the containers carry a new stamp",
    "agent.fault_raised": "the agent: a fault is parked, the controller has not heard of it",
    "agent.answer_taken": "the agent: a fault's answer was handed to the data plane",
    "agent.command_taken": "the agent: a command was handed to the data plane",
}

_armed: dict[str, int] = {}
"""Name -> how many more times the place is passed before it kills."""
_watchers: list[Callable[[str], None]] = []
"""Told of every place passed: the simulator's."""


def arm(spec: str) -> None:
    """Sets the failpoints of a specification; raises `ValueError` naming what is wrong with it."""
    for item in filter(None, spec.split(",")):
        name, _, action = item.partition("=")
        verb, _, times = action.partition(":")
        if name not in POINTS:
            raise ValueError(f"{VARIABLE}: there is no failpoint {name!r}")
        if verb != "kill" or not (times or "1").isdecimal() or times == "0":
            raise ValueError(f"{VARIABLE}: {item!r} is neither NAME=kill nor NAME=kill:TIMES")
        _armed[name] = int(times or "1")


def arm_from(environment: Mapping[str, str]) -> None:
    """Sets the failpoints that the environment asks for."""
    arm(environment.get(VARIABLE, ""))


def hit(name: str) -> None:
    """The process is at this place; costs one test when nothing is armed."""
    if _armed or _watchers:
        _hit(name)


@contextmanager
def watched(watcher: Callable[[str], None]) -> Iterator[None]:
    """Tells `watcher` of every place that is passed meanwhile."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def _hit(name: str) -> None:
    for watcher in _watchers:
        watcher(name)
    left = _armed.get(name)
    if left is None:
        return
    _armed[name] = left - 1
    if left == 1:
        os.kill(os.getpid(), signal.SIGKILL)
