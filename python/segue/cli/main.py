"""The command `segue`: one clear error line, exit status 1, or 2 for usage."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

import segue
from segue.cli import INTERRUPTED
from segue.cli.agent import agent
from segue.cli.attach import attach, detach
from segue.cli.check import check
from segue.cli.completion import completion
from segue.cli.config import blame
from segue.cli.container import container
from segue.cli.daemons import controller
from segue.cli.disk import disk
from segue.cli.explain import disk_explain
from segue.cli.image import disk_export, disk_import
from segue.cli.movement import job
from segue.cli.options import Failed, where_option
from segue.cli.serve import serve
from segue.cli.status import status
from segue.cli.top import top
from segue.cli.up import down, up
from segue.client import ApiError

NEGATIVE = re.compile(r"-[0-9.]")
"""Taken for an option: none is called so."""


class _Group(click.Group):
    """Turns every error into one line on stderr, whichever verb it ends."""

    def invoke(self, ctx: click.Context) -> Any:
        """The verb; the API's errors become ours."""
        try:
            return super().invoke(ctx)
        except ApiError as error:
            raise Failed(str(error)) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """The command, to the end of the process."""
        try:
            status = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else error.message, err=True)
            status = error.exit_code
        except click.UsageError as error:
            blame(error)
            message = error.format_message().rstrip(".")
            if isinstance(error, click.NoSuchOption) and NEGATIVE.match(error.option_name):
                message = f"what begins with {error.option_name}: no value may be negative"
            where = error.ctx.command_path if error.ctx else "segue"
            _say(f"{message} ({where} --help says more)")
            status = error.exit_code
        except click.ClickException as error:
            _say(error.format_message())
            status = error.exit_code
        except click.Abort:
            _say("interrupted")
            status = INTERRUPTED
        sys.exit(status if isinstance(status, int) else 0)


def _say(sentence: str) -> None:
    line = " ".join(sentence.split())
    # What is quoted may come from a peer: nothing in it moves the cursor.
    line = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in line)
    click.echo(f"segue: {line}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(segue.__version__, prog_name="segue")
@where_option
def main() -> None:
    """Virtual disks on the storage you have."""


for command in (
    up,
    down,
    controller,
    agent,
    container,
    disk,
    job,
    status,
    top,
    check,
    serve,
    attach,
    detach,
    completion,
):
    main.add_command(command)
disk.add_command(disk_import)
disk.add_command(disk_export)
disk.add_command(disk_explain)
