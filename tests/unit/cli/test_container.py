"""`segue container`."""

from __future__ import annotations

import pytest

from tests.unit.cli.conftest import ANSWERS, CONTAINER, Api


def test_container_add(api: Api) -> None:
    result = api.run("container", "add", "c", "file:///srv/c", "--size", "100M", "--cache=direct")
    assert result.exit_code == 0, result.output
    assert api.seen[0][2] == {
        "name": "c",
        "uri": "file:///srv/c",
        "size_bytes": 100 << 20,
        "cache": "direct",
        "segment_bytes": None,
        "erase": False,
    }


def test_container_add_of_a_device_needs_no_size_and_a_file_does(api: Api) -> None:
    args = ("container", "add", "c", "block:///dev/sdx", "--segment-size", "4M", "--erase")
    assert api.run(*args).exit_code == 0
    assert (api.seen[0][2]["size_bytes"], api.seen[0][2]["segment_bytes"]) == (0, 4 << 20)
    assert api.seen[0][2]["erase"]
    result = api.run("container", "add", "c", "file:///srv/c")
    assert result.exit_code == 2
    assert "a file needs --size" in result.stderr


def test_container_add_says_what_a_server_without_a_fence_costs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.run("container", "add", "c", "nbd://far/c").stderr == ""
    monkeypatch.setitem(ANSWERS, ("POST", "/v1/containers"), (201, CONTAINER | {"fence": "none"}))
    [note] = api.run("container", "add", "c", "nbd://far/c").stderr.splitlines()
    assert note.startswith("note: its server has no fence: after a crash its disks wait")
    assert "`segue container linger c SECONDS`" in note


def test_container_remove(api: Api) -> None:
    assert api.run("container", "remove", "c").output == "container c removed\n"


def test_a_long_uri_is_not_cut_where_a_program_reads(api: Api) -> None:
    assert CONTAINER["uri"] in api.run("container", "list").output


def test_container_show_says_what_it_is_for_an_operator(api: Api) -> None:
    near, far = (api.run("container", "show", name).output for name in ("c", "far"))
    assert "state   present\nsize    100M in 100 segments of 1M\n" in near
    assert "fence   locks show" in near
    assert "away " not in near
    assert "state   away 12s (Connection refused)\n" in far
    assert "flush   nothing is left to do" in far
    assert "fence   none: " in far
    assert "away    I/O that needs it fails after 0.5 s\n" in far


def test_container_linger(api: Api) -> None:
    assert api.run("container", "linger", "c", "60").output == "container c: linger 60 s\n"
    assert api.run("container", "linger", "c", "0").output == "container c: no linger\n"
    assert api.seen[0] == ("POST", "/v1/containers/c/linger", {"linger_s": 60.0})
    assert api.run("container", "linger", "c", "soon").exit_code == 2
