"""What several commands share: how the installation is found, sizes, errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from segue.cli.sizes import parse_size
from segue.client import Client

F = TypeVar("F", bound=Callable[..., Any])
_DATA = "segue.data"


class Failed(click.ClickException):
    """Ends the command: one line on stderr, exit status 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """``segue: what is wrong``."""
        click.echo(f"segue: {' '.join(self.message.split())}", err=True)


class Size(click.ParamType[int]):
    """``10G``, ``10GiB``, ``4096``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _keep_data(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[_DATA] = os.path.abspath(value)


data_option = click.option(
    "--data",
    metavar="DIR",
    envvar="SEGUE_DATA",
    expose_value=False,
    is_eager=True,
    callback=_keep_data,
    type=click.Path(file_okay=False),
    help="Folder of the installation (or SEGUE_DATA).",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def data_folder() -> str:
    """The installation's folder, absolute; a usage error if none was named."""
    folder = click.get_current_context().meta.get(_DATA)
    if folder is None:
        raise click.UsageError("which installation? give --data DIR or set SEGUE_DATA")
    return str(folder)


def client() -> Client:
    """The API of the installation named."""
    return Client(data_folder())
