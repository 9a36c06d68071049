"""The controller's own hands on simulated containers.

What a request does there, and what outlives whom, is `Medium`'s; here is only what
`controller.ports.Storage` promises of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from segue.controller.ports import CreatedContainer, Ending, Note, Room, Stamp
from segue.sim.containers import EIO, ENOENT, SECTOR_BYTES, Holder, Medium, medium_at
from segue.sim.loop import SECOND, US, Process
from segue.wire.messages import ContainerSpec

ECANCELED = 125
EEXIST = 17


class SimStorage:
    """The controller's hands on the media; satisfies `controller.ports.Storage`."""

    def __init__(self, process: Process, media: dict[str, Medium]) -> None:
        self.process = process
        self.media = media
        self.opened: dict[int, Medium] = {}
        self.holder = Holder(process, 0, process.name)
        self.until_ns = 0

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
        """See the port."""
        await self._pause()
        medium = self._medium(uri)
        if medium.identity and not medium.may_take_over(installation, term):
            raise FileExistsError(EEXIST, f"{uri} is a container already")
        medium.format(size_bytes, identity, installation, term)
        return CreatedContainer(medium.segments, medium.write_unit_bytes, medium.clean)

    async def open(self, spec: ContainerSpec, installation: bytes, fence: int) -> Stamp:
        """See the port."""
        await self._pause()
        medium = self._medium(spec.uri)
        if medium.is_missing and spec.container not in self.opened:
            raise FileNotFoundError(ENOENT, f"{spec.uri} is missing")
        if medium.identity != spec.identity or medium.installation != installation:
            raise OSError(EIO, f"{spec.uri} is not the container it was")
        self.holder.fence = fence
        medium.lock(self.holder)
        self.opened[spec.container] = medium
        return medium.stamped

    async def remove(self, spec: ContainerSpec) -> None:
        """See the port."""
        await self._pause()
        self.opened.pop(spec.container, None)
        medium = self._medium(spec.uri)
        if medium.identity == spec.identity:
            medium.give_back()
        await self._pause()

    def forget(self, container: int) -> None:
        """See the port."""
        self.opened.pop(container, None)

    async def zero(self, container: int, offset_bytes: int, length_bytes: int) -> None:
        """See the port; the ends are merged, like `Container::zero_exactly` of segue-io does it."""
        begin, count = _sectors(offset_bytes, length_bytes)
        unit, end = self._opened(container).unit_sectors, begin + count
        inner, inner_end = -(-begin // unit) * unit, end // unit * unit
        if inner >= inner_end:
            return await self._zero_within_units(container, begin, end)
        await self._zero_within_units(container, begin, inner)
        count = inner_end - inner
        await self._do(container, "write", inner, count, [0] * count, "zero")
        return await self._zero_within_units(container, inner_end, end)

    async def _zero_within_units(self, container: int, begin: int, end: int) -> None:
        """Reads the write units around a short range, and writes them with zeroes in it."""
        if begin == end:
            return
        unit = self._opened(container).unit_sectors
        first, count = begin // unit * unit, -(-end // unit) * unit - begin // unit * unit
        tokens = list(await self._do(container, "read", first, count, (), "merge"))
        tokens[begin - first : end - first] = [0] * (end - begin)
        await self._do(container, "write", first, count, tokens, "zero")

    async def copy(
        self, source: int, source_bytes: int, target: int, target_bytes: int, length_bytes: int
    ) -> None:
        """See the port."""
        sector, count = _sectors(source_bytes, length_bytes)
        tokens = await self._do(source, "read", sector, count, (), "copy")
        sector, count = _sectors(target_bytes, length_bytes)
        await self._do(target, "write", sector, count, tokens, "copy")

    async def flush(self, container: int) -> None:
        """See the port."""
        await self._do(container, "flush", 0, 0, (), "flush")
        await self._pause()
        medium = self._opened(container)
        if medium.note is not None:
            raise OSError(EIO, f"a note stands in {medium.uri}")

    async def note(self, container: int) -> Note | None:
        """See the port."""
        await self._pause()
        return self._opened(container).note

    async def clear_note(self, container: int, note: Note) -> None:
        """See the port."""
        await self._pause()
        medium = self._opened(container)
        if medium.note == note:
            medium.note = None
        await self._pause()

    async def fence_ended(self, container: int, holder: int, ending: Ending) -> bool:
        """See the port."""
        await self._pause()
        medium = self._opened(container)
        if not medium.is_remote:
            if ended := medium.fence_ended(holder):
                medium.proven("lock gone")
            return ended
        if medium.linger_ns or ending is Ending.ASK:
            return False
        return await medium.end_sessions(holder, ending is Ending.FOREVER)

    def is_away(self, container: int) -> bool:
        """See the port."""
        return container not in self.opened

    def extend(self, until_ns: int) -> None:
        """See the port."""
        self.until_ns = max(self.until_ns, until_ns)

    async def stamp(self, container: int, stamp: Stamp) -> None:
        """See the port."""
        medium = self._opened(container)
        await self._pause()
        new = (stamp.term, stamp.commit)
        if new > (medium.stamped.term, medium.stamped.commit):
            medium.stamped = stamp
        await self._pause()

    def away_s(self, container: int) -> float | None:
        """See the port."""
        return None

    async def room(self, uri: str) -> Room | None:
        """See the port; these have all the room that they say."""
        return None

    def has_fence(self, container: int) -> bool | None:
        """See the port."""
        medium = self.opened.get(container)
        return None if medium is None else not medium.linger_ns

    async def _pause(self) -> None:
        await asyncio.sleep((10 * US + self.process.world.rng.randrange(300 * US)) / SECOND)

    def _medium(self, uri: str) -> Medium:
        medium = medium_at(self.media, uri)
        if medium is None:
            raise FileNotFoundError(ENOENT, f"no such storage: {uri}")
        return medium

    def _opened(self, container: int) -> Medium:
        medium = self.opened.get(container)
        if medium is None:
            raise FileNotFoundError(ENOENT, f"container {container} is not open")
        return medium

    async def _do(
        self,
        container: int,
        kind: str,
        sector: int,
        count: int,
        tokens: Sequence[int],
        tag: str,
    ) -> Sequence[int]:
        medium = self._opened(container)
        if medium.is_remote and kind == "write" and self.process.now_ns() >= self.until_ns:
            raise OSError(ECANCELED, f"{kind} of {medium.uri}: the term's lease is over")
        answer: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()

        def done(errno: int, found: Sequence[int]) -> None:
            if errno and kind == "flush":
                medium.leave_note(self.holder, errno)
            if answer.done():
                return
            if errno:
                answer.set_exception(OSError(errno, f"{kind} of {medium.uri}"))
            else:
                answer.set_result(found)

        medium.submit(kind, self.holder, sector, count, done, tokens, tag=(tag,))
        return await answer


def _sectors(offset_bytes: int, length_bytes: int) -> tuple[int, int]:
    assert offset_bytes % SECTOR_BYTES == 0
    assert length_bytes % SECTOR_BYTES == 0
    return offset_bytes // SECTOR_BYTES, length_bytes // SECTOR_BYTES
