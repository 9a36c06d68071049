"""What an operator may set of a controller."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.controller.config import (
    ConfigError,
    ControllerConfig,
    check_settings,
    make_data_folder,
)
from segue.controller.server import Server
from segue.controller.settings import Settings


def test_agents_come_to_a_socket_in_the_folder_unless_told_otherwise() -> None:
    assert ControllerConfig("/srv/segue").addresses == ["unix:///srv/segue/controller.sock"]
    assert ControllerConfig("/srv", ["tcp://[::1]:7"]).addresses == ["tcp://[::1]:7"]


@pytest.mark.parametrize("size", [64 << 10, 1 << 20, 64 << 20])
def test_segment_sizes_of_the_design(size: int) -> None:
    check_settings(Settings(segment_bytes=size))


@pytest.mark.parametrize("size", [0, 1, 32 << 10, (64 << 10) + 1, 3 << 20, 128 << 20])
def test_other_segment_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="a segment is"):
        check_settings(Settings(segment_bytes=size))


def test_a_lease_shorter_than_anybody_can_renew_is_refused() -> None:
    with pytest.raises(ConfigError, match="a lease lasts"):
        Server(ControllerConfig("/nowhere", settings=Settings(lease_s=0.1)))


@pytest.mark.parametrize("slow_fault_s", [float("nan"), float("inf"), -0.1])
def test_what_is_no_time_for_a_slow_fault_is_refused(slow_fault_s: float) -> None:
    check_settings(Settings(slow_fault_s=0.0))
    with pytest.raises(ConfigError, match="a slow fault takes"):
        check_settings(Settings(slow_fault_s=slow_fault_s))


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:7", "tcp://[::]:7", "tcp://example.net:7"])
def test_an_address_others_reach_needs_a_flag(address: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        Server(ControllerConfig("/nowhere", [address]))
    Server(ControllerConfig("/nowhere", [address], insecure=True))


@pytest.mark.parametrize("lease_s", [float("nan"), float("inf"), -1.0, 0.0, 1e300, 86_401.0])
def test_a_lease_that_is_no_length_of_time_is_refused(lease_s: float) -> None:
    with pytest.raises(ConfigError, match="a lease lasts"):
        check_settings(Settings(lease_s=lease_s))


def test_what_is_no_address_is_a_mistake_of_usage() -> None:
    with pytest.raises(ConfigError, match="is no address"):
        Server(ControllerConfig("/nowhere", ["nowhere"]))


def test_a_folder_that_others_write_to_is_no_place_for_sockets(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    make_data_folder(str(shared))
    shared.chmod(0o770)
    with pytest.raises(PermissionError, match=f"chmod go-w {shared}"):
        make_data_folder(str(shared))
    with pytest.raises(FileNotFoundError):
        make_data_folder(str(tmp_path / "not" / "there"))
    assert list(tmp_path.iterdir()) == [shared]
