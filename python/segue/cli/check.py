"""`segue check`: the durable table, read and verified whole, and its containers' headers."""

from __future__ import annotations

import click

from segue.cli.options import Failed, data_folder, data_option, json_option
from segue.cli.output import print_json


@click.command()
@data_option
@json_option
def check(as_json: bool) -> None:
    """Read the durable table, and name all damage in it.

    A controller may run meanwhile, or not.  Exit status 1 if there is damage.
    """
    # The store's reader is not wanted by any other verb.
    from segue.check import check_installation  # noqa: PLC0415
    from segue.store.contract import StoreError  # noqa: PLC0415

    try:
        problems = check_installation(data_folder())
    except StoreError as error:
        raise Failed(str(error)) from None
    if as_json:
        print_json(problems)
    else:
        for problem in problems:
            click.echo(problem)
        count = "no" if not problems else str(len(problems))
        click.echo(f"{count} problem{'s' * (len(problems) > 1)} found")
    if problems:
        raise SystemExit(1)
