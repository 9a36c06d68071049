"""What a term does without being asked: completing, cleaning, stamping, taking over.

Each piece of work is started by an event, not by a clock (an idle controller does nothing), and
repeated after a pause only when a container has failed.

Taking over (section 4, Terms; rule 11): nothing that older terms left incomplete or half-cleaned is
touched before every older copier's fence has provably ended at the containers where it lies and
where it comes from; an incomplete extent, moreover, not before every agent that had its disk
attached has listed what it has under way, or has provably ended (lost alone is not enough: its
`do_write` may still land).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from segue.controller.changes import FenceEnded
from segue.controller.fences import OlderIO
from segue.controller.peer import Peer, PeerState
from segue.controller.procedures.clean import Cleaner
from segue.controller.procedures.complete import complete
from segue.controller.procedures.remove_container import go_on_leaving
from segue.controller.record import container_of, is_location

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.background")

LOOK_AGAIN_S = 1.0
"""How long after it went away storage is seen to be away."""


class Background:
    """The background work of one term."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._old_fences: dict[int, set[int]] = {}
        """Container -> fences of older terms' copiers that have not provably ended there."""
        self._fence_ends = asyncio.Event()
        self._inherited = asyncio.Event()
        self.deleting: Counter[int] = Counter()
        """Disks that are about to be deleted under their hosts."""
        self._cleaned = asyncio.Event()
        self._cleaners: dict[int, Cleaner] = {}
        self._incomplete: dict[int, asyncio.Task[None]] = {}
        """Extents whose completion is under way."""
        self.trouble: dict[int, str] = {}
        """Incomplete extent -> what its copy failed with; being tried again."""
        self._try_again = asyncio.Event()
        self._space = asyncio.Event()
        self._dirty = asyncio.Event()

    def start(self, old_fences: list[int]) -> None:
        """Begins; `old_fences` are those of older terms' copiers."""
        c = self._c
        # Those that are away are asked as well, when they are back.
        there = sorted(n for n, row in c.table.containers.items() if not row.leaving)
        self._old_fences = {number: set(old_fences) for number in there}
        for fence in old_fences:
            c.spawn(self._end_old(fence, there), f"the end of an older controller ({fence:x})")
        c.spawn(self._take_over(list(c.peers.values())), "taking over")
        c.jobs.start()
        c.spawn(self._stamp_now_and_then())
        c.spawn(self._notice_newer_terms())
        for number, container in c.table.containers.items():
            if container.leaving:
                c.spawn(go_on_leaving(c, number), f"removing {c.name_of_container(number)}")
        self.work_appeared()

    async def inherited_changed(self) -> None:
        """Returns when more of what older terms left incomplete may be touched."""
        with self._c.waits.on("takeover", "older terms' I/O to have ended"):
            await self._inherited.wait()

    def look_again(self) -> None:
        """Whoever waits in `inherited_changed` has something to look at."""
        self._inherited.set()
        self._inherited.clear()

    async def taken_over(self, disk: int) -> bool:
        """Returns when all that older terms left incomplete of the disk may be touched, True; or
        when some of it lies on storage that is away, for as long as that is, or for ever: False.
        """
        while extents := self.inherited_of(disk):
            if self.is_away(extents):
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self.inherited_changed()
        return True

    def is_away(self, extents: list[int]) -> bool:
        """Whether storage is away on which these incomplete extents or their sources lie."""
        return any(map(self._c.storage.is_away, self.places_of(extents)))

    def in_vain(self, disk: int, extents: list[int]) -> bool:
        """Whether a fault waits in vain for these: its disk is deleted, and they are away."""
        return bool(self.deleting[disk]) and self.is_away(extents)

    def inherited_of(self, disk: int) -> list[int]:
        """What older terms left incomplete of the disk and nobody may touch yet."""
        records = self._c.table.records
        return sorted(extent for extent in self._c.inherited if records[extent].disk == disk)

    def places_of(self, extents: list[int]) -> set[int]:
        """The containers where these incomplete extents and their sources lie."""
        table, places = self._c.table, set[int]()
        for extent in extents:
            record = table.records.get(extent)
            if record is not None:
                places.add(container_of(table.extents.get(extent)))
                places |= {container_of(record.source)} if is_location(record.source) else set()
        return places

    def let_go(self, extents: list[int]) -> list[int]:
        """These are about to be nobody's, taken over or not; which older copiers may write there.

        To be called with no await before the commit that names them: none has ended everywhere.
        """
        older = {f for number in self.places_of(extents) for f in self._old_fences.get(number, ())}
        self._c.inherited.difference_update(extents)
        self.look_again()
        return sorted(older)

    def complete_later(self, extent: int) -> asyncio.Task[None]:
        """The extent is incomplete: its rest is to be zeroed or copied; the task that does it."""
        task = self._incomplete.get(extent)
        if task is None:
            task = self._c.spawn(self._complete(extent), f"completing extent {extent}")
            self._incomplete[extent] = task
        return task

    def try_again(self) -> None:
        """What failed may do better now, or be given up."""
        self._try_again.set()
        self._try_again.clear()

    async def before_trying_again(self, pause_s: float) -> None:
        """Returns after a pause, or at once when `try_again` is called."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._try_again.wait()

    def clean_ahead(self, number: int) -> None:
        """A segment of a device was taken: more are zeroed when few zeroed ones are left."""
        space = self._c.table.containers[number].space
        if space.free_clean < self._c.settings.clean_ahead_segments // 2:
            self._cleaner(number).work.set()

    def cleaning(self) -> list[int]:
        """Containers where a batch of freed locations is being zeroed: space is about to appear."""
        return [number for number, cleaner in self._cleaners.items() if cleaner.busy]

    def work_appeared(self) -> None:
        """Locations were freed, or have appeared."""
        for number in self._c.table.containers:
            self._cleaner(number).work.set()
        self._space.set()
        self._space.clear()

    async def space_changed(self) -> None:
        """Returns when locations were freed, or have appeared."""
        await self._space.wait()

    async def batch_cleaned(self) -> None:
        """Returns when a batch being zeroed is clean, or has failed."""
        with self._c.waits.on("space", "freed segments to be zeroed"):
            await self._cleaned.wait()

    def committed(self) -> None:
        """Something was committed: containers may be due for a stamp."""
        self._dirty.set()

    async def _take_over(self, known: list[Peer]) -> None:
        c = self._c
        by_disk: dict[int, list[int]] = {}
        for extent in sorted(c.inherited):
            by_disk.setdefault(c.table.records[extent].disk, []).append(extent)
        for disk, extents in by_disk.items():
            holders = c.table.attached.get(disk, {})
            peers = [peer for peer in known if peer.incarnation in holders]
            c.spawn(self._inherit(disk, extents, peers), f"taking over disk #{disk}")
        log.info("event=taken_over incomplete=%d", len(c.inherited))

    async def _inherit(self, disk: int, extents: list[int], peers: list[Peer]) -> None:
        """Takes over a disk's incomplete extents: a lost agent's `do_*` may still land there."""
        c = self._c
        await self.fences_past(self.places_of(extents))
        for peer in peers:
            while not (peer.listed or peer.state is PeerState.ENDED or disk in peer.apart):
                await peer.changed()
        c.inherited.difference_update(extents)
        self.look_again()
        for extent in extents:
            if extent in c.table.records:
                self.complete_later(extent)

    async def end_orphan(self, holder: int) -> None:
        """Ends a quarantine's holder that no disk is attached to, when its fences have ended."""
        c = self._c
        pause_s = c.settings.fence_poll_s
        while holder not in c.peers and (containers := c.table.quarantined_at(holder)):
            if await c.fence_ended_everywhere(holder, sorted(containers)):
                await c.commit(FenceEnded(holder))
                self.work_appeared()
                return
            await asyncio.sleep(pause_s)
            pause_s = min(1.0, pause_s * 2)

    async def fences_past(self, containers: set[int]) -> None:
        """Returns when no older term's copier can have I/O under way at any of these."""
        old = frozenset((f, n) for n in containers for f in self._old_fences.get(n, ()))
        if not old:
            return
        with self._c.waits.on("fence", OlderIO("older controllers' I/O", old)):
            while any(self._old_fences.get(number) for number in containers):
                await self._fence_ends.wait()

    async def _end_old(self, fence: int, containers: list[int]) -> None:
        """Waits for an older copier's end everywhere, and makes that durable."""
        await asyncio.gather(*(self._end_old_at(fence, number) for number in containers))
        await self._c.commit(FenceEnded(fence))
        self.work_appeared()

    async def _end_old_at(self, fence: int, number: int) -> None:
        c, pause_s = self._c, self._c.settings.fence_poll_s
        what = f"an older controller at {c.name_of_container(number)}"
        with c.waits.on("fence", OlderIO(what, frozenset([(fence, number)]))):
            while number in c.table.containers and not await c.fence_ended_everywhere(
                fence, [number]
            ):
                await asyncio.sleep(pause_s)
                pause_s = min(1.0, pause_s * 2)
        self._old_fences[number].discard(fence)
        self._fence_ends.set()
        self._fence_ends.clear()

    async def _complete(self, extent: int) -> None:
        await complete(self._c, extent)
        del self._incomplete[extent]

    def _cleaner(self, number: int) -> Cleaner:
        cleaner = self._cleaners.get(number)
        if cleaner is None:
            cleaner = self._cleaners[number] = Cleaner(self._c, number)
            self._c.spawn(self._clean(cleaner, number))
        return cleaner

    async def _clean(self, cleaner: Cleaner, number: int) -> None:
        await cleaner.run()
        del self._cleaners[number]

    def wake_waiters(self) -> None:
        """A batch is clean, or has failed."""
        self._cleaned.set()
        self._cleaned.clear()

    async def _notice_newer_terms(self) -> None:
        """Ends a term that has nothing to do and would not notice that a newer one has begun.

        The newer one waits for this copier's fence.
        """
        while True:
            await asyncio.sleep(self._c.settings.lease_s)
            await self._c.term_is_newest()

    async def _stamp_now_and_then(self) -> None:
        c = self._c
        while True:
            await self._dirty.wait()
            await asyncio.sleep(c.settings.stamp_interval_s)
            self._dirty.clear()
            await c.stamps.all()
