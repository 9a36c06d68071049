"""`segue disk explain` says where a byte lies: the container's file is read there and compared."""

from __future__ import annotations

from pathlib import Path

from segue.api.explain import Explanation, Place
from segue.installation import wait_until
from tests.tools.conftest import segue
from tests.tools.movement import DISK_BYTES, SEGMENT_BYTES, Load, two_containers

ZERO, MOVING, OTHER = (segment * SEGMENT_BYTES for segment in (2, 5, 7))
BLOCK = 4096


def does(info: Explanation, io: str) -> str:
    """What a kind of I/O does."""
    [decision] = [decision for decision in info.decisions if decision.io == io]
    return decision.does


def bytes_at(place: Place | None) -> bytes:
    """A block of the container's file, where the explanation says."""
    assert place is not None
    with open(place.uri.partition("file://")[2], "rb") as file:
        file.seek(place.offset_bytes)
        return file.read(BLOCK)


def stuck_movement(load: Load, folder: Path) -> None:
    """One segment moves to *right*, where the second half of it cannot be written."""
    client = load.installation.client
    start = (1 << 20) + SEGMENT_BYTES // 2
    (folder / "right.faults").write_text(f"fail write 5 {start} {start + SEGMENT_BYTES // 2}\n")
    job = client.move_disk("disk", "right", first_segment=MOVING // SEGMENT_BYTES, segments=1)
    wait_until("the error", lambda: "cannot be copied" in client.job(job.job).reason)


def test_bytes_are_where_it_says(folder: Path) -> None:
    with two_containers(folder, ["one"], faulty="faulty+") as load:
        client, host = load.installation.client, load.host("one")
        host.zero(ZERO, SEGMENT_BYTES)
        info = client.explain("disk", ZERO + 5)
        assert (info.entry, info.segment, info.block, info.extent) == ("zero", 2, 0, 0)
        assert (info.lies_at, info.reads_from, info.record) == (None, None, None)
        assert (does(info, "read"), does(info, "write")) == ("zeroes", "fault WRITE")

        host.compare(OTHER, BLOCK)
        info = client.explain("disk", OTHER + BLOCK)
        assert (info.entry, info.block, info.record) == ("none", 1, None)
        assert info.lies_at == info.reads_from
        assert bytes_at(info.reads_from) == load.image[OTHER + BLOCK : OTHER + 2 * BLOCK]
        assert [(holder.agent, holder.may_hold) for holder in info.agents] == [("one", True)]

        stuck_movement(load, folder)
        info = client.explain("disk", MOVING)
        assert (info.entry, does(info, "read")) == ("no_write", "go")
        assert info.record is not None and info.record.block == "source"
        assert info.lies_at is not None and info.lies_at.container == "right"
        assert info.record.sources == [info.reads_from]
        assert bytes_at(info.reads_from) == load.image[MOVING : MOVING + BLOCK]

        host.write(MOVING, b"w" * BLOCK, fua=True)
        info = client.explain("disk", MOVING)
        assert (info.entry, does(info, "read")) == ("invalid", "fault READ")
        assert info.record is not None
        assert (info.record.block, info.record.written_blocks) == ("written", 1)
        assert info.reads_from == info.lies_at
        assert bytes_at(info.reads_from) == b"w" * BLOCK
        assert any("cannot be completed" in reason for reason in info.why)
        behind = client.explain("disk", MOVING + BLOCK)
        assert bytes_at(behind.reads_from) == load.image[MOVING + BLOCK : MOVING + 2 * BLOCK]

        in_words(load)
        host.close()


def in_words(load: Load) -> None:
    """The command, and its answer beyond the disk's end."""
    data = load.installation.data
    said = segue(data, "disk", "explain", "disk", str(MOVING)).stdout
    assert "byte      327680 (320K) of disk disk: segment 5, block 0 of 16\n" in said
    assert "\nentry     invalid: " in said
    assert "\nread      fault READ: each block is read from where it is now" in said
    assert "\nrecord    movement, job 1: 16 blocks, 0 copied, 1 written by hosts\n" in said
    assert "\nagents    one holds nothing\n" in said
    beyond = segue(data, "disk", "explain", "disk", str(DISK_BYTES))
    assert beyond.returncode == 1
    assert (
        beyond.stderr == f"segue: disk disk has {DISK_BYTES} bytes: there is none at {DISK_BYTES}\n"
    )
