"""The installation at a glance, in the HTTP API."""

from __future__ import annotations

import msgspec


class Status(msgspec.Struct, frozen=True):
    """The installation at a glance."""

    version: str
    installation: str
    term: int
    commit: int
    pid: int
    up_s: float
    containers: int
    disks: int
    agents: int
    incomplete_extents: int
    faults_answered: int
    problems: list[str]
    """What an operator should look at; empty: all is well."""
