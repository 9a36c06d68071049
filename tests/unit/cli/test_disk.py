"""`segue disk`."""

from __future__ import annotations

import json

import pytest

from segue.block_devices import Attachment, BlockDevices
from tests.unit.cli.conftest import ANSWERS, DISK, MAP, Api


def test_disk_create_takes_sizes_with_units(api: Api) -> None:
    words = ("--block-size", "512", "--container", "c")
    result = api.run("disk", "create", "d", "10GiB", *words)
    assert (result.exit_code, result.output) == (0, "disk d: 10G\n")
    body = {"name": "d", "size_bytes": 10 << 30, "block_bytes": 512, "segment_bytes": None}
    body["container"] = "c"
    assert api.seen == [("POST", "/v1/disks", body)]


def test_disk_uri_names_an_agent_that_is_there(api: Api) -> None:
    assert api.run("disk", "uri", "d").output == "nbd+unix:///d?socket=/run/one\n"
    result = api.run("disk", "uri", "d", "--agent", "two")
    assert result.exit_code == 1
    assert result.stderr == "segue: no agent called two is there to serve d\n"


def test_disk_resize_and_rename(api: Api) -> None:
    assert api.run("disk", "resize", "d", "10G", "--force").output == "disk d: 10G\n"
    assert api.run("disk", "rename", "d", "e").output == "disk d is now called e\n"
    assert [body for _, _, body in api.seen] == [
        {"size_bytes": 10 << 30, "force": True},
        {"name": "e"},
    ]


def test_disk_delete(api: Api) -> None:
    assert api.run("disk", "delete", "d").output == "disk d deleted\n"
    assert api.run("disk", "delete", "d", "--force").output == "disk d deleted\n"
    said = "disk busy is in use: hosts have it open at agent one (--force deletes it all the same)"
    result = api.run("disk", "delete", "busy")
    assert (result.exit_code, result.stderr) == (1, f"segue: {said}\n")
    assert [path for _, path, _ in api.seen] == [
        "/v1/disks/d",
        "/v1/disks/d?force=true",
        "/v1/disks/busy",
    ]


def test_a_device_of_the_disk_is_named(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that `segue attach` of the same folder has made."""
    there = [
        Attachment(disk="busy", uri="", read_only=False, kind="loop", boot="", device="/dev/x")
    ]
    monkeypatch.setattr(BlockDevices, "there", lambda _: there)
    said = api.run("disk", "delete", "busy").stderr
    assert said.endswith("; it is /dev/x here: `segue detach busy`\n")


def test_disk_clear_error(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.run("disk", "clear-error", "d").output == "disk d: there was no flush error\n"
    assert [method for method, _, _ in api.seen] == ["GET"]
    monkeypatch.setitem(ANSWERS, ("GET", "/v1/disks/d"), (200, DISK | {"failed": {"c": 5}}))
    monkeypatch.setitem(ANSWERS, ("POST", "/v1/disks/d/clear-error"), (200, DISK))
    assert api.run("disk", "clear-error", "d").output == "disk d: flush errors ended\n"


def test_disk_map_is_a_drawing(api: Api) -> None:
    """80 segments in cells of one: two rows."""
    output = api.run("disk", "map", "d").output.splitlines()
    assert output == [
        "disk d: 80M in 80 segments of 1M; each sign is 1M",
        "A left: 66 segments, 66M",
        "B right: 2 segments, 2M",
        ". zero: 12 segments; they take no room",
        "! incomplete: 1 segment",
        "",
        "       0  " + "A" * 64,
        "     64M  " + "AA!B" + "." * 12,
    ]


def test_disk_map_as_runs(api: Api) -> None:
    result = api.run("disk", "map", "d", "--json", "--first", "3", "--runs", "2")
    assert json.loads(result.output) == MAP
    assert api.seen == [("GET", "/v1/disks/d/map?first_segment=3&max_runs=2", None)]
