"""nbdinfo sees the exports, their sizes and flags, and what is allocated."""

from __future__ import annotations

import json

from segue.installation import Installation
from tests.tools.conftest import MIB, Tool


def test_the_list_names_every_disk(installation: Installation, nbdinfo: Tool) -> None:
    installation.client.create_disk("second", 512)
    socket = installation.socket("one")
    listing = json.loads(nbdinfo("--list", "--json", f"nbd+unix:///?socket={socket}").stdout)
    sizes = {export["export-name"]: export["export-size"] for export in listing["exports"]}
    assert sizes == {"disk": 64 * MIB, "second": 512}


def test_an_export_declares_what_it_can(installation: Installation, nbdinfo: Tool) -> None:
    info = json.loads(nbdinfo("--json", installation.uri("disk", "one")).stdout)
    [export] = info["exports"]
    assert export["export-size"] == 64 * MIB
    assert not export["is_read_only"]
    for can in ("flush", "fua", "trim", "zero", "fast_zero", "multi_conn", "df"):
        assert export[f"can_{can}"], can
    assert export["block_size_minimum"] == 1
    assert export["block_size_preferred"] == 4096
    assert export["block_size_maximum"] >= 32 * MIB


def test_the_map_shows_what_was_written(
    installation: Installation, nbdinfo: Tool, qemu_io: Tool
) -> None:
    uri = installation.uri("disk", "one")
    qemu_io("-f", "raw", "-c", "write -P 7 5M 4k", "-c", "write -P 7 6M 1M", uri)
    extents = json.loads(nbdinfo("--map", "--json", uri).stdout)
    assert [(e["offset"], e["length"], e["description"]) for e in extents] == [
        (0, 5 * MIB, "hole,zero"),
        (5 * MIB, 2 * MIB, "data"),
        (7 * MIB, 57 * MIB, "hole,zero"),
    ]


def test_an_unknown_export_is_refused(installation: Installation, nbdinfo: Tool) -> None:
    done = nbdinfo(installation.uri("nothing", "one"), ok=False)
    assert done.returncode != 0
    nbdinfo(installation.uri("disk", "one"))
