"""A host's I/O on its way through a simulated data plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

FUA, NO_HOLE, REQ_ONE, FAST_ZERO = 1, 2, 8, 16
"""NBD's command flags, as the engine takes them."""


@dataclass(eq=False, slots=True)
class HostIo:
    """One host I/O at the front end; sectors are of 512 bytes, `tokens` what a write carries."""

    op: str
    """read, write, zero, trim, flush or status."""
    disk: int
    first: int
    count: int
    flags: int
    tokens: Sequence[int]
    replied: Callable[[int, Any], None]
    """Called with the errno and what was read (or block status), in no process."""
    token: int = 0
    buffer: list[int] = field(default_factory=list)
    under_way: int = 0
    """Container requests that belong to it."""
    finished: bool = False
    """The engine has said its last word, or is dead."""
    answered: bool = False
    over: Callable[[], None] | None = None
    """Called once when nothing of it can take effect any more."""
    begun_ns: int = 0
    cause: int = 0
    """The dearest thing it has met: a `Cause`."""
    faults: list[int] = field(default_factory=list)
    """Requests of the faults it has raised."""

    def settle(self) -> None:
        """Calls `over` if that is so now."""
        if self.finished and not self.under_way and self.over is not None:
            over, self.over = self.over, None
            over()
