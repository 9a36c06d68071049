"""fio writes and verifies over 4 connections; its report is read, as it can exit 0 on errors."""

from __future__ import annotations

import json
from pathlib import Path

from segue.installation import Installation
from tests.tools.conftest import Tool

JOBS = 4


def test_random_writes_verify_over_four_connections(
    installation: Installation, fio: Tool, folder: Path
) -> None:
    done = fio(
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={installation.uri('disk', 'one')}",
        f"--numjobs={JOBS}",
        "--size=16M",
        "--offset_increment=16M",
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--bs_unaligned=1",
        "--iodepth=16",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        "--verify_backlog=256",
        "--fsync=64",
        f"--aux-path={folder}",
        "--output-format=json",
        f"--output={folder / 'fio.json'}",
    )
    assert "verify:" not in done.stderr
    report = (folder / "fio.json").read_text()
    jobs = json.loads(report[report.index("{") :])["jobs"]
    assert len(jobs) == JOBS
    for job in jobs:
        assert job["error"] == 0
        # Unaligned lengths leave a little of the 16 MiB out; all that was written was read.
        assert 15 << 20 < job["write"]["io_bytes"] <= 16 << 20
        assert job["read"]["io_bytes"] >= job["write"]["io_bytes"]
