"""The command `segue`: one clear error line, exit status 1, or 2 for usage."""

from __future__ import annotations

import click

import segue
from segue.cli.agent import agent
from segue.cli.attach import attach, detach
from segue.cli.check import check
from segue.cli.container import container
from segue.cli.daemons import controller
from segue.cli.disk import disk
from segue.cli.options import Failed, data_option
from segue.cli.status import status
from segue.client import ApiError


class _Group(click.Group):
    """Turns the API's errors into one line, whichever verb they end."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ApiError as error:
            raise Failed(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(segue.__version__, prog_name="segue")
@data_option
def main() -> None:
    """Virtual disks on the storage you have."""


for command in (
    controller,
    agent,
    container,
    disk,
    status,
    check,
    attach,
    detach,
):
    main.add_command(command)
