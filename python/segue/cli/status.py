"""`segue status`: the installation at a glance."""

from __future__ import annotations

import click

from segue.cli.options import client, data_option, json_option
from segue.cli.output import print_fields, print_json


@click.command()
@data_option
@json_option
def status(as_json: bool) -> None:
    """The installation at a glance; exit status 1 if something wants looking at."""
    info = client().status()
    print_json(info) if as_json else print_fields(info)
    if info.problems:
        raise SystemExit(1)
