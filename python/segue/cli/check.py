"""`segue check`: the durable table, read and verified whole."""

from __future__ import annotations

import os

import click

from segue.cli.options import Failed, data_folder, data_option, json_option
from segue.cli.output import print_json


@click.command()
@data_option
@json_option
def check(as_json: bool) -> None:
    """Check the durable table, whether a controller runs or not; names all damage."""
    # The store's reader is not wanted by any other verb.
    from segue.controller.config import STORE_NAME  # noqa: PLC0415
    from segue.store.check import check as check_store  # noqa: PLC0415
    from segue.store.contract import StoreError  # noqa: PLC0415

    try:
        problems = check_store(os.path.join(data_folder(), STORE_NAME))
    except StoreError as error:
        raise Failed(str(error)) from None
    if as_json:
        print_json(problems)
    else:
        for problem in problems:
            click.echo(problem)
        click.echo(f"{len(problems)} problems found" if problems else "no problem found")
    if problems:
        raise SystemExit(1)
