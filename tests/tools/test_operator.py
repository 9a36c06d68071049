"""What an operator gets wrong is refused in one line and changes nothing (rule 10)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.installation import Installation
from tests.tools.conftest import Shell, Tool, containers, segue


def test_the_whole_way_by_commands(folder: Path, installation: Installation, nbdinfo: Tool) -> None:
    """`disk uri` prints what nbdinfo takes; listings agree; deleting leaves nothing."""
    data = installation.data
    assert segue(data, "disk", "create", "new", "10GiB").stdout == "disk new: 10G\n"
    uri = segue(data, "disk", "uri", "new").stdout.strip()
    info = json.loads(nbdinfo("--json", uri).stdout)
    assert info["exports"][0]["export-size"] == 10 << 30
    disks = json.loads(segue(data, "disk", "list", "--json").stdout)
    assert [disk["name"] for disk in disks] == ["disk", "new"]
    assert segue(data, "disk", "delete", "new").returncode == 0
    assert [disk.name for disk in installation.client.disks()] == ["disk"]
    assert segue(data, "check").stdout == "no problem found\n"
    assert segue(data, "status").returncode == 0


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["disk", "create", "disk", "1G"], "a disk called disk exists already"),
        (["disk", "create", "no/slash", "1G"], "is no name for a disk"),
        (["disk", "create", "d", "100"], "multiple of 512"),
        (["disk", "create", "d", "0"], "multiple of 512"),
        (["disk", "delete", "nothing"], "no disk is called nothing"),
        (["disk", "uri", "nothing"], "no disk is called nothing"),
        (["container", "show", "nothing"], "no container is called nothing"),
        (["container", "add", "left", "file:///x", "--size", "64M"], "called left exists"),
        (["container", "add", "c", "ftp:///x", "--size", "64M"], "ftp:///x"),
        (["container", "add", "c", "file:///nowhere/x", "--size", "64M"], "No such file"),
        (["container", "add", "c", "file://relative", "--size", "64M"], "absolute"),
        (["container", "add", "c", "file:///tmp", "--size", "64M"], "file:///tmp"),
    ],
)
def test_refused_in_one_line(installation: Installation, args: list[str], sentence: str) -> None:
    before = (containers(installation.client), installation.client.disks())
    done = segue(installation.data, *args)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("segue: ")
    assert sentence in line
    assert (containers(installation.client), installation.client.disks()) == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("GET", "/v1/nothing", None, 404, "there is nothing at /v1/nothing"),
        ("PUT", "/v1/disks", None, 405, "Method Not Allowed"),
        ("POST", "/v1/disks", b"{}", 400, "missing required field `name`"),
        ("POST", "/v1/disks", b"{", 400, "truncated"),
        ("POST", "/v1/disks", b"\xff", 400, ""),
        ("POST", "/v1/disks", b'{"name":"a","size_bytes":"x"}', 400, "size_bytes: Expected `int`"),
        ("POST", "/v1/disks", b'{"name":"a","size_bytes":512,"x":1}', 400, "unknown field `x`"),
        ("POST", "/v1/disks", b'{"name":"a","size_bytes":%d}' % 10**40, 409, "a disk has"),
        ("GET", "/v1/disks/a%00%ff", None, 404, "no disk is called"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(
    installation: Installation,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
    sentence: str,
) -> None:
    headers = {"Content-Type": "application/json"}
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(installation.data / "api.sock"))
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == status
    assert list(answer) == ["error"]
    assert sentence in answer["error"]
    assert [disk.name for disk in installation.client.disks()] == ["disk"]


def test_a_file_with_something_in_it_is_left_alone(
    installation: Installation, folder: Path
) -> None:
    precious = folder / "precious"
    precious.write_bytes(b"precious" * 4096)
    uri = f"file://{precious}"
    assert segue(installation.data, "container", "add", "c", uri, "--size", "64M").returncode == 1
    assert precious.read_bytes() == b"precious" * 4096


def test_deleting_a_disk_in_use_ends_its_hosts_io_and_no_others(
    installation: Installation, shell: Callable[[str], Shell]
) -> None:
    installation.client.create_disk("doomed", 8 << 20)
    host, other = (shell(installation.uri(name, "one")) for name in ("doomed", "disk"))
    host.say("write -P 1 0 4M")
    other.say("write -P 2 0 4M")
    refused = segue(installation.data, "disk", "delete", "doomed")
    assert refused.returncode == 1
    assert "disk doomed is in use: hosts have it open at agent one (--force" in refused.stderr
    host.say("read -P 1 0 4M")
    assert segue(installation.data, "disk", "delete", "doomed", "--force").returncode == 0
    assert "failed" in host.try_to("read 0 4k")
    other.say("read -P 2 0 4M")
    assert installation.client.container("left").used_segments == 4


def test_a_second_controller_is_refused(installation: Installation, folder: Path) -> None:
    done = segue(installation.data, "controller")
    assert done.returncode == 1
    assert "another" in done.stderr.splitlines()[-1] or "in use" in done.stderr.splitlines()[-1]
    assert installation.client.status().term == 1


def test_two_agents_of_one_name_do_not_both_serve(
    installation: Installation, qemu_io: Tool, folder: Path
) -> None:
    """The second waits for the first to go."""
    qemu_io("-f", "raw", "-c", "write -P 1 0 1M", installation.uri("disk", "one"))
    [first] = installation.client.agents()
    other = Installation(installation.data)
    with other:
        args = ["--listen", f"unix://{folder}/second.sock"]
        other.start_agent("one", *args, wait=False)
        # The first goes on meanwhile; when it dies the second takes over.
        qemu_io("-f", "raw", "-c", "read -P 1 0 1M", installation.uri("disk", "one"))
        assert [info.incarnation for info in installation.client.agents()] == [first.incarnation]
        installation.agents["one"].kill()
        other.wait_for_agent("one", {first.incarnation})
        uri = f"nbd+unix:///disk?socket={folder}/second.sock"
        qemu_io("-f", "raw", "-c", "read -P 1 0 1M", uri)
