"""The agent's debug lines: each host I/O that was not clean, its faults, and what came of them.

One line an event, with ids that lead from one to the next and into the controller's log:

    io_faulted        connection, cookie -> agent, incarnation, request
    fault_answered    agent, incarnation, request: the answer
    command           command (-> request, for `do_write` and `do_split_read`)
    command_answered  command
    io_answered       connection, cookie: how it ended, and how long it took

The controller's lines of a fault, its commands and its commits name agent, incarnation and request
as well.  Clean I/O is never told of; the data thread tells nothing unless this is on.
"""

from __future__ import annotations

import logging
from typing import Any

from segue.wire.messages import (
    Cause,
    CompleteToHost,
    ControllerMessage,
    DoSplitRead,
    DoWrite,
    Failure,
    Outcome,
    Retry,
)

log = logging.getLogger("segue.agent.trace")


class Trace:
    """Says what goes through one incarnation of an agent."""

    def __init__(self, name: str, incarnation: int) -> None:
        self._ids = f"agent={name} incarnation={incarnation:x}"

    def told(self, event: tuple[Any, ...]) -> None:
        """An event of the data plane."""
        match event:
            case ("io_faulted", io, request):
                log.debug("event=io_faulted %s request=%d %s", self._ids, request, _words(io))
            case ("io_answered", io, cause, errno, took_ns):
                name = Cause(cause).name.lower()
                log.debug(
                    "event=io_answered %s %s cause=%s errno=%d took_ms=%.3f",
                    self._ids,
                    _words(io),
                    name,
                    errno,
                    took_ns / 1e6,
                )
            case ("answer", command, outcome, errno, *_):
                outcome = Outcome(outcome).name
                log.debug(
                    "event=command_answered command=%x outcome=%s errno=%d", command, outcome, errno
                )

    def received(self, message: ControllerMessage) -> None:
        """A message of the controller."""
        kind = type(message).__name__
        match message:
            case Retry() | Failure() | CompleteToHost():
                log.debug(
                    "event=fault_answered %s request=%d answer=%s", self._ids, message.request, kind
                )
            case DoWrite() | DoSplitRead():
                log.debug(
                    "event=command command=%x message=%s %s request=%d",
                    message.command,
                    kind,
                    self._ids,
                    message.request,
                )
            case _ if (command := getattr(message, "command", None)) is not None:
                log.debug("event=command command=%x message=%s", command, kind)


def _words(io: dict[str, Any]) -> str:
    """A host I/O as its host names it; the cookie is the host's own number."""
    return (
        f"connection={io['connection']} cookie={io['cookie']:x} disk={io['disk']} "
        f"operation={io['operation']} offset={io['offset']} length={io['length']}"
    )
