"""A controller that does not answer in time was reached all the same, and may still be at it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from segue.client import ApiError, Client, connection


def test_a_request_without_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "api.sock"))
        listener.listen()
        with pytest.raises(ApiError, match="the controller may still be at it") as caught:
            Client(str(tmp_path)).delete_disk("d")
    assert caught.value.status == 0
