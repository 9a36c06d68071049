"""The client's calls about agents."""

from __future__ import annotations

from urllib.parse import quote

from segue.api.agents import AgentInfo, DeclaredDead
from segue.api.latency import DiskLatency
from segue.client.connection import Connection


class Agents(Connection):
    """``/v1/agents``."""

    def agents(self) -> list[AgentInfo]:
        """All agents' incarnations that are known to live or not known to have ended."""
        return self.call("GET", "agents", list[AgentInfo])

    def agent_latency(self, name: str) -> list[DiskLatency]:
        """How long the agent's hosts waited, disk by disk."""
        return self.call("GET", f"agents/{quote(name, safe='')}/latency", list[DiskLatency])

    def declare_dead(self, name: str) -> list[str]:
        """Take the lost incarnations of an agent for dead: you know that its I/O has ended.

        `name` may be one incarnation.  Returns the incarnations.
        """
        path = f"agents/{quote(name, safe='')}/declare-dead"
        return self.call("POST", path, DeclaredDead).incarnations
