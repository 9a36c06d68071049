"""What proves that a holder's I/O has ended at a container (design, section 4, "Fences"; rule 5).

Three kinds of container:

- same machine: the lock that rode on the descriptor of its I/O is gone.  Asking is enough.
- `segue serve`: the server ends the holder's sessions and waits for what is under way.  A holder
  whose lease is over begins nothing on a session it makes after that; one that was replaced (an
  earlier copier, an incarnation whose agent has come back as another) is shut out for good.
- any other server: nothing.  The operator may say how long requests of a lost client can linger
  there: what was sent before the holder's lease ended is over that long after its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from segue.controller.ports import Ending
from segue.controller.settings import SECOND_NS

if TYPE_CHECKING:
    from segue.controller.controller import Controller
    from segue.controller.table import Container

MS_NS = 1_000_000


def is_remote(uri: str) -> bool:
    """Whether a container lies across the network."""
    return uri.startswith(("nbd://", "nbd+unix://"))


def uri_as_set(container: Container) -> str:
    """The container's URI, with the linger time that its operator has set since it was added."""
    uri = container.row.uri
    if not is_remote(uri) or not container.linger_s:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}linger-ms={round(container.linger_s * 1000)}"


def linger_of(uri: str) -> int:
    """What a container's URI says of lingering requests, in ns; 0: nothing."""
    if not is_remote(uri):
        return 0
    values = parse_qs(urlsplit(uri).query).get("linger-ms", [])
    return int(values[-1]) * MS_NS if values else 0


def linger_ns(container: Container) -> int:
    """How long requests of a lost client may linger at the storage; 0: nobody has said."""
    if container.linger_s:
        return round(container.linger_s * SECOND_NS)
    return linger_of(container.row.uri)


def ending_of(c: Controller, holder: int) -> Ending:
    """What may be done to a holder to find out."""
    if holder in c.table.fences:
        return Ending.FOREVER
    peer = c.peers.get(holder)
    if peer is None:
        is_over = c.clock.now_ns() >= c.old_leases_until_ns
        return Ending.SESSIONS if is_over else Ending.ASK
    for other in c.peers.values():
        if other is not peer and other.name == peer.name and other.link is not None:
            # It is refused from now on: see `agents._refusal`.
            return Ending.FOREVER
    return Ending.SESSIONS if peer.gone else Ending.ASK


def lingers_until_ns(c: Controller, number: int, holder: int) -> int | None:
    """When the operator's time after the end of the holder's lease is over; None: no such word."""
    container = c.table.containers[number]
    linger = linger_ns(container)
    if not linger or (holder in c.table.fences and not is_remote(container.row.uri)):
        # A copier asks for its term's lease before each write across the network, not elsewhere.
        return None
    peer = c.peers.get(holder)
    return (peer.lease_until_ns if peer is not None else c.old_leases_until_ns) + linger


def has_lingered(c: Controller, number: int, holder: int) -> bool:
    """Whether the operator's time has passed since the holder's lease ended."""
    peer = c.peers.get(holder)
    if peer is not None and not peer.gone:
        return False
    until_ns = lingers_until_ns(c, number, holder)
    return until_ns is not None and c.clock.now_ns() >= until_ns


def ends_when(c: Controller, holder: int, numbers: Iterable[int]) -> str:
    """For people: what will prove that a holder's I/O has ended at these containers, and when."""
    unproven, lingering, fenced, latest_ns = [], [], [], 0
    for number in sorted(numbers):
        container = c.table.containers.get(number)
        if container is None:
            continue
        until_ns = lingers_until_ns(c, number, holder)
        if until_ns is not None:
            lingering.append(container.row.name)
            latest_ns = max(latest_ns, until_ns)
        elif is_remote(container.row.uri) and not c.storage.has_fence(number):
            unproven.append(container.row.name)
        else:
            fenced.append(container.row.name)
    said = []
    if unproven:
        said.append(
            f"no fence proves its end at {', '.join(unproven)}: `segue container linger` says "
            f"how long I/O can linger"
        )
    if lingering:
        left_s = max(0.0, c.seconds(latest_ns - c.clock.now_ns()))
        said.append(f"ends at {', '.join(lingering)} in {left_s:.0f} s at the latest (linger)")
    if fenced:
        said.append(f"ends at {', '.join(fenced)} when its fence proves it")
    return "; ".join(said)


@dataclass(frozen=True)
class OlderIO:
    """What is waited for where older controllers' I/O is; `fences` are theirs."""

    text: str
    fences: frozenset[tuple[int, int]]
    """(fence, container)."""

    def __str__(self) -> str:
        return self.text

    def ends_when(self, c: Controller) -> str:
        """See `ends_when`; for several, what differs."""
        holders = sorted({fence for fence, _ in self.fences})
        said = [
            ends_when(c, holder, [at for fence, at in self.fences if fence == holder])
            for holder in holders
        ]
        return "; ".join(dict.fromkeys(said))


async def fence_ended(c: Controller, number: int, holder: int) -> bool:
    """Whether the holder's I/O has provably ended at the container; raises `OSError`.

    What it still does to a container that is gone matters to nobody.
    """
    if number not in c.table.containers:
        return True
    if has_lingered(c, number, holder):
        return True
    return await c.storage.fence_ended(number, holder, ending_of(c, holder))
