"""The deliberate mistakes that the simulator must see: see `mutants.py`.

Each names the rule or promise it breaks.  `old` must occur exactly once in the file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A textual patch of one file."""

    name: str
    path: str
    old: str
    new: str


CONTROLLER = "python/segue/controller/"
PROCEDURES = CONTROLLER + "procedures/"
MAP = "crates/segue-map/src/"

MUTATIONS: list[Mutation] = [
    # Controller: restrict before relying, commit before granting (rule 3) ----------------------
    Mutation(
        "first-write-restricts-nobody",
        PROCEDURES + "first_write.py",
        "    await invalidate(c, disk.disk, fault.message.segment, 1, "
        "spare=fault.peer if clean else None)\n",
        "",
    ),
    Mutation(
        "discard-restricts-nobody",
        PROCEDURES + "discard.py",
        "    lost = await invalidate(c, disk.disk, first, count)\n",
        "    lost: list[int] = []\n",
    ),
    Mutation(
        "discard-goes-on-for-an-ended-session",
        CONTROLLER + "peer.py",
        "        return self.current and self.peer.link is not None and "
        "self.peer.session == self.session\n",
        "        return True\n",
    ),
    Mutation(
        "discard-asks-its-agent-beside-the-others",
        PROCEDURES + "discard.py",
        "        await invalidate_last(c, fault.peer, disk.disk, first, count)\n",
        "",
    ),
    Mutation(
        "discard-takes-what-a-disk-has-grown-by",
        MAP + "commands.rs",
        "        if grows && kept < end {\n",
        "        if grows && kept > end {\n",
    ),
    Mutation(
        "nobody-hears-of-a-discard-that-is-over",
        MAP + "hosts.rs",
        "            State::Faulted(request) => self.forget_fault(request),\n",
        "            State::Faulted(request) => drop(self.faults.remove(&request)),\n",
    ),
    Mutation(
        "granted-before-it-is-durable",
        CONTROLLER + "commits.py",
        "                await self._append(changes)\n"
        "                for done in waiting:\n"
        "                    done.set_result(self._table.number)\n",
        "                self._table.apply(changes)\n"
        "                for done in waiting:\n"
        "                    done.set_result(self._table.number)\n"
        "                body = encode_changes(changes)\n"
        "                await self._store.append(self._term, self._table.number, body)\n",
    ),
    Mutation(
        "grants-are-forgotten",
        CONTROLLER + "grants.py",
        "        self.marked += 1\n        self._fill(first, count, 1)\n",
        "        self.marked += 1\n",
    ),
    # Controller: who is gone, and whose I/O has ended (rules 5, 8) -------------------------------
    Mutation(
        "lost-agents-have-no-io",
        PROCEDURES + "discard.py",
        "    holders = c.still_holders(lost)\n",
        "    holders: list[int] = []\n",
    ),
    Mutation(
        "attached-beside-a-lost-agent",
        PROCEDURES + "attach.py",
        "    if other is not peer and (earlier or other.state is PeerState.LOST):\n",
        "    if other is not peer and earlier:\n",
    ),
    Mutation(
        "fences-are-not-asked",
        CONTROLLER + "controller.py",
        "                if not await fences.fence_ended(self, number, holder):\n"
        "                    return False\n",
        "                await fences.fence_ended(self, number, holder)\n",
    ),
    Mutation(
        "sessions-are-ended-while-a-lease-runs",
        CONTROLLER + "fences.py",
        "    return Ending.SESSIONS if peer.gone else Ending.ASK\n",
        "    return Ending.SESSIONS\n",
    ),
    Mutation(
        "older-copiers-may-begin-again",
        CONTROLLER + "fences.py",
        "    if holder in c.table.fences:\n        return Ending.FOREVER\n",
        "    if holder in c.table.fences:\n        return Ending.SESSIONS\n",
    ),
    Mutation(
        "replaced-agents-may-begin-again",
        CONTROLLER + "fences.py",
        "see `agents._refusal`.\n            return Ending.FOREVER\n",
        "see `agents._refusal`.\n            return Ending.SESSIONS\n",
    ),
    Mutation(
        "nothing-lingers-after-a-lease",
        CONTROLLER + "fences.py",
        "c.old_leases_until_ns) + linger\n",
        "c.old_leases_until_ns)\n",
    ),
    Mutation(
        "failed-flushes-leave-no-note",
        "python/segue/sim/plane.py",
        "                medium.leave_note(self.holder, errno)\n",
        "                pass\n",
    ),
    Mutation(
        "declared-dead-and-not-heard-of",
        PROCEDURES + "declare_dead.py",
        "    await hear_of_lost_pages(c, "
        "{n for disk in disks for n in c.table.disks[disk].containers})\n",
        "",
    ),
    Mutation(
        "lease-is-counted-short",
        CONTROLLER + "agents.py",
        "    peer.lease_until_ns = c.clock.now_ns() + c.settings.lease_and_margin_ns(lease_ns)\n"
        '    failpoints.hit("lease.granted")\n',
        "    peer.lease_until_ns = c.clock.now_ns() + lease_ns // 2\n",
    ),
    Mutation(
        "superseded-term-goes-on",
        CONTROLLER + "controller.py",
        "                if newest == self.term:\n",
        "                if newest >= self.term:\n",
    ),
    # Controller: incomplete extents (rules 6, 11, 12) --------------------------------------------
    Mutation(
        "do-write-holds-no-blocks",
        PROCEDURES + "do_write.py",
        "        await held.enter_async_context(c.blocks.hold(location, bits, exclusive=True))\n",
        "",
    ),
    Mutation(
        "do-write-answered-without-its-bit",
        PROCEDURES + "do_write.py",
        "            await c.commit(Written(extent, first, count))\n",
        "",
    ),
    Mutation(
        "rest-of-a-block-from-rubbish",
        CONTROLLER + "record.py",
        "        return location if self.here >> block & 1 else self.source\n",
        "        return location\n",
    ),
    Mutation(
        "record-ends-before-the-flush",
        PROCEDURES + "complete.py",
        "            await run.harden()\n",
        "            pass\n",
    ),
    Mutation(
        "clean-before-the-flush",
        PROCEDURES + "clean.py",
        "            await copier_flush(c, number, failures)\n",
        "",
    ),
    Mutation(
        "discard-beside-the-copier",
        PROCEDURES + "discard.py",
        '    async with c.locks.hold(*(("extent", e) for e in extents), exclusive=True):\n'
        "        yield\n",
        "    yield\n",
    ),
    Mutation(
        "growing-takes-a-fresh-copy-for-durable",
        PROCEDURES + "resize.py",
        "    if not (record.written | record.copied) & run_bits(first, count):\n",
        "    if not record.here & run_bits(first, count):\n",
    ),
    # Controller: movement (rules 4, 5, 6, 12) ----------------------------------------------------
    Mutation(
        "hints-on-their-way-are-not-doubted",
        PROCEDURES + "complete.py",
        "                record.hinted = covered\n",
        "",
    ),
    Mutation(
        "disks-join-what-is-about-to-leave",
        PROCEDURES + "flush_set.py",
        "        if c.is_leaving(container):\n",
        "        if (row := c.table.containers.get(container)) is None or row.leaving:\n",
    ),
    Mutation(
        "movement-forbids-no-writes",
        PROCEDURES + "movement.py",
        "        lost = await forbid_writes(c, disk.disk, segment, 1)\n",
        "        lost: list[int] = []\n",
    ),
    Mutation(
        "no-write-not-awaited-at-one-agent",
        CONTROLLER + "restrict.py",
        "    return await _restrict(c, c.peers_of(disk), disk, first, count, NO_WRITE)\n",
        "    return await _restrict(c, c.peers_of(disk)[:1], disk, first, count, NO_WRITE)\n",
    ),
    Mutation(
        "movement-begins-under-a-lost-writer",
        PROCEDURES + "movement.py",
        "    if c.still_holders(lost):\n",
        "    if c.still_holders([]):\n",
    ),
    Mutation(
        "copied-before-the-source-is-flushed",
        PROCEDURES + "complete.py",
        "            await copier_flush(c, number, c.copier_failures.get(number, 0))\n",
        "",
    ),
    Mutation(
        "source-is-not-closed-before-a-write",
        PROCEDURES + "do_write.py",
        "            await invalidate(c, disk.disk, segment, 1)\n",
        "",
    ),
    Mutation(
        "source-stays-granted-after-it-is-closed",
        PROCEDURES + "first_touch.py",
        "        elif not (entry := record.granted):\n",
        "        elif not (entry := record.word):\n",
    ),
    Mutation(
        "an-older-terms-do-write-holds-nothing",
        CONTROLLER + "locks.py",
        "        self._ranges.setdefault(location, []).append(mine)\n"
        "        try:\n"
        "            yield\n"
        "        finally:\n            self._let_go(mine)\n",
        "        yield\n",
    ),
    Mutation(
        "a-running-do-write-stands-in-line",
        PROCEDURES + "fault.py",
        "    with held:\n        try:\n",
        "    with held:\n"
        "        async with c.locks.hold((fault.message.disk, fault.message.segment), "
        "exclusive=False):\n            pass\n        try:\n",
    ),
    Mutation(
        "a-name-is-another-disks-by-now",
        PROCEDURES + "verbs.py",
        "    if c.table.disk_names.get(name) != number:\n",
        "    if name not in c.table.disk_names:\n",
    ),
    Mutation(
        "linger-of-what-is-being-removed",
        PROCEDURES + "declare_dead.py",
        "        if container.leaving:\n"
        '            raise Refusal(f"container {name} is being removed")\n',
        "",
    ),
    Mutation(
        "source-is-opened-again-beside-copied-blocks",
        CONTROLLER + "controller.py",
        "            record.doubted = record.copied\n",
        "            record.doubted = 0\n",
    ),
    Mutation(
        "source-is-free-before-agents-are-invalid",
        PROCEDURES + "complete.py",
        "            lost = await invalidate(c, record.disk, record.segment, 1)\n",
        "            lost: list[int] = []\n",
    ),
    Mutation(
        "source-is-free-while-a-lost-agent-reads",
        PROCEDURES + "complete.py",
        "            await c.commit(MovementEnded(self.extent, c.still_holders(lost)))\n",
        "            await c.commit(MovementEnded(self.extent, []))\n",
    ),
    Mutation(
        "copier-overwrites-what-hosts-wrote",
        PROCEDURES + "complete.py",
        "while free := left & ~record.here & ~outward(c.blocks.taken(self.location), unit):\n",
        "while free := left & ~record.copied & ~record.fresh:\n",
    ),
    Mutation(
        "copier-takes-what-is-being-written",
        PROCEDURES + "complete.py",
        "                    c.blocks.hold(self.location, bits, exclusive=True),\n"
        "                    c.blocks.hold(record.source",
        "                    c.blocks.hold(0, bits, exclusive=True),\n"
        "                    c.blocks.hold(record.source",
    ),
    Mutation(
        "head-from-the-wrong-side",
        CONTROLLER + "record.py",
        "        return location if self.here >> block & 1 else self.source\n",
        "        return self.source if self.here >> block & 1 else location\n",
    ),
    Mutation(
        "split-read-from-the-wrong-side",
        PROCEDURES + "do_split_read.py",
        "location if at_home else record.source",
        "location if at_home and not record.written else record.source",
    ),
    Mutation(
        "hints-before-their-flush",
        PROCEDURES + "complete.py",
        "        try:\n            await copier_flush(c, self.container, self.failures)\n",
        "        try:\n            if record.here == record.all:\n"
        "                await copier_flush(c, self.container, self.failures)\n",
    ),
    Mutation(
        "fresh-bits-outlive-a-failed-flush",
        PROCEDURES + "complete.py",
        "            record.fresh = 0\n",
        "",
    ),
    Mutation(
        "fresh-bits-outlive-a-write",
        PROCEDURES + "do_write.py",
        "        record.fresh &= ~bits\n",
        "",
    ),
    Mutation(
        "discard-forgets-the-source",
        CONTROLLER + "table.py",
        "        if record is not None and is_location(record.source):\n"
        "            self._free(disk.disk, record.source, holders)\n",
        "",
    ),
    Mutation(
        "flush-set-shrinks-too-early",
        PROCEDURES + "flush_set.py",
        "    return (disk.disk, container) not in c.table.lying\n",
        "    return True\n",
    ),
    Mutation(
        "takeover-copies-at-once",
        PROCEDURES + "background.py",
        "        await self.fences_past(self.places_of(extents))\n",
        "",
    ),
    # Controller: disks and containers that come and go -------------------------------------------
    Mutation(
        "deleting-restricts-nobody",
        PROCEDURES + "verbs.py",
        "            holders = c.still_holders(await delete_tables(c, number))\n",
        "            holders: list[int] = []\n",
    ),
    Mutation(
        "deleted-beside-a-lost-agent",
        PROCEDURES + "verbs.py",
        "            await c.commit(DiskDeleted(number, holders))\n",
        "            await c.commit(DiskDeleted(number, []))\n",
    ),
    Mutation(
        "deleted-beside-the-copier",
        PROCEDURES + "verbs.py",
        "        async with incomplete_held(c, disk, 0, disk.segments):\n",
        "        async with incomplete_held(c, disk, 0, 0):\n",
    ),
    Mutation(
        "names-are-told-by-older-terms",
        PROCEDURES + "attach.py",
        "    if not await c.term_is_newest():\n        raise SessionLost\n",
        "    c.clock.now_ns()\n",
    ),
    Mutation(
        "deleted-disks-stay-where-an-agent-was-lost",
        PROCEDURES + "verbs.py",
        "        if number in peer.tables:\n",
        "        if number in peer.attaching:\n",
    ),
    Mutation(
        "shrinking-restricts-nobody",
        PROCEDURES + "resize.py",
        "        lost = await invalidate(c, disk.disk, first, count)\n",
        "        lost: list[int] = []\n",
    ),
    Mutation(
        "growing-shows-what-lay-there",
        PROCEDURES + "resize.py",
        "                ends = await _zero_rest(c, disk, extent, used_bytes)\n",
        "                ends: list[AnyChange] = []\n",
    ),
    Mutation(
        "growing-is-not-flushed",
        PROCEDURES + "resize.py",
        "    await copier_flush(c, number, failures)\n",
        "",
    ),
    Mutation(
        "growing-shows-what-lies-at-the-source",
        PROCEDURES + "resize.py",
        "        ends = [await _copy_cut_block(c, disk, extent, record)]\n",
        "        await _copy_cut_block(c, disk, extent, record)\n",
    ),
    Mutation(
        "growing-writes-under-no-record",
        PROCEDURES + "resize.py",
        "        await c.commit(GrowthBegun(extent, disk.disk, disk.segments - 1))\n"
        '        failpoints.hit("resize.recorded")\n'
        "        ends = [Completed(extent)]\n",
        "        pass\n",
    ),
    Mutation(
        "growing-beside-an-older-copier",
        PROCEDURES + "resize.py",
        "        if not await c.background.taken_over(number):\n",
        "        if False:\n",
    ),
    Mutation(
        "replaced-agents-count-as-ended-while-they-live",
        CONTROLLER + "agents.py",
        "    if not peer.gone and numbers and not _process_ended(c, peer, mapped):\n"
        "        return False\n",
        "",
    ),
    Mutation(
        "disks-are-taken-from-lost-agents-unproven",
        CONTROLLER + "agents.py",
        "        if containers <= peer.proven and number not in peer.parting:\n",
        "        if number not in peer.parting:\n",
    ),
    Mutation(
        "disks-of-missing-containers-are-opened",
        PROCEDURES + "attach.py",
        "    for number in filter(c.missing, disk.containers):\n",
        "    for number in filter(c.missing, ()):\n",
    ),
    Mutation(
        "missing-containers-are-allocated-from",
        CONTROLLER + "placement.py",
        "            there = [n for n in numbers if not c.missing(n)]\n",
        "            there = numbers\n",
    ),
    Mutation(
        "flushes-of-what-was-never-found-have-failed",
        PROCEDURES + "flush_failed.py",
        "        if number not in c.open_containers:\n            # Nothing",
        "        if False:\n            # Nothing",
    ),
    Mutation(
        "quarantined-containers-are-removed",
        PROCEDURES + "remove_container.py",
        "    if held:\n",
        "    if held < 0:\n",
    ),
    Mutation(
        "freed-beside-an-older-copier",
        PROCEDURES + "verbs.py",
        "            holders += c.background.let_go(c.background.inherited_of(number))\n",
        "            c.background.let_go(c.background.inherited_of(number))\n",
    ),
    Mutation(
        "disks-are-taken-at-their-first-fence",
        CONTROLLER + "agents.py",
        "        if containers <= peer.proven and number not in peer.parting:\n",
        "        if containers & peer.proven and number not in peer.parting:\n",
    ),
    Mutation(
        "containers-are-of-no-term",
        PROCEDURES + "verbs.py",
        "c.table.installation, c.term, cache, erase\n",
        "c.table.installation, 0, cache, erase\n",
    ),
    # Store and checkpoint ------------------------------------------------------------------------
    Mutation(
        "checkpoint-forgets-quarantine",
        CONTROLLER + "checkpoint.py",
        "        quarantine=table.quarantine,\n",
        "        quarantine={},\n",
    ),
    Mutation(
        "checkpoint-forgets-written-bits",
        CONTROLLER + "checkpoint.py",
        "_bits(r.written, r.blocks)",
        "_bits(0, r.blocks)",
    ),
    Mutation(
        "checkpoint-keeps-unflushed-zeroes",
        CONTROLLER + "checkpoint.py",
        "_bits(r.copied, r.blocks),",
        "_bits(r.copied | r.fresh, r.blocks),",
    ),
    Mutation(
        "page-tree-writes-shared-leaves",
        "python/segue/store/pages.py",
        "                if page.holders == 1 and not page.page_id:\n",
        "                if page.holders == 1:\n",
    ),
    # Agent: the session --------------------------------------------------------------------------
    Mutation(
        "lease-runs-from-its-arrival",
        "python/segue/agent/session.py",
        "        until_ns = message.sent_ns + message.duration_ns\n",
        "        until_ns = now + message.duration_ns\n",
    ),
    Mutation(
        "flush-failures-are-kept-from-the-controller",
        "python/segue/agent/session.py",
        "        self._outbox += self._failures.values()\n",
        "",
    ),
    # Agent: the mapping engine -------------------------------------------------------------------
    Mutation(
        "engine-trusts-results-of-an-ended-lease",
        MAP + "lease.rs",
        "        self.epoch += 1;\n",
        "",
    ),
    Mutation(
        "engine-keeps-its-tables-past-the-lease",
        MAP + "lease.rs",
        "            disk.table.invalidate_all();\n",
        "",
    ),
    Mutation(
        "engine-answers-blocking-commands-at-once",
        MAP + "blocking.rs",
        "        if blocker.left == 0 {\n            self.unblock(&blocker);\n        } else {",
        "        if blocker.left < 99 {\n            self.unblock(&blocker);\n        } else {",
    ),
    Mutation(
        "engine-writes-over-zero-entries",
        MAP + "decide.rs",
        "/* zero    */ [Zeroes,    FaultWrite, Done,         FaultWrite,",
        "/* zero    */ [Zeroes,    Done,       Done,         FaultWrite,",
    ),
    Mutation(
        "engine-frees-nothing-on-trim",
        MAP + "decide.rs",
        "/* none    */ [Go,        Go,         FaultDiscard, Go,          Go,         Go,         "
        "FaultDiscard, Go],",
        "/* none    */ [Go,        Go,         Done,         Go,          Go,         Go,         "
        "FaultDiscard, Go],",
    ),
    Mutation(
        "engine-answers-before-the-last-piece",
        MAP + "hosts.rs",
        "        } else if host.remaining == 0 {\n            let (token, errno)",
        "        } else if host.remaining <= 1 {\n            let (token, errno)",
    ),
    Mutation(
        "engine-merges-without-holding-the-unit",
        MAP + "start.rs",
        "        if blocked {\n",
        "        if blocked && this.len > 1 << 40 {\n",
    ),
    Mutation(
        "do-write-is-not-durable",
        MAP + "do_commands.rs",
        "            fua: true,\n",
        "            fua: false,\n",
    ),
    Mutation(
        "flush-skips-a-container",
        MAP + "plan.rs",
        "        for index in 0..containers {\n",
        "        for index in containers - 1..containers {\n",
    ),
]
