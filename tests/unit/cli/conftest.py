"""A server that only records, for the command line: arguments, printing, errors, exit status."""

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
    "linger_s": 0.0,
    "write_unit_bytes": 1,
    "leaving": False,
    "draining": False,
    "disks": ["d"],
    "away_s": None,
    "away_why": "",
    "fence": "locks",
    "flush": "sync",
    "when_away": "",
    "fail_after_s": None,
    "free_bytes": 97 << 20,
    "file_system_free_bytes": None,
    "file_system_short_bytes": 0,
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
RUN = {"segment": 0, "count": 66, "container": "left", "at": 0, "incomplete": False}
MAP = {
    "name": "d",
    "segment_bytes": 1 << 20,
    "segments": 80,
    "runs": [RUN],
    "next_segment": None,
}
DRAWING = {
    "name": "d",
    "segment_bytes": 1 << 20,
    "segments": 80,
    "segments_per_cell": 1,
    "cells": [
        *({"cell": n, "containers": {"left": 1}, "incomplete": 0} for n in range(66)),
        {"cell": 66, "containers": {"right": 1}, "incomplete": 1},
        {"cell": 67, "containers": {"right": 1}, "incomplete": 0},
    ],
}
LATENCY = {
    "disk": "d",
    "agents": ["one"],
    "silent": ["two"],
    "rows": [
        {
            "operation": "write_zeroes",
            "cause": "do_write",
            "count": 12,
            "mean_us": 1234.5,
            "p50_us": 12.04,
            "p99_us": 999.9,
            "p999_us": 2_000_000.0,
            "p9999_us": 3_000_000.0,
            "max_us": 61_000_000.0,
        }
    ],
}
ANSWERS: dict[tuple[str, str], tuple[int, Any]] = {
    ("GET", "/v1/disks"): (200, [DISK]),
    ("GET", "/v1/disks/d"): (200, DISK),
    ("POST", "/v1/disks"): (201, DISK),
    ("DELETE", "/v1/disks/d"): (204, None),
    ("DELETE", "/v1/disks/d?force=true"): (204, None),
    ("DELETE", "/v1/disks/busy"): (
        409,
        {
            "error": "disk busy is in use: hosts have it open at agent one "
            "(--force deletes it all the same)"
        },
    ),
    ("GET", "/v1/disks/d/map?first_segment=3&max_runs=2"): (200, MAP),
    ("GET", "/v1/disks/d/drawing?cells=1024"): (200, DRAWING),
    ("GET", "/v1/disks/no"): (404, {"error": "no disk is called no"}),
    ("GET", "/v1/disks/odd"): (500, "<html>"),
    ("GET", "/v1/disks/a%2Fb"): (404, {"error": "no disk is called a/b"}),
    ("GET", "/v1/containers"): (200, [CONTAINER]),
    ("GET", "/v1/containers/c"): (200, CONTAINER),
    ("GET", "/v1/containers/far"): (
        200,
        {
            **CONTAINER,
            "name": "far",
            "away_s": 12.3,
            "away_why": "Connection refused",
            "fence": "none",
            "flush": "nothing",
            "when_away": "fail",
            "fail_after_s": 0.5,
        },
    ),
    ("POST", "/v1/containers"): (201, CONTAINER),
    ("POST", "/v1/containers/c/linger"): (200, CONTAINER),
    ("DELETE", "/v1/containers/c"): (204, None),
    ("POST", "/v1/disks/d/resize"): (200, DISK),
    ("POST", "/v1/disks/d/rename"): (200, DISK),
    ("GET", "/v1/agents"): (200, [AGENT]),
    ("GET", "/v1/agents/one/latency"): (200, [LATENCY]),
    ("GET", "/v1/agents/two/latency"): (200, []),
    ("GET", "/v1/agents/three/latency"): (404, {"error": "no agent is called three"}),
    ("GET", "/v1/disks/d/latency"): (200, LATENCY),
    ("GET", "/v1/status"): (200, STATUS),
    ("POST", "/v1/agents/one/declare-dead"): (200, {"incarnations": ["ab"]}),
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
        if data:  # who was told that there is none may have gone
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
