"""The client's calls about the installation as a whole."""

from __future__ import annotations

from segue.api.status import Status
from segue.client.connection import Connection


class StatusCalls(Connection):
    """``/v1/status``."""

    def status(self) -> Status:
        """The installation at a glance."""
        return self.call("GET", "status", Status)
