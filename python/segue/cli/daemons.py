"""`segue controller` and `segue agent`: the processes of an installation.

Their modules are imported when they are run: the other verbs do not pay for them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import click

from segue import failpoints
from segue.cli.config import came_from, configured
from segue.cli.options import (
    Failed,
    Size,
    Time,
    data_folder,
    data_option,
    handshake_option,
    sentence,
    without_option,
)
from segue.logs import set_up_logs
from segue.wire.link import Address

log_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)

parent_option = click.option(
    "--with-parent", is_flag=True, hidden=True, help="Stop when standard input ends (`segue up`)."
)


@configured
@click.command("controller")
@data_option
@click.option(
    "--listen",
    "listen",
    multiple=True,
    metavar="ADDRESS",
    help="Where agents connect: unix:///PATH or tcp://HOST:PORT [DATA/controller.sock].",
)
@click.option("--insecure", is_flag=True, help="Allow addresses other machines reach, without TLS.")
@click.option(
    "--api-listen",
    multiple=True,
    metavar="ADDRESS",
    help="Serve the HTTP API there too, for who has the token in DATA/api.token: tcp://HOST:PORT.",
)
@click.option("--api-cert", metavar="FILE", help="Its TLS certificate, with the chain (PEM).")
@click.option("--api-key", metavar="FILE", help="The certificate's key (PEM).")
@click.option("--lease", "lease_s", type=Time(), default=30.0, show_default=True, metavar="SECONDS")
@click.option(
    "--segment-size",
    "segment_bytes",
    type=Size(),
    default="1M",
    show_default=True,
    help="Of containers added from now on: a power of two, 64K to 64M.",
)
@click.option(
    "--checkpoint-log",
    "checkpoint_log_bytes",
    type=Size(),
    default="8M",
    show_default=True,
    help="Fold the log into pages when it has grown so much.",
)
@click.option(
    "--slow-fault",
    "slow_fault_s",
    type=Time(),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Log where the time of a fault went that took so long; 0: of every fault.",
)
@without_option
@log_option
@parent_option
def controller(
    listen: tuple[str, ...],
    insecure: bool,
    api_listen: tuple[str, ...],
    api_cert: str | None,
    api_key: str | None,
    lease_s: float,
    segment_bytes: int,
    checkpoint_log_bytes: int,
    slow_fault_s: float,
    without: tuple[str, ...],
    log_level: str,
    with_parent: bool,
) -> None:
    """Run the controller of the installation in DIR."""
    from segue.controller.config import ConfigError, ControllerConfig  # noqa: PLC0415
    from segue.controller.server import run_controller  # noqa: PLC0415
    from segue.controller.settings import Settings  # noqa: PLC0415
    from segue.store.contract import StoreError  # noqa: PLC0415

    config = ControllerConfig(
        data_folder(),
        list(listen),
        insecure,
        Settings(
            lease_s=lease_s,
            segment_bytes=segment_bytes,
            checkpoint_log_bytes=checkpoint_log_bytes,
            slow_fault_s=slow_fault_s,
            without=without,
        ),
        list(api_listen),
        api_cert or "",
        api_key or "",
    )
    set_up_logs("controller", log_level)
    try:
        _run(run_controller(config), with_parent)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    except (StoreError, OSError, ValueError) as error:
        raise Failed(sentence(error)) from error


@configured
@click.group("agent", invoke_without_command=True)
@data_option
@click.option("--name", metavar="NAME", help="The agent's name, its own [the host's name].")
@click.option(
    "--controller",
    "controller_address",
    metavar="ADDRESS",
    help="unix:///PATH or tcp://HOST:PORT [DATA/controller.sock].",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="Where hosts attach: unix:///PATH or tcp://HOST:PORT [DATA/nbd-NAME.sock].",
)
@click.option("--insecure", is_flag=True, help="Allow addresses other machines reach, without TLS.")
@click.option("--park-limit", type=Size(), default="64M", show_default=True, metavar="SIZE")
@click.option(
    "--host-timeout",
    type=Time(),
    default=0.0,
    metavar="SECONDS",
    help="Give hosts EIO when their I/O has waited so long [they wait].",
)
@handshake_option
@click.option(
    "--connections",
    type=int,
    default=1024,
    show_default=True,
    metavar="COUNT",
    help="Serve so many connections at most.",
)
@click.option(
    "--disk-connections",
    type=int,
    default=128,
    show_default=True,
    metavar="COUNT",
    help="Serve one disk over so many at most.",
)
@log_option
@parent_option
@click.pass_context
def agent(
    ctx: click.Context,
    name: str | None,
    controller_address: str | None,
    listen: tuple[str, ...],
    insecure: bool,
    park_limit: int,
    host_timeout: float,
    handshake_timeout: float,
    connections: int,
    disk_connections: int,
    log_level: str,
    with_parent: bool,
) -> None:
    """Run an agent, or look at those there are."""
    if ctx.invoked_subcommand is not None:
        return
    from segue.agent.config import AgentConfig, AgentConfigError, check_agent  # noqa: PLC0415
    from segue.agent.daemon import AgentRefused, run_agent  # noqa: PLC0415
    from segue.controller.config import link_address  # noqa: PLC0415

    name = name or socket.gethostname().partition(".")[0]
    try:
        config = AgentConfig(
            name=name,
            controller=controller_address or link_address(data_folder()),
            listen=list(listen) or [f"unix://{os.path.join(data_folder(), f'nbd-{name}.sock')}"],
            park_limit_bytes=park_limit,
            host_timeout_s=host_timeout,
            handshake_timeout_s=handshake_timeout,
            connections=connections,
            disk_connections=disk_connections,
            insecure=insecure,
        )
        check_agent(config)
        set_up_logs(f"agent:{name}", log_level)
        _run(run_agent(config), with_parent)
    except AgentConfigError as error:
        raise click.UsageError(str(error)) from None
    except (AgentRefused, OSError, ValueError) as error:
        raise Failed(f"{sentence(error)}{_whence(ctx, error, listen)}") from error


def _whence(ctx: click.Context, error: Exception, listen: tuple[str, ...]) -> str:
    """Which variable or file named the address that an agent cannot listen at."""
    [param] = [param for param in ctx.command.params if param.name == "listen"]
    origin = came_from(ctx, param)
    named = sentence(error).partition(": ")[0] in [str(Address.parse(text)) for text in listen]
    if not origin or not named or not isinstance(error, OSError):
        return ""
    return f" (from {origin}; every agent needs its own)"


def _run(life: Coroutine[Any, Any, None], with_parent: bool) -> None:
    failpoints.arm_from(os.environ)
    try:
        import uvloop  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        run: Callable[..., None] = asyncio.run
    else:
        run = uvloop.run
    run(_until_parent_ends(life) if with_parent else life)


async def _until_parent_ends(life: Coroutine[Any, Any, None]) -> None:
    """`life`, told to stop as soon as nobody holds the other end of standard input."""

    def ended() -> None:
        loop.remove_reader(0)
        signal.raise_signal(signal.SIGTERM)

    loop = asyncio.get_running_loop()
    loop.add_reader(0, ended)
    await life
