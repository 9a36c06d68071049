"""Disks that come and go: each life of a name is a disk of its own, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from segue.controller.peer import PeerState
from segue.controller.procedures.job_verbs import drain_container
from segue.controller.procedures.verbs import create_disk, delete_disk, rename_disk
from segue.sim.containers import SECTOR_BYTES
from segue.sim.host import ESHUTDOWN, LOST
from segue.sim.loop import MS, SECOND
from segue.sim.oracle import Disk
from segue.sim.stage import DiskPlan, MediumPlan, Stage, settings
from tests.sim.stories import done, end, medium, through, writing
from tests.sim.test_movement import resized
from tests.sim.test_verbs import outcomes

Build = Callable[..., Stage]
SEGMENT = 128
TWO_DISKS = [DiskPlan(sectors=2 * SEGMENT), DiskPlan(sectors=2 * SEGMENT)]


def created(stage: Stage, name: str, sectors: int = 2 * SEGMENT) -> Disk:
    """Makes a disk."""
    assert outcomes(stage, create_disk(stage.controller, name, sectors * SECTOR_BYTES)) == ["ok"]
    table = stage.controller.table
    disk = Disk(name, sectors, number=table.disk_names[name])
    stage.oracles.append(disk)
    return disk


def deleted(stage: Stage, disk: Disk) -> None:
    """Deletes a disk, from asking to knowing."""
    stage.admin.disks.delete([disk])
    stage.wait(lambda: not stage.admin.busy, "the disk is not deleted")
    assert disk.gone_ns is not None


def test_a_disk_is_deleted_under_its_hosts_and_another_is_called_so(stage: Build) -> None:
    s = stage(disks=TWO_DISKS, media=[MediumPlan(segments=4, clean=False)])
    one, two = through(s, 0, disk=1), through(s, 1, disk=1)
    assert done(s, one, "write", 0, SEGMENT) == 0
    assert done(s, two, "write", SEGMENT, 8) == 0
    old = s.oracles[1]
    medium(s).slow_until_ns = s.world.now_ns + SECOND
    ios = [host.do(op, 8, 8) for host in (one, two) for op in ("write", "read", "write")]
    deleted(s, old)
    s.wait(lambda: all(io.done() for io in ios), "an I/O has no end")
    assert {io.result() for io in ios} <= {0, ESHUTDOWN, LOST}
    new = created(s, "vd1")
    assert done(s, one, "read", 0, 8) == LOST and one.gone
    host = s.host("n", new, s.machines, [0])
    assert done(s, host, "read", 0, 2 * SEGMENT) == 0
    assert done(s, host, "write", 3, 8) == 0
    assert new.number != old.number
    end(s)


def test_two_agents_open_a_fine_disk_at_once(stage: Build) -> None:
    """Its blocks are smaller than the write unit: agents that merge would undo each other's."""
    s = stage(disks=[DiskPlan(SEGMENT, 1)], media=[MediumPlan(4, write_unit_bytes=4096)])
    s.world.run_for(SECOND)
    reads = [through(s, number).do("read", 0, 8) for number in range(2)]
    s.wait(lambda: any(read.done() for read in reads), "nobody opens it")
    s.world.run_for(SECOND)
    assert len(s.controller.table.attached[1]) == 1


def test_an_older_term_opens_no_disk_under_a_name_that_is_anothers_by_now(stage: Build) -> None:
    """Renaming and making ask no agent, so one that is served by an older term hears nothing."""
    s = stage(disks=TWO_DISKS)
    assert done(s, through(s, 0, disk=1), "write", 0, 8) == 0
    s.office.start()
    s.wait(lambda: s.office.serving is not None, "the newer term does not serve")
    old, older = s.oracles[1], s.checks.controllers[0]
    old.begin_rename(s.world.now_ns, "else")
    assert outcomes(s, rename_disk(s.controller, "vd1", "else")) == ["ok"]
    old.settle_name(s.world.now_ns, "else")
    new = created(s, "vd1")
    assert any(peer.link is not None for peer in older.peers.values())
    s.world.run_for(MS)
    assert done(s, s.host("n", new, s.machines[:1], [0]), "read", 0, 8) == 0
    end(s)


def test_a_disk_that_an_older_term_does_not_know_is_opened_by_the_newer(stage: Build) -> None:
    s = stage()
    assert done(s, through(s, 0), "write", 0, 8) == 0
    s.office.start()
    s.wait(lambda: s.office.serving is not None, "the newer term does not serve")
    new = created(s, "new")
    s.world.run_for(MS)
    assert done(s, s.host("n", new, s.machines[:1], [0]), "write", 0, 8) == 0
    end(s)


def test_an_agent_comes_back_while_its_disk_is_being_deleted(stage: Build) -> None:
    """It is taken for lost, and is back before that is durable: its table goes all the same."""
    s = stage(disks=TWO_DISKS)
    one = through(s, 0, disk=1)
    assert done(s, one, "write", 0, 8) == 0
    process = s.agent(0).process
    process.pause()
    s.world.run_for(3 * SECOND)
    lost, store = s.controller.peers[s.agent(0).incarnation], s.controller.store
    assert lost.state is PeerState.LOST
    append = store.append

    async def append_when_it_is_back(term: int, number: int, body: bytes) -> None:
        while lost.state is not PeerState.PRESENT:
            await lost.changed()
        await append(term, number, body)

    store.append = append_when_it_is_back  # type: ignore[method-assign]
    s.admin.disks.delete([s.oracles[1]])
    s.world.run_for(10 * MS)
    process.resume()
    flushes = [one.do("flush") for _ in range(3)]
    s.wait(lambda: not s.admin.busy, "the disk is not deleted")
    s.wait(lambda: all(flush.done() for flush in flushes), "a flush is not answered")
    assert s.oracles[1].gone_ns is not None
    end(s)
    assert s.checks.tables(s.agent(0).plane) in ([], [1])


def test_what_was_under_movement_when_its_disk_went_is_another_disks_at_once(stage: Build) -> None:
    """The job that moved it finds extent and location as it left them, and the disk gone."""
    slow = msgspec.structs.replace(settings(), copy_piece_bytes=4096)
    media = [MediumPlan(segments=1), MediumPlan(segments=1)]
    s = stage(disks=TWO_DISKS, media=media, settings=slow)
    table = s.controller.table
    assert done(s, through(s, 0, disk=1), "write", 0, 8) == 0
    assert outcomes(s, drain_container(s.controller, "m1", bandwidth=1000)) == ["ok"]
    s.wait(lambda: bool(table.records), "nothing moves")
    [extent] = table.records
    location = table.extents.get(extent)
    deleted(s, s.oracles[1])
    assert not table.records
    assert done(s, through(s, 1), "write", 0, 8) == 0
    assert table.extents.get(extent) == location
    s.wait(lambda: not s.controller.jobs.running, "the job does not end")
    end(s)


def test_a_disk_given_to_a_host_that_has_gone_is_let_go(stage: Build) -> None:
    """Only one agent may serve it, and the one that was asked by the host has no other."""
    s = stage(disks=[DiskPlan(SEGMENT, 1)], media=[MediumPlan(4, write_unit_bytes=4096)])
    one, two = through(s, 1), through(s, 0)
    one.do("read", 0, 8)
    s.wait(lambda: bool(s.agent(1).session._opens), "the disk is not asked for")
    one.cut()
    one.process.kill()
    s.wait(lambda: bool(s.controller.table.attached.get(1)), "the disk is not attached")
    assert done(s, two, "read", 0, 8) == 0
    end(s)


def delete_of(stage: Stage, disk: Disk) -> str:
    """Asks for a disk's end without force; what it came to."""
    [said] = outcomes(stage, delete_disk(stage.controller, disk.name))
    if said == "ok":
        disk.delete_ns = disk.gone_ns = stage.world.now_ns
    return said


def test_a_disk_that_hosts_have_open_is_not_deleted_unless_forced(stage: Build) -> None:
    s = stage(disks=TWO_DISKS)
    one, two = through(s, 0, disk=1), through(s, 1, disk=1)
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, two, "read", 0, 8) == 0
    said = delete_of(s, s.oracles[1])
    assert "disk vd1 is in use: hosts have it open at agent a1, a2 (--force" in said
    assert done(s, one, "read", 0, 8) == 0
    one.cut()
    assert "open at agent a2 (" in delete_of(s, s.oracles[1])
    deleted(s, s.oracles[1])
    assert done(s, two, "read", 0, 8) in (ESHUTDOWN, LOST)
    end(s)


def test_a_disk_whose_last_host_has_just_gone_is_deleted(stage: Build) -> None:
    """Its agent has not said so yet when the verb is asked for."""
    s = stage(disks=TWO_DISKS)
    one = through(s, 0, disk=1)
    assert done(s, one, "write", 0, 8) == 0
    one.cut()
    assert s.controller.table.attached[2]
    assert delete_of(s, s.oracles[1]) == "ok"
    end(s)


def test_a_disk_whose_agent_died_may_be_deleted_when_that_is_known(stage: Build) -> None:
    """Its hosts may be back as long as it may live."""
    s = stage(disks=TWO_DISKS)
    assert done(s, through(s, 0, disk=1), "write", 0, 8) == 0
    process = s.agent(0).process
    process.pause()
    s.world.run_for(3 * SECOND)
    assert "hosts had it open at agent a1, which is lost" in delete_of(s, s.oracles[1])
    process.kill()
    s.wait(lambda: delete_of(s, s.oracles[1]) == "ok", "the disk is not deleted")
    end(s)


def test_a_disk_shrinks_under_a_write(stage: Build) -> None:
    """What lay there is free when no agent may reach it and the write has ended; then it grows."""
    s = stage(disks=[DiskPlan(sectors=2 * SEGMENT)], media=[MediumPlan(segments=2)])
    one, two = through(s, 0), through(s, 1)
    assert done(s, one, "write", SEGMENT, SEGMENT) == 0
    assert done(s, two, "read", SEGMENT, 8) == 0
    write = one.do("write", SEGMENT, 8)
    s.wait(lambda: writing(s, commanded=False), "the write has not started")
    [late] = medium(s).under_way.values()
    late.stuck_until_ns = s.world.now_ns + SECOND // 2
    resized(s, SEGMENT)
    assert s.world.now_ns >= late.stuck_until_ns
    assert done(s, one, "write", 0, 8) == 0
    resized(s, 2 * SEGMENT)
    assert done(s, two, "read", SEGMENT, SEGMENT) == 0
    assert write.result() == 0
    end(s)
