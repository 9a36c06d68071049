"""`segue disk import` and `segue disk export`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from segue.cli.images import export_image, import_image
from segue.cli.options import Failed, Size, begin_option, client, json_option, where_option
from segue.cli.output import print_json
from segue.cli.sizes import format_size

FORMAT_HELP = "raw, qcow2, or whatever qemu-img knows."


class ImageFile(click.Path):
    """A file's path, as `pathlib.Path`; not ``-``: no image goes through a pipe."""

    def __init__(self, *, exists: bool) -> None:
        super().__init__(exists=exists, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if value == "-":
            self.fail("an image is a file or a block device, not a pipe: '-' is none", param, ctx)
        return super().convert(value, param, ctx)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """What was half done is taken away after either."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _said(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


@click.command("import")
@click.argument("name")
@click.argument("file", type=ImageFile(exists=True))
@click.option("--format", "image", metavar="FORMAT", help=FORMAT_HELP + "  [default: as it looks]")
@click.option("--block-size", type=click.Choice(["512", "4096"]), default="4096", show_default=True)
@click.option(
    "--segment-size", type=Size(), metavar="SIZE", help="Names the pool, if there are several."
)
@begin_option
@where_option
@json_option
def disk_import(
    name: str,
    file: Path,
    image: str | None,
    block_size: str,
    segment_size: int | None,
    container: str | None,
    as_json: bool,
) -> None:
    """Make a disk of an image FILE, which may be a block device.

    A file that does not look like what its name says (.img, .raw, .qcow2 ...) is refused without
    --format; one that takes data from other files (a backing file) is refused.

    Until all of it is durable the disk is called NAME.importing.
    """
    try:
        with _sigterm_as_ctrl_c():
            info = import_image(
                client(), name, file, image, int(block_size), segment_size, container
            )
    except OSError as error:
        raise Failed(f"import of {file}: {_said(error)}") from error
    if as_json:
        print_json(info)
        return
    used = format_size(info.mapped_segments * info.segment_bytes)
    click.echo(f"disk {info.name}: {format_size(info.size_bytes)}, {used} of it data")


@click.command("export")
@click.argument("name")
@click.argument("file", type=ImageFile(exists=False))
@click.option("--format", "image", metavar="FORMAT", help=FORMAT_HELP + "  [default: raw]")
@click.option("--agent", "agent_name", metavar="NAME", help="Read it at this agent.")
@where_option
@json_option
def disk_export(
    name: str, file: Path, image: str | None, agent_name: str | None, as_json: bool
) -> None:
    """Write a disk to a new image FILE; holes stay holes.

    A name that says another format (.qcow2, .vmdk ...) is refused without --format.

    Until all of it is there the file is called FILE.part.
    """
    try:
        with _sigterm_as_ctrl_c():
            export_image(client(), name, file, image, agent_name)
    except OSError as error:
        raise Failed(f"export to {file}: {_said(error)}") from error
    size_bytes = file.stat().st_size
    if as_json:
        print_json({"disk": name, "file": str(file), "size_bytes": size_bytes})
        return
    click.echo(f"{file}: {format_size(size_bytes)}")
