"""Containers on block devices, pools, and containers that come and go while hosts write."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue.installation import Installation, listens, wait_until
from tests.tools.conftest import MIB, Shell, Tool, segue


@pytest.fixture
def device(folder: Path) -> Iterator[Callable[[int], str]]:
    """Makes loop devices of so many bytes; gives them back after the test."""
    made: list[str] = []

    def make(size_bytes: int) -> str:
        path = folder / f"device-{len(made)}"
        with open(path, "wb") as file:
            file.truncate(size_bytes)
        done = subprocess.run(
            ["losetup", "-f", "--show", str(path)], capture_output=True, text=True, check=True
        )
        made.append(done.stdout.strip())
        return made[-1]

    yield make
    for path in made:
        subprocess.run(["losetup", "-d", path], check=True)


def test_a_block_device_serves_as_a_container(
    folder: Path, device: Callable[[int], str], shell: Callable[[str], Shell]
) -> None:
    path = device(65 * MIB)
    with Installation(folder / "data") as made:
        made.start_controller()
        made.start_agent("one")
        done = segue(made.data, "container", "add", "dev", f"block://{path}")
        assert (done.returncode, done.stdout) == (0, "container dev: 64 segments, 64M\n")
        info = made.client.container("dev")
        assert (info.cache, info.write_unit_bytes) == ("direct", 512)
        # What lay on the device shows nowhere: it is zeroed, or written around.
        made.client.create_disk("disk", 64 * MIB)
        host = shell(made.uri("disk", "one"))
        host.say("write -P 1 5000 3000")
        host.say("read -P 0 0 5000")
        host.say(f"write -P 2 1M {63 * MIB}")
        assert "No space left" not in host.try_to("flush")
        claimed = subprocess.run(["mkfs.ext4", "-q", path], capture_output=True, check=False)
        assert claimed.returncode != 0, "somebody could make a file system on it"
        made.agents["one"].kill()
        made.controller.kill()
        made.start_controller()
        made.start_agent("one")
        host = shell(made.uri("disk", "one"))
        host.say("read -P 1 5000 3000")
        host.say(f"read -P 2 1M {63 * MIB}")
        host.close()
        made.client.delete_disk("disk")
        wait_until("the attachment's end", lambda: made.client.container("dev").used_segments == 0)
        wait_until("it is idle", lambda: remove(made, "dev"))
        assert subprocess.run(["blkid", "-p", path], check=False).returncode == 2, (
            "all ours is gone"
        )
        made.stop()


def remove(made: Installation, name: str) -> bool:
    """Whether the container could be removed now; nothing but zeroing may keep it."""
    done = segue(made.data, "container", "remove", name)
    assert done.returncode == 0 or "are being zeroed" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_device_in_use_is_refused(
    installation: Installation, device: Callable[[int], str]
) -> None:
    path = device(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    done = segue(installation.data, "container", "add", "dev", f"block://{path}")
    assert done.returncode == 1
    assert "first MiB holds something" in done.stderr
    assert [c.name for c in installation.client.containers()] == ["left"]


def test_what_lies_behind_a_devices_head_is_spared_until_erase_is_said(
    installation: Installation, device: Callable[[int], str]
) -> None:
    path = device(400 * MIB)
    with open(path, "r+b") as raw:
        raw.seek(40 * MIB)
        raw.write(b"precious")
    add = ("container", "add", "dev", f"block://{path}")
    refused = segue(installation.data, *add)
    assert refused.returncode == 1
    assert f"it holds something, at byte {40 * MIB}: --erase gives up" in refused.stderr
    with open(path, "rb") as raw:
        raw.seek(40 * MIB)
        assert raw.read(8) == b"precious"
    with open(path, "r+b") as raw:
        raw.write(b"head")
    large = segue(installation.data, *add, "--erase", "--size", "500M")
    assert large.returncode == 1
    assert f"it has {400 * MIB} bytes" in large.stderr
    with open(path, "rb") as raw:
        assert raw.read(4) == b"head", "nothing is erased for what is refused"
    taken = segue(installation.data, *add, "--erase")
    assert (taken.returncode, taken.stdout) == (0, "container dev: 399 segments, 399M\n")
    again = segue(installation.data, "container", "add", "two", f"block://{path}", "--erase")
    assert again.returncode == 1
    assert "is a container already" in again.stderr


def test_an_exports_data_is_spared_until_erase_is_said(
    installation: Installation, folder: Path, nbdkit: Tool
) -> None:
    with open(folder / "image", "wb") as image:
        image.truncate(8 * MIB)
        image.seek(7 * MIB)
        image.write(b"precious")
    socket = folder / "nbdkit"
    args = ("-f", "-U", socket, "file", folder / "image")
    with nbdkit.start(*args, log=folder / "log") as server:
        wait_until("nbdkit", lambda: listens(socket))
        add = ("container", "add", "far", f"nbd+unix:///?socket={socket}")
        refused = segue(installation.data, *add)
        assert refused.returncode == 1
        assert f"it holds something, at byte {7 * MIB}" in refused.stderr
        taken = segue(installation.data, *add, "--erase")
        assert (taken.returncode, taken.stdout) == (0, "container far: 7 segments, 7M\n")
        server.terminate()


def test_a_larger_file_is_not_cut(installation: Installation, folder: Path) -> None:
    with open(folder / "large", "wb") as large:
        large.truncate(64 * MIB)
    uri = f"file://{folder}/large"
    refused = segue(installation.data, "container", "add", "c", uri, "--size", "32M")
    assert refused.returncode == 1
    assert f"it has {64 * MIB} bytes, more than {32 * MIB}" in refused.stderr
    assert (folder / "large").stat().st_size == 64 * MIB
    assert segue(installation.data, "container", "add", "c", uri, "--size", "64M").returncode == 0


def test_containers_come_and_go_under_a_host(
    installation: Installation, folder: Path, shell: Callable[[str], Shell]
) -> None:
    client = installation.client
    left = client.container("left").segments
    client.create_disk("big", 400 * MIB)
    host = shell(installation.uri("big", "one"))
    host.say(f"write -P 1 0 {left}M")
    assert "No space left" in host.try_to(f"write -P 2 {left}M 1M")
    host.say("write -P 3 0 1M")
    host.say(f"read -P 1 1M {left - 1}M")
    assert (
        segue(
            installation.data, "container", "add", "new", f"file://{folder}/new", "--size", "65M"
        ).returncode
        == 0
    )
    host.say(f"write -P 2 {left}M 8M")
    assert client.disk("big").containers == ["left", "new"]
    done = segue(installation.data, "container", "remove", "new")
    assert (done.returncode, done.stderr) == (1, "segue: container new holds 8 segments of data\n")
    host.say(f"write -z -u {left}M 8M")
    wait_until("cleaning is over", lambda: remove(installation, "new"))
    assert client.disk("big").containers == ["left"]
    assert not (folder / "new").exists()
    host.say("flush")
    host.say(f"read -P 0 {left}M 8M")
    # Deleting a disk makes room as well, and the number of what is gone is not used again.
    host.say("discard 4M 4M")
    host.say(f"write -P 4 {left + 8}M 4M")
    client.create_disk("other", 8 * MIB)
    assert client.add_container("new", f"file://{folder}/new", 33 * MIB).container == 3


def test_a_removal_cut_off_is_finished(installation: Installation, folder: Path) -> None:
    client = installation.client
    client.add_container("new", f"file://{folder}/new", 33 * MIB)
    installation.controller.stop()
    installation.start_controller(SEGUE_FAILPOINTS="remove.committed=kill")
    assert segue(installation.data, "container", "remove", "new").returncode == 1
    installation.controller.kill()
    assert (folder / "new").exists()
    installation.start_controller()
    wait_until("it is gone", lambda: [c.name for c in client.containers()] == ["left"])
    assert not (folder / "new").exists()


def test_pools_by_segment_size(installation: Installation, folder: Path) -> None:
    data, client = installation.data, installation.client
    small = ["container", "add", "small", f"file://{folder}/small", "--size", "8M"]
    assert segue(data, *small, "--segment-size", "64K").returncode == 0
    client.create_disk("a", 4 * MIB)
    client.create_disk("b", 4 * MIB, segment_bytes=64 << 10)
    assert [client.disk(name).containers for name in "ab"] == [["left"], ["small"]]
    done = segue(data, "disk", "create", "c", "4M", "--segment-size", "128K")
    assert done.returncode == 1
    assert "no container has segments of 128K" in done.stderr
    # New disks begin where most would be left if all were full.
    client.add_container("other", f"file://{folder}/other", 257 * MIB)
    homes = []
    for name in "defg":
        homes += client.create_disk(name, 128 * MIB).containers
    assert sorted(homes) == ["left", "left", "other", "other"]
