"""`segue disk`."""

from __future__ import annotations

from tests.unit.cli.conftest import Api


def test_disk_create_takes_sizes_with_units(api: Api) -> None:
    result = api.run("disk", "create", "d", "10GiB", "--block-size", "512")
    assert (result.exit_code, result.output) == (0, "disk d: 10G\n")
    body = {"name": "d", "size_bytes": 10 << 30, "block_bytes": 512}
    assert api.seen == [("POST", "/v1/disks", body)]


def test_disk_uri_names_an_agent_that_is_there(api: Api) -> None:
    assert api.run("disk", "uri", "d").output == "nbd+unix:///d?socket=/run/one\n"
    result = api.run("disk", "uri", "d", "--agent", "two")
    assert result.exit_code == 1
    assert result.stderr == "segue: no agent called two is there to serve d\n"


def test_disk_delete(api: Api) -> None:
    assert api.run("disk", "delete", "d").output == "disk d deleted\n"
