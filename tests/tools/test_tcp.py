"""The same over TCP: agent to controller, and hosts to agent; other machines need --insecure."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.installation import Installation
from tests.tools.conftest import MIB, Shell, Tool, segue


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_all_links_over_tcp(
    folder: Path, shell: Callable[[str], Shell], nbdcopy: Tool, random_file: Callable[[int], Path]
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with Installation(folder / "data", ["--listen", address]) as installation:
        installation.start_controller()
        args = ["--controller", address, "--listen", "tcp://127.0.0.1:0", "--listen"]
        installation.start_agent("one", *args, "tcp://[::1]:0")
        installation.client.add_container("left", f"file://{folder}/left", 256 * MIB)
        installation.client.create_disk("disk", 64 * MIB)
        uri4, uri6 = installation.client.disk_uris("disk")
        assert uri4.startswith("nbd://127.0.0.1:")
        assert uri6.startswith("nbd://[::1]:")
        source = random_file(64 * MIB)
        nbdcopy(source, uri4)
        nbdcopy(uri6, folder / "out")
        assert (folder / "out").read_bytes() == source.read_bytes()
        # The link comes back by itself, over TCP as well.
        host = shell(uri4)
        installation.controller.kill()
        installation.start_controller()
        installation.wait_for_agent("one")
        host.say("write -z -u 0 8M")
        host.say("read -P 0 0 8M")
        installation.stop()


@pytest.mark.parametrize("daemon", ["controller", "agent"])
@pytest.mark.parametrize("address", ["tcp://0.0.0.0:10809", "tcp://192.0.2.1:10809"])
def test_addresses_others_reach_need_a_flag(folder: Path, daemon: str, address: str) -> None:
    done = segue(folder / "data", daemon, "--listen", address)
    assert done.returncode == 2
    assert "--insecure" in done.stderr
    assert not (folder / "data").exists()


@pytest.mark.parametrize("address", ["tcp://nohost", "ftp://x", "tcp://127.0.0.1:999999"])
def test_what_is_no_address_is_refused(folder: Path, address: str) -> None:
    done = segue(folder / "data", "controller", "--listen", address)
    assert done.returncode == 2
    assert "segue: " in done.stderr
    assert "Traceback" not in done.stderr
