"""Real filesystems, databases and machines on Segue: one installation for each file of tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.installation import Installation
from tests.tools.conftest import MIB

CONTAINER_BYTES = 2048 * MIB


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A short path (unix sockets take 107 characters); kept when a test failed.

    Others may pass through it: PostgreSQL runs as a user of its own.
    """
    if os.geteuid() != 0:
        pytest.skip("mounts and loop devices need root")
    before = request.session.testsfailed
    path = Path(tempfile.mkdtemp(prefix="segue-"))
    path.chmod(0o711)
    yield path
    if request.session.testsfailed == before:
        shutil.rmtree(path)
    else:
        print(f"logs and data are in {path}")


@pytest.fixture(scope="module")
def segue_here(place: Path) -> Iterator[Installation]:
    """A controller, agent *one*, one (sparse) container of 2 GiB, no disk."""
    with Installation(place / "data") as made:
        made.start_controller()
        made.start_agent("one")
        made.client.add_container("left", f"file://{place}/left", CONTAINER_BYTES)
        yield made
        made.stop()
