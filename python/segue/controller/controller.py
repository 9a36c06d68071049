"""The controller: owns the central table, answers faults, commands agents (design, section 4).

This file holds what the procedures share and the life of a term; what a fault or a verb does stands
in `procedures/`, one file each.  Everything runs on one event loop.

A term begins by claiming it in the store, loading the table, refusing to go on if a container has
seen a later commit than the store holds (promise P7), and one first commit; from that commit it
counts the longest lease of every agent that older terms attached.  It ends when a commit's outcome
is unknown or a newer term has begun: `failed` is set and the process must exit.  There is no way
back into service but a new term (crash-only).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from segue import failpoints
from segue.controller import fences
from segue.controller.agents import serve_agent, watch
from segue.controller.changes import (
    AnyChange,
    InstallationMade,
    TermBegun,
)
from segue.controller.checkpoint import checkpoint_steps, load_table, next_step
from segue.controller.commits import Commits, TermEnded
from segue.controller.copier import Copier
from segue.controller.felt import HostLatency
from segue.controller.jobs import Jobs
from segue.controller.locks import BlockRanges, Locks
from segue.controller.pacing import Pacing
from segue.controller.peer import Peer
from segue.controller.ports import Clock, Link, Storage
from segue.controller.procedures.background import Background
from segue.controller.procedures.flush_failed import (
    CopierFlushes,
    last_flush,
    take_note,
    take_notes,
)
from segue.controller.settings import SECOND_NS, Settings
from segue.controller.stamps import Stamps
from segue.controller.table import Disk, Table, container_spec
from segue.controller.waits import Waits, Work
from segue.store.contract import Store, StoreCorrupt, StoreError, Superseded
from segue.wire.messages import Answer, Command, ContainerSpec

log = logging.getLogger("segue.controller")

REOPEN_S = 1.0
"""Pause before a container that was away is tried again."""


class Controller:
    """One term of service over a store.

    `rng` makes identities (installation, fence): from a seed in the simulator, from the system's
    randomness in the server.
    """

    def __init__(
        self,
        store: Store,
        storage: Storage,
        clock: Clock,
        settings: Settings,
        rng: random.Random,
    ) -> None:
        self.store = store
        self.storage = storage
        self.clock = clock
        self.settings = settings
        self.rng = rng
        self.term = 0
        self.fence = 0
        self.table = Table()
        self.waits = Waits(clock.now_ns)
        self.locks = Locks(self.waits)
        self.blocks = BlockRanges(self.waits)
        self.peers: dict[int, Peer] = {}
        self.extending: dict[int, list[int]] = {}
        """Disk -> containers that its agents are being told of, not yet in its durable set."""
        self.ended: set[int] = set()
        """Incarnations that this term has proven dead."""
        self.sessions = 0
        self.greeting = 0
        """Links whose hello has not come yet."""
        self.inherited: set[int] = set()
        """Incomplete extents of older terms; nobody writes there before `inherited_clear`."""
        self.background = Background(self)
        self.jobs = Jobs(self)
        self.copier = Copier(self)
        self.pacing = Pacing(self)
        self.stamps = Stamps(self)
        self.flushes = CopierFlushes(self)
        self.felt = HostLatency(self)
        self.copier_failures: dict[int, int] = {}
        """Container -> how many flushes of the copier have failed there."""
        self.marking: Counter[int] = Counter()
        """Container -> how many commits of a failed flush there are under way."""
        self.noting: dict[int, asyncio.Lock] = {}
        """Container -> held by who takes a note there, from reading to clearing."""
        self.open_containers: set[int] = set()
        self.unreached: dict[int, tuple[int, str]] = {}
        """Containers that this term has not reached yet: since when, and why."""
        self.leaving: set[int] = set()
        """Containers about to be made `leaving`: nothing new may begin there."""
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.faults_answered = 0
        self._checkpointing = False
        self._commands = 0
        self._tasks: dict[asyncio.Task[Any], tuple[Work | None, Callable[[], None] | None]] = {}
        self._term_readers: list[asyncio.Future[None]] = []
        self._term_reading = False
        self._term_seen_ns = 0
        self.old_leases_until_ns = 0
        """Leases of older terms, of their copiers too, are over then."""

    # Life of the term ---------------------------------------------------------------------------

    async def start(self, installation: bytes = b"") -> None:
        """Begins a term; `installation` is whose store it must be, empty for a first start.

        Raises `StoreError` for a store that cannot be served, `OSError` for a container that cannot
        be opened, `TermEnded` if a newer term began meanwhile or the first commit failed.
        """
        self._term_seen_ns = self.clock.now_ns()
        loaded = await self.store.begin_term()
        self.term = loaded.term
        self.table = load_table(loaded)
        if installation and self.table.installation != installation:
            raise StoreCorrupt("it is the store of another installation than was made here")
        self.fence = self.rng.getrandbits(61)
        self.commits = Commits(self.store, self.table, self.term, self.fail, self.waits)
        self.storage.extend(self._term_seen_ns + self.settings.lease_ns)
        await self._open_all_at_start()
        first: list[AnyChange] = []
        if not self.table.installation:
            first.append(InstallationMade(self.rng.randbytes(16)))
        failpoints.hit("term.begun")
        old_fences = list(self.table.fences)
        await self.commits.commit(*first, TermBegun(self.term, self.fence))
        await take_notes(self)
        self.inherited = set(self.table.records)
        for record in self.table.records.values():
            record.doubted = record.copied
        longest = max((row.lease_ns for row in self.table.agents.values()), default=0)
        self.old_leases_until_ns = self.clock.now_ns() + self.settings.lease_and_margin_ns(
            max(longest, self.settings.lease_ns)
        )
        self._recall_agents()
        self.background.start(old_fences)
        log.info(
            "event=term_begun term=%d commit=%d disks=%d incomplete=%d",
            self.term,
            self.table.number,
            len(self.table.disks),
            len(self.table.records),
        )

    def _recall_agents(self) -> None:
        """Every agent that an older term attached may hold all that was granted (section 4).

        Holders of quarantined locations that are attached nowhere are only watched for their end.
        """
        for holders in self.table.attached.values():
            for incarnation, agent in holders.items():
                if incarnation in self.peers:
                    continue
                row = self.table.agents[agent]
                peer = Peer(agent, row.name, incarnation, known=True, waits=self.waits)
                longest = max(row.lease_ns, self.settings.lease_ns)
                peer.lease_until_ns = self.clock.now_ns() + self.settings.lease_and_margin_ns(
                    longest
                )
                self.adopt_peer(peer)
        waited_for = {holder for row in self.table.quarantine.values() for holder in row}
        # Those of older copiers end with these, everywhere at once: see `Background._end_old`.
        for holder in sorted(waited_for - self.peers.keys() - self.table.fences.keys()):
            self.spawn(self.background.end_orphan(holder), f"the end of {holder:x}")

    def adopt_peer(self, peer: Peer) -> None:
        """From now on the peer's lease is watched."""
        self.peers[peer.incarnation] = peer
        self.spawn(watch(self, peer))

    async def stop(self) -> None:
        """Ends service in order: stamps the containers, cuts all links."""
        for peer in list(self.peers.values()):
            peer.close_session()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self.failed.done():
            await last_flush(self)
            await self.stamps.all()

    def fail(self, error: BaseException) -> None:
        """The term is over: the process must exit; nothing more is granted."""
        if not self.failed.done():
            log.error("event=term_ended term=%d cause=%r", self.term, error)
            self.failed.set_result(error)
            for peer in self.peers.values():
                peer.close_session()

    def spawn(
        self,
        procedure: Coroutine[Any, Any, None],
        what: object = None,
        ended: Callable[[], None] | None = None,
    ) -> asyncio.Task[None]:
        """Runs a procedure; an exception it did not expect ends the term.

        `what` names it for `segue status` while it lasts; without, it is not shown there.  `ended`
        is called when it has ended, however.
        """
        work, context = self.waits.begin(what)
        task = asyncio.get_running_loop().create_task(procedure, context=context)
        self._tasks[task] = (work, ended)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        work, ended = self._tasks.pop(task)
        self.waits.end(work)
        if ended is not None:
            ended()
        if task.cancelled():
            return
        error = task.exception()
        if error is None or isinstance(error, TermEnded):
            return
        log.error("event=procedure_failed", exc_info=error)
        self.fail(error)

    async def serve(self, link: Link) -> None:
        """Serves one agent's link until it ends."""
        await serve_agent(self, link)

    # What procedures share ----------------------------------------------------------------------

    async def commit(self, *changes: AnyChange) -> None:
        """Makes changes durable, all or none; raises `TermEnded`."""
        await self.commits.commit(*changes)
        self.background.committed()
        log_is_long = self.commits.log_bytes > self.settings.checkpoint_log_bytes
        if log_is_long and not self._checkpointing:
            self.commits.log_bytes = 0
            self._checkpointing = True
            self.spawn(self.checkpoint(), "checkpoint")

    async def checkpoint(self) -> None:
        """Folds the log into pages; faults are answered between its steps."""
        number = self.table.number
        steps = checkpoint_steps(self.table)
        encoded = next_step(steps)
        while encoded is None:
            await asyncio.sleep(0)
            encoded = next_step(steps)
        root, pages, freed = encoded
        failpoints.hit("checkpoint.before")
        try:
            await self.store.checkpoint(self.term, number, root, pages, freed)
            failpoints.hit("checkpoint.durable")
        except StoreError as error:
            self.fail(error)
        self._checkpointing = False

    def next_command(self) -> int:
        """A command id of this term; unique among terms that an agent can confuse."""
        self._commands += 1
        return self.term << 40 | self._commands

    def peers_of(self, disk: int) -> list[Peer]:
        """All incarnations that may hold a table of the disk, by incarnation."""
        holders = self.table.attached.get(disk)
        return [self.peers[incarnation] for incarnation in sorted(holders)] if holders else []

    def may_allocate(self, container: int) -> bool:
        """Whether new extents may lie there: it neither has left, nor leaves, nor is drained."""
        return not self.is_leaving(container) and not self.table.containers[container].draining

    def is_leaving(self, container: int) -> bool:
        """Whether it has left, leaves, or is about to: nothing more is committed about it."""
        row = self.table.containers.get(container)
        return row is None or row.leaving or container in self.leaving

    def specs(self, disk: Disk) -> list[ContainerSpec]:
        """The flush set of a disk as its agents must open it, with what is being added to it."""
        numbers = disk.containers + self.extending.get(disk.disk, [])
        return [self.spec(number, number in disk.failed) for number in numbers]

    def spec(self, number: int, failed: bool = False) -> ContainerSpec:
        """A container as an agent or the copier must open it, with what the operator has set."""
        container = self.table.containers[number]
        spec = container_spec(container.row, failed)
        return msgspec.structs.replace(spec, uri=fences.uri_as_set(container))

    def still_holders(self, holders: list[int]) -> list[int]:
        """Those that have not ended or returned since they were found to be lost.

        To be called with no await before the commit that names them.
        """
        peers = [self.peers.get(holder) for holder in holders]
        return [
            peer.incarnation
            for peer in peers
            if peer is not None and peer.gone and peer.incarnation not in self.ended
        ]

    def refused(self, peer: Peer, message: Command, answer: Answer) -> None:
        """An agent refused a command that this table says is right: start over with it."""
        log.error(
            "event=command_refused agent=%s errno=%d command=%r", peer.name, answer.errno, message
        )
        peer.close_session()

    async def _open_all_at_start(self) -> None:
        for number, container in self.table.containers.items():
            if not container.leaving:
                await self._open_at_start(number)

    async def _open_at_start(self, number: int) -> None:
        """One across the network, or that was said to be away, may be: it is tried again."""
        try:
            await self.open_container(number)
        except OSError as error:
            name = self.table.containers[number].row.name
            if not self._is_remote(number) and name not in self.settings.without:
                raise OSError(
                    error.errno, f"{error.strerror or error} (--without {name} starts without it)"
                ) from error
            log.warning("event=container_away container=%d error=%s", number, error)
            self.unreached[number] = self.clock.now_ns(), self._why_away(number, error)
            self.spawn(self._open_later(number), f"opening {self.name_of_container(number)}")

    def _why_away(self, number: int, error: OSError) -> str:
        said = error.strerror or str(error)
        return said.removeprefix(f"container {self.spec(number).uri}: ")

    async def _open_later(self, number: int) -> None:
        while number in self.unreached:
            await asyncio.sleep(REOPEN_S)
            async with self.locks.hold(("reach", number), exclusive=True):
                if number in self.unreached:
                    await self._reopen(number)

    async def _reopen(self, number: int) -> None:
        """Opens it, if it is there by now."""
        try:
            await self.open_container(number)
        except OSError as error:
            since_ns, _ = self.unreached[number]
            self.unreached[number] = since_ns, self._why_away(number, error)
            return
        except StoreCorrupt as error:
            self.fail(error)
            return
        # Before anybody opens a disk there (`missing`): what no term has heard of yet.
        await take_note(self, number)
        log.info("event=container_back container=%d", number)
        del self.unreached[number]
        self.background.work_appeared()

    def missing(self, number: int) -> bool:
        """Whether it is a container that this term was started without, and has not found yet.

        Agents that have had it open use it; nobody opens it, and nothing new is put there: it
        would be served before its fences, its stamp and its note have been looked at.
        """
        return number in self.unreached and not self._is_remote(number)

    def _is_remote(self, number: int) -> bool:
        return fences.is_remote(self.table.containers[number].row.uri)

    async def open_container(self, number: int) -> None:
        """Opens a container for the copier, and refuses a store older than its stamp."""
        spec = self.spec(number)
        stamp = await self.storage.open(spec, self.table.installation, self.fence)
        if stamp.term >= self.term or stamp.commit > self.table.number:
            name = self.table.containers[number].row.name
            raise StoreCorrupt(
                f"container {name} has seen term {stamp.term} commit {stamp.commit}, this store "
                f"only commit {self.table.number}: an old copy of the store was put back"
            )
        self.open_containers.add(number)

    async def term_is_newest(self) -> bool:
        """Whether a read of the store, begun after this call, shows no newer term.

        One read serves all who wait (section 4, Leases).
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._term_readers.append(turn)
        if not self._term_reading:
            self._term_reading = True
            self.spawn(self._read_terms())
        await turn
        return not self.failed.done()

    async def _read_terms(self) -> None:
        while self._term_readers:
            waiting, self._term_readers = self._term_readers, []
            try:
                begun_ns = self.clock.now_ns()
                newest = await self.store.newest_term()
                if newest == self.term:
                    self._term_seen_ns = begun_ns
                    self.storage.extend(begun_ns + self.settings.lease_ns)
                else:
                    self.fail(Superseded(f"term {newest} has begun"))
            except StoreError as error:
                self.fail(error)
            for turn in waiting:
                if not turn.done():
                    turn.set_result(None)
        self._term_reading = False

    async def copier_may_write(self) -> None:
        """The copier lives by the same check as leases (section 4); raises `TermEnded`."""
        age_ns = self.clock.now_ns() - self._term_seen_ns
        if age_ns > self.settings.lease_ns // 3 and not await self.term_is_newest():
            raise TermEnded

    # Holders ------------------------------------------------------------------------------------

    async def fence_ended_everywhere(self, holder: int, containers: list[int]) -> bool:
        """Whether the holder's I/O has provably ended at all these containers."""
        for number in containers:
            try:
                if not await fences.fence_ended(self, number, holder):
                    return False
            except OSError as error:
                if not self.storage.is_away(number):
                    log.warning("event=fence_unknown container=%d error=%s", number, error)
                return False
        return True

    def name_of_container(self, number: int) -> str:
        """For people."""
        container = self.table.containers.get(number)
        return f"container {container.row.name if container else number}"

    def away_s(self, number: int) -> float | None:
        """For how long the server of a container has been away, in seconds; None: it is there."""
        if number in self.unreached:
            return self.seconds(self.clock.now_ns() - self.unreached[number][0])
        return self.storage.away_s(number)

    def seconds(self, ns: int) -> float:
        """For timeouts."""
        return ns / SECOND_NS
