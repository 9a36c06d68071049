"""What an operator sets of a controller process, and where an installation keeps its things."""

from __future__ import annotations

import os

import msgspec

from segue.controller.settings import Settings

STORE_NAME = "segue.db"
API_NAME = "api.sock"
LINK_NAME = "controller.sock"
MIN_SEGMENT_BYTES = 64 << 10
MAX_SEGMENT_BYTES = 64 << 20
SHORTEST_LEASE_S = 0.5


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

    @property
    def store_path(self) -> str:
        """The SQLite file."""
        return os.path.join(self.data, STORE_NAME)

    @property
    def api_path(self) -> str:
        """The HTTP API's socket."""
        return os.path.join(self.data, API_NAME)

    @property
    def addresses(self) -> list[str]:
        """Where agents connect."""
        return self.listen or [link_address(self.data)]


def link_address(data: str) -> str:
    """Where the controller of the installation in `data` listens unless told otherwise."""
    return f"unix://{os.path.join(os.path.abspath(data), LINK_NAME)}"


def check_settings(settings: Settings) -> None:
    """Raises `ConfigError` for what the design does not allow."""
    size = settings.segment_bytes
    if size & (size - 1) or not MIN_SEGMENT_BYTES <= size <= MAX_SEGMENT_BYTES:
        raise ConfigError("a segment is a power of two from 64 KiB to 64 MiB")
    if settings.lease_s < SHORTEST_LEASE_S:
        raise ConfigError(f"a lease lasts {SHORTEST_LEASE_S:g} s at least")
