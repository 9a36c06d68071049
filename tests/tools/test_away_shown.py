"""A container whose server is away is shown, with who needs it; by a new term too."""

from __future__ import annotations

from pathlib import Path

from segue import _native
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, segue
from tests.tools.test_nbd_container import Server, bare, serve, servers

__all__ = ["bare", "servers"]


def test_a_server_that_is_away_is_shown(
    bare: Installation, servers: dict[str, Server], folder: Path
) -> None:
    """By `status` and `container show`, with who needs it; by a new term too."""
    server, client = serve(servers, folder, "segue"), bare.client
    client.add_container("far", server.uri("on-loss=fail", "loss-ms=300"), 0)
    server.kill()
    wait_until("it is missed", lambda: client.container("far").away_s is not None)
    done = segue(bare.data, "status")  # which no host suffers from: no disk lies there
    assert (done.returncode, "away" in done.stdout, "problem" in done.stdout) == (0, True, False)
    server.start()
    wait_until("it is back", lambda: client.container("far").away_s is None)
    client.create_disk("disk", 8 * MIB)
    host = _native.NbdClient(bare.uri("disk", "one"), "disk")
    host.pwrite(b"1" * 4096, 0)
    info = client.container("far")
    assert (info.away_s, info.fence, info.flush, info.disks) == (
        None,
        "server",
        "nothing",
        ["disk"],
    )
    assert (info.when_away, info.fail_after_s) == ("fail", 0.3)
    assert client.status().problems == []
    server.kill()
    wait_until("it is missed", lambda: client.container("far").away_s is not None)
    [problem] = [said for said in client.status().problems if "container far is away" in said]
    assert "I/O that needs it fails, of disk" in problem
    assert "state   away" in segue(bare.data, "container", "show", "far").stdout
    assert "away" in segue(bare.data, "container", "list").stdout
    assert client.explain("disk", 0).reads_from is not None
    bare.controller.kill()
    bare.start_controller()
    info = client.container("far")
    assert info.away_s is not None and info.away_why == "Connection refused"
    assert info.fence == "unknown"
    server.start()
    wait_until("it is back", lambda: client.container("far").away_s is None)
    assert client.container("far").fence == "server"
    assert not any("away" in said for said in client.status().problems)
