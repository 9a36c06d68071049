"""`segue agent list` and `show`; `segue agent` alone runs one (`daemons.py`)."""

from __future__ import annotations

import click
import msgspec

from segue.api.agents import AgentInfo
from segue.cli.daemons import agent
from segue.cli.latency import print_latency
from segue.cli.options import AGENT, Failed, client, json_option, where_option
from segue.cli.output import Columns, print_fields, print_json, print_rows

__all__ = ["agent"]

COLUMNS: Columns = {
    "NAME": lambda a: a.name,
    "STATE": lambda a: a.state,
    "LEASE": lambda a: f"{a.lease_s:.1f}s",
    "DISKS": lambda a: ",".join(a.disks) or "-",
    "INCARNATION": lambda a: a.incarnation,
    "LISTENS": lambda a: ",".join(a.listens) or "-",
}


@agent.command("list")
@where_option
@json_option
def agent_list(as_json: bool) -> None:
    """All agents that live, or are not known to have ended."""
    rows = client().agents()
    print_json(rows) if as_json else print_rows(rows, COLUMNS)


@agent.command("show")
@click.argument("name", type=AGENT)
@where_option
@json_option
def agent_show(name: str, as_json: bool) -> None:
    """One agent, every incarnation of it, and how long its hosts waited."""
    rows: list[AgentInfo] = [info for info in client().agents() if info.name == name]
    if not as_json:
        for info in rows:
            print_fields(info, COLUMNS)
    # Asks the agent itself, which may not answer; of a name that nobody ever had it says so.
    latency = client().agent_latency(name)
    if not rows:
        raise Failed(f"agent {name} has ended: none of that name is there now")
    if as_json:
        print_json(
            [
                msgspec.to_builtins(info) | {"latency": latency if info.state == "present" else []}
                for info in rows
            ]
        )
        return
    for of_disk in latency:
        click.echo(f"\n{of_disk.disk}:")
        print_latency(of_disk)


@agent.command("declare-dead")
@click.argument("name", type=AGENT)
@where_option
@json_option
def agent_declare_dead(name: str, as_json: bool) -> None:
    """Say that a lost agent is dead.

    Its machine is off, its last I/O has ended.

    Needed where a container has no fence that proves it; what the agent might still have written
    is then used again.  Refused while the agent is there or its lease runs.  NAME may be one
    incarnation, as `segue status` shows it.
    """
    incarnations = client().declare_dead(name)
    if as_json:
        print_json(incarnations)
        return
    for incarnation in incarnations:
        whose = "" if name == incarnation else f"agent {name}: "
        click.echo(f"{whose}incarnation {incarnation} is taken for dead")
