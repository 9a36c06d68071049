"""The client's calls about agents."""

from __future__ import annotations

from segue.api.agents import AgentInfo
from segue.client.connection import Connection


class Agents(Connection):
    """``/v1/agents``."""

    def agents(self) -> list[AgentInfo]:
        """All agents' incarnations that are known to live or not known to have ended."""
        return self.call("GET", "agents", list[AgentInfo])
