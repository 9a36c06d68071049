"""The command line against a server that only records: arguments, printing, errors, exit status."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from segue.cli.main import main

DISK = {
    "disk": 1,
    "name": "d",
    "size_bytes": 10 << 30,
    "block_bytes": 4096,
    "segment_bytes": 1 << 20,
    "segments": 10240,
    "mapped_segments": 3,
    "containers": ["c"],
    "agents": [],
    "failed": {},
}
CONTAINER: dict[str, Any] = {
    "container": 1,
    "name": "c",
    "uri": "file:///srv/" + "long/" * 40 + "c",
    "cache": "page",
    "segment_bytes": 1 << 20,
    "segments": 100,
    "size_bytes": 100 << 20,
    "used_segments": 3,
    "free_segments": 97,
    "clean_segments": 97,
    "held_segments": 0,
}
AGENT = {
    "agent": 1,
    "name": "one",
    "incarnation": "ab",
    "state": "present",
    "lease_s": 29.5,
    "listens": ["nbd+unix:///?socket=/run/one", "nbd://127.0.0.1:10809"],
    "disks": ["d"],
}
STATUS = {
    "version": "0.1.0",
    "installation": "00",
    "term": 1,
    "commit": 2,
    "pid": 3,
    "up_s": 4.0,
    "containers": 1,
    "disks": 1,
    "agents": 1,
    "incomplete_extents": 0,
    "faults_answered": 9,
    "problems": [],
}
ANSWERS: dict[tuple[str, str], tuple[int, Any]] = {
    ("GET", "/v1/disks"): (200, [DISK]),
    ("GET", "/v1/disks/d"): (200, DISK),
    ("POST", "/v1/disks"): (201, DISK),
    ("DELETE", "/v1/disks/d"): (204, None),
    ("GET", "/v1/disks/no"): (404, {"error": "no disk is called no"}),
    ("GET", "/v1/disks/odd"): (500, "<html>"),
    ("GET", "/v1/disks/a%2Fb"): (404, {"error": "no disk is called a/b"}),
    ("GET", "/v1/containers"): (200, [CONTAINER]),
    ("POST", "/v1/containers"): (201, CONTAINER),
    ("GET", "/v1/agents"): (200, [AGENT]),
    ("GET", "/v1/status"): (200, STATUS),
}


class _Handler(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[str, str, Any]]

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.seen.append((self.command, self.path, body))  # type: ignore[attr-defined]
        status, answer = ANSWERS[self.command, self.path]
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Api:
    def __init__(self, data: Path) -> None:
        self.data = data
        self.server = socketserver.ThreadingUnixStreamServer(str(data / "api.sock"), _Handler)
        self.seen: list[tuple[str, str, Any]] = []
        self.server.seen = self.seen  # type: ignore[attr-defined]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def run(self, *args: str) -> Result:
        return CliRunner().invoke(main, [*args, "--data", str(self.data)])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(tmp_path)
    api.thread.start()
    yield api
    api.server.shutdown()
    api.thread.join()
    api.server.server_close()


def test_disk_create_takes_sizes_with_units(api: Api) -> None:
    result = api.run("disk", "create", "d", "10GiB", "--block-size", "512")
    assert (result.exit_code, result.output) == (0, "disk d: 10G\n")
    body = {"name": "d", "size_bytes": 10 << 30, "block_bytes": 512}
    assert api.seen == [("POST", "/v1/disks", body)]


def test_container_add(api: Api) -> None:
    result = api.run("container", "add", "c", "file:///srv/c", "--size", "100M", "--cache=direct")
    assert result.exit_code == 0, result.output
    assert api.seen[0][2] == {
        "name": "c",
        "uri": "file:///srv/c",
        "size_bytes": 100 << 20,
        "cache": "direct",
    }


@pytest.mark.parametrize("noun", ["disk", "container", "agent"])
def test_listings_print_tables_and_json(api: Api, noun: str) -> None:
    table = api.run(noun, "list")
    lines = table.output.splitlines()
    assert table.exit_code == 0
    assert len(lines) == 2
    assert lines[0].startswith("NAME")
    listing = json.loads(api.run(noun, "list", "--json").output)
    assert listing == ANSWERS["GET", f"/v1/{noun}s"][1]


def test_a_long_uri_is_not_cut_where_a_program_reads(api: Api) -> None:
    assert CONTAINER["uri"] in api.run("container", "list").output


def test_disk_uri_names_an_agent_that_is_there(api: Api) -> None:
    assert api.run("disk", "uri", "d").output == "nbd+unix:///d?socket=/run/one\n"
    result = api.run("disk", "uri", "d", "--agent", "two")
    assert result.exit_code == 1
    assert result.stderr == "segue: no agent called two is there to serve d\n"


def test_disk_delete(api: Api) -> None:
    assert api.run("disk", "delete", "d").output == "disk d deleted\n"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no", "no disk is called no"),
        ("odd", "the controller answered with HTTP status 500"),
        ("a/b", "no disk is called a/b"),
    ],
)
def test_an_error_is_one_line_and_exit_1(api: Api, name: str, sentence: str) -> None:
    result = api.run("disk", "show", name)
    assert result.exit_code == 1
    assert result.stderr == f"segue: {sentence}\n"
    assert result.stdout == ""


def test_show_agent(api: Api) -> None:
    assert "incarnation  ab\n" in api.run("agent", "show", "one").output
    assert api.run("agent", "show", "two").exit_code == 1


def test_status_fails_when_something_wants_looking_at(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.run("status").exit_code == 0
    monkeypatch.setitem(STATUS, "problems", ["container c is full"])
    result = api.run("status")
    assert result.exit_code == 1
    assert "container c is full" in result.output


@pytest.mark.parametrize(
    "args",
    [
        ["disk", "create", "d"],
        ["disk", "create", "d", "10GB"],
        ["disk", "create", "d", "1G", "--block-size", "1024"],
        ["container", "add", "c", "file:///c", "--size", "1G", "--cache", "none"],
        ["frobnicate"],
    ],
)
def test_wrong_usage_is_exit_2(api: Api, args: list[str]) -> None:
    result = api.run(*args)
    assert result.exit_code == 2
    assert api.seen == []


def test_no_controller_is_one_line_and_exit_1(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "disk", "list"])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"segue: cannot reach the controller at {tmp_path}/api.sock: ")


def test_the_installation_comes_from_the_environment(api: Api) -> None:
    result = CliRunner().invoke(main, ["disk", "list"], env={"SEGUE_DATA": str(api.data)})
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["disk", "list"], env={"SEGUE_DATA": None})
    assert result.exit_code == 2
