"""Virtual machines on Segue disks: QEMU's NBD client below one, the kernel's own inside another."""

from __future__ import annotations

import random
import shlex
from pathlib import Path

from segue.block_devices import nbd_client_command
from segue.installation import Installation, wait_until
from tests.real.mounts import attached, drop_caches, mounted
from tests.real.vm import INIT_ON_DISK, VirtualMachine
from tests.tools.conftest import MIB, Tool
from tests.tools.movement import Mover

DISK_BYTES = 64 * MIB
SEED = random.Random(1).randbytes(2 * MIB)
PIECE_BYTES = 64 * 1024
FILES = 12
KILL_AFTER_SEGMENTS = 8

# The seed turned round by so many pieces, each file written through to the disk.
WRITE = f"""
mkdir /mnt/files
for i in $(seq 0 {FILES - 1}); do
    (dd if=/seed bs={PIECE_BYTES} skip=$i; dd if=/seed bs={PIECE_BYTES} count=$i) 2>/dev/null |
        dd of=/mnt/files/$i bs={PIECE_BYTES} conv=fsync 2>/dev/null
done
"""
# What was written, read again by the machine's kernel: from the disk, after another mount.
COMPARE = f"""
echo 3 > /proc/sys/vm/drop_caches
for i in $(seq 0 {FILES - 1}); do
    (dd if=/seed bs={PIECE_BYTES} skip=$i; dd if=/seed bs={PIECE_BYTES} count=$i) 2>/dev/null |
        cmp - /mnt/files/$i
done
"""
FIRST_BOOT = f"""
mkfs.ext4 -q /dev/vda
mount /dev/vda /mnt
mkdir /mnt/bin /mnt/dev /mnt/proc /mnt/mnt
cp /bin/busybox /mnt/bin
/mnt/bin/busybox --install /mnt/bin
cp /seed /mnt
cp /second_init /mnt/init
cp /second_script /mnt/script
{WRITE}
umount /mnt
mount -o ro /dev/vda /mnt
{COMPARE}
umount /mnt
"""
# With the disk as its root: the files are in /files there.
SECOND_BOOT = f"""
{COMPARE.replace("/mnt", "")}
for round in 1 2 3; do
    rm -r /files
    {WRITE.replace("/mnt", "")}
    {COMPARE.replace("/mnt", "")}
done
mount -o remount,ro /
"""


def drive(installation: Installation, disk: str) -> str:
    """The disk for QEMU, which connects again and repeats when its agent has died."""
    server = f"server.type=unix,server.path={installation.socket('one')},export={disk}"
    return f"driver=nbd,{server},reconnect-delay=120"


def test_machine_writes_then_runs_from_its_disk(segue_here: Installation, place: Path) -> None:
    """The agent is killed while it writes; at the second boot the disk is its root, and moves."""
    segue_here.client.create_disk("vm", DISK_BYTES)
    second = {"second_init": INIT_ON_DISK.encode(), "second_script": SECOND_BOOT.encode()}
    machine = VirtualMachine(place, FIRST_BOOT, {"seed": SEED, **second})
    booted = machine.start([drive(segue_here, "vm")])

    def at_work() -> bool:
        mapped = segue_here.client.disk("vm").mapped_segments
        return mapped >= KILL_AFTER_SEGMENTS or booted.poll() is not None

    wait_until("the machine to write", at_work, 120)
    assert booted.poll() is None, "it ended before the kill"
    segue_here.agents["one"].kill()
    segue_here.start_agent("one")
    machine.finish(booted)
    segue_here.client.add_container("right", f"file://{place}/right", 2 * DISK_BYTES)
    machine = VirtualMachine(place, None, {})
    with Mover(segue_here, "vm") as mover:
        machine.finish(machine.start([drive(segue_here, "vm")]))
    assert mover.moves >= 2
    look_over(segue_here, "vm", place)


def look_over(installation: Installation, disk: str, place: Path) -> None:
    """From outside: every byte of its files, and the filesystem's own check."""
    drop_caches()
    with attached(installation, disk, "--read-only") as device:
        with mounted(device, place / "mnt", "ro") as folder:
            files = folder / "files"
            assert sorted(map(int, (path.name for path in files.iterdir()))) == list(range(FILES))
            for i in range(FILES):
                turned = SEED[i * PIECE_BYTES :] + SEED[: i * PIECE_BYTES]
                assert (files / str(i)).read_bytes() == turned, i
        Tool("e2fsck")("-fn", device)


def test_kernels_own_nbd_client(segue_here: Installation, place: Path) -> None:
    """nbd.ko of Debian's kernel over TCP, with the very words that `segue attach` gives."""
    segue_here.client.create_disk("nbd", DISK_BYTES)
    segue_here.start_agent("tcp", "--listen", "tcp://127.0.0.1:0")
    (uri,) = segue_here.client.disk_uris("nbd", "tcp")
    # To the machine, this one is 10.0.2.2.
    uri = uri.replace("127.0.0.1", "10.0.2.2")
    connect = shlex.join(nbd_client_command(uri, "/dev/nbd0", False))
    connect_read_only = shlex.join(nbd_client_command(uri, "/dev/nbd1", True))
    script = f"""
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
{connect}
test -e /sys/block/nbd0/pid
mkfs.ext4 -q /dev/nbd0
mount /dev/nbd0 /mnt
{WRITE}
umount /mnt
nbd-client -d /dev/nbd0
{connect_read_only}
test "$(cat /sys/block/nbd1/ro)" = 1
mount -o ro /dev/nbd1 /mnt
{COMPARE}
umount /mnt
nbd-client -d /dev/nbd1
test ! -e /sys/block/nbd1/pid
"""
    machine = VirtualMachine(place, script, {"seed": SEED})
    machine.finish(machine.start([], "-nic", "user,model=virtio-net-pci"))
    look_over(segue_here, "nbd", place)
