"""`segue container`."""

from __future__ import annotations

from tests.unit.cli.conftest import CONTAINER, Api


def test_container_add(api: Api) -> None:
    result = api.run("container", "add", "c", "file:///srv/c", "--size", "100M", "--cache=direct")
    assert result.exit_code == 0, result.output
    assert api.seen[0][2] == {
        "name": "c",
        "uri": "file:///srv/c",
        "size_bytes": 100 << 20,
        "cache": "direct",
    }


def test_a_long_uri_is_not_cut_where_a_program_reads(api: Api) -> None:
    assert CONTAINER["uri"] in api.run("container", "list").output
