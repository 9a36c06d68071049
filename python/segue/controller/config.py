"""What an operator sets of a controller process, and where an installation keeps its things."""

from __future__ import annotations

import math
import os
import stat

import msgspec

from segue.controller.settings import Settings

STORE_NAME = "segue.db"
API_NAME = "api.sock"
TOKEN_NAME = "api.token"
LINK_NAME = "controller.sock"
MIN_SEGMENT_BYTES = 64 << 10
MAX_SEGMENT_BYTES = 64 << 20
SHORTEST_LEASE_S = 0.5
LONGEST_LEASE_S = 86_400.0
MIN_CHECKPOINT_LOG_BYTES = 1024


class ConfigError(Exception):
    """The configuration makes no sense; one clear sentence."""


class ControllerConfig(msgspec.Struct, frozen=True):
    """A controller process: `data` is the installation's folder, `listen` where agents come."""

    data: str
    listen: list[str] = []
    """Addresses (``unix:///PATH``, ``tcp://HOST:PORT``); none: ``DATA/controller.sock``."""
    insecure: bool = False
    """Allows addresses that other machines reach, without TLS."""
    settings: Settings = Settings()
    api_listen: list[str] = []
    """Where the HTTP API is served as well (``tcp://HOST:PORT``), for who knows its token."""
    api_certificate: str = ""
    """Files (PEM) of its certificate, with the chain, and key; empty: no TLS."""
    api_key: str = ""

    @property
    def store_path(self) -> str:
        """The SQLite file."""
        return os.path.join(self.data, STORE_NAME)

    @property
    def api_path(self) -> str:
        """The HTTP API's socket."""
        return os.path.join(self.data, API_NAME)

    @property
    def token_path(self) -> str:
        """What a request over TCP must carry."""
        return os.path.join(self.data, TOKEN_NAME)

    @property
    def addresses(self) -> list[str]:
        """Where agents connect."""
        return self.listen or [link_address(self.data)]


def link_address(data: str) -> str:
    """Where the controller of the installation in `data` listens unless told otherwise."""
    return f"unix://{os.path.join(os.path.abspath(data), LINK_NAME)}"


def is_segment_size(size_bytes: int) -> bool:
    """A power of two, 64 KiB to 64 MiB."""
    is_power = size_bytes & (size_bytes - 1) == 0
    return is_power and MIN_SEGMENT_BYTES <= size_bytes <= MAX_SEGMENT_BYTES


def check_settings(settings: Settings) -> None:
    """Raises `ConfigError` for what the design does not allow."""
    if not is_segment_size(settings.segment_bytes):
        raise ConfigError("a segment is a power of two from 64 KiB to 64 MiB")
    lease_s = settings.lease_s
    if not math.isfinite(lease_s) or not SHORTEST_LEASE_S <= lease_s <= LONGEST_LEASE_S:
        raise ConfigError(
            f"a lease lasts {SHORTEST_LEASE_S:g} s to {LONGEST_LEASE_S:.0f} s, not {lease_s:g}"
        )
    if not math.isfinite(settings.slow_fault_s) or settings.slow_fault_s < 0:
        raise ConfigError(f"a slow fault takes 0 s or more, not {settings.slow_fault_s:g}")
    if settings.checkpoint_log_bytes < MIN_CHECKPOINT_LOG_BYTES:
        raise ConfigError(f"the log grows to {MIN_CHECKPOINT_LOG_BYTES} bytes at least")


def make_data_folder(path: str) -> None:
    """Makes sure that the installation's folder is there; its parent must be.

    Raises `OSError`, also for a folder that others could put their sockets and files into.
    """
    try:
        os.mkdir(path, mode=0o700)
    except FileExistsError:
        if os.stat(path).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(
                f"{path} can be written by others than its owner: chmod go-w {path}"
            ) from None
