"""Python client of the HTTP API, over its unix socket or a URL; the command line uses it."""

from __future__ import annotations

from segue.client.agents import Agents
from segue.client.connection import SOCKET_NAME, ApiError
from segue.client.containers import Containers
from segue.client.disks import Disks
from segue.client.jobs import Jobs
from segue.client.status import StatusCalls

__all__ = ["SOCKET_NAME", "ApiError", "Client"]


class Client(StatusCalls, Containers, Disks, Agents, Jobs):
    """An installation, by its data folder or URL; every method raises `ApiError`."""
