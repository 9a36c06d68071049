"""A damaged table is named and never served; an old copy of it put back is refused (promise P7)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.installation import Installation
from tests.tools.conftest import Shell, segue


def store_files(data: Path) -> list[Path]:
    """The SQLite database and what stands beside it."""
    return [path for path in data.iterdir() if path.name.startswith("segue.db")]


def test_an_old_copy_put_back_is_refused(
    installation: Installation, shell: Callable[[str], Shell], folder: Path
) -> None:
    data = installation.data
    shell(installation.uri("disk", "one")).say("write -P 1 0 4M")
    installation.stop()
    for path in store_files(data):
        shutil.copy(path, folder / f"old-{path.name}")
    installation.start_controller()
    installation.start_agent("one")
    shell(installation.uri("disk", "one")).say("write -P 2 4M 4M")
    installation.stop()
    newest = {path: path.read_bytes() for path in store_files(data)}
    for path in newest:
        path.unlink()
    for path in folder.glob("old-*"):
        shutil.copy(path, data / path.name.removeprefix("old-"))
    done = segue(data, "controller")
    assert done.returncode == 1
    assert "an old copy of the store was put back" in done.stderr.splitlines()[-1]
    for path in store_files(data):
        path.unlink()
    for path, content in newest.items():
        path.write_bytes(content)
    installation.start_controller()
    installation.start_agent("one")
    host = shell(installation.uri("disk", "one"))
    host.say("read -P 1 0 4M")
    host.say("read -P 2 4M 4M")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_flipped_bit_is_named_and_nothing_served(
    installation: Installation, shell: Callable[[str], Shell], share: float
) -> None:
    """In a byte that is in use: `check` names it, the controller does not start."""
    data = installation.data
    shell(installation.uri("disk", "one")).say("write -P 1 0 64M")
    installation.stop()
    store = data / "segue.db"
    content = bytearray(store.read_bytes())
    used = [at for at, byte in enumerate(content) if byte]
    at = used[int(share * len(used))]
    content[at] ^= 0x10
    store.write_bytes(content)
    checked = segue(data, "check")
    done = segue(data, "controller", "--listen", f"unix://{data}/nobody.sock")
    assert checked.returncode == 1
    assert "no problem found" not in checked.stdout
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("segue: ")
    content[at] ^= 0x10
    store.write_bytes(content)
    installation.start_controller()
    installation.start_agent("one")
    shell(installation.uri("disk", "one")).say("read -P 1 0 64M")
